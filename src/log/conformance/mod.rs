//! What every [`TransactionLog`] owes, as a suite that any implementation can be held to.
//!
//! Give [`run`] a [`Factory`] that makes logs and reopens them. If the log breaks its contract,
//! `run` panics with the name of the check and what was wrong.
//!
//! ```
//! use ringpact::{MemoryLog, TransactionLog, log::Lsn, log::conformance::{self, Ending, Factory}};
//!
//! struct InMemory;
//!
//! impl Factory for InMemory {
//!     type Log = MemoryLog;
//!     fn create(&mut self) -> MemoryLog {
//!         MemoryLog::new()
//!     }
//!     fn reopen(&mut self, log: MemoryLog, ending: Ending) -> MemoryLog {
//!         if ending == Ending::Close {
//!             log.wait(Lsn::new(u64::MAX)).expect("memory does not fail"); // flushes what is lazy
//!         }
//!         log.crash()
//!     }
//! }
//!
//! conformance::run(&mut InMemory);
//! ```
//!
//! `concurrent` has the checks with many threads or tasks, `inline` the one with an executor that
//! polls a task where it is woken, and `taken_over` the one of logs that another holder can take over.

use std::{collections::HashSet, time::Duration};

mod concurrent;
mod inline;
mod taken_over;

use concurrent::block_on_durable;

use super::{Durability, Fact, LogError, Lsn, MAX_OPENINGS, MAX_RECORD_BYTES, Record, TransactionLog};
use crate::id::{Epoch, Name, TxnId};

/// Makes the logs that the suite tries.
pub trait Factory {
    /// The implementation.
    type Log: TransactionLog;

    /// Returns a new, empty log, apart from all others.
    fn create(&mut self) -> Self::Log;

    /// Ends the log in this way, and opens it again. An [`Ending::Crash`] should be as hard as the
    /// implementation can make it: all that the log has not reported durable may be gone. The more
    /// of it is gone, the more the suite can find.
    fn reopen(&mut self, log: Self::Log, ending: Ending) -> Self::Log;

    /// Takes the log over, as another process would, while this handle is still open: returns the log
    /// as the new holder has it. `None` if logs of this kind can't be taken over; then that is not
    /// checked. It should be as hard as the implementation can make it: the old handle may not know
    /// of the takeover before its next write.
    ///
    /// The default implementation returns `None`.
    fn take_over(&mut self, log: &Self::Log) -> Option<Self::Log> {
        let _ = log;
        None
    }
}

/// How a log ends before it is opened again. Exhaustive on purpose: a factory must know all of
/// them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(clippy::exhaustive_enums, reason = "factories must know all of them")]
pub enum Ending {
    /// As by a power failure.
    Crash,
    /// In an orderly way, which keeps everything that was appended.
    Close,
}

/// Number of threads of the check with concurrent appenders, and of records that each of them
/// appends.
const THREADS: u64 = 8;
const RECORDS_PER_THREAD: u64 = 25;

/// Number of transactions that come and go in the check that something old stays: enough to make a
/// small log collect.
const PASSING_TRANSACTIONS: u64 = 3_000;

/// How long a task waits to be woken before the suite says that it never was. No medium needs
/// nearly as long.
const NEVER: Duration = Duration::from_secs(30);

/// Fails a check by its name.
macro_rules! require {
    ($check:literal, $holds:expr, $($what:tt)+) => {
        assert!($holds, "the log breaks its contract, check `{}`: {}", $check, format_args!($($what)+))
    };
}
use require;

/// Runs all checks. Blocks until they are done.
///
/// # Panics
///
/// If the log breaks its contract, or can't be used at all.
pub fn run(factory: &mut impl Factory) {
    numbers(factory);
    incarnations(factory);
    durable(factory);
    lazy(factory);
    prefix(factory);
    closed(factory);
    live(factory);
    pending_is_live(factory);
    epochs(factory);
    ended_stays_ended(factory);
    stays(factory);
    too_large(factory);
    many(factory);
    claims(factory);
    concurrent::threads(factory);
    concurrent::tasks(factory);
    stats(factory);
    concurrent::commits(factory);
    inline::check(factory);
    taken_over::check(factory);
}

/// `numbers`: records are numbered in the order of their appends, and the id stays.
fn numbers(factory: &mut impl Factory) {
    let log = factory.create();
    let id = log.id();
    require!("numbers", log.durable() == Lsn::NONE, "a new log has durable records: {:?}", log.durable());
    let mut last = Lsn::NONE;
    for number in 1..=10 {
        let lsn = append(&log, prepared("a", number), Durability::Lazy);
        require!("numbers", lsn == last.next(), "{lsn:?} follows {last:?}");
        last = lsn;
    }
    wait(&log, last);
    let log = factory.reopen(log, Ending::Crash);
    require!("numbers", log.id() == id, "the id changed by reopening");
    require!("numbers", factory.create().id() != id, "two logs have the same id");
}

/// `incarnations`: each opening of a log has a number of its own, the same as long as it is open,
/// and never 0.
fn incarnations(factory: &mut impl Factory) {
    let (mut log, mut seen) = (factory.create(), HashSet::new());
    seen.insert(factory.create().incarnation());
    for ending in [Ending::Crash, Ending::Close] {
        let incarnation = log.incarnation();
        require!("incarnations", incarnation != 0, "an opening has the number 0");
        require!("incarnations", log.incarnation() == incarnation, "the number of one opening has changed");
        require!("incarnations", seen.insert(incarnation), "two openings share the number {incarnation}");
        log = factory.reopen(log, ending);
    }
    require!("incarnations", seen.insert(log.incarnation()), "an opening has the number of one before it");
}

/// `durable`: records that were reported durable survive.
fn durable(factory: &mut impl Factory) {
    let mut log = factory.create();
    for number in 1..=6 {
        let lsn = append(&log, prepared("a", number), Durability::Forced);
        if number % 2 == 0 {
            wait(&log, lsn);
        } else {
            block_on_durable(&log, lsn, "durable");
        }
        let reported = log.durable();
        require!("durable", reported == lsn, "{lsn:?} was waited for and is the last, durable() is {reported:?}");
        log = factory.reopen(log, Ending::Crash);
        let found = live_of(&log, "a").len() as u64;
        require!("durable", found == number, "{number} records were durable; a crash left {found}");
    }
    let first = append(&log, prepared("b", 1), Durability::Forced);
    wait(&log, first);
    append(&log, prepared("b", 2), Durability::Lazy);
    require!("durable", log.durable() >= first, "durable() went back");
    wait(&log, first);
}

/// `lazy`: a lazy record becomes durable with the next forced one, and can be waited for.
fn lazy(factory: &mut impl Factory) {
    let log = factory.create();
    append(&log, prepared("a", 1), Durability::Lazy);
    let forced = append(&log, prepared("b", 2), Durability::Forced);
    wait(&log, forced);
    let log = factory.reopen(log, Ending::Crash);
    require!("lazy", live_of(&log, "a") == [prepared("a", 1)], "it did not go along with the forced one after it");

    wait(&log, append(&log, prepared("a", 3), Durability::Lazy));
    block_on_durable(&log, append(&log, prepared("a", 4), Durability::Lazy), "lazy");
    let log = factory.reopen(log, Ending::Crash);
    let expected = [prepared("a", 1), prepared("a", 3), prepared("a", 4)];
    require!("lazy", live_of(&log, "a") == expected, "waited for, it did not survive");
}

/// `prefix`: what survives a crash is a prefix of what was appended, at whatever moment the crash
/// comes.
fn prefix(factory: &mut impl Factory) {
    for crash_after in [1, 2, 5, 20, 100] {
        let log = factory.create();
        let mut appended = Vec::new();
        for number in 1..=crash_after {
            let durability = if number % 3 == 0 { Durability::Forced } else { Durability::Lazy };
            appended.push(prepared("a", number));
            append(&log, prepared("a", number), durability);
        }
        let reported = log.durable().as_u64();
        let log = factory.reopen(log, Ending::Crash);
        let found = live_of(&log, "a");
        require!("prefix", appended.starts_with(&found), "the survivors are {found:?}");
        require!("prefix", found.len() as u64 >= reported, "{reported} were durable, {} survived", found.len());
    }
}

/// `closed`: closing in an orderly way keeps everything.
fn closed(factory: &mut impl Factory) {
    let log = factory.create();
    let records: Vec<_> = (1..=5).map(|number| prepared("a", number)).collect();
    for record in &records {
        append(&log, record.clone(), Durability::Lazy);
    }
    let log = factory.reopen(log, Ending::Close);
    require!("closed", live_of(&log, "a") == records, "closing lost lazy records");
}

/// `live`: each owner gets back, in order, those of its own records that nothing has ended.
fn live(factory: &mut impl Factory) {
    let log = factory.create();
    for record in history() {
        append(&log, record, Durability::Lazy);
    }
    check_history(&log);
    let log = factory.reopen(log, Ending::Close);
    check_history(&log);
    let log = factory.reopen(log, Ending::Crash);
    check_history(&log);
}

fn history() -> Vec<Record> {
    vec![
        prepared("goods", 1),
        decided("shop", 1),
        prepared("orders", 1),
        prepared("goods", 2),
        committed("goods", 1),
        ended("goods", 1),
        decided("shop", 2),
        committed("goods", 2),
        prepared("orders", 3),
        ended("shop", 1),
        ended("orders", 9), // ends nothing
    ]
}

fn check_history(log: &impl TransactionLog) {
    for (owner, expected) in [
        ("goods", vec![prepared("goods", 2), committed("goods", 2)]),
        ("orders", vec![prepared("orders", 1), prepared("orders", 3)]),
        ("shop", vec![decided("shop", 2)]),
        ("unknown", vec![]),
    ] {
        let found = live_of(log, owner);
        require!("live", found == expected, "{owner}'s are {found:?}, not {expected:?}");
    }
}

/// `pending`: records are live from their append on, durable or not; ended ones are not.
fn pending_is_live(factory: &mut impl Factory) {
    let log = factory.create();
    append(&log, prepared("a", 1), Durability::Lazy);
    require!("pending", live_of(&log, "a") == [prepared("a", 1)], "an appended record is not live");
    append(&log, ended("a", 1), Durability::Lazy);
    require!("pending", live_of(&log, "a").is_empty(), "an ended record is live");
}

/// `epochs`: of an owner's openings the latest are live, in their order.
fn epochs(factory: &mut impl Factory) {
    let mut log = factory.create();
    for epoch in 1..=4 {
        wait(&log, append(&log, opened("a", epoch), Durability::Forced));
        if epoch == 2 {
            wait(&log, append(&log, opened("b", 7), Durability::Forced));
        }
        log = factory.reopen(log, Ending::Crash);
        let found = live_of(&log, "a");
        let openings: Vec<_> = (1..=epoch).map(|epoch| opened("a", epoch)).collect();
        require!("epochs", found == openings, "after opening {epoch} live are {found:?}");
    }
    require!("epochs", live_of(&log, "b") == [opened("b", 7)], "one owner's opening replaced another one's");
    for epoch in 5..=3 * MAX_OPENINGS as u64 {
        append(&log, opened("a", epoch), Durability::Lazy);
    }
    let found = live_of(&log, "a");
    let latest: Vec<_> =
        (2 * MAX_OPENINGS as u64 + 1..=3 * MAX_OPENINGS as u64).map(|epoch| opened("a", epoch)).collect();
    require!("epochs", found.ends_with(&latest), "of many openings the last {MAX_OPENINGS} are not all live");
    let bounded = found.len() <= 2 * MAX_OPENINGS;
    require!("epochs", bounded, "{} openings are live, of which {MAX_OPENINGS} are needed", found.len());
}

/// `ended`: what has ended durably does not come back.
fn ended_stays_ended(factory: &mut impl Factory) {
    let mut log = factory.create();
    append(&log, prepared("a", 1), Durability::Forced);
    append(&log, prepared("b", 1), Durability::Forced);
    wait(&log, append(&log, ended("a", 1), Durability::Forced));
    for ending in [Ending::Crash, Ending::Close, Ending::Crash] {
        log = factory.reopen(log, ending);
        require!("ended", live_of(&log, "a").is_empty(), "an ended record came back after a {ending:?}");
        require!("ended", live_of(&log, "b") == [prepared("b", 1)], "another owner's record ended too ({ending:?})");
    }
}

/// `stays`: a transaction that never ends stays, whatever is collected around it.
fn stays(factory: &mut impl Factory) {
    let mut log = factory.create();
    append(&log, prepared("stuck", 1), Durability::Forced);
    for number in 2..PASSING_TRANSACTIONS + 2 {
        append(&log, prepared("a", number), Durability::Lazy);
        append(&log, ended("a", number), Durability::Lazy);
    }
    wait(&log, append(&log, prepared("a", 1), Durability::Forced));
    for ending in [Ending::Crash, Ending::Close] {
        log = factory.reopen(log, ending);
        require!("stays", live_of(&log, "stuck") == [prepared("stuck", 1)], "it was forgotten ({ending:?})");
        require!(
            "stays",
            live_of(&log, "a") == [prepared("a", 1)],
            "what was collected is not what ended ({ending:?})"
        );
    }
}

/// `too large`: a record beyond the limit is refused and leaves nothing; a record at the limit is
/// taken.
fn too_large(factory: &mut impl Factory) {
    let log = factory.create();
    let with_work = |bytes| Record { owner: name("a"), fact: Fact::Prepared { txn: txn(1), work: vec![7; bytes] } };
    let mut bytes = MAX_RECORD_BYTES;
    while with_work(bytes).encoded_len() > MAX_RECORD_BYTES {
        bytes -= 1;
    }
    let refused = log.append(with_work(bytes + 1), Durability::Forced);
    require!(
        "too large",
        matches!(refused, Err(LogError::TooLarge { length }) if length == MAX_RECORD_BYTES + 1),
        "a record one byte beyond the limit gave {refused:?}"
    );
    require!("too large", log.stats().appended == 0, "the refused record was counted");
    wait(&log, append(&log, with_work(bytes), Durability::Forced));
    let log = factory.reopen(log, Ending::Crash);
    require!("too large", live_of(&log, "a") == [with_work(bytes)], "the largest record that is allowed is not there");
}

/// `many`: appending records together has the same result as one by one, up to the first that is
/// refused.
fn many(factory: &mut impl Factory) {
    let log = factory.create();
    let largest = Record { owner: name("a"), fact: Fact::Prepared { txn: txn(1), work: vec![7; MAX_RECORD_BYTES] } };
    let none = log.append_all(&mut std::iter::empty());
    require!("many", matches!(none, Ok(None)), "no records at all gave {none:?}");
    let all: Vec<_> = (0..200).map(|number| prepared("a", number)).collect();
    let last = log.append_all(&mut all.iter().cloned());
    require!("many", matches!(last, Ok(Some(lsn)) if lsn.as_u64() == 200), "200 records gave {last:?}");
    let refused = log.append_all(&mut [prepared("b", 1), largest, prepared("b", 2)].into_iter());
    require!("many", matches!(refused, Err(LogError::TooLarge { .. })), "one that is too large gave {refused:?}");
    let log = factory.reopen(log, Ending::Close);
    require!("many", live_of(&log, "a") == all, "not all are there, or not in order");
    require!(
        "many",
        live_of(&log, "b") == [prepared("b", 1)],
        "the records before a refused one are not all that is there"
    );
}

/// `claims`: a name that is taken can be given back, and does not keep another name from being
/// taken.
fn claims(factory: &mut impl Factory) {
    let log = factory.create();
    let first = log.claim(&name("a"));
    require!("claims", first.is_ok(), "a name that is free was refused: {first:?}");
    let other = log.claim(&name("b"));
    require!("claims", other.is_ok(), "another name was refused: {other:?}");
    let second = log.claim(&name("a"));
    let is_claimed = matches!(&second, Err(LogError::Claimed { owner }) if *owner == name("a"));
    require!("claims", second.is_ok() || is_claimed, "a name that is taken gave {second:?}");
    drop((first, second));
    let again = log.claim(&name("a"));
    require!("claims", again.is_ok(), "a name that was given back was refused: {again:?}");
    let log = factory.reopen(log, Ending::Crash);
    let reclaimed = log.claim(&name("a"));
    require!("claims", reclaimed.is_ok(), "a name was refused after a crash of its owner: {reclaimed:?}");
}

/// `stats`: appends are counted, and how many of them were forced.
fn stats(factory: &mut impl Factory) {
    let log = factory.create();
    for number in 1..=3 {
        append(&log, prepared("a", number), Durability::Lazy);
    }
    for number in 4..=5 {
        wait(&log, append(&log, prepared("a", number), Durability::Forced));
    }
    let stats = log.stats();
    require!("stats", stats.appended == 5, "5 records were appended, counted {}", stats.appended);
    require!("stats", stats.forced == 2, "2 of them forced, counted {}", stats.forced);
    require!("stats", (1..=5).contains(&stats.syncs), "counted {} syncs for 2 forced records", stats.syncs);
}

fn append(log: &impl TransactionLog, record: Record, durability: Durability) -> Lsn {
    log.append(record, durability).unwrap_or_else(|error| panic!("the log refuses a record that it must take: {error}"))
}

fn wait(log: &impl TransactionLog, lsn: Lsn) {
    log.wait(lsn).unwrap_or_else(|error| panic!("waiting for {lsn:?} failed: {error}"));
}

fn live_of(log: &impl TransactionLog, owner: &str) -> Vec<Record> {
    log.live(&name(owner)).unwrap_or_else(|error| panic!("the live records can't be had: {error}"))
}

fn name(text: &str) -> Name {
    Name::new(text).unwrap_or_else(|error| panic!("the suite's own names are valid: {error}"))
}

fn txn(sequence: u64) -> TxnId {
    TxnId::new(name("shop"), Epoch::new(1), sequence)
}

fn record(owner: &str, fact: Fact) -> Record {
    Record { owner: name(owner), fact }
}

fn opened(owner: &str, epoch: u64) -> Record {
    record(owner, Fact::Opened { epoch: Epoch::new(epoch) })
}

fn decided(owner: &str, sequence: u64) -> Record {
    record(owner, Fact::Decided { txn: txn(sequence), participants: vec![name("goods"), name("orders")] })
}

fn prepared(owner: &str, sequence: u64) -> Record {
    record(owner, Fact::Prepared { txn: txn(sequence), work: sequence.to_le_bytes().to_vec() })
}

fn committed(owner: &str, sequence: u64) -> Record {
    record(owner, Fact::Committed { txn: txn(sequence), work: None })
}

fn ended(owner: &str, sequence: u64) -> Record {
    record(owner, Fact::Ended { txn: txn(sequence) })
}
