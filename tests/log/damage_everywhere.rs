//! Every bit is flipped, every block zeroed, and the file cut to every length. Either every
//! acknowledged record comes back, or opening refuses, with the file and the offset. The one
//! ambiguous case (`src/docs/media.md`) is counted: in a log that was not closed, the last batch,
//! and never more than that.
//!
//! The short form takes a sample of the bits and lengths, `RINGPACT_LONG=1` takes all of them.

use std::{ops::Range, path::PathBuf};

use crate::common::{SIM_DIR, SimStorage, commit, ended, live_numbers, long_form, open_sim, prepared};
use ringpact::{LogError, log::inspect::inspect_in};

const BLOCK: usize = 4096;

/// A log's only segment, what is live in it, and where its last batch lies if nothing shows that it
/// was durable.
struct Subject {
    path: PathBuf,
    bytes: Vec<u8>,
    live: Vec<u64>,
    ambiguous: Range<usize>,
    /// The content of the file that remembers the log.
    identity: Vec<u8>,
}

/// Writes batches of one record and of several blocks, with a record carried over and one ended.
fn subject(closed: bool) -> Subject {
    let storage = SimStorage::new();
    let log = open_sim(&storage).unwrap();
    commit(&log, prepared(100, 200)).unwrap();
    commit(&log, prepared(101, 5_000)).unwrap();
    log.close().unwrap();
    let log = open_sim(&storage).unwrap();
    for (number, bytes) in [(1, 200), (2, 9_000), (3, 1), (4, 4_000), (5, 30)] {
        commit(&log, prepared(number, bytes)).unwrap();
    }
    commit(&log, ended(100)).unwrap();
    commit(&log, prepared(6, 5_000)).unwrap();
    if closed {
        log.close().unwrap()
    } else {
        log.abandon()
    }
    // A log that was not closed has left its next segment, too, half prepared or whole. That one
    // does not matter.
    let names: Vec<_> = storage.names().into_iter().filter(|path| path.extension().unwrap() == "log").collect();
    let [path] = &names[..] else { panic!("{names:?}") };
    let seen = inspect_in(&storage, SIM_DIR).unwrap();
    let last = seen.segments[0].batches.last().unwrap();
    let ambiguous = last.offset as usize..(last.offset + last.bytes) as usize;
    assert_eq!(seen.segments[0].sealed, closed);
    Subject {
        path: path.clone(),
        bytes: storage.content(path).unwrap(),
        identity: storage.identity(SIM_DIR).unwrap(),
        live: vec![101, 1, 2, 3, 4, 5, 6],
        ambiguous: if closed { 0..0 } else { ambiguous },
    }
}

#[derive(Debug, Default)]
struct Counts {
    whole: u64,
    refused: u64,
    /// Number of times that the ambiguous case was found: the last batch was taken for torn, and
    /// the recovery said how many bytes were cut off.
    cut: u64,
    /// The same with all of the batch zero: nothing is left that could be reported.
    vanished: u64,
}

impl Subject {
    /// Opens the log with these bytes in place of its own. Those in `damaged` differ.
    #[track_caller]
    fn open(&self, bytes: Vec<u8>, damaged: Range<usize>, counts: &mut Counts) {
        let length = bytes.len() as u64;
        let identity = self.path.with_file_name("log-identity");
        let storage = SimStorage::with_files([(self.path.clone(), bytes), (identity, self.identity.clone())]);
        match open_sim(&storage) {
            Ok(log) => {
                let found = live_numbers(&log);
                if found == self.live {
                    counts.whole += 1;
                    return;
                }
                let ambiguous = self.ambiguous.start <= damaged.start && damaged.end <= self.ambiguous.end;
                assert!(ambiguous, "{damaged:?}: a silent loss, only {found:?} is left");
                assert_eq!(found, self.live[..self.live.len() - 1], "{damaged:?}: more than the last batch is lost");
                match log.recovery().torn_bytes {
                    0 => counts.vanished += 1,
                    _ => counts.cut += 1,
                }
            }
            Err(LogError::Damaged { path, offset, .. }) => {
                assert!(path == self.path && offset <= length, "{damaged:?}: {path:?} at {offset}");
                assert_eq!(storage.ops(), 0, "{damaged:?}: refused, and yet changed");
                counts.refused += 1;
            }
            Err(LogError::UnknownVersion { path, .. }) => {
                assert!(
                    path == self.path && damaged.start >= 8 && damaged.end <= 12,
                    "{damaged:?}: the version is whole"
                );
                counts.refused += 1;
            }
            Err(other) => panic!("{damaged:?}: {other}"),
        }
    }

    fn flip_bits(&self) -> Counts {
        let mut counts = Counts::default();
        let bits = self.bytes.len() * 8;
        // The short form takes every 499th bit of what was written, and fewer of the zeros behind
        // it.
        let written = (self.bytes.iter().rposition(|byte| *byte != 0).unwrap() + 1).next_multiple_of(BLOCK) * 8;
        let sample = (0..written).step_by(499).chain((written..bits).step_by(4_999));
        let all: Box<dyn Iterator<Item = usize>> = if long_form() { Box::new(0..bits) } else { Box::new(sample) };
        for bit in all {
            let mut bytes = self.bytes.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            self.open(bytes, bit / 8..bit / 8 + 1, &mut counts);
        }
        counts
    }

    fn zero_blocks(&self) -> Counts {
        let mut counts = Counts::default();
        for block in (0..self.bytes.len()).step_by(BLOCK) {
            let mut bytes = self.bytes.clone();
            bytes[block..block + BLOCK].fill(0);
            self.open(bytes, block..block + BLOCK, &mut counts);
        }
        counts
    }

    /// A state in which a file system may leave the file that has lost what was written last.
    fn zero_to_the_end(&self) -> Counts {
        let mut counts = Counts::default();
        for block in (0..self.bytes.len()).step_by(BLOCK) {
            let mut bytes = self.bytes.clone();
            bytes[block..].fill(0);
            self.open(bytes, block..self.bytes.len(), &mut counts);
        }
        counts
    }

    fn cut(&self) -> Counts {
        let mut counts = Counts::default();
        let step = if long_form() { 1 } else { 509 };
        for length in (0..self.bytes.len()).step_by(step) {
            self.open(self.bytes[..length].to_vec(), length..self.bytes.len(), &mut counts);
        }
        counts
    }
}

#[test]
fn a_closed_log_comes_back_whole_or_is_refused() {
    let subject = subject(true);
    for (how, counts) in [
        ("bits flipped", subject.flip_bits()),
        ("blocks zeroed", subject.zero_blocks()),
        ("zeroed to the end", subject.zero_to_the_end()),
        ("lengths", subject.cut()),
    ] {
        println!("closed, {how}: {counts:?}");
        assert_eq!((counts.cut, counts.vanished), (0, 0), "{how}: nothing is ambiguous about a closed log");
        assert!(counts.refused > 0, "{how}");
    }
}

#[test]
fn a_log_that_was_not_closed_loses_at_most_its_last_batch() {
    let subject = subject(false);
    let flipped = subject.flip_bits();
    println!("not closed, bits flipped: {flipped:?}");
    assert_eq!(flipped.vanished, 0, "one bit can't make a batch vanish");
    // Each bit of the header and the record of this batch is ambiguous; no bit of its padding is.
    assert!(flipped.cut > 0 && flipped.cut <= 8 * (72 + 12 + 5_100), "{flipped:?}");
    let zeroed = subject.zero_blocks();
    println!("not closed, blocks zeroed: {zeroed:?}");
    assert_eq!((zeroed.cut, zeroed.vanished), (2, 0), "the two blocks of the last batch: {zeroed:?}");
    let cut = subject.cut();
    println!("not closed, lengths: {cut:?}");
    assert_eq!((cut.whole, cut.cut, cut.vanished), (0, 0, 0), "each is refused, because the header states the length");
}

/// If the last batch has one block, and all of it is zeroed, it looks as if it had never been
/// written.
#[test]
fn a_last_batch_of_one_block_can_vanish() {
    let storage = SimStorage::new();
    let log = open_sim(&storage).unwrap();
    commit(&log, prepared(1, 10)).unwrap();
    commit(&log, prepared(2, 10)).unwrap();
    log.abandon();
    let (path, mut counts) = (storage.names().remove(0), Counts::default());
    let bytes = storage.content(&path).unwrap();
    let ambiguous = 3 * BLOCK..4 * BLOCK;
    let identity = storage.identity(SIM_DIR).unwrap();
    let subject = Subject { path, bytes, identity, live: vec![1, 2], ambiguous: ambiguous.clone() };
    let mut bytes = subject.bytes.clone();
    bytes[ambiguous.clone()].fill(0);
    subject.open(bytes, ambiguous, &mut counts);
    assert_eq!(counts.vanished, 1);
}

/// The file that remembers a closed log may be damaged in any way. No record is lost by it, though
/// opening may be refused.
#[test]
fn damage_to_what_remembers_the_log_costs_no_record() {
    let subject = subject(true);
    let mut refused = 0;
    let open = |identity: Vec<u8>| {
        let path = subject.path.with_file_name("log-identity");
        match open_sim(&SimStorage::with_files([
            (subject.path.clone(), subject.bytes.clone()),
            (path.clone(), identity),
        ])) {
            Ok(log) => {
                assert_eq!(live_numbers(&log), subject.live);
                0
            }
            Err(LogError::Damaged { path: at, .. } | LogError::UnknownVersion { path: at, .. }) => {
                assert_eq!(at, path);
                1
            }
            Err(other) => panic!("{other}"),
        }
    };
    const CHECKED: usize = 8 * (48 + 8);
    let beyond = (CHECKED..8 * BLOCK).step_by(997).chain(8 * BLOCK..8 * (BLOCK + 48)).chain([8 * BLOCK * 2 - 1]);
    for bit in (0..CHECKED).chain(beyond) {
        let mut identity = subject.identity.clone();
        identity[bit / 8] ^= 1 << (bit % 8);
        refused += open(identity);
    }
    assert_eq!(refused, CHECKED, "what it says of the log; how that was closed may have been torn by a crash");
    for length in (0..2 * BLOCK).step_by(97) {
        assert_eq!(open(subject.identity[..length].to_vec()), 1);
    }
}
