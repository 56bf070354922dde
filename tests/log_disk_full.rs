//! A full disk is an error to whoever needs the space, and to nobody else; it passes when there is space again.

mod common;

use std::thread;

use common::{Keep, SimStorage, commit, ended, live_numbers, open_sim, prepared};
use ringpact::{Durability, LogError, TransactionLog};

const WORK_BYTES: usize = 3_000;

/// Fills the log until it refuses; gives the transactions it took.
fn fill(log: &impl TransactionLog) -> Vec<u64> {
    let mut taken = Vec::new();
    loop {
        let number = taken.len() as u64 + 1;
        match commit(log, prepared(number, WORK_BYTES)) {
            Ok(_) => taken.push(number),
            Err(LogError::Full { .. }) => return taken,
            Err(other) => panic!("{other}"),
        }
        assert!(number < 10_000, "the disk is full, and the log does not notice");
    }
}

#[test]
fn a_full_disk_refuses_and_loses_nothing_and_passes() {
    let storage = SimStorage::new();
    let log = open_sim(&storage).unwrap();
    storage.limit(Some(storage.used() + 10_000));
    let mut taken = fill(&log);
    assert!(taken.len() > 5, "the active segment is used up first: {}", taken.len());
    assert!(matches!(log.append(prepared(99, WORK_BYTES), Durability::Lazy), Err(LogError::Full { .. })));
    assert_eq!(live_numbers(&log), taken, "the log stays readable");
    assert_eq!(storage.names().len(), 1, "what could not be made is not left lying about");
    // What was taken survives, and the log can be opened anew when there is space.
    assert_eq!(live_numbers(&open_sim(&storage.crash(Keep::Nothing)).unwrap()), taken);

    storage.limit(None);
    let next = taken.len() as u64 + 1;
    commit(&log, prepared(next, WORK_BYTES)).unwrap();
    taken.push(next);
    log.close().unwrap();
    assert_eq!(live_numbers(&open_sim(&storage.crash(Keep::Nothing)).unwrap()), taken);
}

#[test]
fn records_that_still_fit_are_taken_when_larger_ones_are_refused() {
    let storage = SimStorage::new();
    let log = open_sim(&storage).unwrap();
    storage.limit(Some(storage.used()));
    assert!(matches!(log.append(prepared(1, 100_000), Durability::Forced), Err(LogError::Full { .. })));
    commit(&log, prepared(2, 100)).unwrap();
    assert_eq!(live_numbers(&log), [2]);
}

#[test]
fn ending_transactions_gives_room_without_more_disk() {
    // A spare segment is there already when the disk fills up: the log goes on for as long as what is live fits.
    let storage = SimStorage::new();
    let log = open_sim(&storage).unwrap();
    storage.limit(Some(3 * storage.used()));
    for number in 1..=200 {
        commit(&log, prepared(number, WORK_BYTES)).unwrap();
        log.append(ended(number), Durability::Lazy).unwrap();
    }
    assert!(live_numbers(&log).is_empty());
}

#[test]
fn everybody_who_was_accepted_becomes_durable_on_a_full_disk() {
    let storage = SimStorage::new();
    let log = open_sim(&storage).unwrap();
    storage.limit(Some(storage.used() + 1_000));
    let accepted: u64 = thread::scope(|scope| {
        let appender = |thread: u64| {
            let log = &log;
            move || {
                let mut accepted = 0;
                for number in 0..20 {
                    match log.append(prepared(thread * 100 + number, 1_500), Durability::Forced) {
                        Ok(lsn) => {
                            log.wait(lsn).expect("accepted, so there is room for it");
                            accepted += 1;
                        }
                        Err(LogError::Full { .. }) => {}
                        Err(other) => panic!("{other}"),
                    }
                }
                accepted
            }
        };
        let threads: Vec<_> = (1..=8).map(|thread| scope.spawn(appender(thread))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).sum()
    });
    assert!((10..160).contains(&accepted), "{accepted}");
    assert_eq!(live_numbers(&open_sim(&storage.crash(Keep::Nothing)).unwrap()).len() as u64, accepted);
}

#[test]
fn opening_on_a_full_disk_is_refused_and_changes_nothing() {
    let storage = SimStorage::new();
    commit(&open_sim(&storage).unwrap(), prepared(1, 10)).unwrap();
    storage.limit(Some(storage.used() + 1_000));
    assert!(matches!(open_sim(&storage), Err(LogError::Full { .. })));
    storage.limit(None);
    assert_eq!(live_numbers(&open_sim(&storage).unwrap()), [1]);
}
