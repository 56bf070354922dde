//! An instance is listed for as long as its lease says, and only the lease of its latest
//! registration counts.

use std::time::{Duration, Instant};

use ringpact::registry::{Instance, MAX_ADDRESS_BYTES, MAX_LEASE, MIN_LEASE, Registry, RegistryError};
use ringpact::ring::RingError;

const LEASE: Duration = Duration::from_secs(10);
const SECOND: Duration = Duration::from_secs(1);

fn instance(id: &str) -> Instance {
    Instance::new(id, format!("http://{id}"))
}

#[test]
fn an_instance_is_listed_until_the_very_end_of_its_lease() {
    let (registry, start) = (Registry::new(), Instant::now());
    let lease = registry.register("goods", instance("g1"), LEASE, start).unwrap();
    assert_eq!(lease.expires_at(), start + LEASE);
    assert_eq!(registry.next_expiry(), Some(start + LEASE));

    let last = start + LEASE - Duration::from_nanos(1);
    assert_eq!(registry.instances("goods", last), [instance("g1")]);
    assert_eq!(registry.instance("goods", "g1", last), Some(instance("g1")));
    assert_eq!(registry.services(last).iter().map(|name| &**name).collect::<Vec<_>>(), ["goods"]);

    assert_eq!(registry.instance("goods", "g1", start + LEASE), None, "although `expire` never ran");
    assert_eq!(registry.instances("goods", start + LEASE), []);
    assert!(registry.services(start + LEASE).is_empty());
    assert_eq!(registry.next_expiry(), None);
}

#[test]
fn renewing_prolongs_and_is_refused_once_the_lease_is_over() {
    let (registry, start) = (Registry::new(), Instant::now());
    let token = registry.register("goods", instance("g1"), LEASE, start).unwrap().token();
    let renewed = registry.renew(token, start + 9 * SECOND).unwrap();
    assert_eq!(renewed.token(), token);
    assert_eq!(renewed.expires_at(), start + 19 * SECOND);
    assert_eq!(registry.expire(start + 18 * SECOND), 0);

    let stale = RegistryError::StaleLease { token };
    assert_eq!(registry.renew(token, start + 19 * SECOND), Err(stale.clone()));
    assert_eq!(registry.leave(token, start + 19 * SECOND), Err(stale));
}

#[test]
fn a_stale_lease_can_neither_renew_nor_evict_the_new_registration() {
    let (registry, start) = (Registry::new(), Instant::now());
    let old = registry.register("goods", instance("g1"), LEASE, start).unwrap();
    let moved = Instance::new("g1", "elsewhere").with_weight(3);
    let new = registry.register("goods", moved.clone(), LEASE, start + SECOND).unwrap();
    assert!(new.token() > old.token());

    let stale = RegistryError::StaleLease { token: old.token() };
    assert_eq!(registry.renew(old.token(), start + 2 * SECOND), Err(stale.clone()));
    assert_eq!(registry.leave(old.token(), start + 2 * SECOND), Err(stale));
    assert_eq!(registry.expire(old.expires_at()), 0, "the end of the old lease ends nothing");
    assert_eq!(registry.instance("goods", "g1", old.expires_at()).as_ref(), Some(&moved));
    assert_eq!(registry.leave(new.token(), old.expires_at()).unwrap(), moved);
}

#[test]
fn an_earlier_now_counts_as_the_latest_one() {
    let (registry, start) = (Registry::new(), Instant::now());
    let token = registry.register("goods", instance("g1"), LEASE, start).unwrap().token();
    assert_eq!(registry.expire(start + LEASE), 1);
    assert!(registry.instances("goods", start).is_empty(), "an expired instance does not come back");
    assert!(registry.renew(token, start).is_err());
    let lease = registry.register("goods", instance("g1"), LEASE, start).unwrap();
    assert_eq!(lease.expires_at(), start + 2 * LEASE);
}

#[test]
fn services_are_separate() {
    let (registry, now) = (Registry::new(), Instant::now());
    let goods = registry.register("goods", instance("same-id"), LEASE, now).unwrap();
    let orders = registry.register("orders", instance("same-id"), LEASE, now).unwrap();
    registry.leave(goods.token(), now).unwrap();
    assert!(registry.instances("goods", now).is_empty());
    assert_eq!(registry.instances("orders", now).len(), 1);
    assert!(registry.renew(orders.token(), now).is_ok());
}

#[test]
fn bad_arguments_are_refused_and_change_nothing() {
    let (registry, now) = (Registry::new(), Instant::now());
    let register = |service: &str, instance, lease| registry.register(service, instance, lease, now).unwrap_err();

    assert_eq!(register("", instance("g1"), LEASE), RegistryError::InvalidService { length: 0 });
    assert_eq!(register(&"s".repeat(256), instance("g1"), LEASE), RegistryError::InvalidService { length: 256 });
    assert_eq!(registry.watch("", now).unwrap_err(), RegistryError::InvalidService { length: 0 });
    assert_eq!(
        register("goods", instance(""), LEASE),
        RegistryError::InvalidInstance(RingError::InvalidNodeId { length: 0 })
    );
    assert_eq!(
        register("goods", instance("g1").with_weight(0), LEASE),
        RegistryError::InvalidInstance(RingError::ZeroWeight { id: "g1".into() })
    );
    assert!(matches!(register("goods", instance("g1").with_zone(""), LEASE), RegistryError::InvalidInstance(_)));
    let address = "a".repeat(MAX_ADDRESS_BYTES + 1);
    assert_eq!(
        register("goods", Instance::new("g1", address), LEASE),
        RegistryError::AddressTooLong { length: MAX_ADDRESS_BYTES + 1 }
    );
    for lease in [Duration::ZERO, MIN_LEASE - Duration::from_nanos(1), MAX_LEASE + MIN_LEASE, Duration::MAX] {
        assert_eq!(register("goods", instance("g1"), lease), RegistryError::InvalidLease { lease });
    }
    assert!(registry.services(now).is_empty());
    assert_eq!(registry.next_expiry(), None);

    for lease in [MIN_LEASE, MAX_LEASE] {
        registry.register("goods", instance("g1"), lease, now).unwrap();
    }
}

#[test]
fn the_number_of_instances_is_limited_and_a_known_instance_may_register_again() {
    use ringpact::registry::MAX_INSTANCES;
    let (registry, now) = (Registry::new(), Instant::now());
    for n in 0..MAX_INSTANCES {
        registry.register("goods", Instance::new(n.to_string(), ""), LEASE, now).unwrap();
    }
    let full = registry.register("goods", instance("one-more"), LEASE, now);
    assert_eq!(full, Err(RegistryError::TooManyInstances));
    let again = registry.register("goods", instance("0"), LEASE, now).unwrap();
    registry.leave(again.token(), now).unwrap();
    registry.register("goods", instance("one-more"), LEASE, now).unwrap();
}

#[test]
fn the_number_of_services_is_limited_and_unused_services_do_not_count() {
    use ringpact::registry::MAX_SERVICES;
    let (registry, now) = (Registry::new(), Instant::now());
    let watchers: Vec<_> = (0..MAX_SERVICES).map(|n| registry.watch(&n.to_string(), now).unwrap()).collect();
    assert_eq!(registry.register("one-more", instance("g1"), LEASE, now), Err(RegistryError::TooManyServices));
    assert_eq!(registry.watch("one-more", now).unwrap_err(), RegistryError::TooManyServices);
    registry.register("7", instance("g1"), LEASE, now).unwrap();
    drop(watchers);
    registry.register("one-more", instance("g1"), LEASE, now).unwrap();
}
