//! The movement between two rings is exact: a position is in one of its ranges if and only if its
//! owner changes.

use crate::support::{Crowded, SlowPreference, build, members, telling_positions};
use proptest::prelude::*;
use ringpact::ring::{HashRing, KeyHasher, Node, Position, PositionRange, RingError, Xxh3};

fn movement_is_exact<H: KeyHasher + PartialEq + Copy + std::fmt::Debug>(
    hasher: H,
    (before_nodes, before_virtual): (&[Node], u32),
    (after_nodes, after_virtual): (&[Node], u32),
    extra: &[u64],
) {
    let before = build(before_nodes, before_virtual, hasher);
    let after = build(after_nodes, after_virtual, hasher);
    let movement = before.movement(&after).unwrap();

    let slow_before = SlowPreference::new(before_nodes, before_virtual, &hasher);
    let slow_after = SlowPreference::new(after_nodes, after_virtual, &hasher);
    let positions = telling_positions(&[&before, &after]);
    for position in positions.into_iter().chain(extra.iter().copied().map(Position::new)) {
        let (from, to) = (slow_before.at(position)[0], slow_after.at(position)[0]);
        let holding: Vec<_> = movement.ranges().iter().filter(|moved| moved.range.contains(position)).collect();
        assert_eq!(movement.find(position), holding.first().copied());
        match holding[..] {
            [] => assert_eq!(from, to, "{position:?} changes hands and is in no range"),
            [moved] => {
                assert_ne!(from, to, "{position:?} stays and is in {moved:?}");
                assert_eq!((moved.from.id().as_str(), moved.to.id().as_str()), (from, to));
            }
            _ => panic!("{position:?} is in several ranges: {holding:?}"),
        }
    }

    let ranges = movement.ranges();
    for (moved, next) in ranges.iter().zip(ranges.iter().cycle().skip(1)) {
        let touching = ranges.len() > 1 && moved.range.end == next.range.start;
        assert!(!(touching && moved.from == next.from && moved.to == next.to), "{moved:?} and {next:?} are one");
    }
    assert!(ranges.windows(2).all(|pair| pair[0].range.end < pair[1].range.end));
    assert!(ranges.iter().skip(1).all(|moved| moved.range.start < moved.range.end), "only the first passes 0");
    assert_eq!(after.movement(&before).unwrap().width(), movement.width());
}

proptest! {
    #[test]
    fn movement_agrees_with_the_owners(
        before in members(),
        after in members(),
        before_virtual in 1..5_u32,
        after_virtual in 1..5_u32,
        extra in prop::collection::vec(any::<u64>(), 8),
    ) {
        let (before, after) = ((&before[..], before_virtual), (&after[..], after_virtual));
        movement_is_exact(Xxh3::default(), before, after, &extra);
        movement_is_exact(Crowded, before, after, &extra);
    }

    /// Changes like those of a real service: most nodes stay as they are, some come, some go, some
    /// change their weight.
    #[test]
    fn movement_agrees_with_the_owners_where_most_nodes_stay(
        (before, changes) in members().prop_flat_map(|before| {
            let changes = prop::collection::vec(0..12_u8, before.len());
            (Just(before), changes)
        }),
        comes in any::<bool>(),
        virtual_nodes in 1..40_u32,
    ) {
        let mut after: Vec<Node> = Vec::new();
        for (node, change) in before.iter().zip(&changes) {
            match change {
                0 => {}
                1 => after.push(node.clone().with_weight(3)),
                _ => after.push(node.clone()),
            }
        }
        if comes || after.is_empty() {
            after.push(Node::new("comes"));
        }
        movement_is_exact(Xxh3::default(), (&before, virtual_nodes), (&after, virtual_nodes), &[]);
        movement_is_exact(Crowded, (&before, virtual_nodes), (&after, virtual_nodes), &[]);
    }

    #[test]
    fn a_range_holds_what_its_segments_and_its_width_say(start: u64, end: u64, position: u64, near in 0..3_u64) {
        for (start, end) in [(start, end), (start, start), (start, start.wrapping_add(near)), (u64::MAX, end), (start, 0)] {
            let range = PositionRange { start: Position::new(start), end: Position::new(end) };
            for position in [position, 0, u64::MAX, start, end, start.wrapping_add(1), end.wrapping_add(1)] {
                let in_segments = range.segments().filter(|segment| segment.contains(&position)).count();
                prop_assert_eq!(in_segments, usize::from(range.contains(Position::new(position))));
            }
            let width: u128 = range.segments().map(|segment| u128::from(segment.end() - segment.start()) + 1).sum();
            prop_assert_eq!(width, range.width());
            prop_assert!(range.contains(Position::new(end)));
            prop_assert_eq!(range.contains(Position::new(start)), start == end);
        }
    }
}

#[test]
fn nothing_moves_between_equal_rings() {
    let ring = HashRing::new(["a", "b", "c"]).unwrap();
    let movement = ring.movement(&ring).unwrap();
    assert!(movement.is_empty());
    assert_eq!((movement.width(), movement.fraction()), (0, 0.0));
    assert_eq!(movement.find(Position::MIN), None);
}

#[test]
fn everything_moves_as_one_range_between_rings_without_a_common_node() {
    let (before, after) = (HashRing::new(["a"]).unwrap(), HashRing::new(["b"]).unwrap());
    let movement = before.movement(&after).unwrap();
    assert_eq!(movement.ranges().len(), 1);
    assert_eq!(movement.fraction(), 1.0);
    assert!(movement.ranges()[0].range.contains(Position::new(12_345)));
}

#[test]
fn a_newcomer_takes_about_its_fair_share_in_at_most_one_range_a_token() {
    let before = HashRing::new((0..99).map(|n| format!("node-{n}"))).unwrap();
    let mut after = before.clone();
    after.add("node-99").unwrap();
    let movement = before.movement(&after).unwrap();
    assert!((0.007..0.013).contains(&movement.fraction()), "{}", movement.fraction());
    assert!(movement.ranges().len() >= 150);
    assert!(movement.into_iter().all(|moved| moved.to.id() == "node-99"));
}

#[test]
fn rings_of_different_hashers_are_not_compared() {
    let ring = |seed| HashRing::builder().hasher(Xxh3::with_seed(seed)).nodes(["a", "b"]).build().unwrap();
    assert_eq!(ring(1).movement(&ring(2)).unwrap_err(), RingError::DifferentHashers);
    assert!(ring(1).movement(&ring(1)).unwrap().is_empty());
}

/// The rings have many pages of buckets. Runs that differ start and end anywhere, and some buckets
/// are spilled. Both rings have the same number of buckets, or one has more.
#[test]
fn large_rings_are_compared_exactly() {
    let ring = |nodes: std::ops::Range<u32>, virtual_nodes| {
        let nodes = nodes.map(|n| Node::new(format!("node-{n}")));
        HashRing::builder().virtual_nodes(virtual_nodes).nodes(nodes).build().unwrap()
    };
    let before = ring(0..120, 160);
    for after in [ring(0..121, 160), ring(12..132, 160), ring(500..620, 160), ring(12..150, 160), ring(0..120, 97)] {
        let movement = before.movement(&after).unwrap();
        let (mut changes, mut width) = (0, 0_u128);
        let mut positions = telling_positions(&[&before, &after]);
        positions.sort_unstable();
        for (start, end) in positions.iter().zip(positions.iter().skip(1)) {
            let owner = |ring: &HashRing| ring.replicas_at(*end).next().unwrap().id().clone();
            let (from, to) = (owner(&before), owner(&after));
            let moved = movement.find(*end).map(|moved| (moved.from.id().clone(), moved.to.id().clone()));
            assert_eq!(moved, (from != to).then(|| (from.clone(), to.clone())));
            if from != to {
                changes += 1;
                width += u128::from(end.as_u64() - start.as_u64());
            }
        }
        assert!(changes >= movement.ranges().len() - 1);
        // Only position 0 comes before all of these stretches.
        assert!(movement.width() >= width && movement.width() - width <= 1);
    }
}

/// Some nodes stand in no line, because 16 bits can't hold their number. The node that comes after
/// a line may be one of them.
#[test]
fn rings_of_very_many_nodes_are_compared_exactly() {
    let mut before = HashRing::builder()
        .virtual_nodes(1)
        .nodes((0..66_500).map(|n| Node::new(format!("node-{n}"))))
        .build()
        .unwrap();
    for n in 0..300 {
        before.add(Node::new(format!("late-{n}"))).unwrap();
    }
    let mut after = before.clone();
    for n in 0..40 {
        after.remove(format!("node-{}", n * 1_000)).unwrap();
        after.remove(format!("late-{n}")).unwrap();
        after.add(Node::new(format!("new-{n}"))).unwrap();
    }
    for (before, after) in [(&before, &after), (&after, &before)] {
        let movement = before.movement(after).unwrap();
        let mut moving = 0;
        for position in telling_positions(&[before, after]) {
            let (from, to) = (before.owner_at(position), after.owner_at(position));
            let moved = movement.find(position).map(|moved| (moved.from.id(), moved.to.id()));
            assert_eq!(moved, (from.id() != to.id()).then(|| (from.id(), to.id())));
            moving += usize::from(moved.is_some());
        }
        assert!(moving >= 120);
    }
}
