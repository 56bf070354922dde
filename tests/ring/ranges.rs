//! Sets of ranges, and values for ranges, do what a list of positions would do.

use ringpact::ring::{Position, PositionRange, RangeMap, RangeSet};

/// The places between which ranges are made: both sides of position 0, and some that touch.
const ENDS: [u64; 8] = [0, 1, 2, 5, 6, 1 << 40, u64::MAX - 1, u64::MAX];

/// One position of each part of the circle that the ends make.
const PROBES: [u64; 11] = [0, 1, 2, 3, 5, 6, 7, 1 << 40, (1 << 40) + 1, u64::MAX - 1, u64::MAX];

fn range(start: u64, end: u64) -> PositionRange {
    PositionRange { start: Position::new(start), end: Position::new(end) }
}

fn ranges() -> impl Iterator<Item = PositionRange> {
    ENDS.into_iter().flat_map(|start| ENDS.into_iter().map(move |end| range(start, end)))
}

/// What each probe has, in an array.
type Model = [Option<u8>; PROBES.len()];

fn write(model: &mut Model, range: PositionRange, value: Option<u8>) {
    for (probe, slot) in PROBES.into_iter().zip(model) {
        if range.contains(Position::new(probe)) {
            *slot = value;
        }
    }
}

fn check(map: &RangeMap<u8>, model: &Model) {
    for (probe, value) in PROBES.into_iter().zip(model) {
        assert_eq!(map.get(Position::new(probe)), value.as_ref(), "at {probe} of {map:?}");
    }
    let listed: Vec<_> = map.iter().collect();
    for (index, (range, value)) in listed.iter().enumerate() {
        let (next, other) = listed[(index + 1) % listed.len()];
        if listed.len() > 1 && range.end == next.start {
            assert_ne!(**value, *other, "two ranges of one value touch in {map:?}");
        }
    }
    assert_eq!(map.width(), listed.iter().map(|(range, _)| range.width()).sum::<u128>());
    assert_eq!(map.is_empty(), model.iter().all(Option::is_none));
    let bytes = postcard::to_stdvec(map).unwrap();
    assert_eq!(postcard::from_bytes::<RangeMap<u8>>(&bytes).unwrap(), *map);
    for asked in ranges() {
        let has = |probe: u64| PROBES.iter().position(|other| *other == probe).and_then(|index| model[index]);
        let asked_probes = PROBES.into_iter().filter(|probe| asked.contains(Position::new(*probe)));
        let (with, without): (Vec<u64>, Vec<u64>) = asked_probes.partition(|probe| has(*probe).is_some());
        assert_eq!(map.covers(asked), without.is_empty(), "{asked:?} of {map:?}");
        assert_eq!(map.overlaps(asked), !with.is_empty(), "{asked:?} of {map:?}");
        let parts: Vec<_> = map.overlapping(asked).map(|(part, value)| (part, *value)).collect();
        let gaps = map.gaps(asked);
        let total: u128 = parts.iter().map(|(part, _)| part.width()).sum::<u128>()
            + gaps.iter().map(PositionRange::width).sum::<u128>();
        assert_eq!(total, asked.width());
        for probe in with {
            let found: Vec<_> = parts.iter().filter(|(part, _)| part.contains(Position::new(probe))).collect();
            assert!(matches!(found[..], [(_, value)] if Some(*value) == has(probe)));
        }
        for probe in without {
            assert_eq!(gaps.iter().filter(|gap| gap.contains(Position::new(probe))).count(), 1);
        }
    }
}

#[test]
fn each_pair_of_changes_leaves_what_a_list_of_positions_has() {
    for first in ranges() {
        for second in ranges() {
            for value in [Some(1), Some(2), None] {
                let (mut map, mut model) = (RangeMap::new(), Model::default());
                map.insert(first, 1);
                write(&mut model, first, Some(1));
                match value {
                    Some(value) => map.insert(second, value),
                    None => map.remove(second),
                }
                write(&mut model, second, value);
                check_shallow(&map, &model);
            }
        }
    }
}

fn check_shallow(map: &RangeMap<u8>, model: &Model) {
    for (probe, value) in PROBES.into_iter().zip(model) {
        assert_eq!(map.get(Position::new(probe)), value.as_ref(), "at {probe} of {map:?}");
    }
    assert_eq!(map.width(), map.iter().map(|(range, _)| range.width()).sum::<u128>());
}

#[test]
fn long_random_series_of_changes_leave_what_a_list_of_positions_has() {
    let mut state = 7_u64;
    let mut next = |below: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % below
    };
    for _ in 0..40 {
        let (mut map, mut model) = (RangeMap::new(), Model::default());
        for _ in 0..30 {
            let range = range(ENDS[next(8) as usize], ENDS[next(8) as usize]);
            match next(4) {
                0 => {
                    map.remove(range);
                    write(&mut model, range, None);
                }
                value => {
                    map.insert(range, value as u8);
                    write(&mut model, range, Some(value as u8));
                }
            }
            check(&map, &model);
        }
    }
}

/// Maps are compared when the mover asks whether it has come to the end.
#[test]
fn maps_are_equal_however_they_were_made() {
    let mut whole = RangeSet::full();
    let halves = RangeSet::from_iter([range(9, 1 << 50), range(1 << 50, 9)]);
    assert_eq!(whole, halves);
    assert!(halves.is_full() && halves.covers(range(3, 3)));
    whole.remove(range(u64::MAX - 1, 1));
    assert_eq!(whole.iter().collect::<Vec<_>>(), [range(1, u64::MAX - 1)]);
    whole.insert(range(u64::MAX - 1, 1));
    assert_eq!(whole.iter().collect::<Vec<_>>(), [range(u64::MAX, u64::MAX)]);
    assert_eq!(whole, halves);
}

#[test]
fn lists_with_ranges_that_overlap_are_refused() {
    let bytes = postcard::to_stdvec(&vec![range(1, 5), range(4, 6)]).unwrap();
    assert!(postcard::from_bytes::<RangeSet>(&bytes).is_err());
    let json = serde_json::to_string(&vec![(range(1, 5), 1), (range(9, 2), 1)]).unwrap();
    let error = serde_json::from_str::<RangeMap<u8>>(&json).unwrap_err();
    assert!(error.to_string().contains("overlaps another range"), "{error}");
}
