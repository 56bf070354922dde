//! [`TransactionDriver`]: one transaction under way, the thin driver around [`CommitProtocol`]. The
//! loop is in `drive`; what others read from it and tell it is here. `drive` is a child because it
//! uses the private state.
//!
//! It and [`CoordinatorCore`] call each other on the hot path; see there. Keep that pair together.

use std::{
    collections::{BTreeMap, VecDeque},
    error::Error as StdError,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Poll, Waker},
    time::Instant,
};

use crossbeam_utils::CachePadded;
use parking_lot::Mutex;

use crate::{
    foreign,
    id::{BranchId, Name, TxnId},
    log::{Heuristic, LogError, Lsn},
    participant::{Decision, ParticipantError, ReplySink, Response, Verdict, Vote},
    txn::{
        BranchError, BranchState, BranchStatus, CommitProtocol, Input, Outcome, TransactionState, TransactionStatus,
        client::delivered::{Delivery, Listeners},
        engine::{
            breakers::Tickets,
            coordinator_core::{CoordinatorCore, CoreHandle},
            members::{Promises, Reach},
            observe::Watch,
            scheduler::Runnable,
        },
        table::{key::TxnKey, unsettled_ends::EndRecord},
    },
};

mod drive;

pub(in crate::txn) struct TransactionDriver {
    core: CoreHandle,
    txn: TxnId,
    key: TxnKey,
    /// Time at which it began, or was found in the log.
    since: Instant,
    /// Time at which it is rolled back if the client has not committed it.
    expires: Instant,
    /// Whether its client still owns it: works under it, and has neither committed nor dropped it.
    /// Then no other thread drives it.
    owned_by_client: AtomicBool,
    state: Mutex<DriverState>,
}

/// A branch with the number of its participant.
#[derive(Debug)]
pub(in crate::txn) struct MemberBranch {
    pub(in crate::txn) branch: BranchId,
    /// Number of its participant. A recovered transaction can name a participant that this opening
    /// does not have: it stays open and visible, and is tried again.
    pub(in crate::txn) member: Option<usize>,
}

struct DriverState {
    protocol: CommitProtocol,
    watch: Watch,
    /// Each branch, by its index. Empty until the transaction is first driven, and while a thread
    /// drives it.
    member_branches: Vec<MemberBranch>,
    inbox: VecDeque<Input>,
    /// Whether a thread is in `drive`. All other threads only queue inputs then.
    driving: bool,
    /// Whether that thread appends to the log, or is about to.
    appending: bool,
    /// Whether the coordinator is gone, and with it the threads that drive and keep time.
    abandoned: bool,
    /// Whether a `Commit` exists. Then its holder drives.
    driven_by_commit: bool,
    /// Waker of the `Commit`'s holder, for when there is something to drive.
    waker: Option<Waker>,
    /// Tasks and threads that wait until all branches have acknowledged, if there are any.
    listeners: Option<Box<Listeners>>,
    outcome: Option<Outcome>,
    /// What went wrong, if anything did.
    trouble: Option<Box<Trouble>>,
    /// The heuristic outcome, as far as it was known when the client got its answer.
    heuristic: Option<Heuristic>,
    /// Whether it waits for an operator, or did when it was last driven.
    parked: bool,
    /// Whether it counts as in flight, because its client has no answer.
    in_flight: bool,
    /// What the circuits know of its messages.
    tickets: Tickets,
    /// State of the record that ends the transaction.
    end: EndRecord,
    /// Number of the decision's record, once it is appended.
    decided: Lsn,
    /// The scheduler runs this transaction at this time or before.
    timer: Option<Instant>,
}

/// What went wrong with a transaction. Boxed, because nearly all transactions have none.
#[derive(Default)]
struct Trouble {
    reasons: Reasons,
    /// The last error of each branch that had one.
    last_errors: BTreeMap<usize, ParticipantError>,
}

/// What the client gets besides the outcome.
#[derive(Clone, Debug, Default)]
pub(in crate::txn) struct Reasons {
    /// The first error of a participant. If a vote failed, this is the reason of the rollback.
    pub(in crate::txn) participant_error: Option<ParticipantError>,
    /// The first branch that gave a reason for its No, with the reason.
    pub(in crate::txn) refusal: Option<(usize, Arc<dyn StdError + Send + Sync>)>,
    /// A branch with a participant that had not even begun the call at the time-out.
    pub(in crate::txn) not_begun: Option<(usize, ParticipantError)>,
    /// The log's last error.
    pub(in crate::txn) log_error: Option<LogError>,
}

impl DriverState {
    fn of(protocol: CommitProtocol, watch: Watch) -> Self {
        Self {
            protocol,
            watch,
            member_branches: Vec::new(),
            inbox: VecDeque::new(),
            driving: false,
            appending: false,
            abandoned: false,
            driven_by_commit: false,
            waker: None,
            listeners: None,
            outcome: None,
            trouble: None,
            heuristic: None,
            parked: false,
            in_flight: false,
            tickets: Tickets::default(),
            end: EndRecord::Unlogged,
            decided: Lsn::NONE,
            timer: None,
        }
    }

    /// Returns what it waits for while no thread drives it.
    fn waiting(&self) -> Waiting {
        if let Some(lsn) = self.protocol.awaits_durable() {
            Waiting::Durable(lsn)
        } else if self.protocol.is_finished() || self.protocol.is_indeterminate() {
            Waiting::Nothing
        } else {
            Waiting::Answers
        }
    }

    fn note(&mut self, branch: usize, error: ParticipantError) {
        let Trouble { reasons, last_errors } = &mut **self.trouble.get_or_insert_default();
        reasons.participant_error.get_or_insert_with(|| error.clone());
        if let ParticipantError::Refused(reason) = &error {
            reasons.refusal.get_or_insert_with(|| (branch, Arc::clone(reason)));
        }
        last_errors.insert(branch, error);
    }

    fn note_not_begun(&mut self, branch: usize, error: ParticipantError) {
        self.note(branch, error.clone());
        let Trouble { reasons, .. } = &mut **self.trouble.get_or_insert_default();
        reasons.not_begun.get_or_insert((branch, error));
    }

    fn note_of_log(&mut self, error: LogError) {
        self.trouble.get_or_insert_default().reasons.log_error = Some(error);
    }

    /// Takes in a branch's answer, and returns it in the protocol's terms.
    fn hears(&mut self, branch: usize, result: Result<Response, ParticipantError>) -> Input {
        self.watch.hears(branch, &result);
        match result {
            Ok(Response::Voted(vote)) => Input::Voted(branch, vote),
            Ok(Response::Done) => Input::Done(branch),
            Ok(Response::Decided(decision)) => Input::Decided(branch, decision),
            // These answer no question that a transaction asks.
            Ok(Response::InDoubt(_) | Response::Verdict { .. }) => Input::Failed(branch),
            Err(error) => {
                let input = match &error {
                    ParticipantError::UnknownBranch => Input::Unknown(branch),
                    ParticipantError::AlreadyCommitted => Input::AlreadyCommitted(branch),
                    ParticipantError::AlreadyRolledBack => Input::AlreadyRolledBack(branch),
                    ParticipantError::Heuristic(outcome) => Input::Heuristic(branch, *outcome),
                    ParticipantError::Refused(_) => self.no(branch),
                    _ => Input::Failed(branch),
                };
                self.note(branch, error);
                input
            }
        }
    }

    /// Returns a No with its reason, as the answer to what was asked. After the decision it answers
    /// nothing.
    fn no(&self, branch: usize) -> Input {
        match self.protocol.state() {
            TransactionState::Preparing => Input::Voted(branch, Vote::No),
            TransactionState::Delegated => Input::Decided(branch, Decision::Rollback),
            _ => Input::Failed(branch),
        }
    }

    /// Takes in what the log has said about a record's durability.
    fn learns(&mut self, lsn: Lsn, result: Result<(), LogError>) -> Input {
        match result {
            Ok(()) => Input::Durable(lsn),
            Err(error) => {
                self.note_of_log(error);
                Input::LogFailed
            }
        }
    }

    /// Returns the answer to the client, once it is known.
    fn explained_outcome(&self) -> Option<ExplainedOutcome> {
        self.outcome.or(self.is_lost().then_some(Outcome::Indeterminate)).map(|outcome| ExplainedOutcome {
            outcome,
            heuristic: self.heuristic,
            reasons: self.trouble.as_ref().map(|trouble| Box::new(trouble.reasons.clone())),
        })
    }

    /// Returns the branches that ended otherwise than decided, with the numbers of their participants.
    fn heuristic_branches(&self, members: &[MemberBranch]) -> Vec<(usize, usize)> {
        let branches = self.protocol.branches().zip(members).enumerate();
        let heuristic = branches.filter(|(_, ((_, state, _), _))| matches!(state, BranchState::Heuristic(_)));
        heuristic.filter_map(|(index, (_, at))| Some((index, at.member?))).collect()
    }

    /// Returns how the delivery of the decision has ended or stopped, once it has.
    fn delivery(&self) -> Option<Delivery> {
        let is_over = self.protocol.is_finished() || self.protocol.is_indeterminate();
        if (is_over || self.parked) && self.outcome.is_some() {
            if let (TransactionState::Parked(decision), false) = (self.protocol.state(), is_over) {
                return Some(Delivery::Parked(decision, self.protocol.owed().cloned().collect()));
            }
            let mut explained = self.explained_outcome()?;
            explained.heuristic = explained.heuristic.or_else(|| self.protocol.heuristic());
            return Some(Delivery::Told(Box::new(explained)));
        }
        self.abandoned.then_some(Delivery::Abandoned)
    }

    /// Whether a [`Delivered`](crate::txn::Delivered) waits. Then the workers drive, too, because
    /// the `Commit`'s holder may not.
    fn is_listened_to(&self) -> bool {
        self.listeners.as_ref().is_some_and(|listeners| !listeners.is_empty())
    }

    /// Takes out the listeners of the delivery, if there is something to tell them. The caller
    /// wakes them without a lock.
    fn take_listeners(&mut self) -> Vec<(u64, Waker)> {
        if !self.is_listened_to() || self.delivery().is_none() {
            return Vec::new();
        }
        self.listeners.as_mut().map(|listeners| listeners.take_all()).unwrap_or_default()
    }

    /// Whether its outcome will never be known here: the coordinator is gone, and the client cannot
    /// finish it alone. (A record that is on its way to the disk still tells the outcome.)
    fn is_lost(&self) -> bool {
        self.abandoned && self.waiting() == Waiting::Answers
    }
}

/// What a transaction that can't go on right now waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::txn) enum Waiting {
    /// This record must become durable.
    Durable(Lsn),
    /// Answers, or a time-out.
    Answers,
    /// Nothing: another thread drives it.
    OtherThread,
    /// Nothing: it has ended, or is indeterminate until the log is opened again.
    Nothing,
}

/// Progress of the transaction, as its client sees it.
#[derive(Debug)]
pub(in crate::txn) struct Progress {
    pub(in crate::txn) waiting: Waiting,
    pub(in crate::txn) explained: Option<ExplainedOutcome>,
}

/// The outcome with what is known of its reasons.
#[derive(Clone, Debug)]
pub(in crate::txn) struct ExplainedOutcome {
    pub(in crate::txn) outcome: Outcome,
    pub(in crate::txn) heuristic: Option<Heuristic>,
    pub(in crate::txn) reasons: Option<Box<Reasons>>,
}

impl TransactionDriver {
    /// Returns a client's transaction. One that was not admitted is rolled back before any work
    /// under it.
    pub(in crate::txn) fn begun(
        core: CoreHandle,
        txn: TxnId,
        since: Instant,
        expires: Instant,
        admitted: bool,
    ) -> Arc<Self> {
        let key = TxnKey::of(txn.ordinal());
        let watch = Watch::begun(&txn, since);
        let mut protocol = CommitProtocol::new(txn.clone(), core.policy);
        protocol.expires(expires);
        if !admitted {
            protocol.handle(since, Input::Rollback);
        }
        let mut state = DriverState::of(protocol, watch);
        state.in_flight = admitted;
        let (owned_by_client, state) = (AtomicBool::new(admitted), Mutex::new(state));
        Arc::new(Self { core, txn, key, since, expires, owned_by_client, state })
    }

    /// Returns a transaction of an earlier life, or the branch of one that a participant has
    /// reported.
    pub(in crate::txn) fn resumed(
        core: Arc<CoordinatorCore>,
        protocol: CommitProtocol,
        key: TxnKey,
        since: Instant,
    ) -> Arc<Self> {
        let txn = protocol.txn().clone();
        let watch = Watch::resumed(&txn, since);
        let (owned_by_client, state) = (AtomicBool::new(false), Mutex::new(DriverState::of(protocol, watch)));
        let core = Arc::new(CachePadded::new(core));
        Arc::new(Self { core, txn, key, since, expires: since, owned_by_client, state })
    }

    pub(in crate::txn) const fn txn(&self) -> &TxnId {
        &self.txn
    }

    pub(in crate::txn) const fn key(&self) -> TxnKey {
        self.key
    }

    pub(in crate::txn) fn core(&self) -> &Arc<CoordinatorCore> {
        &self.core
    }

    /// Whether its client still owns it; see [`take_from_client`](Self::take_from_client).
    pub(in crate::txn) fn is_owned_by_client(&self) -> bool {
        self.owned_by_client.load(Ordering::Acquire)
    }

    /// Takes the transaction over from its client, so that threads may drive it. Before this it
    /// must get no input. Returns `false` if it was taken over before, for example because it has
    /// expired. Two threads that ask at the same time may both get `true`.
    pub(in crate::txn) fn take_from_client(&self) -> bool {
        let was_clients = self.is_owned_by_client();
        self.owned_by_client.store(false, Ordering::Release);
        was_clients
    }

    /// Whether a thread may be appending one of its records to the log.
    pub(in crate::txn) fn is_appending(&self) -> bool {
        self.state.lock().appending
    }

    /// Returns the record that must become durable before it can go on, if it waits for one.
    pub(in crate::txn) fn awaits_durable(&self) -> Option<Lsn> {
        self.state.lock().protocol.awaits_durable()
    }

    /// Queues an input without driving.
    pub(in crate::txn) fn push(&self, input: Input) {
        self.state.lock().inbox.push_back(input);
    }

    /// Whether it is active: its client has neither committed nor rolled back.
    pub(in crate::txn) fn is_active(&self) -> bool {
        self.state.lock().protocol.is_active()
    }

    /// Returns the participant of the branch with this index.
    pub(in crate::txn) fn participant(&self, branch: usize) -> Option<Name> {
        self.state.lock().protocol.participant(branch).cloned()
    }

    /// Returns the participants that have not acknowledged its decision.
    pub(in crate::txn) fn owing(&self) -> Vec<Name> {
        self.state.lock().protocol.owing().cloned().collect()
    }

    /// Returns the index of this participant's branch, if it has not acknowledged the decision and
    /// is still told it.
    pub(in crate::txn) fn owing_of(&self, participant: &Name) -> Option<usize> {
        let state = self.state.lock();
        state.protocol.decision()?;
        let index = state.protocol.branch_of(participant)?;
        let (_, branch, _) = state.protocol.branches().nth(index)?;
        matches!(branch, BranchState::Told | BranchState::Failing | BranchState::KeptBack).then_some(index)
    }

    /// Returns the time at which it began, or was found in the log.
    pub(in crate::txn) const fn since(&self) -> Instant {
        self.since
    }

    /// Returns the time at which it is rolled back if the client has not committed it.
    pub(in crate::txn) const fn expires(&self) -> Instant {
        self.expires
    }

    /// Returns its state after the queued inputs. O(n) in the branches.
    pub(in crate::txn) fn state_to_come(&self) -> TransactionState {
        let state = self.state.lock();
        let mut protocol = state.protocol.clone();
        let now = self.core.platform.now();
        state.inbox.iter().for_each(|input| protocol.handle(now, *input));
        protocol.state()
    }

    /// Returns its status. No lock is held while a participant is called, so this never waits for
    /// one.
    pub(in crate::txn) fn status(&self, now: Instant) -> TransactionStatus {
        let state = self.state.lock();
        let error = |index| state.trouble.as_ref()?.last_errors.get(&index).cloned();
        let branches = state.protocol.branches().enumerate().map(|(index, (participant, branch, failures))| {
            BranchStatus { participant: participant.clone(), state: branch, failures, last_error: error(index) }
        });
        TransactionStatus {
            txn: state.protocol.txn().clone(),
            state: state.protocol.state(),
            age: now.saturating_duration_since(self.since),
            branches: branches.collect(),
        }
    }

    /// Returns the verdict for a participant that asks.
    pub(in crate::txn) fn verdict_for_participants(&self) -> Verdict {
        let state = self.state.lock();
        match (state.protocol.decision(), state.protocol.state()) {
            (Some(Decision::Commit), _) => Verdict::Commit,
            // All have acknowledged, so a participant that asks is late, as for an unknown
            // transaction.
            (Some(Decision::Rollback), _) | (None, TransactionState::Ended) => Verdict::Rollback,
            (None, _) => Verdict::Undecided,
        }
    }

    /// Adds a branch, while the client works under it. Returns its index; the indices of branches
    /// from there on grow by one.
    pub(in crate::txn) fn enlist(&self, number: usize) -> Result<usize, BranchError> {
        let (name, member) = &self.core.members[number];
        let mut state = self.state.lock();
        if !state.protocol.is_active() || !state.inbox.is_empty() {
            return Err(BranchError::Over { txn: self.txn.clone() });
        }
        match (member.promises, &member.reach) {
            (Promises::Cannot, _) => {
                if !state.protocol.enlist_last_resource(name.clone()) {
                    return Err(BranchError::SecondLastResource { participant: name.clone() });
                }
                Ok(state.protocol.branches().len() - 1)
            }
            (Promises::Can, Reach::Later(_)) => {
                state.protocol.enlist_first(name.clone());
                Ok(0)
            }
            (Promises::Can, Reach::AtOnce(_)) => Ok(state.protocol.enlist(name.clone())),
        }
    }

    /// Notes that the coordinator is gone, and wakes all that wait.
    pub(in crate::txn) fn abandon(&self) {
        let mut state = self.state.lock();
        state.abandoned = true;
        let waker = state.waker.take();
        let listeners = state.take_listeners();
        drop(state);
        wake_all(listeners);
        if let Some(waker) = waker {
            foreign::wake(waker);
        }
    }

    /// Returns how the delivery has ended or stopped; or registers `waker`, to be woken then.
    /// `listener` is the caller's number, once it has one.
    pub(in crate::txn) fn delivery(self: &Arc<Self>, listener: &mut Option<u64>, waker: &Waker) -> Poll<Delivery> {
        let waker = waker.clone(); // foreign code, and so is its drop: neither under the lock
        let mut state = self.state.lock();
        if let Some(delivery) = state.delivery() {
            return Poll::Ready(delivery);
        }
        let is_new = listener.is_none();
        let old = state.listeners.get_or_insert_default().put(listener, waker);
        drop(state);
        drop(old);
        if is_new {
            // From here on the workers drive what was left to the holder of the `Commit`.
            self.core.scheduler.enqueue(Arc::clone(self) as Arc<dyn Runnable>);
        }
        Poll::Pending
    }

    /// Removes a listener of the delivery.
    pub(in crate::txn) fn forget_listener(&self, listener: u64) {
        let mut state = self.state.lock();
        let waker = state.listeners.as_mut().and_then(|listeners| listeners.take(listener));
        drop(state);
        drop(waker);
    }

    /// Notes that the `Commit` was dropped. The workers drive the rest.
    pub(in crate::txn) fn leave(self: &Arc<Self>) {
        let mut state = self.state.lock();
        state.driven_by_commit = false;
        let (waker, over) = (state.waker.take(), state.protocol.is_finished());
        drop(state);
        foreign::drop_value(waker);
        if !over {
            self.core.scheduler.enqueue(Arc::clone(self) as Arc<dyn Runnable>);
        }
    }

    /// Registers `waker`, to be woken when there is something to drive, or the outcome is known; or
    /// returns that this is so already. `seen` is what the caller last saw the transaction wait
    /// for.
    pub(in crate::txn) fn wake_later(&self, waker: &Waker, seen: Waiting) -> Wakeable {
        // Cloned, and the old one dropped, while no lock is held.
        let waker = waker.clone();
        let mut state = self.state.lock();
        let moved_on = !state.driving && (!state.inbox.is_empty() || state.waiting() != seen);
        if state.outcome.is_some() || state.is_lost() || moved_on {
            return Wakeable::Now;
        }
        let old = state.waker.replace(waker);
        drop(state);
        foreign::drop_value(old);
        Wakeable::Later
    }

    /// Queues the transaction for the workers, if it has inputs and no thread drives it: no thread
    /// was woken for them, or the one that was woken has not come to drive.
    pub(in crate::txn) fn nudge(self: &Arc<Self>, durable: Lsn) {
        let mut state = self.state.lock();
        if state.protocol.awaits_durable().is_some_and(|lsn| lsn <= durable) {
            state.inbox.push_back(Input::Durable(durable));
        }
        if state.driving || state.inbox.is_empty() {
            return;
        }
        drop(state);
        self.core.scheduler.enqueue(Arc::clone(self) as Arc<dyn Runnable>);
    }

    fn take_waker(&self) -> Option<Waker> {
        self.state.lock().waker.take()
    }

    /// Whether only the holder of the `Commit` waits for the record.
    fn is_driven_by_commit(&self) -> bool {
        let state = self.state.lock();
        state.driven_by_commit && !state.is_listened_to()
    }
}

/// Wakes all listeners. Wakers are foreign code: one that panics must not keep the others from
/// being woken.
fn wake_all(listeners: Vec<(u64, Waker)>) {
    listeners.into_iter().for_each(|(_, waker)| foreign::wake(waker));
}

/// Whether there is something to do now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::txn) enum Wakeable {
    Now,
    Later,
}

impl ReplySink for TransactionDriver {
    fn is_awaited(&self) -> bool {
        !self.core.is_gone()
    }

    fn deliver(self: Arc<Self>, branch: usize, result: Result<Response, ParticipantError>) {
        let mut state = self.state.lock();
        let report = state.tickets.answered((self.key, branch), None, &self.core.breakers, None, &result);
        let input = state.hears(branch, result);
        state.inbox.push_back(input);
        let (driving, waker) = (state.driving, if state.driving { None } else { state.waker.take() });
        let is_driven = waker.is_some() && !state.is_listened_to();
        drop(state);
        if let Some(report) = report {
            self.core.report(report);
        }
        if driving {
            return;
        }
        if !is_driven {
            self.core.scheduler.enqueue(Arc::clone(&self) as Arc<dyn Runnable>);
        }
        if let Some(waker) = waker {
            foreign::wake(waker);
        }
    }
}
