//! `PgParticipant` against a private PostgreSQL server, one behaviour a file. Skipped if PostgreSQL is not installed, unless
//! `RINGPACT_REQUIRE_SERVERS=1`.

mod conformance;
mod last_resource;
mod locks;
mod lost_sessions;
mod one_phase;
mod opening;
mod operator;
mod pool;
mod presets;
mod promises;
mod refused_work;
mod restart;
mod shard;
mod stock;
mod support;
mod tables;
mod transfers;
