//! A segment that was replaced becomes the next one, with its old content still in it. Nothing of
//! that ever comes back, and both a torn tail and damage are recognised as well as without it.

use std::{fs, io, path::PathBuf};

use crate::common::{
    Forgotten, Keep, Op, SimStorage, commit, dir_with_segment, ended, live_numbers, open_sim, open_small, prepared,
};
use ringpact::{
    FileLog, LogError, TransactionLog,
    log::{Durability, inspect::inspect},
};

const BLOCK: usize = 4096;
/// Small enough that the live records at a time need no larger segments.
const WORK_BYTES: usize = 1_500;

/// Passes transactions with these numbers through the log, two of which are live at a time, beside
/// one that stays.
fn pass(log: &FileLog, transactions: u64) -> Result<u64, LogError> {
    commit(log, prepared(0, 100))?;
    for number in 1..=transactions {
        commit(log, prepared(number, WORK_BYTES))?;
        if number > 1 {
            log.append(ended(number - 1), Durability::Lazy)?;
        }
    }
    Ok(transactions)
}

#[test]
fn from_the_third_on_segments_are_used_again() {
    let storage = SimStorage::new();
    let log = open_sim(&storage).unwrap();
    pass(&log, 400).unwrap();
    let made = storage.trace().iter().filter(|(op, path)| *op == Op::Create && is_segment(path)).count();
    let replaced = storage.trace().iter().filter(|(op, path)| *op == Op::Rename && is_log(path)).count();
    assert!(replaced > 20, "{replaced} segments");
    assert_eq!(made, 2, "{replaced} segments");
    assert!(storage.names().len() <= 2, "{:?}", storage.names());
    drop(log);
    assert_eq!(live_numbers(&open_sim(&storage).unwrap()), [0, 400]);
}

/// If the log went on, the next segment would be written over a file that a crash may bring back
/// under its old name.
#[test]
fn a_lost_name_that_is_not_known_to_be_durable_poisons_the_log() {
    let (syncs, renames) = {
        let storage = SimStorage::new();
        pass(&open_sim(&storage).unwrap(), 60).unwrap();
        let trace = storage.trace();
        let retired =
            trace.iter().position(|(op, path)| *op == Op::Rename && !is_log(path) && is_segment(path)).unwrap();
        let before = |wanted: Op| trace[..retired].iter().filter(|(op, _)| *op == wanted).count() as u64;
        (before(Op::SyncDir), before(Op::Rename))
    };
    for kind in [io::ErrorKind::StorageFull, io::ErrorKind::Other] {
        let storage = SimStorage::new();
        storage.fail(Op::SyncDir, syncs + 1, kind);
        let log = open_sim(&storage).unwrap();
        assert!(matches!(pass(&log, 200), Err(LogError::Poisoned { .. })), "{kind}");
        let durable = log.durable();
        drop(log);
        for keep in [Keep::Nothing, Keep::Everything, Keep::Some(1), Keep::Some(2)] {
            let crashed = storage.crash(keep);
            let log = open_sim(&crashed).unwrap_or_else(|error| panic!("{kind}, {keep:?}: {error}"));
            assert_eq!(live_numbers(&log)[0], 0);
            assert!(log.recovery().records > 0 && durable > ringpact::log::Lsn::NONE);
            // What was removed comes back with a later crash, and is still what its name says.
            commit(&log, prepared(1_000, 10)).unwrap();
            drop(log);
            assert_eq!(live_numbers(&open_sim(&crashed.crash(Keep::Nothing)).unwrap()).last(), Some(&1_000));
        }
    }
    // A name that could not be changed because there was no room is still there: that segment is
    // removed, as if it had not fit. If the thread that does it was slow, the fault meets a segment
    // that begins, which is another case.
    let met = (0..100).any(|_| {
        let storage = SimStorage::new();
        storage.fail(Op::Rename, renames + 1, io::ErrorKind::StorageFull);
        let log = open_sim(&storage).unwrap();
        match pass(&log, 200) {
            Err(LogError::Full { .. }) => return false,
            passed => passed.unwrap(),
        };
        assert_eq!(storage.faults_to_come(), 0);
        assert!(storage.names().len() <= 2, "{:?}", storage.names());
        true
    });
    assert!(met);
}

fn is_segment(path: &std::path::Path) -> bool {
    path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("segment-"))
}

fn is_log(path: &std::path::Path) -> bool {
    path.extension().is_some_and(|extension| extension == "log")
}

/// A log that was not closed and that has leftovers behind the batches of its active segment: the
/// directory, that segment's path and bytes, and the offsets of its batches.
fn log_with_leftovers() -> (tempfile::TempDir, PathBuf, Vec<u8>, Vec<usize>) {
    let dir = tempfile::tempdir().unwrap();
    let log = open_small(dir.path()).unwrap();
    pass(&log, 30).unwrap();
    for number in 31.. {
        let segment = inspect(dir.path()).unwrap().segments.into_iter().rfind(|segment| is_log(segment.file.as_ref()));
        if segment.is_some_and(|segment| segment.batches.len() == 4) {
            break;
        }
        commit(&log, prepared(number, WORK_BYTES)).unwrap();
        log.append(ended(number - 1), Durability::Lazy).unwrap();
    }
    log.abandon();
    let inspection = inspect(dir.path()).unwrap();
    let segment = inspection.segments.iter().rfind(|segment| is_log(segment.file.as_ref())).unwrap();
    assert_eq!((segment.torn_bytes, segment.sealed, &segment.damage), (0, false, &None));
    let path = dir.path().join(&segment.file);
    let batches: Vec<_> = segment.batches.iter().map(|batch| batch.offset as usize).collect();
    let end = batches[3] + segment.batches[3].bytes as usize;
    let bytes = fs::read(&path).unwrap();
    assert!(bytes[end..end + BLOCK].iter().all(|byte| *byte == 0), "the end is marked");
    assert!(bytes[end + BLOCK..].iter().any(|byte| *byte != 0), "there are leftovers");
    (dir, path, bytes, batches)
}

#[test]
fn leftovers_are_neither_records_nor_a_torn_write() {
    let (dir, _, _, _) = log_with_leftovers();
    let log = open_small(dir.path()).unwrap();
    assert_eq!(log.recovery().torn_bytes, 0);
    assert_eq!(live_numbers(&log).len(), 3); // the last end was lazy
}

#[test]
fn a_torn_batch_before_leftovers_is_cut_off_and_reported() {
    let (_dir, path, bytes, batches) = log_with_leftovers();
    let whole = live_numbers(&open_copy(&path, &bytes).1.unwrap());
    for at in (batches[3]..batches[3] + WORK_BYTES).step_by(512) {
        let mut torn = bytes.clone();
        torn[at..at + 512].iter_mut().for_each(|byte| *byte ^= 0x5a);
        let (_copy, log) = open_copy(&path, &torn);
        let log = log.unwrap();
        assert!(log.recovery().torn_bytes > 0, "garbled at {at}");
        assert_ne!(live_numbers(&log), whole, "garbled at {at}");
    }
}

#[test]
fn damage_before_leftovers_is_refused() {
    let (_dir, path, bytes, batches) = log_with_leftovers();
    for batch in &batches[..3] {
        for at in [0, 20, 100] {
            let mut damaged = bytes.clone();
            damaged[batch + at] ^= 1;
            let (_copy, log) = open_copy(&path, &damaged);
            let Err(LogError::Damaged { offset, .. }) = log else { panic!("batch at {batch}, byte {at}: {log:?}") };
            assert_eq!(offset, *batch as u64);
        }
    }
}

/// The mark keeps a flipped bit in the header from turning leftovers into a torn write.
#[test]
fn damage_to_the_mark_in_the_header_is_refused() {
    let (_dir, path, bytes, _) = log_with_leftovers();
    for bit in 0..64 {
        let mut damaged = bytes.clone();
        damaged[56 + bit / 8] ^= 1 << (bit % 8);
        let (_copy, log) = open_copy(&path, &damaged);
        assert!(matches!(log, Err(LogError::Damaged { offset: 56, .. })), "bit {bit}: {log:?}");
    }
}

fn open_copy(path: &std::path::Path, bytes: &[u8]) -> (tempfile::TempDir, Result<FileLog, LogError>) {
    let dir = dir_with_segment(path.file_name().unwrap(), bytes);
    let log = open_small(dir.path());
    (dir, log)
}

/// Returns how many crashes, at any operation while segments are used again, cost what was durable,
/// or the log as a whole.
fn losses(forgotten: Option<Forgotten>) -> usize {
    let run = |freeze_at: Option<u64>| {
        let storage = SimStorage::new();
        forgotten.into_iter().for_each(|syncs| storage.forget(syncs));
        freeze_at.into_iter().for_each(|op| storage.freeze_at(op));
        let log = open_sim(&storage);
        let durable = log.map_or(Vec::new(), |log| {
            let passed = (1..=70).take_while(|number| {
                let _ = log.append(ended(number - 1), Durability::Lazy);
                commit(&log, prepared(*number, WORK_BYTES)).is_ok()
            });
            passed.last().into_iter().collect()
        });
        (storage, durable)
    };
    let ops = run(None).0.ops();
    let lost = |op: u64, keep: Keep| {
        let (storage, durable) = run(Some(op));
        match open_sim(&storage.crash(keep)) {
            // Only the batch of the next one ends the last one. So the last one is there, or the
            // next one.
            Ok(log) => durable.iter().any(|last: &u64| live_numbers(&log).iter().all(|found| found < last)),
            Err(_) => true,
        }
    };
    let keeps = |op| [Keep::Nothing, Keep::Everything, Keep::Some(op), Keep::Some(op + 1_000)];
    (0..ops).flat_map(|op| keeps(op).map(|keep| (op, keep))).filter(|(op, keep)| lost(*op, *keep)).count()
}

#[test]
fn a_crash_while_segments_are_used_again_loses_nothing() {
    assert_eq!(losses(None), 0);
}

#[test]
fn a_forgotten_sync_of_the_name_of_a_segment_used_again_is_noticed() {
    assert!(losses(Some(Forgotten::Retirement)) > 0);
}
