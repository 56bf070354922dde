//! What runs in a process of its own, because it may hang or abort, or must end as if killed.

use std::{
    env, fs,
    io::{self, Write},
    mem,
    path::{Path, PathBuf},
    process, thread,
    time::{Duration, Instant},
};

use super::{
    RECORDS,
    peers::{Log, PEERS, content},
};

/// Time limit for the first of eight commits to reach its sync. No log needs more than a few
/// milliseconds.
const UNTIL_SYNC: Duration = Duration::from_secs(5);

/// Environment variable that tells a child process of this program what to do.
pub const STEP: &str = "VERSUS_FAULTS_STEP";
pub const PEER: &str = "VERSUS_FAULTS_PEER";
/// Directory of the child. It also tells the library that makes a sync fail where its signals are.
pub const DIR: &str = "FAILING_SYNC";

/// Does what the variable says, if this process is such a child, and ends the process.
pub fn run_if_child() {
    let Ok(step) = env::var(STEP) else { return };
    let peer = env::var(PEER).unwrap_or_default();
    let dir = PathBuf::from(env::var_os(DIR).unwrap_or_default());
    let Some(peer) = PEERS.iter().find(|other| other.name == peer) else { process::exit(2) };
    match (peer.open)(&dir) {
        Ok(log) => {
            match step.as_str() {
                "fill" => fill(&*log),
                "read" => read(&*log),
                _ => fail(&*log, &dir),
            }
            mem::forget(log); // not closed, so that the log ends as if the process were killed
        }
        Err(error) => say(&format!("refused {error}")),
    }
    process::exit(0);
}

/// Prints one line, at once and whole.
fn say(line: &str) {
    let mut out = io::stdout().lock();
    // A parent that does not listen any more has given up on this process.
    let _ = out.write_all(format!("{}\n", line.replace('\n', " ")).as_bytes()).and_then(|()| out.flush());
}

fn fill(log: &dyn Log) {
    match (1..=RECORDS).try_for_each(|number| log.commit(number)) {
        Ok(()) => say("filled"),
        Err(error) => say(&format!("refused {error}")),
    }
}

fn read(log: &dyn Log) {
    match log.read() {
        Ok(found) => {
            let right = (1..=RECORDS).filter(|number| found.contains(&content(*number))).count() as u64;
            say(&format!("found {right} {}", found.len() as u64 - right));
        }
        Err(error) => say(&format!("refused {error}")),
    }
}

/// Eight threads commit. The first one's sync is slow, so that the others gather behind it, and the
/// next sync fails.
fn fail(log: &dyn Log, dir: &Path) {
    let told = |number: u64, result: Result<(), String>| match result {
        Ok(()) => say(&format!("durable {number}")),
        Err(error) => say(&format!("failed {number} {error}")),
    };
    if let Err(error) = log.commit(100).and_then(|()| fs::write(dir.join("armed"), "").map_err(|it| it.to_string())) {
        return say(&format!("refused {error}"));
    }
    thread::scope(|scope| {
        scope.spawn(|| told(1, log.commit(1)));
        let begun = Instant::now();
        while !dir.join("slow").exists() && begun.elapsed() < UNTIL_SYNC {
            thread::yield_now();
        }
        for number in 2..=8 {
            scope.spawn(move || told(number, log.commit(number)));
        }
    });
    told(9, log.commit(9));
}
