//! What the log's tests share.
#![allow(dead_code, unused_imports)] // each test uses its own part of it

pub mod forge;
pub mod log_model;
pub mod sim_storage;

use std::path::Path;

use ringpact::{
    FileLog, LogError, Name, TransactionLog, TxnId,
    id::Epoch,
    log::{Durability, Fact, Lsn, Record},
};

pub use sim_storage::{Forgotten, Keep, Op, SimStorage};

/// The directory of a log in a simulated storage.
pub const SIM_DIR: &str = "/sim/log";

/// Whether the long form of the tests is asked for. It tries everything of which the short form
/// takes a sample, and runs hundreds of rounds instead of a few: `RINGPACT_LONG=1 cargo test
/// --release --all-features --test log`.
pub fn long_form() -> bool {
    std::env::var_os("RINGPACT_LONG").is_some_and(|value| value != "0")
}

pub fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

pub fn txn(sequence: u64) -> TxnId {
    TxnId::new(name("shop"), Epoch::new(1), sequence)
}

/// Returns a record that is live until [`ended`] follows. `bytes` of work make it as large as a
/// test needs it.
pub fn prepared(sequence: u64, bytes: usize) -> Record {
    Record { owner: name("goods"), fact: Fact::Prepared { txn: txn(sequence), work: vec![sequence as u8; bytes] } }
}

pub fn ended(sequence: u64) -> Record {
    Record { owner: name("goods"), fact: Fact::Ended { txn: txn(sequence) } }
}

/// Returns the numbers of the transactions that are live for "goods", in order.
pub fn live_numbers(log: &impl TransactionLog) -> Vec<u64> {
    let live = log.live(&name("goods")).unwrap();
    live.iter().map(|record| record.fact.txn().unwrap().sequence()).collect()
}

/// Appends and waits. A log may do both faster in one, by letting a caller that comes alone write
/// its own record. Both ways must keep every promise, so they take turns.
pub fn commit(log: &impl TransactionLog, record: Record) -> Result<Lsn, LogError> {
    if record.fact.txn().is_some_and(|txn| txn.sequence().is_multiple_of(2)) {
        return log.commit(record);
    }
    let lsn = log.append(record, Durability::Forced)?;
    log.wait(lsn).map(|()| lsn)
}

/// Opens a log with the smallest segments, which seals its last batch only when it is closed.
pub fn open_small(dir: impl AsRef<Path>) -> Result<FileLog, LogError> {
    FileLog::options().segment_bytes(0).seal_after(std::time::Duration::MAX).open(dir)
}

/// Does the same in a simulated storage.
pub fn open_sim(storage: &SimStorage) -> Result<FileLog, LogError> {
    FileLog::options().segment_bytes(0).seal_after(std::time::Duration::MAX).storage(storage.clone()).open(SIM_DIR)
}

/// Returns the path of the only segment in a directory.
pub fn only_segment(dir: &Path) -> std::path::PathBuf {
    let names = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let segments: Vec<_> = names.filter(|path| path.extension().is_some_and(|extension| extension == "log")).collect();
    assert_eq!(segments.len(), 1, "{segments:?}");
    segments.into_iter().next().unwrap()
}

/// Writes these bytes as the only segment of a fresh directory.
pub fn dir_with_segment(name: &std::ffi::OsStr, bytes: &[u8]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join(name), bytes).unwrap();
    dir
}
