//! After any changes, a ring answers like a sorted list that is walked from its start.

use crate::support::model::{Model, Placing, Step, step_and_compare};
use proptest::prelude::*;
use ringpact::ring::Node;

fn node() -> impl Strategy<Value = Node> {
    (0..14_u8, 1..=3_u32, 0..5_u8, 0..4_u8).prop_map(|(id, weight, zone, mark)| {
        let node = Node::new(format!("n{id}")).with_weight(weight).with_draining(mark == 0);
        if zone == 0 { node } else { node.with_zone(format!("z{zone}")) }
    })
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => node().prop_map(Step::Add),
        2 => node().prop_map(|node| Step::Remove(node.id().to_string())),
        1 => node().prop_map(Step::Replace),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn a_ring_is_what_a_sorted_list_says(
        placing in prop::sample::select(&[Placing::Uniform, Placing::Spots, Placing::Clusters, Placing::Edges][..]),
        virtual_nodes in prop_oneof![1..6_u32, 20..60_u32],
        first in node(),
        steps in prop::collection::vec(step(), 1..16),
    ) {
        let mut model = Model::new(placing, virtual_nodes, first);
        let mut ring = model.ring();
        for step in &steps {
            step_and_compare(&mut ring, &mut model, step, 30);
        }
    }
}
