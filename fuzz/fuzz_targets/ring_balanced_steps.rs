//! Changes of a balanced ring, step by step. Whatever joins and leaves, a look-up gives the same as
//! walking its tokens one by one, exactly the ranges of the movement move, and nothing moves
//! between two nodes that stay. Run it with `cargo +nightly fuzz run ring_balanced_steps`.
#![no_main]

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use ringpact::ring::{HashRing, Node, Placement, Position};

#[derive(Debug, Arbitrary)]
enum Change {
    Add { id: u8, weight: u8 },
    Remove(u8),
    Reweigh { id: u8, weight: u8 },
}

#[derive(Debug, Arbitrary)]
struct Life {
    virtual_nodes: u8,
    first: u8,
    changes: Vec<Change>,
}

fn node(id: u8, weight: u8) -> Node {
    Node::new(name(id)).with_weight(1 + u32::from(weight % 5))
}

fn name(id: u8) -> String {
    format!("n{}", id % 24)
}

/// Returns the first token at or after a position, by looking at all tokens.
fn slow_owner<'r>(ring: &'r HashRing, position: Position) -> &'r str {
    let mut tokens = ring.tokens();
    let first = tokens.next().expect("a ring has tokens");
    let owner = std::iter::once(first).chain(tokens).find(|token| token.position >= position);
    owner.unwrap_or(first).node.id().as_str()
}

/// Returns each token, the positions next to it, and the ends of the circle.
fn telling_positions(ring: &HashRing) -> Vec<Position> {
    let near = |token: u64| [token.wrapping_sub(1), token, token.wrapping_add(1)];
    let tokens = ring.tokens().step_by(1 + ring.token_count() / 64).flat_map(|token| near(token.position.as_u64()));
    tokens.chain([0, u64::MAX]).map(Position::new).collect()
}

fuzz_target!(|life: Life| {
    let first = (0..1 + life.first % 24).map(|id| node(id, id));
    let virtual_nodes = 1 + u32::from(life.virtual_nodes % 40);
    let builder = HashRing::builder().placement(Placement::Balanced).virtual_nodes(virtual_nodes);
    let mut ring = builder.nodes(first).build().expect("ids are distinct and valid");
    for change in life.changes.iter().take(24) {
        let before = ring.clone();
        let changed = match change {
            Change::Add { id, weight } => {
                _ = ring.add(node(*id, *weight));
                name(*id)
            },
            Change::Remove(id) => {
                _ = ring.remove(name(*id));
                name(*id)
            },
            Change::Reweigh { id, weight } => {
                _ = ring.replace(node(*id, *weight));
                name(*id)
            },
        };
        let movement = before.movement(&ring).expect("both hash alike");
        for position in telling_positions(&before).into_iter().chain(telling_positions(&ring)) {
            let (from, to) = (before.owner_at(position).id().as_str(), ring.owner_at(position).id().as_str());
            assert_eq!(to, slow_owner(&ring, position));
            let moved = movement.find(position).map(|moved| (moved.from.id().as_str(), moved.to.id().as_str()));
            assert_eq!(moved, (from != to).then_some((from, to)));
            assert!(from == to || from == changed || to == changed, "{from} gave to {to} when {changed} changed");
        }
    }
});
