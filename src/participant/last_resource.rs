//! A resource that can only commit or roll back.

use super::{Call, Decision, Participant, ParticipantError, Vote};
use crate::id::{BranchId, Name};

/// A resource that can't promise: it can commit or roll back, and knows neither *prepare* nor what it once did. A
/// transaction can have one of them, its *last resource* (Gray and Reuter, "Transaction Processing", 1993, call it the
/// last transaction branch): it is asked once all others have promised, and what it does is what is done.
///
/// An example is a message broker or a database without two-phase commit. Its window of uncertainty is described at
/// [`CoordinatorBuilder::last_resource`](crate::txn::CoordinatorBuilder::last_resource). One that remembers which branches
/// it has committed (a marker row, written along) makes repeats harmless, and should.
///
/// ```
/// use std::{collections::BTreeSet, sync::Mutex};
/// use ringpact::{
///     BranchId, Coordinator, MemoryLog, ParticipantError,
///     participant::{Call, Decision, LastResource},
/// };
///
/// /// Sends a mail for each branch, and knows which it has sent.
/// #[derive(Default)]
/// struct Mailer(Mutex<BTreeSet<BranchId>>);
///
/// impl LastResource for Mailer {
///     fn commit(&self, branch: &BranchId, _: &Call) -> Result<Decision, ParticipantError> {
///         let mut sent = self.0.lock().map_err(|_| ParticipantError::resource("the mailer is broken"))?;
///         if sent.insert(branch.clone()) {
///             // .. send it
///         }
///         Ok(Decision::Commit)
///     }
///     fn rollback(&self, branch: &BranchId, _: &Call) -> Result<(), ParticipantError> {
///         let sent = self.0.lock().map_err(|_| ParticipantError::resource("the mailer is broken"))?;
///         if sent.contains(branch) { Err(ParticipantError::AlreadyCommitted) } else { Ok(()) }
///     }
/// }
///
/// let coordinator = Coordinator::builder(MemoryLog::new()).last_resource("mail", Mailer::default()).open()?;
/// let mut txn = coordinator.begin();
/// txn.branch("mail")?;
/// txn.commit().wait()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub trait LastResource: Send + Sync + 'static {
    /// Commits the branch's work. May be repeated where no answer came; a resource that then no longer knows whether it
    /// has committed says so with an error.
    ///
    /// # Errors
    /// [`ParticipantError::Refused`] is a [`Decision::Rollback`] with its reason. Any other error has the call repeated until the prepare time-out; then the transaction is rolled back, and its client is
    /// told that nobody knows.
    fn commit(&self, branch: &BranchId, call: &Call) -> Result<Decision, ParticipantError>;

    /// Gives the branch's work up. May be repeated, and may come for a branch that it never heard of.
    ///
    /// # Errors
    /// [`ParticipantError::AlreadyCommitted`] where it is committed after all; any other has the call repeated.
    fn rollback(&self, branch: &BranchId, call: &Call) -> Result<(), ParticipantError>;
}

/// Makes a participant of a resource that can't promise.
pub(crate) struct LastResourceParticipant<R>(R);

impl<R: LastResource> LastResourceParticipant<R> {
    pub(crate) const fn new(resource: R) -> Self {
        Self(resource)
    }
}

impl<R: LastResource> Participant for LastResourceParticipant<R> {
    /// Not called: the coordinator knows what it is.
    fn prepare(&self, branch: &BranchId, call: &Call) -> Result<Vote, ParticipantError> {
        self.0.rollback(branch, call).map(|()| Vote::No)
    }

    /// Not called either.
    fn commit(&self, _: &BranchId, _: &Call) -> Result<(), ParticipantError> {
        Err(ParticipantError::UnknownBranch)
    }

    fn rollback(&self, branch: &BranchId, call: &Call) -> Result<(), ParticipantError> {
        self.0.rollback(branch, call)
    }

    fn commit_one_phase(&self, branch: &BranchId, call: &Call) -> Result<Decision, ParticipantError> {
        self.0.commit(branch, call)
    }

    fn in_doubt(&self, _: &Name) -> Result<Vec<BranchId>, ParticipantError> {
        Ok(Vec::new())
    }
}
