//! A watcher sees every change in order, or gets an event that says that it has to start again.

use std::{
    num::NonZeroUsize,
    time::{Duration, Instant},
};

use ringpact::registry::{Instance, Registry, WatchEvent, Watcher};

const LEASE: Duration = Duration::from_secs(10);

fn instance(id: &str) -> Instance {
    Instance::new(id, "")
}

fn events(watcher: &mut Watcher, now: Instant) -> Vec<WatchEvent> {
    std::iter::from_fn(|| watcher.poll(now)).collect()
}

#[test]
fn changes_come_in_order_and_once() {
    let (registry, now) = (Registry::new(), Instant::now());
    let lease = registry.register("goods", instance("g1"), LEASE, now).unwrap();
    let mut watcher = registry.watch("goods", now).unwrap();

    registry.register("goods", instance("g2"), LEASE, now).unwrap();
    registry.register("goods", instance("g2").with_weight(2), 2 * LEASE, now).unwrap();
    registry.register("orders", instance("o1"), LEASE, now).unwrap();
    registry.renew(lease.token(), now).unwrap();
    registry.leave(lease.token(), now).unwrap();
    let end = now + 2 * LEASE;
    assert_eq!(
        events(&mut watcher, end),
        [
            WatchEvent::Resync { missed: 0, instances: vec![instance("g1")] },
            WatchEvent::Joined(instance("g2")),
            WatchEvent::Updated(instance("g2").with_weight(2)),
            WatchEvent::Left(instance("g1")),
            WatchEvent::Expired(instance("g2").with_weight(2)),
        ]
    );
    assert_eq!(watcher.poll(end), None);
    assert_eq!(watcher.service(), "goods");
}

#[test]
fn expiries_are_reported_in_the_order_in_which_the_leases_ended_and_before_later_changes() {
    let (registry, now) = (Registry::new(), Instant::now());
    let mut watcher = registry.watch("goods", now).unwrap();
    registry.register("goods", instance("late"), 3 * LEASE, now).unwrap();
    registry.register("goods", instance("early"), LEASE, now).unwrap();
    registry.register("goods", instance("middle"), 2 * LEASE, now).unwrap();
    assert_eq!(events(&mut watcher, now).len(), 4);

    registry.register("goods", instance("early"), LEASE, now + 3 * LEASE).unwrap();
    assert_eq!(
        events(&mut watcher, now + 3 * LEASE),
        [
            WatchEvent::Expired(instance("early")),
            WatchEvent::Expired(instance("middle")),
            WatchEvent::Expired(instance("late")),
            WatchEvent::Joined(instance("early")),
        ]
    );
}

#[test]
fn a_slow_watcher_is_told_how_many_changes_it_missed_and_which_instances_are_live() {
    let (registry, now) = (Registry::with_event_buffer(NonZeroUsize::new(3).unwrap()), Instant::now());
    let mut slow = registry.watch("goods", now).unwrap();
    let mut quick = registry.watch("goods", now).unwrap();
    assert_eq!(events(&mut slow, now).len(), 1);
    assert_eq!(events(&mut quick, now).len(), 1);

    for id in ["g1", "g2", "g3"] {
        registry.register("goods", instance(id), LEASE, now).unwrap();
        assert_eq!(events(&mut quick, now), [WatchEvent::Joined(instance(id))]);
    }
    let whole_buffer = ["g1", "g2", "g3"].map(|id| WatchEvent::Joined(instance(id)));
    assert_eq!(events(&mut slow, now), whole_buffer, "a watcher may fall behind by as many changes as are kept");

    let leases = ["g4", "g5", "g6"].map(|id| registry.register("goods", instance(id), LEASE, now).unwrap());
    registry.leave(leases[0].token(), now).unwrap();
    let instances = ["g1", "g2", "g3", "g5", "g6"].map(instance).to_vec();
    assert_eq!(events(&mut slow, now), [WatchEvent::Resync { missed: 4, instances: instances.clone() }]);

    registry.leave(leases[1].token(), now).unwrap();
    assert_eq!(events(&mut slow, now), [WatchEvent::Left(instance("g5"))]);

    slow.request_resync();
    let instances = instances.into_iter().filter(|live| live.id() != "g5").collect();
    assert_eq!(events(&mut slow, now), [WatchEvent::Resync { missed: 0, instances }]);
}

#[test]
fn a_watch_outlasts_the_services_last_instance() {
    let (registry, now) = (Registry::new(), Instant::now());
    let mut watcher = registry.watch("goods", now).unwrap();
    for _ in 0..3 {
        let lease = registry.register("goods", instance("g1"), LEASE, now).unwrap();
        registry.leave(lease.token(), now).unwrap();
    }
    assert_eq!(events(&mut watcher, now).len(), 1 + 6);
}

#[test]
fn watchers_come_and_go_without_disturbing_each_other() {
    let (registry, now) = (Registry::new(), Instant::now());
    let mut stays = registry.watch("goods", now).unwrap();
    registry.register("goods", instance("g1"), LEASE, now).unwrap();
    drop(registry.watch("goods", now).unwrap());
    registry.register("goods", instance("g2"), LEASE, now).unwrap();
    assert_eq!(events(&mut stays, now).len(), 3);
}

#[test]
fn handles_and_watchers_are_shared_between_threads() {
    let (registry, now) = (Registry::new(), Instant::now());
    let mut watcher = registry.watch("goods", now).unwrap();
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let registry = &registry;
            scope.spawn(move || {
                for n in 0..50 {
                    let lease = registry.register("goods", instance(&format!("{thread}-{n}")), LEASE, now).unwrap();
                    if n % 2 == 0 {
                        registry.leave(lease.token(), now).unwrap();
                    }
                }
            });
        }
    });
    let (mut joined, mut left) = (0, 0);
    for event in events(&mut watcher, now) {
        match event {
            WatchEvent::Joined(_) => joined += 1,
            WatchEvent::Left(_) => left += 1,
            WatchEvent::Resync { missed, .. } => assert_eq!(missed, 0),
            other => panic!("nothing else happened: {other:?}"),
        }
    }
    assert_eq!((joined, left), (200, 100));
    assert_eq!(registry.instances("goods", now).len(), 100);
}

#[test]
fn the_registry_watchers_and_followers_are_send_and_sync() {
    fn send_and_sync<T: Send + Sync>() {}
    send_and_sync::<Registry>();
    send_and_sync::<Watcher>();
    send_and_sync::<ringpact::registry::RingFollower>();
    send_and_sync::<ringpact::ring::HashRing>();
}
