//! raft-engine: each client writes its own key and asks for a sync; callers that come together
//! share one. Files are recycled and filled ahead of need, which is its fastest setting, and they
//! are purged as its documentation says.

use std::{io, path::Path};

use raft_engine::{Config, Engine, LogBatch, ReadableSize};

use super::{RECORD_BYTES, failed, load::Blocking};

pub struct Peer(Engine);

impl Peer {
    pub fn open(dir: &Path) -> io::Result<Self> {
        let config = Config {
            dir: dir.join("raft-engine").to_string_lossy().into_owned(),
            purge_threshold: ReadableSize::mb(256),
            enable_log_recycle: true,
            prefill_for_recycle: true,
            ..Config::default()
        };
        Engine::open(config).map(Self).map_err(failed)
    }
}

impl Blocking for Peer {
    fn commit(&self, client: usize, _number: u64) {
        let mut batch = LogBatch::default();
        batch.put(client as u64 + 1, b"record".to_vec(), vec![7; RECORD_BYTES]).expect("the key is not reserved");
        self.0.write(&mut batch, true).expect("the disk works");
    }
}
