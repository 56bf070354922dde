//! Random operations on a registry and on a model so simple that its correctness is obvious.

use std::{
    collections::BTreeMap,
    num::NonZeroUsize,
    time::{Duration, Instant},
};

use proptest::prelude::*;
use ringpact::registry::{Instance, LeaseToken, Registry, RingFollower, WatchEvent, Watcher};
use ringpact::ring::HashRing;

const SERVICES: [&str; 2] = ["goods", "orders"];

#[derive(Clone, Debug)]
enum Operation {
    Register {
        service: usize,
        id: u8,
        weight: u32,
        lease: u64,
    },
    /// Tokens are chosen among all that the registry ever returned, so most are stale after a
    /// while.
    Renew {
        token: prop::sample::Index,
    },
    Leave {
        token: prop::sample::Index,
    },
    Expire,
    /// Milliseconds. They may be negative: the clock that one operation reads may be behind that of
    /// another.
    Pass {
        time: i64,
    },
    PollMirror {
        service: usize,
    },
    UpdateFollower,
    NewMirror {
        service: usize,
    },
}

fn operation() -> impl Strategy<Value = Operation> {
    let service = 0..SERVICES.len();
    let token = any::<prop::sample::Index>;
    prop_oneof![
        4 => (service.clone(), 0..5_u8, 1..4_u32, 1..60_u64)
            .prop_map(|(service, id, weight, lease)| Operation::Register { service, id, weight, lease }),
        2 => token().prop_map(|token| Operation::Renew { token }),
        2 => token().prop_map(|token| Operation::Leave { token }),
        1 => Just(Operation::Expire),
        3 => (-10..40_i64).prop_map(|time| Operation::Pass { time }),
        2 => service.clone().prop_map(|service| Operation::PollMirror { service }),
        1 => Just(Operation::UpdateFollower),
        1 => service.prop_map(|service| Operation::NewMirror { service }),
    ]
}

/// All registrations ever made. The model finds the live ones by looking at each.
struct Model {
    registrations: Vec<Registration>,
    time: Instant,
}

struct Registration {
    service: usize,
    instance: Instance,
    token: LeaseToken,
    lease: Duration,
    expires_at: Instant,
    over: bool,
}

impl Model {
    fn live(&self) -> impl Iterator<Item = &Registration> {
        self.registrations.iter().filter(|one| !one.over && self.time < one.expires_at)
    }

    fn instances(&self, service: usize) -> Vec<Instance> {
        let mut instances: Vec<_> =
            self.live().filter(|one| one.service == service).map(|one| one.instance.clone()).collect();
        instances.sort_by(|a, b| a.id().cmp(b.id()));
        instances
    }

    fn live_by_token(&mut self, token: LeaseToken) -> Option<&mut Registration> {
        let time = self.time;
        self.registrations.iter_mut().find(|one| one.token == token && !one.over && time < one.expires_at)
    }
}

/// A copy of the live instances that is kept by the events of a watcher.
struct Mirror {
    watcher: Watcher,
    live: BTreeMap<String, Instance>,
}

impl Mirror {
    fn new(watcher: Watcher) -> Self {
        Self { watcher, live: BTreeMap::new() }
    }

    fn poll(&mut self, now: Instant) {
        while let Some(event) = self.watcher.poll(now) {
            match event {
                WatchEvent::Resync { instances, .. } => {
                    self.live = instances.into_iter().map(|instance| (instance.id().to_string(), instance)).collect();
                }
                WatchEvent::Joined(instance) => {
                    assert_eq!(
                        self.live.insert(instance.id().to_string(), instance),
                        None,
                        "an instance that joins was not live"
                    );
                }
                WatchEvent::Updated(instance) => {
                    assert!(
                        self.live.insert(instance.id().to_string(), instance).is_some(),
                        "an instance that is updated was live"
                    );
                }
                WatchEvent::Left(instance) | WatchEvent::Expired(instance) => {
                    assert_eq!(
                        self.live.remove(instance.id().as_str()),
                        Some(instance),
                        "an instance that left or expired was live"
                    );
                }
                other => panic!("an event that this test does not know: {other:?}"),
            }
        }
    }
}

fn run(operations: Vec<Operation>) {
    let registry = Registry::with_event_buffer(NonZeroUsize::new(3).unwrap());
    let start = Instant::now() + Duration::from_secs(60);
    let mut now = start;
    let mut model = Model { registrations: Vec::new(), time: start };
    let mut mirrors = SERVICES.map(|service| Mirror::new(registry.watch(service, now).unwrap()));
    let mut follower = RingFollower::new(registry.watch(SERVICES[0], now).unwrap());

    for operation in operations {
        if let Operation::Pass { time } = operation {
            let step = Duration::from_millis(time.unsigned_abs());
            now = if time < 0 { now - step } else { now + step };
            continue;
        }
        let chosen = match &operation {
            Operation::Renew { token } | Operation::Leave { token } if !model.registrations.is_empty() => {
                token.get(&model.registrations).token
            }
            // A token that no registration has.
            _ => LeaseToken::new(0),
        };
        model.time = model.time.max(now);
        match operation {
            Operation::Register { service, id, weight, lease } => {
                let lease = Duration::from_millis(lease);
                let instance = Instance::new(format!("i{id}"), format!("{now:?}")).with_weight(weight);
                let granted = registry.register(SERVICES[service], instance.clone(), lease, now).unwrap();
                for earlier in &mut model.registrations {
                    earlier.over |= earlier.service == service && earlier.instance.id() == instance.id();
                }
                let expires_at = model.time + lease;
                assert_eq!(granted.expires_at(), expires_at);
                let token = granted.token();
                model.registrations.push(Registration { service, instance, token, lease, expires_at, over: false });
            }
            Operation::Renew { .. } => {
                let time = model.time;
                let expected = model.live_by_token(chosen).map(|one| {
                    one.expires_at = time + one.lease;
                    one.expires_at
                });
                assert_eq!(registry.renew(chosen, now).ok().map(|lease| lease.expires_at()), expected);
            }
            Operation::Leave { .. } => {
                let expected = model.live_by_token(chosen).map(|one| {
                    one.over = true;
                    one.instance.clone()
                });
                assert_eq!(registry.leave(chosen, now).ok(), expected);
            }
            Operation::Expire => {
                registry.expire(now);
                assert_eq!(registry.next_expiry(), model.live().map(|one| one.expires_at).min());
            }
            Operation::Pass { .. } => {}
            Operation::PollMirror { service } => {
                mirrors[service].poll(now);
                assert!(mirrors[service].live.values().cloned().eq(model.instances(service)));
            }
            Operation::UpdateFollower => {
                follower.update(now).unwrap();
                let nodes: Vec<_> = model.instances(0).iter().map(|instance| instance.node().clone()).collect();
                assert_eq!(follower.ring(), HashRing::new(nodes).ok().as_ref());
            }
            Operation::NewMirror { service } => {
                mirrors[service] = Mirror::new(registry.watch(SERVICES[service], now).unwrap());
            }
        }
        // Look-ups expire what is due. Only some steps look, so that the test sees whether each
        // operation does so by itself.
        if matches!(operation, Operation::Register { .. } | Operation::Expire) {
            for (service, name) in SERVICES.iter().enumerate() {
                assert_eq!(registry.instances(name, now), model.instances(service));
            }
        }
    }
}

proptest! {
    #[test]
    fn the_registry_agrees_with_the_model(operations in prop::collection::vec(operation(), 1..60)) {
        run(operations);
    }
}
