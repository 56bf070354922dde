//! What a coordinator's messages do: [`BranchProtocol`](crate::participant::BranchProtocol) decides, this carries out.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    time::{Duration, Instant},
};

use super::{
    BranchRefusal, BranchTrouble, ResourceManager,
    branches::{Admission, Slot},
    replay::restore,
};
use crate::{
    id::{BranchId, Epoch, Name, TxnId, TxnOrdinal},
    log::{Durability, Fact, LogError, LogId, Lsn},
    participant::{
        BranchAction, BranchInput, BranchPhase, BranchReply, Call, CommitVerb, Decision, Effort, Greeting, Life,
        LogSharing, Participant, ParticipantError, Service, ServiceError, Vote,
    },
};

/// Who is at a branch for longer is taken to be in the service, and perhaps to stay there. By the system's clock everywhere,
/// for the lock is the system's.
const BUSY_FOR: Duration = Duration::from_millis(100);

impl<S: Service> Participant for ResourceManager<S> {
    fn prepare(&self, branch: &BranchId, call: &Call) -> Result<Vote, ParticipantError> {
        match self.deliver(branch, call, BranchInput::Prepare(self.sharing(call.log)))? {
            BranchReply::Voted(vote) => Ok(vote),
            _ => Err(ParticipantError::Stale),
        }
    }

    fn commit(&self, branch: &BranchId, call: &Call) -> Result<(), ParticipantError> {
        self.deliver(branch, call, BranchInput::Commit(self.sharing(call.log))).map(drop)
    }

    fn rollback(&self, branch: &BranchId, call: &Call) -> Result<(), ParticipantError> {
        self.deliver(branch, call, BranchInput::Rollback(self.sharing(call.log))).map(drop)
    }

    fn commit_one_phase(&self, branch: &BranchId, call: &Call) -> Result<Decision, ParticipantError> {
        match self.deliver(branch, call, BranchInput::CommitOnePhase)? {
            BranchReply::Decided(decision) => Ok(decision),
            _ => Err(ParticipantError::Stale),
        }
    }

    fn meet(&self, coordinator: &Name, life: &Life) -> Result<(), ParticipantError> {
        self.branches.lock().meet(coordinator, life)?;
        Ok(self.note_introduction(coordinator)?)
    }

    fn greet(&self, greeting: &Greeting) {
        self.branches.lock().greet(greeting);
    }

    fn in_doubt(&self, coordinator: &Name) -> Result<Vec<BranchId>, ParticipantError> {
        let slots = self.branches.lock().of(coordinator);
        let is_in_doubt =
            |slot: &Slot<S::Work>| !slot.protocol.is_finished() && slot.protocol.phase() != BranchPhase::Unknown;
        // Whoever is at one may hang in the service, which must not keep back what there is to say of the others: so it is
        // named. But not for being looked at: one that has ended would, named, be told the end that it has not had.
        let until = Instant::now() + BUSY_FOR;
        let named =
            slots.into_iter().filter(|(_, slot)| slot.try_lock_until(until).is_none_or(|slot| is_in_doubt(&slot)));
        Ok(named.map(|(txn, _)| txn.branch(&self.name)).collect())
    }
}

impl<S: Service> ResourceManager<S> {
    fn sharing(&self, decisions: LogId) -> LogSharing {
        if decisions == self.opening { LogSharing::SharedLog } else { LogSharing::OwnLog }
    }

    /// Puts a coordinator's message to the branch and carries out what follows from it, up to the reply.
    pub(super) fn deliver(
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
        let (slot, begins_at, is_unnoted) = self.branches.lock().called(branch.txn(), call)?;
        if is_unnoted {
            self.note_introduction(branch.txn().coordinator())?;
        }
        let slot = match slot {
            Admission::Open(slot) => slot,
            Admission::Ended => return Err(after_the_end(message)),
            // No coordinator sends this: its branches are of its own epoch or of earlier ones.
            Admission::UnknownLife { .. } => return Err(ParticipantError::Stale),
            Admission::EarlierLife => {
                let mut slot = Slot::default();
                slot.refuse(|| BranchRefusal::EarlierLife);
                let result = self.carry_out(branch, &mut slot, message);
                return with_reason(result, &mut slot, BranchPhase::Unknown);
            }
        };
        let Some(mut guard) = slot.try_lock() else {
            // It may hang in the service, and time-outs and other branches are not to hang with it.
            if matches!(message, BranchInput::Rollback(_)) {
                slot.doom();
            }
            return Err(ParticipantError::Busy);
        };
        if slot.is_doomed() && guard.protocol.accepts_work() && guard.protocol.phase() != BranchPhase::Unknown {
            guard.protocol.handle(BranchInput::Refused);
            guard.refuse(|| BranchRefusal::RolledBack);
        }
        let before = guard.protocol.phase();
        let result = self.carry_out_mended(branch, &mut guard, message, begins_at);
        let result = with_reason(result, &mut guard, before);
        let after = guard.protocol.phase();
        if guard.protocol.is_finished() {
            guard.drop_works();
            guard.trouble = None;
        }
        drop(guard);
        if after == BranchPhase::Unknown {
            self.branches.lock().discard_unknown(branch.txn(), &slot);
        }
        if after == BranchPhase::Committed && before != BranchPhase::Committed {
            self.checkpoint_if_due();
        }
        result
    }

    /// Looks first whether anything stands in the way of what the message wants.
    fn carry_out_mended(
        &self,
        branch: &BranchId,
        slot: &mut Slot<S::Work>,
        message: BranchInput,
        begins_at: Option<TxnOrdinal>,
    ) -> Result<BranchReply, ParticipantError> {
        match &slot.trouble {
            Some(trouble) if trouble.is_final() => return Err(ParticipantError::resource(trouble.clone())),
            // A rollback needs nothing set aside, and a confirm is only to be repeated.
            Some(BranchTrouble::Unrestored { .. }) if matches!(message, BranchInput::Commit(_)) => {
                slot.trouble = restore(&self.service, branch, &slot.works);
                if let Some(trouble) = &slot.trouble {
                    return Err(ParticipantError::resource(trouble.clone()));
                }
            }
            _ => {}
        }
        let wants_promise = matches!(message, BranchInput::Prepare(_) | BranchInput::CommitOnePhase);
        let changes = matches!(slot.protocol.phase(), BranchPhase::Active { doomed: false, effort: Effort::Update });
        if wants_promise && changes {
            let has_all_work = match begins_at {
                Some(ordinal) => ordinal <= branch.txn().ordinal(),
                None => self.has_all_work(branch)?,
            };
            if !has_all_work {
                slot.protocol.handle(BranchInput::Refused);
                slot.refuse(|| BranchRefusal::LostWork);
            }
        }
        self.carry_out(branch, slot, message)
    }

    /// A rollback has come while the service was at a piece of work, and could not wait for it. Where the service can't undo it
    /// now, the rollback that is repeated sees to it.
    pub(super) fn roll_back_doomed(&self, branch: &BranchId, slot: &mut Slot<S::Work>) {
        let _ = self.carry_out(branch, slot, BranchInput::Rollback(LogSharing::OwnLog));
        if slot.protocol.is_finished() {
            slot.drop_works();
        }
    }

    /// Tries again what could not be done at opening. What still can't stays as it is.
    pub(super) fn mend(&self) {
        let troubled = self.branches.lock().troubled();
        for (txn, slot) in troubled {
            let branch = txn.branch(&self.name);
            // Who is at it is to do it, or the next checkpoint.
            let Some(mut slot) = slot.try_lock() else { continue };
            match &slot.trouble {
                Some(BranchTrouble::Unrestored { .. }) if slot.protocol.phase() == BranchPhase::Prepared => {
                    slot.trouble = restore(&self.service, &branch, &slot.works);
                }
                Some(BranchTrouble::Unconfirmed { .. }) => {
                    // The machine is to confirm; whoever is told does not matter, and an error stays what it is.
                    let confirmed = self.carry_out(&branch, &mut slot, BranchInput::Commit(LogSharing::OwnLog));
                    if confirmed.is_ok() {
                        (slot.works, slot.trouble) = (Vec::new(), None);
                    }
                }
                _ => {}
            }
        }
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
                    Err(failure) => {
                        let is_no = matches!(append, BranchAction::AppendPrepared(_));
                        if is_no || failure.input == BranchInput::Unwritable {
                            slot.refuse(|| BranchRefusal::Unwritten { error: failure.error.clone() });
                        }
                        (failure.input, failure.error)
                    }
                },
            };
            input = failed.0;
            error = Some(failed.1);
        }
        Err(ParticipantError::Stale)
    }

    fn append_for(&self, txn: &TxnId, works: &[S::Work], action: BranchAction) -> Result<Lsn, Unappended> {
        let encoded = || postcard::to_stdvec(works).map_err(Unappended::unencodable);
        let (id, txn) = (txn, txn.clone());
        let (fact, durability) = match action {
            BranchAction::AppendPrepared(durability) => {
                let work = encoded()?;
                let noted = self.note_life(&txn, durability)?;
                let promised = self.append(Fact::Prepared { txn, work }, durability);
                if noted && promised.is_err() {
                    // Nothing is left of the branch in the log, so nothing else would end the note.
                    let _ = self.append(Fact::Ended { txn: id.clone() }, Durability::Lazy);
                }
                return Ok(promised?);
            }
            BranchAction::AppendCommitted { verb: CommitVerb::OnePhase, durability } => {
                (Fact::Committed { txn, work: Some(encoded()?) }, durability)
            }
            BranchAction::AppendCommitted { verb: CommitVerb::SecondPhase, durability } => {
                self.note_life(&txn, durability)?;
                (Fact::Committed { txn, work: None }, durability)
            }
            BranchAction::AppendEnded(durability) => (Fact::Ended { txn }, durability),
            // Not records; the caller carries these out itself.
            BranchAction::AwaitDurable(_) | BranchAction::Confirm | BranchAction::Cancel | BranchAction::Reply(_) => {
                return Err(Unappended { input: BranchInput::AppendRefused, error: ParticipantError::Stale });
            }
        };
        Ok(self.append(fact, durability)?)
    }
}

impl<S: Service> ResourceManager<S> {
    /// Notes, before a record of this durability, in which log the branch's coordinator decides, and how far that is. Says
    /// whether there was anything to note.
    ///
    /// In the coordinator's own log there is nothing to note. With a log of its own the participant keeps the promise, and
    /// the commit, until the transaction has ended everywhere; so for as long as another participant may still be in doubt,
    /// this one knows a log that lacks the decision for what it is.
    fn note_life(&self, txn: &TxnId, durability: Durability) -> Result<bool, LogError> {
        if durability == Durability::Lazy {
            return Ok(false);
        }
        let heard = self.branches.lock().life_of(txn.coordinator());
        let Some(Life { log, epoch, position, .. }) = heard else { return Ok(false) };
        self.append(Fact::Heard { txn: txn.clone(), log, epoch, position }, Durability::Lazy)?;
        Ok(true)
    }

    /// Makes durable which life of the coordinator was met, before anything is done or told on its behalf: one forced write
    /// for each opening of a coordinator.
    ///
    /// The new life may presume from what it is told that a transaction is rolled back. So an earlier life, which may be
    /// alive on a copy of the log, must not be listened to again, not even after a restart. A coordinator on this
    /// participant's own log is known by that log.
    fn note_introduction(&self, coordinator: &Name) -> Result<(), LogError> {
        let Some(life) = self.branches.lock().unnoted_life_of(coordinator, self.log.id()) else { return Ok(()) };
        let Life { log, epoch, position, .. } = life;
        let note = Fact::Heard { txn: note_of(coordinator, epoch), log, epoch, position };
        let lsn = self.append(note, Durability::Forced)?;
        self.log.wait(lsn)?;
        let others = self.branches.lock().noted(coordinator, epoch);
        for other in others.into_iter().filter(|other| *other != epoch) {
            self.append(Fact::Ended { txn: note_of(coordinator, other) }, Durability::Lazy)?;
        }
        Ok(())
    }
}

/// Why a record is not in the log, and what that is to the branch.
struct Unappended {
    input: BranchInput,
    error: ParticipantError,
}

impl Unappended {
    fn unencodable(error: postcard::Error) -> Self {
        Self { input: BranchInput::Unwritable, error: ParticipantError::resource(error) }
    }
}

impl From<LogError> for Unappended {
    fn from(error: LogError) -> Self {
        let input = match error {
            LogError::TooLarge { .. } => BranchInput::Unwritable,
            _ => BranchInput::AppendRefused,
        };
        Self { input, error: error.into() }
    }
}

/// What a note that a life was met is kept under: the epoch's number in epoch 0, in which there are no transactions.
fn note_of(coordinator: &Name, epoch: Epoch) -> TxnId {
    TxnId::new(coordinator.clone(), Epoch::default(), epoch.as_u64())
}

/// What is answered about a branch that was forgotten because its transaction has ended.
///
/// Nobody waits for it, with one exception: a decision that this participant once knew nothing of, which is a hazard and
/// holds no mark, is delivered again when an operator says so. That it is still unknown is what he is to hear.
const fn after_the_end(message: BranchInput) -> ParticipantError {
    match message {
        BranchInput::Commit(_) | BranchInput::Rollback(_) => ParticipantError::UnknownBranch,
        _ => ParticipantError::Stale,
    }
}

/// Calls the service; a panic of its own is its failure, to be tried again.
fn guarded(call: impl FnOnce() -> Result<(), ServiceError>) -> Result<(), ParticipantError> {
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(result) => result.map_err(ParticipantError::resource),
        Err(_) => Err(ParticipantError::Panicked),
    }
}

/// Adds to a No why it is one. `before` is where the branch stood when it was asked.
fn with_reason<W>(
    result: Result<BranchReply, ParticipantError>,
    slot: &mut Slot<W>,
    before: BranchPhase,
) -> Result<BranchReply, ParticipantError> {
    match result {
        Ok(BranchReply::Voted(Vote::No) | BranchReply::Decided(Decision::Rollback)) => {
            slot.refuse(|| match before {
                BranchPhase::Unknown => BranchRefusal::Unknown,
                _ => BranchRefusal::RolledBack,
            });
            Err(slot.refusal.clone().map_or(ParticipantError::Stale, |reason| ParticipantError::Refused(reason)))
        }
        result => result,
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
