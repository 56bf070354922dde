//! One client's bound: a write of one block and a sync, with nothing around it.

use std::{io, path::Path};

use parking_lot::Mutex;

use super::{RECORD_BYTES, bare::BareFile, load::Blocking};

pub struct Bare(Mutex<(BareFile, Vec<u8>)>);

impl Bare {
    pub fn open(dir: &Path) -> io::Result<Self> {
        Ok(Self(Mutex::new((BareFile::create(dir)?, Vec::new()))))
    }
}

impl Blocking for Bare {
    fn commit(&self, _client: usize, _number: u64) {
        let (file, bytes) = &mut *self.0.lock();
        bytes.extend([7; RECORD_BYTES]);
        file.put(bytes).expect("the disk works");
    }

    fn syncs(&self) -> Option<u64> {
        Some(self.0.lock().0.syncs)
    }
}
