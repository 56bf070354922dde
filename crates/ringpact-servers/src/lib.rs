//! Private database servers, each in a directory of its own, for tests and examples.

use std::env;

pub mod postgres;

/// Says that a server is not installed, so that a test is skipped. Prints why.
///
/// # Panics
///
/// If `RINGPACT_REQUIRE_SERVERS` is 1: then the tests must not be skipped.
pub fn missing(server: &str, why: &str) {
    let is_required = env::var("RINGPACT_REQUIRE_SERVERS").is_ok_and(|value| value == "1");
    assert!(!is_required, "{server} is required, but {why}");
    println!("SKIPPED: {server}: {why}");
}
