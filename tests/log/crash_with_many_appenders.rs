//! The machine crashes at some operation while many threads append, across segments. What any of
//! them was told to be durable is there afterwards, and what is there is a prefix in the order of
//! the records' numbers.

use std::{
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
    thread,
};

use crate::common::{Keep, Op, SimStorage, ended, live_numbers, long_form, open_sim, prepared};
use ringpact::{
    FileLog, LogError, TransactionLog,
    log::{Durability, Lsn},
};

const THREADS: u64 = 6;
const TRANSACTIONS: u64 = 12;
const WORK_BYTES: usize = 3_000;

#[derive(Clone, Copy)]
enum Change {
    Begins(u64),
    Ends(u64),
}

/// What was appended, and the last record that any thread was told to be durable.
#[derive(Default)]
struct Told {
    appended: Mutex<Vec<(Lsn, Change)>>,
    durable: AtomicU64,
}

impl Told {
    fn append(&self, log: &FileLog, change: Change, durability: Durability) -> Result<Lsn, LogError> {
        let record = match change {
            Change::Begins(number) => prepared(number, WORK_BYTES),
            Change::Ends(number) => ended(number),
        };
        let lsn = log.append(record, durability)?;
        self.appended.lock().unwrap().push((lsn, change));
        Ok(lsn)
    }

    fn thread(&self, log: &FileLog, thread: u64) -> Result<(), LogError> {
        for number in (1..=TRANSACTIONS).map(|number| thread * 1_000 + number) {
            let lsn = self.append(log, Change::Begins(number), Durability::Forced)?;
            log.wait(lsn)?;
            self.durable.fetch_max(lsn.as_u64(), Ordering::Relaxed);
            if number % 3 != 0 {
                self.append(log, Change::Ends(number), Durability::Lazy)?;
            }
        }
        Ok(())
    }

    fn work(&self, log: &FileLog) {
        thread::scope(|scope| {
            for thread in 1..=THREADS {
                scope.spawn(move || drop(self.thread(log, thread)));
            }
        });
    }

    /// What is live after each prefix that is long enough.
    fn allowed(&self) -> Vec<Vec<u64>> {
        let mut changes = self.appended.lock().unwrap().clone();
        changes.sort_by_key(|(lsn, _)| *lsn);
        let durable = self.durable.load(Ordering::Relaxed);
        let mut live = Vec::new();
        let mut states = if durable == 0 { vec![live.clone()] } else { Vec::new() };
        for (lsn, change) in changes {
            match change {
                Change::Begins(number) => live.push(number),
                Change::Ends(number) => live.retain(|other| *other != number),
            }
            if lsn.as_u64() >= durable {
                states.push(live.clone());
            }
        }
        states
    }
}

#[test]
fn a_crash_under_many_appenders_loses_nothing_durable() {
    let whole = SimStorage::new();
    Told::default().work(&open_sim(&whole).unwrap());
    let renames = whole.trace().iter().filter(|(op, _)| *op == Op::Rename).count();
    assert!(renames >= 3, "the workload replaces segments: {renames}");
    let ops = whole.ops();

    // The threads group differently each time, so the same operation is another moment each time.
    let rounds = if long_form() { 40 } else { 1 };
    for round in 0..rounds {
        for op in 0..ops {
            let storage = SimStorage::new();
            let told = Told::default();
            storage.freeze_at(op);
            if let Ok(log) = open_sim(&storage) {
                told.work(&log);
            }
            let allowed = told.allowed();
            for keep in [Keep::Nothing, Keep::Everything, Keep::Some(round), Keep::Some(op)] {
                let log = open_sim(&storage.crash(keep)).unwrap_or_else(|error| panic!("{op} {keep:?}: {error}"));
                let found = live_numbers(&log);
                assert!(allowed.contains(&found), "crash at operation {op} of about {ops}, {keep:?}: {found:?}");
            }
        }
    }
}
