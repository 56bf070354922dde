//! A draining node keeps what it owns, and takes nothing new.

use crate::support::{Crowded, assert_same_ring, build, members, telling_positions};
use proptest::prelude::*;
use ringpact::ring::{
    AcquireError, BoundedLoads, Epsilon, HashRing, KeyHasher, Node, Placement, Position, RingError, SharedRing, Xxh3,
};

/// Marks the nodes whose bit is set, and returns their ids.
fn drain<H>(ring: &mut HashRing<H>, bits: u8) -> Vec<String> {
    let ids: Vec<_> = ring.nodes().iter().map(|node| node.id().to_string()).collect();
    let ids: Vec<_> = ids.into_iter().enumerate().filter(|(n, _)| bits >> n & 1 == 1).map(|(_, id)| id).collect();
    ids.iter().for_each(|id| ring.set_draining(id, true).unwrap());
    ids
}

fn new_keys_go_where_they_go_once_the_draining_have_left<H: KeyHasher + Clone + PartialEq>(
    fresh: &HashRing<H>,
    bits: u8,
) {
    let mut ring = fresh.clone();
    let draining = drain(&mut ring, bits);
    assert!(fresh.movement(&ring).unwrap().is_empty(), "a mark moves nothing");
    assert!(fresh.tokens().map(|token| token.position).eq(ring.tokens().map(|token| token.position)));
    let positions = telling_positions(&[fresh]);
    for &position in &positions {
        assert_eq!(ring.owner_at(position).id(), fresh.owner_at(position).id());
    }

    let mut after = fresh.clone();
    for id in &draining {
        if after.nodes().len() == 1 {
            for position in positions {
                assert_eq!(ring.owner_for_new_at(position), None, "all are draining");
                assert_eq!(ring.replicas_for_new_at(position).count(), 0);
                assert_eq!(ring.replicas_across_zones_for_new_at(position).count(), 0);
            }
            return;
        }
        after.remove(id).unwrap();
    }
    for position in positions {
        assert_eq!(ring.owner_for_new_at(position), Some(after.owner_at(position)));
        assert!(ring.replicas_for_new_at(position).eq(after.replicas_at(position)));
        let across = ring.replicas_across_zones_for_new_at(position);
        assert_eq!(across.len(), after.nodes().len());
        assert!(across.eq(after.replicas_across_zones_at(position)));
    }
}

proptest! {
    #[test]
    fn new_keys_go_past_draining_nodes(nodes in members(), virtual_nodes in 1..6_u32, bits: u8) {
        new_keys_go_where_they_go_once_the_draining_have_left(&build(&nodes, virtual_nodes, Xxh3::default()), bits);
        new_keys_go_where_they_go_once_the_draining_have_left(&build(&nodes, virtual_nodes, Crowded), bits);
        let zone = |node: &Node| format!("z{}", node.weight());
        let zoned: Vec<_> = nodes.into_iter().map(|node| node.clone().with_zone(zone(&node))).collect();
        new_keys_go_where_they_go_once_the_draining_have_left(&build(&zoned, virtual_nodes, Xxh3::default()), bits);
    }

    #[test]
    fn marks_survive_serialisation(nodes in members(), bits: u8, balanced: bool) {
        let placement = if balanced { Placement::Balanced } else { Placement::Hashed };
        let builder = HashRing::builder().placement(placement).virtual_nodes(3).nodes(nodes);
        let mut ring = builder.build().unwrap();
        let plain = serde_json::to_string(&ring).unwrap();
        let draining = drain(&mut ring, bits);
        let json = serde_json::to_string(&ring).unwrap();
        let read: HashRing = serde_json::from_str(&json).unwrap();
        assert_same_ring(&read, &ring);
        let bytes = postcard::to_stdvec(&ring).unwrap();
        assert_same_ring(&postcard::from_bytes::<HashRing>(&bytes).unwrap(), &ring);
        prop_assert!(read.nodes().iter().filter(|node| node.is_draining()).map(|node| node.id().to_string()).eq(draining.clone()));

        let format = 1 + u32::from(balanced) + 2 * u32::from(!draining.is_empty());
        prop_assert_eq!(serde_json::to_value(&ring).unwrap()["format"].as_u64(), Some(u64::from(format)));
        prop_assert_eq!(bytes[0], format as u8);
        prop_assert_eq!(json == plain, draining.is_empty(), "a ring without marks is written as ever");
        draining.iter().for_each(|id| ring.set_draining(id, false).unwrap());
        prop_assert_eq!(serde_json::to_string(&ring).unwrap(), plain);
    }
}

/// The bytes of rings without marks, as they were before there were marks.
#[test]
fn rings_without_marks_have_the_bytes_that_they_had() {
    let nodes = [Node::new("a"), Node::new("b").with_weight(2).with_zone("z")];
    let hashed = HashRing::new(nodes).unwrap();
    assert_eq!(
        serde_json::to_string(&hashed).unwrap(),
        r#"{"format":1,"hasher":{"xxh3_64":{"seed":"0"}},"virtual_nodes":160,"nodes":[{"id":"a","weight":1,"zone":null},{"id":"b","weight":2,"zone":"z"}]}"#
    );
    let bytes = [1, 0, 0, 160, 1, 2, 1, b'a', 1, 0, 1, b'b', 2, 1, 1, b'z'];
    assert_eq!(postcard::to_stdvec(&hashed).unwrap(), bytes);
    assert_same_ring(&postcard::from_bytes::<HashRing>(&bytes).unwrap(), &hashed);

    let mut marked = hashed;
    marked.set_draining("b", true).unwrap();
    assert_eq!(postcard::to_stdvec(&marked).unwrap(), [3, 0, 0, 160, 1, 2, 1, b'a', 1, 0, 1, b'b', 0, 1, 1, b'z', 2]);
    assert!(serde_json::to_string(&marked).unwrap().contains(r#"{"id":"b","weight":2,"zone":"z","draining":true}"#));
}

/// On its own, too, a node without a mark is written as it was, in codecs with names and without.
#[test]
fn a_node_alone_survives_serialisation() {
    let node = Node::new("b").with_weight(2).with_zone("z");
    assert_eq!(serde_json::to_string(&node).unwrap(), r#"{"id":"b","weight":2,"zone":"z"}"#);
    assert_eq!(postcard::to_stdvec(&node).unwrap(), [1, b'b', 2, 1, 1, b'z']);
    assert_eq!(postcard::to_stdvec(&node.clone().with_draining(true)).unwrap(), [1, b'b', 0, 1, 1, b'z', 2]);
    for node in [node.clone(), node.clone().with_weight(0), Node::new("a"), Node::new("a").with_weight(u32::MAX)] {
        for node in [node.clone().with_draining(node.weight() > 0), node] {
            let pair = (node.clone(), 77_u8);
            let bytes = postcard::to_stdvec(&pair).unwrap();
            assert_eq!(postcard::from_bytes::<(Node, u8)>(&bytes).unwrap(), pair, "nothing is left over");
            let json = serde_json::to_string(&pair).unwrap();
            assert_eq!(serde_json::from_str::<(Node, u8)>(&json).unwrap(), pair);
        }
    }
    let read = |json: &str| serde_json::from_str::<Node>(json);
    assert_eq!(read(r#"{"id":"a"}"#).unwrap(), Node::new("a"));
    assert_eq!(read(r#"["a",3]"#).unwrap(), Node::new("a").with_weight(3));
    assert_eq!(read(r#"{"id":"a","draining":false}"#).unwrap(), Node::new("a"));
    let machine = r#"{"id":"a","weight":0,"zone":null,"draining_weight":3}"#;
    assert_eq!(read(machine).unwrap(), Node::new("a").with_weight(3).with_draining(true));
    for wrong in [
        r#"{"weight":1}"#,
        "[]",
        r#"{"id":"a","drain":true}"#,
        r#"{"id":"a","draining":1}"#,
        r#"{"id":"a","draining_weight":2}"#,
        "7",
    ] {
        assert!(read(wrong).is_err(), "{wrong}");
    }
}

#[test]
fn a_mark_is_a_part_of_the_node() {
    let mut ring = HashRing::new(["a", "b"]).unwrap();
    let before = ring.clone();
    ring.set_draining("a", true).unwrap();
    assert_ne!(ring, before);
    assert_eq!(ring.nodes(), [Node::new("a").with_draining(true), Node::new("b")]);
    assert_eq!(ring, HashRing::new([Node::new("a").with_draining(true), Node::new("b")]).unwrap());
    let of_a = ring.tokens().find(|token| token.node.id() == "a").unwrap();
    assert!(of_a.node.is_draining() && ring.owner_at(of_a.position).is_draining());

    assert_eq!(ring.set_draining("c", true), Err(RingError::UnknownNode { id: "c".into() }));
    ring.replace("a").unwrap();
    assert_eq!(ring, before);
    ring.replace(Node::new("b").with_draining(true).with_weight(3)).unwrap();
    assert!(ring.node("b").unwrap().is_draining());
    assert!(ring.remove("b").unwrap().is_draining());
    ring.set_draining("a", true).unwrap();
    assert_eq!((ring.owner("key").id().as_str(), ring.owner_for_new("key")), ("a", None));
}

/// Enough nodes that their order is worked out at once, and marks that come and go.
#[test]
fn new_copies_of_a_large_ring_are_spread_over_the_zones_that_take_them() {
    let mut ring = HashRing::new((0..60).map(|n| Node::new(format!("n{n}")).with_zone(format!("z{}", n % 4)))).unwrap();
    for n in 0..60 {
        ring.set_draining(format!("n{n}"), true).unwrap();
        ring.set_draining(format!("n{n}"), n % 4 == 3 || n % 5 == 0).unwrap();
    }
    let mut after = ring.clone();
    let draining: Vec<_> =
        ring.nodes().iter().filter(|node| node.is_draining()).map(|node| node.id().clone()).collect();
    draining.iter().for_each(|id| drop(after.remove(id).unwrap()));
    for key in 0..100_u32 {
        assert!(ring.replicas_across_zones_for_new(key).eq(after.replicas_across_zones(key)));
        assert!(ring.replicas_for_new(key).eq(after.replicas(key)));
        assert_eq!(ring.owner_for_new(key), Some(after.owner(key)));
    }
}

#[test]
fn versions_of_a_shared_ring_have_their_marks() {
    let shared = SharedRing::new(HashRing::new(["a", "b", "c"]).unwrap());
    let change = shared.update(|ring| ring.set_draining("b", true)).unwrap();
    assert!(change.movement().is_empty());
    assert!(!change.before.node("b").unwrap().is_draining());
    assert!(shared.load().node("b").unwrap().is_draining());
    let change = shared.update(|ring| ring.remove("b").map(drop)).unwrap();
    for key in 0..1_000_u32 {
        assert_eq!(change.before.owner_for_new(key), Some(change.after.owner(key)));
    }
}

#[test]
fn bounded_loads_pass_over_draining_nodes() {
    let mut ring = HashRing::new(["a", "b", "c"]).unwrap();
    let loads = BoundedLoads::new(ring.clone(), Epsilon::percent(25).unwrap());
    let mut slots: Vec<_> = (0..90_u32).map(|key| loads.acquire(key).unwrap()).collect();
    let on_b = loads.load("b");

    ring.set_draining("b", true).unwrap();
    loads.set_ring(ring.clone());
    slots.extend((90..390_u32).map(|key| loads.acquire_where(key, |node| node.id() != "b").unwrap()));
    slots.extend((390..690_u32).map(|key| loads.acquire(key).unwrap()));
    assert_eq!((loads.load("b"), loads.total()), (on_b, 690));
    // The bound is that of a ring without the draining node: ceil(1.25 * slots / 2).
    let taken = 690 - on_b;
    let snapshot = loads.snapshot();
    let capacities: Vec<_> = snapshot.iter().map(|node| node.capacity).collect();
    assert_eq!(capacities, [(5 * (taken + 1)).div_ceil(8), 0, (5 * (taken + 1)).div_ceil(8)]);
    assert!(snapshot.iter().all(|node| node.node.id() == "b" || node.load <= (5 * taken).div_ceil(8)));
    for key in 0..200_u32 {
        let slot = loads.acquire(key).unwrap();
        assert_ne!(slot.node().id(), "b");
    }
    assert_eq!(loads.acquire_where("k", |_| false).unwrap_err(), AcquireError::AllRefused);

    // Slots on a draining node are given back, also if the mark comes or goes meanwhile.
    ring.set_draining("b", false).unwrap();
    loads.set_ring(ring.clone());
    slots.truncate(40);
    ["a", "b", "c"].iter().for_each(|id| ring.set_draining(id, true).unwrap());
    loads.set_ring(ring);
    assert_eq!(loads.acquire("k").unwrap_err(), AcquireError::AllDraining);
    assert_eq!(loads.acquire_where("k", |_| false).unwrap_err(), AcquireError::AllDraining);
    assert_eq!(loads.total(), 40);
    drop(slots);
    assert_eq!((loads.total(), loads.load("b")), (0, 0));
}

/// With balanced placement the keys of a node that leaves may go to several others; new keys still
/// go to the first node that isn't draining.
#[test]
fn balanced_rings_have_draining_nodes_too() {
    let mut ring = HashRing::builder().placement(Placement::Balanced).nodes(["a", "b", "c"]).build().unwrap();
    ring.set_draining("a", true).unwrap();
    for position in telling_positions(&[&ring]).into_iter().chain([Position::MIN, Position::MAX]) {
        let first = ring.replicas_at(position).find(|node| node.id() != "a");
        assert_eq!(ring.owner_for_new_at(position), first);
    }
    ring.add("d").unwrap();
    assert!(ring.node("a").unwrap().is_draining(), "a change of other nodes keeps the mark");
}
