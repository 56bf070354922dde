//! What differs between the databases of sqlx: [`SqlxDatabase`].

use std::{error::Error as StdError, future::Future};

use ringpact::{
    Name,
    participant::{tables::TableBackend, xa::XaBackend},
};
use ringpact_sql::BranchTimeouts;
use sqlx::{Database, Pool};

use crate::{SqlxOpenError, SqlxTx};

/// A database of sqlx that can take part: `Postgres` with the feature `postgres`, `MySql` with the feature `mysql`.
///
/// Only this crate implements it.
pub trait SqlxDatabase: Database + sealed::Sealed {
    /// The steps of the protocol.
    #[doc(hidden)]
    type Backend: XaBackend;

    /// The steps of the protocol, for a service with tables.
    #[doc(hidden)]
    type Tables: TableBackend<Tx = SqlxTx<Self>>;

    /// A connection with a service's transaction open in it.
    #[doc(hidden)]
    type Begun: Send + 'static;

    /// See [`SqlxParticipant::SETUP_SQL`](crate::SqlxParticipant::SETUP_SQL).
    #[doc(hidden)]
    const SETUP: &'static str;

    /// Checks the database, and returns the backend on it.
    #[doc(hidden)]
    fn backend(wanted: Wanted<Self>) -> impl Future<Output = Result<Self::Backend, SqlxOpenError>> + Send;

    /// Returns this backend for a service with tables.
    #[doc(hidden)]
    fn tables(backend: Self::Backend) -> Self::Tables;

    /// Carries out statements that are sent as text.
    #[doc(hidden)]
    fn run(pool: &Pool<Self>, sql: &str) -> impl Future<Output = Result<(), sqlx::Error>> + Send;

    /// Returns the session's connection.
    #[doc(hidden)]
    fn connection(session: &<Self::Backend as XaBackend>::Session) -> &Self::Connection;

    /// Returns the session's connection.
    #[doc(hidden)]
    fn connection_mut(session: &mut <Self::Backend as XaBackend>::Session) -> &mut Self::Connection;

    /// Returns the connection of a service's transaction.
    #[doc(hidden)]
    fn service_connection(begun: &Self::Begun) -> &Self::Connection;

    /// Returns the connection of a service's transaction, for statements of the service.
    #[doc(hidden)]
    fn service_connection_mut(begun: &mut Self::Begun) -> &mut Self::Connection;

    /// Takes in that there are coordinators of these names.
    #[doc(hidden)]
    fn knows(backend: &Self::Backend, coordinators: &[Name]);

    /// See [`SqlxParticipant::is_transient`](crate::SqlxParticipant::is_transient).
    #[doc(hidden)]
    fn is_transient(error: &(dyn StdError + 'static)) -> bool;
}

/// What the options of a participant ask of its database.
#[derive(Debug)]
pub struct Wanted<DB: Database> {
    /// The participant's name.
    pub participant: Name,
    /// Connections for branches.
    pub pool: Pool<DB>,
    /// Maximum number of connections that end promises and sessions.
    pub control_connections: u32,
    /// Maximum number of promises of this process.
    pub max_promises: usize,
    /// Whether the participant makes no promises.
    pub is_last_resource: bool,
    /// How long a branch may wait.
    pub timeouts: BranchTimeouts,
    /// Whether promises may be lost in a crash of the server.
    pub accepts_loss: bool,
    /// Name of the schema with the participant's tables, in PostgreSQL.
    pub schema: String,
    /// Whether it is for a service with tables.
    pub is_for_tables: bool,
}

pub(crate) mod sealed {
    /// Keeps [`SqlxDatabase`](super::SqlxDatabase) to this crate.
    pub trait Sealed {}
}
