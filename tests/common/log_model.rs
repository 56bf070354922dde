//! A life of a log, made up step by step and compared with a plain model: appends, waits, closings,
//! crashes (also during the opening that follows), failing operations, full disks. Used by tests
//! and by the fuzz target of the same name.
//!
//! The model is a list of all that was appended since the last opening, and the number of records
//! reported durable. What is found after a reopening must be what some prefix of that list leaves
//! live, and no shorter prefix than reported.

use std::{io, time::Duration};

use ringpact::{
    FileLog, LogError, TransactionLog,
    log::{Durability, Lsn},
};

use super::{Keep, Op, SIM_DIR, SimStorage, ended, prepared};

/// Where the steps come from: a random generator, or a fuzzer's bytes.
pub trait Choose {
    /// Returns a number below `bound`, which is not 0.
    fn below(&mut self, bound: u32) -> u32;
}

impl Choose for fastrand::Rng {
    fn below(&mut self, bound: u32) -> u32 {
        self.u32(..bound)
    }
}

/// Uses bytes as choices; once they are used up, every choice is 0.
pub struct Bytes<'a>(pub &'a [u8]);

impl Choose for Bytes<'_> {
    fn below(&mut self, bound: u32) -> u32 {
        let mut next = || {
            let (first, rest) = self.0.split_first().unwrap_or((&0, &[]));
            self.0 = rest;
            u32::from(*first)
        };
        if bound <= 256 { next() % bound } else { (next() << 8 | next()) % bound }
    }
}

/// Maximum number of openings in a row that are made to fail. Without it, bytes that are used up
/// would let openings fail forever.
const MAX_FAILED_OPENINGS: u32 = 8;

/// What a life has seen, so that a test can tell whether it was worth anything.
#[derive(Clone, Copy, Debug, Default)]
pub struct Seen {
    pub appended: u64,
    pub reopened: u64,
    pub crashes_while_opening: u64,
    pub poisoned: u64,
    pub full: u64,
}

impl std::ops::AddAssign for Seen {
    fn add_assign(&mut self, other: Self) {
        self.appended += other.appended;
        self.reopened += other.reopened;
        self.crashes_while_opening += other.crashes_while_opening;
        self.poisoned += other.poisoned;
        self.full += other.full;
    }
}

#[derive(Clone, Copy, Debug)]
enum Change {
    Begins(u64),
    Ends(u64),
}

fn apply(live: &mut Vec<u64>, change: Change) {
    match change {
        Change::Begins(number) => live.push(number),
        Change::Ends(number) => live.retain(|other| *other != number),
    }
}

struct Life<'a, C> {
    choose: &'a mut C,
    storage: SimStorage,
    /// What was live at the last opening.
    base: Vec<u64>,
    /// What was appended since, and how much of it was reported durable.
    changes: Vec<(Lsn, Change)>,
    durable: usize,
    next: u64,
    /// Whether more than a shortage may have happened to the log since it was opened.
    is_harmed: bool,
    seen: Seen,
}

/// Lives through this number of steps.
///
/// # Panics
///
/// If the log breaks a promise.
pub fn live_through(choose: &mut impl Choose, steps: u32) -> Seen {
    let mut life = Life {
        choose,
        storage: SimStorage::new(),
        base: Vec::new(),
        changes: Vec::new(),
        durable: 0,
        next: 0,
        is_harmed: false,
        seen: Seen::default(),
    };
    let mut log = life.reopen();
    for _ in 0..steps {
        match life.choose.below(32) {
            0 => {
                log.abandon();
                drop(log);
                life.crash();
            }
            1 => {
                life.close(log);
            }
            2 => {
                // The power goes while the log is working.
                let at = life.storage.ops() + u64::from(life.choose.below(16));
                life.storage.freeze_at(at);
                let more = life.choose.below(12);
                (0..more).for_each(|_| drop(life.append(&log)));
                log.abandon();
                drop(log);
                life.crash();
            }
            3 => {
                life.inject();
                continue;
            }
            4 => {
                life.is_harmed = true;
                let limit = life.storage.used() + life.choose.below(200_000) as usize;
                life.storage.limit(Some(limit));
                continue;
            }
            5 => {
                life.storage.limit(None);
                continue;
            }
            6 => {
                // For a while no file can be opened, and no other operation succeeds that needs
                // something which is short.
                life.storage.starve(u64::from(life.choose.below(6)) + 1);
                continue;
            }
            _ => match life.append(&log) {
                Ok(()) => continue,
                Err(LogError::Full { .. } | LogError::NoSegment { .. }) => {
                    life.seen.full += 1;
                    continue;
                }
                Err(LogError::Poisoned { cause }) => {
                    assert!(
                        life.is_harmed,
                        "poisoned though nothing has failed for good: {}",
                        ringpact::error_chain(&*cause)
                    );
                    life.seen.poisoned += 1;
                    drop(log); // and it is opened again, sometimes after a crash
                    if life.choose.below(2) == 0 {
                        life.crash();
                    }
                }
                Err(other) => panic!("an append or a wait gave {other}"),
            },
        }
        log = life.reopen();
    }
    log.abandon();
    drop(log);
    life.crash();
    drop(life.reopen());
    life.seen
}

impl<C: Choose> Life<'_, C> {
    fn append(&mut self, log: &FileLog) -> Result<(), LogError> {
        let durability = if self.choose.below(2) == 0 { Durability::Lazy } else { Durability::Forced };
        let ends = self.choose.below(5) > 1;
        let ended_number = ends.then(|| self.state(self.changes.len())).and_then(|live| {
            let index = self.choose.below((live.len() as u32).max(1)) as usize;
            live.get(index).copied()
        });
        let (record, change) = match ended_number {
            Some(number) => (ended(number), Change::Ends(number)),
            None => {
                self.next += 1;
                let bytes = if self.choose.below(64) == 0 { 90_000 } else { self.choose.below(9_000) as usize };
                (prepared(self.next, bytes), Change::Begins(self.next))
            }
        };
        let lsn = log.append(record, durability)?;
        self.changes.push((lsn, change));
        self.seen.appended += 1;
        if self.choose.below(3) == 0 {
            log.wait(lsn)?;
        }
        self.note_durable(log);
        Ok(())
    }

    fn note_durable(&mut self, log: &FileLog) {
        let durable = log.durable();
        self.durable = self.changes.iter().filter(|(lsn, _)| *lsn <= durable).count();
    }

    /// Returns what is live after this number of changes.
    fn state(&self, changes: usize) -> Vec<u64> {
        let mut live = self.base.clone();
        self.changes[..changes].iter().for_each(|(_, change)| apply(&mut live, *change));
        live
    }

    fn inject(&mut self) {
        self.is_harmed = true;
        let op = Op::ALL[self.choose.below(6) as usize];
        let nth = u64::from(self.choose.below(4)) + 1;
        let kind = if self.choose.below(4) == 0 { io::ErrorKind::StorageFull } else { io::ErrorKind::Other };
        self.storage.fail(op, nth, kind);
    }

    fn close(&mut self, log: FileLog) {
        match log.close() {
            // The note that the log was closed may be missing. Everything is durable all the same.
            Ok(()) | Err(LogError::Io { .. }) => self.durable = self.changes.len(),
            Err(LogError::Poisoned { .. }) => self.seen.poisoned += 1,
            Err(other) => panic!("closing gave {other}"),
        }
    }

    fn crash(&mut self) {
        let keep = match self.choose.below(4) {
            0 => Keep::Nothing,
            1 => Keep::Everything,
            _ => Keep::Some(u64::from(self.choose.below(60_000))),
        };
        self.storage = self.storage.crash(keep);
    }

    /// Opens the log, often with a crash or a failure in the middle of opening, and checks what is
    /// found.
    fn reopen(&mut self) -> FileLog {
        for _ in 0..MAX_FAILED_OPENINGS {
            if self.choose.below(3) != 0 {
                break;
            }
            match self.choose.below(4) {
                0 => self.inject(),
                1 => self.storage.limit(Some(self.storage.used() + self.choose.below(80_000) as usize)),
                _ => {
                    let at = self.storage.ops() + u64::from(self.choose.below(12));
                    self.storage.freeze_at(at);
                }
            }
            if let Err(error) = self.open() {
                let expected = matches!(error, LogError::Full { .. } | LogError::Io { .. });
                assert!(expected, "opening a log that can't be damaged gave {error}");
                self.seen.crashes_while_opening += 1;
            } else {
                self.seen.reopened += 1;
            }
            self.crash();
        }
        self.storage.heal();
        self.storage.limit(None);
        self.is_harmed = false;
        let log = match self.open() {
            Ok(log) => log,
            Err(error) => panic!("the log can't be opened: {error}"),
        };
        self.seen.reopened += 1;
        log
    }

    /// Opens the log once. What is found then is the new base: it is durable now, whatever came
    /// before.
    fn open(&mut self) -> Result<FileLog, LogError> {
        let opened = FileLog::options()
            .segment_bytes(0)
            .seal_after(if self.choose.below(2) == 0 { Duration::MAX } else { Duration::ZERO })
            .storage(self.storage.clone())
            .open(SIM_DIR);
        let log = opened?;
        // This is asked before anything can fail again. A log that has just opened returns its live
        // records without the medium.
        let found = match log.live(&super::name("goods")) {
            Ok(live) => live.iter().map(|record| record.fact.txn().unwrap().sequence()).collect::<Vec<_>>(),
            Err(error) => return Err(error), // its keeper has met a fault in preparing the next segment already
        };
        let allowed = self.durable..=self.changes.len();
        let prefix = allowed.clone().find(|prefix| self.state(*prefix) == found);
        assert!(
            prefix.is_some(),
            "found {found:?}; {} records were durable of {}, which leave {:?} and {:?}",
            self.durable,
            self.changes.len(),
            self.state(self.durable),
            self.state(self.changes.len()),
        );
        self.base = found;
        self.changes.clear();
        self.durable = 0;
        Ok(log)
    }
}
