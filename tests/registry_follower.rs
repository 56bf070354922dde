//! A follower's ring is that of the live instances.

use std::time::{Duration, Instant};

use ringpact::registry::{Followed, Instance, Registry, RingFollower};
use ringpact::ring::{HashRing, MAX_TOKENS, Modular, Node, RingError};

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

#[test]
fn members_too_heavy_for_one_ring_leave_the_old_one_until_they_fit() {
    let (registry, now) = (Registry::new(), Instant::now());
    registry.register("goods", Instance::new("g1", ""), LEASE, now).unwrap();
    let mut follower = RingFollower::new(registry.watch("goods", now).unwrap());
    follower.update(now).unwrap();

    let heavy = Instance::new("heavy", "").with_weight(u32::try_from(MAX_TOKENS).unwrap());
    let heavy = registry.register("goods", heavy, LEASE, now).unwrap();
    registry.register("goods", Instance::new("g2", ""), LEASE, now).unwrap();
    for _ in 0..2 {
        assert!(matches!(follower.update(now), Err(RingError::TooManyTokens { .. })));
        assert_eq!(follower.ring(), Some(&HashRing::new(["g1"]).unwrap()));
    }

    registry.leave(heavy.token(), now).unwrap();
    assert_eq!(follower.update(now), Ok(Followed::Changed));
    assert_eq!(follower.ring(), Some(&HashRing::new(["g1", "g2"]).unwrap()));
}
