//! The log in memory: for tests, and for transactions that need not survive the process.

use std::{
    hash::{BuildHasher, Hasher, RandomState},
    mem,
    sync::{Arc, OnceLock},
    task::{Context, Poll, Waker},
};

use parking_lot::Mutex;

use super::{
    Claim, Claims, Durability, LiveRecords, LogError, LogId, LogStats, Lsn, MAX_RECORD_BYTES, Record, Takeover,
    TransactionLog,
};
use crate::{
    foreign,
    id::{Epoch, Name},
};

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
    /// Set once the log was taken over. Apart from the state, so that a look needs no lock.
    taken: Arc<OnceLock<Takeover>>,
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
    /// Why nothing more is written, once that is so.
    over: Option<LogError>,
    /// Wakers of tasks that wait until the log is taken over.
    watchers: Vec<Waker>,
}

impl MemoryState {
    fn sync(&mut self) {
        self.sync_first(self.pending.len());
    }

    /// Makes the first `records` of those that are pending durable, or all if there are fewer.
    fn sync_first(&mut self, records: usize) {
        let records = records.min(self.pending.len());
        let Some((last, length)) = records.checked_sub(1).map(|last| self.pending[last]) else { return };
        let mut begin = 0;
        for (lsn, end) in self.pending.drain(..records) {
            self.live.apply_own(lsn, &self.buffer[begin..end]);
            begin = end;
        }
        self.buffer.drain(..length);
        self.pending.iter_mut().for_each(|(_, end)| *end -= length);
        self.durable = last;
        self.stats.syncs += 1;
    }

    fn is_open(&self) -> Result<(), LogError> {
        self.over.clone().map_or(Ok(()), Err)
    }

    fn make_durable(&mut self, lsn: Lsn) -> Result<(), LogError> {
        if lsn <= self.durable {
            return Ok(());
        }
        self.is_open()?;
        self.sync();
        Ok(())
    }

    /// Returns the state of a log that is opened on what is durable here.
    fn survivor(&self) -> Self {
        Self { live: self.live.clone(), last: self.durable, durable: self.durable, ..Self::default() }
    }
}

impl MemoryLog {
    /// Returns an empty log with an id of its own.
    #[must_use]
    pub fn new() -> Self {
        let (id, incarnation) = (LogId::from_bytes(random()), random_incarnation());
        Self { id, incarnation, claims: Claims::default(), state: Arc::default(), taken: Arc::default() }
    }

    /// Closes this handle and all its clones, and drops the records that were in no sync. Returns
    /// the log that a reopening would find. After a [takeover](Self::take_over) that is the new
    /// holder's handle, and this one returns only an older copy.
    #[must_use]
    pub fn crash(&self) -> Self {
        let mut state = self.state.lock();
        state.over.get_or_insert(LogError::Closed);
        self.reopened(&state)
    }

    /// Takes the log over, as another process does with a log on a shared engine. Returns the log as
    /// the new holder has it: all durable records, and the first `pending` of those that are in no
    /// sync yet, which reached the medium just before. To this handle and all its clones these are
    /// durable, too. All others are surely not in the log, and everything more that is asked of the
    /// old handle is refused as [`LogError::Fenced`]. Call it on the handle that holds the log: another
    /// one has only an older copy.
    ///
    /// Nothing tells the old handle's users beforehand, so this is also how a process is tested that
    /// was paused for too long.
    ///
    /// ```
    /// use ringpact::{Epoch, LogError, MemoryLog, Name, TransactionLog, log::{Durability, Fact, Record}};
    ///
    /// let log = MemoryLog::new();
    /// let owner = Name::new("shop")?;
    /// let record = |epoch| Record { owner: owner.clone(), fact: Fact::Opened { epoch: Epoch::new(epoch) } };
    /// let first = log.append(record(1), Durability::Lazy)?;
    /// let second = log.append(record(2), Durability::Lazy)?;
    ///
    /// let taken = log.take_over("standby", 1); // the first record had reached the medium
    /// assert_eq!(taken.live(&owner)?, [record(1)]);
    /// log.wait(first)?;
    /// assert!(matches!(log.wait(second), Err(LogError::Fenced { .. })), "surely not in the log");
    /// assert_eq!(log.lost().and_then(|takeover| takeover.holder).as_deref(), Some("standby"));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn take_over(&self, holder: &str, pending: usize) -> Self {
        let takeover = Takeover::by(Some(holder.into()));
        let mut state = self.state.lock();
        if state.over.is_none() {
            state.sync_first(pending);
            state.over = Some(takeover.clone().into());
            let _ = self.taken.set(takeover);
        }
        let holders = self.reopened(&state);
        let watchers = mem::take(&mut state.watchers);
        drop(state);
        watchers.into_iter().for_each(foreign::wake);
        holders
    }

    /// Returns the number of records that are in no sync yet.
    #[must_use]
    pub fn pending(&self) -> usize {
        self.state.lock().pending.len()
    }

    /// Returns another opening of the log, on what is durable.
    fn reopened(&self, state: &MemoryState) -> Self {
        let (incarnation, state) = (random_incarnation(), Arc::new(Mutex::new(state.survivor())));
        Self { id: self.id, incarnation, claims: Claims::default(), state, taken: Arc::default() }
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
        state.is_open()?;
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
        state.is_open()?;
        state.sync();
        Ok(state.live.of(owner))
    }

    fn openings(&self, owner: &Name) -> Result<Vec<(Epoch, Lsn)>, LogError> {
        let mut state = self.state.lock();
        state.is_open()?;
        state.sync();
        Ok(state.live.openings_of(owner))
    }

    fn lost(&self) -> Option<Takeover> {
        self.taken.get().cloned()
    }

    fn poll_lost(&self, context: &mut Context<'_>) -> Poll<Takeover> {
        let waker = context.waker().clone(); // foreign code, so not under the lock
        let mut state = self.state.lock();
        if let Some(takeover) = state.over.as_ref().and_then(LogError::takeover) {
            return Poll::Ready(takeover);
        }
        if state.watchers.iter().all(|known| !known.will_wake(&waker)) {
            state.watchers.push(waker);
        }
        Poll::Pending
    }

    fn stats(&self) -> LogStats {
        self.state.lock().stats
    }
}
