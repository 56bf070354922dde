//! A follower's ring always has the live instances as its nodes.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};
use std::time::{Duration, Instant};

use ringpact::registry::{Followed, Instance, MAX_SERVICE_WEIGHT, Registry, RegistryError, RingFollower};
use ringpact::ring::{HashRing, KeyHasher, Modular, Node, Position, RingError, Xxh3};

const LEASE: Duration = Duration::from_secs(10);

#[test]
fn the_ring_follows_joins_updates_and_departures() {
    let (registry, now) = (Registry::new(), Instant::now());
    let mut follower = RingFollower::new(registry.watch("goods", now).unwrap());
    assert_eq!(follower.ring(), None);
    assert_eq!(follower.update(now), Ok(Followed::Unchanged));
    assert_eq!(follower.ring(), None);

    let first = Instance::new("g1", "").with_weight(2).with_zone("z");
    let first_lease = registry.register("goods", first, LEASE, now).unwrap();
    assert_eq!(follower.update(now), Ok(Followed::Changed));
    let expected = HashRing::new([Node::new("g1").with_weight(2).with_zone("z")]).unwrap();
    assert_eq!(follower.ring(), Some(&expected));
    assert_eq!(follower.last_movement(), None, "there was no ring to move from");

    registry.register("goods", Instance::new("g2", "there"), 2 * LEASE, now).unwrap();
    assert_eq!(follower.update(now), Ok(Followed::Changed));
    let movement = follower.last_movement().unwrap();
    assert!(!movement.is_empty());
    assert!(movement.ranges().iter().all(|moved| moved.to.id() == "g2"));
    assert_eq!(follower.previous(), Some(&expected));

    registry.register("goods", Instance::new("g2", "elsewhere"), 2 * LEASE, now).unwrap();
    assert_eq!(follower.update(now), Ok(Followed::Unchanged), "an address has no part in the ring");

    registry.register("goods", Instance::new("g2", "").with_weight(5), 2 * LEASE, now).unwrap();
    assert_eq!(follower.update(now), Ok(Followed::Changed));
    assert_eq!(follower.ring().unwrap().node("g2").unwrap().weight(), 5);

    registry.leave(first_lease.token(), now).unwrap();
    assert_eq!(follower.update(now), Ok(Followed::Changed));
    assert_eq!(follower.ring(), Some(&HashRing::new([Node::new("g2").with_weight(5)]).unwrap()));

    assert_eq!(follower.update(now + 2 * LEASE), Ok(Followed::Changed));
    assert_eq!(follower.ring(), None);
    assert_eq!(follower.last_movement(), None, "there is no ring to move to");
}

#[test]
fn a_draining_instance_stays_in_the_ring_and_gets_nothing_new() {
    let (registry, now) = (Registry::new(), Instant::now());
    for id in ["g1", "g2", "g3"] {
        registry.register("goods", Instance::new(id, ""), LEASE, now).unwrap();
    }
    let mut follower = RingFollower::new(registry.watch("goods", now).unwrap());
    follower.update(now).unwrap();

    let lease = registry.register("goods", Instance::new("g2", "").with_draining(true), LEASE, now).unwrap();
    assert!(registry.instance("goods", "g2", now).unwrap().is_draining());
    assert_eq!(follower.update(now), Ok(Followed::Changed));
    assert!(follower.last_movement().unwrap().is_empty());
    let draining = follower.ring().unwrap().clone();
    assert!(draining.node("g2").unwrap().is_draining());

    registry.leave(lease.token(), now).unwrap();
    assert_eq!(follower.update(now), Ok(Followed::Changed));
    for key in 0..1_000_u32 {
        assert_eq!(draining.owner_for_new(key), Some(follower.ring().unwrap().owner(key)));
    }
}

#[test]
fn changes_that_cancel_out_are_no_change() {
    let (registry, now) = (Registry::new(), Instant::now());
    registry.register("goods", Instance::new("g1", ""), LEASE, now).unwrap();
    let mut follower = RingFollower::new(registry.watch("goods", now).unwrap());
    follower.update(now).unwrap();
    let lease = registry.register("goods", Instance::new("g2", ""), LEASE, now).unwrap();
    registry.leave(lease.token(), now).unwrap();
    assert_eq!(follower.update(now), Ok(Followed::Unchanged));
}

#[test]
fn a_follower_has_its_own_settings() {
    let (registry, now) = (Registry::new(), Instant::now());
    registry.register("goods", Instance::new("g1", ""), LEASE, now).unwrap();
    let hasher = Modular::new(101).unwrap();
    let mut follower = RingFollower::with_settings(registry.watch("goods", now).unwrap(), 7, hasher);
    follower.update(now).unwrap();
    let expected = HashRing::builder().virtual_nodes(7).hasher(hasher).node("g1").build().unwrap();
    assert_eq!(follower.ring(), Some(&expected));
}

/// The registry limits weights for followers with default settings. This one has more virtual
/// nodes, so the instances may be too heavy for its ring.
fn dense(registry: &Registry, now: Instant) -> RingFollower {
    RingFollower::with_settings(registry.watch("goods", now).unwrap(), DENSE, Xxh3::default())
}

/// Number of virtual nodes with which a ring has room for a total weight of 64.
const DENSE: u32 = 1 << 16;

fn dense_ring(nodes: impl IntoIterator<Item = Node>) -> HashRing {
    HashRing::builder().virtual_nodes(DENSE).nodes(nodes).build().unwrap()
}

#[test]
fn a_ring_too_small_for_all_instances_still_loses_those_that_leave() {
    let (registry, now) = (Registry::new(), Instant::now());
    let dead = registry.register("goods", Instance::new("dead", ""), LEASE, now).unwrap();
    registry.register("goods", Instance::new("g1", ""), 3 * LEASE, now).unwrap();
    let mut follower = dense(&registry, now);
    assert_eq!(follower.update(now), Ok(Followed::Changed));

    let heavy = Instance::new("heavy", "").with_weight(65);
    let heavy = registry.register("goods", heavy, 3 * LEASE, now).unwrap();
    assert!(matches!(follower.update(now), Err(RingError::TooManyTokens { .. })));
    registry.leave(dead.token(), now).unwrap();
    registry.register("goods", Instance::new("g2", ""), LEASE, now).unwrap();
    for _ in 0..2 {
        assert_eq!(follower.update(now), Err(RingError::TooManyTokens { tokens: 67 << 16 }));
        assert_eq!(follower.ring(), Some(&dense_ring(["g1", "g2"].map(Node::new))));
        assert_eq!(follower.left_out(), [Node::new("heavy").with_weight(65)]);
    }

    // The same holds for an expiry. What is left out comes in once there is room.
    let later = now + LEASE;
    assert!(follower.update(later).is_err());
    assert_eq!(follower.ring(), Some(&dense_ring([Node::new("g1")])));
    registry.register("goods", Instance::new("heavy", "").with_weight(3), LEASE, later).unwrap();
    assert_eq!(follower.update(later), Ok(Followed::Changed));
    assert_eq!(follower.ring(), Some(&dense_ring([Node::new("g1"), Node::new("heavy").with_weight(3)])));
    assert!(follower.left_out().is_empty());
    assert!(registry.leave(heavy.token(), later).is_err(), "it was registered again");
}

#[test]
fn followers_leave_out_the_same_instances_whenever_they_started() {
    let (registry, now) = (Registry::new(), Instant::now());
    let mut early = dense(&registry, now);
    for (id, weight) in [("d", 33), ("c", 33), ("b", 2), ("a", 33), ("e", 1)] {
        registry.register("goods", Instance::new(id, "").with_weight(weight), LEASE, now).unwrap();
        let _ = early.update(now);
    }
    let mut late = dense(&registry, now);
    assert!(late.update(now).is_err());
    let ids: Vec<_> = late.ring().unwrap().nodes().iter().map(|node| node.id().as_str()).collect();
    assert_eq!(ids, ["a", "b", "e"], "the lightest, and of equally heavy ones those with the smallest ids");
    assert_eq!(early.ring(), late.ring());
}

#[test]
fn an_instance_that_alone_is_too_heavy_leaves_no_ring() {
    let (registry, now) = (Registry::new(), Instant::now());
    let old = registry.register("goods", Instance::new("g1", ""), LEASE, now).unwrap();
    let mut follower = dense(&registry, now);
    follower.update(now).unwrap();
    registry.leave(old.token(), now).unwrap();
    registry.register("goods", Instance::new("heavy", "").with_weight(65), LEASE, now).unwrap();
    assert!(follower.update(now).is_err());
    assert_eq!(follower.ring(), None, "a node that has left is in no ring");
}

/// A hasher that panics while it is armed, as a user's hasher may.
#[derive(Clone)]
struct Armed(Arc<AtomicBool>);

impl PartialEq for Armed {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl KeyHasher for Armed {
    fn hash_key(&self, key: &[u8]) -> Position {
        assert!(!self.0.load(Ordering::Relaxed), "armed");
        Xxh3::default().hash_key(key)
    }
}

#[test]
fn no_event_is_lost_when_a_hasher_panics() {
    let (registry, now) = (Registry::new(), Instant::now());
    let (watcher, hasher) = (registry.watch("goods", now).unwrap(), Armed(Arc::default()));
    let mut follower = RingFollower::with_settings(watcher, 7, hasher.clone());
    let leaves = registry.register("goods", Instance::new("g1", ""), LEASE, now).unwrap();
    follower.update(now).unwrap();
    registry.register("goods", Instance::new("g2", ""), LEASE, now).unwrap();
    registry.leave(leaves.token(), now).unwrap();
    hasher.0.store(true, Ordering::Relaxed);
    assert!(catch_unwind(AssertUnwindSafe(|| follower.update(now))).is_err());
    hasher.0.store(false, Ordering::Relaxed);
    assert_eq!(follower.update(now), Ok(Followed::Changed));
    assert_eq!(follower.ring().unwrap().nodes(), [Node::new("g2")]);
}

#[test]
fn zero_virtual_nodes_are_reported_at_every_update() {
    let (registry, now) = (Registry::new(), Instant::now());
    registry.register("goods", Instance::new("g1", ""), LEASE, now).unwrap();
    let watcher = registry.watch("goods", now).unwrap();
    let mut follower = RingFollower::with_settings(watcher, 0, Xxh3::default());
    for _ in 0..2 {
        assert_eq!(follower.update(now), Err(RingError::ZeroVirtualNodes));
        assert_eq!(follower.ring(), None);
    }
}

/// The registry accepts no more weight than a follower with default settings can hold, so one
/// instance can't leave the others out of the ring.
#[test]
fn an_instance_that_is_too_heavy_is_refused_when_it_registers() {
    let (registry, now) = (Registry::new(), Instant::now());
    let most = u32::try_from(MAX_SERVICE_WEIGHT).unwrap();
    let register = |id: &str, weight| registry.register("goods", Instance::new(id, "").with_weight(weight), LEASE, now);
    register("g1", 1).unwrap();
    for weight in [65_536, u32::MAX, most] {
        let refused = RegistryError::TooHeavy { id: "heavy".into(), weight: u64::from(weight) + 1 };
        assert_eq!(register("heavy", weight).unwrap_err(), refused);
    }
    assert!(register("heavy", most - 1).is_ok());
    let mut follower = RingFollower::new(registry.watch("goods", now).unwrap());
    assert_eq!(follower.update(now), Ok(Followed::Changed), "the heaviest service that is accepted still has a ring");
    assert!(matches!(register("g2", 1), Err(RegistryError::TooHeavy { .. })));
    assert!(register("heavy", most - 2).is_ok(), "what it weighed before doesn't count");
    let g2 = register("g2", 1).unwrap();
    registry.leave(g2.token(), now).unwrap();
    assert!(register("g3", 1).is_ok(), "what left doesn't count");
    assert!(
        registry.register("orders", Instance::new("o", "").with_weight(most), LEASE, now).is_ok(),
        "nor other services"
    );
    let error = register("heavy", u32::MAX).unwrap_err().to_string();
    assert!(error.contains("instance `heavy`") && error.contains("over the limit of 26214"), "{error}");
}
