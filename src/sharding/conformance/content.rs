//! The checks of what a shard exports, imports and discards.

use super::{
    Ran, ShardHarness,
    case::{Case, KEYS, Place, before, only, range},
};
use crate::{
    participant::Service,
    ring::{Position, PositionRange, RangeSet},
    sharding::{Shard, records},
};

pub(super) fn confirms<H: ShardHarness>(case: &mut Case<'_, H>) -> Ran {
    let place = case.empty();
    case.same("a key that no work has created", &place.seen(0), &None);
    case.work(&place, 0, 1);
    let first = place.seen(0);
    case.that(first.is_some(), || "a key is not seen after its work".to_owned());
    let (branch, work) = (case.branch(), place.harness.work(0, 2));
    case.tried(&place, &branch, &work);
    case.same("a key with unconfirmed work", &place.seen(0), &first);
    case.ok("confirm", place.shard.confirm(&branch, std::slice::from_ref(&work)));
    let second = place.seen(0);
    case.that(second != first, || "work with another value is not seen".to_owned());
    case.ok("a repeated confirm", place.shard.confirm(&branch, &[work]));
    case.same("a key after a repeated confirm", &place.seen(0), &second);
    Ran::Passed
}

/// Returns the positions in the order from a start on.
fn clockwise(positions: &[Position], start: Position) -> Vec<Position> {
    let mut rotated = positions.to_vec();
    rotated.sort_by_key(|position| position.as_u64().wrapping_sub(start.as_u64()).wrapping_sub(1));
    rotated
}

pub(super) fn exports<H: ShardHarness>(case: &mut Case<'_, H>) -> Ran {
    let place = case.filled();
    let positions = case.positions(&place);
    let ends = [Position::new(0), Position::MAX].into_iter();
    for start in positions.iter().copied().chain(positions.iter().map(|position| before(*position))).chain(ends) {
        let circle = PositionRange { start, end: start };
        let exported = case.exported(&place, circle);
        case.same(
            &format!("the order of the circle from {}", start.as_u64()),
            &exported,
            &clockwise(&positions, start),
        );
    }
    Ran::Passed
}

pub(super) fn bounds<H: ShardHarness>(case: &mut Case<'_, H>) -> Ran {
    let place = case.filled();
    let positions = case.positions(&place);
    // Ranges that pass 0 are another check's.
    for pair in positions.windows(2).filter(|pair| pair[0] > Position::new(0)) {
        let (here, next) = (pair[0], pair[1]);
        case.same("the range of one position", &case.exported(&place, only(here)), &vec![here]);
        let following = PositionRange { start: here, end: next };
        case.same("the range from a position to the next", &case.exported(&place, following), &vec![next]);
        let both = PositionRange { start: before(here), end: next };
        case.same("the range of two positions", &case.exported(&place, both), &vec![here, next]);
    }
    Ran::Passed
}

pub(super) fn passes_zero<H: ShardHarness>(case: &mut Case<'_, H>) -> Ran {
    let place = case.filled();
    let positions = case.positions(&place);
    for (from, start) in positions.iter().enumerate().skip(1) {
        for (to, end) in positions.iter().enumerate().take(from) {
            let exported = case.exported(&place, PositionRange { start: *start, end: *end });
            let expected = [&positions[from + 1..], &positions[..=to]].concat();
            case.same(&format!("the range after {} up to {}", start.as_u64(), end.as_u64()), &exported, &expected);
        }
    }
    let last = positions[positions.len() - 1];
    let exported = case.exported(&place, PositionRange { start: before(last), end: positions[0] });
    case.same("the range of the last position and the first", &exported, &vec![last, positions[0]]);
    Ran::Passed
}

pub(super) fn gaps<H: ShardHarness>(case: &mut Case<'_, H>) -> Ran {
    let whole = range(7, 7);
    case.same("what a new shard exports", &case.exported(&case.empty(), whole), &vec![]);
    let place = case.filled();
    for pair in case.positions(&place).windows(2) {
        let gap = PositionRange { start: pair[0], end: before(pair[1]) };
        if gap.start < gap.end {
            case.same("a range between two positions", &case.exported(&place, gap), &vec![]);
        }
    }
    Ran::Passed
}

pub(super) fn ends<H: ShardHarness>(case: &mut Case<'_, H>) -> Ran {
    let place = case.filled();
    // From the middle, so that a range in two parts is among them.
    let middle = case.positions(&place)[1];
    for range in [range(u64::MAX, u64::MAX), PositionRange { start: middle, end: middle }] {
        let unwanted = case.ok("export", records::unwanted(range, |range, into| place.shard.export(range, into)));
        // The one that is told that no more is wanted is not counted.
        case.same("the number of records after the end", &unwanted, &0);
    }
    Ran::Passed
}

pub(super) fn cuts<H: ShardHarness>(case: &mut Case<'_, H>) -> Ran {
    let place = case.filled();
    let all = RangeSet::full();
    let export = |range: PositionRange, into: &mut _| place.shard.export(range, into);
    let (bytes, digest) = case.ok("export", records::collect(&all, export));
    for budget in 0..=digest.bytes {
        let (mut left, mut chunks) = (all.clone(), Vec::new());
        while !left.is_empty() {
            let (chunk, measured) = case.ok("export", records::measure(&left, budget, export));
            let (records, collected) = case.ok("export", records::collect(&chunk, export));
            case.same(
                &format!("what a chunk of {budget} bytes has"),
                &(collected.records, collected.bytes),
                &(measured.records, measured.bytes),
            );
            case.that(!chunk.is_empty(), || "a chunk has no position".to_owned());
            chunk.iter().for_each(|range| left.remove(range));
            chunks.extend_from_slice(&records);
        }
        case.same(&format!("all chunks of {budget} bytes together"), &chunks, &bytes);
    }
    Ran::Passed
}

pub(super) fn equal_positions<H: ShardHarness>(case: &mut Case<'_, H>) -> Ran {
    let (place, other) = (case.empty(), case.empty());
    let Some([a, b]) = place.harness.equal_positions() else { return Ran::Skipped };
    case.same("the position of the second key", &place.position(b), &place.position(a));
    case.work(&place, a, 1);
    case.work(&place, b, 2);
    let at = only(place.position(a));
    let export = |range: PositionRange, into: &mut _| place.shard.export(range, into);
    let (_, smallest) = case.ok("export", records::measure(&RangeSet::from_iter([at]), 0, export));
    let (bytes, digest) = case.export(&place, at);
    case.same("the smallest chunk", &(smallest.records, smallest.bytes), &(digest.records, digest.bytes));
    case.import(&other, at, &bytes);
    let seen = |place: &Place<H>| [place.seen(a), place.seen(b)];
    case.same("what arrives elsewhere", &seen(&other), &seen(&place));
    case.that(seen(&other).iter().all(Option::is_some), || "a key of the position is missing".to_owned());
    case.discard(&place, at);
    case.same("what a discard leaves", &seen(&place), &[None, None]);
    Ran::Passed
}

pub(super) fn under_way<H: ShardHarness>(case: &mut Case<'_, H>) -> Ran {
    let place = case.filled();
    let before = case.export(&place, range(0, 0));
    for key in [0, KEYS] {
        let (branch, work) = (case.branch(), place.harness.work(key, 50));
        case.tried(&place, &branch, &work);
        case.same("an export with work under way", &case.export(&place, range(0, 0)), &before);
        case.ok("cancel", place.shard.cancel(&branch, &[work]));
        case.same("an export after its cancel", &case.export(&place, range(0, 0)), &before);
    }
    Ran::Passed
}

/// Ranges that divide the keys: in the middle, across position 0, and all.
fn some_ranges(positions: &[Position]) -> [PositionRange; 4] {
    let (first, last) = (positions[0], positions[positions.len() - 1]);
    let (second, middle) = (positions[1], positions[positions.len() / 2]);
    [
        PositionRange { start: second, end: middle },
        PositionRange { start: middle, end: first },
        PositionRange { start: before(last), end: first },
        PositionRange { start: middle, end: middle },
    ]
}

/// Checks what the keys of the range are, and what the others are.
fn is_divided<H: ShardHarness>(
    case: &Case<'_, H>,
    place: &Place<H>,
    range: PositionRange,
    inside: &[Option<String>],
    outside: &[Option<String>],
) {
    for key in 0..KEYS {
        let (which, from) = if range.contains(place.position(key)) { ("in", inside) } else { ("out of", outside) };
        case.same(&format!("key {key}, {which} the range"), &place.seen(key), &from[key as usize]);
    }
}

const NOTHING: [Option<String>; KEYS as usize] = [const { None }; KEYS as usize];

pub(super) fn elsewhere<H: ShardHarness>(case: &mut Case<'_, H>) -> Ran {
    let place = case.filled();
    let content = case.content(&place);
    for range in some_ranges(&case.positions(&place)) {
        let other = case.empty();
        let (bytes, digest) = case.export(&place, range);
        case.import(&other, range, &bytes);
        let ranges = RangeSet::from_iter([range]);
        case.same("the digest elsewhere", &case.digest(&other, &ranges), &digest);
        case.same("the digest of all that is there", &case.digest(&other, &RangeSet::full()), &digest);
        is_divided(case, &other, range, &content, &NOTHING);
        case.same("what an export leaves", &case.content(&place), &content);
    }
    Ran::Passed
}

pub(super) fn import_twice<H: ShardHarness>(case: &mut Case<'_, H>) -> Ran {
    let (place, other) = (case.filled(), case.empty());
    let content = case.content(&place);
    for range in some_ranges(&case.positions(&place)) {
        let (bytes, digest) = case.export(&place, range);
        case.import(&other, range, &bytes);
        case.import(&other, range, &bytes);
        case.same("the digest of the range", &case.digest(&other, &RangeSet::from_iter([range])), &digest);
    }
    // The last of the ranges is the circle.
    case.same("the content", &case.content(&other), &content);
    Ran::Passed
}

pub(super) fn replaces<H: ShardHarness>(case: &mut Case<'_, H>) -> Ran {
    let place = case.empty();
    // Some of the keys only, so that others have to go.
    (0..KEYS).step_by(2).for_each(|key| case.work(&place, key, 50 + key));
    let content = case.content(&place);
    for range in some_ranges(&case.positions(&place)) {
        let other = case.filled();
        let there = case.content(&other);
        let (bytes, digest) = case.export(&place, range);
        case.import(&other, range, &bytes);
        case.same("the digest of the range", &case.digest(&other, &RangeSet::from_iter([range])), &digest);
        is_divided(case, &other, range, &content, &there);
    }
    Ran::Passed
}

pub(super) fn import_of_nothing<H: ShardHarness>(case: &mut Case<'_, H>) -> Ran {
    let positions = case.positions(&case.empty());
    for range in some_ranges(&positions) {
        let place = case.filled();
        let content = case.content(&place);
        case.import(&place, range, &[]);
        case.same("what the range exports", &case.exported(&place, range), &vec![]);
        is_divided(case, &place, range, &NOTHING, &content);
    }
    Ran::Passed
}

pub(super) fn changes_what_came<H: ShardHarness>(case: &mut Case<'_, H>) -> Ran {
    let (place, other, third) = (case.filled(), case.empty(), case.empty());
    let (bytes, _) = case.export(&place, range(0, 0));
    case.import(&other, range(0, 0), &bytes);
    for place in [&place, &other] {
        (0..KEYS).step_by(3).for_each(|key| case.work(place, key, 60));
        case.work(place, KEYS, 1);
    }
    let changed = case.export(&other, range(0, 0));
    case.same("the same work here and there", &changed.1, &case.export(&place, range(0, 0)).1);
    case.same("the content", &case.content(&other), &case.content(&place));
    case.import(&third, range(0, 0), &changed.0);
    case.same("the content at a third shard", &case.content(&third), &case.content(&place));
    Ran::Passed
}

pub(super) fn discards<H: ShardHarness>(case: &mut Case<'_, H>) -> Ran {
    let positions = case.positions(&case.empty());
    for range in some_ranges(&positions).into_iter().chain(positions.iter().map(|position| only(*position))) {
        let place = case.filled();
        let content = case.content(&place);
        for _ in 0..2 {
            case.discard(&place, range);
            case.same("what the range exports", &case.exported(&place, range), &vec![]);
            is_divided(case, &place, range, &NOTHING, &content);
        }
        let left: Vec<_> = positions.iter().copied().filter(|position| !range.contains(*position)).collect();
        case.same("what the shard exports", &case.exported(&place, self::range(u64::MAX, u64::MAX)), &left);
        // A new life of a key begins from nothing.
        let new = case.empty();
        let key = (0..KEYS).find(|key| range.contains(place.position(*key)));
        for place in [&place, &new] {
            key.iter().for_each(|key| case.work(place, *key, 70));
        }
        case.same("a key that is created again", &key.map(|key| place.seen(key)), &key.map(|key| new.seen(key)));
    }
    Ran::Passed
}
