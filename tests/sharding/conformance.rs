//! The conformance suite passes sound shards and catches shards that break a rule.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use parking_lot::Mutex;
use ringpact::{
    BranchId, Service, ServiceError,
    participant::Effort,
    ring::{Position, PositionRange},
    sharding::{
        Export, GateImage, GateNote, Records, Shard,
        conformance::{self, Report, ShardHarness},
    },
};

use crate::ledger::{Add, EQUAL, Faults, Full, Kind, Ledger, Saved, position};

/// A defect of a shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Defect {
    None,
    BeginsWithTheStart,
    EndsBeforeTheEnd,
    IgnoresWhatIsBehindZero,
    TakesTheCircleForNothing,
    ExportsFromZero,
    ExportsOneRecordAPosition,
    GoesOnAfterTheEnd,
    ExportsReservations,
    ImportsMore,
    ImportsOver,
    ImportsNothingAsNothing,
    ImportsInPlaceOfAll,
    DiscardsTheStart,
    DiscardsNothing,
    DiscardsNothingBehindZero,
    SavesNoImage,
    SavesNoData,
    SavesNoDiscards,
    SavesNotesAtOnce,
    NotesNoStaging,
    AsksForTheImageTooEarly,
    AsksForTheImageTooLate,
    ConfirmsAgain,
    ForgetsWhatItConfirmed,
}

struct Broken {
    ledger: Ledger,
    defect: Defect,
}

struct BrokenHarness {
    kind: Kind,
    defect: Defect,
    disk: Arc<Mutex<Saved>>,
}

impl ShardHarness for BrokenHarness {
    type Shard = Broken;

    fn open(&self) -> Broken {
        if self.defect == Defect::ForgetsWhatItConfirmed {
            self.disk.lock().applied.clear();
        }
        Broken { ledger: Ledger::open(self.kind, &self.disk, &Arc::new(Faults::default())), defect: self.defect }
    }

    fn work(&self, key: u32, value: u32) -> Add {
        Add { key, amount: i64::from(value) }
    }

    fn seen(&self, shard: &Broken, key: u32) -> Option<String> {
        shard.ledger.sum(key).map(|sum| sum.to_string())
    }

    fn equal_positions(&self) -> Option<[u32; 2]> {
        Some(EQUAL)
    }
}

impl Service for Broken {
    type Work = Add;
    type Refusal = Full;

    fn effort(&self, work: &Add) -> Effort {
        self.ledger.effort(work)
    }
    fn try_reserve(&self, branch: &BranchId, work: &Add) -> Result<(), Full> {
        self.ledger.try_reserve(branch, work)
    }
    fn confirm(&self, branch: &BranchId, works: &[Add]) -> Result<(), ServiceError> {
        if self.defect == Defect::ConfirmsAgain {
            self.ledger.live().lock().applied.clear();
        }
        self.ledger.confirm(branch, works)
    }
    fn cancel(&self, branch: &BranchId, works: &[Add]) -> Result<(), ServiceError> {
        self.ledger.cancel(branch, works)
    }
}

fn before(position: Position) -> Position {
    Position::new(position.as_u64().wrapping_sub(1))
}

/// The part of the range up to the last position, if it passes 0.
fn up_to_zero(range: PositionRange) -> Option<PositionRange> {
    match range {
        PositionRange { start: Position::MAX, end } if end < Position::MAX => None,
        PositionRange { start, end } if start > end => Some(PositionRange { end: Position::MAX, ..range }),
        _ => Some(range),
    }
}

impl Broken {
    fn push_all(&self, mut records: Vec<(Position, u32, i64)>, range: PositionRange, into: &mut Export) {
        let way = |position: Position| position.as_u64().wrapping_sub(range.start.as_u64()).wrapping_sub(1);
        let is_ascending = self.defect == Defect::ExportsFromZero;
        records.retain(|(position, ..)| range.contains(*position));
        records.sort_by_key(|(position, ..)| if is_ascending { position.as_u64() } else { way(*position) });
        if self.defect == Defect::ExportsOneRecordAPosition {
            records.dedup_by_key(|(position, ..)| *position);
        }
        for (position, key, sum) in records {
            let record = postcard_of(&(key, sum));
            if into.push(position, &record).is_break() && self.defect != Defect::GoesOnAfterTheEnd {
                break;
            }
        }
    }

    fn records(&self) -> Vec<(Position, u32, i64)> {
        let live = self.ledger.live().lock();
        live.sums.iter().map(|(key, sum)| (position(*key), *key, *sum)).collect()
    }
}

fn postcard_of(record: &(u32, i64)) -> Vec<u8> {
    postcard::to_stdvec(record).unwrap()
}

impl Shard for Broken {
    fn export(&self, range: PositionRange, into: &mut Export) -> Result<(), ServiceError> {
        let is_circle = range.start == range.end;
        match self.defect {
            Defect::BeginsWithTheStart if !is_circle => {
                self.ledger.export(PositionRange { start: before(range.start), ..range }, into)
            }
            Defect::EndsBeforeTheEnd if !is_circle => {
                let shorter = PositionRange { end: before(range.end), ..range };
                if shorter.start == shorter.end { Ok(()) } else { self.ledger.export(shorter, into) }
            }
            Defect::IgnoresWhatIsBehindZero => {
                up_to_zero(range).map_or(Ok(()), |range| self.ledger.export(range, into))
            }
            Defect::TakesTheCircleForNothing if is_circle => Ok(()),
            Defect::ExportsFromZero | Defect::ExportsOneRecordAPosition | Defect::GoesOnAfterTheEnd => {
                self.push_all(self.records(), range, into);
                Ok(())
            }
            Defect::ExportsReservations => {
                let mut records = self.records();
                records.extend(self.ledger.held().iter().map(|work| (position(work.key), work.key, work.amount)));
                self.push_all(records, range, into);
                Ok(())
            }
            _ => self.ledger.export(range, into),
        }
    }

    fn import(&self, range: PositionRange, records: Records<'_>) -> Result<(), ServiceError> {
        let mut live = self.ledger.live().lock();
        match self.defect {
            Defect::ImportsMore | Defect::ImportsOver => {
                for (_, record) in records {
                    let (key, sum): (u32, i64) = postcard::from_bytes(record)?;
                    let there = live.sums.get_or_insert_with(key, || 0);
                    *there = if self.defect == Defect::ImportsMore { *there + sum } else { sum };
                }
                Ok(())
            }
            Defect::ImportsNothingAsNothing if records.clone().next().is_none() => Ok(()),
            Defect::ImportsInPlaceOfAll => {
                live.sums.discard(PositionRange { start: Position::MAX, end: Position::MAX });
                live.sums.import(range, records)
            }
            _ => live.sums.import(range, records),
        }
    }

    fn discard(&self, range: PositionRange) -> Result<(), ServiceError> {
        match self.defect {
            Defect::DiscardsTheStart => self.ledger.discard(PositionRange { start: before(range.start), ..range }),
            Defect::DiscardsNothing => Ok(()),
            Defect::DiscardsNothingBehindZero => up_to_zero(range).map_or(Ok(()), |range| self.ledger.discard(range)),
            _ => self.ledger.discard(range),
        }
    }

    fn load(&self) -> Result<GateImage, ServiceError> {
        self.ledger.load()
    }

    fn save(&self, image: &mut dyn FnMut() -> GateImage) -> Result<(), ServiceError> {
        let (live, disk) = (self.ledger.live(), self.ledger.disk());
        let saved = match self.defect {
            Defect::SavesNoImage => Saved { image: GateImage::new(), ..live.lock().clone() },
            Defect::SavesNoData => Saved { image: image(), ..disk.lock().clone() },
            Defect::SavesNoDiscards => {
                let live = live.lock();
                let mut saved = Saved { image: image(), ..live.clone() };
                for (key, sum) in disk.lock().sums.iter() {
                    saved.sums.get_or_insert_with(*key, || *sum);
                }
                saved
            }
            Defect::AsksForTheImageTooEarly => {
                let image = image();
                Saved { image, ..live.lock().clone() }
            }
            Defect::AsksForTheImageTooLate => {
                let saved = live.lock().clone();
                Saved { image: image(), ..saved }
            }
            _ => return self.ledger.save(image),
        };
        *disk.lock() = saved;
        Ok(())
    }

    fn note(&self, note: &GateNote) -> Result<(), ServiceError> {
        match (self.defect, note) {
            (Defect::SavesNotesAtOnce, _) => self.ledger.disk().lock().image.apply(note),
            (Defect::NotesNoStaging, GateNote::Staged { .. }) => {}
            _ => self.ledger.note(note)?,
        }
        Ok(())
    }
}

fn check(kind: Kind, defect: Defect) -> Report {
    conformance::check(|| BrokenHarness { kind, defect, disk: Arc::default() })
}

#[test]
fn sound_shards_conform() {
    for kind in [Kind::InMemory, Kind::AtOnce] {
        let report = check(kind, Defect::None);
        assert_eq!((report.skipped.len(), report.passed.len()), (0, 26), "{kind:?}");
    }
}

#[test]
fn what_the_harness_can_not_run_is_listed() {
    struct NoEqualPositions(BrokenHarness);
    impl ShardHarness for NoEqualPositions {
        type Shard = Broken;
        fn open(&self) -> Broken {
            self.0.open()
        }
        fn work(&self, key: u32, value: u32) -> Add {
            self.0.work(key, value)
        }
        fn seen(&self, shard: &Broken, key: u32) -> Option<String> {
            self.0.seen(shard, key)
        }
    }
    let make = || BrokenHarness { kind: Kind::InMemory, defect: Defect::None, disk: Arc::default() };
    let report = conformance::check(|| NoEqualPositions(make()));
    assert_eq!(report.skipped, ["records of one position stay together"]);
}

/// Each defect, and the rule that the suite says is broken.
#[test]
fn every_defect_is_found_by_name() {
    let (memory, at_once) = (Kind::InMemory, Kind::AtOnce);
    let order = "an export has the records of every key, from any start";
    let discard = "a discard deletes its range and nothing else";
    let saved = "data and image are saved together";
    let crash = "after a crash the data is that of the image";
    let moment = "the image is asked for at the moment of the data";
    let broken = [
        (memory, Defect::BeginsWithTheStart, "a range begins after its start and ends with its end"),
        (memory, Defect::EndsBeforeTheEnd, "a range begins after its start and ends with its end"),
        (memory, Defect::IgnoresWhatIsBehindZero, "a range can pass position 0"),
        (memory, Defect::TakesTheCircleForNothing, order),
        (memory, Defect::ExportsFromZero, order),
        (memory, Defect::ExportsOneRecordAPosition, "records of one position stay together"),
        (memory, Defect::GoesOnAfterTheEnd, "an export ends when no more is wanted"),
        (memory, Defect::ExportsReservations, "an export has what is confirmed, not what is under way"),
        (memory, Defect::ImportsMore, "a repeated import changes nothing"),
        (memory, Defect::ImportsOver, "an import replaces what was there"),
        (memory, Defect::ImportsNothingAsNothing, "an import without records empties its range"),
        (memory, Defect::ImportsInPlaceOfAll, "an import replaces what was there"),
        (memory, Defect::DiscardsTheStart, discard),
        (memory, Defect::DiscardsNothing, discard),
        (memory, Defect::DiscardsNothingBehindZero, discard),
        (memory, Defect::SavesNoImage, saved),
        (memory, Defect::SavesNoData, saved),
        (memory, Defect::SavesNoDiscards, saved),
        (memory, Defect::SavesNotesAtOnce, crash),
        (at_once, Defect::NotesNoStaging, crash),
        (memory, Defect::AsksForTheImageTooEarly, moment),
        (memory, Defect::AsksForTheImageTooLate, moment),
        (memory, Defect::ConfirmsAgain, "work that is confirmed is seen, also when it is confirmed again"),
        (memory, Defect::ForgetsWhatItConfirmed, "a promised hand-over is carried out after a crash"),
        (at_once, Defect::ForgetsWhatItConfirmed, "records that were staged without a promise are gone after a crash"),
    ];
    let quiet = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let found: Vec<_> = broken
        .iter()
        .map(|(kind, defect, _)| {
            let caught = catch_unwind(AssertUnwindSafe(|| check(*kind, *defect)));
            caught.map_err(|panic| panic.downcast_ref::<String>().cloned().unwrap_or_default())
        })
        .collect();
    std::panic::set_hook(quiet);
    for ((kind, defect, rule), found) in broken.iter().zip(found) {
        let message = found.expect_err(&format!("{defect:?} {kind:?} is found"));
        assert!(message.starts_with(&format!("shard conformance: \"{rule}\"")), "{defect:?} {kind:?}: {message}");
    }
}
