//! The suite for participants whose methods are asynchronous. Only with the feature `tokio`.

use std::{future::Future, sync::Arc};

use tokio::runtime::{Handle, RuntimeFlavor};

use super::{Effect, Harness, LastResourceHarness, Report, Worked, check, check_last_resource};
use crate::{
    id::{BranchId, Name},
    log::LogId,
    participant::{
        AsyncLastResource, AsyncParticipant, Call, CommitMemory, Decision, Greeting, LastResource, LastResourceAnswer,
        Life, Participant, ParticipantError, Vote,
    },
};

/// How the suite handles an [`AsyncParticipant`]. Each method is that of [`Harness`], as a future
/// if the participant may have to wait.
pub trait AsyncHarness: Send + Sync {
    /// The participant's type.
    type Participant: AsyncParticipant;

    /// See [`Harness::name`].
    fn name(&self) -> Name;

    /// See [`Harness::participant`].
    fn participant(&self) -> Arc<Self::Participant>;

    /// See [`Harness::work`].
    fn work(&self, branch: &BranchId) -> impl Future<Output = Worked> + Send;

    /// See [`Harness::refused_work`].
    fn refused_work(&self, branch: &BranchId) -> impl Future<Output = ()> + Send;

    /// See [`Harness::read_only_work`].
    fn read_only_work(&self, branch: &BranchId) -> impl Future<Output = Option<Worked>> + Send {
        let _ = branch;
        async { None }
    }

    /// See [`Harness::effect`].
    fn effect(&self, branch: &BranchId) -> impl Future<Output = Effect> + Send;

    /// See [`Harness::crash`].
    fn crash(&mut self) -> impl Future<Output = ()> + Send;

    /// See [`Harness::coordinator_log`].
    fn coordinator_log(&self) -> LogId {
        super::SEPARATE_LOG
    }

    /// See [`Harness::remembers_lives`].
    fn remembers_lives(&self) -> bool {
        true
    }

    /// See [`Harness::keeps_work`].
    fn keeps_work(&self) -> bool {
        false
    }

    /// See [`Harness::coordinator_syncs`].
    fn coordinator_syncs(&self) -> impl Future<Output = ()> + Send {
        async {}
    }
}

/// Runs all checks, each against a fresh participant from `make`, with its futures on `runtime`.
///
/// Blocks until all checks have run. Call it from a thread that runs no tasks: from a plain test,
/// or by [`spawn_blocking`](Handle::spawn_blocking).
///
/// # Panics
///
/// At the first check that fails, with its name. Also if `runtime` is not a multi-thread runtime:
/// nothing would drive its timers and sockets while a check waits.
pub fn check_async<H: AsyncHarness>(runtime: &Handle, make: impl Fn() -> H) -> Report {
    assert!(
        runtime.runtime_flavor() != RuntimeFlavor::CurrentThread,
        "the conformance suite needs a multi-thread runtime: a current-thread runtime drives nothing while a check waits"
    );
    check(|| Blocking { runtime: runtime.clone(), inner: make() })
}

/// Runs the checks of [`check_last_resource`] for an asynchronous last resource, each against a fresh
/// one from `make`, with its futures on `runtime`. A harness for [`check_async`] serves for both.
///
/// Blocks until all checks have run. Call it as [`check_async`] is called.
///
/// # Panics
///
/// As [`check_async`].
pub fn check_async_last_resource<H>(runtime: &Handle, make: impl Fn() -> H) -> Report
where
    H: AsyncHarness<Participant: AsyncLastResource>,
{
    assert!(
        runtime.runtime_flavor() != RuntimeFlavor::CurrentThread,
        "the conformance suite needs a multi-thread runtime: a current-thread runtime drives nothing while a check waits"
    );
    check_last_resource(|| Blocking { runtime: runtime.clone(), inner: make() })
}

/// An asynchronous harness, or an asynchronous participant, on the thread that calls.
struct Blocking<T> {
    runtime: Handle,
    inner: T,
}

impl<H: AsyncHarness> Harness for Blocking<H> {
    fn name(&self) -> Name {
        self.inner.name()
    }
    fn participant(&self) -> Arc<dyn Participant> {
        Arc::new(Blocking { runtime: self.runtime.clone(), inner: self.inner.participant() })
    }
    fn work(&self, branch: &BranchId) -> Worked {
        self.runtime.block_on(self.inner.work(branch))
    }
    fn refused_work(&self, branch: &BranchId) {
        self.runtime.block_on(self.inner.refused_work(branch));
    }
    fn read_only_work(&self, branch: &BranchId) -> Option<Worked> {
        self.runtime.block_on(self.inner.read_only_work(branch))
    }
    fn effect(&self, branch: &BranchId) -> Effect {
        self.runtime.block_on(self.inner.effect(branch))
    }
    fn crash(&mut self) {
        self.runtime.block_on(self.inner.crash());
    }
    fn coordinator_log(&self) -> LogId {
        self.inner.coordinator_log()
    }
    fn remembers_lives(&self) -> bool {
        self.inner.remembers_lives()
    }
    fn keeps_work(&self) -> bool {
        self.inner.keeps_work()
    }
    fn coordinator_syncs(&self) {
        self.runtime.block_on(self.inner.coordinator_syncs());
    }
}

impl<H: AsyncHarness<Participant: AsyncLastResource>> LastResourceHarness for Blocking<H> {
    fn name(&self) -> Name {
        self.inner.name()
    }
    fn resource(&self) -> Arc<dyn LastResource> {
        Arc::new(Blocking { runtime: self.runtime.clone(), inner: self.inner.participant() })
    }
    fn work(&self, branch: &BranchId) -> Worked {
        self.runtime.block_on(self.inner.work(branch))
    }
    fn refused_work(&self, branch: &BranchId) -> bool {
        self.runtime.block_on(self.inner.refused_work(branch));
        true
    }
    fn effect(&self, branch: &BranchId) -> Effect {
        self.runtime.block_on(self.inner.effect(branch))
    }
    fn crash(&mut self) {
        self.runtime.block_on(self.inner.crash());
    }
}

impl<R: AsyncLastResource> LastResource for Blocking<Arc<R>> {
    fn commit(&self, branch: &BranchId, call: &Call) -> Result<Decision, ParticipantError> {
        self.runtime.block_on(self.inner.commit(branch, call))
    }
    fn rollback(&self, branch: &BranchId, call: &Call) -> Result<(), ParticipantError> {
        self.runtime.block_on(self.inner.rollback(branch, call))
    }
    fn memory(&self) -> Option<&dyn CommitMemory> {
        self.inner.remembers().then_some(self)
    }
}

impl<R: AsyncLastResource> CommitMemory for Blocking<Arc<R>> {
    fn committed(&self, branch: &BranchId) -> Result<LastResourceAnswer, ParticipantError> {
        self.runtime.block_on(self.inner.committed(branch))
    }
}

impl<P: AsyncParticipant> Participant for Blocking<Arc<P>> {
    fn prepare(&self, branch: &BranchId, call: &Call) -> Result<Vote, ParticipantError> {
        self.runtime.block_on(self.inner.prepare(branch, call))
    }
    fn commit(&self, branch: &BranchId, call: &Call) -> Result<(), ParticipantError> {
        self.runtime.block_on(self.inner.commit(branch, call))
    }
    fn rollback(&self, branch: &BranchId, call: &Call) -> Result<(), ParticipantError> {
        self.runtime.block_on(self.inner.rollback(branch, call))
    }
    fn commit_one_phase(&self, branch: &BranchId, call: &Call) -> Result<Decision, ParticipantError> {
        self.runtime.block_on(self.inner.commit_one_phase(branch, call))
    }
    fn in_doubt(&self, coordinator: &Name) -> Result<Vec<BranchId>, ParticipantError> {
        self.runtime.block_on(self.inner.in_doubt(coordinator))
    }
    fn meet(&self, coordinator: &Name, life: &Life) -> Result<(), ParticipantError> {
        self.runtime.block_on(self.inner.meet(coordinator, life))
    }
    fn own_name(&self) -> Option<Name> {
        self.inner.own_name()
    }
    fn greet(&self, greeting: &Greeting) {
        self.inner.greet(greeting);
    }
}
