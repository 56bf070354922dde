//! Services that keep their reservations in a database's tables: [`TableParticipant`].
//!
//! For databases that cannot prepare, and for services that do not want prepared transactions to
//! hold locks. The service implements try, confirm and cancel in SQL ([`AsyncService`]). Each runs in
//! a transaction of the database's own, and in the same transaction this participant writes what has
//! become of the branch, in one row for each branch. So each of them has its effect exactly once,
//! however often a message comes and whatever is lost: the service need not be idempotent.
//!
//! The crates `ringpact-postgres` and `ringpact-mysql` have the [`TableBackend`] of their databases: call
//! `open_tables` of their builders.
//!
//! The participant keeps nothing in memory that a restart could lose. Several processes can serve one
//! database under one participant's name: the lock of the branch's row orders what they do.
//! [`BranchProtocol`](super::BranchProtocol) decides what each message does.
//!
//! | file, in reading order | what is in it |
//! |---|---|
//! | `mod.rs` | [`AsyncService`], and what clients call: [`TableParticipant`] |
//! | `backend.rs` | [`TableBackend`]: what a database must be able to do; the row of a branch |
//! | `deliver.rs` | what coordinators call |

use std::{
    collections::BTreeMap,
    error::Error as StdError,
    fmt,
    future::Future,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use parking_lot::Mutex;
use serde::{Serialize, de::DeserializeOwned};
use thiserror::Error;

use super::{
    BranchRefusal, Introduction, KnownLife, Life, MAX_WORK_BYTES, ParticipantError, ServiceError,
    life_notes::LifeNotes,
    wire::cut,
    xa::{XaError, XaErrorKind},
};
use crate::{
    causes, error_chain,
    id::{BranchId, Name, TxnOrdinal},
    participant::xa::XaOpenError,
    txn::{BranchError, Transaction},
};

mod backend;
mod deliver;

pub use backend::{BranchRow, RowState, TableBackend};

/// Number of times that a step is tried in which another transaction comes first.
const MAX_TRIES: u32 = 5;

/// A service's side of *try / confirm / cancel*, in a database's transactions. `Tx` is the
/// transaction of the [`TableBackend`].
///
/// [`TableParticipant`] calls these methods, and commits what they did together with the state of the
/// branch. None of them commits. What a method did before it returned an error is rolled back. If the
/// error may pass (a deadlock; see [`TableBackend::is_transient`]), the method is called again, in
/// another transaction.
pub trait AsyncService<Tx>: Send + Sync + 'static {
    /// A piece of work: small, with all that is needed to carry it out.
    type Work: Serialize + DeserializeOwned + Send + Sync + 'static;

    /// *Try*: checks the work and sets aside what it needs, so that a later confirm can't lack it.
    ///
    /// # Errors
    ///
    /// Nothing is set aside, and the transaction can only be rolled back, unless
    /// [`dooms`](Self::dooms) says otherwise.
    fn try_reserve(
        &self,
        tx: &mut Tx,
        branch: &BranchId,
        work: &Self::Work,
    ) -> impl Future<Output = Result<(), ServiceError>> + Send;

    /// Whether this error of [`try_reserve`](Self::try_reserve) dooms the branch, so that its transaction
    /// can only be rolled back. The default implementation returns `true`, and so does a panic count.
    /// Must not block.
    ///
    /// With `false` the branch is what it was before the call: earlier pieces of work stay, and it can
    /// still promise them. A branch without any leaves no row, and its client may
    /// [withdraw](crate::txn::Transaction::withdraw) this participant from the transaction.
    fn dooms(&self, error: &(dyn StdError + Send + Sync + 'static)) -> bool {
        let _ = error;
        true
    }

    /// *Confirm*: carries out all of the branch's work, in order.
    ///
    /// # Errors
    ///
    /// The call is repeated until it succeeds, because the transaction is committed.
    fn confirm(
        &self,
        tx: &mut Tx,
        branch: &BranchId,
        works: &[Self::Work],
    ) -> impl Future<Output = Result<(), ServiceError>> + Send;

    /// *Cancel*: gives back what was set aside.
    ///
    /// # Errors
    ///
    /// The call is repeated until it succeeds.
    fn cancel(
        &self,
        tx: &mut Tx,
        branch: &BranchId,
        works: &[Self::Work],
    ) -> impl Future<Output = Result<(), ServiceError>> + Send;

    /// Takes in which branches had promised when the participant opened, in order. They wait for
    /// their decisions. Called once at each opening, before any work is done, in a transaction that is
    /// then committed. The default implementation does nothing.
    ///
    /// It is for what a service keeps outside of the tables, and for checks. There is nothing to give
    /// back here: reservations of other branches may be those of another process that is at work, and
    /// the participant cancels each that is void.
    ///
    /// The database lists the promises to coordinators that name their log, as all coordinators of this
    /// crate do.
    ///
    /// # Errors
    ///
    /// The participant does not open: [`XaOpenError::Service`].
    fn opened(&self, tx: &mut Tx, promised: &[BranchId]) -> impl Future<Output = Result<(), ServiceError>> + Send {
        let _ = (tx, promised);
        std::future::ready(Ok(()))
    }
}

/// How a service takes part that keeps its reservations in tables. Cheap to clone: clones share one
/// participant, which is an [`AsyncParticipant`](super::AsyncParticipant).
pub struct TableParticipant<B, S>(Arc<Inner<B, S>>);

struct Inner<B, S> {
    name: Name,
    backend: B,
    service: S,
    coordinators: Mutex<BTreeMap<Name, Known>>,
    notes: LifeNotes,
    /// Branches that can only be rolled back, of which the database could not be told, and why.
    doomed: Mutex<BTreeMap<BranchId, String>>,
    sweep: ::tokio::sync::Mutex<()>,
}

/// What is known of one coordinator.
#[derive(Default)]
struct Known {
    life: KnownLife,
    /// All of its transactions below this one have ended.
    ended_below: TxnOrdinal,
    /// The rows below this transaction are deleted.
    swept: TxnOrdinal,
}

/// Why a piece of work was not done. The transaction can only be rolled back, unless the service says
/// that its error [does not doom](AsyncService::dooms) the branch.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum TableWorkError {
    /// The transaction does not take the branch. The reason is a source of its own, not this error's text:
    /// [`Coordinator::run`](crate::Coordinator::run) looks for it.
    #[error("the transaction takes no branch of this participant")]
    Branch(#[from] BranchError),
    /// The service has refused the work, or failed in it.
    #[error(
        "the service has not reserved what the work needs; unless the service says otherwise, the transaction can only be rolled \
         back"
    )]
    Service(#[source] Arc<dyn StdError + Send + Sync>),
    /// The branch takes no more work.
    #[error("branch {branch} takes no more work")]
    Over {
        /// The branch.
        branch: Box<BranchId>,
        /// Why.
        #[source]
        reason: Arc<dyn StdError + Send + Sync>,
    },
    /// The work of the branch is too large for a row.
    #[error(
        "the work of branch {branch} would take {length} bytes, and the limit is {MAX_WORK_BYTES}: name large data in the \
         work, and keep the data elsewhere; or divide the work among several transactions"
    )]
    TooMuchWork {
        /// The branch.
        branch: Box<BranchId>,
        /// Encoded length of the branch's work with this piece, in bytes.
        length: usize,
    },
    /// The work can't be encoded, or what the row has can't be read.
    #[error("the work of branch {branch} can't be encoded or read; correct how the service's work is serialised")]
    Unencodable {
        /// The branch.
        branch: Box<BranchId>,
        /// What the encoder said.
        #[source]
        error: Arc<dyn StdError + Send + Sync>,
    },
    /// The branch names another participant.
    #[error("branch {branch} is not for participant {participant}; pass the id that the transaction gave for it")]
    Misrouted {
        /// The branch as it came.
        branch: Box<BranchId>,
        /// The participant that got it.
        participant: Name,
    },
    /// The database could not do it.
    #[error("the database has not done the work; the transaction can only be rolled back")]
    Database(#[from] XaError),
}

impl<B: TableBackend, S: AsyncService<B::Tx>> TableParticipant<B, S> {
    /// Opens the participant of this name. Asks the database which coordinators it knows, and tells the
    /// service what is promised to them.
    ///
    /// # Errors
    ///
    /// As [`XaOpenError`] lists.
    pub async fn open(name: impl AsRef<str>, backend: B, service: S) -> Result<Self, XaOpenError> {
        let name = Name::new(name.as_ref())?;
        let mut coordinators = BTreeMap::new();
        let mut promised = Vec::new();
        let lives = backend.lives().await?;
        for (coordinator, life) in &lives {
            let rows = backend.open_rows(coordinator).await?;
            let heard = rows.iter().filter(|(branch, _)| branch.txn().epoch() == life.epoch);
            let position = heard.map(|(_, row)| row.position).fold(life.position, u64::max);
            let mut known = Known::default();
            known.life.remember(Life { position, ..*life });
            coordinators.insert(coordinator.clone(), known);
            let is_promised =
                |(branch, row): (BranchId, BranchRow)| (row.state == RowState::Promised).then_some(branch);
            promised.extend(rows.into_iter().filter_map(is_promised));
        }
        promised.sort_unstable();
        let (coordinators, doomed, sweep) = (Mutex::new(coordinators), Mutex::default(), ::tokio::sync::Mutex::new(()));
        let notes = LifeNotes::found(lives);
        let inner = Inner { name, backend, service, coordinators, notes, doomed, sweep };
        inner.tell_opened(&promised).await?;
        Ok(Self(Arc::new(inner)))
    }

    /// Returns the participant's name.
    #[must_use]
    pub fn name(&self) -> &Name {
        &self.0.name
    }

    /// Returns the service.
    #[must_use]
    pub fn service(&self) -> &S {
        &self.0.service
    }

    /// Lets this participant take part in the transaction, and does a piece of work under its branch.
    ///
    /// # Errors
    ///
    /// As [`TableWorkError`] lists.
    pub fn execute(
        &self,
        txn: &mut Transaction,
        work: S::Work,
    ) -> impl Future<Output = Result<(), TableWorkError>> + Send + use<B, S> {
        let (participant, branch) = (self.clone(), txn.branch(&self.0.name).cloned());
        async move { participant.execute_under(&branch?, &work).await }
    }

    /// Like [`execute`](Self::execute), for the branch of a transaction whose coordinator is in
    /// another process.
    ///
    /// # Errors
    ///
    /// As for [`execute`](Self::execute).
    pub async fn execute_under(&self, branch: &BranchId, work: &S::Work) -> Result<(), TableWorkError> {
        let inner = &self.0;
        if branch.participant() != &inner.name {
            let participant = inner.name.clone();
            return Err(TableWorkError::Misrouted { branch: Box::new(branch.clone()), participant });
        }
        inner.admits(branch)?;
        let result = inner.attempt(branch, Step::Work(work)).await;
        let Err(error) = &result else { return result };
        // Nothing of the work is there, so as a rule the rest must not be committed without it.
        if inner.is_doomed_by(error) {
            let reason = cut(error_chain(error).to_string());
            if inner.attempt(branch, Step::Doom(&reason)).await.is_err() {
                inner.doomed.lock().insert(branch.clone(), reason);
            }
        }
        result
    }
}

impl<B: TableBackend, S: AsyncService<B::Tx>> Inner<B, S> {
    /// Checks that the branch's transaction can still take work, as far as it is known.
    fn admits(&self, branch: &BranchId) -> Result<(), TableWorkError> {
        let mut coordinators = self.coordinators.lock();
        let known = coordinators.entry(branch.txn().coordinator().clone()).or_default();
        let (epoch, now) = (branch.txn().epoch(), known.life.life().epoch);
        let refusal = if branch.txn().ordinal() < known.ended_below {
            BranchRefusal::RolledBack
        } else if epoch < now {
            BranchRefusal::EarlierLife
        } else if epoch > now && known.life.refuses_later_work() {
            BranchRefusal::Unknown
        } else {
            return Ok(());
        };
        Err(TableWorkError::Over { branch: Box::new(branch.clone()), reason: Arc::new(refusal) })
    }

    /// Whether the branch can only be rolled back after this error.
    fn is_doomed_by(&self, error: &TableWorkError) -> bool {
        match error {
            TableWorkError::Over { .. } => false,
            TableWorkError::Service(error) => {
                catch_unwind(AssertUnwindSafe(|| self.service.dooms(&**error))).unwrap_or(true)
            }
            _ => true,
        }
    }

    /// Tells the service which branches have promised.
    async fn tell_opened(&self, promised: &[BranchId]) -> Result<(), XaOpenError> {
        let mut tries = 1;
        loop {
            let mut tx = self.backend.begin().await?;
            let told = self.service.opened(&mut tx, promised).await;
            let told = told.map(|()| ((), Keep::All)).map_err(|error| self.of_service(error));
            match self.end(tx, told).await {
                Err(ServiceFailure::Database(error)) if may_repeat(&error, tries) => tries += 1,
                Err(ServiceFailure::Database(error)) => return Err(error.into()),
                Err(ServiceFailure::Service(error)) => return Err(XaOpenError::Service(error)),
                Ok(()) => return Ok(()),
            }
        }
    }

    /// Does a piece of work, or notes that the branch can only be rolled back. Tries again while another
    /// transaction comes first.
    async fn attempt(&self, branch: &BranchId, step: Step<'_, S::Work>) -> Result<(), TableWorkError> {
        let mut tries = 1;
        loop {
            let mut tx = self.backend.begin().await?;
            let done = match step {
                Step::Work(work) => self.try_work(&mut tx, branch, work).await.map(|()| ((), Keep::All)),
                Step::Doom(reason) => self.doom(&mut tx, branch, reason).await.map(|keep| ((), keep)),
            };
            match self.end(tx, done).await {
                Err(TableWorkError::Database(error)) if may_repeat(&error, tries) => tries += 1,
                result => return result,
            }
        }
    }

    /// Ends a transaction, and returns what was done in it.
    async fn end<T, E: From<XaError>>(&self, tx: B::Tx, done: Result<(T, Keep), E>) -> Result<T, E> {
        match done {
            Ok((answer, Keep::All)) => {
                self.backend.commit(tx).await?;
                Ok(answer)
            }
            Ok((answer, Keep::Nothing)) => {
                self.backend.rollback(tx).await;
                Ok(answer)
            }
            Err(error) => {
                self.backend.rollback(tx).await;
                Err(error)
            }
        }
    }

    /// Tells what passes by itself, as the service returns it, from the rest.
    fn of_service(&self, error: ServiceError) -> ServiceFailure {
        if self.is_transient(&*error) {
            ServiceFailure::Database(XaError::new(XaErrorKind::Transient, error))
        } else {
            ServiceFailure::Service(Arc::from(error))
        }
    }

    /// Whether an error, or one that it comes from, may pass if the whole transaction is tried again.
    fn is_transient(&self, error: &(dyn StdError + 'static)) -> bool {
        let is_transient = |error: &XaError| error.kind() == XaErrorKind::Transient;
        self.backend.is_transient(error) || causes(error).any(|cause| cause.downcast_ref().is_some_and(is_transient))
    }

    async fn try_work(&self, tx: &mut B::Tx, branch: &BranchId, work: &S::Work) -> Result<(), TableWorkError> {
        let row = self.backend.row(tx, branch).await?;
        let state = row.as_ref().map(|row| row.state);
        if !matches!(state, None | Some(RowState::Reserved)) {
            let reason = Arc::new(BranchRefusal::RolledBack);
            return Err(TableWorkError::Over { branch: Box::new(branch.clone()), reason });
        }
        let mut works = row.map_or_else(Vec::new, |row| row.works);
        push_work(&mut works, work).map_err(|error| TableWorkError::Unencodable {
            branch: Box::new(branch.clone()),
            error: Arc::new(error),
        })?;
        if works.len() > MAX_WORK_BYTES {
            return Err(TableWorkError::TooMuchWork { branch: Box::new(branch.clone()), length: works.len() });
        }
        let row = BranchRow::new(RowState::Reserved, works, 0);
        // The row first: another transaction that has it is waited for before the service works.
        match state {
            None => self.backend.insert(tx, branch, &row).await?,
            Some(_) => self.backend.update(tx, branch, &row).await?,
        }
        let tried = self.service.try_reserve(tx, branch, work).await;
        tried.map_err(|error| match self.of_service(error) {
            ServiceFailure::Database(error) => TableWorkError::Database(error),
            ServiceFailure::Service(error) => TableWorkError::Service(error),
        })
    }

    /// Notes that the branch can only be rolled back.
    async fn doom(&self, tx: &mut B::Tx, branch: &BranchId, reason: &str) -> Result<Keep, TableWorkError> {
        let refusal = Some(reason.to_owned());
        match self.backend.row(tx, branch).await? {
            None => {
                let row = BranchRow { refusal, ..BranchRow::new(RowState::Doomed, Vec::new(), 0) };
                self.backend.insert(tx, branch, &row).await?;
            }
            Some(row) if row.state == RowState::Reserved => {
                let row = BranchRow { state: RowState::Doomed, refusal, ..row };
                self.backend.update(tx, branch, &row).await?;
            }
            Some(_) => return Ok(Keep::Nothing),
        }
        Ok(Keep::All)
    }

    /// Takes in how a coordinator introduces itself.
    fn met(&self, coordinator: &Name, life: &Life) -> Result<(), ParticipantError> {
        let mut coordinators = self.coordinators.lock();
        let known = coordinators.entry(coordinator.clone()).or_default();
        if known.life.meet(coordinator, life)? == Introduction::Replaces {
            (known.ended_below, known.swept) = (TxnOrdinal::default(), TxnOrdinal::default());
        }
        Ok(())
    }
}

/// What a client has done in one transaction of the database.
#[derive(Clone, Copy)]
enum Step<'a, W> {
    /// A piece of work.
    Work(&'a W),
    /// The branch can only be rolled back, for this reason.
    Doom(&'a str),
}

/// What stays of a transaction in which nothing failed.
#[derive(Clone, Copy)]
enum Keep {
    All,
    /// It has changed nothing.
    Nothing,
}

/// Why a method of the service failed.
enum ServiceFailure {
    /// For a reason that may pass.
    Database(XaError),
    Service(Arc<dyn StdError + Send + Sync>),
}

impl From<XaError> for ServiceFailure {
    fn from(error: XaError) -> Self {
        Self::Database(error)
    }
}

/// Whether a transaction that has failed so in this try is tried again.
fn may_repeat(error: &XaError, tries: u32) -> bool {
    error.kind() == XaErrorKind::Transient && tries < MAX_TRIES
}

/// Appends a piece of work to encoded works: its length, and then itself.
fn push_work(works: &mut Vec<u8>, work: &impl Serialize) -> Result<(), postcard::Error> {
    let encoded = postcard::to_stdvec(work)?;
    works.extend(postcard::to_stdvec(&encoded.len())?);
    works.extend(encoded);
    Ok(())
}

/// Returns the pieces of work that [`push_work`] has encoded.
fn read_works<W: DeserializeOwned>(mut encoded: &[u8]) -> Result<Vec<W>, postcard::Error> {
    let mut works = Vec::new();
    while !encoded.is_empty() {
        let (length, rest) = postcard::take_from_bytes::<usize>(encoded)?;
        let (work, rest) = rest.split_at_checked(length).ok_or(postcard::Error::DeserializeUnexpectedEnd)?;
        works.push(postcard::from_bytes(work)?);
        encoded = rest;
    }
    Ok(works)
}

impl<B, S> Clone for TableParticipant<B, S> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<B, S> fmt::Debug for TableParticipant<B, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TableParticipant").field("name", &self.0.name).finish_non_exhaustive()
    }
}
