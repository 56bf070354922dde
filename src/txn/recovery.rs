//! Recovery: settles what an earlier life left behind, as the log and the participants report it.

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

use super::{
    CommitProtocol, Remembered, Standing,
    driver::{By, Driven},
    introductions::Introductions,
    members::Member,
    policy::after,
    shared::{Key, Shared},
    task::Task,
};
use crate::{
    id::{BranchId, Name, TxnId, TxnOrdinal},
    log::Record,
    participant::{Decision, ParticipantError, Reply, ReplySink, Request, Response},
};

/// Returns what recovery must run: each decision of the log, to be delivered again, and one
/// question to each participant about the branches that it holds. No participant is called until
/// the caller runs them.
pub(super) fn find(shared: &Arc<Shared>, records: &[Record], tally: &Arc<Tally>) -> Vec<Arc<dyn Driven>> {
    let now = shared.platform.now();
    let mut decided = HashSet::new();
    let mut runs: Vec<Arc<dyn Driven>> = Vec::new();
    for (txn, memory) in Remembered::all(records) {
        if memory.decision == Decision::Commit {
            decided.insert(txn.ordinal());
        }
        let key = Key::of(txn.ordinal());
        let owed = memory.owed.clone();
        let protocol = memory.resume(txn, shared.policy, now);
        let task = Task::resumed(Arc::clone(shared), protocol, key, now);
        shared.resumed(Arc::clone(&task), owed);
        runs.push(task);
    }
    tally.committed.store(decided.len(), Ordering::Relaxed);
    let decided = Arc::new(decided);
    let introductions = Introductions::new(shared.members.iter().count(), &shared.platform);
    introductions.wait_no_longer_than(shared);
    for (number, (name, member)) in (1..).zip(shared.members.iter()) {
        let query = Arc::new_cyclic(|this| InDoubtQuery {
            this: Weak::clone(this),
            shared: Arc::clone(shared),
            participant: name.clone(),
            number,
            member: member.clone(),
            decided: Arc::clone(&decided),
            failures: AtomicU32::new(0),
            ask_at: Mutex::new(now),
            answered: AtomicBool::new(false),
            last_error: Mutex::new(None),
            tally: Arc::clone(tally),
            introductions: Arc::clone(&introductions),
        });
        shared.in_doubt_query_begins(name.clone(), Arc::clone(&query));
        runs.push(query);
    }
    runs
}

/// Counts of what recovery has done so far.
#[derive(Debug, Default)]
pub(super) struct Tally {
    pub(super) committed: AtomicUsize,
    pub(super) rolled_back: AtomicUsize,
}

/// Asks one participant, until it answers, which branches it holds. Rolls back those of earlier
/// epochs without a decision in the log: presumed abort.
pub(super) struct InDoubtQuery {
    this: Weak<Self>,
    shared: Arc<Shared>,
    participant: Name,
    number: usize,
    member: Member,
    /// The decided transactions of the log when the coordinator was opened. Not those that are open
    /// now: a participant may have reported a branch just before its commit was delivered, and the
    /// transaction may have ended since.
    decided: Arc<HashSet<TxnOrdinal>>,
    failures: AtomicU32,
    /// Time at which to ask, or to ask again. A timer that fires earlier was set before the
    /// question was postponed.
    ask_at: Mutex<Instant>,
    /// Whether the participant has answered. Answers to repeated questions are ignored then.
    answered: AtomicBool,
    /// The participant's last error, if it has not answered.
    last_error: Mutex<Option<ParticipantError>>,
    tally: Arc<Tally>,
    introductions: Arc<Introductions>,
}

impl Driven for InDoubtQuery {
    fn run(self: Arc<Self>, by: By) {
        if self.answered.load(Ordering::Relaxed) || self.shared.platform.now() < *self.ask_at.lock() {
            return;
        }
        // An answer can get lost without any sign of it.
        self.ask_in(self.shared.policy.delivery_timeout);
        let request = Request::InDoubt { coordinator: self.shared.name.clone(), life: Some(self.shared.life) };
        let (member, lane) = (self.member.clone(), Arc::clone(&self.shared.lanes[self.number - 1]));
        // An endpoint that panics drops the reply, and is asked again.
        let ask = move || drop(catch_unwind(AssertUnwindSafe(|| member.send(request, Reply::to(self, 0)))));
        match by {
            By::Caller => ask(),
            // A repeated question comes much later, so it is never a duplicate in the lane.
            By::Worker => lane.run(None, move |_| ask()),
        }
    }
}

impl ReplySink for InDoubtQuery {
    fn deliver(self: Arc<Self>, _tag: usize, result: Result<Response, ParticipantError>) {
        let branches = match result {
            Ok(Response::InDoubt(branches)) => branches,
            Ok(_) => return self.again(),
            Err(error) => {
                if matches!(error, ParticipantError::OtherLog(_) | ParticipantError::Superseded(_)) {
                    self.introductions.refused(&self.participant);
                }
                *self.last_error.lock() = Some(error);
                return self.again();
            }
        };
        if self.answered.swap(true, Ordering::Relaxed) {
            return;
        }
        let orphans = self.orphans(branches);
        let introductions = Arc::clone(&self.introductions);
        introductions.accepted(Answer { query: self, orphans });
    }
}

/// A participant's report. It is acted on when all participants have answered, or when that has
/// taken too long.
pub(super) struct Answer {
    query: Arc<InDoubtQuery>,
    orphans: Vec<Arc<Task>>,
}

impl Answer {
    pub(super) fn participant(&self) -> &Name {
        &self.query.participant
    }

    pub(super) fn is_empty(&self) -> bool {
        self.orphans.is_empty()
    }

    /// Rolls back the reported branches without a decision.
    pub(super) fn settle(self, by: By) {
        let Self { query, orphans } = self;
        for task in &orphans {
            query.tally.rolled_back.fetch_add(1, Ordering::Relaxed);
            query.shared.resumed(Arc::clone(task), vec![query.participant.clone()]);
        }
        query.shared.in_doubt_query_ends(&query.participant);
        for task in orphans {
            match by {
                By::Caller => task.run(by),
                By::Worker => query.shared.driver.enqueue(task),
            }
        }
    }
}

impl InDoubtQuery {
    pub(super) const fn participant(&self) -> &Name {
        &self.participant
    }

    /// Ends the question, because the coordinator is gone.
    pub(super) fn abandon(&self) {
        self.introductions.give_up();
    }

    /// Whether the participant has answered. Its report may still wait for those of others.
    pub(super) fn is_answered(&self) -> bool {
        self.answered.load(Ordering::Relaxed)
    }

    pub(super) fn last_error(&self) -> Option<ParticipantError> {
        self.last_error.lock().clone()
    }

    fn again(&self) {
        let failures = self.failures.load(Ordering::Relaxed).saturating_add(1);
        self.failures.store(failures, Ordering::Relaxed);
        // The epoch's transaction 0, which does not exist, stands for the query in the jitter.
        let txn = TxnId::new(self.participant.clone(), self.shared.epoch, 0);
        self.ask_in(self.shared.policy.backoff(&txn, 0, failures));
    }

    fn ask_in(&self, pause: Duration) {
        let at = after(self.shared.platform.now(), pause);
        *self.ask_at.lock() = at;
        let this: Weak<dyn Driven> = self.this.clone();
        self.shared.driver.enqueue_at(at, this);
    }

    fn orphans(&self, branches: Vec<BranchId>) -> Vec<Arc<Task>> {
        let now = self.shared.platform.now();
        let mut orphans = BTreeMap::new();
        for branch in branches {
            let txn = branch.txn();
            let is_settled = self.decided.contains(&txn.ordinal());
            if txn.coordinator() != &self.shared.name || is_settled || branch.participant() != &self.participant {
                continue;
            }
            match self.shared.openings.standing_of(txn.ordinal(), self.shared.next_ordinal().sequence) {
                Standing::UnderWay => {}
                Standing::PresumedAborted => drop(orphans.insert(txn.ordinal(), branch)),
                Standing::Unclaimed => self.shared.unclaimed.report(&branch, now),
            }
        }
        let to_task = |branch: BranchId| {
            let participants = [self.participant.clone()];
            let protocol = CommitProtocol::presumed_abort(branch.txn().clone(), &participants, self.shared.policy, now);
            let key = Key { ordinal: branch.txn().ordinal(), reported_by: self.number };
            Task::resumed(Arc::clone(&self.shared), protocol, key, now)
        };
        orphans.into_values().map(to_task).collect()
    }
}
