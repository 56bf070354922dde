//! The log in memory: for tests, and for transactions that need not survive the process.

use std::{
    hash::{BuildHasher, Hasher, RandomState},
    sync::Arc,
    task::{Context, Poll},
};

use parking_lot::Mutex;

use super::{
    Claim, Claims, Durability, LiveRecords, LogError, LogId, LogStats, Lsn, MAX_RECORD_BYTES, Record, TransactionLog,
};
use crate::id::{Epoch, Name};

/// A log in memory. Records that it calls durable survive [`crash`](Self::crash), but not the
/// process.
///
/// A clone is another handle on the same log. So a coordinator can be dropped and opened again on
/// it:
///
/// ```
/// use ringpact::{MemoryLog, Name, Epoch, TransactionLog, log::{Durability, Fact, Record}};
///
/// let log = MemoryLog::new();
/// let owner = Name::new("shop")?;
/// let record = |epoch| Record { owner: owner.clone(), fact: Fact::Opened { epoch: Epoch::new(epoch) } };
/// log.append(record(1), Durability::Forced)?;
/// log.append(record(2), Durability::Lazy)?;
///
/// let reopened = log.crash();          // the lazy record was in no sync yet: it is gone
/// assert_eq!(reopened.live(&owner)?, [record(1)]);
/// assert!(log.append(record(3), Durability::Forced).is_err(), "the old handle is closed");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct MemoryLog {
    id: LogId,
    incarnation: u64,
    claims: Claims,
    state: Arc<Mutex<MemoryState>>,
}

#[derive(Debug, Default)]
struct MemoryState {
    live: LiveRecords,
    /// Records that are appended and in no sync yet, which a crash takes away. Each has the offset
    /// at which its encoding ends in the buffer.
    pending: Vec<(Lsn, usize)>,
    /// The encodings of the pending records. It is used again after each sync, so that appending
    /// allocates nothing.
    buffer: Vec<u8>,
    last: Lsn,
    durable: Lsn,
    stats: LogStats,
    closed: bool,
}

impl MemoryState {
    fn sync(&mut self) {
        if self.pending.is_empty() {
            return;
        }
        let mut begin = 0;
        for (lsn, end) in self.pending.drain(..) {
            self.live.apply_own(lsn, &self.buffer[begin..end]);
            begin = end;
        }
        self.buffer.clear();
        self.durable = self.last;
        self.stats.syncs += 1;
    }

    fn make_durable(&mut self, lsn: Lsn) -> Result<(), LogError> {
        if lsn <= self.durable {
            return Ok(());
        }
        if self.closed {
            return Err(LogError::Closed);
        }
        self.sync();
        Ok(())
    }
}

impl MemoryLog {
    /// Returns an empty log with an id of its own.
    #[must_use]
    pub fn new() -> Self {
        let (id, incarnation) = (LogId::from_bytes(random()), random_incarnation());
        Self { id, incarnation, claims: Claims::default(), state: Arc::default() }
    }

    /// Closes this handle and all its clones, and drops the records that were in no sync. Returns
    /// the log that a reopening would find.
    #[must_use]
    pub fn crash(&self) -> Self {
        let mut state = self.state.lock();
        state.closed = true;
        let survivor = MemoryState {
            live: state.live.clone(),
            pending: Vec::new(),
            buffer: Vec::new(),
            last: state.durable,
            durable: state.durable,
            stats: LogStats::default(),
            closed: false,
        };
        let incarnation = random_incarnation();
        Self { id: self.id, incarnation, claims: Claims::default(), state: Arc::new(Mutex::new(survivor)) }
    }
}

fn random_incarnation() -> u64 {
    u64::from_le_bytes(random()).max(1)
}

/// Returns random bytes. If the system's source refuses, the keys of std's hash tables stand in for
/// it, because creating a log in memory can't fail.
fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    if getrandom::fill(&mut bytes).is_err() {
        for part in bytes.chunks_mut(size_of::<u64>()) {
            part.copy_from_slice(&RandomState::new().build_hasher().finish().to_le_bytes()[..part.len()]);
        }
    }
    bytes
}

impl Default for MemoryLog {
    fn default() -> Self {
        Self::new()
    }
}

impl TransactionLog for MemoryLog {
    fn id(&self) -> LogId {
        self.id
    }

    fn incarnation(&self) -> u64 {
        self.incarnation
    }

    fn claim(&self, owner: &Name) -> Result<Claim, LogError> {
        self.claims.claim(owner)
    }

    fn append(&self, record: Record, durability: Durability) -> Result<Lsn, LogError> {
        let mut state = self.state.lock();
        if state.closed {
            return Err(LogError::Closed);
        }
        let begin = state.buffer.len();
        record.encode_behind(&mut state.buffer);
        let end = state.buffer.len();
        if end - begin > MAX_RECORD_BYTES {
            state.buffer.truncate(begin);
            return Err(LogError::TooLarge { length: end - begin });
        }
        let lsn = state.last.next();
        state.last = lsn;
        state.stats.appended += 1;
        state.pending.push((lsn, end));
        if durability == Durability::Forced {
            state.stats.forced += 1;
            state.sync();
        }
        Ok(lsn)
    }

    fn durable(&self) -> Lsn {
        self.state.lock().durable
    }

    fn wait(&self, lsn: Lsn) -> Result<(), LogError> {
        self.state.lock().make_durable(lsn)
    }

    fn poll_durable(&self, lsn: Lsn, _context: &mut Context<'_>) -> Poll<Result<(), LogError>> {
        Poll::Ready(self.wait(lsn))
    }

    fn live(&self, owner: &Name) -> Result<Vec<Record>, LogError> {
        let mut state = self.state.lock();
        if state.closed {
            return Err(LogError::Closed);
        }
        state.sync();
        Ok(state.live.of(owner))
    }

    fn openings(&self, owner: &Name) -> Result<Vec<(Epoch, Lsn)>, LogError> {
        let mut state = self.state.lock();
        if state.closed {
            return Err(LogError::Closed);
        }
        state.sync();
        Ok(state.live.openings_of(owner))
    }

    fn stats(&self) -> LogStats {
        self.state.lock().stats
    }
}
