//! A slow start: each step moves keys to the node only, and all steps together what joining at once
//! moves.

use std::time::{Duration, SystemTime};

use crate::support::{Crowded, assert_same_ring, build, members, telling_positions};
use proptest::prelude::*;
use ringpact::ring::{HashRing, KeyHasher, MAX_RAMP_STEPS, Node, Placement, Ramp, RingError, SharedRing, Xxh3};

const START: SystemTime = SystemTime::UNIX_EPOCH;

fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn ramp(weight: u32, duration: Duration, steps: u32) -> Ramp {
    Ramp::new(Node::new("late").with_weight(weight), START, duration, steps).unwrap()
}

fn a_ramp_moves_what_joining_at_once_moves<H>(before: &HashRing<H>, weight: u32, steps: u32)
where
    H: KeyHasher + Clone + PartialEq + std::fmt::Debug,
{
    let ramp = ramp(weight, secs(600), steps);
    let mut at_once = before.clone();
    at_once.add(ramp.node().clone()).unwrap();
    let expected = before.movement(&at_once).unwrap();

    let (mut ring, mut moved) = (before.clone(), 0);
    let mut now = START;
    loop {
        let previous = ring.clone();
        assert!(ramp.apply(&mut ring, now).unwrap());
        let movement = previous.movement(&ring).unwrap();
        assert!(movement.ranges().iter().all(|moved| moved.to.id() == "late"), "a step only gives to the node");
        moved += movement.width();
        // Every position that the node has got, it keeps.
        for position in telling_positions(&[&previous]) {
            if previous.owner_at(position).id() == "late" {
                assert_eq!(ring.owner_at(position).id(), "late");
            }
        }
        match ramp.next_step(now) {
            Some(next) => now = next,
            None => break,
        }
    }
    assert_same_ring(&ring, &at_once);
    assert_eq!(moved, expected.width(), "no position moved twice");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn all_steps_together_move_the_minimum(nodes in members(), virtual_nodes in 1..6_u32, weight in 1..12_u32, steps in 1..12_u32) {
        let steps = steps.min(weight);
        a_ramp_moves_what_joining_at_once_moves(&build(&nodes, virtual_nodes, Xxh3::default()), weight, steps);
        a_ramp_moves_what_joining_at_once_moves(&build(&nodes, virtual_nodes, Crowded), weight, steps);
    }

    #[test]
    fn steps_are_due_when_the_plan_says(weight in 1..5_000_u32, steps in 1..70_u32, nanos in 0..10_000_000_000_u64, probe in 0..11_000_000_000_u64) {
        let steps = steps.min(weight);
        let ramp = ramp(weight, Duration::from_nanos(nanos), steps);
        let plan: Vec<_> = ramp.steps().collect();
        prop_assert_eq!(plan.len(), steps as usize);
        prop_assert_eq!(plan[0].0, START);
        prop_assert_eq!(plan[plan.len() - 1].1, weight);
        if steps > 1 {
            prop_assert_eq!(plan[plan.len() - 1].0, START + Duration::from_nanos(nanos));
        }
        for (index, pair) in plan.windows(2).enumerate() {
            prop_assert!(pair[0].0 <= pair[1].0 && pair[0].1 < pair[1].1);
            let due = weight as f64 * (index + 2) as f64 / f64::from(steps);
            prop_assert!(f64::from(pair[1].1) >= due - 1e-6 && f64::from(pair[1].1) < due + 1.0, "equal steps");
        }
        let now = START + Duration::from_nanos(probe);
        let due = plan.iter().rev().find(|(time, _)| *time <= now).unwrap();
        prop_assert_eq!(ramp.weight_at(now), due.1);
        prop_assert_eq!(ramp.node_at(now).weight(), due.1);
        prop_assert_eq!(ramp.next_step(now), plan.iter().map(|(time, _)| *time).find(|time| *time > now));
        prop_assert_eq!(ramp.is_over(now), due.1 == weight);
        let json = serde_json::to_string(&ramp).unwrap();
        prop_assert_eq!(&serde_json::from_str::<Ramp>(&json).unwrap(), &ramp);
        prop_assert_eq!(&postcard::from_bytes::<Ramp>(&postcard::to_stdvec(&ramp).unwrap()).unwrap(), &ramp);
    }

    /// Finer units are another way to write the same ring.
    #[test]
    fn finer_units_move_nothing(nodes in members(), factor in 1..9_u32, units in 1..4_u32, balanced: bool) {
        let placement = if balanced { Placement::Balanced } else { Placement::Hashed };
        let of = |virtual_nodes, factor: u32| {
            let nodes = nodes.iter().map(|node| node.clone().with_weight(node.weight() * factor));
            HashRing::builder().placement(placement).virtual_nodes(virtual_nodes).nodes(nodes).build().unwrap()
        };
        let coarse = of(factor * units, 1);
        let mut fine = coarse.clone();
        fine.refine_weights(factor).unwrap();
        if !balanced {
            assert_same_ring(&fine, &of(units, factor));
        }
        prop_assert!(coarse.movement(&fine).unwrap().is_empty());
        prop_assert!(coarse.replica_movement(&fine, 3).unwrap().is_empty());
        for position in telling_positions(&[&coarse]) {
            prop_assert_eq!(coarse.owner_at(position).id(), fine.owner_at(position).id());
        }
        // Both go on in the same way.
        let mut coarse = coarse;
        coarse.add(Node::new("late").with_weight(2)).unwrap();
        fine.add(Node::new("late").with_weight(2 * factor)).unwrap();
        prop_assert!(coarse.movement(&fine).unwrap().is_empty());
        prop_assert_eq!(coarse.token_count(), fine.token_count());
        prop_assert_eq!(&serde_json::from_str::<HashRing>(&serde_json::to_string(&fine).unwrap()).unwrap(), &fine);
    }
}

/// A node of default weight, in a ring with default settings.
#[test]
fn a_default_ring_can_have_a_slow_start() {
    let mut ring = HashRing::new(["a", "b", "c"]).unwrap();
    ring.refine_weights(16).unwrap();
    a_ramp_moves_what_joining_at_once_moves(&ring, 16, 8);
    let shares: Vec<_> = ramp(16, secs(70), 8)
        .steps()
        .map(|(_, weight)| ring.plan_join(&Node::new("late").with_weight(weight)).unwrap().fraction())
        .collect();
    assert!((0.02..0.08).contains(&shares[0]), "{shares:?}");
    assert!(shares.windows(2).all(|pair| pair[0] < pair[1]));
}

#[test]
fn a_balanced_ring_only_gives_to_the_node() {
    let nodes = ["a", "b", "c"].map(|id| Node::new(id).with_weight(16));
    let before = HashRing::builder().placement(Placement::Balanced).virtual_nodes(4).nodes(nodes).build().unwrap();
    let (ramp, mut ring) = (ramp(16, secs(70), 8), before.clone());
    for (now, _) in ramp.steps() {
        let previous = ring.clone();
        assert!(ramp.apply(&mut ring, now).unwrap());
        assert!(previous.movement(&ring).unwrap().ranges().iter().all(|moved| moved.to.id() == "late"));
    }
    let share = before.movement(&ring).unwrap().fraction();
    assert!((share - 0.25).abs() < 0.01, "{share}");
}

#[test]
fn a_ramp_keeps_what_others_have_set() {
    let shared = SharedRing::new(HashRing::new([Node::new("a").with_weight(8)]).unwrap());
    let ramp = ramp(8, secs(70), 8);
    assert!(!ramp.is_due(&shared.load(), START - secs(1)), "before the start, nothing is due");
    assert_eq!(ramp.next_step(START - secs(1)), Some(START));
    assert_eq!(ramp.weight_at(START - secs(1)), 1);
    assert!(ramp.is_due(&shared.load(), START));
    shared.update(|ring| ramp.apply(ring, START).map(drop)).unwrap();
    assert!(!ramp.is_due(&shared.load(), START + secs(9)));

    let marked = Node::new("late").with_zone("z").with_draining(true);
    shared.update(|ring| ring.replace(marked.clone()).map(drop)).unwrap();
    shared.update(|ring| ramp.apply(ring, START + secs(10)).map(drop)).unwrap();
    assert_eq!(shared.load().node("late"), Some(&marked.with_weight(2)));
    let mut ring = shared.load().ring().clone();
    assert!(!ramp.apply(&mut ring, START + secs(10)).unwrap());
    assert!(ramp.apply(&mut ring, START + secs(1_000_000)).unwrap());
    assert_eq!((ring.node("late").unwrap().weight(), ramp.next_step(START + secs(70))), (8, None));
    assert!(!ramp.apply(&mut ring, START).unwrap(), "a clock that goes back takes nothing away");
}

#[test]
fn one_step_or_no_duration_is_joining_at_once() {
    for ramp in [ramp(5, secs(70), 1), ramp(5, Duration::ZERO, 5), ramp(1, secs(3), 1)] {
        assert_eq!(ramp.weight_at(START), ramp.node().weight());
        assert_eq!((ramp.next_step(START), ramp.is_over(START)), (None, true));
    }
}

#[test]
fn bad_ramps_and_factors_are_refused() {
    let node = |weight| Node::new("n").with_weight(weight);
    for (weight, steps) in [(1, 2), (4, 0), (4, 5), (u32::MAX, MAX_RAMP_STEPS + 1)] {
        let error = Ramp::new(node(weight), START, secs(1), steps).unwrap_err();
        assert_eq!(error, RingError::RampSteps { id: "n".into(), weight, steps });
        assert!(error.to_string().contains("refine_weights"), "{error}");
    }
    assert!(Ramp::new(node(u32::MAX), START, secs(1), MAX_RAMP_STEPS).is_ok());
    assert_eq!(Ramp::new(node(0), START, secs(1), 1), Err(RingError::ZeroWeight { id: "n".into() }));
    assert_eq!(Ramp::new(node(2), START, Duration::MAX, 2), Err(RingError::RampEnd { id: "n".into() }));
    let mut json = serde_json::to_value(ramp(4, secs(1), 4)).unwrap();
    json["steps"] = 9.into();
    assert!(serde_json::from_value::<Ramp>(json).unwrap_err().to_string().contains("can't have 9 steps"));

    let mut ring = HashRing::new(["a"]).unwrap();
    for factor in [0, 3, 7, 161, 320] {
        let error = ring.refine_weights(factor).unwrap_err();
        assert_eq!(error, RingError::UnevenUnits { virtual_nodes: 160, factor });
        assert!(error.to_string().contains("use a divisor"));
    }
    assert_same_ring(&ring, &HashRing::new(["a"]).unwrap());
    let full = Ramp::new(Node::new("n").with_weight(u32::MAX), START, secs(9), 4).unwrap();
    assert!(matches!(full.apply(&mut ring, START), Err(RingError::TooManyTokens { .. })));
    assert_eq!(ring.nodes().len(), 1);
}
