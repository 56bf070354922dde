//! The preference list of a key, with the first node of each zone before the second of any zone.

use std::{fmt, iter::FusedIterator};

use super::small_set::SmallSet;
use crate::ring::{Node, members::Members, token_table::SlotWalk};

/// An iterator over all nodes, each once. First come the nodes that are the first of their zone on
/// a walk clockwise from a position, then the others, both in the order of the walk. A clone goes
/// on independently from the same place.
///
/// So the first is the owner. The first n stand in n zones, or in all zones if there are fewer;
/// then the places that are left go to the nodes that [`Replicas`](super::Replicas) would take.
/// Nodes without a zone count as one zone, because nothing says that they are apart. If no node has
/// a zone, or all are in one, the order is that of [`Replicas`](super::Replicas).
///
/// Allocates nothing for the first sixteen nodes and zones. It takes more steps the fewer tokens
/// the rarest zone has, because the walk has to meet every zone to know that none is left.
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
    /// The walk from the position, not yet begun.
    start: SlotWalk<'a>,
    walk: SlotWalk<'a>,
    /// The zones that the walk has met.
    zones: ZoneSet,
    /// Number of nodes that were returned.
    yielded: usize,
    /// On the second walk, the nodes that it has met.
    nodes: Option<SmallSet>,
}

impl<'a> ZoneReplicas<'a> {
    #[inline]
    pub(in crate::ring) fn new(members: &'a Members, walk: SlotWalk<'a>) -> Self {
        Self { members, start: walk.clone(), walk, zones: ZoneSet::new(), yielded: 0, nodes: None }
    }

    /// Returns the next node that is not the first of its zone. Walks from the start again.
    fn next_of_the_others(&mut self) -> Option<u32> {
        let nodes = self.nodes.get_or_insert_with(|| {
            self.walk = self.start.clone();
            self.zones = ZoneSet::new();
            SmallSet::new()
        });
        while nodes.len() < self.members.nodes().len() {
            let slot = self.walk.next();
            // The first walk has returned the first node of each zone.
            if nodes.insert(slot, self.members.slot_count())
                && !self.zones.insert(self.members.zone_of(slot), self.members.zone_bound())
            {
                self.yielded += 1;
                return Some(slot);
            }
        }
        None
    }

    #[inline]
    fn next_slot(&mut self) -> Option<u32> {
        if self.yielded >= self.members.zone_count() {
            return self.next_of_the_others();
        }
        // Every node has a token, so the walk comes to each zone within a lap.
        loop {
            let slot = self.walk.next();
            if self.zones.insert(self.members.zone_of(slot), self.members.zone_bound()) {
                self.yielded += 1;
                return Some(slot);
            }
        }
    }

    /// Returns an iterator over the slots of the nodes.
    pub(in crate::ring) fn into_slots(mut self) -> impl Iterator<Item = u32> + use<'a> {
        std::iter::from_fn(move || self.next_slot())
    }
}

impl<'a> Iterator for ZoneReplicas<'a> {
    type Item = &'a Node;

    #[inline]
    fn next(&mut self) -> Option<&'a Node> {
        self.next_slot().map(|slot| self.members.by_slot(slot))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let remaining = self.members.nodes().len() - self.yielded;
        (remaining, Some(remaining))
    }
}

/// A set of the numbers of zones.
#[derive(Clone)]
struct ZoneSet {
    /// One bit for each of the numbers below 64.
    first: u64,
    others: Option<SmallSet>,
}

impl ZoneSet {
    #[inline]
    fn new() -> Self {
        Self { first: 0, others: None }
    }

    /// Adds a number below `bound`. Returns whether it is new.
    #[inline]
    fn insert(&mut self, number: u32, bound: usize) -> bool {
        // Few rings have more zones.
        if number >= u64::BITS {
            return self.insert_among_others(number, bound);
        }
        let is_new = self.first >> number & 1 == 0;
        self.first |= 1 << number;
        is_new
    }

    #[cold]
    fn insert_among_others(&mut self, number: u32, bound: usize) -> bool {
        self.others.get_or_insert_with(SmallSet::new).insert(number, bound)
    }
}

impl ExactSizeIterator for ZoneReplicas<'_> {}
impl FusedIterator for ZoneReplicas<'_> {}

impl fmt::Debug for ZoneReplicas<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.clone().map(Node::id)).finish()
    }
}
