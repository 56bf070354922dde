//! What the client is told, and what comes out, when the log is taken over in each phase.

use std::time::{Duration, Instant};

use super::super::*;
use crate::{id::Epoch, log::Heuristic};

/// A transaction of two participants, and how far it has come.
struct Case {
    now: Instant,
    protocol: CommitProtocol,
}

impl Case {
    fn new(participants: usize) -> Self {
        let txn = TxnId::new(Name::from_static("shop"), Epoch::new(1), 1);
        let mut protocol = CommitProtocol::new(txn, Policy::DEFAULT);
        for name in ["a", "b"].into_iter().take(participants) {
            protocol.enlist(Name::from_static(name));
        }
        Self { now: Instant::now(), protocol }
    }

    fn with_last_resource(remembers: bool) -> Self {
        let mut case = Self::new(1);
        let last = Name::from_static("last");
        match remembers {
            true => case.protocol.enlist_remembering_last_resource(last),
            false => case.protocol.enlist_last_resource(last),
        };
        case
    }

    /// Feeds the inputs in. Returns what comes out after the last one.
    fn after(&mut self, inputs: &[Input]) -> Vec<Action> {
        let mut actions = Vec::new();
        for input in inputs {
            self.protocol.handle(self.now, *input);
            actions = std::iter::from_fn(|| self.protocol.poll(self.now)).collect();
        }
        actions
    }

    /// Asserts that exactly this answer came out, and that nothing comes out any more, whatever comes in.
    fn ends(mut self, inputs: &[Input], answer: Option<Outcome>) {
        let answers: Vec<_> = answer.into_iter().map(Action::Answer).collect();
        assert_eq!(self.after(inputs), answers, "after {inputs:?}");
        assert_eq!(self.protocol.state(), TransactionState::Fenced, "after {inputs:?}");
        assert!(self.protocol.is_fenced() && self.protocol.deadline().is_none());
        self.now += Duration::from_secs(1_000_000);
        let late = [
            Input::Tick,
            Input::Voted(0, Vote::Yes),
            Input::Decided(0, Decision::Commit),
            Input::LastResource(1, LastResourceAnswer::Committed),
            Input::Heuristic(0, Heuristic::Mixed),
            Input::Done(0),
            Input::Commit,
            Input::Rollback,
            Input::Retry,
            Input::Durable(Lsn::new(1)),
            Input::LogFailed,
            Input::AppendRefused,
            Input::NotDurable,
            Input::Fenced,
        ];
        for input in late {
            assert_eq!(self.after(&[input]), [], "{input:?} after {inputs:?}");
        }
        assert_eq!(self.protocol.state(), TransactionState::Fenced);
    }
}

const YES: [Input; 3] = [Input::Commit, Input::Voted(0, Vote::Yes), Input::Voted(1, Vote::Yes)];
const APPENDED: Input = Input::Appended(Lsn::new(1));
const DURABLE: Input = Input::Durable(Lsn::new(1));
const FENCED: Outcome = Outcome::RolledBack(Cause::Fenced);

#[test]
fn without_a_decision_in_the_log_the_client_is_told_rolled_back() {
    Case::new(2).ends(&[Input::Fenced], Some(FENCED));
    Case::new(2).ends(&[Input::Commit, Input::Fenced], Some(FENCED));
    Case::new(2).ends(&[Input::Commit, Input::Voted(0, Vote::Yes), Input::Fenced], Some(FENCED));
    let [commit, a, b] = YES;
    Case::new(2).ends(&[commit, a, b, Input::NotDurable], Some(FENCED));
    Case::new(2).ends(&[commit, a, b, APPENDED, Input::NotDurable], Some(FENCED));
    Case::new(2).ends(&[commit, a, b, APPENDED, Input::Fenced, Input::NotDurable], Some(FENCED));
    Case::new(2).ends(&[commit, a, b, Input::Fenced, Input::AppendRefused], Some(FENCED));
}

/// The takeover is known before the word on the record is.
#[test]
fn a_decision_in_flight_waits_for_the_logs_word() {
    let [commit, a, b] = YES;
    let mut case = Case::new(2);
    assert_eq!(case.after(&[commit, a, b, APPENDED, Input::Fenced]), []);
    assert_eq!(case.protocol.awaits_durable(), Some(Lsn::new(1)));
    Case::new(2).ends(&[commit, a, b, APPENDED, Input::Fenced, DURABLE], Some(Outcome::Committed));
    let failed = [commit, a, b, APPENDED, Input::Fenced, Input::LogFailed];
    Case::new(2).ends(&failed, Some(Outcome::Indeterminate));
}

#[test]
fn a_decision_that_is_being_delivered_is_left_to_the_new_holder() {
    let [commit, a, b] = YES;
    let mut case = Case::new(2);
    let told = case.after(&[commit, a, b, APPENDED, DURABLE]);
    assert_eq!(told.last(), Some(&Action::Answer(Outcome::Committed)));
    case.ends(&[Input::Done(0), Input::Fenced], None);
    let mut case = Case::new(2);
    case.after(&[commit, Input::Voted(0, Vote::No)]);
    case.ends(&[Input::Fenced], None);
}

/// The client has not heard yet what is already decided.
#[test]
fn an_answer_that_is_due_is_given_and_no_other() {
    let [commit, a, b] = YES;
    let mut case = Case::new(2);
    case.after(&[commit, a, b, APPENDED]);
    case.protocol.handle(case.now, DURABLE);
    case.ends(&[Input::Fenced], Some(Outcome::Committed));
    let mut case = Case::new(2);
    case.after(&[commit]);
    case.protocol.handle(case.now, Input::Failed(1));
    case.ends(&[Input::Fenced], Some(Outcome::RolledBack(Cause::Failed(1))));
}

#[test]
fn a_branch_alone_is_uncertain_once_it_was_asked() {
    let mut case = Case::new(1);
    case.protocol.handle(case.now, Input::Commit);
    case.ends(&[Input::Fenced], Some(FENCED));
    Case::new(1).ends(&[Input::Commit, Input::Fenced], Some(Outcome::Indeterminate));
    let failed = [Input::Commit, Input::Failed(0), Input::Fenced];
    Case::new(1).ends(&failed, Some(Outcome::Indeterminate));
}

/// No log says that a last resource has committed, and a decision behind it that is not in the log
/// proves nothing.
#[test]
fn behind_a_last_resource_only_a_durable_decision_is_certain() {
    let asked = [Input::Commit, Input::Voted(0, Vote::Yes)];
    let committed = [asked[0], asked[1], Input::Decided(1, Decision::Commit)];
    for remembers in [true, false] {
        let ends = |inputs: &[Input], then: &[Input], answer| {
            Case::with_last_resource(remembers).ends(&[inputs, then].concat(), Some(answer));
        };
        ends(&asked[..1], &[Input::Fenced], FENCED);
        ends(&asked, &[Input::Fenced], Outcome::Indeterminate);
        ends(&committed, &[Input::NotDurable], Outcome::Indeterminate);
        ends(&committed, &[APPENDED, Input::NotDurable], Outcome::Indeterminate);
        ends(&committed, &[APPENDED, Input::Fenced, DURABLE], Outcome::Committed);
    }
    let mut case = Case::with_last_resource(true);
    case.after(&asked);
    case.now += Policy::DEFAULT.prepare_timeout;
    case.after(&[Input::Tick]);
    assert_eq!(case.protocol.state(), TransactionState::AskingLastResource);
    case.ends(&[Input::Fenced], Some(Outcome::Indeterminate));
}

#[test]
fn what_has_ended_still_finishes() {
    let mut case = Case::new(2);
    let read_only = [Input::Voted(0, Vote::ReadOnly), Input::Voted(1, Vote::ReadOnly)];
    case.after(&[Input::Commit, read_only[0]]);
    case.protocol.handle(case.now, read_only[1]);
    assert_eq!(case.after(&[Input::Fenced]), [Action::Answer(Outcome::Committed), Action::Finish]);
    assert!(case.protocol.is_finished());
}

/// What an earlier life has left is left to the new holder as it is.
#[test]
fn a_transaction_without_a_client_gives_no_answer() {
    let txn = TxnId::new(Name::from_static("shop"), Epoch::new(1), 1);
    let now = Instant::now();
    let names = [Name::from_static("a")];
    for protocol in [
        CommitProtocol::recovered(txn.clone(), &names, Policy::DEFAULT, now),
        CommitProtocol::undecided(txn, &names, &[Name::from_static("last")], Policy::DEFAULT, now),
    ] {
        Case { now, protocol }.ends(&[Input::Fenced], None);
    }
}
