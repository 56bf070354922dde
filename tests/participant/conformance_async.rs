//! The conformance suite for asynchronous participants: passes a sound one, and finds what only an
//! `await` can break.

use std::{sync::Arc, time::Duration};

use ringpact::{
    BranchId, Name, Participant, ParticipantError, Vote,
    participant::{
        AsyncParticipant, Call, Decision, Life,
        conformance::{self, AsyncHarness, Effect, Harness, Worked},
    },
};
use tokio::{
    runtime::{Builder, Runtime},
    time::sleep,
};

use crate::conformance::{Breaks, HandMade, HandMadeHarness, check, rule_broken_by};

/// The participant that is made by hand, at the other end of something slow.
struct Far {
    participant: Arc<HandMade>,
    /// A commit looks, waits, and acts on what it saw: others may have acted meanwhile.
    acts_on_what_it_saw: bool,
}

impl AsyncParticipant for Far {
    async fn prepare(&self, branch: &BranchId, call: &Call) -> Result<Vote, ParticipantError> {
        sleep(Duration::from_micros(10)).await;
        self.participant.prepare(branch, call)
    }
    async fn commit(&self, branch: &BranchId, call: &Call) -> Result<(), ParticipantError> {
        let is_committed = self.participant.is_committed(branch);
        sleep(Duration::from_millis(2)).await;
        if self.acts_on_what_it_saw && is_committed { Ok(()) } else { self.participant.commit(branch, call) }
    }
    async fn rollback(&self, branch: &BranchId, call: &Call) -> Result<(), ParticipantError> {
        sleep(Duration::from_micros(10)).await;
        self.participant.rollback(branch, call)
    }
    async fn commit_one_phase(&self, branch: &BranchId, call: &Call) -> Result<Decision, ParticipantError> {
        sleep(Duration::from_micros(10)).await;
        self.participant.commit_one_phase(branch, call)
    }
    async fn in_doubt(&self, coordinator: &Name) -> Result<Vec<BranchId>, ParticipantError> {
        self.participant.in_doubt(coordinator)
    }
    async fn meet(&self, coordinator: &Name, life: &Life) -> Result<(), ParticipantError> {
        self.participant.meet(coordinator, life)
    }
}

struct FarHarness {
    inner: HandMadeHarness,
    acts_on_what_it_saw: bool,
}

impl AsyncHarness for FarHarness {
    // In an `Arc`, which passes all calls on.
    type Participant = Arc<Far>;

    fn name(&self) -> Name {
        self.inner.name()
    }
    fn participant(&self) -> Arc<Arc<Far>> {
        let participant = Arc::clone(&self.inner.0);
        Arc::new(Arc::new(Far { participant, acts_on_what_it_saw: self.acts_on_what_it_saw }))
    }
    async fn work(&self, branch: &BranchId) -> Worked {
        self.inner.work(branch)
    }
    async fn refused_work(&self, branch: &BranchId) {
        self.inner.refused_work(branch);
    }
    async fn effect(&self, branch: &BranchId) -> Effect {
        sleep(Duration::from_micros(10)).await;
        self.inner.effect(branch)
    }
    async fn crash(&mut self) {
        self.inner.crash();
    }
}

fn runtime() -> Runtime {
    Builder::new_multi_thread().worker_threads(2).enable_time().build().expect("a runtime")
}

fn check_far(breaks: Breaks, acts_on_what_it_saw: bool) -> conformance::Report {
    let runtime = runtime();
    let make = || FarHarness { inner: HandMadeHarness::new(breaks), acts_on_what_it_saw };
    conformance::check_async(runtime.handle(), make)
}

#[test]
fn a_sound_asynchronous_participant_conforms_by_the_same_checks() {
    assert_eq!(check_far(Breaks::Nothing, false), check(Breaks::Nothing));
}

#[test]
fn a_commit_that_acts_on_what_it_saw_before_it_waited_is_found() {
    let rule = rule_broken_by(|| drop(check_far(Breaks::CommitsOnceMoreWhenToldAgain, true)));
    assert_eq!(rule, "commits that come at once have one effect");
}

#[test]
#[should_panic(expected = "the conformance suite needs a multi-thread runtime")]
fn a_runtime_that_drives_nothing_while_a_check_waits_is_refused() {
    let runtime = Builder::new_current_thread().build().expect("a runtime");
    let make = || FarHarness { inner: HandMadeHarness::new(Breaks::Nothing), acts_on_what_it_saw: false };
    drop(conformance::check_async(runtime.handle(), make));
}
