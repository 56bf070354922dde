//! This library's log: as all others, one record of 128 bytes a commit; and as a transaction, two.

use std::{cell::RefCell, io, path::Path, sync::Arc};

use ringpact::{Durability, Epoch, Fact, FileLog, Name, Record, TransactionLog, TxnId};

use super::{
    RECORD_BYTES,
    load::{Blocking, Tasks},
};

/// What a record takes beside its work: two names, a tag, an epoch, a number, a length.
pub const AROUND_WORK: usize = 18;

/// What an end takes beside its two names: their lengths, a tag, an epoch, a number.
const AROUND_NAMES: usize = 8;

/// What a client makes durable.
#[derive(Clone, Copy)]
pub enum Commit {
    /// One record of 128 bytes, which ends a transaction: as a participant's commit does.
    One,
    /// A forced record of 128 bytes, a promise, which is live from then on; and once it is durable a lazy one, its end,
    /// as a coordinator would write it. So the log has twice the records, and something to collect.
    WithEnd,
}

#[derive(Clone)]
pub struct Log {
    pub log: Arc<FileLog>,
    commit: Commit,
}

impl Log {
    pub fn open(dir: &Path, commit: Commit) -> io::Result<Self> {
        let log = FileLog::open(dir.join("ringpact")).map_err(io::Error::other)?;
        Ok(Self { log: Arc::new(log), commit })
    }
}

struct Names {
    short: Name,
    /// Two of them make an end as long as the others' records.
    long: Name,
}

thread_local! {
    /// Each thread has its own, be it a client or a worker of the runtime: no count of references that all share. There
    /// are few names in a process, so they are in the processor's cache, as the sketches' bytes are.
    static NAMES: RefCell<Names> = RefCell::new(Names::new());
}

impl Names {
    fn new() -> Self {
        let name = |text: &str| Name::new(text).expect("a valid name");
        Self { short: name("goods"), long: name(&"goods".repeat(12)[..(RECORD_BYTES - AROUND_NAMES) / 2]) }
    }

    /// The record to be made durable, and what ends it afterwards.
    fn records(&self, commit: Commit, number: u64) -> (Record, Option<Record>) {
        let record = |owner: &Name, fact| Record { owner: owner.clone(), fact };
        let txn = |name: &Name| TxnId::new(name.clone(), Epoch::new(1), number);
        match commit {
            Commit::One => (record(&self.long, Fact::Ended { txn: txn(&self.long) }), None),
            Commit::WithEnd => {
                let work = vec![7; RECORD_BYTES - AROUND_WORK];
                let promise = record(&self.short, Fact::Prepared { txn: txn(&self.short), work });
                (promise, Some(record(&self.short, Fact::Ended { txn: txn(&self.short) })))
            }
        }
    }
}

impl Log {
    fn end(&self, end: Option<Record>) {
        if let Some(end) = end {
            self.log.append(end, Durability::Lazy).expect("there is room");
        }
    }
}

impl Blocking for Log {
    fn commit(&self, _client: usize, number: u64) {
        let (record, end) = NAMES.with_borrow(|names| names.records(self.commit, number));
        self.log.commit(record).expect("there is room, and the disk works");
        self.end(end);
    }

    fn syncs(&self) -> Option<u64> {
        Some(self.log.stats().syncs)
    }
}

impl Tasks for Log {
    async fn commit(&self, number: u64) {
        let (record, end) = NAMES.with_borrow(|names| names.records(self.commit, number));
        self.log.commit_async(record).await.expect("there is room, and the disk works");
        self.end(end);
    }
}
