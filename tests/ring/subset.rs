//! A tenant's subset: which nodes, how little changes, how evenly it is spread, and where keys go in
//! it.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use crate::support::{Crowded, build, members, model::Placing, telling_positions};
use proptest::prelude::*;
use ringpact::ring::{
    HashRing, LookBack, Node, PinnedRing, Pins, Placement, Position, Ramp, RingError, RingHistory, RingVersion,
    SharedRing, Subset, Xxh3,
};
use xxhash_rust::xxh3::xxh3_64_with_seed;

fn ids<'a>(nodes: impl Iterator<Item = &'a Node>) -> Vec<&'a str> {
    nodes.map(|node| node.id().as_str()).collect()
}

fn chosen<H: ringpact::ring::KeyHasher>(ring: &HashRing<H>, tenant: u32, size: usize) -> BTreeSet<String> {
    ring.subset(tenant, size).unwrap().nodes().map(|node| node.id().to_string()).collect()
}

/// Returns the ids in the order of the definition: in rounds of one node of each zone, by score.
fn slow_choice(nodes: &[Node], tenant: Position) -> Vec<&str> {
    let score = |node: &Node| {
        let hash = |unit: u32| {
            xxh3_64_with_seed(&[node.id().as_str().as_bytes(), &unit.to_le_bytes()].concat(), tenant.as_u64())
        };
        (0..node.weight()).map(hash).max().unwrap()
    };
    let mut left: Vec<&Node> = nodes.iter().collect();
    let mut order = Vec::new();
    while !left.is_empty() {
        let mut best: BTreeMap<_, &Node> = BTreeMap::new();
        for node in &left {
            let best = best.entry(node.zone()).or_insert(node);
            if score(node) > score(best) {
                *best = node;
            }
        }
        let mut round: Vec<_> = best.into_values().collect();
        round.sort_by_key(|node| std::cmp::Reverse(score(node)));
        left.retain(|node| !round.contains(node));
        order.extend(round.into_iter().map(|node| node.id().as_str()));
    }
    order
}

fn zoned(nodes: &[(u32, u32)]) -> Vec<Node> {
    let node = |(n, (weight, zone)): (usize, &(u32, u32))| {
        let node = Node::new(format!("n{n}")).with_weight(*weight);
        if *zone == 0 { node } else { node.with_zone(format!("z{zone}")) }
    };
    nodes.iter().enumerate().map(node).collect()
}

/// A tenant's nodes may never change. A separate program computed these from the text of the
/// documentation, with another implementation of XXH3.
#[test]
fn tenants_have_these_nodes() {
    let plain = HashRing::new((0..10).map(|n| format!("node-{n}"))).unwrap();
    let zoned = HashRing::new((0..10).map(|n| {
        let node = Node::new(format!("node-{n}")).with_weight(1 + n % 3);
        if n % 4 == 0 { node } else { node.with_zone(format!("z{}", n % 4)) }
    }));
    let zoned = zoned.unwrap();
    for (tenant, of_plain, of_zoned) in [
        ("tenant-7", [1, 3, 4, 0], [1, 3, 4, 2, 5, 8]),
        ("tenant-8", [1, 3, 8, 9], [2, 8, 1, 3, 5, 7]),
        ("", [8, 1, 4, 3], [8, 1, 2, 7, 4, 5]),
        ("ключ", [2, 9, 7, 3], [4, 2, 5, 7, 9, 3]),
    ] {
        let expected = |numbers: &[u32]| numbers.iter().map(|n| format!("node-{n}")).collect::<Vec<_>>();
        assert_eq!(ids(plain.subset(tenant, 4).unwrap().nodes()), expected(&of_plain));
        assert_eq!(ids(zoned.subset(tenant, 6).unwrap().nodes()), expected(&of_zoned));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn the_choice_is_what_the_definition_says(
        nodes in prop::collection::vec((1..4_u32, 0..4_u32), 1..14),
        tenant: u64,
        placing in prop::sample::select(&[Placing::Uniform, Placing::Spots][..]),
        balanced: bool,
    ) {
        let nodes = zoned(&nodes);
        let placement = if balanced { Placement::Balanced } else { Placement::Hashed };
        let ring = HashRing::builder().placement(placement).virtual_nodes(2).hasher(placing).nodes(nodes.clone());
        let ring = ring.build().unwrap();
        let expected = slow_choice(ring.nodes(), ring.position(tenant));
        for size in 1..=nodes.len() + 1 {
            let subset = ring.subset(tenant, size).unwrap();
            prop_assert_eq!(ids(subset.nodes()), &expected[..size.min(nodes.len())], "a larger size only adds");
            prop_assert_eq!(subset.len(), size.min(nodes.len()));
            for node in &nodes {
                prop_assert_eq!(subset.contains(node.id()), subset.nodes().any(|other| other == node));
            }
            prop_assert!(!subset.contains("other"));
        }
    }

    #[test]
    fn a_subset_is_spread_evenly_over_the_zones(nodes in prop::collection::vec((1..4_u32, 0..4_u32), 1..14), tenant: u64) {
        let ring = HashRing::builder().virtual_nodes(1).nodes(zoned(&nodes)).build().unwrap();
        let mut left: BTreeMap<_, usize> = BTreeMap::new();
        ring.nodes().iter().for_each(|node| *left.entry(node.zone()).or_default() += 1);
        let mut taken: BTreeMap<_, usize> = left.keys().map(|zone| (*zone, 0)).collect();
        for node in ring.subset(tenant, nodes.len()).unwrap().nodes() {
            *taken.get_mut(&node.zone()).unwrap() += 1;
            *left.get_mut(&node.zone()).unwrap() -= 1;
            let most = *taken.values().max().unwrap();
            prop_assert!(taken.iter().all(|(zone, taken)| taken + 1 >= most || left[zone] == 0));
        }
    }

    #[test]
    fn in_a_subset_keys_go_where_they_go_in_a_ring_of_its_nodes(
        nodes in members(), virtual_nodes in 1..6_u32, tenant: u64, size in 1..9_usize,
    ) {
        keys_go_where_they_go_in_a_ring_of_its_nodes(&build(&nodes, virtual_nodes, Xxh3::default()), tenant, size);
        keys_go_where_they_go_in_a_ring_of_its_nodes(&build(&nodes, virtual_nodes, Crowded), tenant, size);
    }

    /// New keys go where they go once the draining nodes have left.
    #[test]
    fn new_keys_go_past_draining_nodes(
        nodes in prop::collection::vec((1..4_u32, 0..3_u32), 2..12), draining: u16, tenant: u64, size in 1..6_usize,
    ) {
        let nodes: Vec<_> = zoned(&nodes).into_iter().enumerate()
            .map(|(n, node)| node.with_draining(draining >> n & 1 == 1)).collect();
        let ring = build(&nodes, 3, Xxh3::default());
        let subset = ring.subset(tenant, size).unwrap();
        let accepting: Vec<_> = nodes.iter().filter(|node| !node.is_draining()).cloned().collect();
        if accepting.is_empty() {
            prop_assert_eq!((subset.owner_for_new("key"), subset.nodes_for_new().count()), (None, 0));
            return Ok(());
        }
        let after = build(&accepting, 3, Xxh3::default());
        let after = after.subset(tenant, size).unwrap();
        prop_assert_eq!(ids(subset.nodes_for_new()), ids(after.nodes()));
        for position in telling_positions(&[&ring]) {
            prop_assert_eq!(subset.owner_for_new_at(position), Some(after.owner_at(position)));
        }
    }
}

fn keys_go_where_they_go_in_a_ring_of_its_nodes<H>(ring: &HashRing<H>, tenant: u64, size: usize)
where
    H: ringpact::ring::KeyHasher + Clone + PartialEq + std::fmt::Debug,
{
    let subset = ring.subset(tenant, size).unwrap();
    let alone = subset.to_ring();
    let fresh: Vec<_> = subset.nodes().cloned().collect();
    assert_eq!(alone, build(&fresh, ring.virtual_nodes(), ring.hasher().clone()));
    for position in telling_positions(&[ring]) {
        assert_eq!(subset.owner_at(position), alone.owner_at(position));
        assert_eq!(subset.replicas_at(position).len(), subset.len());
        assert!(subset.replicas_at(position).eq(alone.replicas_at(position)));
        assert!(subset.replicas_across_zones_at(position).eq(alone.replicas_across_zones_at(position)));
    }
    assert_eq!(subset.owner("key"), alone.owner("key"));
    assert!(subset.replicas("key").eq(alone.replicas("key")));
    assert!(subset.replicas_across_zones("key").eq(alone.replicas_across_zones("key")));
}

/// Returns how many nodes of the first are not in the second.
fn lost(before: &BTreeSet<String>, after: &BTreeSet<String>) -> usize {
    before.difference(after).count()
}

/// Every way to put up to five nodes in three zones, every node that may join or leave, every size,
/// and some tenants.
#[test]
fn a_node_that_comes_or_goes_exchanges_at_most_one_node() {
    for count in 1..=5_u32 {
        for zones in 0..3_u32.pow(count) {
            let nodes: Vec<_> = (0..count).map(|n| (1 + n % 2, zones / 3_u32.pow(n) % 3)).collect();
            let before = HashRing::builder().virtual_nodes(1).nodes(zoned(&nodes)).build().unwrap();
            for zone in ["z0", "z1", "z2", "z3"] {
                let mut after = before.clone();
                after.add(Node::new("late").with_weight(2).with_zone(zone)).unwrap();
                assert_at_most_one(&before, &after, count as usize + 1);
            }
        }
    }
}

#[track_caller]
fn assert_at_most_one(before: &HashRing, after: &HashRing, sizes: usize) {
    for tenant in 0..6 {
        for size in 1..=sizes {
            let (old, new) = (chosen(before, tenant, size), chosen(after, tenant, size));
            assert!(lost(&old, &new) <= 1 && lost(&new, &old) <= 1, "{old:?} and {new:?} of {before:?}");
        }
    }
}

type Change = fn(&mut HashRing) -> Result<(), RingError>;

/// The same for larger rings, for changes of weight, and with balanced placement. And no more moves
/// than has to: a newcomer is in a subset with the chance that it has in a ring that always had it.
#[test]
fn movement_is_minimal() {
    for placement in [Placement::Hashed, Placement::Balanced] {
        let nodes = (0..60).map(|n| Node::new(format!("n{n}")).with_weight(1 + n % 3).with_zone(format!("z{}", n % 3)));
        let before = HashRing::builder().placement(placement).virtual_nodes(4).nodes(nodes).build().unwrap();
        let changes: [Change; 5] = [
            |ring| ring.add(Node::new("late").with_zone("z1")),
            |ring| ring.add(Node::new("late").with_zone("other")),
            |ring| ring.remove("n17").map(drop),
            |ring| ring.replace(Node::new("n17").with_weight(9).with_zone("z2")).map(drop),
            |ring| ring.replace(Node::new("n16").with_weight(1).with_zone("z1")).map(drop),
        ];
        for change in changes {
            let mut after = before.clone();
            change(&mut after).unwrap();
            let mut exchanged = 0;
            for tenant in 0..2_000 {
                let (old, new) = (chosen(&before, tenant, 6), chosen(&after, tenant, 6));
                assert!(lost(&old, &new) <= 1, "{old:?} became {new:?}");
                exchanged += lost(&old, &new);
            }
            // Each of 60 nodes is in about a tenth of the subsets of 6, and a heavy one in twice as
            // many. The first node of a zone is in all of them.
            let all = after.nodes().iter().any(|node| node.zone().is_some_and(|zone| zone == "other"));
            assert!(if all { exchanged == 2_000 } else { exchanged < 600 }, "{exchanged} of 2,000 were exchanged");
        }
    }
}

/// Of a tenant's keys, only those move that the node that left had, or that the newcomer gets. With
/// n of N nodes, n / (N + 1) of the tenants exchange a node, and each then moves about 2 / n.
#[test]
fn only_keys_of_the_exchanged_nodes_move() {
    const NODES: u32 = 40;
    let before = HashRing::new((0..NODES).map(|n| format!("n{n}"))).unwrap();
    let mut after = before.clone();
    after.add("late").unwrap();
    let mut moved = 0.0;
    for tenant in 0..1_000_u32 {
        let (old, new) = (before.subset(tenant, 5).unwrap(), after.subset(tenant, 5).unwrap());
        let (old_ring, new_ring) = (old.to_ring(), new.to_ring());
        let movement = old_ring.movement(&new_ring).unwrap();
        for range in &movement {
            assert!(
                !new.contains(range.from.id()) || !old.contains(range.to.id()),
                "{range:?} moves between two that stay"
            );
        }
        assert_eq!(movement.is_empty(), old.nodes().eq(new.nodes()));
        moved += movement.fraction();
    }
    let least = 1.0 / f64::from(NODES + 1);
    assert!((least..2.3 * least).contains(&(moved / 1_000.0)), "{moved} of 1,000");
}

#[test]
fn threads_share_what_has_a_ring() {
    fn is_shared<T: Send + Sync + 'static>() {}
    is_shared::<Subset<Arc<RingVersion>>>();
    is_shared::<LookBack<Arc<RingVersion>>>();
    is_shared::<PinnedRing<HashRing>>();
    is_shared::<(RingHistory, Pins, Ramp, Node)>();
}

/// The same number of common nodes as if each tenant drew its nodes at random: hypergeometric.
#[test]
fn tenants_overlap_as_if_drawn_at_random() {
    const TENANTS: u32 = 400;
    let ring = HashRing::builder().virtual_nodes(1).nodes((0..30).map(|n| format!("n{n}"))).build().unwrap();
    let subsets: Vec<_> = (0..TENANTS).map(|tenant| chosen(&ring, tenant, 4)).collect();
    let mut common = [0_u32; 5];
    for (index, one) in subsets.iter().enumerate() {
        subsets[..index].iter().for_each(|other| common[one.intersection(other).count()] += 1);
    }
    let pairs = f64::from(TENANTS * (TENANTS - 1) / 2);
    let choose = |n: u32, k: u32| (0..k).map(|i| f64::from(n - i) / f64::from(i + 1)).product::<f64>();
    for (k, count) in (0..).zip(common) {
        let expected = pairs * choose(4, k) * choose(26, 4 - k) / choose(30, 4);
        // Pairs are not independent, so the margin is wide: a fifth, or six standard deviations.
        let margin = (expected / 5.0).max(6.0 * expected.sqrt());
        assert!((f64::from(count) - expected).abs() <= margin, "{k} in common: {count}, expected {expected}");
    }
    // Each node is in as many subsets as any other.
    for node in ring.nodes() {
        let count = subsets.iter().filter(|subset| subset.contains(node.id().as_str())).count();
        assert!((28..=80).contains(&count), "{count} subsets have {node:?}, expected 53");
    }
}

#[test]
fn a_node_of_twice_the_weight_comes_first_twice_as_often() {
    let ring = HashRing::new([Node::new("a"), Node::new("b").with_weight(2), Node::new("c").with_weight(3)]).unwrap();
    let mut firsts = BTreeMap::<_, u32>::new();
    for tenant in 0..12_000_u32 {
        let first = ring.subset(tenant, 1).unwrap().owner(0_u8).id().clone();
        *firsts.entry(first.to_string()).or_default() += 1;
    }
    for (id, expected) in [("a", 2_000), ("b", 4_000), ("c", 6_000)] {
        assert!(firsts[id].abs_diff(expected) < 300, "{firsts:?}");
    }
}

#[test]
fn a_size_of_0_is_refused_and_one_node_is_enough() {
    let ring = HashRing::new(["only"]).unwrap();
    let error = ring.subset("tenant", 0).unwrap_err();
    assert_eq!(error, RingError::EmptySubset);
    assert!(error.to_string().contains("give a size from 1 on"));
    let subset = ring.subset("tenant", 3).unwrap();
    assert_eq!((subset.len(), subset.owner_at(Position::MAX).id().as_str()), (1, "only"));
    assert_eq!(subset.owner_at(Position::MIN).id(), "only");
    assert_eq!(format!("{subset:?}"), r#"{"only"}"#);
}

#[test]
fn a_subset_holds_a_version_of_a_shared_ring() {
    let shared = SharedRing::new(HashRing::new(["a", "b", "c"]).unwrap());
    let subset = Subset::new(shared.load(), "tenant", 2).unwrap();
    shared.update(|ring| ring.add("d")).unwrap();
    assert_ne!(subset.held().epoch(), shared.load().epoch());
    let cloned = subset.clone();
    let owner = std::thread::spawn(move || subset.owner("key").id().clone()).join().unwrap();
    assert_eq!(cloned.owner("key").id(), &owner);
    assert_eq!(cloned.ring().nodes().len(), 3);
}
