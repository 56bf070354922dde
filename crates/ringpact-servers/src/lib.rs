//! Private database servers for the tests of this workspace: each test binary starts its own, in a
//! directory of its own, and nothing of it is left when the binary ends.
//!
//! The servers are those of the system's packages (on Debian `mariadb-server`). If one is not
//! installed, its tests print `SKIPPED` and pass. With `RINGPACT_REQUIRE_SERVERS=1` they fail.

pub mod mariadb;

/// Says that a test cannot run because a program is not installed.
///
/// # Panics
///
/// If `RINGPACT_REQUIRE_SERVERS=1` is set.
pub fn missing(program: &str) {
    let is_required = std::env::var("RINGPACT_REQUIRE_SERVERS").is_ok_and(|required| required == "1");
    assert!(!is_required, "{program} is not installed, and RINGPACT_REQUIRE_SERVERS=1 asks for it");
    eprintln!("SKIPPED: {program} is not installed");
}
