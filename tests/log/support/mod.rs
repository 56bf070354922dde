//! What several of the log's tests need.

use std::{
    env,
    process::{Command, Stdio},
};

/// Set in the child process: the test that it runs.
const ALONE: &str = "RINGPACT_TEST_ALONE";

/// Whether this process runs only the test with this name. If not, starts one that does, and fails
/// unless that test passes there.
#[must_use]
pub fn runs_alone(test: &str) -> bool {
    if env::var_os(ALONE).is_some_and(|name| name == test) {
        return true;
    }
    let child = Command::new(env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env(ALONE, test)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&child.stdout).into_owned() + &String::from_utf8_lossy(&child.stderr);
    assert!(child.status.success() && said.contains("1 passed"), "{said}");
    false
}
