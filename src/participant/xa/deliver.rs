//! A coordinator's messages: [`BranchProtocol`](crate::participant::BranchProtocol) decides what they
//! do, this has the database carry it out.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Instant,
};

use thiserror::Error;

use super::{
    AsXa, Inner, XaBackend, XaErrorKind, XaOutcome, XaVote, XaWorkError,
    cell::{HeldSession, XaCell, is_promised},
};
use crate::{
    id::{BranchId, Name},
    log::{Heuristic, Lsn},
    participant::{
        AsyncParticipant, BranchAction, BranchInput, BranchPhase, BranchRefusal, BranchReply, Call, CommitVerb,
        Decision, Effort, Greeting, Life, LogSharing, ParticipantError, Vote,
        answers::{after_the_end, answer},
        branch_table::BranchLookup,
    },
};

/// The database is the participant's log: what it has answered is durable. The protocol counts
/// records; this one stands for each.
const WRITTEN: Lsn = Lsn::new(1);

/// A client still has the branch.
#[derive(Debug, Error)]
#[error("work is still under way under the branch: drop what `branch` returned before the transaction commits")]
struct AtWork;

/// The participant is registered as an ordinary one.
#[derive(Debug, Error)]
#[error(
    "this participant was opened as a last resource, and makes no promises: register it with async_last_resource, or \
     open it as an ordinary participant"
)]
struct NotToPromise;

impl<P: AsXa> AsyncParticipant for P {
    async fn prepare(&self, branch: &BranchId, call: &Call) -> Result<Vote, ParticipantError> {
        match self.as_xa().0.deliver(branch, call, BranchInput::Prepare(LogSharing::OwnLog)).await? {
            BranchReply::Voted(vote) => Ok(vote),
            _ => Err(ParticipantError::Stale),
        }
    }

    async fn commit(&self, branch: &BranchId, call: &Call) -> Result<(), ParticipantError> {
        self.as_xa().0.deliver(branch, call, BranchInput::Commit(LogSharing::OwnLog)).await.map(drop)
    }

    async fn rollback(&self, branch: &BranchId, call: &Call) -> Result<(), ParticipantError> {
        self.as_xa().0.deliver(branch, call, BranchInput::Rollback(LogSharing::OwnLog)).await.map(drop)
    }

    async fn commit_one_phase(&self, branch: &BranchId, call: &Call) -> Result<Decision, ParticipantError> {
        match self.as_xa().0.deliver(branch, call, BranchInput::CommitOnePhase).await? {
            BranchReply::Decided(decision) => Ok(decision),
            _ => Err(ParticipantError::Stale),
        }
    }

    async fn in_doubt(&self, coordinator: &Name) -> Result<Vec<BranchId>, ParticipantError> {
        self.as_xa().0.in_doubt(coordinator).await
    }

    async fn meet(&self, coordinator: &Name, life: &Life) -> Result<(), ParticipantError> {
        self.as_xa().0.branches.lock().meet(coordinator, life)?;
        self.as_xa().0.note_life(coordinator, *life).await
    }

    fn own_name(&self) -> Option<Name> {
        Some(self.as_xa().0.name.clone())
    }

    fn can_promise(&self) -> bool {
        !self.as_xa().0.is_last_resource
    }

    fn is_transient(&self, error: &(dyn std::error::Error + 'static)) -> bool {
        matches!(error.downcast_ref(), Some(XaWorkError::TooManyPromises { .. }))
            || self.as_xa().0.backend.is_transient(error)
    }

    fn greet(&self, greeting: &Greeting) {
        self.as_xa().0.branches.lock().greet(greeting);
    }
}

impl<B: XaBackend> Inner<B> {
    /// Returns the branches of this coordinator that have not ended. Ends the sessions of its earlier
    /// lives first, which could promise something after the answer.
    async fn in_doubt(&self, coordinator: &Name) -> Result<Vec<BranchId>, ParticipantError> {
        let life = self.branches.lock().life_of(coordinator);
        if let Some(life) = life {
            self.backend.fence_earlier(coordinator, life.epoch).await.map_err(ParticipantError::resource)?;
        }
        let promises = self.backend.promises(coordinator).await.map_err(ParticipantError::resource)?;
        let mut named: Vec<_> = promises.into_iter().map(|promise| promise.branch).collect();
        let entries = self.branches.lock().of(coordinator);
        for (txn, cell) in entries {
            let state = cell.state.lock();
            if !state.protocol.is_finished() && state.protocol.phase() != BranchPhase::Unknown {
                named.push(txn.branch(&self.name));
            }
        }
        named.sort_unstable();
        named.dedup();
        Ok(named)
    }

    /// Makes durable which life of the coordinator was met, before anything is done or answered for
    /// it. One statement for each opening of a coordinator.
    pub(super) async fn note_life(&self, coordinator: &Name, life: Life) -> Result<(), ParticipantError> {
        let Some(present) = self.branches.lock().unnoted_life_of(coordinator, |_| false) else { return Ok(()) };
        // The message also says what the life continues; if it is one of another life, that is not known.
        let life = if (life.log, life.epoch) == (present.log, present.epoch) { life } else { present };
        let write = |life, before: Option<Life>| async move {
            self.backend.note_life(coordinator, &life, before.as_ref()).await
        };
        self.notes.note(coordinator, life, write, || self.backend.lives()).await?;
        drop(self.branches.lock().noted(coordinator, life.epoch));
        Ok(())
    }

    /// Puts a coordinator's message to the branch, and carries out what follows from it, up to the
    /// reply.
    async fn deliver(
        &self,
        branch: &BranchId,
        call: &Call,
        message: BranchInput,
    ) -> Result<BranchReply, ParticipantError> {
        self.check_name(branch)?;
        let (lookup, begins_at, is_unnoted) = self.branches.lock().called(branch.txn(), call)?;
        if is_unnoted {
            self.note_life(branch.txn().coordinator(), call.life()).await?;
        }
        let (cell, is_remembered) = match lookup {
            BranchLookup::Found(cell) => (cell, true),
            // An operator ends transactions of a log that the coordinator's present one replaces. Their
            // epochs may be later ones, and `ended_below` of the present log may have passed them. No
            // other message comes for them.
            BranchLookup::Ended { .. } if !matches!(message, BranchInput::Commit(_) | BranchInput::Rollback(_)) => {
                return Err(after_the_end(message));
            }
            BranchLookup::UnknownLife { .. }
                if !matches!(message, BranchInput::Commit(_) | BranchInput::Rollback(_)) =>
            {
                return Err(ParticipantError::Stale);
            }
            // All that can be known of it is in the database.
            BranchLookup::Ended { .. } | BranchLookup::EarlierLife { .. } | BranchLookup::UnknownLife { .. } => {
                (Arc::default(), false)
            }
        };
        if matches!(message, BranchInput::Prepare(_)) && self.is_last_resource {
            cell.refuse(|| Arc::new(NotToPromise));
        }
        self.check_work(branch, &cell, begins_at, message).await?;
        self.drop_late_work(branch, &cell, begins_at, message).await;
        let before = cell.phase_now();
        let result = self.deliver_to(branch, &cell, call.position, message).await;
        // A cell that is not remembered would be counted at each message, and never discounted.
        if is_remembered {
            self.count(&cell);
        }
        let result = with_reason(result, &cell, before);
        if cell.phase_now() == BranchPhase::Unknown {
            self.branches.lock().discard_unknown(branch.txn(), cell);
        }
        self.sweep_if_due(branch.txn().coordinator()).await;
        result
    }

    pub(super) fn check_name(&self, branch: &BranchId) -> Result<(), ParticipantError> {
        if branch.participant() == &self.name {
            return Ok(());
        }
        Err(ParticipantError::Misrouted { branch: Box::new(branch.clone()), participant: self.name.clone() })
    }

    /// Delivers a message to a branch. `position` is how far the coordinator's log has come.
    async fn deliver_to(
        &self,
        branch: &BranchId,
        cell: &Arc<XaCell<B>>,
        position: u64,
        message: BranchInput,
    ) -> Result<BranchReply, ParticipantError> {
        match cell.try_hold() {
            Some(mut session) => self.deliver_held(branch, cell, &mut session, position, message).await,
            None if !cell.is_at_work() => Err(ParticipantError::Busy),
            None => self.deliver_at_work(branch, cell, message).await,
        }
    }

    /// Delivers a message while a client has the branch.
    pub(super) async fn deliver_at_work(
        &self,
        branch: &BranchId,
        cell: &Arc<XaCell<B>>,
        message: BranchInput,
    ) -> Result<BranchReply, ParticipantError> {
        if !matches!(message, BranchInput::Rollback(_)) {
            cell.refuse(|| Arc::new(AtWork));
            if matches!(message, BranchInput::Prepare(_) | BranchInput::CommitOnePhase) {
                // No message follows a No, so the branch is over. Its session ends when the client drops it.
                roll_back_at_work(cell, message)?;
            }
            return Err(ParticipantError::refused(AtWork));
        }
        if !cell.doom() {
            // The client's statement ends with an error, and the client gives the session back.
            let interrupt = cell.interrupt.lock().take();
            if let Some(interrupt) = interrupt {
                self.backend.interrupt(interrupt).await;
            }
            return Err(ParticipantError::Busy);
        }
        // The client has had its time. The session is ended at the server.
        self.backend.fence(branch).await.map_err(ParticipantError::resource)?;
        roll_back_at_work(cell, message)
    }

    pub(super) async fn deliver_held(
        &self,
        branch: &BranchId,
        cell: &Arc<XaCell<B>>,
        session: &mut HeldSession<B>,
        position: u64,
        message: BranchInput,
    ) -> Result<BranchReply, ParticipantError> {
        if cell.is_doomed() {
            cell.refuse(|| Arc::new(BranchRefusal::RolledBack));
        }
        match cell.phase_now() {
            // The branch may be one of an earlier life of this process, or of another process.
            BranchPhase::Unknown => self.recall(branch, cell, message).await?,
            // Work came, and has no session: the database could not begin it, or it came late. An earlier life of this process
            // may have promised all the same.
            BranchPhase::Active { .. } if session.is_none() => self.recall(branch, cell, message).await?,
            // The answer to a one-phase commit was lost.
            BranchPhase::Committing { .. } => {
                let input = self.look_up_commit(branch, cell).await?;
                let _settled = self.carry_out(branch, cell, session, input).await;
            }
            _ => {}
        }
        // The database has the position under which it was promised; a repeated message must not change it here.
        if let (BranchInput::Prepare(_), BranchPhase::Active { .. }) = (message, cell.phase_now()) {
            let known = self.branches.lock().life_of(branch.txn().coordinator()).map_or(0, |life| life.position);
            cell.state.lock().position = known.max(position);
        }
        self.carry_out(branch, cell, session, message).await
    }

    /// Takes in what the database knows of a branch of which this process knows nothing.
    async fn recall(
        &self,
        branch: &BranchId,
        cell: &Arc<XaCell<B>>,
        message: BranchInput,
    ) -> Result<(), ParticipantError> {
        let mut outcome = self.backend.outcome(branch).await.map_err(ParticipantError::resource)?;
        if outcome == XaOutcome::Unknown && !matches!(message, BranchInput::Commit(_)) {
            // A session of an earlier life of this process may be in the middle of a promise or of a one-phase commit. The
            // answer now will be that there is none.
            self.backend.fence(branch).await.map_err(ParticipantError::resource)?;
            outcome = self.backend.outcome(branch).await.map_err(ParticipantError::resource)?;
        }
        let mut state = cell.state.lock();
        match outcome {
            XaOutcome::Promised(promise) => {
                state.protocol = crate::participant::BranchProtocol::recovered_prepared();
                state.position = promise.position;
            }
            XaOutcome::Committed => {
                state.protocol = crate::participant::BranchProtocol::recovered_committed();
                state.protocol.handle(BranchInput::Commit(LogSharing::OwnLog));
                state.protocol.handle(BranchInput::Confirmed);
            }
            XaOutcome::Unknown => {}
        }
        Ok(())
    }

    /// Finds out how a one-phase commit ended whose answer was lost.
    async fn look_up_commit(&self, branch: &BranchId, cell: &Arc<XaCell<B>>) -> Result<BranchInput, ParticipantError> {
        self.backend.fence(branch).await.map_err(ParticipantError::resource)?;
        let outcome = self.backend.outcome(branch).await.map_err(ParticipantError::resource)?;
        cell.state.lock().is_lost = false;
        Ok(match outcome {
            XaOutcome::Committed => BranchInput::Appended(WRITTEN),
            XaOutcome::Promised(_) | XaOutcome::Unknown => BranchInput::Unwritable,
        })
    }

    /// Runs the protocol from one input to its reply: has the database carry out each action, and
    /// feeds its result back in.
    async fn carry_out(
        &self,
        branch: &BranchId,
        cell: &Arc<XaCell<B>>,
        session: &mut HeldSession<B>,
        input: BranchInput,
    ) -> Result<BranchReply, ParticipantError> {
        let (mut input, mut error) = (input, None);
        let mut is_committed = matches!(input, BranchInput::Appended(_));
        loop {
            let (before, action) = {
                let mut state = cell.state.lock();
                (state.protocol.phase(), state.protocol.handle(input))
            };
            let Some(action) = action else { return Err(ParticipantError::Stale) };
            input = match action {
                BranchAction::Reply(reply) => return answer(reply, error),
                BranchAction::AwaitDurable(lsn) => BranchInput::Durable(lsn),
                BranchAction::AppendPrepared(_) => self.promise(branch, cell, session).await?,
                BranchAction::AppendCommitted { verb: CommitVerb::OnePhase, .. }
                    if matches!(before, BranchPhase::Active { .. }) =>
                {
                    is_committed = true;
                    self.commit_alone(branch, cell, session).await?
                }
                // The database commits and writes this in one step.
                BranchAction::AppendCommitted { .. } | BranchAction::AppendEnded(_) => BranchInput::Appended(WRITTEN),
                BranchAction::Confirm if is_committed => BranchInput::Confirmed,
                BranchAction::Confirm => match self.confirm(branch, cell, session).await {
                    Ok(()) => BranchInput::Confirmed,
                    Err(failure) => {
                        error = Some(failure);
                        BranchInput::Failed
                    }
                },
                BranchAction::Cancel => match self.cancel(branch, cell, session, before).await {
                    Ok(()) => BranchInput::Cancelled,
                    Err(failure) => {
                        error = Some(failure);
                        BranchInput::Failed
                    }
                },
            };
        }
    }

    /// Has the database make the promise.
    async fn promise(
        &self,
        branch: &BranchId,
        cell: &Arc<XaCell<B>>,
        session: &mut HeldSession<B>,
    ) -> Result<BranchInput, ParticipantError> {
        let promise = cell.promise(branch);
        // If this future is dropped, the answer is lost as well.
        cell.state.lock().is_lost = true;
        let result = self.backend.prepare(&promise, session).await;
        let mut state = cell.state.lock();
        match result {
            Ok(XaVote::Promised) => {
                (state.is_lost, state.promised_at) = (false, Some(Instant::now()));
                Ok(BranchInput::Appended(WRITTEN))
            }
            Ok(XaVote::ReadOnly) => {
                state.is_lost = false;
                Ok(BranchInput::ChangedNothing)
            }
            // The coordinator rolls back, and the rollback fences the session.
            Err(error) if error.kind() == XaErrorKind::Lost => Err(ParticipantError::resource(error)),
            Err(error) => {
                state.is_lost = false;
                state.refusal.get_or_insert_with(|| Arc::new(error));
                Ok(BranchInput::AppendRefused)
            }
        }
    }

    /// Has the database commit without a promise.
    async fn commit_alone(
        &self,
        branch: &BranchId,
        cell: &Arc<XaCell<B>>,
        session: &mut HeldSession<B>,
    ) -> Result<BranchInput, ParticipantError> {
        cell.state.lock().is_lost = true;
        match self.backend.commit_one_phase(branch, session).await {
            Ok(()) => {
                cell.state.lock().is_lost = false;
                Ok(BranchInput::Appended(WRITTEN))
            }
            Err(error) if error.kind() == XaErrorKind::Lost => self.look_up_commit(branch, cell).await,
            Err(error) => {
                let mut state = cell.state.lock();
                state.is_lost = false;
                state.refusal.get_or_insert_with(|| Arc::new(error));
                Ok(BranchInput::Unwritable)
            }
        }
    }

    /// Has the database commit what was promised.
    async fn confirm(
        &self,
        branch: &BranchId,
        cell: &Arc<XaCell<B>>,
        session: &mut HeldSession<B>,
    ) -> Result<(), ParticipantError> {
        let promise = cell.promise(branch);
        let Err(error) = self.backend.commit_prepared(&promise, session).await else { return Ok(()) };
        if error.kind() != XaErrorKind::NotThere {
            return Err(ParticipantError::resource(error));
        }
        match self.backend.outcome(branch).await.map_err(ParticipantError::resource)? {
            XaOutcome::Committed => Ok(()),
            XaOutcome::Promised(_) => Err(ParticipantError::Busy),
            // The promise was there and is gone without a trace: an operator has rolled it back.
            XaOutcome::Unknown => Err(ParticipantError::Heuristic(Heuristic::RolledBack)),
        }
    }

    /// Has the database undo the branch.
    async fn cancel(
        &self,
        branch: &BranchId,
        cell: &Arc<XaCell<B>>,
        session: &mut HeldSession<B>,
        before: BranchPhase,
    ) -> Result<(), ParticipantError> {
        // A promise that the database has refused is none.
        let is_refused = matches!(before, BranchPhase::Preparing { .. }) && !cell.state.lock().is_lost;
        let is_promised = is_promised(before) && !is_refused;
        if !is_promised || (session.is_some() && !matches!(before, BranchPhase::Prepared)) {
            if let Some(session) = session.take() {
                self.backend.rollback(branch, session).await;
            }
            if !is_promised {
                return Ok(());
            }
        }
        if cell.state.lock().is_lost {
            self.backend.fence(branch).await.map_err(ParticipantError::resource)?;
        }
        let promise = cell.promise(branch);
        if let Err(error) = self.backend.rollback_prepared(&promise, session).await {
            if error.kind() != XaErrorKind::NotThere {
                return Err(ParticipantError::resource(error));
            }
            match self.backend.outcome(branch).await.map_err(ParticipantError::resource)? {
                XaOutcome::Unknown => {}
                XaOutcome::Promised(_) => return Err(ParticipantError::Busy),
                XaOutcome::Committed => return Err(ParticipantError::AlreadyCommitted),
            }
        }
        cell.state.lock().is_lost = false;
        Ok(())
    }

    /// Counts the branch's promise, or no longer. A call that was dropped in the middle has not counted; the next one does.
    pub(super) fn count(&self, cell: &XaCell<B>) {
        let mut state = cell.state.lock();
        let is_promised = is_promised(state.protocol.phase());
        match (state.is_counted, is_promised) {
            (false, true) => drop(self.promises.fetch_add(1, Ordering::SeqCst)),
            (true, false) => drop(self.promises.fetch_sub(1, Ordering::SeqCst)),
            _ => {}
        }
        state.is_counted = is_promised;
    }
}

/// Ends a branch that has promised nothing, while a client still has its session.
fn roll_back_at_work<B: XaBackend>(cell: &XaCell<B>, message: BranchInput) -> Result<BranchReply, ParticipantError> {
    let mut state = cell.state.lock();
    if !cell.is_at_work() {
        // The client is just giving the session back, to be ended by the next message.
        return Err(ParticipantError::Busy);
    }
    let mut input = message;
    while let Some(action) = state.protocol.handle(input) {
        input = match action {
            BranchAction::Reply(reply) => return answer(reply, None),
            BranchAction::Cancel => BranchInput::Cancelled,
            BranchAction::AwaitDurable(lsn) => BranchInput::Durable(lsn),
            _ => BranchInput::Appended(WRITTEN),
        };
    }
    Err(ParticipantError::Stale)
}

/// Adds the reason to a No. `before` is the phase of the branch when it was asked.
fn with_reason<B: XaBackend>(
    result: Result<BranchReply, ParticipantError>,
    cell: &XaCell<B>,
    before: BranchPhase,
) -> Result<BranchReply, ParticipantError> {
    match result {
        Ok(BranchReply::Voted(Vote::No) | BranchReply::Decided(Decision::Rollback)) => {
            let mut state = cell.state.lock();
            let reason = state.refusal.get_or_insert_with(|| {
                Arc::new(match before {
                    BranchPhase::Unknown => BranchRefusal::Unknown,
                    BranchPhase::Active { effort: Effort::Update, .. } => BranchRefusal::LostWork,
                    _ => BranchRefusal::RolledBack,
                })
            });
            Err(ParticipantError::Refused(Arc::clone(reason)))
        }
        result => result,
    }
}
