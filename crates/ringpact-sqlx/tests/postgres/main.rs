//! `SqlxPgParticipant` against a private PostgreSQL server. Skipped if PostgreSQL is not installed, unless
//! `RINGPACT_REQUIRE_SERVERS=1`.
//!
//! The traps of PostgreSQL are the same over each client library, so their tests are those of `ringpact-postgres`, with
//! `support.rs` over sqlx. The other files are about what sqlx does otherwise.

#[path = "../../../ringpact-postgres/tests/postgres/conformance.rs"]
mod conformance;
#[path = "../../../ringpact-postgres/tests/postgres/last_resource.rs"]
mod last_resource;
#[path = "../../../ringpact-postgres/tests/postgres/locks.rs"]
mod locks;
#[path = "../../../ringpact-postgres/tests/postgres/lost_sessions.rs"]
mod lost_sessions;
#[path = "../../../ringpact-postgres/tests/postgres/one_phase.rs"]
mod one_phase;
mod opening;
#[path = "../../../ringpact-postgres/tests/postgres/operator.rs"]
mod operator;
mod pool;
#[path = "../../../ringpact-postgres/tests/postgres/promises.rs"]
mod promises;
#[path = "../../../ringpact-postgres/tests/postgres/refused_work.rs"]
mod refused_work;
#[path = "../../../ringpact-postgres/tests/postgres/restart.rs"]
mod restart;
mod savepoints;
mod stock;
mod support;
#[path = "../../../ringpact-postgres/tests/postgres/tables/mod.rs"]
mod tables;
mod tables_over_sqlx;
#[path = "../../../ringpact-postgres/tests/postgres/transfers.rs"]
mod transfers;
