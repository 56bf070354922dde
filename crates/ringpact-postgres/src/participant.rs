//! A database as a participant: [`PgParticipant`].

use std::{error::Error as StdError, fmt, future::Future};

use ringpact::{
    BranchId, Name, Transaction,
    participant::{
        Decision,
        xa::{AsXa, Prepared, XaError, XaParticipant, XaStatus, XaWorkError},
    },
};
use ringpact_sql::postgres::{During, SETUP_SQL, is_transient, setup_sql};
use tokio_postgres::Client;

use crate::{
    PgBackend,
    branch::PgBranch,
    builder::PgBuilder,
    control::Control,
    error::{PgOpenError, failure},
};

/// A database of PostgreSQL as a participant. Cheap to clone: clones share one participant.
///
/// Register it with [`async_participant`](ringpact::txn::CoordinatorBuilder::async_participant) under its own name, and work
/// through [`branch`](Self::branch). See the [crate's page](crate) for a whole transaction. With
/// [`async_last_resource`](ringpact::txn::CoordinatorBuilder::async_last_resource) instead it commits without a promise, once
/// all others have promised.
#[derive(Clone)]
pub struct PgParticipant(pub(crate) XaParticipant<PgBackend>);

impl PgParticipant {
    /// The statements that prepare a database, for the schema `ringpact`. They may be run again at any time.
    pub const SETUP_SQL: &'static str = SETUP_SQL;

    /// Returns the options of a participant of this name. Give it a pool or a configuration, then call
    /// [`open`](PgBuilder::open).
    pub fn builder(name: &str) -> PgBuilder {
        PgBuilder::new(name)
    }

    pub(crate) const fn new(participant: XaParticipant<PgBackend>) -> Self {
        Self(participant)
    }

    /// Runs [`SETUP_SQL`](Self::SETUP_SQL) in the client's database, as one transaction.
    ///
    /// # Errors
    ///
    /// The database's own, for example if the role may not create a schema.
    pub async fn setup(client: &Client) -> Result<(), XaError> {
        client.batch_execute(SETUP_SQL).await.map_err(|error| failure(error, During::Repeatable))
    }

    /// Returns [`SETUP_SQL`](Self::SETUP_SQL) for a schema of another name.
    ///
    /// # Errors
    ///
    /// [`PgOpenError::Schema`] if the name would need quotes.
    pub fn setup_sql_for(schema: &str) -> Result<String, PgOpenError> {
        Ok(setup_sql(schema)?)
    }

    /// Returns the participant's name.
    #[must_use]
    pub fn name(&self) -> &Name {
        self.0.name()
    }

    /// Lets this participant take part in the transaction, and begins its branch in the database, or continues it. Waits
    /// while another task has the branch, and up to 10 s for a connection of the pool. Does not wait for the answer to `BEGIN` if
    /// the pool is the participant's own: a `BEGIN` that fails is an error of the first statement, or of the promise.
    ///
    /// Drop what is returned before the transaction commits: while it lives, the branch votes No.
    ///
    /// # Errors
    ///
    /// As [`XaWorkError`] lists. The transaction can then only be rolled back.
    pub fn branch(&self, txn: &mut Transaction) -> impl Future<Output = Result<PgBranch, XaWorkError>> + Send + use<> {
        let branch = self.0.branch(txn);
        async move { branch.await.map(PgBranch) }
    }

    /// Like [`branch`](Self::branch), for the branch of a transaction whose coordinator is in another process.
    ///
    /// Do all work of a branch in one life of this process. If the process is restarted in the middle, the database undoes
    /// the work done so far, and a later call begins the branch again without a word: it can't tell.
    ///
    /// # Errors
    ///
    /// As for [`branch`](Self::branch).
    pub async fn work(&self, branch: &BranchId) -> Result<PgBranch, XaWorkError> {
        self.0.work(branch).await.map(PgBranch)
    }

    /// Whether the error, or one that it comes from, may pass if the whole transaction is tried again: a serialization
    /// failure, a deadlock, a lock that did not come free in time, a lack of room, a lost connection, a server that is away.
    #[must_use]
    pub fn is_transient(error: &(dyn StdError + 'static)) -> bool {
        is_transient::<Control>(error)
    }

    /// Returns what this participant is doing, as far as this process knows. Does not ask the database.
    #[must_use]
    pub fn status(&self) -> XaStatus {
        self.0.status()
    }

    /// Returns this participant's prepared transactions in the database that none of these coordinators has made: promises
    /// that only a lost coordinator, or an operator, can end.
    ///
    /// # Errors
    ///
    /// The database could not be asked.
    pub async fn orphans(&self, coordinators: &[Name]) -> Result<Vec<Prepared>, XaError> {
        self.0.orphans(coordinators).await
    }

    /// Ends a prepared transaction by an operator's decision. Its coordinator, if there still is one, hears of a heuristic
    /// outcome when it decides otherwise.
    ///
    /// # Errors
    ///
    /// [`NotThere`](ringpact::participant::xa::XaErrorKind::NotThere) if there is none with this id, and what else the database
    /// says.
    pub async fn settle(&self, id: &str, decision: Decision) -> Result<(), XaError> {
        self.0.settle(id, decision).await
    }

    /// Begins no more branches, and rolls back those that have promised nothing, except those that a client works under.
    /// Promises stay in the database, and the next opening settles them.
    pub async fn shutdown(&self) {
        self.0.shutdown().await;
    }
}

impl AsXa for PgParticipant {
    type Backend = PgBackend;

    fn as_xa(&self) -> &XaParticipant<PgBackend> {
        &self.0
    }
}

impl fmt::Debug for PgParticipant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PgParticipant").field("name", self.name()).finish_non_exhaustive()
    }
}
