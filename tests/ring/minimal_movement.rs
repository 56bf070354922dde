//! Monotonicity: no key moves between two nodes that stay.

use crate::support::{Crowded, build, members, telling_positions};
use proptest::prelude::*;
use ringpact::ring::{HashRing, KeyHasher, Node, Xxh3};

/// Returns the ids of the nodes that gave a position away, and of the nodes that received one.
fn givers_and_takers<H: KeyHasher>(before: &HashRing<H>, after: &HashRing<H>) -> (Vec<String>, Vec<String>) {
    telling_positions(&[before, after])
        .into_iter()
        .map(|position| (before.owner_at(position).id().to_string(), after.owner_at(position).id().to_string()))
        .filter(|(from, to)| from != to)
        .unzip()
}

fn only_the_changed_node_moves<H: KeyHasher + Clone>(mut ring: HashRing<H>, newcomer: Node, weight: u32) {
    let before = ring.clone();
    ring.add(newcomer.clone()).unwrap();
    let (_, takers) = givers_and_takers(&before, &ring);
    assert!(takers.iter().all(|taker| newcomer.id() == taker.as_str()), "only the newcomer receives");

    let lighter = ring.clone();
    ring.replace(newcomer.clone().with_weight(newcomer.weight() + weight)).unwrap();
    let (_, takers) = givers_and_takers(&lighter, &ring);
    assert!(takers.iter().all(|taker| newcomer.id() == taker.as_str()), "only the node that gained weight receives");

    let (givers, _) = givers_and_takers(&ring, &lighter);
    assert!(givers.iter().all(|giver| newcomer.id() == giver.as_str()), "only the node that lost weight gives");

    let (givers, _) = givers_and_takers(&lighter, &before);
    assert!(givers.iter().all(|giver| newcomer.id() == giver.as_str()), "only the node that left gives");
}

proptest! {
    #[test]
    fn only_keys_of_the_changed_node_move(nodes in members(), virtual_nodes in 1..20_u32, weight in 1..4_u32) {
        let newcomer = Node::new("newcomer").with_weight(weight);
        only_the_changed_node_moves(build(&nodes, virtual_nodes, Xxh3::default()), newcomer.clone(), weight);
        only_the_changed_node_moves(build(&nodes, virtual_nodes, Crowded), newcomer, weight);
    }
}

#[test]
fn no_token_moves_when_others_come_and_go() {
    let small = HashRing::new(["a", "b"]).unwrap();
    let large = HashRing::new([Node::new("a"), Node::new("c").with_weight(50), Node::new("d")]).unwrap();
    let tokens_of_a = |ring: &HashRing| -> Vec<_> {
        ring.tokens().filter(|token| token.node.id() == "a").map(|token| token.position).collect()
    };
    assert_eq!(tokens_of_a(&small), tokens_of_a(&large));
}
