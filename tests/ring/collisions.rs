//! If tokens of several nodes share a position, the node with the smallest id owns it, and the
//! others follow.

use ringpact::ring::{HashRing, KeyHasher, Node, Position};

/// Puts every token on one spot.
#[derive(Clone, Debug, PartialEq)]
struct OneSpot;

const SPOT: Position = Position::new(1_000);

impl KeyHasher for OneSpot {
    fn hash_key(&self, _key: &[u8]) -> Position {
        Position::MAX
    }

    fn hash_token(&self, _encoded: &[u8]) -> Position {
        SPOT
    }
}

fn ring_of(ids: &[&str]) -> HashRing<OneSpot> {
    HashRing::builder().virtual_nodes(3).hasher(OneSpot).nodes(ids.iter().copied()).build().unwrap()
}

#[test]
fn the_smallest_id_wins_the_position() {
    let ring = ring_of(&["c", "b", "a10", "a9"]);
    for position in [Position::MIN, SPOT, Position::MAX] {
        assert_eq!(ring.owner_at(position).id(), "a10", "ids are compared by their bytes, not as numbers");
    }
}

#[test]
fn the_losers_follow_in_the_order_of_their_ids() {
    let ring = ring_of(&["c", "b", "a"]);
    assert!(ring.replicas("any").map(|node| node.id().as_str()).eq(["a", "b", "c"]));
    assert_eq!(ring.token_count(), 9, "no token is dropped");
}

#[test]
fn a_loser_takes_over_when_the_winner_leaves_and_yields_when_it_returns() {
    let mut ring = ring_of(&["a", "b"]);
    ring.remove("a").unwrap();
    assert_eq!(ring.owner("any").id(), "b");
    ring.add("a").unwrap();
    assert_eq!(ring.owner("any").id(), "a");
}

#[test]
fn the_whole_circle_can_move_at_once() {
    let (before, after) = (ring_of(&["b"]), ring_of(&["a", "b"]));
    let movement = before.movement(&after).unwrap();
    let [moved] = movement.ranges() else { panic!("all ranges touch: {movement:?}") };
    assert_eq!((moved.from, moved.to), (&Node::new("b"), &Node::new("a")));
    assert_eq!(moved.range.start, moved.range.end);
    assert_eq!(movement.width(), 1 << 64);
    assert_eq!(movement.fraction(), 1.0);
    for position in [Position::MIN, SPOT, Position::MAX] {
        assert_eq!(movement.find(position), Some(moved));
    }
}
