//! The shop example as its users run it: a child process, real files, real aborts.

use std::{collections::HashMap, path::Path};

use crate::support::{Example, Run};

static SHOP: Example = Example::new("shop");

fn run(args: &[&str]) -> Run {
    SHOP.run(args)
}

impl Run {
    fn assert_settled(&self, orders: u64) {
        let summary = self.summary();
        assert_eq!(summary["invariants"], "ok", "{}", self.stdout);
        assert_eq!(summary["in_doubt"], "0", "{}", self.stdout);
        assert_eq!(summary["orders"], orders.to_string(), "{}", self.stdout);
        assert!(self.status.success(), "{}", self.stderr);
    }

    #[cfg(unix)]
    fn was_aborted(&self) -> bool {
        use std::os::unix::process::ExitStatusExt;
        const SIGABRT: i32 = 6;
        self.status.signal() == Some(SIGABRT)
    }
}

fn number(summary: &HashMap<String, String>, key: &str) -> u64 {
    summary[key].parse().unwrap_or_else(|_| panic!("{key} in {summary:?}"))
}

#[test]
fn a_generated_day_with_faults_keeps_the_invariants() {
    let run = run(&["--purchases", "400"]);
    run.assert_settled(400);
    for fault in ["answer lost", "shard restarted", "machine and coordinator crashed", "fallbacks"] {
        assert!(run.stdout.contains(fault), "no {fault:?} in a day with faults:\n{}", run.stdout);
    }
}

/// The README's first command. Among its 4,000 purchases some shards crash with decisions kept back,
/// which are sent for the first time once the shard is up again.
#[test]
fn the_command_that_the_readme_names_ends_well() {
    run(&[]).assert_settled(4_000);
}

#[test]
fn the_same_seed_repeats_a_run_and_another_does_not() {
    let counts = |seed: &str| {
        let mut summary = run(&["--purchases", "300", "--seed", seed]).summary();
        summary.remove("tx_per_s");
        summary
    };
    assert_eq!(counts("7"), counts("7"));
    assert_ne!(counts("7"), counts("8"));
}

#[test]
fn without_faults_only_honest_refusals_roll_back() {
    let run = run(&["--purchases", "300", "--no-faults"]);
    run.assert_settled(300);
    assert!(!run.stdout.contains("what went wrong"), "{}", run.stdout);
}

/// Every place in the middle of a transaction, early and late in the run, with and without other
/// faults.
#[cfg(unix)]
#[test]
fn aborting_anywhere_and_running_again_loses_nothing_and_does_nothing_twice() {
    for faults in [&[][..], &["--no-faults"][..]] {
        for crash_after in (1..=24).chain([60, 61, 62, 63, 64, 65, 150, 151, 152, 153, 154, 155]) {
            let data = tempfile::tempdir().expect("a temporary directory");
            let data = data.path().to_str().expect("a temporary path is text");
            let with = |more: &[&str]| run(&[&["--purchases", "70", "--data", data], faults, more].concat());
            let crashed = with(&["--crash-after", &crash_after.to_string()]);
            assert!(crashed.was_aborted(), "N={crash_after} {faults:?}: {} {}", crashed.stdout, crashed.stderr);
            // Once more, in the middle of the recovery's own first transactions.
            let again = with(&["--crash-after", &(crash_after % 7 + 1).to_string()]);
            assert!(again.was_aborted() || again.status.success(), "N={crash_after}: {}", again.stderr);
            let last = with(&[]);
            last.assert_settled(70);
        }
    }
}

#[cfg(unix)]
#[test]
fn what_a_crash_left_in_doubt_is_settled_first_and_said() {
    let data = tempfile::tempdir().expect("a temporary directory");
    let data = data.path().to_str().expect("a temporary path is text");
    let args = ["--purchases", "200", "--no-faults", "--data", data];
    // 303 % 6 == 3: right after the decision became durable, before any participant was told.
    assert!(run(&[&args[..], &["--crash-after", "303"]].concat()).was_aborted());
    let second = run(&args);
    second.assert_settled(200);
    assert!(second.stdout.contains("recovered: "), "{}", second.stdout);
    let third = run(&args);
    third.assert_settled(200);
    assert!(third.stdout.contains("200 purchases; 200 were settled before"), "{}", third.stdout);
    let summary = third.summary();
    assert_eq!((number(&summary, "committed"), number(&summary, "rolled_back")), (0, 0), "nothing was left to do");
}

#[test]
fn real_purchases_are_read_from_a_file() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let file = dir.path().join("orders.txt");
    std::fs::write(
        &file,
        " 00004 0001 19970101  2   29.33\r\n 00004 0001 19970118  2   29.73\r\n 00021 0002 19970101  3    0.00\r\n",
    )
    .expect("the file is written");
    let run = run(&["--no-faults", "--orders", file.to_str().expect("a temporary path is text")]);
    run.assert_settled(3);
}

#[test]
fn a_line_that_does_not_parse_is_named_and_nothing_starts() {
    let good = " 00004 0001 19970101  2   29.33\r\n";
    let bad: &[(&[u8], &str)] = &[
        (b" 00004 0001 19970101  2\n", "4 fields"),
        (b" 00004 0001 19970101  2   29.33 7\n", "6 fields"),
        (b"\n", "0 fields"),
        (b" x0004 0001 19970101  2   29.33\n", "customer is \"x0004\""),
        (b" 00004 0001 19970101 -2   29.33\n", "number of CDs is \"-2\""),
        (b" 00004 0001 19970101 +2   29.33\n", "number of CDs is \"+2\""),
        (b" 00004 0001 19970101  0   29.33\n", "1 to"),
        (b" 00004 0001 19970229  2   29.33\n", "date is \"19970229\""),
        (b" 00004 0001 19971301  2   29.33\n", "date is \"19971301\""),
        (b" 00004 0001 1997010\xc3\xa9  2   29.33\n", "date is"),
        (b" 00004 0001 19970101  2   29.3\n", "dollars are \"29.3\""),
        (b" 00004 0001 19970101  2   29.333\n", "dollars are"),
        (b" 00004 0001 19970101  2   -1.00\n", "dollars are"),
        (b" 00004 0001 19970101  2   99999999999999999999.00\n", "dollars are"),
        (b" 00004 0001 19970101  2   99999999999.00\n", "at most"),
        (b" 00004 0001 \xff\xfe  2   29.33\n", "not text"),
    ];
    let dir = tempfile::tempdir().expect("a temporary directory");
    for (line, message) in bad {
        let file = dir.path().join("orders.txt");
        let data = dir.path().join("data");
        let content = [good.as_bytes(), good.as_bytes(), line, good.as_bytes()].concat();
        std::fs::write(&file, content).expect("the file is written");
        let path = |path: &Path| path.to_str().expect("a temporary path is text").to_owned();
        let run = run(&["--orders", &path(&file), "--data", &path(&data)]);
        let line = String::from_utf8_lossy(line);
        assert_eq!(run.status.code(), Some(2), "{line}: {}", run.stdout);
        assert!(run.stderr.contains("line 3"), "{line}: {}", run.stderr);
        assert!(run.stderr.contains(message), "{line}: {}", run.stderr);
        assert!(!data.exists(), "{line}: something was started");
    }
}

#[test]
fn a_data_directory_of_other_purchases_is_refused() {
    let data = tempfile::tempdir().expect("a temporary directory");
    let data = data.path().to_str().expect("a temporary path is text");
    run(&["--purchases", "20", "--data", data]).assert_settled(20);
    let other = run(&["--purchases", "21", "--data", data]);
    assert_eq!(other.status.code(), Some(2));
    assert!(other.stderr.contains("belongs to other purchases"), "{}", other.stderr);
    run(&["--purchases", "20", "--data", data]).assert_settled(20);
}

#[test]
fn a_data_directory_in_use_is_refused() {
    let data = tempfile::tempdir().expect("a temporary directory");
    let log = ringpact::FileLog::open(data.path().join("log")).expect("a new log opens");
    let path = data.path().to_str().expect("a temporary path is text");
    let refused = run(&["--purchases", "20", "--data", path]);
    assert_eq!(refused.status.code(), Some(2));
    assert!(refused.stderr.contains("in use"), "{}", refused.stderr);
    drop(log);
    run(&["--purchases", "20", "--data", path]).assert_settled(20);
}
