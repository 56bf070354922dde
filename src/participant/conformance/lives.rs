//! The checks of lives: a participant listens to a coordinator by its log, not by its name alone.

use super::{Effect, Harness, Worked, case::Case, checks::Ran};
use crate::{
    id::{BranchId, Epoch, TxnId},
    log::LogId,
    participant::{Call, EndedOpening, Life, ParticipantError, Vote},
};

/// The opening of the first log that began this epoch, with this number of durable records.
fn life(epoch: u64, position: u64) -> Life {
    Life::new(LogId::from_bytes(*b"conformance-life"), Epoch::new(epoch), position)
}

/// The same of another log.
fn other(epoch: u64, position: u64) -> Life {
    Life { log: LogId::from_bytes(*b"conformance-else"), ..life(epoch, position) }
}

/// The life as one that continues this earlier opening, which ended at this position.
fn after(life: Life, epoch: u64, position: u64) -> Life {
    life.continuing(EndedOpening { epoch: Epoch::new(epoch), position })
}

/// The refusals of a life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Refusal {
    OtherLog,
    Superseded,
}

impl<H: Harness> Case<H> {
    fn meet(&self, life: &Life) -> Result<(), ParticipantError> {
        self.participant().meet(&self.coordinator, life)
    }

    fn met(&self, life: &Life) {
        self.ok("meet", self.meet(life));
    }

    /// Returns a call of this life. Its coordinator shares its log with no participant.
    fn call_of(&self, life: &Life) -> Call {
        let Life { log: identity, epoch, position, after, .. } = *life;
        Call { identity, epoch, position, after, ..Call::new(LogId::NONE) }
    }

    /// Returns a branch that has promised to this life.
    fn promised_to(&self, life: &Life) -> BranchId {
        let branch = TxnId::new(self.coordinator.clone(), life.epoch, 1).branch(&self.harness.name());
        self.same("work under a new branch", &self.harness.work(&branch), &Worked::Done);
        let vote = self.participant().prepare(&branch, &self.call_of(life));
        self.same("the vote", &self.ok("prepare", vote), &Vote::Yes);
        branch
    }

    fn committed_by(&self, life: &Life, branch: &BranchId) {
        self.ok("commit", self.participant().commit(branch, &self.call_of(life)));
        self.effect(branch, Effect::Applied { times: 1 });
    }

    fn refused<T>(&self, what: &str, answer: &Result<T, ParticipantError>, expected: Refusal) {
        let refusal = match answer {
            Ok(_) => self.fail(&format!("{what} was answered by Ok, should be {expected:?}")),
            Err(ParticipantError::OtherLog(_)) => Refusal::OtherLog,
            Err(ParticipantError::Superseded(_)) => Refusal::Superseded,
            Err(error) => self.fail(&format!("{what} was answered by \"{error}\", should be {expected:?}")),
        };
        self.same(&format!("the refusal of {what}"), &refusal, &expected);
    }

    /// Checks that the participant refuses this life, and that no message of it changes the branch,
    /// which has promised to another life.
    fn is_refused(&self, life: &Life, branch: &BranchId, expected: Refusal) {
        self.refused(&format!("an introduction in {life}"), &self.meet(life), expected);
        let (participant, call) = (self.participant(), self.call_of(life));
        let answers = [
            ("a prepare", participant.prepare(branch, &call).map(drop)),
            ("a rollback", participant.rollback(branch, &call)),
            ("a commit", participant.commit(branch, &call)),
            ("a one-phase commit", participant.commit_one_phase(branch, &call).map(drop)),
        ];
        for (what, answer) in &answers {
            self.refused(&format!("{what} in {life}"), answer, expected);
        }
        self.effect(branch, Effect::Reserved);
        self.in_doubt(&[branch]);
    }
}

pub(super) fn other_logs_are_refused<H: Harness>(case: &mut Case<H>) -> Ran {
    if !case.harness.remembers_lives() {
        return Ran::Skipped;
    }
    let first = life(10, 5);
    case.met(&first);
    case.met(&first); // a message may come twice
    let branch = case.promised_to(&first);
    // The epoch of another log may be later or earlier, and the log longer or shorter.
    for other in [after(other(20, 50), 10, 40), other(5, 2)] {
        case.is_refused(&other, &branch, Refusal::OtherLog);
    }
    case.committed_by(&life(10, 7), &branch);
    Ran::Passed
}

pub(super) fn older_lives_are_refused<H: Harness>(case: &mut Case<H>) -> Ran {
    if !case.harness.remembers_lives() {
        return Ran::Skipped;
    }
    let (first, second) = (life(10, 5), after(life(20, 9), 10, 8));
    case.met(&first);
    case.met(&second);
    let branch = case.promised_to(&Life { position: 12, ..second });
    // The earlier opening, which may still be alive; and openings of three copies: one that was made
    // before the second opening, and two that were made in it and have grown since.
    for older in [first, after(life(15, 6), 10, 5), after(life(30, 90), 20, 11), after(life(30, 90), 10, 80)] {
        case.is_refused(&older, &branch, Refusal::Superseded);
    }
    // Messages of one life overtake each other.
    case.committed_by(&Life { position: 11, ..second }, &branch);
    case.met(&after(life(30, 13), 20, 12));
    Ran::Passed
}

pub(super) fn lives_are_known_after_a_crash<H: Harness>(case: &mut Case<H>) -> Ran {
    if !case.harness.remembers_lives() {
        return Ran::Skipped;
    }
    // The participant knows which life it has met, even if it has promised nothing.
    let second = after(life(20, 9), 10, 8);
    case.met(&life(10, 5));
    case.met(&second);
    case.harness.crash();
    for (of, expected) in [(other(90, 50), Refusal::OtherLog), (life(10, 8), Refusal::Superseded)] {
        case.refused(&format!("after a crash, an introduction in {of}"), &case.meet(&of), expected);
    }
    // With a promise it also knows how far the log had come.
    case.met(&second);
    let branch = case.promised_to(&Life { position: 12, ..second });
    case.harness.crash();
    case.is_refused(&other(90, 50), &branch, Refusal::OtherLog);
    case.is_refused(&life(10, 8), &branch, Refusal::Superseded);
    case.is_refused(&after(life(30, 90), 20, 11), &branch, Refusal::Superseded);
    let third = after(life(30, 14), 20, 13);
    case.met(&third);
    case.committed_by(&third, &branch);
    Ran::Passed
}

pub(super) fn replacements_are_accepted<H: Harness>(case: &mut Case<H>) -> Ran {
    if !case.harness.remembers_lives() {
        return Ran::Skipped;
    }
    let lost = life(20, 90);
    case.met(&lost);
    let branch = case.promised_to(&lost);
    let unknown = LogId::from_bytes(*b"conformance-none");
    let wrong = Life { replaces: unknown, ..other(10, 1) };
    case.refused("a log that replaces an unknown one", &case.meet(&wrong), Refusal::OtherLog);
    // An operator's statement holds whatever the epoch is. It can also be about an older copy of the
    // log itself, which then names the opening that it takes the place of.
    let replacement = Life { replaces: lost.log, ..other(10, 1) };
    let restored = Life { replaces: replacement.log, ..after(other(5, 1), 10, 1) };
    for accepted in [replacement, restored] {
        case.met(&accepted);
        case.met(&accepted); // a message may come twice
        case.in_doubt(&[&branch]);
        case.effect(&branch, Effect::Reserved);
        case.is_refused(&lost, &branch, Refusal::OtherLog);
    }
    case.committed_by(&other(5, 2), &branch);
    Ran::Passed
}
