//! Bytes change after they were durable. Either every acknowledged record comes back, or opening
//! refuses, with the file and the offset, and changes nothing. There is never a panic, a wrong
//! record or a silent loss.

use std::{ffi::OsString, fs, time::Duration};

use crate::common::{commit, dir_with_segment, ended, live_numbers, only_segment, open_small, prepared};
use ringpact::{FileLog, LogError};

const RECORDS: u64 = 6;
const BLOCK: usize = 4096;

/// Makes a log that was closed: a carried batch, batches of records, a seal.
fn closed_log() -> (OsString, Vec<u8>) {
    let dir = tempfile::tempdir().unwrap();
    let log = open_small(dir.path()).unwrap();
    commit(&log, prepared(100, 200)).unwrap();
    log.close().unwrap();
    let log = open_small(dir.path()).unwrap();
    for number in 1..=RECORDS {
        commit(&log, prepared(number, 200)).unwrap();
    }
    commit(&log, ended(100)).unwrap();
    log.close().unwrap();
    let path = only_segment(dir.path());
    (path.file_name().unwrap().to_owned(), fs::read(path).unwrap())
}

/// Returns how much of the segment was written.
fn written(bytes: &[u8]) -> usize {
    (bytes.iter().rposition(|byte| *byte != 0).unwrap() + 1).next_multiple_of(BLOCK)
}

enum Found {
    Everything,
    Refused,
}

#[track_caller]
fn open_damaged(name: &std::ffi::OsStr, bytes: &[u8], how: &str) -> Found {
    let dir = dir_with_segment(name, bytes);
    match open_small(dir.path()) {
        Ok(log) => {
            assert_eq!(live_numbers(&log), (1..=RECORDS).collect::<Vec<_>>(), "{how}: a silent loss");
            Found::Everything
        }
        Err(LogError::Damaged { path, offset, .. }) => {
            assert_eq!(path, dir.path().join(name), "{how}");
            assert!(offset <= bytes.len() as u64, "{how}: offset {offset}");
            assert_eq!(fs::read(path).unwrap(), bytes, "{how}: refused, and yet changed");
            Found::Refused
        }
        Err(LogError::UnknownVersion { version, .. }) => {
            assert_ne!(version, 1, "{how}");
            Found::Refused
        }
        Err(other) => panic!("{how}: {other}"),
    }
}

#[test]
fn a_flipped_bit_in_a_closed_log_loses_nothing_silently() {
    let (name, bytes) = closed_log();
    let mut refused = 0;
    for block in (0..written(&bytes)).step_by(BLOCK) {
        // Every byte that holds something, and a few in the padding, which does not matter. The bit
        // varies.
        let used = bytes[block..block + BLOCK].iter().rposition(|byte| *byte != 0).unwrap_or(0) + 1;
        for at in (block..block + used).chain((block + used..block + BLOCK).step_by(997)) {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1 << (at % 8);
            if let Found::Refused = open_damaged(&name, &damaged, &format!("bit flipped at {at}")) {
                refused += 1;
            }
        }
    }
    assert!(refused > 1_000, "most of them are refused: {refused}");
}

#[test]
fn a_zeroed_block_in_a_closed_log_loses_nothing_silently() {
    let (name, bytes) = closed_log();
    let last = written(&bytes) - BLOCK;
    for block in (0..=last).step_by(BLOCK) {
        let mut damaged = bytes.clone();
        damaged[block..block + BLOCK].fill(0);
        let found = open_damaged(&name, &damaged, &format!("block at {block} zeroed"));
        // The seal comes last and holds nothing. All others are needed.
        assert_eq!(matches!(found, Found::Refused), block != last, "block at {block}");
    }
}

#[test]
fn a_file_that_was_cut_short_or_has_grown_is_refused() {
    let (name, bytes) = closed_log();
    let lengths = (0..200).chain((200..bytes.len()).step_by(1009)).chain([bytes.len() - 1]);
    for length in lengths {
        let found = open_damaged(&name, &bytes[..length], &format!("cut to {length} bytes"));
        assert!(matches!(found, Found::Refused), "cut to {length} bytes");
    }
    let mut longer = bytes;
    longer.extend([0; BLOCK]);
    assert!(matches!(open_damaged(&name, &longer, "one block longer"), Found::Refused));
}

#[test]
fn random_garbage_is_refused_without_a_panic() {
    let (name, bytes) = closed_log();
    for seed in 0..200 {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut damaged = bytes.clone();
        let from = random.usize(..written(&bytes));
        let to = random.usize(from..bytes.len());
        damaged[from..to].fill_with(|| random.u8(..));
        let dir = dir_with_segment(&name, &damaged);
        // Garbage from some batch to the end can't be told from a torn batch (media.md), so a
        // prefix may be left.
        if let Ok(log) = open_small(dir.path()) {
            let found: Vec<_> = live_numbers(&log).into_iter().filter(|number| *number != 100).collect();
            assert!((1..=RECORDS).collect::<Vec<_>>().starts_with(&found), "seed {seed}: {found:?}");
        }
    }
}

#[test]
fn the_error_names_the_batch() {
    let (name, mut bytes) = closed_log();
    bytes[3 * BLOCK + 80] ^= 1;
    let dir = dir_with_segment(&name, &bytes);
    let error = open_small(dir.path()).unwrap_err();
    // Under a new name the participants' promises would wait forever.
    assert!(error.to_string().contains("under the same name with `CoordinatorBuilder::replaces_log`"), "{error}");
    let LogError::Damaged { offset, .. } = error else { panic!("{error}") };
    assert_eq!(offset, 3 * BLOCK as u64);
    let text = error.to_string();
    assert!(text.contains(name.to_str().unwrap()) && text.contains("12288"), "{text}");
}

#[test]
fn the_last_batch_is_sealed_once_the_log_is_idle() {
    let dir = tempfile::tempdir().unwrap();
    let log = FileLog::options().segment_bytes(0).seal_after(Duration::from_millis(1)).open(dir.path()).unwrap();
    commit(&log, prepared(1, 10)).unwrap();
    let path = only_segment(dir.path());
    let seal = 3 * BLOCK;
    while fs::read(&path).unwrap()[seal] == 0 {
        std::thread::yield_now();
    }
    log.abandon(); // it is not closed, and yet what follows is not a torn tail
    let mut bytes = fs::read(&path).unwrap();
    bytes[2 * BLOCK + 80] ^= 1;
    fs::write(&path, bytes).unwrap();
    assert!(matches!(open_small(dir.path()), Err(LogError::Damaged { offset: 8192, .. })));
}

#[test]
fn segments_of_another_log_or_number_are_refused() {
    let make = |commits: u64| {
        let dir = tempfile::tempdir().unwrap();
        for number in 1..=commits {
            let log = open_small(dir.path()).unwrap();
            commit(&log, prepared(number, 10)).unwrap();
        }
        dir
    };
    let (one, other) = (make(2), make(3)); // their segments have the numbers 2 and 3
    let foreign = only_segment(other.path());
    fs::copy(&foreign, one.path().join(foreign.file_name().unwrap())).unwrap();
    let error = open_small(one.path()).unwrap_err();
    assert!(matches!(error, LogError::Damaged { what: "the segment belongs to another log", .. }), "{error}");

    let dir = make(1);
    let path = only_segment(dir.path());
    fs::rename(&path, dir.path().join("segment-00000000000000ff.log")).unwrap();
    assert!(matches!(open_small(dir.path()), Err(LogError::Damaged { .. })));
}
