//! The machine crashes at every single operation on the medium, and keeps of what was not synced nothing, everything or
//! any part: whatever was reported durable is there afterwards, and what is there is a prefix of what was appended.

mod common;

use common::{Keep, Op, SimStorage, commit, ended, live_numbers, open_sim, prepared};
use ringpact::{Durability, FileLog, LogError, TransactionLog};

/// Enough work in each record that the smallest segment is replaced several times.
const WORK_BYTES: usize = 6_000;
const TRANSACTIONS: u64 = 24;
const STUCK: u64 = 1_000;

/// What the workload appends, in order: one transaction stays, others come and go, each ended two later.
fn script() -> Vec<(u64, Change)> {
    let mut script = vec![(STUCK, Change::Begins)];
    for number in 1..=TRANSACTIONS {
        script.push((number, Change::Begins));
        if number > 2 {
            script.push((number - 2, Change::Ends));
        }
    }
    script
}

#[derive(Clone, Copy, PartialEq)]
enum Change {
    Begins,
    Ends,
}

/// The live transactions after each prefix of the script.
fn states() -> Vec<Vec<u64>> {
    let mut live = Vec::new();
    let mut states = vec![live.clone()];
    for (number, change) in script() {
        match change {
            Change::Begins => live.push(number),
            Change::Ends => live.retain(|other| *other != number),
        }
        states.push(live.clone());
    }
    states
}

/// Runs the script until something fails; gives how many records were appended and reported durable.
fn work(log: &FileLog) -> (usize, usize) {
    let (mut appended, mut durable) = (0, 0);
    let mut step = |number, change| -> Result<(), LogError> {
        match change {
            Change::Begins => {
                let lsn = log.append(prepared(number, WORK_BYTES), Durability::Forced)?;
                appended += 1;
                log.wait(lsn)?;
                durable = appended;
            }
            Change::Ends => {
                log.append(ended(number), Durability::Lazy)?;
                appended += 1;
            }
        }
        Ok(())
    };
    let _ = script().into_iter().try_for_each(|(number, change)| step(number, change));
    (appended, durable)
}

fn keeps() -> impl Iterator<Item = Keep> {
    [Keep::Nothing, Keep::Everything].into_iter().chain((0..4).map(Keep::Some))
}

#[track_caller]
fn check(storage: &SimStorage, durable: usize, appended: usize, moment: &str) {
    let log = open_sim(storage).unwrap_or_else(|error| panic!("{moment}: {error}"));
    let found = live_numbers(&log);
    // One record may have been given no answer and yet be there: the append that was under way.
    let allowed = &states()[durable..=(appended + 1).min(script().len())];
    assert!(allowed.contains(&found), "{moment}: {durable} durable of {appended}, live are {found:?}");
    commit(&log, prepared(9_999, 10)).unwrap_or_else(|error| panic!("{moment}: the log does not work on: {error}"));
}

#[test]
fn a_crash_at_any_operation_loses_nothing_durable() {
    let ops = {
        let storage = SimStorage::new();
        let log = open_sim(&storage).unwrap();
        assert_eq!(work(&log), (script().len(), script().len() - 1));
        drop(log);
        let renames = storage.trace().iter().filter(|(op, _)| *op == Op::Rename).count();
        assert!(renames >= 3, "the workload replaces segments: {renames}");
        storage.ops()
    };
    for op in 0..ops {
        let storage = SimStorage::new();
        storage.freeze_at(op);
        let (appended, durable) = match open_sim(&storage) {
            Ok(log) => work(&log),
            Err(_) => (0, 0),
        };
        for keep in keeps() {
            check(&storage.crash(keep), durable, appended, &format!("crash at operation {op}, keeping {keep:?}"));
        }
    }
}

/// A crash while a crash is being recovered from.
#[test]
fn a_crash_at_any_operation_of_an_opening_loses_nothing_durable() {
    for (crashed_at, first) in [(20, Keep::Nothing), (45, Keep::Some(1)), (48, Keep::Everything), (60, Keep::Some(2))] {
        let storage = SimStorage::new();
        storage.freeze_at(crashed_at);
        let (appended, durable) = work(&open_sim(&storage).unwrap());
        let mut opened = false;
        for op in 0.. {
            if opened {
                assert!(op > 5, "opening takes more than {op} operations");
                break;
            }
            let reopened = storage.crash(first);
            reopened.freeze_at(op);
            opened = open_sim(&reopened).is_ok();
            for keep in keeps() {
                let moment = format!("crash at {crashed_at} keeping {first:?}, at {op} of the opening {keep:?}");
                check(&reopened.crash(keep), durable, appended, &moment);
            }
        }
    }
}
