//! The textbook's two-phase commit, with the production state machines carrying out each of its
//! steps.
//!
//! The setting is that of stateright's example `2pc`, after Gray and Lamport, *Consensus on
//! Transaction Commit* (2004), section 3 and its TLA+ module. Messages are never lost and never
//! taken away. A resource manager may abort by itself as long as it has not prepared. The
//! transaction manager may abort as long as it has not committed.
//!
//! Each state holds the specification's state and, beside it, a [`CommitProtocol`] and the
//! [`BranchProtocol`]s, which take the same step. If they disagreed with the specification, a check
//! would fail. If they kept anything that the specification does not, there would be more states
//! than the known numbers.
//!
//! What goes beyond the textbook (losses, crashes, logs, time-outs, one phase) is searched in
//! `state_space.rs`.

use std::{
    collections::{BTreeSet, HashSet},
    time::{Duration, Instant},
};

use ringpact::{
    Epoch, Name, Policy, TxnId, Vote,
    log::{Durability, Lsn},
    participant::{BranchAction, BranchInput, BranchPhase, BranchProtocol, BranchReply, Effort, LogSharing, Verb},
    txn::{Action, CommitProtocol, Input},
};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Rm {
    Working,
    Prepared,
    Committed,
    Aborted,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Tm {
    Init,
    Committed,
    Aborted,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Message {
    Prepared(usize),
    Commit,
    Abort,
}

/// A state of the specification.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Textbook {
    rms: Vec<Rm>,
    tm: Tm,
    tm_prepared: Vec<bool>,
    messages: BTreeSet<Message>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct JointState {
    textbook: Textbook,
    coordinator: CommitProtocol,
    branches: Vec<BranchProtocol>,
}

#[derive(Clone, Copy, Debug)]
enum Step {
    TmCommits,
    TmAborts,
    TmHearsPrepared(usize),
    RmPrepares(usize),
    RmChoosesToAbort(usize),
    RmHearsCommit(usize),
    RmHearsAbort(usize),
}

/// The only record of each log.
const LSN: Lsn = Lsn::new(1);

struct Search {
    now: Instant,
    policy: Policy,
}

impl Search {
    fn new() -> Self {
        // Time stands still, except for the time-out that makes the transaction manager abort.
        let prepare_timeout = Duration::from_secs(1);
        Self { now: Instant::now(), policy: Policy::default().prepare_timeout(prepare_timeout) }
    }

    fn initial(&self, participants: usize) -> JointState {
        let name = |text: &str| Name::new(text).expect("a valid name");
        let mut coordinator = CommitProtocol::new(TxnId::new(name("tm"), Epoch::new(1), 1), self.policy);
        for participant in 0..participants {
            coordinator.enlist(name(&format!("rm-{participant}")));
        }
        coordinator.handle(self.now, Input::Commit);
        let sent = self.poll(&mut coordinator);
        assert_eq!(sent, (0..participants).map(|rm| Action::Send(rm, Verb::Prepare)).collect::<Vec<_>>());
        let mut branch = BranchProtocol::new();
        branch.handle(BranchInput::Worked(Effort::Update));
        let textbook = Textbook {
            rms: vec![Rm::Working; participants],
            tm: Tm::Init,
            tm_prepared: vec![false; participants],
            messages: BTreeSet::new(),
        };
        JointState { textbook, coordinator, branches: vec![branch; participants] }
    }

    /// Takes out all actions that the coordinator has now.
    fn poll(&self, coordinator: &mut CommitProtocol) -> Vec<Action> {
        std::iter::from_fn(|| coordinator.poll(self.now)).collect()
    }

    fn steps(&self, state: &JointState) -> Vec<Step> {
        let Textbook { rms, tm, tm_prepared, messages } = &state.textbook;
        let mut steps = Vec::new();
        if *tm == Tm::Init {
            if tm_prepared.iter().all(|prepared| *prepared) {
                steps.push(Step::TmCommits);
            }
            steps.push(Step::TmAborts);
        }
        for (rm, is) in rms.iter().enumerate() {
            if *tm == Tm::Init && messages.contains(&Message::Prepared(rm)) {
                steps.push(Step::TmHearsPrepared(rm));
            }
            if *is == Rm::Working {
                steps.push(Step::RmPrepares(rm));
                steps.push(Step::RmChoosesToAbort(rm));
            }
            if messages.contains(&Message::Commit) {
                steps.push(Step::RmHearsCommit(rm));
            }
            if messages.contains(&Message::Abort) {
                steps.push(Step::RmHearsAbort(rm));
            }
        }
        steps
    }

    fn take(&self, state: &JointState, step: Step) -> JointState {
        let mut state = state.clone();
        let JointState { textbook, coordinator, branches } = &mut state;
        match step {
            Step::TmHearsPrepared(rm) => {
                textbook.tm_prepared[rm] = true;
                coordinator.handle(self.now, Input::Voted(rm, Vote::Yes));
                // After the last vote the decision is logged. Nothing is sent before it is durable.
                let actions = self.poll(coordinator);
                assert!(actions.iter().all(|action| matches!(action, Action::Append(_, Durability::Forced))));
            }
            Step::TmCommits => {
                textbook.tm = Tm::Committed;
                textbook.messages.insert(Message::Commit);
                coordinator.handle(self.now, Input::Appended(LSN));
                coordinator.handle(self.now, Input::Durable(LSN));
                self.tells_all(coordinator, Verb::Commit, branches.len());
            }
            Step::TmAborts => {
                textbook.tm = Tm::Aborted;
                textbook.messages.insert(Message::Abort);
                if textbook.tm_prepared.iter().all(|prepared| *prepared) {
                    coordinator.handle(self.now, Input::AppendRefused);
                } else {
                    coordinator.handle(self.now + self.policy.prepare_timeout, Input::Tick);
                }
                self.tells_all(coordinator, Verb::Rollback, branches.len());
            }
            Step::RmPrepares(rm) => {
                textbook.rms[rm] = Rm::Prepared;
                textbook.messages.insert(Message::Prepared(rm));
                let reply = carry_out(&mut branches[rm], BranchInput::Prepare(LogSharing::OwnLog));
                assert_eq!(reply, BranchReply::Voted(Vote::Yes));
            }
            Step::RmChoosesToAbort(rm) => {
                textbook.rms[rm] = Rm::Aborted;
                branches[rm].handle(BranchInput::Refused);
                let reply = carry_out(&mut branches[rm], BranchInput::Prepare(LogSharing::OwnLog));
                assert_eq!(reply, BranchReply::Voted(Vote::No));
            }
            Step::RmHearsCommit(rm) => {
                textbook.rms[rm] = Rm::Committed;
                assert_eq!(carry_out(&mut branches[rm], BranchInput::Commit(LogSharing::OwnLog)), BranchReply::Done);
            }
            Step::RmHearsAbort(rm) => {
                textbook.rms[rm] = Rm::Aborted;
                assert_eq!(carry_out(&mut branches[rm], BranchInput::Rollback(LogSharing::OwnLog)), BranchReply::Done);
            }
        }
        check(&state);
        state
    }

    fn tells_all(&self, coordinator: &mut CommitProtocol, verb: Verb, participants: usize) {
        // A tick comes later than the rest; what is due then is due now, too.
        let later = self.now + self.policy.prepare_timeout;
        let actions: Vec<_> = std::iter::from_fn(|| coordinator.poll(later)).collect();
        let sent = actions.iter().filter(|action| matches!(action, Action::Send(_, sent) if *sent == verb)).count();
        let answers = actions.iter().filter(|action| matches!(action, Action::Answer(_))).count();
        assert_eq!((sent, answers, actions.len()), (participants, 1, participants + 1), "{actions:?}");
    }

    /// Counts states, depth first, as stateright does. Two states are one if `stands_for` makes the
    /// same of them.
    fn count<T: Eq + std::hash::Hash>(&self, participants: usize, stands_for: impl Fn(&JointState) -> T) -> usize {
        let initial = self.initial(participants);
        let mut seen = HashSet::from([stands_for(&initial)]);
        let mut pending = vec![initial];
        let (mut all_committed, mut all_aborted) = (false, false);
        while let Some(state) = pending.pop() {
            all_committed |= state.textbook.rms.iter().all(|rm| *rm == Rm::Committed);
            all_aborted |= state.textbook.rms.iter().all(|rm| *rm == Rm::Aborted);
            for step in self.steps(&state) {
                let next = self.take(&state, step);
                if seen.insert(stands_for(&next)) {
                    pending.push(next);
                }
            }
        }
        assert!(all_committed && all_aborted, "a state in which all commit and one in which all abort can be reached");
        seen.len()
    }
}

/// Carries out every action of the branch; the log and the service never fail.
fn carry_out(branch: &mut BranchProtocol, mut input: BranchInput) -> BranchReply {
    loop {
        input = match branch.handle(input).expect("a message is answered") {
            BranchAction::Reply(reply) => return reply,
            BranchAction::AwaitDurable(lsn) => BranchInput::Durable(lsn),
            BranchAction::Confirm => BranchInput::Confirmed,
            BranchAction::Cancel => BranchInput::Cancelled,
            BranchAction::AppendPrepared(_) | BranchAction::AppendCommitted { .. } | BranchAction::AppendEnded(_) => {
                BranchInput::Appended(LSN)
            }
        };
    }
}

/// Asserts that the production code is in the textbook's state, and that no resource manager has
/// committed what another one has aborted.
fn check(state: &JointState) {
    for (rm, branch) in state.textbook.rms.iter().zip(&state.branches) {
        let is = match branch.phase() {
            BranchPhase::Active { .. } => Rm::Working,
            BranchPhase::Prepared => Rm::Prepared,
            BranchPhase::Committed => Rm::Committed,
            BranchPhase::RolledBack => Rm::Aborted,
            other => panic!("{other:?} is not a state of the textbook"),
        };
        assert_eq!(is, *rm);
    }
    let decision = match state.textbook.tm {
        Tm::Init => None,
        Tm::Committed => Some(ringpact::participant::Decision::Commit),
        Tm::Aborted => Some(ringpact::participant::Decision::Rollback),
    };
    assert_eq!(state.coordinator.decision(), decision);
    let any = |rm| state.textbook.rms.contains(&rm);
    assert!(!(any(Rm::Committed) && any(Rm::Aborted)), "{state:?}");
}

/// The representative as in stateright's example: resource managers sorted by their states, and all
/// else along with them. That does not make all states of one orbit equal, so the count depends on
/// the order of the search, which is stateright's, too.
fn representative(state: &JointState) -> Textbook {
    let Textbook { rms, tm, tm_prepared, messages } = &state.textbook;
    let mut order: Vec<_> = (0..rms.len()).collect();
    order.sort_by_key(|rm| rms[*rm]);
    let place = |rm: usize| order.iter().position(|other| *other == rm).expect("it is one of them");
    Textbook {
        rms: order.iter().map(|rm| rms[*rm]).collect(),
        tm: *tm,
        tm_prepared: order.iter().map(|rm| tm_prepared[*rm]).collect(),
        messages: messages
            .iter()
            .map(|message| match message {
                Message::Prepared(rm) => Message::Prepared(place(*rm)),
                other => *other,
            })
            .collect(),
    }
}

#[test]
fn three_resource_managers_have_288_states() {
    assert_eq!(Search::new().count(3, JointState::clone), 288);
}

#[test]
fn five_resource_managers_have_8832_states() {
    assert_eq!(Search::new().count(5, JointState::clone), 8_832);
}

#[test]
fn five_resource_managers_have_665_states_up_to_symmetry() {
    assert_eq!(Search::new().count(5, representative), 665);
}
