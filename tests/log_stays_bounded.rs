//! The directory holds two segments at the most, however much has passed through, and whatever is stuck.

mod common;

use std::{fs, path::Path};

use common::{commit, ended, live_numbers, open_small, prepared};
use ringpact::{Durability, FileLog, TransactionLog, log::options::MIN_SEGMENT_BYTES};

fn size(dir: &Path) -> u64 {
    // A file may be renamed or removed while we look.
    fs::read_dir(dir).unwrap().filter_map(|entry| entry.unwrap().metadata().ok()).map(|file| file.len()).sum()
}

#[test]
fn a_stuck_transaction_stays_and_the_directory_does_not_grow() {
    let dir = tempfile::tempdir().unwrap();
    let log = open_small(dir.path()).unwrap();
    commit(&log, prepared(1, 1_000)).unwrap();
    for number in 2..2_000 {
        log.append(prepared(number, 500), Durability::Lazy).unwrap();
        log.append(ended(number), Durability::Lazy).unwrap();
        if number % 10 == 0 {
            log.wait(log.append(prepared(number, 500), Durability::Forced).unwrap()).unwrap();
            log.append(ended(number), Durability::Lazy).unwrap();
            assert!(size(dir.path()) <= 2 * MIN_SEGMENT_BYTES, "{} bytes at {number}", size(dir.path()));
        }
    }
    assert_eq!(live_numbers(&log), [1]);
    log.abandon();
    let log = open_small(dir.path()).unwrap();
    assert_eq!(live_numbers(&log).first(), Some(&1));
    assert!(size(dir.path()) <= 2 * MIN_SEGMENT_BYTES);
}

#[test]
fn segments_grow_with_what_is_live_and_shrink_again() {
    let dir = tempfile::tempdir().unwrap();
    let log = open_small(dir.path()).unwrap();
    let live: Vec<u64> = (1..=500).collect();
    for number in &live {
        log.append(prepared(*number, 1_000), Durability::Forced).unwrap();
    }
    assert_eq!(live_numbers(&log), live);
    // 520 KB are live. A segment is four times what it carries when it is prepared.
    assert!(size(dir.path()) <= 8 * 700_000, "{} bytes", size(dir.path()));
    log.close().unwrap();

    let log = open_small(dir.path()).unwrap();
    assert_eq!(live_numbers(&log), live);
    for number in &live {
        log.append(ended(*number), Durability::Lazy).unwrap();
    }
    log.close().unwrap();
    let log = open_small(dir.path()).unwrap();
    assert!(live_numbers(&log).is_empty());
    assert_eq!(size(dir.path()), MIN_SEGMENT_BYTES);
}

#[test]
fn a_record_larger_than_a_segment_gets_a_larger_one() {
    let dir = tempfile::tempdir().unwrap();
    let log = open_small(dir.path()).unwrap();
    for number in 1..=3 {
        commit(&log, prepared(number, 1_000_000)).unwrap();
    }
    log.abandon();
    assert_eq!(live_numbers(&FileLog::open(dir.path()).unwrap()), [1, 2, 3]);
}

/// More than fits into the queue, all of it lazy: appending makes the writer write rather than wait for ever.
#[test]
fn lazy_records_beyond_the_queue_are_written() {
    let dir = tempfile::tempdir().unwrap();
    let log = FileLog::open(dir.path()).unwrap();
    for number in 1..=40 {
        log.append(prepared(number, 500_000), Durability::Lazy).unwrap();
    }
    assert!(log.stats().syncs > 0);
    assert_eq!(live_numbers(&log).len(), 40);
}

#[test]
fn leftovers_of_a_crash_are_removed_and_foreign_files_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    commit(&open_small(dir.path()).unwrap(), prepared(1, 10)).unwrap();
    fs::write(dir.path().join("segment-0000000000000007.log.new"), "half made").unwrap();
    for foreign in ["notes.txt", "segment-7.log", "segment-0000000000000007.log.bak"] {
        fs::write(dir.path().join(foreign), "mine").unwrap();
    }
    assert_eq!(live_numbers(&open_small(dir.path()).unwrap()), [1]);
    let mut names: Vec<_> =
        fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    let expected =
        ["lock", "notes.txt", "segment-0000000000000002.log", "segment-0000000000000007.log.bak", "segment-7.log"];
    assert_eq!(names, expected);
}
