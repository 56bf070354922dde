//! PLACEHOLDER

#![cfg_attr(docsrs, feature(doc_cfg))]
#![warn(missing_docs, clippy::exhaustive_enums, clippy::exhaustive_structs, missing_debug_implementations)]
#![forbid(unsafe_code)]

mod branch;
mod builder;
mod database;
mod error;
#[cfg(any(feature = "postgres", feature = "mysql"))]
mod link;
#[cfg(feature = "mysql")]
mod mysql;
mod participant;
#[cfg(feature = "postgres")]
mod postgres;

pub use branch::SqlxBranch;
pub use builder::SqlxBuilder;
pub use database::SqlxDatabase;
pub use error::SqlxOpenError;
pub use participant::SqlxParticipant;
pub use ringpact::participant::xa::{DEFAULT_MAX_PROMISES, Prepared, XaError, XaErrorKind, XaStatus, XaWorkError};
pub use ringpact_sql::{BranchTimeouts, postgres::SchemaNameError};
pub use sqlx;

/// A database of PostgreSQL as a participant.
#[cfg(feature = "postgres")]
#[cfg_attr(docsrs, doc(cfg(feature = "postgres")))]
pub type SqlxPgParticipant = SqlxParticipant<sqlx::Postgres>;

/// A database of MariaDB or MySQL as a participant.
#[cfg(feature = "mysql")]
#[cfg_attr(docsrs, doc(cfg(feature = "mysql")))]
pub type SqlxMySqlParticipant = SqlxParticipant<sqlx::MySql>;

/// A branch of [`SqlxPgParticipant`].
#[cfg(feature = "postgres")]
#[cfg_attr(docsrs, doc(cfg(feature = "postgres")))]
pub type SqlxPgBranch = SqlxBranch<sqlx::Postgres>;

/// A branch of [`SqlxMySqlParticipant`].
#[cfg(feature = "mysql")]
#[cfg_attr(docsrs, doc(cfg(feature = "mysql")))]
pub type SqlxMySqlBranch = SqlxBranch<sqlx::MySql>;
