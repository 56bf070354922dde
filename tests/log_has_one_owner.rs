//! One log, one owner: a second opening is refused at once, whether by the same process or another one, and a holder
//! that is gone leaves no lock behind.

mod common;

use std::{env, io::BufRead, process};

use common::{commit, live_numbers, open_small, prepared};
use ringpact::{FileLog, LogError};

/// Set in the child process: the directory that it is to hold.
const HOLD: &str = "RINGPACT_TEST_HOLD";

#[test]
fn a_second_opening_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let log = open_small(dir.path()).unwrap();
    let error = FileLog::open(dir.path()).unwrap_err();
    assert!(matches!(&error, LogError::Locked { path } if path == dir.path()), "{error}");
    commit(&log, prepared(1, 10)).unwrap();
    drop(log);
    assert_eq!(live_numbers(&FileLog::open(dir.path()).unwrap()), [1]);
}

/// Not a test of its own: what the child process does.
#[test]
fn child_holds_a_log() {
    let Some(dir) = env::var_os(HOLD) else { return };
    let log = open_small(dir).unwrap();
    commit(&log, prepared(1, 10)).unwrap();
    println!("\nholding");
    std::thread::sleep(std::time::Duration::from_secs(60));
    unreachable!("killed long before");
}

#[test]
fn another_process_is_refused_until_the_first_is_killed() {
    let dir = tempfile::tempdir().unwrap();
    let mut child = process::Command::new(env::current_exe().unwrap())
        .args(["--exact", "child_holds_a_log", "--nocapture"])
        .env(HOLD, dir.path())
        .stdout(process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = io_lines(&mut child);
    assert!(lines.any(|line| line == "holding"), "the child does not get so far");
    let refused = FileLog::open(dir.path());
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(matches!(refused, Err(LogError::Locked { .. })), "{refused:?}");
    assert_eq!(live_numbers(&FileLog::open(dir.path()).unwrap()), [1]);
}

fn io_lines(child: &mut process::Child) -> impl Iterator<Item = String> + use<> {
    std::io::BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok)
}
