//! Look-back: what a tenant wrote within the window is found, on nodes that it no longer uses, too.

use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime},
};

use proptest::prelude::*;
use ringpact::ring::{HashRing, MAX_HISTORY, Node, Placement, RingError, RingHistory, SharedRing};

const WINDOW: Duration = Duration::from_secs(100);

fn at(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000 + seconds)
}

fn ring_of(placement: Placement, nodes: impl IntoIterator<Item = Node>) -> HashRing {
    HashRing::builder().placement(placement).virtual_nodes(4).nodes(nodes).build().unwrap()
}

#[derive(Clone, Debug)]
enum Step {
    Add(u8),
    Remove(u8),
    Weigh(u8, u32),
    Drain(u8, bool),
    Zone(u8, u8),
    Wait(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (0..12_u8).prop_map(Step::Add),
        2 => (0..12_u8).prop_map(Step::Remove),
        1 => (0..12_u8, 1..4_u32).prop_map(|(node, weight)| Step::Weigh(node, weight)),
        2 => (0..12_u8, any::<bool>()).prop_map(|(node, draining)| Step::Drain(node, draining)),
        1 => (0..12_u8, 0..3_u8).prop_map(|(node, zone)| Step::Zone(node, zone)),
        3 => (1..80_u64).prop_map(Step::Wait),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    /// Writes keys all the time, each to the owners of its version. Every key of the window is
    /// afterwards on one of its readers, unless its nodes have left. Without changes for a window,
    /// reads are back to the subset.
    #[test]
    fn readers_have_every_key_of_the_window(
        steps in prop::collection::vec(step(), 1..40), size in 1..4_usize, copies in 1..3_usize, balanced: bool, tenant: u8,
    ) {
        let placement = if balanced { Placement::Balanced } else { Placement::Hashed };
        let mut ring = ring_of(placement, (0..6).map(|n| Node::new(format!("n{n}"))));
        let mut history = RingHistory::new(WINDOW);
        let (mut now, mut written) = (0, Vec::<(u64, u64, Vec<String>)>::new());
        history.record(&ring, at(now)).unwrap();
        for (key, step) in (0..).zip(steps) {
            match step {
                Step::Add(n) => drop(ring.add(format!("n{n}"))),
                Step::Remove(n) => drop(ring.remove(format!("n{n}"))),
                Step::Weigh(n, weight) => drop(ring.replace(Node::new(format!("n{n}")).with_weight(weight))),
                Step::Drain(n, draining) => drop(ring.set_draining(format!("n{n}"), draining)),
                Step::Zone(n, zone) => drop(ring.replace(Node::new(format!("n{n}")).with_zone(format!("z{zone}")))),
                Step::Wait(seconds) => now += seconds,
            }
            history.record(&ring, at(now)).unwrap();
            let subset = ring.subset(tenant, size).unwrap();
            for key in 10 * key..10 * key + 10 {
                let ids = |nodes: &mut dyn Iterator<Item = &Node>| nodes.take(copies).map(|node| node.id().to_string()).collect();
                written.push((now, key, ids(&mut subset.replicas(key))));
                let new = ring.replicas_for_new(key).filter(|node| subset.nodes_for_new().any(|other| other == *node));
                written.push((now, key, ids(&mut { new })));
            }

            let reads = history.subset(&ring, tenant, size, at(now)).unwrap();
            prop_assert!(reads.nodes().zip(subset.nodes()).all(|(read, node)| read == node), "the subset comes first");
            prop_assert!(reads.subset().nodes().eq(subset.nodes()));
            for (_, key, holders) in written.iter().filter(|(time, ..)| now - time <= WINDOW.as_secs()) {
                let readers: Vec<_> = reads.readers(*key, copies).collect();
                prop_assert_eq!(readers[0], subset.owner(*key));
                for holder in holders.iter().filter(|id| ring.node(id).is_some()) {
                    prop_assert!(readers.iter().any(|node| node.id() == holder.as_str()), "{holder} is not read");
                    prop_assert!(reads.nodes().any(|node| node.id() == holder.as_str()));
                }
                let mut once = readers.iter().map(|node| node.id()).collect::<Vec<_>>();
                once.sort();
                once.dedup();
                prop_assert_eq!(once.len(), readers.len());
            }
        }
        let later = history.subset(&ring, tenant, size, at(now + 101)).unwrap();
        let now_used = |node: &&Node| later.subset().nodes().chain(later.subset().nodes_for_new()).any(|other| other == *node);
        prop_assert!(later.nodes().all(|node| now_used(&node)), "reads are back to the subset");
        history.record(&ring, at(now + 101)).unwrap();
        prop_assert_eq!(history.versions(), 1);
    }

    #[test]
    fn a_history_survives_serialisation(steps in prop::collection::vec(step(), 1..12), balanced: bool) {
        let placement = if balanced { Placement::Balanced } else { Placement::Hashed };
        let mut ring = ring_of(placement, (0..3).map(|n| Node::new(format!("n{n}"))));
        let mut history = RingHistory::new(WINDOW);
        for (time, step) in (0..).zip(steps) {
            match step {
                Step::Add(n) => drop(ring.add(format!("n{n}"))),
                Step::Drain(n, draining) => drop(ring.set_draining(format!("n{n}"), draining)),
                _ => drop(ring.remove("n1")),
            }
            history.record(&ring, at(time)).unwrap();
        }
        let json = serde_json::to_string(&history).unwrap();
        prop_assert_eq!(&serde_json::from_str::<RingHistory>(&json).unwrap(), &history);
        let bytes = postcard::to_stdvec(&history).unwrap();
        prop_assert_eq!(&postcard::from_bytes::<RingHistory>(&bytes).unwrap(), &history);
    }
}

/// With one node for each tenant, a key has few readers: the owner of each version in which the
/// owner differs.
#[test]
fn a_key_has_few_readers() {
    let mut ring = ring_of(Placement::Hashed, (0..20).map(|n| Node::new(format!("n{n}"))));
    let mut history = RingHistory::new(WINDOW);
    history.record(&ring, at(0)).unwrap();
    for n in 20..25 {
        ring.add(format!("n{n}")).unwrap();
        history.record(&ring, at(1)).unwrap();
    }
    let mut counts = BTreeMap::<_, u32>::new();
    for tenant in 0..200_u32 {
        let reads = history.subset(&ring, tenant, 4, at(2)).unwrap();
        assert!(reads.nodes().count() <= 4 + 5, "each change exchanges at most one node");
        (0..10_u32).for_each(|key| *counts.entry(reads.readers(key, 1).count()).or_default() += 1);
    }
    assert!(counts[&1] > 1_200, "two keys of three have stayed with their owner: {counts:?}");
}

#[test]
fn versions_are_kept_until_the_window_is_over() {
    let mut ring = ring_of(Placement::Hashed, ["a", "b"].map(Node::new));
    let mut history = RingHistory::new(WINDOW);
    let tenant = (0_u32..).find(|tenant| ring.subset(tenant, 1).unwrap().contains("a")).unwrap();
    history.record(&ring, at(0)).unwrap();
    history.record(&ring, at(5)).unwrap();
    assert_eq!(history.versions(), 1, "nothing has changed");
    ring.replace(Node::new("b").with_weight(400)).unwrap();
    history.record(&ring, at(10)).unwrap();
    assert!(!ring.subset(tenant, 1).unwrap().contains("a"));

    let reads = |now| history.subset(&ring, tenant, 1, now).unwrap().nodes().count();
    assert_eq!((reads(at(10)), reads(at(110))), (2, 2), "the old version ended at 10");
    assert_eq!(reads(at(111)), 1);
    assert_eq!(reads(SystemTime::UNIX_EPOCH), 2, "a clock that goes back forgets nothing");

    let mut late = history.clone();
    late.record(&ring, at(110)).unwrap();
    assert_eq!(late.versions(), 2);
    ring.add("c").unwrap();
    late.record(&ring, at(111)).unwrap();
    assert_eq!(late.versions(), 2, "the oldest is forgotten");
    ring.add("d").unwrap();
    late.record(&ring, at(0)).unwrap();
    assert_eq!(late.versions(), 3, "an earlier time counts as the latest");
    assert_eq!(late.window(), WINDOW);
}

#[test]
fn an_empty_history_adds_nothing() {
    let shared = SharedRing::new(HashRing::new(["a", "b", "c"]).unwrap());
    let reads = RingHistory::new(WINDOW).subset(shared.load(), "tenant", 2, at(0)).unwrap();
    assert!(reads.nodes().eq(reads.subset().nodes()));
    assert_eq!(reads.readers("key", 1).collect::<Vec<_>>(), [reads.subset().owner("key")]);
    let error = RingHistory::new(WINDOW).subset(shared.load(), "tenant", 0, at(0)).unwrap_err();
    assert_eq!(error, RingError::EmptySubset);
}

#[test]
fn a_history_has_a_limit_and_says_so() {
    let mut ring = HashRing::builder().virtual_nodes(1).node("a").build().unwrap();
    let mut history = RingHistory::new(WINDOW);
    for n in 0..MAX_HISTORY {
        history.record(&ring, at(n as u64 / 100)).unwrap();
        ring.add(format!("n{n}")).unwrap();
    }
    let full = history.clone();
    let error = history.record(&ring, at(50)).unwrap_err();
    assert_eq!(error, RingError::HistoryFull);
    assert!(error.to_string().contains("use a shorter window"));
    assert_eq!(history, full);
    assert!(history.record(&ring, at(102)).is_ok(), "the first versions are beyond the window");
}

#[test]
fn bad_histories_are_refused() {
    let mut history = RingHistory::new(WINDOW);
    let mut ring = HashRing::new(["a", "b"]).unwrap();
    history.record(&ring, at(0)).unwrap();
    ring.add("c").unwrap();
    history.record(&ring, at(9)).unwrap();
    let good = serde_json::to_value(&history).unwrap();
    for (field, wrong, message) in [
        ("/format", 2.into(), "has format 2, this version reads format 1"),
        ("/versions/0/since/secs_since_epoch", 2_000_000_u64.into(), "older than the one before"),
        ("/versions/0/nodes", serde_json::json!([]), "at least one node"),
        ("/versions/0/nodes/0/id", "b".into(), "has a node `b` already"),
        ("/versions/0/nodes/0/weight", 0.into(), "weight 0"),
        ("/versions/0/nodes/0/weight", u32::MAX.into(), "over the limit"),
        ("/versions/0/virtual_nodes", 0.into(), "at least 1 virtual node"),
    ] {
        let mut bad = good.clone();
        *bad.pointer_mut(field).unwrap() = wrong;
        let error = serde_json::from_value::<RingHistory>(bad).unwrap_err().to_string();
        assert!(error.contains(message), "{field}: {error}");
    }
    let mut long = good;
    let version = long["versions"][1].clone();
    *long.pointer_mut("/versions").unwrap() = vec![version; MAX_HISTORY + 1].into();
    assert!(serde_json::from_value::<RingHistory>(long).unwrap_err().to_string().contains("takes no more"));
}
