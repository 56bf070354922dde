//! Pins hold positions on a node, and the movement between two rings with pins is exact.

use crate::support::{Crowded, SPOTS, build, members, telling_positions};
use proptest::prelude::*;
use ringpact::ring::{
    HashRing, KeyHasher, Modular, Movement, Node, PinnedRing, Pins, Placement, Position, PositionRange, RangeSet,
    RingError, SharedRing, Xxh3,
};

fn range(start: u64, end: u64) -> PositionRange {
    PositionRange { start: Position::new(start), end: Position::new(end) }
}

/// Positions where tokens of [`Crowded`] are, their neighbours, the ends, and any others.
fn bound() -> impl Strategy<Value = u64> {
    let spot = (0..SPOTS, 0..3_u64)
        .prop_map(|(spot, off)| (spot * (u64::MAX / (SPOTS - 1))).wrapping_add(off).wrapping_sub(1));
    prop_oneof![3 => spot, 1 => Just(0), 1 => Just(u64::MAX), 2 => any::<u64>()]
}

/// Ranges, each with the number of a node.
fn some_pins() -> impl Strategy<Value = Vec<(u64, u64, u8)>> {
    prop::collection::vec((bound(), bound(), any::<u8>()), 0..6)
}

fn pins_of<H>(ring: &HashRing<H>, pins: &[(u64, u64, u8)]) -> Pins {
    let mut made = Pins::new();
    for (start, end, node) in pins {
        made.pin_range(range(*start, *end), ring.nodes()[usize::from(*node) % ring.nodes().len()].id());
    }
    made
}

/// The node that a position is held on: that of the last pin with the position.
fn owner<'a, H>(ring: &'a HashRing<H>, pins: &[(u64, u64, u8)], position: Position) -> &'a Node {
    match pins.iter().rev().find(|(start, end, _)| range(*start, *end).contains(position)) {
        Some((.., node)) => &ring.nodes()[usize::from(*node) % ring.nodes().len()],
        None => ring.owner_at(position),
    }
}

/// Returns positions at which a mistake would show.
fn telling<H>(rings: &[&HashRing<H>], pins: &[&[(u64, u64, u8)]]) -> Vec<Position> {
    let edges = pins.iter().flat_map(|pins| pins.iter()).flat_map(|(start, end, _)| [*start, *end]);
    let near = edges.flat_map(|edge| [edge.wrapping_sub(1), edge, edge.wrapping_add(1)]).map(Position::new);
    telling_positions(rings).into_iter().chain(near).collect()
}

#[track_caller]
fn assert_well_formed(movement: &Movement<'_>) {
    let ranges = movement.ranges();
    assert!(ranges.windows(2).all(|pair| pair[0].range.end < pair[1].range.end));
    assert!(ranges.iter().skip(1).all(|moved| moved.range.start < moved.range.end), "only the first passes 0");
    for (moved, next) in ranges.iter().zip(ranges.iter().cycle().skip(1)) {
        let touching = ranges.len() > 1 && moved.range.end == next.range.start;
        assert!(!(touching && moved.from == next.from && moved.to == next.to), "{moved:?} and {next:?} are one");
    }
    let set: RangeSet = ranges.iter().map(|moved| moved.range).collect();
    assert_eq!(set.width(), movement.width(), "no two overlap");
}

fn movement_is_exact<H: KeyHasher + PartialEq + Clone + std::fmt::Debug>(
    (before, old): (&HashRing<H>, &[(u64, u64, u8)]),
    (after, new): (&HashRing<H>, &[(u64, u64, u8)]),
) {
    let from = PinnedRing::new(before, pins_of(before, old)).unwrap();
    let to = PinnedRing::new(after.clone(), pins_of(after, new)).unwrap();
    let movement = from.movement(&to).unwrap();
    assert_well_formed(&movement);
    for position in telling(&[before, after], &[old, new]) {
        let (from_owner, to_owner) = (owner(before, old, position), owner(after, new, position));
        assert_eq!((from.owner_at(position), to.owner_at(position)), (from_owner, to_owner));
        let moved = movement.find(position).map(|moved| (moved.from.id(), moved.to.id()));
        let expected = (from_owner.id() != to_owner.id()).then(|| (from_owner.id(), to_owner.id()));
        assert_eq!(moved, expected, "at {position:?}");
    }
    let back = to.movement(&from).unwrap();
    assert_eq!(back.width(), movement.width());
    assert!(from.movement(&from).unwrap().is_empty());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn movement_agrees_with_the_owners(
        before in members(), after in members(), virtual_nodes in 1..5_u32, old in some_pins(), new in some_pins(), same: bool,
    ) {
        let new = if same { &old } else { &new };
        let of = |nodes: &[Node]| build(nodes, virtual_nodes, Xxh3::default());
        movement_is_exact((&of(&before), &old), (&of(&after), new));
        let of = |nodes: &[Node]| build(nodes, virtual_nodes, Crowded);
        movement_is_exact((&of(&before), &old), (&of(&after), new));
        movement_is_exact((&of(&before), &old), (&of(&before), new));
    }

    /// Without pins, all is as on the ring.
    #[test]
    fn without_pins_nothing_changes(before in members(), after in members(), key: u64) {
        let (before, after) = (build(&before, 3, Xxh3::default()), build(&after, 3, Xxh3::default()));
        let (from, to) = (PinnedRing::new(&before, Pins::new()).unwrap(), PinnedRing::new(&after, Pins::new()).unwrap());
        prop_assert_eq!(from.movement(&to).unwrap(), before.movement(&after).unwrap());
        prop_assert_eq!(from.owner(key), before.owner(key));
        prop_assert!(from.replicas(key).eq(before.replicas(key)));
        prop_assert!(from.replicas_across_zones(key).eq(before.replicas_across_zones(key)));
        prop_assert_eq!(from.owner_for_new(key), before.owner_for_new(key));
    }

    /// What a movement would move is held where it is, and then let go range by range.
    #[test]
    fn held_ranges_stay_until_they_are_let_go(nodes in members(), virtual_nodes in 1..5_u32, weight in 1..4_u32) {
        let before = build(&nodes, virtual_nodes, Crowded);
        let mut after = before.clone();
        after.add(Node::new("late").with_weight(weight)).unwrap();
        let movement = before.movement(&after).unwrap();
        let mut held = PinnedRing::new(after.clone(), Pins::holding(&movement)).unwrap();
        let plain = PinnedRing::new(&before, Pins::new()).unwrap();
        prop_assert!(plain.movement(&held).unwrap().is_empty());
        prop_assert_eq!(held.pins().width(), movement.width());
        let mut left = movement.width();
        for moved in &movement {
            held.unpin_range(moved.range);
            left -= moved.range.width();
            prop_assert_eq!(held.movement(&PinnedRing::new(&after, Pins::new()).unwrap()).unwrap().width(), left);
        }
        prop_assert!(held.pins().is_empty());
    }

    #[test]
    fn a_pinned_ring_survives_serialisation(nodes in members(), pins in some_pins(), balanced: bool) {
        let placement = if balanced { Placement::Balanced } else { Placement::Hashed };
        let ring = HashRing::builder().placement(placement).virtual_nodes(3).nodes(nodes).build().unwrap();
        let pinned = PinnedRing::new(ring.clone(), pins_of(&ring, &pins)).unwrap();
        let json = serde_json::to_string(&pinned).unwrap();
        prop_assert_eq!(&serde_json::from_str::<PinnedRing<HashRing>>(&json).unwrap(), &pinned);
        let bytes = postcard::to_stdvec(&pinned).unwrap();
        prop_assert_eq!(&postcard::from_bytes::<PinnedRing<HashRing>>(&bytes).unwrap(), &pinned);
        let by_reference = PinnedRing::new(&ring, pinned.pins().clone()).unwrap();
        prop_assert_eq!(serde_json::to_string(&by_reference).unwrap(), json);
    }
}

/// Copies are spread as if the walk came to the pinned node first, also beyond sixteen of them.
#[test]
fn copies_across_zones_begin_with_the_pinned_node() {
    for (nodes, zones) in [(1, 1), (5, 2), (7, 3), (9, 9), (25, 3), (40, 20)] {
        let ring = HashRing::builder()
            .virtual_nodes(2)
            .nodes((0..nodes).map(|n| Node::new(format!("n{n}")).with_zone(format!("z{}", n * n % zones))))
            .build()
            .unwrap();
        let mut pinned = PinnedRing::new(&ring, Pins::new()).unwrap();
        for id in ring.nodes().iter().map(Node::id) {
            pinned.pin_range(range(u64::MAX / 3, 0), id).unwrap();
            for position in telling_positions(&[&ring]).into_iter().step_by(5) {
                let mut of_zones = std::collections::BTreeMap::new();
                let in_walk = pinned.replicas_at(position);
                let mut expected: Vec<_> = in_walk
                    .map(|node| {
                        let round = of_zones.entry(node.zone()).and_modify(|round| *round += 1).or_insert(0);
                        (*round, node)
                    })
                    .collect();
                expected.sort_by_key(|(round, _)| *round);
                let found = pinned.replicas_across_zones_at(position);
                assert!(found.eq(expected.into_iter().map(|(_, node)| node)), "{id} pinned, at {position:?}");
            }
        }
    }
}

#[test]
fn keys_and_ranges_are_held() {
    let mut ring = PinnedRing::new(HashRing::new(["a", "b", "c"]).unwrap(), Pins::new()).unwrap();
    for id in ["a", "b", "c"] {
        ring.pin("celebrity", id).unwrap();
        assert_eq!(ring.owner("celebrity").id(), id);
        assert_eq!(ring.pinned_at(ring.ring().position("celebrity")).unwrap().id(), id);
        let replicas: Vec<_> = ring.replicas("celebrity").map(|node| node.id().as_str()).collect();
        assert_eq!((replicas.len(), replicas[0]), (3, id));
    }
    assert_eq!(ring.pins().width(), 1);
    ring.unpin("celebrity");
    assert_eq!(ring.owner("celebrity"), ring.ring().owner("celebrity"));

    // Position 0, the last one, and the whole circle.
    ring.pin_range(range(u64::MAX, 0), "a").unwrap();
    ring.pin_range(range(u64::MAX - 1, u64::MAX), "b").unwrap();
    assert_eq!((ring.owner_at(Position::MIN).id().as_str(), ring.owner_at(Position::MAX).id().as_str()), ("a", "b"));
    assert_eq!(ring.pinned_at(Position::new(1)), None);
    ring.pin_range(range(7, 7), "c").unwrap();
    assert_eq!(
        ring.pins().iter().map(|(range, id)| (range.width(), id.as_str())).collect::<Vec<_>>(),
        [(1 << 64, "c")]
    );
    ring.unpin_range(range(3, 1));
    assert_eq!((ring.pins().width(), ring.pins().of("c").width()), (2, 2));
    assert_eq!(ring.pins().get(Position::new(3)).map(|id| id.as_str()), Some("c"));
    assert_eq!(ring.pins().of("a"), RangeSet::new());
}

#[test]
fn a_pinned_node_cannot_leave_before_its_pins() {
    let mut ring = PinnedRing::new(HashRing::new(["a", "b", "c"]).unwrap(), Pins::new()).unwrap();
    assert_eq!(ring.pin("k", "x"), Err(RingError::UnknownNode { id: "x".into() }));
    assert_eq!(ring.pin_range(range(1, 2), "x"), Err(RingError::UnknownNode { id: "x".into() }));
    ring.pin_range(range(10, 20), "b").unwrap();
    ring.pin_range(range(u64::MAX, 5), "b").unwrap();
    ring.pin_range(range(5, 10), "c").unwrap();

    let before = ring.clone();
    let error = ring.remove("b").unwrap_err();
    assert_eq!(error, RingError::PinnedNode { id: "b".into() });
    assert!(error.to_string().contains("release them"), "{error}");
    assert_eq!(ring, before);
    let without = HashRing::new(["a", "c"]).unwrap();
    assert_eq!(PinnedRing::new(&without, ring.pins().clone()).unwrap_err(), error);

    assert_eq!(ring.release("b"), RangeSet::from_iter([range(u64::MAX, 5), range(10, 20)]));
    assert_eq!(ring.release("b"), RangeSet::new());
    assert_eq!(ring.remove("b").unwrap(), Node::new("b"));
    assert_eq!(ring.owner_at(Position::new(6)).id(), "c");
    assert_eq!(ring.remove("x"), Err(RingError::UnknownNode { id: "x".into() }));
    assert_eq!(before.movement(&ring).unwrap().find(Position::new(7)), None, "what is held on c has stayed");

    ring.add("d").unwrap();
    ring.replace(Node::new("c").with_weight(2).with_draining(true)).unwrap();
    let at = Position::new(6);
    assert_eq!(ring.owner_at(at).id(), "c");
    assert_ne!(ring.owner_for_new_at(at).unwrap().id(), "c");
    let (ring, mut pins) = ring.into_parts();
    assert_eq!(ring.nodes().len(), 3);
    pins.unpin_position(at);
    assert_eq!(pins.get(at), None);
    assert_eq!(pins.width(), 4);
}

#[test]
fn pins_lie_over_a_version_of_a_shared_ring() {
    let shared = SharedRing::new(HashRing::new(["a", "b", "c"]).unwrap());
    let mut pins = Pins::new();
    pins.pin_range(range(0, 1 << 63), "b");
    let before = PinnedRing::new(shared.load(), pins.clone()).unwrap();
    let change = shared.update(|ring| ring.remove("a").map(drop)).unwrap();
    let after = PinnedRing::new(change.after.clone(), pins.clone()).unwrap();
    assert!(before.movement(&after).unwrap().ranges().iter().all(|moved| moved.from.id() == "a"));
    assert_ne!(before.held().epoch(), after.held().epoch());

    let refused = shared.update(|ring| {
        ring.remove("b")?;
        pins.check(ring)
    });
    assert_eq!(refused.unwrap_err(), RingError::PinnedNode { id: "b".into() });
    let by_version = PinnedRing::new(&*change.after, pins).unwrap();
    assert_eq!(by_version.owner_at(Position::new(9)).id(), "b");
}

#[test]
fn bad_pins_are_refused() {
    let ring = HashRing::builder().hasher(Xxh3::with_seed(1)).node("a").build().unwrap();
    let other = HashRing::new(["a"]).unwrap();
    let of = |ring| PinnedRing::new(ring, Pins::new()).unwrap();
    assert_eq!(of(&ring).movement(&of(&other)).unwrap_err(), RingError::DifferentHashers);

    let mut pinned = PinnedRing::new(HashRing::new(["a", "b"]).unwrap(), Pins::new()).unwrap();
    pinned.pin_range(range(1, 9), "b").unwrap();
    let good = serde_json::to_value(&pinned).unwrap();
    assert_eq!(good["pins"], serde_json::json!({"format": 1, "ranges": [[{"start": "1", "end": "9"}, "b"]]}));
    for (field, wrong, message) in [
        ("/pins/format", 2.into(), "the serialised pins have format 2, this version reads format 1"),
        ("/pins/ranges/0/1", "x".into(), "pinned to node `x`"),
        ("/pins/ranges/0/0/end", serde_json::json!(1.5), "a whole number"),
        ("/pins/more", 1.into(), "unknown field"),
        ("/ring/nodes", serde_json::json!([{"id": "a"}]), "pinned to node `b`"),
        ("/ring/format", 9.into(), "has format 9"),
    ] {
        let mut bad = good.clone();
        match bad.pointer_mut(field) {
            Some(value) => *value = wrong,
            None => bad["pins"]["more"] = wrong,
        }
        let error = serde_json::from_value::<PinnedRing<HashRing>>(bad).unwrap_err().to_string();
        assert!(error.contains(message), "{field}: {error}");
    }
    let twice = serde_json::json!({"format": 1, "ranges": [[{"start": "1", "end": "9"}, "a"], [{"start": "8", "end": "10"}, "b"]]});
    assert!(serde_json::from_value::<Pins>(twice).unwrap_err().to_string().contains("overlaps"));
}

/// With few positions for keys, keys share a pin: that is what a pin of a position says.
#[test]
fn keys_at_one_position_share_its_pin() {
    let ring = HashRing::builder().hasher(Modular::new(8).unwrap()).nodes(["a", "b"]).build().unwrap();
    let mut ring = PinnedRing::new(ring, Pins::new()).unwrap();
    let other = if ring.owner(3_u32).id() == "a" { "b" } else { "a" };
    ring.pin(3_u32, other).unwrap();
    assert_eq!((ring.owner(3_u32).id().as_str(), ring.owner(11_u32).id().as_str()), (other, other));
    assert_eq!(ring.owner(4_u32), ring.ring().owner(4_u32));
}
