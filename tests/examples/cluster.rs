//! The cluster example as its users run it: nodes join and leave while customers buy, nodes crash, and the
//! process dies in the middle of a chunk and goes on.

use std::{
    env, thread,
    time::{Duration, Instant},
};

use crate::support::{Example, Run};

static CLUSTER: Example = Example::new("cluster");

/// Few keys and little time, so that the run is short.
const SHORT: [&str; 4] = ["--keys", "3000", "--milliseconds", "200"];

fn run(args: &[&str]) -> Run {
    CLUSTER.run(&[&SHORT[..], args].concat())
}

fn assert_sound(run: &Run) {
    assert!(run.status.success(), "{}\n{}", run.stdout, run.stderr);
    let summary = run.summary();
    assert_eq!(summary["invariants"], "ok", "{}", run.stdout);
    assert_ne!(summary["before_tx_per_s"], "0", "{}", run.stdout);
}

#[test]
fn nodes_join_and_leave_while_customers_buy() {
    let run = run(&[]);
    assert_sound(&run);
    let summary = run.summary();
    assert!(summary["moved"].parse::<u64>().unwrap() > 2_000, "{}", run.stdout);
    assert!(run.stdout.contains("4 to 8 nodes") && run.stdout.contains("8 to 5 nodes"), "{}", run.stdout);
}

#[test]
fn a_process_that_dies_in_the_middle_of_a_chunk_goes_on_with_it() {
    for chunk in ["1", "4", "20"] {
        let directory = tempfile::tempdir().unwrap();
        let data = directory.path().to_str().unwrap();
        let died = run(&["--calm", "--data", data, "--crash-after", chunk]);
        assert!(!died.status.success(), "{}", died.stdout);
        assert!(died.stderr.contains("in the middle of a chunk"), "{}", died.stderr);
        let run = run(&["--calm", "--data", data]);
        assert_sound(&run);
        assert!(run.stdout.contains("8 to 5 nodes"), "{}", run.stdout);
    }
}

/// The whole process, with keeper, shards and clients, is killed again and again, wherever it is.
#[test]
fn a_process_that_is_killed_at_random_loses_and_doubles_nothing() {
    let is_long = env::var_os("RINGPACT_LONG").is_some();
    let (begun, time) = (Instant::now(), Duration::from_secs(if is_long { 60 } else { 4 }));
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().to_str().unwrap();
    let mut kills = 0;
    while begun.elapsed() < time || kills < 3 {
        // So slowly that most of the time something moves.
        let slowly = ["--calm", "--data", data, "--bytes-per-second", "60000"];
        let mut process = CLUSTER.start(&[&SHORT[..], &slowly].concat());
        // Until it is in the middle of something, and never the same.
        thread::sleep(Duration::from_micros(300_000 + (begun.elapsed().subsec_nanos() % 900_000) as u64));
        process.kill().unwrap();
        process.wait().unwrap();
        kills += 1;
    }
    let run = run(&["--calm", "--data", data]);
    assert_sound(&run);
}
