//! Bounded loads: the bound holds exactly, whatever nodes and slots come and go.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicU64, Ordering},
    thread,
};

use proptest::{collection::vec, prelude::*};
use ringpact::ring::{AcquireError, BoundedLoads, Epsilon, EpsilonError, HashRing, Node, RingKey, Slot};

fn ring(nodes: &[Node]) -> HashRing {
    HashRing::builder().virtual_nodes(8).nodes(nodes.iter().cloned()).build().unwrap()
}

fn equal_nodes(count: usize) -> Vec<Node> {
    (0..count).map(|n| Node::new(format!("n{n}"))).collect()
}

/// Returns ceil((1 + numerator/denominator) * total * weight / total_weight), by its definition.
fn capacity(epsilon: (u64, u64), total: u64, weight: u64, total_weight: u64) -> u64 {
    ((epsilon.0 + epsilon.1) * total * weight).div_ceil(epsilon.1 * total_weight)
}

#[test]
fn a_popular_key_spreads_along_its_preference_list() {
    let loads = BoundedLoads::new(ring(&equal_nodes(4)), Epsilon::percent(25).unwrap());
    let _slots: Vec<_> = (0..100).map(|_| loads.acquire("celebrity").unwrap()).collect();

    let ring = loads.ring();
    let by_preference: Vec<_> = ring.replicas("celebrity").map(|node| loads.load(node.id())).collect();
    assert_eq!(by_preference, [32, 31, 31, 6], "1.25 * 100 / 4 is 31.25, and earlier it was less");
}

#[test]
fn a_lone_key_stays_with_its_owner() {
    let loads = BoundedLoads::new(ring(&equal_nodes(4)), Epsilon::default());
    for key in 0..100_u32 {
        let slot = loads.acquire(key).unwrap();
        assert_eq!(slot.node(), loads.ring().owner(key));
    }
    assert_eq!(loads.total(), 0);
}

#[test]
fn weights_scale_the_capacity() {
    let nodes = [Node::new("small"), Node::new("large").with_weight(3)];
    let loads = BoundedLoads::new(ring(&nodes), Epsilon::percent(10).unwrap());
    let _slots: Vec<_> = (0..400_u32).map(|_| loads.acquire("k").unwrap()).collect();
    let snapshot: BTreeMap<_, _> = loads.snapshot().into_iter().map(|n| (n.node.id().to_string(), n)).collect();
    assert_eq!(snapshot["small"].capacity, 111, "1.1 * 401 / 4, rounded up");
    assert_eq!(snapshot["large"].capacity, 331);
    assert!(snapshot["small"].load <= 110 && snapshot["large"].load <= 330);
    assert_eq!(snapshot["small"].load + snapshot["large"].load, 400);
}

#[test]
fn refused_nodes_are_absent_from_the_average() {
    let loads = BoundedLoads::new(ring(&equal_nodes(3)), Epsilon::percent(25).unwrap());
    let healthy = |node: &Node| node.id() != "n1";
    // Any number of slots: the two nodes that are left have room for all.
    let _slots: Vec<_> = (0..1_000_u32).map(|key| loads.acquire_where(key, healthy).unwrap()).collect();
    assert_eq!(loads.load("n1"), 0);
    assert!(loads.load("n0") <= 626 && loads.load("n2") <= 626, "1.25 * 1,000 / 2 is 625");

    let refused = loads.acquire_where("k", |_| false);
    assert_eq!(refused.unwrap_err(), AcquireError::AllRefused);
    assert_eq!(loads.total(), 1_000, "a refusal counts nothing");
}

#[test]
fn a_node_with_many_stuck_slots_does_not_block_the_others() {
    let loads = BoundedLoads::new(ring(&equal_nodes(2)), Epsilon::percent(1).unwrap());
    let _stuck: Vec<_> = (0..50).map(|_| loads.acquire_where("k", |node| node.id() == "n0").unwrap()).collect();
    let _more: Vec<_> = (0..50).map(|_| loads.acquire_where("k", |node| node.id() == "n1").unwrap()).collect();
    assert_eq!((loads.load("n0"), loads.load("n1")), (50, 50));
}

#[test]
fn an_absolute_limit_turns_requests_away() {
    let nodes = [Node::new("a"), Node::new("b").with_weight(2)];
    let loads = BoundedLoads::new(ring(&nodes), Epsilon::default()).with_limit(2);
    let mut slots: Vec<_> = (0..6_u32).map(|key| loads.acquire(key).unwrap()).collect();
    assert_eq!((loads.load("a"), loads.load("b")), (2, 4));
    assert_eq!(loads.acquire("k").unwrap_err(), AcquireError::AllFull { limit: 2 });

    slots.pop();
    assert!(loads.acquire("k").is_ok());
    let none_at_all = loads.clone().with_limit(0);
    assert_eq!(none_at_all.acquire("k").unwrap_err(), AcquireError::AllFull { limit: 0 });
}

#[test]
fn slots_are_given_back_whatever_happened_to_their_node() {
    let loads = BoundedLoads::new(ring(&equal_nodes(3)), Epsilon::default());
    let mut slots: Vec<Slot> = (0..90_u32).map(|key| loads.acquire(key).unwrap()).collect();
    let on_n1 = loads.load("n1");
    assert!(on_n1 > 0);

    loads.set_ring(ring(&[Node::new("n0"), Node::new("n2"), Node::new("n9")]));
    assert_eq!(loads.load("n1"), on_n1, "its slots are still out");
    assert_eq!(loads.total(), 90 - on_n1, "but they are no part of the members' load");

    let first = slots.iter().position(|slot| slot.node().id() == "n1").unwrap();
    drop(slots.swap_remove(first));
    assert_eq!(loads.load("n1"), on_n1 - 1);

    loads.set_ring(ring(&equal_nodes(3)));
    assert_eq!((loads.load("n1"), loads.total()), (on_n1 - 1, 89), "it is back, and its load counts again");

    loads.set_ring(ring(&[Node::new("n0")]));
    drop(slots);
    assert_eq!((loads.total(), loads.load("n0"), loads.load("n1"), loads.load("n2")), (0, 0, 0, 0));
}

#[test]
fn a_predicate_may_use_the_loads_and_even_change_the_ring() {
    let loads = BoundedLoads::new(ring(&equal_nodes(3)), Epsilon::default());
    let mut changed = false;
    let slot = loads.acquire_where("k", |node| {
        if !changed {
            changed = true;
            loads.set_ring(ring(&[Node::new("n7")]));
        }
        loads.load(node.id()) == 0 && loads.acquire("other").is_ok()
    });
    assert_eq!(slot.unwrap().node().id(), "n7", "the walk starts again in the new ring");
}

/// The writer behind a formatter is the caller's code: a writer that reads the loads must not wait
/// for itself.
#[test]
fn a_writer_that_is_shown_the_loads_may_use_them() {
    struct Using(BoundedLoads, String);
    impl std::fmt::Write for Using {
        fn write_str(&mut self, text: &str) -> std::fmt::Result {
            drop(self.0.acquire("key"));
            self.1.push_str(text);
            Ok(())
        }
    }
    let loads = BoundedLoads::new(ring(&equal_nodes(2)), Epsilon::default());
    let mut using = Using(loads.clone(), String::new());
    std::fmt::write(&mut using, format_args!("{loads:?}")).unwrap();
    assert!(using.1.contains("total: 0"), "{}", using.1);
}

#[test]
fn a_change_of_members_moves_little() {
    const KEYS: u64 = 2_000;
    let place = |nodes: usize| -> Vec<_> {
        let ring = HashRing::new((0..nodes).map(|n| format!("n{n}"))).unwrap();
        let loads = BoundedLoads::new(ring, Epsilon::percent(25).unwrap());
        let slots: Vec<_> = (0..KEYS).map(|key| loads.acquire(key).unwrap()).collect();
        slots.iter().map(|slot| slot.node().id().clone()).collect()
    };
    let (before, after) = (place(20), place(21));
    let moved = before.iter().zip(&after).filter(|(a, b)| a != b).count();
    // The plain ring moves one in 21, 95; overflow adds to that. To place keys by `hash % nodes`
    // would move 20 in 21.
    assert!((60..400).contains(&moved), "{moved} of {KEYS} moved");
}

/// Four threads take slots, and each checks the bound against a `snapshot` now and then. At the
/// end, the total is exactly the number of slots taken.
#[test]
fn the_bound_holds_under_concurrency() {
    const NODES: usize = 5;
    const THREADS: u64 = 4;
    const ROUNDS: u64 = if cfg!(miri) { 10 } else { 2_000 };
    let loads = BoundedLoads::new(ring(&equal_nodes(NODES)), Epsilon::percent(10).unwrap());
    let served = AtomicU64::new(0);
    // Slots are only taken, so the average only grows: a bound that held when a slot was taken
    // holds from then on.
    thread::scope(|scope| {
        let handles: Vec<_> = (0..THREADS)
            .map(|thread| {
                let (loads, served) = (&loads, &served);
                scope.spawn(move || {
                    let mut slots = Vec::new();
                    for round in 0..ROUNDS {
                        slots.push(loads.acquire((thread + round) % 3).unwrap());
                        served.fetch_add(1, Ordering::Relaxed);
                        if round % 64 == 0 {
                            let snapshot = loads.snapshot();
                            let total: u64 = snapshot.iter().map(|node| node.load).sum();
                            let most = capacity((1, 10), total, 1, NODES as u64);
                            assert!(snapshot.iter().all(|node| node.load <= most), "{snapshot:?}");
                        }
                    }
                    slots
                })
            })
            .collect();
        let slots: Vec<_> = handles.into_iter().flat_map(|handle| handle.join().unwrap()).collect();
        assert_eq!(loads.total(), served.load(Ordering::Relaxed));
        assert_eq!(loads.total(), slots.len() as u64);
    });
    assert_eq!(loads.total(), 0);
}

#[test]
fn nothing_is_lost_while_slots_the_ring_and_health_all_change_at_once() {
    const ROUNDS: u64 = if cfg!(miri) { 30 } else { 3_000 };
    const RINGS: usize = if cfg!(miri) { 3 } else { 200 };
    let loads = BoundedLoads::new(ring(&equal_nodes(4)), Epsilon::percent(5).unwrap());
    thread::scope(|scope| {
        for thread in 0..3_u64 {
            let loads = loads.clone();
            scope.spawn(move || {
                let mut slots = std::collections::VecDeque::new();
                for round in 0..ROUNDS {
                    slots.extend(loads.acquire_where(round * 7 + thread, |node| {
                        !(round + thread).is_multiple_of(5) || node.id() != "n1"
                    }));
                    if slots.len() > 20 {
                        slots.pop_front();
                    }
                }
            });
        }
        for members in (2..6).cycle().take(RINGS) {
            loads.set_ring(ring(&equal_nodes(members)));
            thread::yield_now();
        }
    });
    assert_eq!(loads.total(), 0);
    assert!((0..6).all(|n| loads.load(format!("n{n}")) == 0));
}

#[test]
fn epsilon_is_checked() {
    assert_eq!(Epsilon::new(0, 1), Err(EpsilonError::Zero));
    assert_eq!(Epsilon::percent(0), Err(EpsilonError::Zero));
    assert_eq!(Epsilon::new(1, 0), Err(EpsilonError::Denominator { denominator: 0 }));
    assert_eq!(Epsilon::new(1, 1_000_001), Err(EpsilonError::Denominator { denominator: 1_000_001 }));
    assert_eq!(Epsilon::new(1_001, 1), Err(EpsilonError::TooLarge { numerator: 1_001, denominator: 1 }));
    assert!(Epsilon::new(1_000_000_000, 1_000_000).is_ok());
    assert_eq!(Epsilon::new(2, 8), Ok(Epsilon::default()));
}

#[derive(Clone, Debug)]
enum Step {
    Acquire { key: u8, refused: u8 },
    Release { which: prop::sample::Index },
    SetRing { members: Vec<Node> },
}

fn members() -> impl Strategy<Value = Vec<Node>> {
    prop::collection::btree_map(0..6_u8, 1..=3_u32, 1..=5).prop_map(|weights| {
        weights.into_iter().map(|(id, weight)| Node::new(format!("n{id}")).with_weight(weight)).collect()
    })
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => (0..4_u8, prop_oneof![3 => Just(0), 1 => any::<u8>()])
            .prop_map(|(key, refused)| Step::Acquire { key, refused }),
        3 => any::<prop::sample::Index>().prop_map(|which| Step::Release { which }),
        1 => members().prop_map(|members| Step::SetRing { members }),
    ];
    vec(step, 1..120)
}

/// Returns the node of the next slot, from the definition: `out` has the node of each slot that is
/// taken, and all else is counted from it.
fn model(
    ring: &HashRing,
    out: &[String],
    key: impl RingKey,
    accept: impl Fn(&Node) -> bool,
    epsilon: (u64, u64),
) -> Option<String> {
    let load = |node: &Node| out.iter().filter(|id| node.id() == id.as_str()).count() as u64;
    let preference: Vec<&Node> = ring.replicas(key).collect();
    let has_room = |node: &Node, absent: &[&Node]| {
        let present = ring.nodes().iter().filter(|other| !absent.contains(other));
        let (total, weight) =
            present.fold((0, 0), |(total, weight), other| (total + load(other), weight + u64::from(other.weight())));
        load(node) < capacity(epsilon, total + 1, node.weight().into(), weight)
    };
    let refused: Vec<&Node> = preference.iter().copied().filter(|node| !accept(node)).collect();
    let on_the_walk = preference.iter().enumerate().find(|(place, node)| {
        let met: Vec<_> = preference[..*place].iter().copied().filter(|node| refused.contains(node)).collect();
        accept(node) && has_room(node, &met)
    });
    on_the_walk
        .map(|(_, node)| *node)
        .or_else(|| preference.iter().copied().find(|node| accept(node) && has_room(node, &refused)))
        .map(|node| node.id().to_string())
}

proptest! {
    #[test]
    fn agrees_with_a_plain_model(start in members(), steps in steps(), percent in 1..200_u32) {
        let loads = BoundedLoads::new(ring(&start), Epsilon::percent(percent).unwrap());
        let mut current = ring(&start);
        let mut out: Vec<(Slot, String)> = Vec::new();
        for step in steps {
            match step {
                Step::Acquire { key, refused } => {
                    let accept = |node: &Node| {
                        let number: u8 = node.id().as_str()[1..].parse().unwrap();
                        refused & (1 << number) == 0
                    };
                    let names: Vec<_> = out.iter().map(|(_, id)| id.clone()).collect();
                    let expected = model(&current, &names, key, accept, (percent.into(), 100));
                    let slot = loads.acquire_where(key, accept).ok();
                    prop_assert_eq!(slot.as_ref().map(|slot| slot.node().id().to_string()), expected.clone());
                    let all_refused = !current.nodes().iter().any(accept);
                    prop_assert_eq!(slot.is_none(), all_refused, "there is always room");
                    out.extend(slot.zip(expected));
                }
                Step::Release { which } if !out.is_empty() => {
                    drop(out.swap_remove(which.index(out.len())));
                }
                Step::Release { .. } => {}
                Step::SetRing { members } => {
                    current = ring(&members);
                    loads.set_ring(current.clone());
                }
            }
            for number in 0..6 {
                let id = format!("n{number}");
                let expected = out.iter().filter(|(_, other)| *other == id).count();
                prop_assert_eq!(loads.load(&id), expected as u64);
            }
        }
    }
}
