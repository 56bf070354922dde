//! The machine crashes at every single operation on the medium. Of what was not synced it keeps
//! nothing, everything, any part, and, for few sectors and names, every part there is. What was
//! reported durable is there afterwards, and what is there is a prefix of what was appended.

use crate::common::{Keep, Op, SimStorage, commit, ended, live_numbers, long_form, open_sim, prepared};
use ringpact::{FileLog, LogError, TransactionLog, log::Durability};

/// What is done to a log.
#[derive(Clone, Copy)]
struct Workload {
    transactions: u64,
    work_bytes: usize,
}

/// Both replace the smallest segment several times: with much work in each record, or with a block
/// for each batch.
const LARGE: Workload = Workload { transactions: 24, work_bytes: 6_000 };
const SMALL: Workload = Workload { transactions: 50, work_bytes: 100 };

const STUCK: u64 = 1_000;

/// The records that the workload appends, in order: one transaction stays; others come and go, each
/// ended two later.
fn script(workload: Workload) -> Vec<(u64, Change)> {
    let mut script = vec![(STUCK, Change::Begins)];
    for number in 1..=workload.transactions {
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
fn states(workload: Workload) -> Vec<Vec<u64>> {
    let mut live = Vec::new();
    let mut states = vec![live.clone()];
    for (number, change) in script(workload) {
        match change {
            Change::Begins => live.push(number),
            Change::Ends => live.retain(|other| *other != number),
        }
        states.push(live.clone());
    }
    states
}

/// Runs the script until something fails. Returns how many records were appended and how many were
/// reported durable.
fn work(log: &FileLog, workload: Workload) -> (usize, usize) {
    let (mut appended, mut durable) = (0, 0);
    let mut step = |number, change| -> Result<(), LogError> {
        match change {
            Change::Begins => {
                let lsn = log.append(prepared(number, workload.work_bytes), Durability::Forced)?;
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
    let _ = script(workload).into_iter().try_for_each(|(number, change)| step(number, change));
    (appended, durable)
}

fn keeps() -> impl Iterator<Item = Keep> {
    [Keep::Nothing, Keep::Everything].into_iter().chain((0..4).map(Keep::Some))
}

#[track_caller]
fn check(storage: &SimStorage, workload: Workload, (appended, durable): (usize, usize), moment: &str) {
    let log = open_sim(storage).unwrap_or_else(|error| panic!("{moment}: {error}"));
    let found = live_numbers(&log);
    // One record may have got no answer and yet be there: that of the append that was under way.
    let states = states(workload);
    let allowed = &states[durable..=(appended + 1).min(states.len() - 1)];
    assert!(allowed.contains(&found), "{moment}: {durable} durable of {appended}, live are {found:?}");
    commit(&log, prepared(9_999, 10)).unwrap_or_else(|error| panic!("{moment}: the log does not work on: {error}"));
}

/// The number of operations that the workload takes if nothing fails.
fn operations(workload: Workload) -> u64 {
    let storage = SimStorage::new();
    let log = open_sim(&storage).unwrap();
    let all = script(workload).len();
    assert_eq!(work(&log, workload), (all, all - 1));
    drop(log);
    let renames = storage.trace().iter().filter(|(op, _)| *op == Op::Rename).count();
    assert!(renames >= 3, "the workload replaces segments: {renames}");
    storage.ops()
}

/// Makes the machine crash at this operation. Returns what was appended and reported durable
/// before.
fn crash_at(op: u64, workload: Workload) -> (SimStorage, (usize, usize)) {
    let storage = SimStorage::new();
    storage.freeze_at(op);
    let done = open_sim(&storage).map_or((0, 0), |log| work(&log, workload));
    (storage, done)
}

#[test]
fn a_crash_at_any_operation_loses_nothing_durable() {
    for op in 0..operations(LARGE) {
        let (storage, done) = crash_at(op, LARGE);
        for keep in keeps() {
            check(&storage.crash(keep), LARGE, done, &format!("crash at operation {op}, keeping {keep:?}"));
        }
    }
}

/// Tries all that a crash may keep of a batch and of names, not a sample: each set of sectors with
/// each set of names.
#[test]
fn whatever_a_crash_keeps_of_a_few_sectors_nothing_durable_is_lost() {
    // A batch of one block has 8 sectors. If leftovers follow, the block of zeros behind it has as
    // many.
    let most = if long_form() { 17 } else { 10 };
    let mut crashes = 0;
    for op in 0..operations(SMALL) {
        let (storage, done) = crash_at(op, SMALL);
        let choices = storage.choices();
        if choices > most {
            continue;
        }
        for part in 0..1 << choices {
            let keep = Keep::Just(part);
            check(
                &storage.crash(keep),
                SMALL,
                done,
                &format!("crash at operation {op}, keeping {part:#b} of {choices}"),
            );
            crashes += 1;
        }
    }
    println!("{crashes} crashes");
    assert!(crashes > 10 << 8, "{crashes} crashes; there are batches of one block");
}

/// A crash while the log recovers from a crash.
#[test]
fn a_crash_at_any_operation_of_an_opening_loses_nothing_durable() {
    for (crashed_at, first) in [(20, Keep::Nothing), (45, Keep::Some(1)), (48, Keep::Everything), (60, Keep::Some(2))] {
        let storage = SimStorage::new();
        storage.freeze_at(crashed_at);
        let done = work(&open_sim(&storage).unwrap(), LARGE);
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
                check(&reopened.crash(keep), LARGE, done, &moment);
            }
        }
    }
}
