//! A resource that can only commit or roll back.

use std::{error::Error as StdError, sync::Arc};

use super::{Call, Decision, Participant, ParticipantError, Vote};
use crate::id::{BranchId, Name};

/// A resource that can't promise: it can commit or roll back, and has no *prepare*. Shared by the
/// coordinator, which owns it.
///
/// A transaction can have one such resource, its *last resource* (Gray and Reuter, "Transaction
/// Processing", 1993, call it the last transaction branch). The coordinator asks it once all others
/// have promised; what it does decides the transaction.
///
/// Examples are a message broker, and a database without two-phase commit. `AsyncLastResource` (feature
/// `tokio`) is the same with asynchronous methods, and the database participants of this library are
/// resources of that kind. A resource should remember
/// which branches it has committed (a marker row, written along), and have a
/// [`memory`](Self::memory). Then a crash at any moment leaves the transaction whole.
/// For a resource that does not remember, a window of uncertainty stays open; see
/// [`CoordinatorBuilder::last_resource`](crate::txn::CoordinatorBuilder::last_resource).
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

    /// Returns what the resource remembers of its commits, if it does: usually `Some(self)`. The default
    /// implementation returns `None`. The coordinator looks once, when it opens, whether there is one.
    fn memory(&self) -> Option<&dyn CommitMemory> {
        None
    }

    /// Whether this is an error of the participant's own kind that may not come again; see
    /// [`Participant::is_transient`]. Must not block. The default implementation returns `false`.
    fn is_transient(&self, error: &(dyn StdError + 'static)) -> bool {
        let _ = error;
        false
    }
}

/// A last resource's memory of what it has committed, by which a transaction stays whole if the process
/// dies after the resource has committed and before the decision is durable.
///
/// The duties:
///
/// - The resource writes the marker of a branch together with the branch's work, so that it has both or
///   none.
/// - [`LastResourceAnswer::NotCommitted`] is a promise: *no later or repeated `commit` of the branch takes
///   effect*, not even one that is still under way. A database writes a second marker, "given up", under
///   the same key; then the first one cannot be inserted any more.
/// - The resource keeps markers until [`Call::ended_below`] of a later call has passed the branch's
///   transaction. It refuses a `commit` that comes for such a transaction after that.
///
/// What it costs: participants on the coordinator's log force their promises, because the decision comes
/// too late to take them along.
///
/// ```
/// use std::{collections::BTreeMap, sync::Mutex};
/// use ringpact::{
///     BranchId, ParticipantError,
///     participant::{Call, CommitMemory, Decision, LastResource, LastResourceAnswer},
/// };
///
/// /// A database without two-phase commit. Its table of markers is a map here.
/// struct Database(Mutex<BTreeMap<BranchId, Decision>>);
///
/// impl Database {
///     /// Inserts the marker, unless there is one. Returns the one that is there.
///     fn mark(&self, branch: &BranchId, marker: Decision) -> Result<Decision, ParticipantError> {
///         let mut markers = self.0.lock().map_err(|_| ParticipantError::resource("the database is broken"))?;
///         Ok(*markers.entry(branch.clone()).or_insert(marker))
///     }
/// }
///
/// impl LastResource for Database {
///     fn commit(&self, branch: &BranchId, _: &Call) -> Result<Decision, ParticipantError> {
///         self.mark(branch, Decision::Commit) // In the transaction that does the branch's work.
///     }
///     fn rollback(&self, branch: &BranchId, _: &Call) -> Result<(), ParticipantError> {
///         match self.mark(branch, Decision::Rollback)? {
///             Decision::Commit => Err(ParticipantError::AlreadyCommitted),
///             Decision::Rollback => Ok(()),
///         }
///     }
///     fn memory(&self) -> Option<&dyn CommitMemory> {
///         Some(self)
///     }
/// }
///
/// impl CommitMemory for Database {
///     fn committed(&self, branch: &BranchId) -> Result<LastResourceAnswer, ParticipantError> {
///         Ok(match self.mark(branch, Decision::Rollback)? {
///             Decision::Commit => LastResourceAnswer::Committed,
///             Decision::Rollback => LastResourceAnswer::NotCommitted,
///         })
///     }
/// }
/// ```
pub trait CommitMemory {
    /// Returns whether the resource has committed this branch. May block. The coordinator asks
    ///
    /// - when it opens, about each branch that a participant holds and its log has no decision of;
    ///   also about transactions that the resource took no part in, because no log knows which those
    ///   are;
    /// - when no answer to [`commit`](LastResource::commit) has come by the prepare time-out.
    ///
    /// The other branches stay in doubt until the answer comes.
    ///
    /// # Errors
    ///
    /// After any error the coordinator asks again, with back-off, until there is an answer. The status
    /// shows the transaction as [`AskingLastResource`](crate::TransactionState::AskingLastResource),
    /// with the error.
    fn committed(&self, branch: &BranchId) -> Result<LastResourceAnswer, ParticipantError>;
}

/// Whether a last resource has committed a branch. Exhaustive on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(clippy::exhaustive_enums, reason = "the protocol acts differently on each of them")]
pub enum LastResourceAnswer {
    /// It has committed the branch.
    Committed,
    /// It has not committed the branch, and never will; see [`CommitMemory`].
    NotCommitted,
    /// It does not remember. The coordinator takes that for a rollback, as if it had not asked, and
    /// the transaction may be torn.
    Unknown,
}

impl<R: LastResource + ?Sized> LastResource for Arc<R> {
    fn commit(&self, branch: &BranchId, call: &Call) -> Result<Decision, ParticipantError> {
        (**self).commit(branch, call)
    }
    fn rollback(&self, branch: &BranchId, call: &Call) -> Result<(), ParticipantError> {
        (**self).rollback(branch, call)
    }
    fn memory(&self) -> Option<&dyn CommitMemory> {
        (**self).memory()
    }
    fn is_transient(&self, error: &(dyn StdError + 'static)) -> bool {
        (**self).is_transient(error)
    }
}

/// A last resource, as the coordinator asks it whether it has committed.
#[derive(Clone)]
pub(crate) enum LastResourceMemory {
    /// It is called on a thread of the coordinator.
    AtOnce(Arc<dyn LastResource>),
    /// It is sent the question, and answers later.
    #[cfg(feature = "tokio")]
    Later(Arc<dyn CommitQuery>),
}

impl LastResourceMemory {
    /// Whether the resource remembers what it has committed. Calls foreign code.
    pub(crate) fn remembers(&self) -> bool {
        match self {
            Self::AtOnce(resource) => resource.memory().is_some(),
            #[cfg(feature = "tokio")]
            Self::Later(query) => query.remembers(),
        }
    }
}

/// Sends a last resource the question whether it has committed.
#[cfg(feature = "tokio")]
pub(crate) trait CommitQuery: Send + Sync {
    fn remembers(&self) -> bool;

    /// Sends the question. Does not block.
    fn ask(&self, branch: BranchId, reply: CommitReply);
}

/// What takes the answer to a [`CommitQuery`]. Dropped without one, it says that there is none.
#[cfg(feature = "tokio")]
pub(crate) struct CommitReply(Option<Box<dyn FnOnce(CommitAnswer) + Send>>);

/// The answer to the question whether a last resource has committed.
pub(crate) type CommitAnswer = Result<LastResourceAnswer, ParticipantError>;

#[cfg(feature = "tokio")]
impl CommitReply {
    pub(crate) fn to(receiver: impl FnOnce(CommitAnswer) + Send + 'static) -> Self {
        Self(Some(Box::new(receiver)))
    }

    pub(crate) fn send(mut self, answer: CommitAnswer) {
        if let Some(receiver) = self.0.take() {
            receiver(answer);
        }
    }
}

#[cfg(feature = "tokio")]
impl Drop for CommitReply {
    fn drop(&mut self) {
        if let Some(receiver) = self.0.take() {
            receiver(Err(ParticipantError::Unreachable));
        }
    }
}

/// Makes a participant of a [`LastResource`].
pub(crate) struct LastResourceParticipant(Arc<dyn LastResource>);

impl LastResourceParticipant {
    pub(crate) const fn new(resource: Arc<dyn LastResource>) -> Self {
        Self(resource)
    }
}

impl Participant for LastResourceParticipant {
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
