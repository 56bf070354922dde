//! The directory holds two segments at most, however much has passed through, and whatever is
//! stuck.

use std::{fs, path::Path};

use crate::common::{commit, ended, live_numbers, open_small, prepared};
use ringpact::{
    FileLog, TransactionLog,
    log::{
        Durability,
        options::{MAX_QUEUE_BYTES, MIN_SEGMENT_BYTES},
    },
};

fn size(dir: &Path) -> u64 {
    let entries = fs::read_dir(dir).unwrap().map(Result::unwrap);
    let segments = entries.filter(|entry| entry.file_name().to_string_lossy().starts_with("segment-"));
    // A file may be renamed or removed while this test looks.
    segments.filter_map(|entry| entry.metadata().ok()).map(|file| file.len()).sum()
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

/// More than fits into the queue, all of it lazy. Appending makes the writer write, rather than
/// wait forever.
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
    let ours = ["lock", "log-identity", "segment-0000000000000002.log"];
    let foreign = ["notes.txt", "segment-0000000000000007.log.bak", "segment-7.log"];
    let mut expected = [ours, foreign].concat();
    expected.sort_unstable();
    assert_eq!(names, expected);
}

/// Under a steady load from several threads, with a stuck transaction, through many segments: the
/// directory, the process's memory and what the log counts as live all stay as they were.
#[test]
fn a_steady_load_around_a_stuck_transaction_changes_nothing() {
    const THREADS: u64 = 4;
    const ROUNDS: u64 = 400;
    const SEGMENT_BYTES: u64 = 256 << 10;
    let dir = tempfile::tempdir().unwrap();
    let log = FileLog::options().segment_bytes(SEGMENT_BYTES).open(dir.path()).unwrap();
    commit(&log, prepared(0, 1_000)).unwrap();
    let first = newest(dir.path());
    let largest = std::thread::scope(|scope| {
        let load = |thread: u64| {
            let log = &log;
            move || {
                for round in 0..ROUNDS {
                    let numbers: Vec<u64> = (0..10).map(|of| thread << 32 | round << 8 | of).collect();
                    for number in &numbers {
                        log.append(prepared(*number, 500), Durability::Lazy).unwrap();
                    }
                    for number in &numbers {
                        log.append(ended(*number), Durability::Lazy).unwrap();
                    }
                    log.commit(prepared(numbers[9] + 1, 500)).unwrap();
                    log.append(ended(numbers[9] + 1), Durability::Lazy).unwrap();
                }
            }
        };
        let threads: Vec<_> = (1..=THREADS).map(|thread| scope.spawn(load(thread))).collect();
        let mut largest = 0;
        while threads.iter().any(|thread| !thread.is_finished()) {
            largest = largest.max(size(dir.path()));
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        largest
    });
    assert!(largest <= 2 * SEGMENT_BYTES, "{largest} bytes");
    assert_eq!(live_numbers(&log), [0]);
    assert!(newest(dir.path()) > first, "segments were replaced");
    let memory = log.memory_bytes();
    assert!(memory <= MAX_QUEUE_BYTES as usize, "{memory} bytes of memory for one live record");
}

fn newest(dir: &Path) -> Option<std::path::PathBuf> {
    let paths = fs::read_dir(dir).unwrap().filter_map(|entry| Some(entry.ok()?.path()));
    paths.filter(|path| path.extension().is_some_and(|extension| extension == "log")).max()
}

/// However fast callers are, and however slowly tasks come to look, nothing is kept for each of
/// their calls.
#[test]
fn memory_does_not_grow_with_calls() {
    use std::{sync::Arc, task};
    struct NoTask;
    impl task::Wake for NoTask {
        fn wake(self: Arc<Self>) {}
    }
    let dir = tempfile::tempdir().unwrap();
    let log = FileLog::options().segment_bytes(1 << 20).open(dir.path()).unwrap();
    for number in 0..100_000 {
        log.append(prepared(number, 100), Durability::Lazy).unwrap();
        log.append(ended(number), Durability::Lazy).unwrap();
    }
    let waker = task::Waker::from(Arc::new(NoTask));
    let mut context = task::Context::from_waker(&waker);
    let lsn = log.append(prepared(1, 10), Durability::Forced).unwrap();
    while log.poll_durable(lsn, &mut context).is_pending() {}
    // Two buffers take turns. Each holds what may be queued, and has grown by doubling at most. The
    // rest takes a little.
    let bound = 2 * 2 * MAX_QUEUE_BYTES as usize + (8 << 20);
    let memory = log.memory_bytes();
    assert!(memory <= bound, "{memory} bytes of memory; {bound} are promised");
}
