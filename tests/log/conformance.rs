//! The logs of this crate pass the conformance suite, and logs that are broken on purpose don't.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Mutex},
    task::{Context, Poll, Waker},
    thread,
    time::Duration,
};

use ringpact::{
    FileLog, LogError, LogId, MemoryLog, Name, TransactionLog,
    log::{
        Claim, Durability, Fact, LogStats, Lsn, Record,
        conformance::{self, Ending, Factory},
    },
};
use tempfile::TempDir;

struct InMemory;

fn reopen_memory(log: &MemoryLog, ending: Ending) -> MemoryLog {
    if ending == Ending::Close {
        log.wait(Lsn::new(u64::MAX)).unwrap();
    }
    log.crash()
}

impl Factory for InMemory {
    type Log = MemoryLog;
    fn create(&mut self) -> MemoryLog {
        MemoryLog::new()
    }
    fn reopen(&mut self, log: MemoryLog, ending: Ending) -> MemoryLog {
        reopen_memory(&log, ending)
    }
    fn take_over(&mut self, log: &MemoryLog) -> Option<MemoryLog> {
        Some(log.take_over("another", 0))
    }
}

/// Logs in directories of their own, with segments small enough to be replaced often.
struct OnDisk {
    root: TempDir,
    made: u32,
    segment_bytes: u64,
}

impl OnDisk {
    fn new(segment_bytes: u64) -> Self {
        Self { root: tempfile::tempdir().unwrap(), made: 0, segment_bytes }
    }
}

impl Factory for OnDisk {
    type Log = FileLog;
    fn create(&mut self) -> FileLog {
        self.made += 1;
        let dir = self.root.path().join(self.made.to_string());
        FileLog::options().segment_bytes(self.segment_bytes).open(dir).unwrap()
    }
    fn reopen(&mut self, log: FileLog, ending: Ending) -> FileLog {
        let dir = log.path().to_owned();
        match ending {
            Ending::Crash => log.abandon(),
            Ending::Close => log.close().unwrap(),
        }
        FileLog::options().segment_bytes(self.segment_bytes).open(dir).unwrap()
    }
}

#[test]
fn the_memory_log_conforms() {
    conformance::run(&mut InMemory);
}

#[test]
fn the_file_log_conforms() {
    conformance::run(&mut OnDisk::new(1 << 20));
}

#[test]
fn the_file_log_conforms_with_the_smallest_segments() {
    conformance::run(&mut OnDisk::new(0));
}

/// What is wrong with a broken log.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fault {
    /// Says that records are durable that no sync has seen.
    DurableTooEarly,
    /// Forgets a record of each owner after another owner has ended one.
    EndDropsAnothersRecord,
    /// Returns live records in the wrong order.
    LosesOrder,
    /// Forgets a live record once enough others were appended.
    ForgetsAStuckOne,
    /// Brings ended records back when it is reopened.
    Resurrects,
    /// Does not count forced writes.
    CountsNoForced,
    /// Appends lazily what a task commits.
    CommitsLazily,
    /// Takes a record that it must refuse.
    TakesTooLarge,
    /// Returns the first number of records that are appended together, not the last.
    TellsTheFirst,
    /// Never gives a name back.
    KeepsNames,
    /// Uses its id as the number of each opening.
    NumbersNoOpenings,
}

struct Broken {
    inner: MemoryLog,
    fault: Fault,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    claimed: Lsn,
    ended: Vec<Record>,
    ended_by: Vec<Name>,
    appended: u64,
}

impl TransactionLog for Broken {
    fn id(&self) -> LogId {
        self.inner.id()
    }

    fn incarnation(&self) -> u64 {
        if self.fault == Fault::NumbersNoOpenings {
            return u64::from_le_bytes(self.id().to_bytes()[..8].try_into().unwrap());
        }
        self.inner.incarnation()
    }

    fn claim(&self, owner: &Name) -> Result<Claim, LogError> {
        let claim = self.inner.claim(owner)?;
        if self.fault == Fault::KeepsNames {
            std::mem::forget(claim);
            return Ok(Claim::unchecked());
        }
        Ok(claim)
    }

    fn append(&self, record: Record, durability: Durability) -> Result<Lsn, LogError> {
        let mut state = self.state.lock().unwrap();
        state.appended += 1;
        if let Fact::Ended { .. } = record.fact {
            state.ended_by.push(record.owner.clone());
        }
        let durability = if self.fault == Fault::DurableTooEarly { Durability::Lazy } else { durability };
        match self.inner.append(record.clone(), durability) {
            Ok(lsn) => {
                state.claimed = lsn;
                state.ended.push(record);
                Ok(lsn)
            }
            Err(LogError::TooLarge { .. }) if self.fault == Fault::TakesTooLarge => Ok(state.claimed),
            Err(error) => Err(error),
        }
    }

    fn append_all(&self, records: &mut dyn Iterator<Item = Record>) -> Result<Option<Lsn>, LogError> {
        let numbers = records.map(|record| self.append(record, Durability::Lazy)).collect::<Result<Vec<_>, _>>()?;
        Ok(if self.fault == Fault::TellsTheFirst { numbers.first() } else { numbers.last() }.copied())
    }

    fn append_awaited(&self, record: Record, context: &mut Context<'_>) -> Result<Lsn, LogError> {
        let lazily = self.fault == Fault::CommitsLazily;
        let lsn = self.append(record, if lazily { Durability::Lazy } else { Durability::Forced })?;
        let _ = self.poll_durable(lsn, context);
        Ok(lsn)
    }

    fn durable(&self) -> Lsn {
        if self.fault == Fault::DurableTooEarly { self.state.lock().unwrap().claimed } else { self.inner.durable() }
    }

    fn wait(&self, lsn: Lsn) -> Result<(), LogError> {
        if self.fault == Fault::DurableTooEarly { Ok(()) } else { self.inner.wait(lsn) }
    }

    fn poll_durable(&self, lsn: Lsn, _context: &mut Context<'_>) -> Poll<Result<(), LogError>> {
        Poll::Ready(self.wait(lsn))
    }

    fn live(&self, owner: &Name) -> Result<Vec<Record>, LogError> {
        let state = self.state.lock().unwrap();
        let mut live = self.inner.live(owner)?;
        match self.fault {
            Fault::LosesOrder => live.reverse(),
            Fault::EndDropsAnothersRecord if state.ended_by.iter().any(|by| by != owner) => drop(live.pop()),
            Fault::ForgetsAStuckOne if state.appended > 5_000 => live.retain(|_| owner.as_str() != "stuck"),
            _ => {}
        }
        Ok(live)
    }

    fn stats(&self) -> LogStats {
        let mut stats = self.inner.stats();
        if self.fault == Fault::CountsNoForced {
            stats.forced = 0;
        }
        stats
    }
}

impl Factory for Fault {
    type Log = Broken;
    fn create(&mut self) -> Broken {
        Broken { inner: MemoryLog::new(), fault: *self, state: Mutex::default() }
    }
    fn reopen(&mut self, log: Broken, ending: Ending) -> Broken {
        let inner = reopen_memory(&log.inner, ending);
        let state = log.state.into_inner().unwrap();
        if *self == Fault::Resurrects {
            for record in &state.ended {
                if !matches!(record.fact, Fact::Ended { .. } | Fact::Opened { .. })
                    && !inner.live(&record.owner).unwrap().contains(record)
                {
                    inner.append(record.clone(), Durability::Forced).unwrap();
                }
            }
        }
        Broken { inner, fault: *self, state: Mutex::new(State { claimed: Lsn::NONE, ..state }) }
    }
}

#[track_caller]
fn assert_caught_by(mut fault: Fault, check: &str) {
    let panic = catch_unwind(AssertUnwindSafe(|| conformance::run(&mut fault)))
        .expect_err(&format!("{fault:?} passes the suite"));
    let said = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied()).unwrap();
    assert!(said.contains(&format!("check `{check}`")), "{fault:?} was caught, but by: {said}");
}

#[test]
fn a_log_that_calls_records_durable_too_early_is_caught() {
    assert_caught_by(Fault::DurableTooEarly, "durable");
}

#[test]
fn a_log_that_drops_an_unrelated_record_is_caught() {
    assert_caught_by(Fault::EndDropsAnothersRecord, "live");
}

#[test]
fn a_log_that_loses_the_order_is_caught() {
    assert_caught_by(Fault::LosesOrder, "lazy");
}

#[test]
fn a_log_that_forgets_a_stuck_transaction_is_caught() {
    assert_caught_by(Fault::ForgetsAStuckOne, "stays");
}

#[test]
fn a_log_that_resurrects_what_has_ended_is_caught() {
    assert_caught_by(Fault::Resurrects, "live");
}

#[test]
fn a_log_that_does_not_count_forced_writes_is_caught() {
    assert_caught_by(Fault::CountsNoForced, "stats");
}

#[test]
fn a_log_that_does_not_force_what_tasks_commit_is_caught() {
    assert_caught_by(Fault::CommitsLazily, "commits");
}

#[test]
fn a_log_that_gives_the_wrong_number_of_many_is_caught() {
    assert_caught_by(Fault::TellsTheFirst, "many");
}

#[test]
fn a_log_that_never_gives_a_name_back_is_caught() {
    assert_caught_by(Fault::KeepsNames, "claims");
}

#[test]
fn a_log_that_takes_too_large_a_record_is_caught() {
    assert_caught_by(Fault::TakesTooLarge, "too large");
}

#[test]
fn a_log_that_does_not_number_its_openings_is_caught() {
    assert_caught_by(Fault::NumbersNoOpenings, "incarnations");
}

/// The default name of a coordinator is taken from the first half of its log's id.
#[test]
fn ids_of_logs_in_memory_are_random_in_both_halves() {
    let ids: Vec<_> = (0..64).map(|_| MemoryLog::new().id().to_bytes()).collect();
    for half in [0..8, 8..16] {
        let halves: Vec<_> = ids.iter().map(|id| u64::from_be_bytes(id[half.clone()].try_into().unwrap())).collect();
        let bits_that_vary = halves.iter().fold(0, |bits, other| bits | (halves[0] ^ other));
        assert!(bits_that_vary.count_ones() > 48, "{half:?}: {halves:x?}");
    }
}

/// Wakes tasks on the thread that makes records durable, and under its lock.
struct WakesWhileLocked {
    inner: MemoryLog,
    state: Arc<parking_lot::Mutex<Waiting>>,
}

#[derive(Default)]
struct Waiting {
    wanted: Lsn,
    durable: Lsn,
    wakers: Vec<Waker>,
}

impl WakesWhileLocked {
    fn new(inner: MemoryLog) -> Self {
        let state = Arc::<parking_lot::Mutex<Waiting>>::default();
        let (weak, log) = (Arc::downgrade(&state), inner.clone());
        thread::spawn(move || {
            while let Some(state) = weak.upgrade() {
                let mut waiting = state.lock();
                if waiting.durable < waiting.wanted && log.wait(waiting.wanted).is_ok() {
                    waiting.durable = waiting.wanted;
                    waiting.wakers.drain(..).for_each(Waker::wake);
                }
                drop(waiting);
                thread::yield_now();
            }
        });
        Self { inner, state }
    }

    fn want(&self, lsn: Lsn) -> Result<parking_lot::MutexGuard<'_, Waiting>, LogError> {
        // It would wait for itself forever. The suite would find that, too, but take longer.
        let mut waiting = self.state.try_lock_for(Duration::from_secs(2)).ok_or(LogError::Closed)?;
        waiting.wanted = waiting.wanted.max(lsn);
        Ok(waiting)
    }
}

impl TransactionLog for WakesWhileLocked {
    fn id(&self) -> LogId {
        self.inner.id()
    }
    fn incarnation(&self) -> u64 {
        self.inner.incarnation()
    }
    fn append(&self, record: Record, durability: Durability) -> Result<Lsn, LogError> {
        let mut waiting = self.want(Lsn::NONE)?;
        let lsn = self.inner.append(record, durability)?;
        if durability == Durability::Forced {
            waiting.wanted = lsn;
        }
        Ok(lsn)
    }
    fn durable(&self) -> Lsn {
        self.want(Lsn::NONE).map_or(Lsn::NONE, |waiting| waiting.durable)
    }
    fn wait(&self, lsn: Lsn) -> Result<(), LogError> {
        while self.want(lsn)?.durable < lsn {
            thread::yield_now();
        }
        Ok(())
    }
    fn poll_durable(&self, lsn: Lsn, context: &mut Context<'_>) -> Poll<Result<(), LogError>> {
        let mut waiting = self.want(lsn)?;
        if waiting.durable >= lsn {
            return Poll::Ready(Ok(()));
        }
        waiting.wakers.push(context.waker().clone());
        Poll::Pending
    }
    fn live(&self, owner: &Name) -> Result<Vec<Record>, LogError> {
        self.inner.live(owner)
    }
    fn stats(&self) -> LogStats {
        self.inner.stats()
    }
}

struct WakingWhileLocked;

impl Factory for WakingWhileLocked {
    type Log = WakesWhileLocked;
    fn create(&mut self) -> WakesWhileLocked {
        WakesWhileLocked::new(MemoryLog::new())
    }
    fn reopen(&mut self, log: WakesWhileLocked, ending: Ending) -> WakesWhileLocked {
        WakesWhileLocked::new(reopen_memory(&log.inner, ending))
    }
}

#[test]
fn a_log_that_wakes_tasks_on_its_own_thread_is_caught() {
    let panic = catch_unwind(|| conformance::run(&mut WakingWhileLocked)).expect_err("it passes");
    let said = panic.downcast_ref::<String>().unwrap();
    assert!(said.contains("check `inline`"), "{said}");
}
