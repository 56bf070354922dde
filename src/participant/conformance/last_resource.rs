//! The suite for last resources that remember what they have committed.

use std::{sync::Arc, thread, time::Duration};

use super::{Effect, Report, Worked};
use crate::{
    error_chain,
    id::{BranchId, Epoch, Name, TxnId},
    log::LogId,
    participant::{Call, CommitMemory, Decision, LastResource, LastResourceAnswer, ParticipantError},
};

/// Number of times that a call is repeated after an error that may pass, as a coordinator repeats it.
const ATTEMPTS: usize = 200;

/// Pause between two of them.
const PAUSE: Duration = Duration::from_millis(20);

/// Number of branches with which calls that come at once are checked.
const RACES: usize = 10;

const ONCE: Effect = Effect::Applied { times: 1 };

/// How the suite handles a [`LastResource`] with a [memory](CommitMemory).
pub trait LastResourceHarness {
    /// Returns the resource's name. All branches of the suite are for it.
    fn name(&self) -> Name;

    /// Returns the resource as it runs now. The suite drops it before it calls
    /// [`crash`](Self::crash).
    fn resource(&self) -> Arc<dyn LastResource>;

    /// Has the resource do valid work under the branch that changes something.
    fn work(&self, branch: &BranchId) -> Worked;

    /// Has the resource refuse work under the branch for reasons of its own. The default implementation
    /// returns `false`: it has none, and what depends on it is skipped.
    fn refused_work(&self, branch: &BranchId) -> bool {
        let _ = branch;
        false
    }

    /// Returns what can be seen of the branch's work.
    fn effect(&self, branch: &BranchId) -> Effect;

    /// Stops the resource as a crash of its machine would, and opens it again on what is durable.
    fn crash(&mut self);
}

/// Runs all checks of a last resource with a memory, each against a fresh one from `make`. Blocks until
/// all have run.
///
/// # Panics
///
/// At the first check that fails, with its name.
pub fn check_last_resource<H: LastResourceHarness>(make: impl Fn() -> H) -> Report {
    let mut report = Report { passed: Vec::new(), skipped: Vec::new() };
    for (name, run) in checks() {
        let mut case = Case { name, harness: make(), last: 0 };
        if run(&mut case) { report.passed.push(name) } else { report.skipped.push(name) }
    }
    report
}

/// One check. Returns whether the harness could run it.
type Check<H> = fn(&mut Case<H>) -> bool;

fn checks<H: LastResourceHarness>() -> Vec<(&'static str, Check<H>)> {
    vec![
        ("a commit applies the work, and says so again", repeated_commit),
        ("commits that come at once have one effect", concurrent_commits),
        ("what is committed is known after a crash", commit_survives),
        ("a committed branch can't be rolled back", rollback_of_committed),
        ("a rollback undoes the work, and a commit after it is refused", commit_of_rolled_back),
        ("a rollback of a branch never seen binds", rollback_of_unknown),
        ("refused work dooms its branch", refused_work_dooms),
        ("what is not committed never will be", not_committed_binds),
        ("what is not committed after a crash never will be", not_committed_binds_after_a_crash),
        ("a branch never seen is not committed, and never will be", unknown_is_not_committed),
        ("a question and a commit that come at once agree", concurrent_question),
        ("branches do not touch each other", branches_are_independent),
        ("a commit that comes late for an ended transaction is refused", ended_transactions_are_refused),
    ]
}

/// One check with its resource. A step that fails panics with the name of the check.
struct Case<H> {
    name: &'static str,
    harness: H,
    last: u64,
}

impl<H: LastResourceHarness> Case<H> {
    fn branch(&mut self) -> BranchId {
        self.last += 1;
        let coordinator = super::case::named("conformance");
        TxnId::new(coordinator, Epoch::new(1), self.last).branch(&self.harness.name())
    }

    fn worked(&mut self) -> BranchId {
        let branch = self.branch();
        self.same("work under a new branch", &self.harness.work(&branch), &Worked::Done);
        branch
    }

    fn committed(&mut self) -> BranchId {
        let branch = self.worked();
        self.commits(&branch, Decision::Commit);
        branch
    }

    fn commits(&self, branch: &BranchId, expected: Decision) {
        let resource = self.harness.resource();
        self.same("the answer to a commit", &self.decision("commit", || commit(&*resource, branch)), &expected);
    }

    fn rolls_back(&self, branch: &BranchId) {
        self.decision("rollback", || self.harness.resource().rollback(branch, &call()));
    }

    fn can_not_roll_back(&self, branch: &BranchId) {
        let answer = repeated(|| self.harness.resource().rollback(branch, &call()));
        let is_told = matches!(answer, Err(ParticipantError::AlreadyCommitted));
        self.that(is_told, || format!("a rollback is answered by {answer:?}, should be AlreadyCommitted"));
    }

    fn says(&self, branch: &BranchId, expected: LastResourceAnswer) {
        let resource = self.harness.resource();
        let answer = self.decision("the question", || self.memory(&*resource).committed(branch));
        self.same("the answer to the question", &answer, &expected);
    }

    fn memory<'a>(&self, resource: &'a dyn LastResource) -> &'a dyn CommitMemory {
        resource.memory().unwrap_or_else(|| self.fail("the resource has no memory: return one from `memory`"))
    }

    /// Checks that the branch has not taken effect, and that no call makes it.
    fn is_over(&self, branch: &BranchId) {
        self.same("the branch's effect", &self.harness.effect(branch), &Effect::Absent);
        self.commits(branch, Decision::Rollback);
        self.same("the branch's effect after a late commit", &self.harness.effect(branch), &Effect::Absent);
        self.says(branch, LastResourceAnswer::NotCommitted);
        self.rolls_back(branch);
    }

    /// Returns the answer to a call that may be repeated.
    fn decision<T>(&self, what: &str, call: impl FnMut() -> Result<T, ParticipantError>) -> T {
        repeated(call).unwrap_or_else(|error| self.fail(&format!("{what} failed: {}", error_chain(&error))))
    }

    fn is_applied_once(&self, branch: &BranchId) {
        self.same("the branch's effect", &self.harness.effect(branch), &ONCE);
    }

    fn same<T: PartialEq + std::fmt::Debug>(&self, what: &str, seen: &T, expected: &T) {
        self.that(seen == expected, || format!("{what} is {seen:?}, should be {expected:?}"));
    }

    fn that(&self, holds: bool, what: impl FnOnce() -> String) {
        if !holds {
            self.fail(&what());
        }
    }

    fn fail(&self, what: &str) -> ! {
        panic!("last resource conformance: \"{}\" does not hold: {what}", self.name)
    }
}

fn call() -> Call {
    Call::new(LogId::NONE)
}

/// Commits. A refusal is a rollback with its reason.
fn commit(resource: &dyn LastResource, branch: &BranchId) -> Result<Decision, ParticipantError> {
    match resource.commit(branch, &call()) {
        Err(ParticipantError::Refused(_)) => Ok(Decision::Rollback),
        answer => answer,
    }
}

/// Repeats a call after errors that may pass.
fn repeated<T>(mut call: impl FnMut() -> Result<T, ParticipantError>) -> Result<T, ParticipantError> {
    let may_pass =
        |error: &ParticipantError| !matches!(error, ParticipantError::AlreadyCommitted | ParticipantError::Stale);
    for _ in 1..ATTEMPTS {
        match call() {
            Err(error) if may_pass(&error) => thread::sleep(PAUSE),
            answer => return answer,
        }
    }
    call()
}

fn repeated_commit<H: LastResourceHarness>(case: &mut Case<H>) -> bool {
    let branch = case.committed();
    case.is_applied_once(&branch);
    case.commits(&branch, Decision::Commit);
    case.says(&branch, LastResourceAnswer::Committed);
    case.commits(&branch, Decision::Commit);
    case.is_applied_once(&branch);
    true
}

fn concurrent_commits<H: LastResourceHarness>(case: &mut Case<H>) -> bool {
    for _ in 0..RACES {
        let branch = case.worked();
        let resource = case.harness.resource();
        let answers: Vec<_> = thread::scope(|scope| {
            let commits = [(); 3].map(|()| scope.spawn(|| repeated(|| commit(&*resource, &branch))));
            commits.into_iter().map(|commit| commit.join()).collect()
        });
        let is_committed = |answer: &thread::Result<_>| matches!(answer, Ok(Ok(Decision::Commit)));
        case.that(answers.iter().all(is_committed), || format!("commits at once are answered by {answers:?}"));
        case.is_applied_once(&branch);
    }
    true
}

fn commit_survives<H: LastResourceHarness>(case: &mut Case<H>) -> bool {
    let branch = case.committed();
    case.harness.crash();
    case.says(&branch, LastResourceAnswer::Committed);
    case.commits(&branch, Decision::Commit);
    case.can_not_roll_back(&branch);
    case.is_applied_once(&branch);
    true
}

fn rollback_of_committed<H: LastResourceHarness>(case: &mut Case<H>) -> bool {
    let branch = case.committed();
    case.can_not_roll_back(&branch);
    case.says(&branch, LastResourceAnswer::Committed);
    case.is_applied_once(&branch);
    true
}

fn commit_of_rolled_back<H: LastResourceHarness>(case: &mut Case<H>) -> bool {
    let branch = case.worked();
    case.rolls_back(&branch);
    case.rolls_back(&branch);
    case.is_over(&branch);
    true
}

fn rollback_of_unknown<H: LastResourceHarness>(case: &mut Case<H>) -> bool {
    let branch = case.branch();
    case.rolls_back(&branch);
    let _refused_or_void = case.harness.work(&branch);
    case.is_over(&branch);
    true
}

fn refused_work_dooms<H: LastResourceHarness>(case: &mut Case<H>) -> bool {
    let branch = case.worked();
    if !case.harness.refused_work(&branch) {
        return false;
    }
    case.commits(&branch, Decision::Rollback);
    case.is_over(&branch);
    true
}

fn not_committed_binds<H: LastResourceHarness>(case: &mut Case<H>) -> bool {
    let branch = case.worked();
    case.says(&branch, LastResourceAnswer::NotCommitted);
    let _refused_or_void = case.harness.work(&branch);
    case.is_over(&branch);
    case.harness.crash();
    case.is_over(&branch);
    true
}

fn not_committed_binds_after_a_crash<H: LastResourceHarness>(case: &mut Case<H>) -> bool {
    let branch = case.worked();
    case.harness.crash();
    case.says(&branch, LastResourceAnswer::NotCommitted);
    case.is_over(&branch);
    true
}

fn unknown_is_not_committed<H: LastResourceHarness>(case: &mut Case<H>) -> bool {
    let branch = case.branch();
    case.says(&branch, LastResourceAnswer::NotCommitted);
    let _refused_or_void = case.harness.work(&branch);
    case.is_over(&branch);
    true
}

fn concurrent_question<H: LastResourceHarness>(case: &mut Case<H>) -> bool {
    for _ in 0..RACES {
        let branch = case.worked();
        let resource = case.harness.resource();
        let memory = case.memory(&*resource);
        // The resource's memory need not be shared between threads, so this thread asks.
        let (committed, said) = thread::scope(|scope| {
            let committing = scope.spawn(|| repeated(|| commit(&*resource, &branch)));
            let said = repeated(|| memory.committed(&branch));
            (committing.join(), said)
        });
        match (&committed, &said) {
            (Ok(Ok(Decision::Commit)), Ok(LastResourceAnswer::Committed)) => case.is_applied_once(&branch),
            (Ok(Ok(Decision::Rollback)), Ok(LastResourceAnswer::NotCommitted)) => case.is_over(&branch),
            _ => case.fail(&format!("a commit is answered by {committed:?}, and the question by {said:?}")),
        }
    }
    true
}

fn branches_are_independent<H: LastResourceHarness>(case: &mut Case<H>) -> bool {
    let (one, other, third) = (case.worked(), case.worked(), case.worked());
    case.says(&one, LastResourceAnswer::NotCommitted);
    case.commits(&other, Decision::Commit);
    case.rolls_back(&third);
    case.is_applied_once(&other);
    case.is_over(&one);
    case.is_over(&third);
    true
}

fn ended_transactions_are_refused<H: LastResourceHarness>(case: &mut Case<H>) -> bool {
    let (done, late) = (case.committed(), case.branch());
    let next = case.worked();
    let mut after = call();
    after.ended_below = next.txn().ordinal();
    let resource = case.harness.resource();
    let decision = case.decision("commit", || resource.commit(&next, &after));
    case.same("the answer to a commit", &decision, &Decision::Commit);
    let _refused_or_void = case.harness.work(&late);
    let answers = [&done, &late].map(|branch| repeated(|| commit(&*resource, branch)));
    case.that(!matches!(answers[1], Ok(Decision::Commit)), || format!("late commits are answered by {answers:?}"));
    case.is_applied_once(&done);
    case.that(!matches!(case.harness.effect(&late), Effect::Applied { .. }), || "late work is applied".to_owned());
    true
}
