//! Changes of a ring, step by step, compared with a sorted list that is walked from its start. Run
//! it with `cargo +nightly fuzz run ring_steps`.
#![no_main]

#[path = "../../tests/ring/support/model.rs"]
mod model;

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use model::{Model, Placing, Step, step_and_compare};
use ringpact::ring::Node;

#[derive(Debug, Arbitrary)]
struct Member {
    id: u8,
    weight: u8,
    zone: u8,
}

impl Member {
    fn node(&self) -> Node {
        let node = Node::new(format!("n{}", self.id % 20)).with_weight(1 + u32::from(self.weight % 4));
        if self.zone % 5 == 0 { node } else { node.with_zone(format!("z{}", self.zone % 5)) }
    }
}

#[derive(Debug, Arbitrary)]
enum Change {
    Add(Member),
    Remove(u8),
    Replace(Member),
}

#[derive(Debug, Arbitrary)]
struct Life {
    placing: u8,
    virtual_nodes: u8,
    first: Member,
    changes: Vec<Change>,
}

fuzz_target!(|life: Life| {
    let placings = [Placing::Uniform, Placing::Spots, Placing::Clusters, Placing::Edges];
    let placing = placings[usize::from(life.placing) % placings.len()];
    let mut model = Model::new(placing, 1 + u32::from(life.virtual_nodes % 60), life.first.node());
    let mut ring = model.ring();
    // Enough steps for a ring to grow and shrink past a rebuild or two; more would only be slower.
    for change in life.changes.iter().take(24) {
        let step = match change {
            Change::Add(member) => Step::Add(member.node()),
            Change::Remove(id) => Step::Remove(format!("n{}", id % 20)),
            Change::Replace(member) => Step::Replace(member.node()),
        };
        step_and_compare(&mut ring, &mut model, &step, 12);
    }
});
