//! okaywal: one entry a commit, which returns once the entry is durable. Callers that come together
//! share a sync.

use std::{io, path::Path};

use okaywal::{Configuration, LogVoid, WriteAheadLog};

use super::{RECORD_BYTES, load::Blocking};

pub struct Peer(WriteAheadLog);

impl Peer {
    pub fn open(dir: &Path) -> io::Result<Self> {
        let configuration = Configuration::default_for(dir.join("okaywal"))
            .preallocate_bytes(16 << 20)
            .checkpoint_after_bytes(15 << 20);
        configuration.open(LogVoid).map(Self)
    }
}

impl Blocking for Peer {
    fn commit(&self, _client: usize, _number: u64) {
        let mut entry = self.0.begin_entry().expect("the disk works");
        entry.write_chunk(&[7; RECORD_BYTES]).expect("the disk works");
        entry.commit().expect("the disk works");
    }
}
