//! A coordinator's messages: [`BranchProtocol`](crate::participant::BranchProtocol) decides what
//! they do, this carries it out.

use std::{
    error::Error as StdError,
    panic::{AssertUnwindSafe, catch_unwind},
    time::Duration,
};

use super::{BranchRefusal, BranchTrouble, ExecuteError, ResourceManager, entry::BranchEntry, replay::restore};
use crate::{
    id::{BranchId, Epoch, Name, TxnId, TxnOrdinal},
    log::{Durability, Fact, LogError, LogId, Lsn},
    participant::{
        BranchAction, BranchInput, BranchPhase, BranchReply, Call, CommitVerb, Decision, Greeting, Life, LogSharing,
        Participant, ParticipantError, Service, ServiceError, Vote,
        answers::{after_the_end, answer},
        branch_table::BranchLookup,
    },
};

/// Time that a question waits for a branch's lock. If the lock is held for longer, the service is
/// being called and may hang.
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
        self.holds_log()?;
        self.mend_if_due();
        self.branches.lock().meet(coordinator, life)?;
        Ok(self.note_introduction(coordinator)?)
    }

    fn own_name(&self) -> Option<Name> {
        Some(self.name.clone())
    }

    fn greet(&self, greeting: &Greeting) {
        self.branches.lock().greet(greeting);
    }

    /// Recognises a refusal that the service calls transient, and work that came at a bad moment or was
    /// lost: a new transaction may have more luck.
    fn is_transient(&self, error: &(dyn StdError + 'static)) -> bool {
        if let Some(error) = error.downcast_ref::<ExecuteError<S::Refusal>>() {
            return match error {
                ExecuteError::Refused(refusal) => self.service.is_transient(refusal),
                ExecuteError::Closed { .. } | ExecuteError::UnknownEpoch { .. } => true,
                _ => false,
            };
        }
        error.downcast_ref().is_some_and(BranchRefusal::is_transient)
    }

    fn in_doubt(&self, coordinator: &Name) -> Result<Vec<BranchId>, ParticipantError> {
        // The new holder knows it: an answer from here may lack a promise.
        self.holds_log()?;
        self.mend_if_due();
        let entries = self.branches.lock().of(coordinator);
        let is_in_doubt = |entry: &BranchEntry<S::Work>| {
            !entry.protocol.is_finished() && entry.protocol.phase() != BranchPhase::Unknown
        };
        // A branch that hangs in the service must not keep the answer about the others back, so it
        // is listed unseen. A lock that is held only for a look must not have the same effect:
        // listed, a branch that has ended would be told another end. So the lock is waited for a
        // little.
        let platform = &self.options.platform;
        let until = platform.now() + BUSY_FOR;
        let named = entries.into_iter().filter(|(_, entry)| {
            let left = until.saturating_duration_since(platform.now());
            entry.try_lock_within(platform, left).is_none_or(|entry| is_in_doubt(&entry))
        });
        Ok(named.map(|(txn, _)| txn.branch(&self.name)).collect())
    }
}

impl<S: Service> ResourceManager<S> {
    fn sharing(&self, decisions: LogId) -> LogSharing {
        if decisions == self.opening { LogSharing::SharedLog } else { LogSharing::OwnLog }
    }

    /// Puts a coordinator's message to the branch, and carries out what follows from it, up to the
    /// reply. Then tries again what failed at opening, if that is due.
    pub(super) fn deliver(
        &self,
        branch: &BranchId,
        call: &Call,
        message: BranchInput,
    ) -> Result<BranchReply, ParticipantError> {
        let result = self.deliver_to(branch, call, message);
        self.mend_if_due();
        result
    }

    fn deliver_to(
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
        self.holds_log()?;
        // What the call says of its coordinator is checked first: a refused call changes nothing.
        let (entry, begins_at, is_unnoted) = self.branches.lock().called(branch.txn(), call)?;
        if is_unnoted {
            self.note_introduction(branch.txn().coordinator())?;
        }
        // Branches that are forgotten, or of an earlier life, are answered without an entry of
        // their own.
        let entry = match entry {
            BranchLookup::Found(entry) => entry,
            BranchLookup::Ended { .. } => return Err(after_the_end(message)),
            // An operator ends transactions of a log that the coordinator's present one replaces, and
            // their epochs may be later ones. No other message comes for them.
            BranchLookup::UnknownLife { .. }
                if !matches!(message, BranchInput::Commit(_) | BranchInput::Rollback(_)) =>
            {
                return Err(ParticipantError::Stale);
            }
            BranchLookup::EarlierLife { .. } | BranchLookup::UnknownLife { .. } => {
                let mut entry = BranchEntry::default();
                entry.refuse(|| BranchRefusal::EarlierLife);
                let result = self.carry_out(branch, &mut entry, message);
                return with_reason(result, &mut entry, BranchPhase::Unknown);
            }
        };
        let Some(mut guard) = entry.try_hold(self.options.platform.thread_number()) else {
            // The branch may hang in the service; this thread must not hang with it.
            if matches!(message, BranchInput::Rollback(_)) {
                entry.doom();
            }
            return Err(ParticipantError::Busy);
        };
        if entry.is_doomed() && guard.protocol.accepts_work() && guard.protocol.phase() != BranchPhase::Unknown {
            guard.protocol.handle(BranchInput::Refused);
            guard.refuse(|| BranchRefusal::RolledBack);
        }
        let before = guard.protocol.phase();
        // The service and the log are called under this branch's lock, and no other.
        let result = self.carry_out_mended(branch, &mut guard, message, begins_at);
        let result = with_reason(result, &mut guard, before);
        let after = guard.protocol.phase();
        if guard.protocol.is_finished() {
            guard.drop_works();
            guard.trouble = None;
        }
        drop(guard);
        // The rest is done without the branch's lock.
        if after == BranchPhase::Unknown {
            self.branches.lock().discard_unknown(branch.txn(), entry);
        }
        if after == BranchPhase::Committed && before != BranchPhase::Committed {
            self.checkpoint_if_due();
        }
        result
    }

    /// Mends what is in the way of the message, if that is possible, and then carries the message
    /// out.
    fn carry_out_mended(
        &self,
        branch: &BranchId,
        entry: &mut BranchEntry<S::Work>,
        message: BranchInput,
        begins_at: Option<TxnOrdinal>,
    ) -> Result<BranchReply, ParticipantError> {
        match &entry.trouble {
            Some(trouble) if trouble.is_final() => return Err(ParticipantError::resource(trouble.clone())),
            // Only a commit needs what could not be restored: a rollback needs nothing set aside,
            // and a confirm that failed is repeated anyway.
            Some(BranchTrouble::Unrestored { .. }) if matches!(message, BranchInput::Commit(_)) => {
                entry.trouble = restore(&self.service, branch, &entry.works);
                if let Some(trouble) = &entry.trouble {
                    return Err(ParticipantError::resource(trouble.clone()));
                }
            }
            _ => {}
        }
        let wants_promise = matches!(message, BranchInput::Prepare(_) | BranchInput::CommitOnePhase);
        // Also of a branch that has only read: it may have changed something before this opening.
        let works = matches!(entry.protocol.phase(), BranchPhase::Active { doomed: false, .. });
        if wants_promise && works {
            let has_all_work = match begins_at {
                Some(ordinal) => ordinal <= branch.txn().ordinal(),
                None => self.has_all_work(branch)?,
            };
            if !has_all_work {
                entry.protocol.handle(BranchInput::Refused);
                entry.refuse(|| BranchRefusal::LostWork);
            }
        }
        self.carry_out(branch, entry, message)
    }

    /// Carries out a rollback that came while the service did a piece of work, and could not wait
    /// for it. If the service can't cancel now, the coordinator repeats the rollback.
    pub(super) fn roll_back_doomed(&self, branch: &BranchId, entry: &mut BranchEntry<S::Work>) {
        let _ = self.carry_out(branch, entry, BranchInput::Rollback(LogSharing::OwnLog));
        if entry.protocol.is_finished() {
            entry.drop_works();
        }
    }

    /// Runs the protocol from one message to its reply: carries out each action, and feeds its
    /// result back in.
    pub(super) fn carry_out(
        &self,
        branch: &BranchId,
        entry: &mut BranchEntry<S::Work>,
        message: BranchInput,
    ) -> Result<BranchReply, ParticipantError> {
        self.holds_log()?; // a branch is also mended, or given up, without a message
        let mut input = message;
        let mut error = None;
        while let Some(action) = entry.protocol.handle(input) {
            let failed = match action {
                BranchAction::Reply(reply) => return answer(reply, error),
                BranchAction::AwaitDurable(lsn) => match self.log.wait(lsn) {
                    Ok(()) => {
                        input = BranchInput::Durable(lsn);
                        continue;
                    }
                    Err(failure @ LogError::Fenced { .. }) => {
                        let error = ParticipantError::from(failure);
                        entry.refuse(|| BranchRefusal::Unwritten { error: error.clone() });
                        (BranchInput::NotDurable, error)
                    }
                    Err(failure) => (BranchInput::LogFailed, failure.into()),
                },
                BranchAction::Confirm => match guarded(|| self.service.confirm(branch, &entry.works)) {
                    Ok(()) => {
                        input = BranchInput::Confirmed;
                        continue;
                    }
                    Err(failure) => (BranchInput::Failed, failure),
                },
                BranchAction::Cancel => match guarded(|| self.service.cancel(branch, &entry.works)) {
                    Ok(()) => {
                        input = BranchInput::Cancelled;
                        continue;
                    }
                    Err(failure) => (BranchInput::Failed, failure),
                },
                append => match self.append_for(branch.txn(), &entry.works, append) {
                    Ok(lsn) => {
                        input = BranchInput::Appended(lsn);
                        continue;
                    }
                    Err(failure) => {
                        let is_no = matches!(append, BranchAction::AppendPrepared(_));
                        if is_no || matches!(failure.input, BranchInput::Unwritable | BranchInput::NotDurable) {
                            entry.refuse(|| BranchRefusal::Unwritten { error: failure.error.clone() });
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

    /// Appends the record that the action stands for.
    fn append_for(&self, txn: &TxnId, works: &[S::Work], action: BranchAction) -> Result<Lsn, Unappended> {
        // The service's code serialises, and may panic. The branch must not stay as if the record were
        // still being written.
        let encoded = || match catch_unwind(AssertUnwindSafe(|| postcard::to_stdvec(works))) {
            Ok(encoded) => encoded.map_err(Unappended::unencodable),
            Err(_) => Err(Unappended { input: BranchInput::Unwritable, error: ParticipantError::Panicked }),
        };
        let (id, txn) = (txn, txn.clone());
        let (fact, durability) = match action {
            BranchAction::AppendPrepared(durability) => {
                let work = encoded()?;
                let noted = self.note_life(&txn, durability)?;
                let promised = self.append(Fact::Prepared { txn, work }, durability);
                if noted && promised.is_err() {
                    // The log holds nothing else of the branch, so nothing else would end the note.
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
            // These are no records; the caller carries them out itself.
            BranchAction::AwaitDurable(_) | BranchAction::Confirm | BranchAction::Cancel | BranchAction::Reply(_) => {
                return Err(Unappended { input: BranchInput::AppendRefused, error: ParticipantError::Stale });
            }
        };
        Ok(self.append(fact, durability)?)
    }
}

impl<S: Service> ResourceManager<S> {
    /// Notes, before a record of this durability, in which log the branch's coordinator decides and
    /// how far that log is. Returns whether there was anything to note.
    ///
    /// In the coordinator's own log there is nothing to note. In a log of its own the participant
    /// keeps the promise, and the commit, until the transaction has ended everywhere. So as long as
    /// another participant may still be in doubt, this one recognises a log that lacks the
    /// decision.
    fn note_life(&self, txn: &TxnId, durability: Durability) -> Result<bool, LogError> {
        if durability == Durability::Lazy {
            return Ok(false);
        }
        let heard = self.branches.lock().life_of(txn.coordinator());
        let Some(Life { log, epoch, position, .. }) = heard else { return Ok(false) };
        self.append(Fact::Heard { txn: txn.clone(), log, epoch, position }, Durability::Lazy)?;
        Ok(true)
    }

    /// Makes durable which life of the coordinator was met, before anything is done or answered for
    /// it. One forced write for each opening of a coordinator.
    ///
    /// The new life may conclude from the answers that a transaction is rolled back. So the
    /// participant must never again listen to an earlier life, which may still run on a copy of the
    /// log; not even after a restart. A coordinator on this participant's own log is known by that
    /// log, if the log has its opening: a live copy of the log has the same id.
    fn note_introduction(&self, coordinator: &Name) -> Result<(), LogError> {
        // A copy of the log has the same id, and openings of its own. Those must be noted.
        let own = self.log.openings(coordinator)?;
        let is_own = |life: &Life| life.log == self.log.id() && own.iter().any(|(epoch, _)| *epoch == life.epoch);
        let Some(life) = self.branches.lock().unnoted_life_of(coordinator, is_own) else { return Ok(()) };
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

/// Why a record is not in the log, and the input that this is for the branch.
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
            LogError::Fenced { .. } => BranchInput::NotDurable,
            _ => BranchInput::AppendRefused,
        };
        Self { input, error: error.into() }
    }
}

/// Returns the id under which the note is kept that a life was met: the epoch's number in epoch 0,
/// which has no transactions.
fn note_of(coordinator: &Name, epoch: Epoch) -> TxnId {
    TxnId::new(coordinator.clone(), Epoch::default(), epoch.as_u64())
}

/// Calls the service. A panic is a failure of the service, and is tried again.
fn guarded(call: impl FnOnce() -> Result<(), ServiceError>) -> Result<(), ParticipantError> {
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(result) => result.map_err(ParticipantError::resource),
        Err(_) => Err(ParticipantError::Panicked),
    }
}

/// Adds the reason to a No. `before` is the phase of the branch when it was asked.
fn with_reason<W>(
    result: Result<BranchReply, ParticipantError>,
    entry: &mut BranchEntry<W>,
    before: BranchPhase,
) -> Result<BranchReply, ParticipantError> {
    match result {
        Ok(BranchReply::Voted(Vote::No) | BranchReply::Decided(Decision::Rollback)) => {
            entry.refuse(|| match before {
                BranchPhase::Unknown => BranchRefusal::Unknown,
                _ => BranchRefusal::RolledBack,
            });
            Err(entry.refusal.clone().map_or(ParticipantError::Stale, |reason| ParticipantError::Refused(reason)))
        }
        result => result,
    }
}
