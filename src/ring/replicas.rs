//! The preference list of a key: its owner, and who comes next.

use std::{fmt, iter::FusedIterator};

use super::{Node, token_table::TokenTable};

/// The distinct nodes met on a walk clockwise from a position; each node once, the owner first, until all were met.
///
/// If the first node were removed from the ring, the second would own the position, and so on: this is the order in
/// which nodes stand in for each other, and where copies belong (the preference list of DeCandia and others, "Dynamo",
/// SOSP 2007, section 4.3). Weights have their effect here too. Zones have none.
///
/// Allocates nothing, however many nodes are taken. To take k of N equal nodes costs about N ln(N / (N - k)) steps,
/// which is little over k unless k is near N.
///
/// ```
/// use ringpact::ring::HashRing;
///
/// let ring = HashRing::new(["a", "b", "c"])?;
/// let down = "b";
/// let reachable = ring.replicas("order:7").find(|node| node.id() != down);
/// assert!(reachable.is_some());
/// # Ok::<(), ringpact::ring::RingError>(())
/// ```
#[derive(Clone)]
#[must_use = "iterators do nothing unless they are used"]
pub struct Replicas<'a> {
    nodes: &'a [Node],
    table: &'a TokenTable,
    /// The entry to look at next, and how many steps were made to get there.
    entry: usize,
    steps: usize,
    /// Nodes not yet met.
    remaining: usize,
}

impl<'a> Replicas<'a> {
    pub(super) fn new(nodes: &'a [Node], table: &'a TokenTable, entry: usize) -> Self {
        Self { nodes, table, entry, steps: 0, remaining: nodes.len() }
    }
}

impl<'a> Iterator for Replicas<'a> {
    type Item = &'a Node;

    fn next(&mut self) -> Option<&'a Node> {
        // Every node has a token, so all were met at the latest after one lap, and the loop ends.
        while self.remaining > 0 {
            let met = self.table.newly_met(self.entry, self.steps);
            self.steps += 1;
            self.entry += 1;
            if self.entry == self.table.len() {
                self.entry = 0;
            }
            if let Some(node) = met {
                self.remaining -= 1;
                return Some(&self.nodes[node as usize]);
            }
        }
        None
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.remaining, Some(self.remaining))
    }
}

impl ExactSizeIterator for Replicas<'_> {}
impl FusedIterator for Replicas<'_> {}

impl fmt::Debug for Replicas<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.clone().map(Node::id)).finish()
    }
}
