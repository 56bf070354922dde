//! A process in which 64 threads append is killed with `kill -9`, for real and at random moments.
//! What it reported durable before is there afterwards, without a gap, and the lock is free.

use std::{
    collections::{BTreeMap, BTreeSet},
    env,
    io::{BufRead, BufReader},
    path::Path,
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use crate::common::{commit, ended, live_numbers, long_form, open_small, prepared};
use ringpact::{TransactionLog, log::Durability};

const THREADS: u64 = 64;
/// Set in the child process: the log's directory, and which life of it this is.
const DIR: &str = "RINGPACT_TEST_KILLED_LOG";
const LIFE: &str = "RINGPACT_TEST_KILLED_LIFE";
/// Number of lives of a log before a new one is made. Each life must find what all before it were
/// told.
const LIVES: u64 = 5;

const fn number(life: u64, thread: u64, sequence: u64) -> u64 {
    life << 40 | thread << 24 | sequence
}

/// Not a test of its own: what the child process does until it is killed.
#[test]
fn child_appends() {
    let Some(dir) = env::var_os(DIR) else { return };
    let life: u64 = env::var(LIFE).unwrap().parse().unwrap();
    let log = open_small(dir).unwrap();
    thread::scope(|scope| {
        for thread in 0..THREADS {
            let log = &log;
            scope.spawn(move || {
                for sequence in 0.. {
                    let even = number(life, thread, 2 * sequence);
                    commit(log, prepared(even, 60)).unwrap();
                    println!("\n{even} durable");
                    // A transaction that comes and goes, so that segments are replaced and
                    // something is collected.
                    let odd = number(life, thread, 2 * sequence + 1);
                    log.append(prepared(odd, 300), Durability::Lazy).unwrap();
                    log.append(ended(odd), Durability::Lazy).unwrap();
                }
            });
        }
    });
}

/// Lets a child append for this long, kills it, and returns what it has reported durable.
fn kill_after(dir: &Path, life: u64, pause: Duration) -> Vec<u64> {
    let mut child = Command::new(env::current_exe().unwrap())
        .args(["--exact", "killed_under_load::child_appends", "--nocapture"])
        .env(DIR, dir)
        .env(LIFE, life.to_string())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut killer = Some(move || {
        thread::spawn(move || {
            thread::sleep(pause);
            child.kill().unwrap();
            child.wait().unwrap()
        })
    });
    let mut killed = None;
    let mut durable = Vec::new();
    // A line that the kill has cut short has no "durable" at its end.
    for line in lines.map_while(Result::ok) {
        let Some(reported) = line.strip_suffix(" durable") else { continue };
        durable.push(reported.parse().unwrap());
        if let Some(killer) = killer.take() {
            killed = Some(killer()); // the time begins with the first record, however slow the start is
        }
    }
    let status = killed.expect("the child reports something").join().unwrap();
    assert!(!status.success(), "it was killed");
    durable
}

#[test]
fn what_a_killed_process_has_reported_is_there() {
    let kills = if long_form() { 500 } else { 20 };
    let mut random = fastrand::Rng::new();
    let (mut dir, mut reported) = (tempfile::tempdir().unwrap(), BTreeSet::new());
    let mut total = 0;
    for kill in 0..kills {
        if kill % LIVES == 0 {
            (dir, reported) = (tempfile::tempdir().unwrap(), BTreeSet::new());
        }
        let pause = Duration::from_micros(random.u64(..60_000));
        let durable = kill_after(dir.path(), kill % LIVES, pause);
        total += durable.len();
        reported.extend(durable);

        let log = open_small(dir.path()).unwrap_or_else(|error| panic!("kill {kill} after {pause:?}: {error}"));
        let found: BTreeSet<u64> = live_numbers(&log).into_iter().collect();
        let lost: Vec<_> = reported.difference(&found).collect();
        assert!(lost.is_empty(), "kill {kill} after {pause:?}: {} records are lost: {lost:?}", lost.len());
        // A thread appends one record after the other, so a prefix has no gap in any thread's even
        // numbers.
        let mut last = BTreeMap::new();
        for found in found.iter().filter(|number| *number % 2 == 0) {
            let (thread, sequence) = (found >> 24, found & 0xff_ffff);
            let expected = last.insert(thread, sequence).map_or(0, |last| last + 2);
            assert_eq!(sequence, expected, "kill {kill}: a gap in what thread {thread:x} appended");
        }
        log.abandon();
    }
    println!("{kills} kills, {total} records were reported durable and are there");
    assert!(total as u64 > kills * 10, "{total} records in {kills} lives");
}
