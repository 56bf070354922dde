//! The checks, and the table of their names.

use std::{sync::Barrier, thread};

use super::{
    Effect, Harness, Worked,
    case::{Case, named},
    lives,
};
use crate::{
    id::{Epoch, TxnId, TxnOrdinal},
    participant::{Call, Decision, ParticipantError, Vote},
};

#[derive(Clone, Copy)]
pub(super) enum Ran {
    Passed,
    Skipped,
}

pub(super) type Check<H> = fn(&mut Case<H>) -> Ran;

/// Returns all checks with their names. A name is the rule that a failing participant has broken.
pub(super) fn checks<H: Harness>() -> Vec<(&'static str, Check<H>)> {
    vec![
        ("a yes vote sets the work aside and applies nothing", promise_applies_nothing),
        ("a yes vote survives a crash and can be committed", promise_survives_then_commits),
        ("a yes vote survives a crash and can be rolled back", promise_survives_then_rolls_back),
        ("no work is taken after the vote", no_work_after_the_vote),
        ("an unknown branch gets a no", unknown_branch_gets_a_no),
        ("a no ends the branch", a_no_ends_the_branch),
        ("a branch without a promise is void after a crash", no_promise_no_effect),
        ("refused work dooms its branch", refused_work_dooms),
        ("a branch that only looked votes read-only", read_only_vote),
        ("a repeated prepare has the same answer", repeated_prepare),
        ("a repeated commit has one effect", repeated_commit),
        ("commits that come at once have one effect", concurrent_commits),
        ("the effect of a commit survives a crash", effect_survives),
        ("a commit without a promise is an error and applies nothing", commit_without_promise),
        ("a committed branch can't be rolled back", rollback_of_committed),
        ("a rollback before the vote leaves a tombstone", rollback_before_prepare),
        ("a rollback of a branch never seen leaves a tombstone", rollback_of_unknown),
        ("a rollback undoes what was promised", rollback_after_prepare),
        ("a repeated rollback has the same answer", repeated_rollback),
        ("a rolled back branch can't be committed", commit_of_rolled_back),
        ("a prepare and a rollback that come at once leave nothing", concurrent_prepare_and_rollback),
        ("branches do not touch each other", branches_are_independent),
        ("a one-phase commit applies, and says so again", one_phase_commit),
        ("a one-phase commit of a doomed branch rolls back, and says so again", one_phase_of_doomed),
        ("a one-phase commit of an unknown branch rolls back", one_phase_of_unknown),
        ("in-doubt branches are the unfinished ones of the coordinator that asks", in_doubt_lists),
        ("what comes late for an ended transaction is refused", ended_transactions_are_refused),
        ("a commit of a branch that is unknown or rolled back is answered as such", unfit_commits_are_told_apart),
        ("what an earlier epoch has sent is refused once a later one is heard of", earlier_epochs_are_refused),
        ("another log under a coordinator's name is refused", lives::other_logs_are_refused),
        ("an earlier life of a coordinator, and an older copy of its log, are refused", lives::older_lives_are_refused),
        ("the life that was met is known after a crash", lives::lives_are_known_after_a_crash),
        ("a log that replaces a lost one is accepted, and promises stay", lives::replacements_are_accepted),
    ]
}

const ONCE: Effect = Effect::Applied { times: 1 };

fn promise_applies_nothing<H: Harness>(case: &mut Case<H>) -> Ran {
    let branch = case.promised();
    case.effect(&branch, Effect::Reserved);
    Ran::Passed
}

fn promise_survives_then_commits<H: Harness>(case: &mut Case<H>) -> Ran {
    let branch = case.promised();
    case.harness.coordinator_syncs();
    case.harness.crash();
    case.in_doubt(&[&branch]);
    case.effect(&branch, Effect::Reserved);
    case.vote(&branch, Vote::Yes);
    case.commit(&branch);
    case.effect(&branch, ONCE);
    case.in_doubt(&[]);
    Ran::Passed
}

fn promise_survives_then_rolls_back<H: Harness>(case: &mut Case<H>) -> Ran {
    let branch = case.promised();
    case.harness.coordinator_syncs();
    case.harness.crash();
    case.in_doubt(&[&branch]);
    case.rollback(&branch);
    case.effect(&branch, Effect::Absent);
    case.in_doubt(&[]);
    // The participant may or may not have made the end of the promise durable. The branch may be in
    // doubt again, but it must have no effect, and must accept another rollback.
    case.harness.crash();
    case.rollback(&branch);
    case.effect(&branch, Effect::Absent);
    Ran::Passed
}

fn no_promise_no_effect<H: Harness>(case: &mut Case<H>) -> Ran {
    let branch = case.worked();
    case.harness.crash();
    case.not_applied(&branch);
    if !case.harness.keeps_work() {
        case.no_promise(&branch);
    }
    case.rollback(&branch);
    case.effect(&branch, Effect::Absent);
    case.in_doubt(&[]);
    Ran::Passed
}

fn no_work_after_the_vote<H: Harness>(case: &mut Case<H>) -> Ran {
    let branch = case.promised();
    case.same("work after the vote", &case.harness.work(&branch), &Worked::Refused);
    case.harness.coordinator_syncs();
    case.commit(&branch);
    case.effect(&branch, ONCE);
    case.same("work after the commit", &case.harness.work(&branch), &Worked::Refused);
    case.effect(&branch, ONCE);
    Ran::Passed
}

fn unknown_branch_gets_a_no<H: Harness>(case: &mut Case<H>) -> Ran {
    let branch = case.branch();
    case.vote(&branch, Vote::No);
    case.effect(&branch, Effect::Absent);
    case.in_doubt(&[]);
    Ran::Passed
}

/// The coordinator sends nothing to a participant that has voted No, so nothing would ever undo
/// work that comes afterwards.
fn a_no_ends_the_branch<H: Harness>(case: &mut Case<H>) -> Ran {
    let branch = case.branch();
    case.vote(&branch, Vote::No);
    case.same("work after a no", &case.harness.work(&branch), &Worked::Refused);
    case.no_promise(&branch);
    case.effect(&branch, Effect::Absent);
    Ran::Passed
}

fn refused_work_dooms<H: Harness>(case: &mut Case<H>) -> Ran {
    let branch = case.worked();
    case.harness.refused_work(&branch);
    case.vote(&branch, Vote::No);
    case.effect(&branch, Effect::Absent);
    case.in_doubt(&[]);
    let only_refused = case.branch();
    case.harness.refused_work(&only_refused);
    case.vote(&only_refused, Vote::No);
    case.effect(&only_refused, Effect::Absent);
    Ran::Passed
}

fn read_only_vote<H: Harness>(case: &mut Case<H>) -> Ran {
    let branch = case.branch();
    let Some(worked) = case.harness.read_only_work(&branch) else { return Ran::Skipped };
    case.same("read-only work", &worked, &Worked::Done);
    case.vote(&branch, Vote::ReadOnly);
    case.in_doubt(&[]);
    case.effect(&branch, Effect::Absent);
    let mixed = case.worked();
    case.same("read-only work", &case.harness.read_only_work(&mixed), &Some(Worked::Done));
    case.vote(&mixed, Vote::Yes);
    Ran::Passed
}

fn repeated_prepare<H: Harness>(case: &mut Case<H>) -> Ran {
    let branch = case.promised();
    case.vote(&branch, Vote::Yes);
    case.effect(&branch, Effect::Reserved);
    case.harness.coordinator_syncs();
    case.commit(&branch);
    case.effect(&branch, ONCE);
    let unknown = case.branch();
    case.vote(&unknown, Vote::No);
    case.vote(&unknown, Vote::No);
    Ran::Passed
}

fn repeated_commit<H: Harness>(case: &mut Case<H>) -> Ran {
    let branch = case.committed();
    case.commit(&branch);
    case.effect(&branch, ONCE);
    case.harness.coordinator_syncs();
    case.harness.crash();
    case.commit(&branch);
    case.effect(&branch, ONCE);
    Ran::Passed
}

fn concurrent_commits<H: Harness>(case: &mut Case<H>) -> Ran {
    const AT_ONCE: usize = 4;
    let branch = case.promised();
    case.harness.coordinator_syncs();
    let (participant, call) = (case.participant(), case.call());
    let start = Barrier::new(AT_ONCE);
    let commit = || {
        start.wait();
        participant.commit(&branch, &call)
    };
    let answers: Vec<_> = thread::scope(|scope| {
        let threads: Vec<_> = (0..AT_ONCE).map(|_| scope.spawn(commit)).collect();
        // A panic of the participant is passed on unchanged.
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect()
    });
    drop(participant);
    // A commit that comes while another is under way may be refused for that; a coordinator repeats
    // it.
    for answer in answers {
        let harmless = matches!(answer, Ok(()) | Err(ParticipantError::Busy | ParticipantError::Stale));
        case.that(harmless, || format!("one of {AT_ONCE} commits at once was answered by {answer:?}"));
    }
    case.commit(&branch);
    case.effect(&branch, ONCE);
    Ran::Passed
}

fn effect_survives<H: Harness>(case: &mut Case<H>) -> Ran {
    let branch = case.committed();
    case.effect(&branch, ONCE);
    case.in_doubt(&[]);
    case.harness.coordinator_syncs();
    case.harness.crash();
    case.effect(&branch, ONCE);
    case.in_doubt(&[]);
    Ran::Passed
}

fn commit_without_promise<H: Harness>(case: &mut Case<H>) -> Ran {
    let (unknown, active) = (case.branch(), case.worked());
    for branch in [&unknown, &active] {
        let answer = case.participant().commit(branch, &case.call());
        case.that(answer.is_err(), || format!("a commit of {branch}, which has promised nothing, was answered by Ok"));
        case.not_applied(branch);
    }
    Ran::Passed
}

fn rollback_of_committed<H: Harness>(case: &mut Case<H>) -> Ran {
    let branch = case.committed();
    let answer = case.participant().rollback(&branch, &case.call());
    case.that(matches!(answer, Err(ParticipantError::AlreadyCommitted)), || {
        format!("the rollback was answered by {answer:?}, should be AlreadyCommitted")
    });
    case.effect(&branch, ONCE);
    Ran::Passed
}

fn rollback_after_prepare<H: Harness>(case: &mut Case<H>) -> Ran {
    let branch = case.promised();
    case.rollback(&branch);
    case.effect(&branch, Effect::Absent);
    case.in_doubt(&[]);
    case.same("work after the rollback", &case.harness.work(&branch), &Worked::Refused);
    case.no_promise(&branch);
    Ran::Passed
}

fn repeated_rollback<H: Harness>(case: &mut Case<H>) -> Ran {
    let branch = case.promised();
    case.rollback(&branch);
    case.rollback(&branch);
    case.effect(&branch, Effect::Absent);
    Ran::Passed
}

fn commit_of_rolled_back<H: Harness>(case: &mut Case<H>) -> Ran {
    let branch = case.promised();
    case.rollback(&branch);
    let answer = case.participant().commit(&branch, &case.call());
    case.that(answer.is_err(), || "a commit after the rollback was answered by Ok".to_owned());
    case.effect(&branch, Effect::Absent);
    Ran::Passed
}

fn rollback_before_prepare<H: Harness>(case: &mut Case<H>) -> Ran {
    let branch = case.worked();
    case.rollback(&branch);
    case.effect(&branch, Effect::Absent);
    case.same("work after the rollback", &case.harness.work(&branch), &Worked::Refused);
    case.no_promise(&branch);
    case.effect(&branch, Effect::Absent);
    case.in_doubt(&[]);
    Ran::Passed
}

fn rollback_of_unknown<H: Harness>(case: &mut Case<H>) -> Ran {
    let branch = case.branch();
    case.rollback(&branch);
    case.same("work after the rollback", &case.harness.work(&branch), &Worked::Refused);
    case.no_promise(&branch);
    case.effect(&branch, Effect::Absent);
    case.in_doubt(&[]);
    Ran::Passed
}

fn concurrent_prepare_and_rollback<H: Harness>(case: &mut Case<H>) -> Ran {
    const ROUNDS: usize = 8;
    for _ in 0..ROUNDS {
        let branch = case.worked();
        let (participant, call) = (case.participant(), case.call());
        let start = Barrier::new(2);
        let rolled_back = thread::scope(|scope| {
            scope.spawn(|| {
                start.wait();
                // Any answer will do: the coordinator no longer waits for this vote.
                drop(participant.prepare(&branch, &call));
            });
            start.wait();
            participant.rollback(&branch, &call)
        });
        drop(participant);
        // A rollback that comes in the middle of a prepare may be refused; a coordinator repeats
        // it.
        if rolled_back.is_err() {
            case.rollback(&branch);
        }
        case.no_promise(&branch);
        case.effect(&branch, Effect::Absent);
        case.in_doubt(&[]);
    }
    Ran::Passed
}

fn branches_are_independent<H: Harness>(case: &mut Case<H>) -> Ran {
    let (kept, undone, open) = (case.promised(), case.promised(), case.promised());
    case.harness.coordinator_syncs();
    case.commit(&kept);
    case.rollback(&undone);
    case.effect(&kept, ONCE);
    case.effect(&undone, Effect::Absent);
    case.effect(&open, Effect::Reserved);
    case.in_doubt(&[&open]);
    Ran::Passed
}

fn one_phase_commit<H: Harness>(case: &mut Case<H>) -> Ran {
    let branch = case.worked();
    case.one_phase(&branch, Decision::Commit);
    case.effect(&branch, ONCE);
    case.one_phase(&branch, Decision::Commit);
    case.in_doubt(&[]);
    // No decision follows a one-phase commit in the coordinator's log, so the effect must be
    // durable by itself.
    case.harness.crash();
    case.effect(&branch, ONCE);
    case.one_phase(&branch, Decision::Commit);
    case.effect(&branch, ONCE);
    Ran::Passed
}

fn one_phase_of_doomed<H: Harness>(case: &mut Case<H>) -> Ran {
    let branch = case.worked();
    case.harness.refused_work(&branch);
    for _ in 0..2 {
        case.one_phase(&branch, Decision::Rollback);
        case.effect(&branch, Effect::Absent);
    }
    case.in_doubt(&[]);
    Ran::Passed
}

fn one_phase_of_unknown<H: Harness>(case: &mut Case<H>) -> Ran {
    let branch = case.branch();
    for _ in 0..2 {
        case.one_phase(&branch, Decision::Rollback);
    }
    case.same("work after the rollback", &case.harness.work(&branch), &Worked::Refused);
    case.effect(&branch, Effect::Absent);
    Ran::Passed
}

fn in_doubt_lists<H: Harness>(case: &mut Case<H>) -> Ran {
    let (active, promised) = (case.worked(), case.promised());
    case.committed();
    let rolled_back = case.promised();
    case.rollback(&rolled_back);
    let elsewhere = TxnId::new(named("another"), Epoch::new(1), 1).branch(&case.harness.name());
    case.same("work for another coordinator", &case.harness.work(&elsewhere), &Worked::Done);
    case.in_doubt(&[&active, &promised]);
    let listed = case.ok("in_doubt", case.participant().in_doubt(elsewhere.txn().coordinator()));
    case.same("the other coordinator's branches in doubt", &listed, &vec![elsewhere]);
    Ran::Passed
}

fn ended_transactions_are_refused<H: Harness>(case: &mut Case<H>) -> Ran {
    let (late, later) = (case.branch(), case.branch());
    let branch = case.worked();
    let ended_below = TxnOrdinal { epoch: Epoch::new(1), sequence: branch.txn().sequence() };
    let vote = case.participant().prepare(&branch, &Call { ended_below, ..case.call() });
    case.same("the vote", &case.ok("prepare", vote), &Vote::Yes);
    case.same("work for a transaction that has ended", &case.harness.work(&late), &Worked::Refused);
    case.no_promise(&late);
    case.no_promise(&later);
    case.same("work after that prepare", &case.harness.work(&later), &Worked::Refused);
    case.effect(&late, Effect::Absent);
    case.effect(&later, Effect::Absent);
    // Nothing of the late work may be left behind, because no message would ever end it.
    case.in_doubt(&[&branch]);
    // `ended_below` concerns only what has ended.
    case.harness.coordinator_syncs();
    case.commit(&branch);
    case.effect(&branch, ONCE);
    Ran::Passed
}

/// After any other error the coordinator would repeat the commit, although an operator must look at
/// it.
fn unfit_commits_are_told_apart<H: Harness>(case: &mut Case<H>) -> Ran {
    let (unknown, rolled_back) = (case.branch(), case.promised());
    case.rollback(&rolled_back);
    for branch in [&unknown, &rolled_back] {
        let answer = case.participant().commit(branch, &case.call());
        let told = matches!(answer, Err(ParticipantError::UnknownBranch | ParticipantError::AlreadyRolledBack));
        case.that(told, || {
            format!("a commit of {branch} was answered by {answer:?}, should be UnknownBranch or AlreadyRolledBack")
        });
    }
    Ran::Passed
}

/// The coordinator that sent such messages is gone, and its next life will never end what they
/// begin.
fn earlier_epochs_are_refused<H: Harness>(case: &mut Case<H>) -> Ran {
    let (late, promised) = (case.branch(), case.promised());
    let of_epoch = |epoch| Call { epoch: Epoch::new(epoch), ..case.call() };
    let later = TxnId::new(case.coordinator.clone(), Epoch::new(2), 1).branch(&case.harness.name());
    case.same("work of the later epoch", &case.harness.work(&later), &Worked::Done);
    let vote = case.participant().prepare(&later, &of_epoch(2));
    case.same("the vote", &case.ok("prepare", vote), &Vote::Yes);
    case.same("work of the earlier epoch", &case.harness.work(&late), &Worked::Refused);
    let answer = case.participant().prepare(&late, &of_epoch(1));
    case.that(!matches!(answer, Ok(Vote::Yes | Vote::ReadOnly)), || format!("it voted {answer:?} to an earlier epoch"));
    case.effect(&late, Effect::Absent);
    // What the later epoch says of transactions of the earlier one counts.
    case.ok("rollback", case.participant().rollback(&late, &of_epoch(2)));
    case.harness.coordinator_syncs();
    case.ok("commit", case.participant().commit(&promised, &of_epoch(2)));
    case.effect(&promised, ONCE);
    case.in_doubt(&[&later]);
    Ran::Passed
}
