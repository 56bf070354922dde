//! Hashed tokens share the circle as evenly as theory says for random tokens.

use crate::support::shares;
use ringpact::ring::{HashRing, Node};

#[test]
fn the_most_loaded_of_a_hundred_is_near_the_estimate() {
    let (nodes, virtual_nodes) = (100.0_f64, 160.0);
    let ring = HashRing::new((0..100).map(|n| format!("node-{n}"))).unwrap();
    let most = shares(&ring).into_values().fold(0.0, f64::max) * nodes;
    let estimate = 1.0 + (2.0 * nodes.ln() / virtual_nodes).sqrt();
    assert!((most - estimate).abs() < 0.08, "{most} instead of about {estimate}");
}

/// In millionths of the fair share. If these numbers change, every placement has changed.
#[test]
fn hashed_shares_are_exactly_these() {
    for (nodes, most, least) in [(10, 1_092_025, 929_044), (100, 1_203_665, 744_331), (1_000, 1_306_626, 802_360)] {
        let ring = HashRing::new((0..nodes).map(|n| format!("node-{n}"))).unwrap();
        let shares = shares(&ring);
        let millionths = |share: f64| (share * f64::from(nodes) * 1e6).round() as u32;
        let (max, min) = (shares.values().copied().fold(0.0, f64::max), shares.values().copied().fold(1.0, f64::min));
        assert_eq!((millionths(max), millionths(min)), (most, least), "{nodes} nodes");
    }
}

#[test]
fn shares_are_in_proportion_to_weights() {
    let ring = HashRing::builder()
        .virtual_nodes(2_000)
        .nodes([Node::new("one"), Node::new("two").with_weight(2), Node::new("five").with_weight(5)])
        .build()
        .unwrap();
    let shares = shares(&ring);
    for (id, fair) in [("one", 1.0 / 8.0), ("two", 2.0 / 8.0), ("five", 5.0 / 8.0)] {
        assert!((shares[id] / fair - 1.0).abs() < 0.07, "{id} owns {} instead of {fair}", shares[id]);
    }
}
