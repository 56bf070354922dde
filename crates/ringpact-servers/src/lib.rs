//! Private database servers for the tests and examples of this workspace: each starts its own, in a
//! directory of its own, and nothing of it is left at the end.
//!
//! The servers are those of the system's packages (on Debian `postgresql`, `pgbouncer` and `mariadb-server`). If
//! one is not installed, its tests print `SKIPPED` and pass. With `RINGPACT_REQUIRE_SERVERS=1` they
//! fail.
//!
//! If `RINGPACT_MYSQLD` names a MySQL server (`/usr/sbin/mysqld`), the tests of MariaDB run with that server.

pub mod cutter;
pub mod mariadb;
pub mod pgbouncer;
pub mod postgres;

/// Says that a server is not installed, so that a test is skipped. Prints why.
///
/// # Panics
///
/// If `RINGPACT_REQUIRE_SERVERS=1` is set.
pub fn missing(server: &str, why: &str) {
    let is_required = std::env::var("RINGPACT_REQUIRE_SERVERS").is_ok_and(|value| value == "1");
    assert!(!is_required, "{server} is required, but {why}");
    eprintln!("SKIPPED: {server}: {why}");
}
