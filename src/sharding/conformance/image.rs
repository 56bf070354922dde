//! The checks of what a crash leaves: data and image must be of one moment.

use std::{
    sync::{Mutex, PoisonError, mpsc},
    thread,
    time::Duration,
};

use super::{
    Ran, ShardHarness,
    case::{Case, Place, before, range},
};
use crate::{
    ring::{NodeId, PositionRange, RangeSet},
    sharding::{Digest, GateImage, GateNote, Shard, Tenure, gate::Gate},
};

/// Time for which a save is held up while an import tries to come in between. A shard that saves
/// correctly makes the import wait for all of it.
const IN_BETWEEN: Duration = Duration::from_millis(50);

pub(super) fn is_new<H: ShardHarness>(case: &mut Case<'_, H>) -> Ran {
    let place = case.empty();
    case.same("the image of a new shard", &case.ok("load", place.shard.load()), &GateImage::new());
    let place = place.crashed();
    case.same("the image of a shard that saved nothing", &case.ok("load", place.shard.load()), &GateImage::new());
    Ran::Passed
}

impl<H: ShardHarness> Case<'_, H> {
    fn note(&self, place: &Place<H>, image: &mut GateImage, note: &GateNote) {
        self.ok("note", place.shard.note(note));
        image.apply(note);
    }

    fn save(&self, place: &Place<H>, image: &GateImage) {
        self.ok("save", place.shard.save(&mut || image.clone()));
    }

    fn load(&self, place: &Place<H>) -> GateImage {
        self.ok("load", place.shard.load())
    }
}

fn owned(ranges: &RangeSet, tenure: u64) -> GateNote {
    GateNote::Owned { ranges: ranges.clone(), tenure: Tenure::new(tenure) }
}

fn released(ranges: &RangeSet, tenure: u64) -> GateNote {
    GateNote::Released { ranges: ranges.clone(), tenure: Tenure::new(tenure), to: NodeId::from("elsewhere") }
}

pub(super) fn saves<H: ShardHarness>(case: &mut Case<'_, H>) -> Ran {
    let (mut place, mut image) = (case.filled(), GateImage::new());
    let middle = case.positions(&place)[1];
    let part = PositionRange { start: middle, end: before(middle) };
    case.note(&place, &mut image, &owned(&RangeSet::full(), 1));
    for (step, gives) in [("work", false), ("a discard", true)] {
        if gives {
            case.discard(&place, part);
            case.note(&place, &mut image, &released(&RangeSet::from_iter([part]), 2));
        }
        case.save(&place, &image);
        let there = (case.content(&place), case.digest(&place, &RangeSet::full()));
        place = place.crashed();
        let found = (case.content(&place), case.digest(&place, &RangeSet::full()));
        case.same(&format!("what is there after {step} and a crash"), &found, &there);
        case.same(&format!("the image after {step}"), &case.load(&place), &image);
    }
    Ran::Passed
}

/// A range, its records, and their digest.
struct Parcel {
    range: PositionRange,
    ranges: RangeSet,
    bytes: Vec<u8>,
    digest: Digest,
}

impl<H: ShardHarness> Case<'_, H> {
    /// Returns a shard that has given a range away and saved that, with its image; and the range with
    /// other records in it, which may come.
    fn expecting(&mut self) -> (Place<H>, GateImage, Parcel) {
        let (place, source) = (self.filled(), self.empty());
        (0..4).for_each(|key| self.work(&source, key, 80 + key));
        let positions = self.positions(&place);
        let range = PositionRange { start: positions[positions.len() / 2], end: positions[0] };
        // Whatever the positions are, some of the records are in the range.
        let (bytes, mut digest) = self.export(&source, range);
        let mut parcel = Parcel { range, ranges: RangeSet::from_iter([range]), bytes, digest };
        if digest.records == 0 {
            let all = self::range(0, 0);
            (parcel.bytes, digest) = self.export(&source, all);
            (parcel.range, parcel.ranges, parcel.digest) = (all, RangeSet::full(), digest);
        }
        let mut image = GateImage::new();
        self.note(&place, &mut image, &owned(&RangeSet::full(), 1));
        self.discard(&place, parcel.range);
        self.note(&place, &mut image, &released(&parcel.ranges, 2));
        self.save(&place, &image);
        (place, image, parcel)
    }

    /// Checks that the range has the records that the shard's image speaks of.
    fn is_of_one_moment(&self, when: &str, place: &Place<H>, parcel: &Parcel) {
        let image = self.load(place);
        let found = self.digest(place, &parcel.ranges);
        let tenure = image.tenure(parcel.range.end);
        if tenure == Some(Tenure::new(3)) {
            self.same(&format!("after {when} the range is owned, and what it has"), &found, &parcel.digest);
        } else if Gate::new(image).left_over().is_empty() {
            self.same(&format!("after {when} the range is not owned, and what it has"), &found, &Digest::default());
        }
    }
}

pub(super) fn unsaved<H: ShardHarness>(case: &mut Case<'_, H>) -> Ran {
    for steps in 1..=5 {
        let (place, mut image, parcel) = case.expecting();
        let staged = GateNote::Staged { ranges: parcel.ranges.clone() };
        case.note(&place, &mut image, &staged);
        if steps > 1 {
            case.import(&place, parcel.range, &parcel.bytes);
        }
        if steps > 2 {
            case.note(&place, &mut image, &owned(&parcel.ranges, 3));
        }
        if steps > 3 {
            case.discard(&place, parcel.range);
            case.note(&place, &mut image, &released(&parcel.ranges, 4));
        }
        if steps > 4 {
            case.save(&place, &image);
        }
        let place = place.crashed();
        case.is_of_one_moment(&format!("{steps} steps and a crash"), &place, &parcel);
        if steps > 4 {
            case.same("the image that was saved", &case.load(&place), &image);
        }
    }
    // What was carried out on data that a crash took away can be carried out again.
    let (place, mut image, parcel) = case.expecting();
    let place = place.crashed();
    case.import(&place, parcel.range, &parcel.bytes);
    case.note(&place, &mut image, &owned(&parcel.ranges, 3));
    case.save(&place, &image);
    let place = place.crashed();
    case.same("the image", &case.load(&place), &image);
    case.is_of_one_moment("a save", &place, &parcel);
    Ran::Passed
}

pub(super) fn at_one_moment<H: ShardHarness>(case: &mut Case<'_, H>) -> Ran {
    for is_read_before in [false, true] {
        let (place, image, parcel) = case.expecting();
        let image = Mutex::new(image);
        let now = || image.lock().unwrap_or_else(PoisonError::into_inner).clone();
        thread::scope(|scope| {
            let (place, parcel, image, case) = (Shared(&place.shard), &parcel, &image, &*case);
            let mut has_begun = false;
            let saved = place.0.save(&mut || {
                let before = now();
                if !std::mem::replace(&mut has_begun, true) {
                    let (sender, receiver) = mpsc::channel();
                    scope.spawn(move || {
                        let shard = place.0;
                        let arrived = shard
                            .note(&GateNote::Staged { ranges: parcel.ranges.clone() })
                            .and_then(|()| {
                                shard.import(parcel.range, crate::sharding::records::as_records(&parcel.bytes))
                            })
                            .and_then(|()| shard.note(&owned(&parcel.ranges, 3)));
                        if arrived.is_ok() {
                            image.lock().unwrap_or_else(PoisonError::into_inner).apply(&owned(&parcel.ranges, 3));
                        }
                        // The other side may have stopped waiting.
                        let _ = sender.send(());
                    });
                    // With or without an answer.
                    let _ = receiver.recv_timeout(IN_BETWEEN);
                }
                if is_read_before { before } else { now() }
            });
            case.ok("save", saved);
        });
        let place = place.crashed();
        case.is_of_one_moment("an import that came while the shard saved", &place, &parcel);
    }
    Ran::Passed
}

/// A shard that threads share.
#[derive(Clone, Copy)]
struct Shared<'a, S>(&'a S);
