//! This library's log: as all others, one record of 128 bytes a commit; and as a transaction, two.

use std::{io, path::Path, sync::Arc};

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

const SHORT: Name = Name::from_static("goods");
/// Two of them make an end as long as the others' records.
const LONG: Name = Name::from_static(LONG_TEXT);
const LONG_TEXT: &str = "goods-goods-goods-goods-goods-goods-goods-goods-goods-goods-";
const _: () = assert!(2 * LONG_TEXT.len() + AROUND_NAMES == RECORD_BYTES);

/// The record to be made durable, and what ends it afterwards.
fn records(commit: Commit, number: u64) -> (Record, Option<Record>) {
    let record = |owner, fact| Record { owner, fact };
    let txn = |coordinator| TxnId::new(coordinator, Epoch::new(1), number);
    match commit {
        Commit::One => (record(LONG, Fact::Ended { txn: txn(LONG) }), None),
        Commit::WithEnd => {
            let work = vec![7; RECORD_BYTES - AROUND_WORK];
            let promise = record(SHORT, Fact::Prepared { txn: txn(SHORT), work });
            (promise, Some(record(SHORT, Fact::Ended { txn: txn(SHORT) })))
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
        let (record, end) = records(self.commit, number);
        self.log.commit(record).expect("there is room, and the disk works");
        self.end(end);
    }

    fn syncs(&self) -> Option<u64> {
        Some(self.log.stats().syncs)
    }
}

impl Tasks for Log {
    async fn commit(&self, number: u64) {
        let (record, end) = records(self.commit, number);
        self.log.commit_async(record).await.expect("there is room, and the disk works");
        self.end(end);
    }
}
