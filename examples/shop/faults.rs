//! What goes wrong: messages are lost; services refuse, are late or crash; and the process aborts
//! if the user asks for it. Everything is a function of the seed, so a run can be repeated.

use std::{
    collections::{BTreeMap, HashMap},
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
};

use parking_lot::Mutex;
use ringpact::{
    BranchId, TxnOrdinal,
    participant::{ParticipantError, Reply, Response, Verb},
};
use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::purchases::OrderId;

/// What happens to one message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fate {
    Fine,
    Refuse,
    LoseRequest,
    LoseAnswer,
    AnswerLate,
    CrashBefore,
    CrashAfter,
}

impl Fate {
    /// Its name in the report.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Fine => "nothing wrong",
            Self::Refuse => "service refused without a reason",
            Self::LoseRequest => "request lost",
            Self::LoseAnswer => "answer lost",
            Self::AnswerLate => "answer came after the time-out",
            Self::CrashBefore => "service crashed before doing it",
            Self::CrashAfter => "service crashed after doing it",
        }
    }
}

/// Fates, and how many of a million messages meet each.
type Odds = &'static [(Fate, u64)];
const OF_VOTES: Odds = &[
    (Fate::Refuse, 5_000),
    (Fate::LoseRequest, 3_000),
    (Fate::LoseAnswer, 3_000),
    (Fate::AnswerLate, 400),
    (Fate::CrashBefore, 500),
    (Fate::CrashAfter, 500),
];
const OF_FIRST_COMMITS: Odds =
    &[(Fate::LoseRequest, 4_000), (Fate::LoseAnswer, 4_000), (Fate::CrashBefore, 700), (Fate::CrashAfter, 700)];
const OF_LONE_COMMITS: Odds = &[(Fate::LoseAnswer, 50_000)];
// No crashes: on a background thread they would hit other transactions at moments that no seed
// repeats. Nor while what a shard has missed is settled; see `crashes`.
const OF_OTHERS: Odds = &[(Fate::LoseRequest, 50_000), (Fate::LoseAnswer, 50_000)];

/// A moment in a transaction's life at which the process can be made to abort.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A participant is about to get the message.
    Before(Verb),
    /// The participant has carried the message out; the coordinator does not know yet.
    After(Verb),
    /// The decision was handed to the log.
    Decided,
}

/// A transaction: its order and step, how often that was tried, and what has happened to it.
#[derive(Debug)]
struct Journey {
    number: u64,
    order: OrderId,
    step: u8,
    attempt: u32,
    prepares: u32,
    commits: u32,
    sent: HashMap<(String, Verb), Sent>,
}

/// How often a message was sent, and how often its shard was up. Only the latter counts for what
/// comes after, because how often a message meets a shard that is down is a matter of time.
#[derive(Clone, Copy, Debug, Default)]
struct Sent {
    in_all: u64,
    to_someone: u64,
}

pub struct Faults {
    seed: u64,
    odds: Enabled,
    /// Whether shards may crash. Not while those that are down are started again: a decision that was
    /// kept back while its shard was down is sent then for the first time. The wave is over by then,
    /// so a shard that crashed once more would stay down.
    may_crash: AtomicBool,
    crash_after: Option<u64>,
    transactions: AtomicU64,
    journeys: Mutex<HashMap<TxnOrdinal, Journey>>,
    late: Mutex<Vec<(Reply, Result<Response, ParticipantError>)>>,
    counts: Mutex<BTreeMap<Fate, u64>>,
}

/// Whether anything goes wrong without an abort that the user asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Enabled {
    On,
    Off,
}

impl Faults {
    pub fn new(seed: u64, odds: Enabled, crash_after: Option<u64>) -> Self {
        Self {
            seed,
            odds,
            may_crash: AtomicBool::new(true),
            crash_after,
            transactions: AtomicU64::new(0),
            journeys: Mutex::default(),
            late: Mutex::default(),
            counts: Mutex::default(),
        }
    }

    /// Notes a transaction that begins: the `attempt`-th for this step of this order.
    pub fn begins(&self, ordinal: TxnOrdinal, order: OrderId, step: u8, attempt: u32) {
        let number = self.transactions.fetch_add(1, Ordering::Relaxed) + 1;
        let journey = Journey { number, order, step, attempt, prepares: 0, commits: 0, sent: HashMap::new() };
        self.journeys.lock().insert(ordinal, journey);
    }

    /// Says whether shards may crash from here on.
    pub fn let_crash(&self, may_crash: bool) {
        self.may_crash.store(may_crash, Ordering::SeqCst);
    }

    /// Forgets all transactions so far, because they are over.
    pub fn all_over(&self) {
        self.journeys.lock().clear();
        // Late answers arrive now, at transactions that have ended without them.
        let late = std::mem::take(&mut *self.late.lock());
        for (reply, answer) in late {
            reply.send(answer);
        }
    }

    /// Draws what happens to the next message of this kind to this branch. `up` says whether its
    /// shard is up.
    pub fn fate(&self, branch: &BranchId, verb: Verb, up: bool) -> Fate {
        if self.odds == Enabled::Off {
            return Fate::Fine;
        }
        let mut journeys = self.journeys.lock();
        // Recovery works on transactions of an earlier life; they had their share of faults.
        let Some(journey) = journeys.get_mut(&branch.txn().ordinal()) else { return Fate::Fine };
        let participant = branch.participant().to_string();
        let sent = journey.sent.entry((participant.clone(), verb)).or_default();
        sent.in_all += 1;
        if !up {
            return Fate::LoseRequest;
        }
        sent.to_someone += 1;
        let odds = match verb {
            Verb::Prepare => OF_VOTES,
            Verb::Commit if sent.in_all == 1 && self.may_crash.load(Ordering::SeqCst) => OF_FIRST_COMMITS,
            Verb::CommitOnePhase => OF_LONE_COMMITS,
            _ => OF_OTHERS,
        };
        let sent = sent.to_someone;
        let what = format!("{} {} {} {participant} {verb:?} {sent}", journey.order.0, journey.step, journey.attempt);
        drop(journeys);
        let mut drawn = xxh3_64_with_seed(what.as_bytes(), self.seed) % 1_000_000;
        for &(fate, share) in odds {
            if drawn < share {
                *self.counts.lock().entry(fate).or_default() += 1;
                return fate;
            }
            drawn -= share;
        }
        Fate::Fine
    }

    /// Returns `Some` if the machine with the coordinator crashes in this wave of `size`
    /// transactions: the number of its records that reach the disk. A transaction writes two
    /// promises and a decision, so the cut can fall between any of them.
    pub fn machine_crash(&self, wave: u64, size: usize) -> Option<u64> {
        let drawn = xxh3_64_with_seed(&wave.to_le_bytes(), self.seed);
        let crashes = self.odds == Enabled::On && drawn % 24 == 5;
        crashes.then(|| (drawn >> 32) % (3 * size as u64 + 1))
    }

    /// Keeps an answer until the transaction has timed out.
    pub fn keep_waiting(&self, reply: Reply, answer: Result<Response, ParticipantError>) {
        self.late.lock().push((reply, answer));
    }

    /// Reports a moment in a transaction's life. If it is the chosen one, the process aborts at
    /// once: no destructor runs, and nothing is flushed.
    pub fn happens(&self, branch: &BranchId, event: Event) {
        self.moment(branch.txn().ordinal(), event);
    }

    /// Does what [`happens`](Self::happens) does, without a branch.
    pub fn moment(&self, ordinal: TxnOrdinal, event: Event) {
        let Some(after) = self.crash_after else { return };
        let mut journeys = self.journeys.lock();
        let Some(journey) = journeys.get_mut(&ordinal) else { return };
        match event {
            Event::Before(Verb::Prepare) => journey.prepares += 1,
            Event::Before(Verb::Commit) => journey.commits += 1,
            _ => {}
        }
        // Six places in the middle of a transaction, so that consecutive numbers N visit them all.
        // If the N-th transaction is rolled back before its place, the next one aborts there.
        let here = match after % 6 {
            0 => event == Event::Before(Verb::Prepare) && journey.prepares == 1,
            1 => event == Event::Before(Verb::Prepare) && journey.prepares == 2,
            2 => event == Event::Decided,
            3 => event == Event::Before(Verb::Commit) && journey.commits == 1,
            4 => event == Event::Before(Verb::Commit) && journey.commits == 2,
            _ => event == Event::After(Verb::Commit) && journey.commits == 2,
        };
        if here && journey.number >= after {
            eprintln!("aborting in the middle of transaction {}, at {event:?} ({})", journey.number, journey.order);
            std::process::abort();
        }
    }

    /// How often each fate happened.
    pub fn counts(&self) -> Vec<(Fate, u64)> {
        self.counts.lock().iter().map(|(fate, count)| (*fate, *count)).collect()
    }
}
