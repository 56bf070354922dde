//! A crash in the middle of writing the last batch, whatever it leaves of it, costs that batch
//! alone.

use crate::common::{commit, dir_with_segment, live_numbers, only_segment, open_small, prepared};
use ringpact::FileLog;

const BLOCK: usize = 4096;
const WORK_BYTES: usize = 3_000;
const ACKNOWLEDGED: u64 = 4;

/// Makes a log of [`ACKNOWLEDGED`] batches and one more, not closed. Returns its segment, and where
/// that last batch lies in it.
fn segment_with_a_last_batch() -> (std::ffi::OsString, Vec<u8>, std::ops::Range<usize>) {
    let dir = tempfile::tempdir().unwrap();
    let log = open_small(dir.path()).unwrap();
    for number in 1..=ACKNOWLEDGED + 1 {
        commit(&log, prepared(number, WORK_BYTES)).unwrap();
    }
    log.abandon();
    let path = only_segment(dir.path());
    let bytes = std::fs::read(&path).unwrap();
    let end = bytes.iter().rposition(|byte| *byte != 0).unwrap() + 1;
    let begin = (end - 1) / BLOCK * BLOCK;
    (path.file_name().unwrap().to_owned(), bytes, begin..end)
}

#[track_caller]
fn assert_cut(name: &std::ffi::OsStr, bytes: &[u8], complete: bool, how: &str) {
    let dir = dir_with_segment(name, bytes);
    let log = open_small(dir.path()).unwrap_or_else(|error| panic!("{how}: {error}"));
    let survivors = ACKNOWLEDGED + u64::from(complete);
    assert_eq!(live_numbers(&log), (1..=survivors).collect::<Vec<_>>(), "{how}");
    commit(&log, prepared(100, 10)).unwrap();
    drop(log);
    // What was cut off does not come back.
    let expected: Vec<_> = (1..=survivors).chain([100]).collect();
    assert_eq!(live_numbers(&FileLog::open(dir.path()).unwrap()), expected, "{how}, reopened");
}

#[test]
fn a_last_batch_that_was_written_in_part_is_cut_off() {
    let (name, bytes, last) = segment_with_a_last_batch();
    for at in last.clone().step_by(64) {
        let mut torn = bytes.clone();
        torn[at..].fill(0);
        assert_cut(&name, &torn, false, &format!("nothing written from {at} on"));
        let mut torn = bytes.clone();
        torn[last.start..at].fill(0);
        assert_cut(&name, &torn, at == last.start, &format!("nothing written before {at}"));
    }
}

#[test]
fn a_last_batch_that_was_garbled_is_cut_off() {
    let (name, bytes, last) = segment_with_a_last_batch();
    for at in last.clone().step_by(64) {
        let mut garbled = bytes.clone();
        let end = (at + 64).min(last.end);
        garbled[at..end].iter_mut().for_each(|byte| *byte ^= 0x5a);
        assert_cut(&name, &garbled, false, &format!("garbled at {at}"));
    }
}

#[test]
fn what_is_cut_off_is_reported() {
    let (name, mut bytes, last) = segment_with_a_last_batch();
    bytes[last.start + 100] ^= 1;
    let dir = dir_with_segment(&name, &bytes);
    let log = open_small(dir.path()).unwrap();
    assert_eq!(log.recovery().torn_bytes, last.len() as u64);
    assert_eq!(log.recovery().records, ACKNOWLEDGED);
    assert_eq!(log.recovery().live as u64, ACKNOWLEDGED);
}
