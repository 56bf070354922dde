//! The preference list of a key, with each zone's first node before any zone's second.

use std::{fmt, iter::FusedIterator};

use super::{Node, members::Members, met::Met, token_table::Walk};

/// All nodes, each once: first those that are the first of their zone on a walk clockwise from a position, in the order
/// of that walk; then the others, in the order of the walk as well.
///
/// So the first is the owner, and the first n stand in n zones, or in all there are if those are fewer; then the places
/// that are left go to the nodes that [`Replicas`](super::Replicas) would take. Nodes without a zone count as being in
/// one zone together: nothing says that they are apart. If no node has a zone, or all are in one, the order is that of
/// [`Replicas`](super::Replicas).
///
/// Allocates nothing for the first sixteen nodes and zones. Takes more steps the fewer tokens the rarest zone has: to
/// know that no zone is left, the walk has to meet them all.
///
/// ```
/// use ringpact::ring::{HashRing, Node};
///
/// let ring = HashRing::new([
///     Node::new("a").with_zone("eu-1"),
///     Node::new("b").with_zone("eu-1"),
///     Node::new("c").with_zone("eu-2"),
/// ])?;
/// let holders: Vec<_> = ring.replicas_across_zones("order:7").take(2).collect();
/// assert_ne!(holders[0].zone(), holders[1].zone());
/// # Ok::<(), ringpact::ring::RingError>(())
/// ```
#[derive(Clone)]
#[must_use = "iterators do nothing unless they are used"]
pub struct ZoneReplicas<'a> {
    members: &'a Members,
    walk: Walk<'a>,
    /// Where the walk began, to begin again once all zones are met.
    again: Option<Walk<'a>>,
    zones: Met,
    nodes: Met,
}

impl<'a> ZoneReplicas<'a> {
    #[inline]
    pub(super) fn new(members: &'a Members, walk: Walk<'a>) -> Self {
        Self { members, again: Some(walk.clone()), walk, zones: Met::new(), nodes: Met::new() }
    }
}

impl<'a> Iterator for ZoneReplicas<'a> {
    type Item = &'a Node;

    #[inline]
    fn next(&mut self) -> Option<&'a Node> {
        // Every node has a token, so while a zone, or a node, isn't met yet, the walk comes to it within a lap.
        while self.zones.len() < self.members.zone_count() {
            let slot = self.walk.next();
            let (zone, bound) = self.members.zone_of(slot);
            if self.zones.insert(zone, bound) {
                self.nodes.insert(slot, self.members.slot_count());
                return Some(self.members.by_slot(slot));
            }
        }
        if let Some(start) = self.again.take() {
            self.walk = start;
        }
        while self.nodes.len() < self.members.nodes().len() {
            let slot = self.walk.next();
            if self.nodes.insert(slot, self.members.slot_count()) {
                return Some(self.members.by_slot(slot));
            }
        }
        None
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let remaining = self.members.nodes().len() - self.nodes.len();
        (remaining, Some(remaining))
    }
}

impl ExactSizeIterator for ZoneReplicas<'_> {}
impl FusedIterator for ZoneReplicas<'_> {}

impl fmt::Debug for ZoneReplicas<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.clone().map(Node::id)).finish()
    }
}
