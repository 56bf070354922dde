//! The preference list of a key, with each zone's first node before any zone's second.

use std::{fmt, iter::FusedIterator};

use super::small_set::SmallSet;
use crate::ring::{Node, members::Members, token_table::SlotWalk};

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
    start: SlotWalk<'a>,
    walk: SlotWalk<'a>,
    /// The zones met on the walk.
    zones: ZoneSet,
    yielded: usize,
    /// The second time round, the nodes met.
    nodes: Option<SmallSet>,
}

impl<'a> ZoneReplicas<'a> {
    #[inline]
    pub(in crate::ring) fn new(members: &'a Members, walk: SlotWalk<'a>) -> Self {
        Self { members, start: walk.clone(), walk, zones: ZoneSet::new(), yielded: 0, nodes: None }
    }

    /// The nodes left over once each zone has had its first, from the start again.
    fn next_of_the_others(&mut self) -> Option<u32> {
        let nodes = self.nodes.get_or_insert_with(|| {
            self.walk = self.start.clone();
            self.zones = ZoneSet::new();
            SmallSet::new()
        });
        while nodes.len() < self.members.nodes().len() {
            let slot = self.walk.next();
            // The first of a zone was yielded the first time round.
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
        // Every node has a token, so while a zone isn't met yet, the walk comes to it within a lap.
        loop {
            let slot = self.walk.next();
            if self.zones.insert(self.members.zone_of(slot), self.members.zone_bound()) {
                self.yielded += 1;
                return Some(slot);
            }
        }
    }

    /// The nodes' slots instead.
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

/// A set of zones' numbers.
#[derive(Clone)]
struct ZoneSet {
    first: u64,
    others: Option<SmallSet>,
}

impl ZoneSet {
    #[inline]
    fn new() -> Self {
        Self { first: 0, others: None }
    }

    /// Puts in a number below `bound`. Whether it is new here.
    #[inline]
    fn insert(&mut self, number: u32, bound: usize) -> bool {
        // One bit for each of the first numbers: few rings have more zones.
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
