//! What several of the ring's tests need: random members, a hasher that collides, a ring so simple
//! that its correctness is obvious ([`model`]), and a reader for the answers of other software
//! ([`golden_file`]).

#[cfg(any(feature = "ketama", feature = "nginx"))]
pub mod golden_file;
pub mod model;

use std::collections::BTreeMap;

use proptest::{collection::btree_map, prelude::*};
use ringpact::ring::{HashRing, KeyHasher, Node, Position, Xxh3};

/// Sends everything to one of `SPOTS` positions, so that tokens of different nodes collide all the
/// time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Crowded;

pub const SPOTS: u64 = 11;

impl KeyHasher for Crowded {
    fn hash_key(&self, key: &[u8]) -> Position {
        // The first and last spot are the ends of the number range, where a mistake in wrapping
        // would show.
        let spot = Xxh3::default().hash_key(key).as_u64() % SPOTS;
        Position::new(spot * (u64::MAX / (SPOTS - 1)))
    }
}

/// 1 to 8 nodes of weight 1 to 3, out of 12 ids.
pub fn members() -> impl Strategy<Value = Vec<Node>> {
    btree_map(0..12_u8, 1..=3_u32, 1..=8).prop_map(|weights| {
        weights.into_iter().map(|(id, weight)| Node::new(format!("n{id}")).with_weight(weight)).collect()
    })
}

pub fn build<H: KeyHasher>(nodes: &[Node], virtual_nodes: u32, hasher: H) -> HashRing<H> {
    HashRing::builder()
        .virtual_nodes(virtual_nodes)
        .hasher(hasher)
        .nodes(nodes.iter().cloned())
        .build()
        .expect("the members are valid")
}

/// The nodes' ids by preference for a position, straight from the definition: by the clockwise
/// distance to a node's next token, the nearest node first, and the smaller id first if distances
/// are equal.
pub struct SlowPreference {
    /// Each node's id, and the positions of its tokens.
    tokens: Vec<(String, Vec<u64>)>,
}

impl SlowPreference {
    pub fn new<H: KeyHasher>(nodes: &[Node], virtual_nodes: u32, hasher: &H) -> Self {
        let position = |node: &Node, index: u32| {
            hasher.hash_token(&[node.id().as_str().as_bytes(), &index.to_le_bytes()].concat()).as_u64()
        };
        let tokens = |node| (0..Node::weight(node) * virtual_nodes).map(|index| position(node, index)).collect();
        Self { tokens: nodes.iter().map(|node| (node.id().to_string(), tokens(node))).collect() }
    }

    pub fn at(&self, position: Position) -> Vec<&str> {
        let distance = |tokens: &[u64]| tokens.iter().map(|token| token.wrapping_sub(position.as_u64())).min();
        let mut nearest: Vec<_> = self.tokens.iter().map(|(id, tokens)| (distance(tokens), id.as_str())).collect();
        nearest.sort_unstable();
        nearest.into_iter().map(|(_, id)| id).collect()
    }
}

/// Returns the positions at which a mistake would show: every token of the rings, its neighbours,
/// and the ends.
pub fn telling_positions<H>(rings: &[&HashRing<H>]) -> Vec<Position> {
    rings
        .iter()
        .flat_map(|ring| ring.tokens().map(|token| token.position.as_u64()).collect::<Vec<_>>())
        .chain([0, 1, u64::MAX])
        .flat_map(|token| [token.wrapping_sub(1), token, token.wrapping_add(1)])
        .map(Position::new)
        .collect()
}

/// Compares all that is visible of a ring: settings, members, tokens, and every preference list.
#[track_caller]
pub fn assert_same_ring<H: KeyHasher + PartialEq + std::fmt::Debug>(ring: &HashRing<H>, expected: &HashRing<H>) {
    assert_eq!(ring, expected);
    assert!(ring.tokens().eq(expected.tokens()), "the tokens differ");
    for position in telling_positions(&[ring]) {
        assert!(ring.replicas_at(position).eq(expected.replicas_at(position)), "replicas differ at {position:?}");
    }
}

/// Returns each node's share of the circle, counted token by token.
pub fn shares<H>(ring: &HashRing<H>) -> BTreeMap<String, f64> {
    let mut shares: BTreeMap<_, _> = ring.nodes().iter().map(|node| (node.id().to_string(), 0.0)).collect();
    let tokens: Vec<_> = ring.tokens().collect();
    let mut start = tokens[tokens.len() - 1].position;
    for token in &tokens {
        let width = token.position.as_u64().wrapping_sub(start.as_u64());
        *shares.entry(token.node.id().to_string()).or_default() += width as f64 / 2_f64.powi(64);
        start = token.position;
    }
    shares
}
