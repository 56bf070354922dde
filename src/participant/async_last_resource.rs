//! Last resources whose methods are asynchronous. Only with the feature `tokio`.

use std::{error::Error as StdError, future::Future, sync::Arc};

use super::{AsyncParticipant, Call, Decision, Greeting, LastResourceAnswer, Life, ParticipantError, Vote};
use crate::id::{BranchId, Name};

/// A [`LastResource`](super::LastResource) whose methods are asynchronous, with its
/// [memory](super::CommitMemory). Each call is a task on the user's runtime, and no thread waits for
/// it, so a slow database keeps none of the coordinator's threads. Shared by [`Arc`], which is an
/// asynchronous last resource itself.
///
/// Every [`XaParticipant`](super::xa::XaParticipant) is one. Register it with
/// [`async_last_resource`](crate::txn::CoordinatorBuilder::async_last_resource).
/// [`conformance::check_async_last_resource`](super::conformance::check_async_last_resource) is the
/// suite.
///
/// ```
/// use std::{collections::BTreeMap, sync::Mutex};
/// use ringpact::{
///     BranchId, Coordinator, MemoryLog, ParticipantError,
///     participant::{AsyncLastResource, Call, Decision, LastResourceAnswer},
/// };
///
/// /// A database without two-phase commit. Its table of markers is a map here.
/// #[derive(Default)]
/// struct Database(Mutex<BTreeMap<BranchId, Decision>>);
///
/// impl Database {
///     /// Inserts the marker, unless there is one. Returns the one that is there.
///     async fn mark(&self, branch: &BranchId, marker: Decision) -> Result<Decision, ParticipantError> {
///         let mut markers = self.0.lock().map_err(|_| ParticipantError::resource("the database is broken"))?;
///         Ok(*markers.entry(branch.clone()).or_insert(marker))
///     }
/// }
///
/// impl AsyncLastResource for Database {
///     async fn commit(&self, branch: &BranchId, _: &Call) -> Result<Decision, ParticipantError> {
///         self.mark(branch, Decision::Commit).await // In the transaction that does the branch's work.
///     }
///     async fn rollback(&self, branch: &BranchId, _: &Call) -> Result<(), ParticipantError> {
///         match self.mark(branch, Decision::Rollback).await? {
///             Decision::Commit => Err(ParticipantError::AlreadyCommitted),
///             Decision::Rollback => Ok(()),
///         }
///     }
///     async fn committed(&self, branch: &BranchId) -> Result<LastResourceAnswer, ParticipantError> {
///         Ok(match self.mark(branch, Decision::Rollback).await? {
///             Decision::Commit => LastResourceAnswer::Committed,
///             Decision::Rollback => LastResourceAnswer::NotCommitted,
///         })
///     }
/// }
///
/// # tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
/// let runtime = tokio::runtime::Handle::current();
/// let builder = Coordinator::builder(MemoryLog::new());
/// let coordinator = builder.async_last_resource("database", Database::default(), runtime).open()?;
/// let mut txn = coordinator.begin_async().await;
/// txn.branch("database")?;
/// txn.commit().await?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// # })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub trait AsyncLastResource: Send + Sync + 'static {
    /// Commits the branch's work; see [`LastResource::commit`](super::LastResource::commit).
    fn commit(&self, branch: &BranchId, call: &Call)
    -> impl Future<Output = Result<Decision, ParticipantError>> + Send;

    /// Gives the branch's work up; see [`LastResource::rollback`](super::LastResource::rollback).
    fn rollback(&self, branch: &BranchId, call: &Call) -> impl Future<Output = Result<(), ParticipantError>> + Send;

    /// Returns whether the resource has committed this branch; see
    /// [`CommitMemory::committed`](super::CommitMemory::committed). The duties are those of
    /// [`CommitMemory`](super::CommitMemory): the answer
    /// [`NotCommitted`](LastResourceAnswer::NotCommitted) is a promise.
    fn committed(&self, branch: &BranchId)
    -> impl Future<Output = Result<LastResourceAnswer, ParticipantError>> + Send;

    /// Whether the resource remembers what it has committed. The default implementation returns
    /// `true`. If it returns `false`, [`committed`](Self::committed) is never called, and a crash may
    /// tear a transaction. The coordinator looks once, when it opens. Must not block.
    fn remembers(&self) -> bool {
        true
    }

    /// Returns the branches that the resource has promised to this coordinator, because it was
    /// registered as an ordinary participant before. The default implementation returns none.
    fn in_doubt(&self, coordinator: &Name) -> impl Future<Output = Result<Vec<BranchId>, ParticipantError>> + Send {
        let _ = coordinator;
        async { Ok(Vec::new()) }
    }

    /// Commits one of [these branches](Self::in_doubt); see
    /// [`Participant::commit`](super::Participant::commit). The default implementation knows none.
    fn commit_promised(
        &self,
        branch: &BranchId,
        call: &Call,
    ) -> impl Future<Output = Result<(), ParticipantError>> + Send {
        let _ = (branch, call);
        async { Err(ParticipantError::UnknownBranch) }
    }

    /// Checks how a coordinator introduces itself; see
    /// [`Participant::meet`](super::Participant::meet).
    ///
    /// # Errors
    ///
    /// As for [`Participant::meet`](super::Participant::meet).
    fn meet(&self, coordinator: &Name, life: &Life) -> impl Future<Output = Result<(), ParticipantError>> + Send {
        let _ = (coordinator, life);
        async { Ok(()) }
    }

    /// Returns the resource's own name, if it has one; see
    /// [`Participant::own_name`](super::Participant::own_name). Must not block.
    fn own_name(&self) -> Option<Name> {
        None
    }

    /// Takes in that a coordinator of the same process was opened; see
    /// [`Participant::greet`](super::Participant::greet). Must not block.
    fn greet(&self, greeting: &Greeting) {
        let _ = greeting;
    }

    /// Whether this is an error of the resource's own kind that may not come again; see
    /// [`Participant::is_transient`](super::Participant::is_transient). Must not block. The default implementation returns
    /// `false`.
    fn is_transient(&self, error: &(dyn StdError + 'static)) -> bool {
        let _ = error;
        false
    }
}

impl<R: AsyncLastResource> AsyncLastResource for Arc<R> {
    fn commit(
        &self,
        branch: &BranchId,
        call: &Call,
    ) -> impl Future<Output = Result<Decision, ParticipantError>> + Send {
        (**self).commit(branch, call)
    }
    fn rollback(&self, branch: &BranchId, call: &Call) -> impl Future<Output = Result<(), ParticipantError>> + Send {
        (**self).rollback(branch, call)
    }
    fn committed(
        &self,
        branch: &BranchId,
    ) -> impl Future<Output = Result<LastResourceAnswer, ParticipantError>> + Send {
        (**self).committed(branch)
    }
    fn remembers(&self) -> bool {
        (**self).remembers()
    }
    fn in_doubt(&self, coordinator: &Name) -> impl Future<Output = Result<Vec<BranchId>, ParticipantError>> + Send {
        (**self).in_doubt(coordinator)
    }
    fn commit_promised(
        &self,
        branch: &BranchId,
        call: &Call,
    ) -> impl Future<Output = Result<(), ParticipantError>> + Send {
        (**self).commit_promised(branch, call)
    }
    fn meet(&self, coordinator: &Name, life: &Life) -> impl Future<Output = Result<(), ParticipantError>> + Send {
        (**self).meet(coordinator, life)
    }
    fn own_name(&self) -> Option<Name> {
        (**self).own_name()
    }
    fn greet(&self, greeting: &Greeting) {
        (**self).greet(greeting);
    }
    fn is_transient(&self, error: &(dyn StdError + 'static)) -> bool {
        (**self).is_transient(error)
    }
}

/// Makes a participant of an [`AsyncLastResource`].
pub(crate) struct AsyncLastResourceParticipant<R>(pub(super) R);

impl<R> AsyncLastResourceParticipant<R> {
    pub(crate) const fn new(resource: R) -> Self {
        Self(resource)
    }
}

impl<R: AsyncLastResource> AsyncParticipant for AsyncLastResourceParticipant<R> {
    /// Never called: the coordinator knows that the resource is not to promise.
    async fn prepare(&self, branch: &BranchId, call: &Call) -> Result<Vote, ParticipantError> {
        self.0.rollback(branch, call).await.map(|()| Vote::No)
    }

    /// Comes for what was promised before the resource was registered as one.
    async fn commit(&self, branch: &BranchId, call: &Call) -> Result<(), ParticipantError> {
        self.0.commit_promised(branch, call).await
    }

    async fn rollback(&self, branch: &BranchId, call: &Call) -> Result<(), ParticipantError> {
        self.0.rollback(branch, call).await
    }

    async fn commit_one_phase(&self, branch: &BranchId, call: &Call) -> Result<Decision, ParticipantError> {
        self.0.commit(branch, call).await
    }

    async fn in_doubt(&self, coordinator: &Name) -> Result<Vec<BranchId>, ParticipantError> {
        self.0.in_doubt(coordinator).await
    }

    async fn meet(&self, coordinator: &Name, life: &Life) -> Result<(), ParticipantError> {
        self.0.meet(coordinator, life).await
    }

    fn own_name(&self) -> Option<Name> {
        self.0.own_name()
    }

    fn greet(&self, greeting: &Greeting) {
        self.0.greet(greeting);
    }

    fn is_transient(&self, error: &(dyn StdError + 'static)) -> bool {
        self.0.is_transient(error)
    }
}
