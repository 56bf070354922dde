//! A full disk is an error to the callers that need the space, and to no others. It passes when
//! there is space again. It shows when a segment is prepared, ahead of need. Neither appending nor
//! collecting can find the disk full afterwards.

use std::{io, thread, time::Duration};

use crate::common::{Keep, Op, SimStorage, commit, ended, live_numbers, open_sim, prepared};
use ringpact::{LogError, TransactionLog, log::Durability};

const WORK_BYTES: usize = 3_000;

/// Fills the log until it refuses. Returns the transactions that it took.
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
    // What was taken survives, and the log can be opened again when there is space.
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
    // A spare segment is there already when the disk fills up. The log goes on as long as the live
    // records fit.
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
fn all_accepted_records_become_durable_on_a_full_disk() {
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

/// Commits and ends enough transactions to fill several segments.
fn pass_through_segments(log: &impl TransactionLog, numbers: std::ops::Range<u64>) {
    for number in numbers {
        commit(log, prepared(number, WORK_BYTES)).unwrap();
        log.append(ended(number), Durability::Lazy).unwrap();
    }
}

/// Creating a segment takes three steps that may find the disk full. The last is on file systems
/// that look for space only when it is needed. Ahead of need no caller is told: the caller that
/// needs the segment tries again.
#[test]
fn a_disk_that_is_full_for_a_moment_while_a_segment_is_created_is_not_even_noticed() {
    for (op, nth) in [(Op::Create, 1), (Op::Write, 1), (Op::Write, 2), (Op::Sync, 1)] {
        let storage = SimStorage::new();
        let log = open_sim(&storage).unwrap();
        commit(&log, prepared(1, 10)).unwrap();
        let renames = |storage: &SimStorage| storage.trace().iter().filter(|(op, _)| *op == Op::Rename).count();
        let before = renames(&storage);
        storage.fail_on(".log.new", op, nth, io::ErrorKind::StorageFull);
        pass_through_segments(&log, 2..10);
        while storage.faults_to_come() > 0 {
            thread::sleep(Duration::from_millis(1)); // half of the segment is used, so the next is being created
        }
        pass_through_segments(&log, 10..60);
        assert!(renames(&storage) > before + 1, "segments are replaced all the same");
        assert_eq!(live_numbers(&log), [1]);
        assert_eq!(live_numbers(&open_sim(&storage.crash(Keep::Nothing)).unwrap()).first(), Some(&1), "{op:?} {nth}");
    }
}

/// If the disk stays full, the caller that needs the segment is told, no matter which step finds no
/// space.
#[test]
fn a_segment_that_can_not_be_created_is_an_error_to_the_caller_that_needs_it() {
    for (op, nth) in [(Op::Create, 1), (Op::Write, 1), (Op::Write, 2), (Op::Sync, 1)] {
        let storage = SimStorage::new();
        let log = open_sim(&storage).unwrap();
        // Each attempt uses up one of these faults.
        (0..8).for_each(|_| storage.fail_on(".log.new", op, nth, io::ErrorKind::StorageFull));
        let mut taken = fill(&log);
        assert!(taken.len() > 5, "{taken:?}");
        assert_eq!(live_numbers(&log), taken);
        assert_eq!(live_numbers(&open_sim(&storage.crash(Keep::Nothing)).unwrap()), taken, "{op:?} {nth}");
        storage.heal();
        let next = taken.len() as u64 + 1;
        commit(&log, prepared(next, WORK_BYTES)).unwrap();
        taken.push(next);
        assert_eq!(live_numbers(&log), taken);
    }
}

/// The disk fills up when a spare segment is there, but the live records have grown beyond what
/// that could carry. Collecting would need a larger one. The caller with the record that needs it
/// is told so; nothing is lost, and it passes.
#[test]
fn a_full_disk_when_collecting_needs_a_larger_segment() {
    let storage = SimStorage::new();
    let log = open_sim(&storage).unwrap();
    let mut taken: Vec<u64> = (1..=9).collect();
    for number in &taken {
        commit(&log, prepared(*number, WORK_BYTES)).unwrap();
    }
    while storage.names().len() < 2 {
        thread::sleep(Duration::from_millis(1)); // half of the segment is used, so a spare one is being prepared
    }
    storage.limit(Some(storage.used().max(2 * 65_536)));
    let refused = (10..100).find(|number| match commit(&log, prepared(*number, WORK_BYTES)) {
        Ok(_) => {
            taken.push(*number);
            false
        }
        Err(LogError::Full { .. }) => true,
        Err(other) => panic!("{other}"),
    });
    assert!(refused.is_some(), "what is live outgrows the spare segment");
    assert_eq!(live_numbers(&log), taken, "the log stays readable");
    assert_eq!(live_numbers(&open_sim(&storage.crash(Keep::Nothing)).unwrap()), taken);
    storage.limit(None);
    commit(&log, prepared(100, WORK_BYTES)).unwrap();
    taken.push(100);
    log.close().unwrap();
    assert_eq!(live_numbers(&open_sim(&storage.crash(Keep::Nothing)).unwrap()), taken);
}

/// A file system that copies on write can find no space even for what was prepared. Then collecting
/// fails like any other write. The log is poisoned, which is safe: nothing that was reported
/// durable is lost.
#[test]
fn no_space_for_what_was_prepared_poisons_and_loses_nothing() {
    for op in [Op::Write, Op::Sync] {
        let storage = SimStorage::new();
        let log = open_sim(&storage).unwrap();
        let prepared_by = if op == Op::Write { 2 } else { 1 };
        storage.fail_on(".log.new", op, prepared_by + 1, io::ErrorKind::StorageFull);
        let mut durable = Vec::new();
        let error = (1..100).find_map(|number| {
            let result = commit(&log, prepared(number, WORK_BYTES));
            log.append(ended(number), Durability::Lazy).ok();
            durable.extend(result.is_ok().then_some(number));
            result.err()
        });
        assert!(matches!(error, Some(LogError::Poisoned { .. })), "{op:?}: {error:?}");
        drop(log);
        let found = live_numbers(&open_sim(&storage.crash(Keep::Nothing)).unwrap());
        let last = durable.last().unwrap();
        assert!(found.contains(last), "{op:?}: the last durable one, {last}, whose end is not: {found:?}");
    }
}
