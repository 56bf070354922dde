//! The preference list of a key: its owner, and the nodes that come next.

use std::{fmt, iter::FusedIterator};

use super::small_set::SmallSet;
use crate::ring::{Node, members::Members, token_table::SlotWalk};

/// An iterator over the distinct nodes on a walk clockwise from a position: each node once, the
/// owner first. A clone goes on independently from the same place.
///
/// If the first node were removed from the ring, the second would own the position, and so on. So
/// this is the order in which nodes stand in for each other, and in which copies belong to them
/// (the preference list of DeCandia and others, "Dynamo", SOSP 2007, section 4.3). Weights have
/// their effect here, too. Zones have none.
///
/// Allocates nothing for the first sixteen nodes; beyond those it allocates once, one bit a node.
/// To take k of N equal nodes costs about N ln(N / (N - k)) steps, which is little over k unless k
/// is near N.
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
    members: &'a Members,
    walk: SlotWalk<'a>,
    met: SmallSet,
}

impl<'a> Replicas<'a> {
    #[inline]
    pub(in crate::ring) fn new(members: &'a Members, walk: SlotWalk<'a>) -> Self {
        Self { members, walk, met: SmallSet::new() }
    }

    #[inline]
    fn next_slot(&mut self) -> Option<u32> {
        // Every node has a token, so the walk comes to each node within a lap.
        while self.met.len() < self.members.nodes().len() {
            let slot = self.walk.next();
            if self.met.insert(slot, self.members.slot_count()) {
                return Some(slot);
            }
        }
        None
    }

    /// Returns an iterator over the slots of the nodes.
    pub(in crate::ring) fn into_slots(mut self) -> impl Iterator<Item = u32> + use<'a> {
        std::iter::from_fn(move || self.next_slot())
    }
}

impl<'a> Iterator for Replicas<'a> {
    type Item = &'a Node;

    #[inline]
    fn next(&mut self) -> Option<&'a Node> {
        self.next_slot().map(|slot| self.members.by_slot(slot))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let remaining = self.members.nodes().len() - self.met.len();
        (remaining, Some(remaining))
    }
}

impl ExactSizeIterator for Replicas<'_> {}
impl FusedIterator for Replicas<'_> {}

impl fmt::Debug for Replicas<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.clone().map(Node::id)).finish()
    }
}
