//! This library's log. A commit is a forced record of 128 bytes encoded, as of a participant's promise; it is ended by
//! a lazy one once it is durable, as a coordinator does, so that the log has something to collect.

use std::{cell::RefCell, future::poll_fn, io, path::Path, sync::Arc};

use ringpact::{Durability, Epoch, Fact, FileLog, Name, Record, TransactionLog, TxnId};

use super::{
    RECORD_BYTES,
    load::{Blocking, Tasks},
};

/// What a record takes beside its work: two names, a tag, an epoch, a number, a length.
pub const AROUND_WORK: usize = 18;

pub struct Log {
    pub log: Arc<FileLog>,
    owner: Name,
}

/// Each task has a name of its own, as each participant would: no count of references that all share.
impl Clone for Log {
    fn clone(&self) -> Self {
        Self { log: self.log.clone(), owner: name() }
    }
}

impl Log {
    pub fn open(dir: &Path) -> io::Result<Self> {
        let log = FileLog::open(dir.join("ringpact")).map_err(io::Error::other)?;
        Ok(Self { log: Arc::new(log), owner: name() })
    }
}

fn name() -> Name {
    Name::new("goods").expect("a valid name")
}

thread_local! {
    /// Each thread has a name of its own, as each participant would: no shared count of references.
    static NAME: RefCell<Name> = RefCell::new(Name::new("goods").expect("a valid name"));
}

fn promise(owner: &Name, number: u64) -> (TxnId, Record) {
    let txn = TxnId::new(owner.clone(), Epoch::new(1), number);
    let work = vec![7; RECORD_BYTES - AROUND_WORK];
    (txn.clone(), Record { owner: owner.clone(), fact: Fact::Prepared { txn, work } })
}

impl Blocking for Log {
    fn commit(&self, _client: usize, number: u64) {
        let (txn, record) = NAME.with_borrow(|name| promise(name, number));
        let owner = record.owner.clone();
        self.log.commit(record).expect("there is room, and the disk works");
        self.log.append(Record { owner, fact: Fact::Ended { txn } }, Durability::Lazy).expect("there is room");
    }

    fn syncs(&self) -> Option<u64> {
        Some(self.log.stats().syncs)
    }
}

impl Tasks for Log {
    async fn commit(&self, number: u64) {
        let (txn, record) = promise(&self.owner, number);
        let owner = record.owner.clone();
        let lsn = self.log.append(record, Durability::Forced).expect("there is room");
        poll_fn(|context| self.log.poll_durable(lsn, context)).await.expect("the disk works");
        self.log.append(Record { owner, fact: Fact::Ended { txn } }, Durability::Lazy).expect("there is room");
    }
}
