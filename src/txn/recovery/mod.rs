//! Recovery: settles what an earlier life left behind, as the log and the participants report it.
//!
//! | file | contents |
//! |---|---|
//! | `mod.rs` | what the log holds, and the question to each participant |
//! | `introductions.rs` | holds back reports until all participants have met the coordinator |
//! | `last_resources.rs` | asks last resources before anything is presumed |
//! | `openings.rs` | which transactions are the coordinator's own, pure |
//! | `verdict_endpoint.rs` | answers participants that ask how a branch ended |

pub(super) mod introductions;
mod last_resources;
pub(super) mod openings;
pub(super) mod verdict_endpoint;

use std::{
    collections::{BTreeMap, HashSet},
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use parking_lot::Mutex;

use crate::{
    id::{BranchId, Name, TxnId, TxnOrdinal},
    log::Record,
    participant::{Decision, Life, ParticipantError, Reply, ReplySink, Request, Response},
    txn::{
        Remembered, Standing,
        engine::{
            coordinator_core::CoordinatorCore,
            members::MemberStanding,
            scheduler::{Runnable, Runner},
            transaction_driver::TransactionDriver,
        },
        policy::after,
        recovery::introductions::Introductions,
        table::key::TxnKey,
    },
};

/// Returns what recovery must run: each decision of the log, to be delivered again, and one
/// question to each participant about the branches that it holds. No participant is called until
/// the caller runs them.
pub(in crate::txn) fn find(
    core: &Arc<CoordinatorCore>,
    records: &[Record],
    counts: &Arc<RecoveryCounts>,
) -> Vec<Arc<dyn Runnable>> {
    let now = core.platform.now();
    let mut decided = HashSet::new();
    let mut runs: Vec<Arc<dyn Runnable>> = Vec::new();
    for (txn, memory) in Remembered::all(records) {
        if memory.decision == Decision::Commit {
            decided.insert(txn.ordinal());
        }
        let key = TxnKey::of(txn.ordinal());
        let owed = memory.owed.clone();
        let protocol = memory.resume(txn, core.policy, now);
        let driver = TransactionDriver::resumed(Arc::clone(core), protocol, key, now);
        core.resumed(Arc::clone(&driver), owed);
        runs.push(driver);
    }
    counts.committed.store(decided.len(), Ordering::Relaxed);
    let introductions = Introductions::new(core.members.present().count(), &core.platform);
    introductions.wait_no_longer_than(core);
    let recovery = core.recovery.get_or_init(|| Recovery {
        decided: Arc::new(decided),
        counts: Arc::clone(counts),
        introductions: Arc::clone(&introductions),
    });
    for (number, slot) in core.members.present().enumerate() {
        let query = recovery.query(core, number, &slot.name, Asked::AtOpening);
        core.in_doubt_query_begins(slot.name.clone(), Arc::clone(&query));
        runs.push(query);
    }
    runs
}

/// What recovery has found in the log, and needs for each participant that is asked.
pub(in crate::txn) struct Recovery {
    /// The decided transactions of the log when the coordinator was opened. Not those that are open
    /// now: a participant may have reported a branch just before its commit was delivered, and the
    /// transaction may have ended since.
    decided: Arc<HashSet<TxnOrdinal>>,
    counts: Arc<RecoveryCounts>,
    pub(in crate::txn) introductions: Arc<Introductions>,
}

impl Recovery {
    /// Returns the question to a participant what it holds.
    pub(in crate::txn) fn query(
        &self,
        core: &Arc<CoordinatorCore>,
        number: usize,
        participant: &Name,
        asked: Asked,
    ) -> Arc<InDoubtQuery> {
        Arc::new_cyclic(|this| InDoubtQuery {
            this: Weak::clone(this),
            core: Arc::clone(core),
            participant: participant.clone(),
            number,
            asked,
            life: Mutex::new(core.life),
            decided: Arc::clone(&self.decided),
            failures: AtomicU32::new(0),
            ask_at: Mutex::new(core.platform.now()),
            answered: AtomicBool::new(false),
            last_error: Mutex::new(None),
            counts: Arc::clone(&self.counts),
            introductions: Arc::clone(&self.introductions),
        })
    }
}

/// When a participant is asked what it holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::txn) enum Asked {
    AtOpening,
    /// It was added later. Last resources may have forgotten by then what they have committed.
    Later,
}

/// Counts of what recovery has done so far.
#[derive(Debug, Default)]
pub(in crate::txn) struct RecoveryCounts {
    pub(in crate::txn) committed: AtomicUsize,
    pub(in crate::txn) rolled_back: AtomicUsize,
}

/// Asks one participant, until it answers, which branches it holds. Rolls back those of earlier
/// epochs without a decision in the log: presumed abort.
pub(in crate::txn) struct InDoubtQuery {
    this: Weak<Self>,
    core: Arc<CoordinatorCore>,
    participant: Name,
    /// The participant's number.
    number: usize,
    asked: Asked,
    /// The life with which the coordinator introduces itself to this participant.
    life: Mutex<Life>,
    decided: Arc<HashSet<TxnOrdinal>>,
    failures: AtomicU32,
    /// Time at which to ask, or to ask again. A timer that fires earlier was set before the
    /// question was postponed.
    ask_at: Mutex<Instant>,
    /// Whether the participant has answered. Answers to repeated questions are ignored then.
    answered: AtomicBool,
    /// The participant's last error, if it has not answered.
    last_error: Mutex<Option<ParticipantError>>,
    counts: Arc<RecoveryCounts>,
    introductions: Arc<Introductions>,
}

impl Runnable for InDoubtQuery {
    fn run(self: Arc<Self>, by: Runner) {
        let is_over = self.answered.load(Ordering::Relaxed) || self.core.is_fenced();
        if is_over || self.core.platform.now() < *self.ask_at.lock() {
            return;
        }
        // An answer can get lost without any sign of it.
        self.ask_in(self.introductions.asks_again_after(self.core.policy.delivery_timeout));
        let request = Request::InDoubt { coordinator: self.core.name.clone(), life: Some(*self.life.lock()) };
        let (core, number) = (Arc::clone(&self.core), self.number);
        let lane = Arc::clone(&core.members[number].lane);
        // An endpoint that panics drops the reply, and is asked again.
        let ask = move || {
            if let Some(member) = &*core.members[number].member() {
                let _ = catch_unwind(AssertUnwindSafe(|| member.send(request, Reply::to(self, 0))));
            }
        };
        match by {
            Runner::Caller => ask(),
            // A repeated question comes much later, so it is never a duplicate in the lane.
            Runner::Worker => lane.run(None, move |_| ask()),
        }
    }
}

impl ReplySink for InDoubtQuery {
    fn deliver(self: Arc<Self>, _tag: usize, result: Result<Response, ParticipantError>) {
        let branches = match result {
            Ok(Response::InDoubt(branches)) => branches,
            Ok(_) => return self.again(),
            Err(error) => {
                if let Some(life) = self.core.continuing(&error) {
                    *self.life.lock() = life;
                    return self.ask_in(Duration::ZERO);
                }
                if matches!(error, ParticipantError::OtherLog(_) | ParticipantError::Superseded(_)) {
                    self.introductions.refused(&self.participant);
                }
                *self.last_error.lock() = Some(error);
                return self.again();
            }
        };
        let is_gone = self.core.members[self.number].standing() == MemberStanding::Gone;
        if is_gone || self.answered.swap(true, Ordering::Relaxed) {
            return;
        }
        let orphans = self.orphans(branches);
        let introductions = Arc::clone(&self.introductions);
        introductions.accepted(InDoubtReport { query: self, orphans });
    }
}

/// A participant's report. It is acted on when all participants have answered, or when that has
/// taken too long.
pub(in crate::txn) struct InDoubtReport {
    query: Arc<InDoubtQuery>,
    orphans: Vec<Arc<TransactionDriver>>,
}

impl InDoubtReport {
    pub(in crate::txn) fn participant(&self) -> &Name {
        &self.query.participant
    }

    pub(in crate::txn) fn is_empty(&self) -> bool {
        self.orphans.is_empty()
    }

    /// Rolls back the reported branches without a decision.
    pub(in crate::txn) fn settle(self, by: Runner) {
        let Self { query, orphans } = self;
        for driver in &orphans {
            query.counts.rolled_back.fetch_add(1, Ordering::Relaxed);
            query.core.resumed(Arc::clone(driver), query.core.must_remember(&query.participant));
        }
        query.core.in_doubt_query_ends(&query.participant, query.number);
        for driver in orphans {
            match by {
                Runner::Caller => driver.run(by),
                Runner::Worker => query.core.scheduler.enqueue(driver),
            }
        }
    }
}

impl InDoubtQuery {
    pub(in crate::txn) const fn participant(&self) -> &Name {
        &self.participant
    }

    /// Returns the participant's number.
    pub(in crate::txn) const fn number(&self) -> usize {
        self.number
    }

    /// Ends the question, because the coordinator is gone.
    pub(in crate::txn) fn abandon(&self) {
        self.introductions.give_up();
    }

    /// Whether the participant has answered. Its report may still wait for those of others.
    pub(in crate::txn) fn is_answered(&self) -> bool {
        self.answered.load(Ordering::Relaxed)
    }

    pub(in crate::txn) fn last_error(&self) -> Option<ParticipantError> {
        self.last_error.lock().clone()
    }

    fn again(&self) {
        let failures = self.failures.load(Ordering::Relaxed).saturating_add(1);
        self.failures.store(failures, Ordering::Relaxed);
        // The epoch's transaction 0, which does not exist, stands for the query in the jitter.
        let txn = TxnId::new(self.participant.clone(), self.core.epoch, 0);
        self.ask_in(self.core.policy.backoff(&txn, 0, failures));
    }

    fn ask_in(&self, pause: Duration) {
        let at = after(self.core.platform.now(), pause);
        *self.ask_at.lock() = at;
        let this: Weak<dyn Runnable> = self.this.clone();
        self.core.scheduler.enqueue_at(at, this);
    }

    fn orphans(&self, branches: Vec<BranchId>) -> Vec<Arc<TransactionDriver>> {
        let now = self.core.platform.now();
        // A last resource that has forgotten what it committed cannot say what became of them.
        let may_ask = self.asked == Asked::AtOpening || !self.core.table.lock().last_resources_forget;
        let mut orphans = BTreeMap::new();
        for branch in branches {
            let txn = branch.txn();
            let is_settled = self.decided.contains(&txn.ordinal());
            if txn.coordinator() != &self.core.name || is_settled || branch.participant() != &self.participant {
                continue;
            }
            match self.core.openings.standing_of(txn.ordinal(), self.core.next_ordinal().sequence) {
                Standing::UnderWay => {}
                Standing::PresumedAborted if may_ask => drop(orphans.insert(txn.ordinal(), branch)),
                Standing::PresumedAborted | Standing::Unclaimed => self.core.unclaimed.report(&branch, now),
            }
        }
        orphans.into_values().map(|branch| self.core.undecided(&branch, self.number)).collect()
    }
}
