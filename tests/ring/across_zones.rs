//! Replicas across zones come in rounds of one node of each zone, so that any number of copies is
//! spread evenly.

use std::collections::BTreeMap;

use crate::support::{Crowded, model::Placing, telling_positions};
use proptest::prelude::*;
use ringpact::ring::{HashRing, KeyHasher, Node, Placement, Position};

/// Builds a ring with this many nodes in each zone. The first zone has no name.
fn ring_of<H: KeyHasher>(zones: &[u32], virtual_nodes: u32, placement: Placement, hasher: H) -> HashRing<H> {
    let nodes = zones.iter().enumerate().flat_map(|(zone, nodes)| {
        (0..*nodes).map(move |n| {
            let node = Node::new(format!("z{zone}-{n}")).with_weight(1 + n % 3);
            if zone == 0 { node } else { node.with_zone(format!("z{zone}")) }
        })
    });
    HashRing::builder().placement(placement).virtual_nodes(virtual_nodes).hasher(hasher).nodes(nodes).build().unwrap()
}

/// Returns the preference list in rounds, straight from the definition.
fn in_rounds<H>(ring: &HashRing<H>, position: Position) -> Vec<&Node> {
    let mut by_zone: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for (place, node) in ring.replicas_at(position).enumerate() {
        by_zone.entry(node.zone()).or_default().push((place, node));
    }
    let longest = by_zone.values().map(Vec::len).max().unwrap_or(0);
    let mut nodes = Vec::new();
    for round in 0..longest {
        let mut of_round: Vec<_> = by_zone.values().filter_map(|nodes| nodes.get(round)).collect();
        of_round.sort_by_key(|(place, _)| *place);
        nodes.extend(of_round.into_iter().map(|(_, node)| *node));
    }
    nodes
}

#[track_caller]
fn assert_even<H>(ring: &HashRing<H>, position: Position) {
    let mut left: BTreeMap<_, usize> = BTreeMap::new();
    ring.nodes().iter().for_each(|node| *left.entry(node.zone()).or_default() += 1);
    let mut taken: BTreeMap<_, usize> = left.keys().map(|zone| (*zone, 0)).collect();
    for node in ring.replicas_across_zones_at(position) {
        *taken.get_mut(&node.zone()).unwrap() += 1;
        *left.get_mut(&node.zone()).unwrap() -= 1;
        let most = taken.values().max().unwrap();
        for (zone, taken) in &taken {
            assert!(taken + 1 >= *most || left[zone] == 0, "{zone:?} has {taken} of {most} at {position:?}");
        }
    }
}

#[track_caller]
fn check<H: KeyHasher>(ring: &HashRing<H>, positions: &[Position]) {
    let indexes: Vec<_> = [1, 2, 5, 40].map(|copies| ring.replica_index_across_zones(copies)).into();
    for &position in positions {
        let expected = in_rounds(ring, position);
        let mut replicas = ring.replicas_across_zones_at(position);
        for (index, node) in expected.iter().enumerate() {
            assert_eq!(replicas.len(), expected.len() - index);
            assert!(replicas.clone().eq(expected[index..].iter().copied()), "a clone at {index} of {position:?}");
            assert_eq!(replicas.next(), Some(*node), "number {index} at {position:?}");
        }
        assert_eq!((replicas.next(), replicas.next()), (None, None));
        assert_eq!(expected[0], ring.owner_at(position));
        assert_even(ring, position);
        for index in &indexes {
            assert!(index.replicas_at(position).eq(expected.iter().take(index.copies()).copied()));
        }
    }
}

/// All ways to put up to three nodes in each of up to four zones.
#[test]
fn every_small_ring_is_spread_evenly() {
    for zones in 0..256_u32 {
        let zones: Vec<_> = (0..4).map(|zone| zones >> (2 * zone) & 3).collect();
        if zones.iter().all(|nodes| *nodes == 0) {
            continue;
        }
        for placement in [Placement::Hashed, Placement::Balanced] {
            let ring = ring_of(&zones, 1, placement, Placing::Uniform);
            check(&ring, &telling_positions(&[&ring]));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Up to 36 nodes, so that lists go beyond the sixteen nodes that take no allocation.
    #[test]
    fn replicas_across_zones_are_what_the_definition_says(
        zones in prop::collection::vec(0..13_u32, 1..4),
        first in 1..3_u32,
        virtual_nodes in 1..6_u32,
        placing in prop::sample::select(&[Placing::Uniform, Placing::Spots, Placing::Clusters, Placing::Edges][..]),
    ) {
        let zones: Vec<_> = [first].into_iter().chain(zones).collect();
        let ring = ring_of(&zones, virtual_nodes, Placement::Hashed, placing);
        let positions: Vec<_> = telling_positions(&[&ring]).into_iter().step_by(7).collect();
        check(&ring, &positions);
        let crowded = ring_of(&zones, virtual_nodes, Placement::Hashed, Crowded);
        check(&crowded, &positions);
    }

    #[test]
    fn a_changed_ring_is_spread_as_one_built_afresh(leaving in prop::collection::btree_set(0..9_usize, 1..8), key: u64) {
        let fresh = ring_of(&[3, 3, 3], 4, Placement::Hashed, Placing::Uniform);
        let mut ring = fresh.clone();
        let ids: Vec<_> = fresh.nodes().iter().map(|node| node.id().clone()).collect();
        leaving.iter().for_each(|index| drop(ring.remove(&ids[*index]).unwrap()));
        ring.add(Node::new("late").with_zone("z9")).unwrap();
        check(&ring, &[ring.position(key), Position::MIN, Position::MAX]);
    }
}

/// More zones than a word has bits, and one of them with far more nodes than the others.
#[test]
fn many_zones_and_one_large_one() {
    let zones: Vec<_> = [30].into_iter().chain([1; 80]).collect();
    let ring = ring_of(&zones, 2, Placement::Hashed, Placing::Uniform);
    check(&ring, &[Position::MIN, Position::new(1 << 63), Position::MAX]);
    let last: Vec<_> = ring.replicas_across_zones("key").skip(81).collect();
    assert_eq!(last.len(), 29);
    assert!(last.iter().all(|node| node.zone().is_none()));
}

#[test]
fn without_zones_the_order_is_that_of_the_walk() {
    for nodes in [1, 2, 40] {
        let ring = HashRing::new((0..nodes).map(|n| format!("n{n}"))).unwrap();
        for key in 0..50_u32 {
            assert!(ring.replicas_across_zones(key).eq(ring.replicas(key)));
        }
    }
}

/// Six copies in two zones: three in each, whatever the walk meets first.
#[test]
fn six_copies_in_two_zones_are_three_in_each() {
    let ring =
        HashRing::new((0..20).map(|n| Node::new(format!("n{n}")).with_zone(if n < 4 { "small" } else { "large" })));
    let ring = ring.unwrap();
    for key in 0..1_000_u32 {
        let in_small = ring.replicas_across_zones(key).take(6).filter(|node| node.zone().unwrap() == "small");
        assert_eq!(in_small.count(), 3);
    }
}
