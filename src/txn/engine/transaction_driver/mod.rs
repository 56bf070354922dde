//! [`TransactionDriver`]: one transaction under way, the thin driver around [`CommitProtocol`]. The
//! loop is in `drive`, and `state` has what it changes; what others read from it and tell it is here.
//!
//! It and [`CoordinatorCore`] call each other on the hot path; see there. Keep that pair together.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Poll, Waker},
    time::Instant,
};

use crossbeam_utils::CachePadded;
use parking_lot::{Mutex, MutexGuard};

use crate::{
    foreign,
    id::{BranchId, Name, TxnId},
    log::{Lsn, Takeover},
    participant::{Decision, ParticipantError, ReplySink, Response, Verdict},
    txn::{
        BranchError, BranchState, BranchStatus, CommitProtocol, Input, TransactionState, TransactionStatus,
        client::delivered::Delivery,
        engine::{
            breakers::Report,
            coordinator_core::{CoordinatorCore, CoreHandle},
            members::MemberStanding,
            observe::Watch,
            scheduler::{Runnable, Runner},
        },
        table::key::TxnKey,
    },
};

mod asking;
mod drive;
mod state;

use state::DriverState;
pub(in crate::txn) use state::{ExplainedOutcome, Progress, Reasons, Waiting};

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
    /// Whether it is the one new branch that an open circuit has let through.
    pub(in crate::txn) is_trial: bool,
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
            protocol.handle(since, if core.is_fenced() { Input::Fenced } else { Input::Rollback });
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
        let all = state.protocol.branches().enumerate();
        let (early, others): (Vec<_>, Vec<_>) = all.partition(|(index, _)| state.protocol.is_early(*index));
        let branches = early.into_iter().chain(others).map(|(index, (participant, branch, failures))| BranchStatus {
            participant: participant.clone(),
            state: branch,
            failures,
            last_error: error(index),
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

    /// Adds a branch, while the client works under it. Returns its index.
    pub(in crate::txn) fn enlist(&self, number: usize) -> Result<usize, BranchError> {
        let slot = &self.core.members[number];
        let name = &slot.name;
        let mut state = self.state.lock();
        if !state.protocol.is_active() || !state.inbox.is_empty() || self.core.is_fenced() {
            return Err(self.over());
        }
        // Under the lock: a retirement that begins later sees the branch.
        match slot.standing() {
            MemberStanding::Takes => {}
            MemberStanding::Retires => return Err(BranchError::Retiring { participant: name.clone() }),
            MemberStanding::Gone => return Err(BranchError::UnknownParticipant { participant: name.clone() }),
        }
        if slot.is_last_resource {
            let second = || BranchError::SecondLastResource { participant: name.clone() };
            let index = match slot.remembers {
                true => state.protocol.enlist_remembering_last_resource(name.clone()),
                false => state.protocol.enlist_last_resource(name.clone()),
            };
            return index.ok_or_else(second);
        }
        Ok(match slot.is_at_once {
            true => state.protocol.enlist(name.clone()),
            false => state.protocol.enlist_early(name.clone()),
        })
    }

    /// Whether the participant has a branch in it that has not ended there.
    pub(in crate::txn) fn concerns(&self, participant: &Name) -> bool {
        let state = self.state.lock();
        let mut branches = state.protocol.branches();
        branches.any(|(name, branch, _)| name == participant && branch != BranchState::Done)
    }

    /// Takes a branch out, while the client works under the transaction. Later branches move down by
    /// one index.
    pub(in crate::txn) fn withdraw(&self, index: usize) -> Result<(), BranchError> {
        let mut state = self.state.lock();
        if state.inbox.is_empty() && !self.core.is_fenced() && state.protocol.withdraw(index) {
            return Ok(());
        }
        Err(self.over())
    }

    /// Returns the error of a transaction that takes no more branches.
    fn over(&self) -> BranchError {
        let txn = self.txn.clone();
        match self.core.takeover().cloned() {
            Some(Takeover { holder }) => BranchError::Fenced { txn, holder },
            None => BranchError::Over { txn },
        }
    }

    /// Whether it is left to the new holder of the log.
    pub(in crate::txn) fn is_fenced(&self) -> bool {
        self.state.lock().protocol.is_fenced()
    }

    /// Notes that the log was taken over, and wakes all that wait. The holder of a `Commit` drives up
    /// to its answer: no other thread does any more.
    pub(in crate::txn) fn fence(&self) {
        self.take_from_client();
        let mut state = self.state.lock();
        state.fenced = true;
        if !state.driving {
            // The thread that drives looks by itself, after the answer that it waits for.
            state.inbox.push_back(Input::Fenced);
        }
        let waker = state.waker.take();
        let listeners = state.take_listeners();
        drop(state);
        wake_all(listeners);
        waker.into_iter().for_each(foreign::wake);
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
        let goes_on = state.goes_on();
        drop(state);
        drop(old);
        if is_new && goes_on {
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
        state.is_woken = false;
        let goes_on = state.goes_on();
        let (waker, over) = (state.waker.take(), state.protocol.is_finished());
        drop(state);
        foreign::drop_value(waker);
        if !over && goes_on {
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
        state.is_woken = false;
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

/// Where a transaction is driven for an input that no caller waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Driving {
    /// On a worker: the thread is a caller's or a transport's, and has its own work to do.
    Elsewhere,
    /// On this thread. That saves the wake-up of a worker.
    #[cfg_attr(not(feature = "tokio"), expect(dead_code, reason = "only tasks answer on threads of their own"))]
    Here,
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
        self.hear(branch, result, Driving::Elsewhere);
    }

    #[cfg(feature = "tokio")]
    fn deliver_here(self: Arc<Self>, branch: usize, result: Result<Response, ParticipantError>) {
        self.hear(branch, result, Driving::Here);
    }
}

impl TransactionDriver {
    fn hear(self: &Arc<Self>, branch: usize, result: Result<Response, ParticipantError>, driving: Driving) {
        let mut state = self.state.lock();
        let report = state.tickets.answered((self.key, branch), None, &self.core.members, None, &result);
        let input = state.hears(branch, result);
        self.take_in(state, input, report, driving);
    }

    /// Queues an input that came on another thread, and has the transaction driven.
    fn take_in(
        self: &Arc<Self>,
        mut state: MutexGuard<'_, DriverState>,
        input: Input,
        report: Option<Report>,
        driving: Driving,
    ) {
        state.inbox.push_back(input);
        let (is_driving, waker) = (state.driving, if state.driving { None } else { state.waker.take() });
        state.is_woken |= waker.is_some();
        // The holder of the `Commit` drives, for all that has come in until it does. One that does not is noticed by the sweep.
        let is_driven = state.is_woken && !state.is_listened_to();
        drop(state);
        if let Some(report) = report {
            self.core.report(report);
        }
        if is_driving {
            return;
        }
        match driving {
            _ if is_driven => {}
            Driving::Elsewhere => self.core.scheduler.enqueue(Arc::clone(self) as Arc<dyn Runnable>),
            // As a worker would: participants that may block are called on their lanes.
            Driving::Here => foreign::catch_panic(|| Arc::clone(self).run(Runner::Worker)),
        }
        if let Some(waker) = waker {
            foreign::wake(waker);
        }
    }
}
