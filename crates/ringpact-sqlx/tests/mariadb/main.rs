//! `SqlxMySqlParticipant` against a private MariaDB server, killed and restarted, under real transactions.
//!
//! The traps of MariaDB are the same over each client library, so these tests are those of `ringpact-mysql`, with `support.rs` over
//! sqlx. The other files are about what sqlx does otherwise.

mod clients;
#[path = "../../../ringpact-mysql/tests/mariadb/conformance.rs"]
mod conformance;
#[path = "../../../ringpact-mysql/tests/mariadb/crashes.rs"]
mod crashes;
mod dropped_futures;
#[path = "../../../ringpact-mysql/tests/mariadb/lost_sessions.rs"]
mod lost_sessions;
mod opening;
#[path = "../../../ringpact-mysql/tests/mariadb/operators.rs"]
mod operators;
mod stock;
mod support;
#[path = "../../../ringpact-mysql/tests/mariadb/tables/mod.rs"]
mod tables;
mod tables_over_sqlx;
#[path = "../../../ringpact-mysql/tests/mariadb/transfers.rs"]
mod transfers;
mod traps;
