//! An index of replicas answers like a walk does, at every position, and also where a line of the
//! index has no answer.

use crate::support::model::Placing;
use proptest::prelude::*;
use ringpact::ring::{HashRing, KeyHasher, Node, Placement, Position};

const PLACINGS: [Placing; 4] = [Placing::Uniform, Placing::Spots, Placing::Clusters, Placing::Edges];

/// Returns the positions on, just before and just after every `step`th token, and the ends of the
/// circle.
fn telling_positions<H>(ring: &HashRing<H>, step: usize) -> Vec<Position> {
    let tokens = ring.tokens().step_by(step).map(|token| token.position.as_u64());
    let near = tokens.chain([0]).flat_map(|token| [token.wrapping_sub(1), token, token.wrapping_add(1)]);
    near.map(Position::new).collect()
}

#[track_caller]
fn assert_indexed<H: KeyHasher + Clone>(ring: &HashRing<H>, copies: usize, step: usize) {
    let (index, across) = (ring.replica_index(copies), ring.replica_index_across_zones(copies));
    let copied = index.clone();
    assert_eq!(index.copies(), copies.min(ring.nodes().len()));
    for position in telling_positions(ring, step) {
        let (found, expected) = (index.replicas_at(position), ring.replicas_at(position).take(copies));
        assert_eq!(found.len(), index.copies());
        assert!(found.eq(expected), "{copies} copies at {position:?}");
        assert!(copied.replicas_at(position).eq(index.replicas_at(position)), "a copy differs at {position:?}");
        let expected = ring.replicas_across_zones_at(position).take(copies);
        assert!(across.replicas_at(position).eq(expected), "{copies} copies across zones at {position:?}");
    }
}

fn ring_of<H: KeyHasher>(nodes: usize, zones: usize, placement: Placement, tokens: u32, hasher: H) -> HashRing<H> {
    let nodes = (0..nodes).map(|n| {
        let node = Node::new(format!("node-{n}")).with_weight(1 + n as u32 % 3);
        if zones == 0 { node } else { node.with_zone(format!("zone-{}", n % zones)) }
    });
    HashRing::builder().placement(placement).virtual_nodes(tokens).hasher(hasher).nodes(nodes).build().unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    /// Tokens are on few spots, in clusters and on the edges of buckets. There, buckets spill, and
    /// prefixes are equal.
    #[test]
    fn an_index_says_what_the_ring_does(
        placing in prop::sample::select(&PLACINGS[..]),
        placement in prop::sample::select(&[Placement::Hashed, Placement::Balanced][..]),
        (nodes, zones, tokens) in (1..12_usize, 0..4_usize, 1..60_u32),
        copies in 0..7_usize,
    ) {
        assert_indexed(&ring_of(nodes, zones, placement, tokens, placing), copies, 1);
    }

    #[test]
    fn an_index_of_a_changed_ring_says_what_the_ring_does(
        placing in prop::sample::select(&PLACINGS[..]),
        leaving in prop::collection::btree_set(0..12_usize, 1..11),
    ) {
        let mut ring = ring_of(12, 3, Placement::Hashed, 20, placing);
        for node in leaving {
            ring.remove(format!("node-{node}")).unwrap();
        }
        ring.add(Node::new("late").with_zone("zone-1")).unwrap();
        assert_indexed(&ring, 3, 1);
    }
}

#[test]
fn an_index_of_a_large_ring_says_what_the_ring_does() {
    for placement in [Placement::Hashed, Placement::Balanced] {
        let ring = ring_of(1_000, 3, placement, 40, Placing::Uniform);
        for copies in [1, 2, 3, 5] {
            assert_indexed(&ring, copies, 7);
        }
    }
}

/// The numbers of the 65,536th node and of those after it don't fit the two bytes that a line has
/// for each.
#[test]
fn an_index_knows_more_nodes_than_a_line_can_name() {
    const NODES: usize = 70_000;
    let ring = HashRing::builder().virtual_nodes(3).nodes((0..NODES).map(|n| format!("node-{n}"))).build().unwrap();
    assert_indexed(&ring, 3, 1);
    let late = ring.nodes()[NODES - 1].id();
    let index = ring.replica_index(1);
    let owned = ring.tokens().filter(|token| token.node.id() == late).map(|token| token.position);
    assert!(owned.into_iter().all(|position| index.replicas_at(position).all(|node| node.id() == late)));
}

/// Nearly all buckets are empty then, and each walk from one of them passes all others.
#[test]
fn an_index_of_a_crowd_on_few_spots_is_made_quickly() {
    let start = std::time::Instant::now();
    let ring = ring_of(40, 0, Placement::Hashed, 1_000, Placing::Spots);
    assert_indexed(&ring, 3, 5_000);
    assert!(start.elapsed().as_secs() < 10, "took {:?}", start.elapsed());
}
