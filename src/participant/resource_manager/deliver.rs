//! What a coordinator's messages do: [`BranchProtocol`](crate::participant::BranchProtocol) decides, this carries out.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use super::{ResourceManager, branches::Slot};
use crate::{
    id::{BranchId, Name, TxnId},
    log::{Fact, LogError, LogId, Lsn},
    participant::{
        Branch, BranchAction, BranchInput, BranchReply, Call, CommitVerb, Decision, Gate, Participant,
        ParticipantError, Service, ServiceError, Vote,
    },
};

impl<S: Service> Participant for ResourceManager<S> {
    fn prepare(&self, branch: &BranchId, call: &Call) -> Result<Vote, ParticipantError> {
        match self.deliver(branch, call, BranchInput::Prepare(self.gate(call.log)))? {
            BranchReply::Voted(vote) => Ok(vote),
            _ => Err(ParticipantError::Stale),
        }
    }

    fn commit(&self, branch: &BranchId, call: &Call) -> Result<(), ParticipantError> {
        self.deliver(branch, call, BranchInput::Commit(self.gate(call.log))).map(drop)
    }

    fn rollback(&self, branch: &BranchId, call: &Call) -> Result<(), ParticipantError> {
        self.deliver(branch, call, BranchInput::Rollback(self.gate(call.log))).map(drop)
    }

    fn commit_one_phase(&self, branch: &BranchId, call: &Call) -> Result<Decision, ParticipantError> {
        match self.deliver(branch, call, BranchInput::CommitOnePhase)? {
            BranchReply::Decided(decision) => Ok(decision),
            _ => Err(ParticipantError::Stale),
        }
    }

    fn in_doubt(&self, coordinator: &Name) -> Result<Vec<BranchId>, ParticipantError> {
        let mut slots: Vec<_> = {
            let branches = self.branches.lock();
            let of = branches.slots.iter().filter(|(txn, _)| txn.coordinator() == coordinator);
            of.map(|(txn, slot)| (txn.clone(), Arc::clone(slot))).collect()
        };
        // In the order of their beginning, not in whatever order a map has.
        slots.sort_unstable_by_key(|(txn, _)| txn.mark());
        Ok(slots
            .into_iter()
            .filter(|(_, slot)| {
                let protocol = &slot.lock().protocol;
                !protocol.is_finished() && protocol.state() != Branch::Unknown
            })
            .map(|(txn, _)| txn.branch(&self.name))
            .collect())
    }
}

impl<S: Service> ResourceManager<S> {
    fn gate(&self, decisions: LogId) -> Gate {
        if decisions == self.log.id() { Gate::SharedLog } else { Gate::OwnLog }
    }

    /// Puts a coordinator's message to the branch and carries out what follows from it, up to the reply.
    fn deliver(&self, branch: &BranchId, call: &Call, message: BranchInput) -> Result<BranchReply, ParticipantError> {
        if branch.participant() != &self.name {
            return Err(ParticipantError::Misrouted { branch: branch.clone(), participant: self.name.clone() });
        }
        self.branches.lock().learn(branch.txn().coordinator(), call.ended_below);
        let Some(slot) = self.slot(branch.txn()) else {
            // Nobody waits for this answer: the coordinator has ended the transaction.
            return Err(ParticipantError::Stale);
        };
        let mut guard = slot.lock();
        let before = guard.protocol.state();
        let result = self.carry_out(branch, &mut guard, message);
        let after = guard.protocol.state();
        if guard.protocol.is_finished() {
            guard.works = Vec::new();
        }
        drop(guard);
        if after == Branch::Unknown {
            self.branches.lock().discard_unknown(branch.txn(), &slot);
        }
        if after == Branch::Committed && before != Branch::Committed {
            self.checkpoint_if_due();
        }
        result
    }

    fn carry_out(
        &self,
        branch: &BranchId,
        slot: &mut Slot<S::Work>,
        message: BranchInput,
    ) -> Result<BranchReply, ParticipantError> {
        let mut input = message;
        let mut error = None;
        while let Some(action) = slot.protocol.handle(input) {
            let failed = match action {
                BranchAction::Reply(reply) => return answer(reply, error),
                BranchAction::AwaitDurable(lsn) => match self.log.wait(lsn) {
                    Ok(()) => {
                        input = BranchInput::Durable(lsn);
                        continue;
                    }
                    Err(failure) => (BranchInput::LogFailed, failure.into()),
                },
                BranchAction::Confirm => match guarded(|| self.service.confirm(branch, &slot.works)) {
                    Ok(()) => {
                        input = BranchInput::Confirmed;
                        continue;
                    }
                    Err(failure) => (BranchInput::Failed, failure),
                },
                BranchAction::Cancel => match guarded(|| self.service.cancel(branch, &slot.works)) {
                    Ok(()) => {
                        input = BranchInput::Cancelled;
                        continue;
                    }
                    Err(failure) => (BranchInput::Failed, failure),
                },
                append => match self.append_for(branch.txn(), &slot.works, append) {
                    Ok(lsn) => {
                        input = BranchInput::Appended(lsn);
                        continue;
                    }
                    Err(failure) => (BranchInput::AppendRefused, failure),
                },
            };
            input = failed.0;
            error = Some(failed.1);
        }
        Err(ParticipantError::Stale)
    }

    fn append_for(&self, txn: &TxnId, works: &[S::Work], action: BranchAction) -> Result<Lsn, ParticipantError> {
        let encoded = || postcard::to_stdvec(works).map_err(ParticipantError::resource);
        let txn = txn.clone();
        let (fact, durability) = match action {
            BranchAction::AppendPrepared(durability) => (Fact::Prepared { txn, work: encoded()? }, durability),
            BranchAction::AppendCommitted { verb: CommitVerb::OnePhase, durability } => {
                (Fact::Committed { txn, work: Some(encoded()?) }, durability)
            }
            BranchAction::AppendCommitted { verb: CommitVerb::SecondPhase, durability } => {
                (Fact::Committed { txn, work: None }, durability)
            }
            BranchAction::AppendEnded(durability) => (Fact::Ended { txn }, durability),
            // Not records; the caller carries these out itself.
            BranchAction::AwaitDurable(_) | BranchAction::Confirm | BranchAction::Cancel | BranchAction::Reply(_) => {
                return Err(ParticipantError::Stale);
            }
        };
        Ok(self.append(fact, durability)?)
    }
}

/// Calls the service; a panic of its own is its failure, to be tried again.
fn guarded(call: impl FnOnce() -> Result<(), ServiceError>) -> Result<(), ParticipantError> {
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(result) => result.map_err(ParticipantError::resource),
        Err(_) => Err(ParticipantError::Panicked),
    }
}

/// Makes the protocol's reply the trait's answer; `error` is what went wrong on the way to it.
fn answer(reply: BranchReply, error: Option<ParticipantError>) -> Result<BranchReply, ParticipantError> {
    match reply {
        BranchReply::Voted(_) | BranchReply::Done | BranchReply::Decided(_) => Ok(reply),
        BranchReply::UnknownBranch => Err(ParticipantError::UnknownBranch),
        BranchReply::AlreadyRolledBack => Err(ParticipantError::AlreadyRolledBack),
        BranchReply::AlreadyCommitted => Err(ParticipantError::AlreadyCommitted),
        BranchReply::Stale => Err(ParticipantError::Stale),
        BranchReply::Failed | BranchReply::LogFailed => Err(error.unwrap_or(LogError::Closed.into())),
    }
}
