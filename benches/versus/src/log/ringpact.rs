//! This library's log: one record of 128 bytes a commit, as with all others; and two, as a
//! transaction.

use std::{io, path::Path, sync::Arc};

use ringpact::{
    Epoch, FileLog, Name, TransactionLog, TxnId,
    log::{Durability, Fact, Record},
};

use super::{
    RECORD_BYTES,
    load::{Blocking, Tasks},
};

/// Bytes of a record beside its work: two names, a tag, an epoch, a number, a length.
pub const AROUND_WORK: usize = 18;

/// Bytes of an end beside its two names: their lengths, a tag, an epoch, a number.
const AROUND_NAMES: usize = 8;

/// What a client makes durable.
#[derive(Clone, Copy)]
pub enum Commit {
    /// One record of 128 bytes that ends a transaction, as a participant's commit does.
    One,
    /// A forced record of 128 bytes, a promise, which is live from then on. Once it is durable, a
    /// lazy record, its end, as a coordinator would write it. So the log has twice the records, and
    /// something to collect.
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
/// A name: two of them make an end as long as the other implementations' records.
const LONG: Name = Name::from_static(LONG_TEXT);
const LONG_TEXT: &str = "goods-goods-goods-goods-goods-goods-goods-goods-goods-goods-";
const _: () = assert!(2 * LONG_TEXT.len() + AROUND_NAMES == RECORD_BYTES);

/// Returns a record of 128 bytes that needs no record after it.
fn one(number: u64) -> Record {
    Record { owner: LONG, fact: Fact::Ended { txn: TxnId::new(LONG, Epoch::new(1), number) } }
}

/// Returns the record to be made durable, and the record that ends it afterwards.
fn promise(number: u64) -> (Record, Record) {
    let txn = TxnId::new(SHORT, Epoch::new(1), number);
    let work = vec![7; RECORD_BYTES - AROUND_WORK];
    let promise = Record { owner: SHORT, fact: Fact::Prepared { txn: txn.clone(), work } };
    (promise, Record { owner: SHORT, fact: Fact::Ended { txn } })
}

impl Log {
    fn end(&self, end: Record) {
        self.log.append(end, Durability::Lazy).expect("there is room");
    }
}

impl Blocking for Log {
    fn commit(&self, _client: usize, number: u64) {
        let commit = |record| self.log.commit(record).expect("there is room, and the disk works");
        match self.commit {
            Commit::One => {
                commit(one(number));
            }
            Commit::WithEnd => {
                let (promise, end) = promise(number);
                commit(promise);
                self.end(end);
            }
        }
    }

    fn syncs(&self) -> Option<u64> {
        Some(self.log.stats().syncs)
    }
}

impl Tasks for Log {
    async fn commit(&self, number: u64) {
        // Two futures, so that neither carries around what the other one holds while it waits.
        match self.commit {
            Commit::One => {
                self.log.commit_async(one(number)).await.expect("there is room, and the disk works");
            }
            Commit::WithEnd => {
                let (promise, end) = promise(number);
                self.log.commit_async(promise).await.expect("there is room, and the disk works");
                self.end(end);
            }
        }
    }
}
