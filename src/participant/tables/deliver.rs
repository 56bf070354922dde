//! A coordinator's messages: [`BranchProtocol`](crate::participant::BranchProtocol) decides what they
//! do, and all of it is one transaction of the database.

use std::{error::Error as StdError, sync::Arc};

use super::{
    AsyncService, BranchRow, Inner, Keep, RowState, ServiceFailure, TableBackend, TableParticipant, may_repeat,
    read_works,
};
use crate::{
    id::{BranchId, Name, TxnOrdinal},
    log::{LogId, Lsn},
    participant::{
        AsyncParticipant, BranchAction, BranchInput, BranchRefusal, BranchReply, Call, Decision, Life, LogSharing,
        ParticipantError, Vote,
        answers::{after_the_end, answer},
        branch_table::sweep_due,
        xa::XaError,
    },
};

/// The row is the participant's log; the protocol counts records, and this one stands for each.
const WRITTEN: Lsn = Lsn::new(1);

/// Number of a coordinator's transactions after which the rows of those that have ended are deleted.
const SWEEP_EVERY: u64 = 512;

impl<B: TableBackend, S: AsyncService<B::Tx>> AsyncParticipant for TableParticipant<B, S> {
    async fn prepare(&self, branch: &BranchId, call: &Call) -> Result<Vote, ParticipantError> {
        match self.0.deliver(branch, call, BranchInput::Prepare(LogSharing::OwnLog)).await? {
            BranchReply::Voted(vote) => Ok(vote),
            _ => Err(ParticipantError::Stale),
        }
    }

    async fn commit(&self, branch: &BranchId, call: &Call) -> Result<(), ParticipantError> {
        self.0.deliver(branch, call, BranchInput::Commit(LogSharing::OwnLog)).await.map(drop)
    }

    async fn rollback(&self, branch: &BranchId, call: &Call) -> Result<(), ParticipantError> {
        self.0.deliver(branch, call, BranchInput::Rollback(LogSharing::OwnLog)).await.map(drop)
    }

    async fn commit_one_phase(&self, branch: &BranchId, call: &Call) -> Result<Decision, ParticipantError> {
        match self.0.deliver(branch, call, BranchInput::CommitOnePhase).await? {
            BranchReply::Decided(decision) => Ok(decision),
            _ => Err(ParticipantError::Stale),
        }
    }

    async fn in_doubt(&self, coordinator: &Name) -> Result<Vec<BranchId>, ParticipantError> {
        let rows = self.0.backend.open_rows(coordinator).await.map_err(ParticipantError::resource)?;
        Ok(rows.into_iter().map(|(branch, _)| branch).collect())
    }

    async fn meet(&self, coordinator: &Name, life: &Life) -> Result<(), ParticipantError> {
        self.0.met(coordinator, life)?;
        self.0.note_life(coordinator, *life).await
    }

    fn own_name(&self) -> Option<Name> {
        Some(self.0.name.clone())
    }

    fn is_transient(&self, error: &(dyn StdError + 'static)) -> bool {
        self.0.is_transient(error)
    }
}

impl<B: TableBackend, S: AsyncService<B::Tx>> Inner<B, S> {
    /// Makes durable which life of the coordinator was met, before anything is done or answered for
    /// it.
    async fn note_life(&self, coordinator: &Name, life: Life) -> Result<(), ParticipantError> {
        if life.log == LogId::NONE {
            return Ok(()); // the message says nothing of its coordinator
        }
        let write = |life, before: Option<Life>| async move {
            self.backend.note_life(coordinator, &life, before.as_ref()).await
        };
        self.notes.note(coordinator, life, write, || self.backend.lives()).await
    }

    /// Takes in what the call says of its coordinator. Returns how far the coordinator's log is as far
    /// as that is known, and whether the branch's transaction has ended.
    fn called(&self, branch: &BranchId, call: &Call) -> Result<(u64, bool), ParticipantError> {
        let coordinator = branch.txn().coordinator();
        let mut coordinators = self.coordinators.lock();
        let known = coordinators.entry(coordinator.clone()).or_default();
        known.life.hear(coordinator, call)?;
        known.ended_below = known.ended_below.max(call.ended_below);
        Ok((known.life.life().position.max(call.position), branch.txn().ordinal() < known.ended_below))
    }

    async fn deliver(
        &self,
        branch: &BranchId,
        call: &Call,
        message: BranchInput,
    ) -> Result<BranchReply, ParticipantError> {
        if branch.participant() != &self.name {
            return Err(ParticipantError::Misrouted {
                branch: Box::new(branch.clone()),
                participant: self.name.clone(),
            });
        }
        let (position, has_ended) = self.called(branch, call)?;
        self.note_life(branch.txn().coordinator(), call.life()).await?;
        // An operator's decision may come for a promise to a lost log, whose row is still open.
        if has_ended && !matches!(message, BranchInput::Commit(_) | BranchInput::Rollback(_)) {
            return Err(after_the_end(message));
        }
        let mut tries = 1;
        let result = loop {
            match self.carry_out(branch, message, position).await {
                Err(Failure::Database(error)) if may_repeat(&error, tries) => tries += 1,
                Err(Failure::Database(error)) => break Err(ParticipantError::resource(error)),
                Err(Failure::Answer(error)) => break Err(error),
                Ok(reply) => break Ok(reply),
            }
        };
        self.sweep_if_due(branch.txn().coordinator()).await;
        result
    }

    /// Carries out a message in one transaction of the database.
    async fn carry_out(&self, branch: &BranchId, message: BranchInput, position: u64) -> Result<BranchReply, Failure> {
        let begun = self.backend.begin().await;
        let mut tx = begun.map_err(|error| Failure::Answer(ParticipantError::resource(error)))?;
        let done = self.carry_out_in(&mut tx, branch, message, position).await;
        let is_changed = matches!(done, Ok((_, Keep::All)));
        let reply = self.end(tx, done).await?;
        if is_changed {
            self.doomed.lock().remove(branch);
        }
        reply.map_err(Failure::Answer)
    }

    /// Carries out a message in this transaction. A No is an answer that changes the row, so it is no
    /// failure.
    async fn carry_out_in(
        &self,
        tx: &mut B::Tx,
        branch: &BranchId,
        message: BranchInput,
        position: u64,
    ) -> Result<(Result<BranchReply, ParticipantError>, Keep), Failure> {
        let mut row = self.backend.row(tx, branch).await?;
        if let (Some(row), Some(reason)) = (&mut row, self.doomed.lock().get(branch))
            && row.state == RowState::Reserved
        {
            (row.state, row.refusal) = (RowState::Doomed, Some(reason.clone()));
        }
        let refusal = row.as_mut().and_then(|row| row.refusal.take());
        let before = row.as_ref().map(|row| row.state);
        let mut protocol = RowState::protocol(before);
        let (mut input, mut error) = (message, None);
        let reply = loop {
            let Some(action) = protocol.handle(input) else { return Err(ParticipantError::Stale.into()) };
            let (failed, failure) = match action {
                BranchAction::Reply(reply) => break reply,
                BranchAction::AwaitDurable(lsn) => {
                    input = BranchInput::Durable(lsn);
                    continue;
                }
                // All is written with the row, at the end.
                BranchAction::AppendPrepared(_)
                | BranchAction::AppendCommitted { .. }
                | BranchAction::AppendEnded(_) => {
                    input = BranchInput::Appended(WRITTEN);
                    continue;
                }
                BranchAction::Confirm | BranchAction::Cancel => {
                    let (what, done) = match action {
                        BranchAction::Confirm => (Served::Confirm, BranchInput::Confirmed),
                        _ => (Served::Cancel, BranchInput::Cancelled),
                    };
                    match self.serve(tx, branch, row.as_ref(), what).await {
                        Ok(()) => {
                            input = done;
                            continue;
                        }
                        // The protocol is dropped with the transaction, and both begin again.
                        Err(failure @ Failure::Database(_)) => return Err(failure),
                        Err(Failure::Answer(error)) => (BranchInput::Failed, error),
                    }
                }
            };
            (input, error) = (failed, Some(failure));
        };
        let is_unanswered = error.is_some();
        let reply = answer(reply, error)?;
        let after = RowState::of_phase(protocol.phase());
        let mut keep = Keep::Nothing;
        if let (false, Some(after)) = (is_unanswered || after == before, after) {
            let works =
                row.map_or_else(Vec::new, |row| if after == RowState::Promised { row.works } else { Vec::new() });
            let row = BranchRow::new(after, works, position);
            match before {
                None => self.backend.insert(tx, branch, &row).await?,
                Some(_) => self.backend.update(tx, branch, &row).await?,
            }
            keep = Keep::All;
        }
        Ok((with_reason(reply, before, refusal), keep))
    }

    /// Has the service carry out or give back what the row says.
    async fn serve(
        &self,
        tx: &mut B::Tx,
        branch: &BranchId,
        row: Option<&BranchRow>,
        what: Served,
    ) -> Result<(), Failure> {
        let works = read_works(row.map_or(&[], |row| &row.works)).map_err(ParticipantError::resource)?;
        let served = match what {
            Served::Confirm => self.service.confirm(tx, branch, &works).await,
            Served::Cancel => self.service.cancel(tx, branch, &works).await,
        };
        served.map_err(|error| match self.of_service(error) {
            ServiceFailure::Database(error) => Failure::Database(error),
            ServiceFailure::Service(error) => Failure::Answer(ParticipantError::Resource(error)),
        })
    }

    /// Rolls back the branches below this transaction that have promised nothing. Their work came late:
    /// its transaction of the database was still under way when the coordinator asked what is in
    /// doubt. No message will ever end them.
    async fn roll_back_overdue(&self, coordinator: &Name, below: TxnOrdinal) -> Result<(), Failure> {
        for (branch, row) in self.backend.open_rows(coordinator).await? {
            if branch.txn().ordinal() < below && row.state != RowState::Promised {
                self.carry_out(&branch, BranchInput::Rollback(LogSharing::OwnLog), row.position).await?;
            }
        }
        Ok(())
    }

    /// Deletes the rows of ended branches if there are enough of them. One call in [`SWEEP_EVERY`]
    /// pays for it.
    async fn sweep_if_due(&self, coordinator: &Name) {
        let below = {
            let coordinators = self.coordinators.lock();
            let Some(known) = coordinators.get(coordinator) else { return };
            let Some(below) = sweep_due(known.ended_below, known.swept, SWEEP_EVERY) else { return };
            below
        };
        let Ok(_one_at_a_time) = self.sweep.try_lock() else { return };
        if self.roll_back_overdue(coordinator, below).await.is_err() {
            return;
        }
        // What fails is tried again at the next message.
        if self.backend.forget_below(coordinator, below).await.is_ok() {
            self.coordinators.lock().entry(coordinator.clone()).or_default().swept = below;
        }
    }
}

/// What a service is called for.
enum Served {
    Confirm,
    Cancel,
}

/// Why a message was not carried out.
enum Failure {
    /// The database failed; nothing was done, or the row tells what was.
    Database(XaError),
    /// The answer is an error.
    Answer(ParticipantError),
}

impl From<XaError> for Failure {
    fn from(error: XaError) -> Self {
        Self::Database(error)
    }
}

impl From<ParticipantError> for Failure {
    fn from(error: ParticipantError) -> Self {
        Self::Answer(error)
    }
}

/// Adds the reason to a No. `before` is the state of the branch when it was asked.
fn with_reason(
    reply: BranchReply,
    before: Option<RowState>,
    refusal: Option<String>,
) -> Result<BranchReply, ParticipantError> {
    match reply {
        BranchReply::Voted(Vote::No) | BranchReply::Decided(Decision::Rollback) => {
            Err(ParticipantError::Refused(Arc::new(match (before, refusal) {
                (None, _) => BranchRefusal::Unknown,
                (_, Some(reason)) => BranchRefusal::Work { reason: reason.into() },
                _ => BranchRefusal::RolledBack,
            })))
        }
        reply => Ok(reply),
    }
}
