//! Participants that keep their data in a database which can prepare: [`XaParticipant`].
//!
//! A user's SQL runs in a transaction of the database's own. At *prepare* the database itself makes
//! the promise (`PREPARE TRANSACTION`, `XA PREPARE`) and keeps it through crashes. So a participant
//! of this kind has no log: what it must know after a restart is in the database. *XA* is the name of
//! that interface between coordinators and databases (X/Open, "Distributed Transaction Processing:
//! The XA Specification", 1991).
//!
//! [`XaBackend`] is the seam to one database. The crate `ringpact-sql` implements it for PostgreSQL,
//! MariaDB and MySQL; use it by `ringpact-postgres`, `ringpact-mysql` or `ringpact-sqlx`.
//! [`BranchProtocol`](super::BranchProtocol) decides what each message does, as it does for a
//! [`ResourceManager`](super::ResourceManager), and the same table remembers the branches.
//!
//! | file, in reading order | what is in it |
//! |---|---|
//! | `mod.rs` | what clients call: [`XaParticipant`], and [`XaBranch`], under which they work |
//! | `backend.rs` | [`XaBackend`]: what a database must be able to do; its errors |
//! | `cell.rs` | what is kept of one branch |
//! | `deliver.rs` | what coordinators call |
//! | `all_work.rs` | what an earlier life of this process has to do with a branch |
//! | `last_resource.rs` | the participant as a last resource, which commits without a promise |
//! | `operator.rs` | status, orphans, shutdown |

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use parking_lot::Mutex;
use thiserror::Error;

use super::{
    BranchInput, BranchRefusal, Effort, Life,
    branch_table::{BranchLookup, BranchTable},
    life_notes::LifeNotes,
};
use crate::{
    id::{BranchId, IdError, Name},
    txn::{BranchError, Transaction},
};

mod all_work;
mod backend;
mod cell;
mod deliver;
mod last_resource;
mod operator;

pub use backend::{Prepared, XaBackend, XaError, XaErrorKind, XaOutcome, XaPromise, XaVote};
use cell::{HeldSession, Reason, XaCell};
pub use operator::XaStatus;

/// Default maximum number of promises that wait for their decision. Below the number of connections
/// that PostgreSQL (100) and MariaDB (151) allow by default, so that a coordinator that is away leaves
/// room for other work.
pub const DEFAULT_MAX_PROMISES: usize = 64;

/// How a database takes part in transactions. Cheap to clone: clones share one participant, which
/// is an [`AsyncParticipant`](super::AsyncParticipant).
///
/// Register it with [`async_participant`](crate::txn::CoordinatorBuilder::async_participant), under
/// its own name. Clients work through [`branch`](Self::branch).
///
/// It is an [`AsyncLastResource`](super::AsyncLastResource), too. Registered with
/// [`async_last_resource`](crate::txn::CoordinatorBuilder::async_last_resource) it makes no promises:
/// it commits, with its marker, once all others have promised. A transaction can have one such
/// participant. [`XaOptions::last_resource`] is for a database that can't prepare.
///
/// Every process that works in the same database under the same participant's name is the same
/// participant: that is right for several processes of one service, each with a coordinator of its
/// own name. Two participants need two names.
pub struct XaParticipant<B: XaBackend>(Arc<Inner<B>>);

/// A participant that is an [`XaParticipant`] by another name: what a crate for one client library
/// hands out. So it is an [`AsyncParticipant`](super::AsyncParticipant) and an
/// [`AsyncLastResource`](super::AsyncLastResource), without a line for each of their methods.
pub trait AsXa: Send + Sync + 'static {
    /// The database.
    type Backend: XaBackend;

    /// Returns the participant itself.
    fn as_xa(&self) -> &XaParticipant<Self::Backend>;
}

impl<B: XaBackend> AsXa for XaParticipant<B> {
    type Backend = B;

    fn as_xa(&self) -> &Self {
        self
    }
}

struct Inner<B: XaBackend> {
    name: Name,
    backend: B,
    max_promises: usize,
    is_last_resource: bool,
    branches: Mutex<BranchTable<XaCell<B>>>,
    /// Number of branches that are bound by a promise.
    promises: AtomicUsize,
    is_closed: AtomicBool,
    notes: LifeNotes,
    /// Held by the task that deletes markers.
    sweep: ::tokio::sync::Mutex<()>,
}

/// Options of a participant; see [`XaParticipant::open`].
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct XaOptions {
    /// Maximum number of promises that wait for their decision. Above it no branch begins, with an
    /// error that may pass. [`DEFAULT_MAX_PROMISES`] if nothing else is said.
    pub max_promises: usize,
    /// Whether the participant is a last resource only, and makes no promises. `false` if nothing else
    /// is said.
    pub is_last_resource: bool,
}

impl Default for XaOptions {
    fn default() -> Self {
        Self { max_promises: DEFAULT_MAX_PROMISES, is_last_resource: false }
    }
}

impl XaOptions {
    /// Returns these options with another maximum number of promises.
    #[must_use]
    pub const fn max_promises(mut self, promises: usize) -> Self {
        self.max_promises = promises;
        self
    }

    /// Returns these options for a participant that is a last resource only: its database need not be
    /// able to prepare. It votes No on each prepare, and no coordinator opens with it as an ordinary
    /// participant.
    #[must_use]
    pub const fn last_resource(mut self) -> Self {
        self.is_last_resource = true;
        self
    }
}

/// Why a participant could not be opened.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum XaOpenError {
    /// The name is malformed.
    #[error(transparent)]
    Name(#[from] IdError),
    /// The database could not be asked which coordinators it knows.
    #[error("the database could not be asked what it holds; mend that and open again")]
    Database(#[from] XaError),
    /// A service with tables has not accepted what its database has promised; see
    /// [`AsyncService::opened`](super::tables::AsyncService::opened).
    #[error("the service has not accepted the promises of its database; mend that and open again")]
    Service(#[source] Arc<dyn std::error::Error + Send + Sync>),
}

/// Why no work can be done under a branch.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum XaWorkError {
    /// The transaction does not take the branch. The reason is a source of its own, not this error's text:
    /// [`Coordinator::run`](crate::Coordinator::run) looks for it.
    #[error("the transaction takes no branch of this participant")]
    Branch(#[from] BranchError),
    /// The branch takes no more work. The transaction can only be rolled back.
    #[error("branch {branch} takes no more work")]
    Over {
        /// The branch.
        branch: Box<BranchId>,
        /// Why.
        #[source]
        reason: Arc<dyn std::error::Error + Send + Sync>,
    },
    /// Too many promises wait for their decision.
    #[error(
        "{promises} promises of participant {participant} wait for their decision, and the limit is {limit}: begin again \
         later, or see in the coordinator's status why decisions are not delivered"
    )]
    TooManyPromises {
        /// The participant.
        participant: Name,
        /// Number of its promises.
        promises: usize,
        /// The limit, [`XaOptions::max_promises`].
        limit: usize,
    },
    /// The participant was shut down.
    #[error("participant {0} is shut down; open it again")]
    Closed(Name),
    /// The branch names another participant.
    #[error("branch {branch} is not for participant {participant}; pass the id that the transaction gave for it")]
    Misrouted {
        /// The branch as it came.
        branch: Box<BranchId>,
        /// The participant that got it.
        participant: Name,
    },
    /// The database could not begin the branch.
    #[error("the branch could not begin")]
    Database(#[from] XaError),
}

impl<B: XaBackend> XaParticipant<B> {
    /// Opens the participant of this name. Asks the database which coordinators it knows.
    ///
    /// # Errors
    ///
    /// As [`XaOpenError`] lists.
    pub async fn open(name: impl AsRef<str>, backend: B, options: XaOptions) -> Result<Self, XaOpenError> {
        let name = Name::new(name.as_ref())?;
        let mut branches = BranchTable::default();
        let lives = backend.lives().await?;
        for (coordinator, life) in &lives {
            let promises = backend.promises(coordinator).await?;
            let positions = promises.iter().filter(|promise| promise.branch.txn().epoch() == life.epoch);
            let position = positions.map(|promise| promise.position).fold(life.position, u64::max);
            branches.recall(coordinator, Life { position, ..*life });
        }
        Ok(Self(Arc::new(Inner {
            name,
            backend,
            max_promises: options.max_promises,
            is_last_resource: options.is_last_resource,
            branches: Mutex::new(branches),
            promises: AtomicUsize::new(0),
            is_closed: AtomicBool::new(false),
            notes: LifeNotes::found(lives),
            sweep: ::tokio::sync::Mutex::default(),
        })))
    }

    /// Returns the participant's name.
    #[must_use]
    pub fn name(&self) -> &Name {
        &self.0.name
    }

    /// Returns the database.
    #[must_use]
    pub fn backend(&self) -> &B {
        &self.0.backend
    }

    /// Lets this participant take part in the transaction, and begins its branch in the database, or
    /// continues it. Waits while another task has the branch.
    ///
    /// Drop what is returned before the transaction commits: with it the branch is at work, and votes
    /// No.
    ///
    /// # Errors
    ///
    /// As [`XaWorkError`] lists. After each of them the transaction can only be rolled back.
    pub fn branch(
        &self,
        txn: &mut Transaction,
    ) -> impl Future<Output = Result<XaBranch<B>, XaWorkError>> + Send + use<B> {
        let (participant, branch) = (self.clone(), txn.branch(&self.0.name).cloned());
        async move { participant.work(&branch?).await }
    }

    /// Like [`branch`](Self::branch), for the branch of a transaction whose coordinator is in another
    /// process. The participant needs a [verdict endpoint](Self::set_verdict_endpoint) of that
    /// coordinator, or a restart of this process between two pieces of work loses the first one unnoticed.
    ///
    /// # Errors
    ///
    /// As for [`branch`](Self::branch).
    pub async fn work(&self, branch: &BranchId) -> Result<XaBranch<B>, XaWorkError> {
        let inner = &self.0;
        if branch.participant() != &inner.name {
            let participant = inner.name.clone();
            return Err(XaWorkError::Misrouted { branch: Box::new(branch.clone()), participant });
        }
        let over = |reason| XaWorkError::Over { branch: Box::new(branch.clone()), reason };
        let refused = |refusal: BranchRefusal| over(Arc::new(refusal));
        let lookup = {
            let mut branches = inner.branches.lock();
            let lookup = branches.admit(branch.txn());
            // The coordinator may announce that life before the next piece of work comes.
            if let BranchLookup::UnknownLife { .. } = lookup {
                branches.refuse(branch.txn());
            }
            lookup
        };
        let cell = match lookup {
            BranchLookup::Found(cell) => cell,
            BranchLookup::EarlierLife { .. } => return Err(refused(BranchRefusal::EarlierLife)),
            BranchLookup::Ended { .. } | BranchLookup::UnknownLife { .. } => {
                return Err(refused(BranchRefusal::Unknown));
            }
        };
        let mut session = cell.hold().await;
        if cell.is_doomed() {
            cell.refuse(|| Arc::new(BranchRefusal::RolledBack));
        }
        if let Some(reason) = cell.reason_for_no_work() {
            return Err(over(reason));
        }
        if session.is_none() {
            // The client may go on and commit all the same. So the branch can only be rolled back, or a later piece of work
            // would be committed without this one.
            let fails = |fail: &dyn Fn() -> XaWorkError| {
                cell.refuse(|| Arc::new(fail()));
                Err(fail())
            };
            if inner.is_closed.load(Ordering::SeqCst) {
                return fails(&|| XaWorkError::Closed(inner.name.clone()));
            }
            let promises = inner.promises.load(Ordering::SeqCst);
            if promises >= inner.max_promises {
                let (participant, limit) = (&inner.name, inner.max_promises);
                return fails(&|| XaWorkError::TooManyPromises { participant: participant.clone(), promises, limit });
            }
            let begun = match inner.backend.begin(branch).await {
                Ok(begun) => begun,
                Err(error) => return fails(&|| XaWorkError::Database(error.clone())),
            };
            *cell.interrupt.lock() = Some(inner.backend.interrupter(&begun));
            *session = Some(begun);
            // Whether it changes anything is known when it is asked for its vote.
            cell.state.lock().protocol.handle(BranchInput::Worked(Effort::Update));
            if cell.is_doomed() {
                cell.refuse(|| Arc::new(BranchRefusal::RolledBack));
                return Err(refused(BranchRefusal::RolledBack));
            }
        }
        cell.set_at_work(true);
        Ok(XaBranch { session, cell })
    }
}

impl<B: XaBackend> XaCell<B> {
    /// Returns why no more work can be done, if that is so.
    fn reason_for_no_work(&self) -> Option<Reason> {
        let state = self.state.lock();
        let is_open = state.protocol.accepts_work() && state.refusal.is_none();
        (!is_open).then(|| state.refusal.clone().unwrap_or_else(|| Arc::new(BranchRefusal::RolledBack)))
    }
}

/// A branch at work: its session, for as long as this value lives.
///
/// If it is dropped in a panic, the branch can only be rolled back.
pub struct XaBranch<B: XaBackend> {
    session: HeldSession<B>,
    cell: Arc<XaCell<B>>,
}

impl<B: XaBackend> XaBranch<B> {
    /// Returns the session. There is one for as long as this value lives; the server may have ended it.
    #[must_use]
    pub fn session(&self) -> Option<&B::Session> {
        self.session.as_ref()
    }

    /// As [`session`](Self::session).
    pub fn session_mut(&mut self) -> Option<&mut B::Session> {
        self.session.as_mut()
    }

    /// Has the branch vote No, for this reason. The first reason stays.
    pub fn doom(&self, reason: impl Into<Box<dyn std::error::Error + Send + Sync>>) {
        self.cell.refuse(|| Arc::from(reason.into()));
    }
}

impl<B: XaBackend> Drop for XaBranch<B> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.doom("the code that worked under the branch panicked");
        }
        // Under one lock: either the message that ends the branch sees that it is at work, or this sees that it is over.
        let is_over = {
            let state = self.cell.state.lock();
            self.cell.set_at_work(false);
            state.protocol.phase() == super::BranchPhase::RolledBack
        };
        if is_over {
            // It was rolled back while this value had the session.
            drop(self.session.take());
        }
    }
}

impl<B: XaBackend> Clone for XaParticipant<B> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<B: XaBackend> fmt::Debug for XaParticipant<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("XaParticipant").field("name", &self.0.name).finish_non_exhaustive()
    }
}

impl<B: XaBackend> fmt::Debug for XaBranch<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("XaBranch").finish_non_exhaustive()
    }
}
