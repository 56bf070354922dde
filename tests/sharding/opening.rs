//! What must not open: a shard with another shard's data.

use std::sync::Arc;

use parking_lot::Mutex;
use ringpact::{
    MemoryLog,
    sharding::{GateImage, ShardHost},
};

use crate::ledger::{Faults, Kind, Ledger, Saved};

/// Two directories that were confused: each shard would serve the keys of the other node.
#[test]
fn a_shard_does_not_open_with_another_ones_data() {
    let disk = Arc::new(Mutex::new(Saved::default()));
    let open = |name: &str| {
        ShardHost::open(name, MemoryLog::new(), Ledger::open(Kind::InMemory, &disk, &Arc::new(Faults::default())))
    };
    open("sums.a").unwrap().checkpoint().unwrap();
    assert_eq!(disk.lock().image.shard().unwrap().as_str(), "sums.a");
    let error = ringpact::error_chain(&open("sums.b").unwrap_err());
    assert!(error.contains("the data is that of shard sums.a, and this is shard sums.b"), "{error}");
    open("sums.a").unwrap();
    // One that was made of notes has no name.
    disk.lock().image = GateImage::new();
    open("sums.b").unwrap();
}
