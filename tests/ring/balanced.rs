//! Balanced placement: how even it is, what moves, and how many tokens it takes.
//!
//! `--nocapture` shows the figures. The long runs need a release build.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use ringpact::ring::{HashRing, MAX_TOKEN_GROWTH, Node, Placement, RingError};
use serde_json::json;

const CIRCLE: u128 = 1 << 64;

fn balanced<N: Into<Node>>(nodes: impl IntoIterator<Item = N>) -> HashRing {
    HashRing::builder().placement(Placement::Balanced).nodes(nodes).build().unwrap()
}

fn id(number: usize) -> String {
    format!("node-{number}")
}

/// Returns what each node owns, exactly, and its number of tokens.
fn holdings(ring: &HashRing) -> BTreeMap<&str, (u128, u32)> {
    let mut holdings = BTreeMap::new();
    let mut start = ring.tokens().last().unwrap().position.as_u64();
    for token in ring.tokens() {
        let end = token.position.as_u64();
        let width = if end == start { CIRCLE } else { u128::from(end.wrapping_sub(start)) };
        let (share, tokens): &mut (u128, u32) = holdings.entry(token.node.id().as_str()).or_default();
        *share += width;
        *tokens += 1;
        start = end;
    }
    holdings
}

/// Random numbers that never change between releases: Knuth's MMIX generator.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((u128::from(self.0) * bound as u128) >> 64) as usize
    }
}

/// Extremes over a run, in millionths: share for weight relative to its mean, tokens relative to
/// those of a fresh ring, and what moved relative to what had to move.
#[derive(Debug, PartialEq, Eq)]
struct Extremes {
    most: u128,
    least: u128,
    most_tokens: u128,
    moved: u128,
}

/// A ring that is changed again and again, and what is measured of it.
struct Run {
    ring: HashRing,
    shares: BTreeMap<String, u128>,
    next: usize,
    extremes: Extremes,
    moved: u128,
    ideal: u128,
    changes: usize,
}

impl Run {
    fn new(nodes: impl IntoIterator<Item = Node>) -> Self {
        let ring = balanced(nodes);
        let shares = holdings(&ring).iter().map(|(id, (share, _))| (id.to_string(), *share)).collect();
        let extremes = Extremes { most: 0, least: u128::MAX, most_tokens: 0, moved: 0 };
        let next = ring.nodes().len();
        Self { ring, shares, next, extremes, moved: 0, ideal: 0, changes: 0 }
    }

    fn equal(nodes: usize) -> Self {
        Self::new((0..nodes).map(|number| Node::new(id(number))))
    }

    fn join(&mut self, weight: u32) {
        let node = Node::new(id(self.next)).with_weight(weight);
        self.next += 1;
        let before = self.ring.clone();
        self.ring.add(node.clone()).unwrap();
        if self.changes.is_multiple_of(10) {
            assert_eq!(before.plan_join(&node).unwrap().ranges(), before.movement(&self.ring).unwrap().ranges());
        }
        let joined = node.id();
        self.count(&before, |_, to| to.id() == joined);
        self.ideal += CIRCLE * u128::from(weight) / total_weight(&self.ring);
    }

    fn leave(&mut self, index: usize) {
        let before = self.ring.clone();
        let left = before.nodes()[index].id();
        self.ideal += self.shares[left.as_str()];
        self.ring.remove(left).unwrap();
        self.count(&before, |from, _| from.id() == left);
        assert_eq!(self.shares.remove(left.as_str()), Some(0));
    }

    fn reweigh(&mut self, index: usize, weight: u32) {
        let before = self.ring.clone();
        let node = before.nodes()[index].clone();
        self.ring.replace(node.clone().with_weight(weight)).unwrap();
        let part = |ring, weight| CIRCLE * u128::from(weight) / total_weight(ring);
        self.ideal += part(&self.ring, weight).abs_diff(part(&before, node.weight()));
        let grew = weight > node.weight();
        self.count(&before, |from, to| if grew { to.id() == node.id() } else { from.id() == node.id() });
    }

    /// Follows what moved. Fails if something moved that is not `due`.
    fn count(&mut self, before: &HashRing, due: impl Fn(&Node, &Node) -> bool) {
        for moved in before.movement(&self.ring).unwrap().ranges() {
            assert!(due(moved.from, moved.to), "{moved:?}");
            let width = moved.range.width();
            self.moved += width;
            *self.shares.get_mut(moved.from.id().as_str()).unwrap() -= width;
            *self.shares.entry(moved.to.id().to_string()).or_default() += width;
        }
        let total = total_weight(&self.ring);
        for node in self.ring.nodes() {
            let load = self.shares[node.id().as_str()] * total * 1_000_000 / (CIRCLE * u128::from(node.weight()));
            self.extremes.most = self.extremes.most.max(load);
            self.extremes.least = self.extremes.least.min(load);
        }
        self.changes += 1;
        if self.changes.is_multiple_of(50) || self.ring.nodes().len() <= 20 {
            self.check_holdings();
        }
    }

    /// Checks that the followed shares are the real ones, and counts every node's tokens.
    fn check_holdings(&mut self) {
        let holdings = holdings(&self.ring);
        assert_eq!(holdings.len(), self.ring.nodes().len());
        for node in self.ring.nodes() {
            let (share, tokens) = holdings[node.id().as_str()];
            assert_eq!(share, self.shares[node.id().as_str()]);
            let fresh = u128::from(node.weight()) * u128::from(self.ring.virtual_nodes());
            self.extremes.most_tokens = self.extremes.most_tokens.max(u128::from(tokens) * 1_000_000 / fresh);
        }
    }

    /// Prints and returns the extremes.
    fn end(mut self, what: &str) -> Extremes {
        self.check_holdings();
        self.extremes.moved = (self.moved * 1_000_000).checked_div(self.ideal).unwrap_or(0);
        let tokens = self.ring.token_count() as u128 * 1_000_000;
        let mean_tokens = tokens / (total_weight(&self.ring) * u128::from(self.ring.virtual_nodes()));
        println!("{what}: after {} changes {:?}, mean tokens {mean_tokens}", self.changes, self.extremes);
        self.extremes
    }
}

fn total_weight(ring: &HashRing) -> u128 {
    ring.nodes().iter().map(|node| u128::from(node.weight())).sum()
}

/// Random joins and leaves of nodes of weight 1 to `weights`, between `fewest` and `most` nodes.
fn churn(run: &mut Run, changes: usize, (fewest, most): (usize, usize), weights: usize) {
    let mut random = Random(1);
    for _ in 0..changes {
        let nodes = run.ring.nodes().len();
        if nodes == fewest || (nodes < most && random.below(2) == 0) {
            run.join(1 + random.below(weights) as u32);
        } else {
            run.leave(random.below(nodes));
        }
    }
}

/// Number of changes: all in release builds, as in `.ci/run`, and few in debug builds, which are
/// slow.
fn changes(release: usize, debug: usize) -> usize {
    if cfg!(debug_assertions) { debug } else { release }
}

#[test]
fn a_fresh_ring_is_exact_and_its_arcs_have_many_successors() {
    for (nodes, expected) in [(1, 1), (2, 1), (3, 2), (10, 9), (100, 41), (1_000, 56)] {
        let ring = balanced((0..nodes).map(id));
        assert_eq!((ring.placement(), ring.virtual_nodes()), (Placement::Balanced, 64));
        let fair = CIRCLE / nodes as u128;
        for (share, tokens) in holdings(&ring).values() {
            assert!(share.abs_diff(fair) <= 64, "{share} is more than a position a token off {fair}");
            assert_eq!(*tokens, 64);
        }
        let mut successors = BTreeMap::<_, BTreeSet<_>>::new();
        let ids: Vec<_> = ring.tokens().map(|token| token.node.id()).collect();
        for (owner, next) in ids.iter().zip(ids.iter().cycle().skip(1)) {
            successors.entry(owner).or_default().insert(next);
        }
        let fewest = successors.values().map(BTreeSet::len).min();
        println!("{nodes} nodes: the fewest successors are {fewest:?}");
        assert_eq!(fewest, Some(expected));
    }
}

#[test]
fn weights_are_exact_in_a_fresh_ring() {
    let ring = balanced([("a", 1), ("b", 2), ("c", 40)].map(|(id, weight)| Node::new(id).with_weight(weight)));
    for node in ring.nodes() {
        let fair = CIRCLE * u128::from(node.weight()) / 43;
        assert!(holdings(&ring)[node.id().as_str()].0.abs_diff(fair) <= 64 * 40);
    }
}

#[test]
fn a_thousand_nodes_come_and_go() {
    let mut run = Run::equal(1_000);
    churn(&mut run, changes(3_000, 60), (900, 1_100), 1);
    let extremes = run.end("1,000 nodes");
    extremes.assert(1_015_000, 980_000, 2_000_000, 1_001_000);
    if !cfg!(debug_assertions) {
        let exact = Extremes { most: 1_012_203, least: 984_390, most_tokens: 1_937_500, moved: 1_000_000 };
        assert_eq!(extremes, exact);
    }
}

#[test]
fn a_thousand_nodes_come_and_go_for_long() {
    let mut run = Run::equal(1_000);
    churn(&mut run, changes(20_000, 0), (990, 1_010), 1);
    let extremes = run.end("1,000 nodes for long");
    extremes.assert(1_015_000, 980_000, 2_000_000, 1_001_000);
    if !cfg!(debug_assertions) {
        let exact = Extremes { most: 1_012_341, least: 984_390, most_tokens: 1_937_500, moved: 1_000_000 };
        assert_eq!(extremes, exact);
    }
}

#[test]
fn few_nodes_come_and_go_for_long() {
    let mut run = Run::equal(10);
    churn(&mut run, changes(20_000, 1_000), (2, 10), 1);
    let extremes = run.end("2 to 10 nodes");
    extremes.assert(1_015_000, 980_000, 2_000_000, 1_001_000);
    if !cfg!(debug_assertions) {
        let exact = Extremes { most: 1_011_863, least: 984_484, most_tokens: 1_484_375, moved: 1_000_000 };
        assert_eq!(extremes, exact);
    }
}

#[test]
fn some_tens_of_nodes_come_and_go_for_long() {
    let mut run = Run::equal(10);
    churn(&mut run, changes(20_000, 300), (2, 60), 1);
    run.end("2 to 60 nodes").assert(1_015_000, 980_000, 2_000_000, 1_001_000);
}

#[test]
fn weighted_nodes_come_and_go() {
    let mut random = Random(2);
    let mut run = Run::new((0..100).map(|number| Node::new(id(number)).with_weight(1 + random.below(10) as u32)));
    churn(&mut run, changes(3_000, 30), (50, 150), 10);
    let extremes = run.end("weights 1 to 10");
    extremes.assert(1_015_000, 980_000, 2_000_000, 1_001_000);
    if !cfg!(debug_assertions) {
        let exact = Extremes { most: 1_010_888, least: 981_818, most_tokens: 1_421_875, moved: 1_000_000 };
        assert_eq!(extremes, exact);
    }
}

#[test]
fn weights_change_by_much() {
    for (nodes, heaviest) in [(10, 10), (10, 100), (100, 10), (300, 4)] {
        let mut run = Run::equal(nodes);
        let mut random = Random(3);
        for _ in 0..changes(2_000, 20) {
            let index = random.below(nodes);
            let weight = 1 + random.below(heaviest) as u32;
            if weight != run.ring.nodes()[index].weight() {
                run.reweigh(index, weight);
            }
        }
        run.end(&format!("{nodes} nodes of changing weight to {heaviest}"))
            .assert(1_015_000, 970_000, 2_000_000, 1_010_000);
    }
}

/// In a ring of few nodes, most arcs of a heavy node lie between its own arcs, so the node is its
/// own neighbour. What it gives when its weight falls has to come from where arcs of others begin.
#[test]
fn any_weight_falls_or_rises_in_a_ring_of_two() {
    let most = changes(16, 6) as u32;
    let weights = |most| (1..=most).flat_map(move |a| (1..=most).flat_map(move |b| (1..=most).map(move |c| (a, b, c))));
    for (first, second, after) in weights(most).filter(|(first, _, after)| first != after) {
        let mut run = Run::new([("a", first), ("b", second)].map(|(id, weight)| Node::new(id).with_weight(weight)));
        run.reweigh(0, after);
        // With only one other node, a node can be given exactly its share, whatever it had before.
        run.extremes.assert(1_000_001, 999_999, 2_000_000, u128::MAX);
    }
}

/// All sequences of two changes of weight, and long random ones with joins and leaves.
#[test]
fn weights_change_in_rings_of_few_nodes() {
    for (nodes, heaviest) in [(2, 5), (3, 3), (4, 2)].into_iter().take(changes(3, 1)) {
        let weights = |number: usize| 1 + number as u32 % heaviest;
        for start in 0..(heaviest as usize).pow(nodes as u32) {
            let digits = (0..nodes).map(|node| weights(start / (heaviest as usize).pow(node as u32)));
            let start: Vec<_> =
                digits.enumerate().map(|(node, weight)| Node::new(id(node)).with_weight(weight)).collect();
            let steps = nodes * heaviest as usize;
            for (first, second) in (0..steps).flat_map(|first| (0..steps).map(move |second| (first, second))) {
                let mut run = Run::new(start.clone());
                for step in [first, second] {
                    let (node, weight) = (step % nodes, weights(step / nodes));
                    if run.ring.nodes()[node].weight() != weight {
                        run.reweigh(node, weight);
                    }
                }
                run.extremes.assert(1_015_000, 980_000, 2_000_000, u128::MAX);
            }
        }
    }
    for (most, heaviest) in [(2, 10), (3, 5), (3, 100), (4, 20), (6, 30)] {
        let (mut run, mut random) = (Run::equal(2), Random(5));
        for _ in 0..changes(1_000, 40) {
            let nodes = run.ring.nodes().len();
            let (index, weight) = (random.below(nodes), 1 + random.below(heaviest) as u32);
            match random.below(4) {
                0 if nodes < most => run.join(weight),
                1 if nodes > 2 => run.leave(index),
                _ if weight != run.ring.nodes()[index].weight() => run.reweigh(index, weight),
                _ => {}
            }
        }
        run.end(&format!("2 to {most} nodes of changing weight to {heaviest}"))
            .assert(1_015_000, 850_000, 2_000_000, 1_010_000);
    }
}

/// From one node to many and back to one. Nodes leave in five orders: random, first, last, least
/// loaded, most loaded.
#[test]
fn all_join_and_then_all_leave() {
    for (order, choose) in [
        ("random", None),
        ("first", Some((|_: &Run| 0) as fn(&Run) -> usize)),
        ("last", Some(|run: &Run| run.ring.nodes().len() - 1)),
        ("least", Some(|run: &Run| (0..run.ring.nodes().len()).min_by_key(|index| load(run, *index)).unwrap())),
        ("most", Some(|run: &Run| (0..run.ring.nodes().len()).max_by_key(|index| load(run, *index)).unwrap())),
    ] {
        let mut run = Run::equal(1);
        let mut random = Random(4);
        for _ in 0..changes(999, 30) {
            run.join(1);
        }
        while run.ring.nodes().len() > 1 {
            let index = choose.map_or_else(|| random.below(run.ring.nodes().len()), |choose| choose(&run));
            run.leave(index);
        }
        run.end(&format!("all join, and leave, {order} first")).assert(1_015_000, 980_000, 2_000_000, 1_001_000);
    }
}

fn load(run: &Run, index: usize) -> u128 {
    run.shares[run.ring.nodes()[index].id().as_str()]
}

impl Extremes {
    #[track_caller]
    fn assert(&self, most: u128, least: u128, most_tokens: u128, moved: u128) {
        assert!(self.most <= most && self.least >= least, "{self:?}");
        assert!(self.most_tokens <= most_tokens && self.moved <= moved, "{self:?}");
    }
}

#[derive(Clone, Debug)]
enum Change {
    Join(u32),
    Leave(usize),
    Reweigh(usize, u32),
}

fn some_changes() -> impl Strategy<Value = Vec<Change>> {
    let change = prop_oneof![
        3 => (1..6_u32).prop_map(Change::Join),
        2 => any::<usize>().prop_map(Change::Leave),
        1 => (any::<usize>(), 1..30_u32).prop_map(|(index, weight)| Change::Reweigh(index, weight)),
    ];
    prop::collection::vec(change, 1..30)
}

proptest! {
    /// After any changes, three things hold. A ring that is written and read back after every
    /// change goes on like one that is not. Only what has to move does. Every look-up is answered
    /// by the tokens in the ring.
    #[test]
    fn a_ring_read_back_goes_on_alike(virtual_nodes in 1..40_u32, some_changes in some_changes()) {
        let mut run = Run::new(["a".into(), "b".into()]);
        run.ring = HashRing::builder()
            .placement(Placement::Balanced)
            .virtual_nodes(virtual_nodes)
            .nodes(["a", "b"])
            .build()
            .unwrap();
        run.shares = holdings(&run.ring).iter().map(|(id, (share, _))| (id.to_string(), *share)).collect();
        let mut copy = run.ring.clone();
        for change in some_changes {
            let nodes = run.ring.nodes().len();
            match change {
                Change::Join(weight) => {
                    run.join(weight);
                    copy.add(run.ring.node(id(run.next - 1)).unwrap().clone()).unwrap();
                }
                Change::Leave(index) if nodes > 1 => {
                    let leaver = run.ring.nodes()[index % nodes].id().clone();
                    run.leave(index % nodes);
                    copy.remove(leaver).unwrap();
                }
                Change::Leave(_) => {}
                Change::Reweigh(index, weight) => {
                    run.reweigh(index % nodes, weight);
                    copy.replace(run.ring.nodes()[index % nodes].clone()).unwrap();
                }
            }
            prop_assert_eq!(&copy, &run.ring);
            run.check_holdings();
            let tokens: Vec<_> = run.ring.tokens().collect();
            prop_assert!(tokens.windows(2).all(|pair| pair[0].position < pair[1].position));
            for token in &tokens {
                prop_assert_eq!(run.ring.owner_at(token.position), token.node);
            }
            let bytes = postcard::to_stdvec(&copy).unwrap();
            copy = postcard::from_bytes(&bytes).unwrap();
            prop_assert_eq!(&copy, &run.ring);
        }
    }

    /// A ring can be changed whatever tokens it was read with.
    #[test]
    fn any_tokens_that_are_read_can_be_changed(
        tokens in prop::collection::btree_map(
            prop_oneof![any::<u64>(), 0..8_u64, (0..8_u64).prop_map(|n| u64::MAX - n)], 0..4_u32, 4..20),
        some_changes in some_changes(),
    ) {
        let value = json!({
            "format": 2, "hasher": {"xxh3_64": {"seed": 0}}, "virtual_nodes": 4,
            "nodes": [{"id": "d"}, {"id": "c", "weight": 3}, {"id": "b"}, {"id": "a"}],
            "tokens": tokens.into_iter().map(|(token, node)| (token.to_string(), node)).collect::<Vec<_>>(),
        });
        let Ok(mut ring) = serde_json::from_value::<HashRing>(value) else {
            return Ok(());
        };
        for (number, change) in some_changes.into_iter().enumerate() {
            let nodes = ring.nodes().len();
            match change {
                Change::Join(weight) => ring.add(Node::new(id(number)).with_weight(weight)).unwrap(),
                Change::Leave(index) => {
                    let leaver = ring.nodes()[index % nodes].id().clone();
                    prop_assert_eq!(ring.remove(leaver).is_ok(), nodes > 1);
                }
                Change::Reweigh(index, weight) => {
                    let node = ring.nodes()[index % nodes].clone();
                    ring.replace(node.with_weight(weight)).unwrap();
                }
            }
            prop_assert_eq!(holdings(&ring).len(), ring.nodes().len());
        }
    }
}

#[test]
fn what_is_read_is_checked() {
    let valid = json!({
        "format": 2, "hasher": {"xxh3_64": {"seed": 0}}, "virtual_nodes": 2,
        "nodes": [{"id": "b"}, {"id": "a"}], "tokens": [[1, 0], [5, 1], [7, 0]],
    });
    let ring: HashRing = serde_json::from_value(valid.clone()).unwrap();
    let owners: Vec<_> = ring.tokens().map(|token| token.node.id().as_str()).collect();
    assert_eq!(owners, ["b", "a", "b"], "indices are those of the nodes as they were written");
    assert_eq!(ring.placement(), Placement::Balanced);

    for (field, wrong, message) in [
        ("/tokens", json!([[1, 0], [1, 1]]), "token at 1 isn't after the one before"),
        ("/tokens", json!([[9, 0], [3, 1]]), "token at 3 isn't after the one before"),
        ("/tokens", json!([[1, 0], [3, 2]]), "token of node number 2, and 2 nodes"),
        ("/tokens", json!([[1, 0], [3, 0]]), "no token of node `a`"),
        ("/tokens", json!([]), "no token of node `a`"),
        ("/tokens", json!([[-1, 0]]), "invalid value"),
        ("/format", json!(1), "unknown field `tokens`"),
        ("/nodes", json!([]), "at least one node"),
        ("/virtual_nodes", json!(0), "at least 1 virtual node"),
        ("/virtual_nodes", json!(2_000_000), "over the limit of 4194304"),
    ] {
        let mut ring = valid.clone();
        *ring.pointer_mut(field).unwrap() = wrong;
        let error = serde_json::from_value::<HashRing>(ring).unwrap_err().to_string();
        assert!(error.contains(message), "{field}: {error}");
    }
}

#[test]
fn placements_are_told_apart_and_limits_hold() {
    let hashed = HashRing::builder().virtual_nodes(64).nodes(["a", "b"]).build().unwrap();
    assert_ne!(hashed, balanced(["a", "b"]));
    assert_eq!(balanced(["b", "a"]), balanced(["a", "b"]), "a fresh ring doesn't depend on the order of its nodes");

    let most = (1 << 22) / MAX_TOKEN_GROWTH / 64;
    let mut ring = balanced([Node::new("a").with_weight(most)]);
    assert!(matches!(ring.add("b"), Err(RingError::TooManyTokens { .. })));
    assert_eq!(ring, balanced([Node::new("a").with_weight(most)]), "an error changes nothing");
    assert_eq!(ring.add("a"), Err(RingError::DuplicateNode { id: "a".into() }));
    assert_eq!(ring.remove("a"), Err(RingError::LastNode { id: "a".into() }));
}

#[test]
fn a_zone_moves_nothing() {
    let mut ring = balanced(["a", "b", "c"]);
    let before = ring.clone();
    ring.replace(Node::new("b").with_zone("eu-1")).unwrap();
    assert!(ring.tokens().map(|token| token.position).eq(before.tokens().map(|token| token.position)));
    assert!(before.movement(&ring).unwrap().is_empty());
}
