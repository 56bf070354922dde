//! The SQL by which databases take part in [ringpact]'s transactions, without a client library.
//!
//! Applications use `ringpact-postgres`, `ringpact-mysql` or `ringpact-sqlx`, which carry these statements out. This crate is
//! for them, and for a crate over another client library: implement [`postgres::PgClient`] or [`mysql::MySqlClient`], and
//! pass [`postgres::PgBackend`] or [`mysql::MySqlBackend`] to
//! [`XaParticipant::open`](ringpact::participant::xa::XaParticipant::open). All such crates write the same rows and ids, so
//! processes with different client libraries can be one participant.
//!
//! | file, in reading order | what is in it |
//! |---|---|
//! | `timeouts.rs`, `transient.rs`, `unsuitable.rs` | what both kinds of databases share |
//! | `postgres`, `mysql` | each step of the protocol as SQL, and what the server's errors mean |

#![warn(missing_docs, clippy::exhaustive_enums, clippy::exhaustive_structs, missing_debug_implementations)]
#![forbid(unsafe_code)]

pub mod mysql;
pub mod postgres;
mod timeouts;
mod transient;
mod unsuitable;

pub use timeouts::BranchTimeouts;
pub use unsuitable::UnsuitableError;
