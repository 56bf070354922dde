//! The preference list has every node once, the owner first; each node stands in for those before
//! it.

use crate::support::{Crowded, SlowPreference, build, members, telling_positions};
use proptest::prelude::*;
use ringpact::ring::{HashRing, KeyHasher, Node, Position, Xxh3};

fn ids<'a>(nodes: impl Iterator<Item = &'a Node>) -> Vec<String> {
    nodes.map(|node| node.id().to_string()).collect()
}

fn replicas_are_the_slow_preference<H: KeyHasher>(nodes: &[Node], virtual_nodes: u32, hasher: H) {
    let ring = build(nodes, virtual_nodes, hasher);
    let slow = SlowPreference::new(nodes, virtual_nodes, ring.hasher());
    for position in telling_positions(&[&ring]) {
        let preference = slow.at(position);
        assert_eq!(ids(ring.replicas_at(position)), preference);
        assert_eq!(ring.owner_at(position).id(), preference[0]);
    }
}

proptest! {
    #[test]
    fn replicas_are_what_the_definition_says(nodes in members(), virtual_nodes in 1..6_u32) {
        replicas_are_the_slow_preference(&nodes, virtual_nodes, Xxh3::default());
        replicas_are_the_slow_preference(&nodes, virtual_nodes, Crowded);
    }

    #[test]
    fn the_next_replica_owns_the_key_once_the_owner_is_gone(nodes in members(), key: u64) {
        let mut ring = build(&nodes, 8, Xxh3::default());
        let preference = ids(ring.replicas(key));
        for id in &preference {
            prop_assert_eq!(ring.owner(key).id(), id.as_str());
            if ring.nodes().len() > 1 {
                ring.remove(id).unwrap();
            }
        }
    }

    #[test]
    fn each_node_comes_once_and_the_count_is_known(nodes in members(), position: u64) {
        let ring = build(&nodes, 5, Xxh3::default());
        let mut replicas = ring.replicas_at(Position::new(position));
        let mut seen = Vec::new();
        for left in (0..nodes.len()).rev() {
            seen.extend(replicas.next().map(Node::id));
            prop_assert_eq!(replicas.len(), left);
        }
        prop_assert_eq!(replicas.next(), None);
        prop_assert_eq!(replicas.next(), None);
        seen.sort();
        prop_assert!(seen.into_iter().eq(nodes.iter().map(Node::id).collect::<std::collections::BTreeSet<_>>()));
    }
}

#[test]
fn the_first_healthy_replica_is_found_by_a_predicate() {
    let ring = HashRing::new(["a", "b", "c"]).unwrap();
    let preference = ids(ring.replicas("k"));
    let healthy = ring.replicas("k").find(|node| node.id() != &*preference[0]).unwrap();
    assert_eq!(healthy.id(), preference[1].as_str());
    assert_eq!(ring.replicas("k").find(|_| false), None);
    assert_eq!(format!("{:?}", ring.replicas("k")), format!("{preference:?}"));
}

#[test]
fn a_large_ring_yields_all_of_its_nodes() {
    let ring = HashRing::new((0..1_000).map(|n| n.to_string())).unwrap();
    let mut all = ids(ring.replicas("key"));
    all.sort();
    all.dedup();
    assert_eq!(all.len(), 1_000);
}
