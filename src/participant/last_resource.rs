//! A resource that can only commit or roll back.

use std::error::Error as StdError;

use super::{Call, Decision, Participant, ParticipantError, Vote};
use crate::id::{BranchId, Name};

/// A resource that can't promise: it can commit or roll back, and has no *prepare*. Shared by the
/// coordinator, which owns it.
///
/// A transaction can have one such resource, its *last resource* (Gray and Reuter, "Transaction
/// Processing", 1993, call it the last transaction branch). The coordinator asks it once all others
/// have promised; what it does decides the transaction.
///
/// Examples are a message broker, and a database without two-phase commit. The window of
/// uncertainty is described at
/// [`CoordinatorBuilder::last_resource`](crate::txn::CoordinatorBuilder::last_resource). A resource
/// that remembers which branches it has committed (a marker row, written along) makes repeats
/// harmless, and should do so.
///
/// ```
/// use std::{collections::BTreeSet, sync::Mutex};
/// use ringpact::{
///     BranchId, Coordinator, MemoryLog, ParticipantError,
///     participant::{Call, Decision, LastResource},
/// };
///
/// /// Sends a mail for each branch, and remembers for which branches it did.
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
    /// Commits the branch's work. May block. It may be repeated if no answer came. A resource that
    /// does not know then whether it has committed returns an error.
    ///
    /// # Errors
    ///
    /// [`ParticipantError::Refused`] is a [`Decision::Rollback`] with its reason. After any other
    /// error the coordinator repeats the call until the prepare time-out; then it rolls the
    /// transaction back, and tells the client that the outcome is not known.
    fn commit(&self, branch: &BranchId, call: &Call) -> Result<Decision, ParticipantError>;

    /// Gives the branch's work up. May block. It may be repeated, and may come for a branch that
    /// the resource has never heard of.
    ///
    /// # Errors
    ///
    /// [`ParticipantError::AlreadyCommitted`] if the branch is committed after all. After any other
    /// error the coordinator repeats the call.
    fn rollback(&self, branch: &BranchId, call: &Call) -> Result<(), ParticipantError>;

    /// Whether this is an error of the participant's own kind that may not come again; see
    /// [`Participant::is_transient`]. Must not block. The default implementation returns `false`.
    fn is_transient(&self, error: &(dyn StdError + 'static)) -> bool {
        let _ = error;
        false
    }
}

/// Makes a participant of a [`LastResource`].
pub(crate) struct LastResourceParticipant<R>(R);

impl<R: LastResource> LastResourceParticipant<R> {
    pub(crate) const fn new(resource: R) -> Self {
        Self(resource)
    }
}

impl<R: LastResource> Participant for LastResourceParticipant<R> {
    /// Never called: the coordinator knows that the resource can't promise.
    fn prepare(&self, branch: &BranchId, call: &Call) -> Result<Vote, ParticipantError> {
        self.0.rollback(branch, call).map(|()| Vote::No)
    }

    /// Never called either.
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

    fn is_transient(&self, error: &(dyn StdError + 'static)) -> bool {
        self.0.is_transient(error)
    }
}
