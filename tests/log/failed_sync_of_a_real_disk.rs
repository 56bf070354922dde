//! One sync fails under the real file system: a library loaded before the C library makes one
//! `fdatasync` of a child process fail with EIO. Eight threads commit at once. The sync of the
//! first succeeds, and the one that covers the others fails.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
};

use crate::common::{commit, live_numbers, open_small, prepared};
use ringpact::{LogError, TransactionLog, error_chain, log::Durability};

/// Set in the child process: the directory for the log and the library's signals.
const DIR: &str = "FAILING_SYNC";

/// Compiles the library. Prints a notice and returns `None` if there is no C compiler.
fn compile(dir: &Path) -> Option<PathBuf> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("log/support/failing_sync.c");
    let library = dir.join("failing_sync.so");
    match Command::new("cc").args(["-shared", "-fPIC", "-O1", "-o"]).arg(&library).arg(source).arg("-ldl").status() {
        Ok(status) => {
            assert!(status.success(), "cc can't compile failing_sync.c");
            Some(library)
        }
        Err(error) => {
            println!("SKIPPED: no C compiler to make the failing fdatasync with (cc: {error})");
            None
        }
    }
}

/// Not a test of its own: what the child process does, and prints line by line.
#[test]
fn child_commits() {
    let Some(dir) = env::var_os(DIR).map(PathBuf::from) else { return };
    let log = open_small(dir.join("log")).unwrap();
    commit(&log, prepared(100, 10)).unwrap();
    fs::write(dir.join("armed"), "").unwrap();
    let told = |number: u64, result: Result<_, LogError>| match result {
        Ok(_) => println!("\n{number} durable"),
        Err(LogError::Poisoned { cause }) => {
            println!("\n{number} indeterminate: {}", error_chain(&*cause));
        }
        Err(other) => println!("\n{number} {other}"),
    };
    thread::scope(|scope| {
        let log = &log;
        scope.spawn(move || told(1, commit(log, prepared(1, 10))));
        while !dir.join("slow").exists() {
            thread::yield_now(); // until the sync of the first one is under way
        }
        for number in 2..=8 {
            scope.spawn(move || told(number, commit(log, prepared(number, 10))));
        }
    });
    told(9, log.append(prepared(9, 10), Durability::Lazy));
    // The directory is free again, and shows what is really there.
    println!("\nreopened {:?}", live_numbers(&open_small(dir.join("log")).unwrap()));
}

#[test]
fn all_callers_of_a_failed_fdatasync_are_told() {
    let dir = tempfile::tempdir().unwrap();
    let Some(library) = compile(dir.path()) else { return };
    let child = Command::new(env::current_exe().unwrap())
        .args(["--exact", "failed_sync_of_a_real_disk::child_commits", "--nocapture"])
        .env(DIR, dir.path())
        .env("LD_PRELOAD", library)
        .stderr(Stdio::inherit())
        .output()
        .unwrap();
    let said = String::from_utf8(child.stdout).unwrap();
    assert!(child.status.success(), "{said}");
    assert!(said.lines().any(|line| line == "1 durable"), "{said}");
    for number in 2..=9 {
        let indeterminate = said.lines().any(|line| {
            line.starts_with(&format!("{number} indeterminate: can't sync")) && line.contains("Input/output error")
        });
        assert!(indeterminate, "{number} was told something else:\n{said}");
    }
    let reopened = said.lines().find(|line| line.starts_with("reopened ")).unwrap();
    assert!(reopened.starts_with("reopened [100, 1"), "{reopened}");
    // It stays what it was found to be.
    assert_eq!(format!("reopened {:?}", live_numbers(&open_small(dir.path().join("log")).unwrap())), reopened);
}
