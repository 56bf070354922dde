//! A ring is a pure function of its members, in whatever order they came. Bad members are refused.

use crate::support::{Crowded, assert_same_ring, build, members};
use proptest::prelude::*;
use ringpact::ring::{HashRing, KeyHasher, MAX_NAME_BYTES, MAX_TOKENS, Node, NodeId, RingError, Xxh3};

fn add_remove_replace_equal_a_rebuild<H: KeyHasher + Copy + PartialEq + std::fmt::Debug>(
    hasher: H,
    virtual_nodes: u32,
    start: &[Node],
    changes: &[Node],
) {
    let mut members = start.to_vec();
    let mut ring = build(&members, virtual_nodes, hasher);
    for change in changes {
        match members.iter().position(|member| member.id() == change.id()) {
            None => {
                ring.add(change.clone()).unwrap();
                members.push(change.clone());
            }
            Some(at) if members[at].weight() != change.weight() => {
                assert_eq!(ring.replace(change.clone()).unwrap(), members[at]);
                members[at] = change.clone();
            }
            Some(_) if members.len() == 1 => {
                assert_eq!(ring.remove(change.id()), Err(RingError::LastNode { id: change.id().clone() }));
            }
            Some(at) => assert_eq!(ring.remove(change.id()).unwrap(), members.remove(at)),
        }
        assert_same_ring(&ring, &build(&members, virtual_nodes, hasher));
    }
}

proptest! {
    #[test]
    fn the_order_of_members_never_matters(
        (nodes, shuffled) in members().prop_flat_map(|nodes| (Just(nodes.clone()), Just(nodes).prop_shuffle())),
        virtual_nodes in 1..20_u32,
    ) {
        assert_same_ring(&build(&nodes, virtual_nodes, Xxh3::default()), &build(&shuffled, virtual_nodes, Xxh3::default()));
        assert_same_ring(&build(&nodes, virtual_nodes, Crowded), &build(&shuffled, virtual_nodes, Crowded));
    }

    #[test]
    fn a_changed_ring_equals_a_fresh_one(
        start in members(),
        changes in prop::collection::vec((0..12_u8, 1..=3_u32), 1..12),
        virtual_nodes in 1..12_u32,
    ) {
        let changes: Vec<_> =
            changes.into_iter().map(|(id, weight)| Node::new(format!("n{id}")).with_weight(weight)).collect();
        add_remove_replace_equal_a_rebuild(Xxh3::default(), virtual_nodes, &start, &changes);
        add_remove_replace_equal_a_rebuild(Crowded, virtual_nodes, &start, &changes);
    }
}

#[test]
fn a_ring_is_never_empty() {
    assert_eq!(HashRing::builder().build(), Err(RingError::NoNodes));
    assert_eq!(HashRing::new::<Node>([]), Err(RingError::NoNodes));

    let mut ring = HashRing::new(["a"]).unwrap();
    assert_eq!(ring.remove("a"), Err(RingError::LastNode { id: "a".into() }));
    assert_eq!(ring.owner("key").id(), "a");
}

#[test]
fn ids_are_unique() {
    assert_eq!(HashRing::new(["a", "b", "a"]), Err(RingError::DuplicateNode { id: "a".into() }));
    let mut ring = HashRing::new(["a", "b"]).unwrap();
    assert_eq!(ring.add(Node::new("b").with_weight(3)), Err(RingError::DuplicateNode { id: "b".into() }));
    assert_same_ring(&ring, &HashRing::new(["a", "b"]).unwrap());
}

#[test]
fn a_node_that_is_not_there_can_neither_leave_nor_be_replaced() {
    let mut ring = HashRing::new(["a", "b"]).unwrap();
    let unknown = RingError::UnknownNode { id: NodeId::from("c") };
    assert_eq!(ring.remove("c"), Err(unknown.clone()));
    assert_eq!(ring.replace("c"), Err(unknown));
    assert_eq!(ring.node("c"), None);
    assert_eq!(ring.node("b"), Some(&Node::new("b")));
}

#[test]
fn bad_nodes_are_refused_by_every_operation() {
    let longest = "é".repeat(MAX_NAME_BYTES / 2) + "x";
    assert!(HashRing::new([Node::new(longest.clone()).with_zone(longest.clone())]).is_ok());

    let too_long = longest + "y";
    let cases = [
        (Node::new(""), RingError::InvalidNodeId { length: 0 }),
        (Node::new(too_long.clone()), RingError::InvalidNodeId { length: 256 }),
        (Node::new("a").with_zone(""), RingError::InvalidZone { id: "a".into(), length: 0 }),
        (Node::new("a").with_zone(too_long), RingError::InvalidZone { id: "a".into(), length: 256 }),
        (Node::new("a").with_weight(0), RingError::ZeroWeight { id: "a".into() }),
    ];
    for (bad, error) in cases {
        let whole = HashRing::new(["b"]).unwrap();
        assert_eq!(HashRing::new([Node::new("b"), bad.clone()]), Err(error.clone()));
        let mut ring = whole.clone();
        assert_eq!(ring.add(bad.clone()), Err(error.clone()));
        assert_eq!(ring.replace(bad), Err(error));
        assert_same_ring(&ring, &whole);
    }
}

#[test]
fn the_number_of_tokens_is_limited_before_any_is_made() {
    assert_eq!(HashRing::builder().node("a").virtual_nodes(0).build(), Err(RingError::ZeroVirtualNodes));

    let monsters = (0..3).map(|n| Node::new(format!("n{n}")).with_weight(u32::MAX));
    let built = HashRing::builder().nodes(monsters).virtual_nodes(u32::MAX).build();
    assert_eq!(built, Err(RingError::TooManyTokens { tokens: u64::MAX }));

    let full = u32::try_from(MAX_TOKENS).unwrap();
    let mut ring = HashRing::builder().virtual_nodes(1).nodes(["a", "b"]).build().unwrap();
    let tokens = MAX_TOKENS + 1;
    assert_eq!(ring.add(Node::new("c").with_weight(full - 1)), Err(RingError::TooManyTokens { tokens }));
    assert_eq!(ring.replace(Node::new("b").with_weight(full)), Err(RingError::TooManyTokens { tokens }));
    assert_eq!(ring.token_count(), 2);
    assert!(ring.nodes().iter().all(|node| node.weight() == 1));
}

#[test]
fn a_zone_can_change_and_moves_nothing() {
    let mut ring = HashRing::new(["a", "b"]).unwrap();
    let before = ring.clone();
    assert_eq!(ring.replace(Node::new("a").with_zone("z")).unwrap(), Node::new("a"));
    assert_ne!(ring, before);
    assert!(before.movement(&ring).unwrap().is_empty());
    assert_eq!(ring.node("a").and_then(Node::zone).map(|zone| zone.as_str()), Some("z"));
}
