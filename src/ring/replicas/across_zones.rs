//! The preference list of a key, with its nodes spread evenly over the zones.

use std::{fmt, iter::FusedIterator, vec};

use super::small_set::{FEW, SmallSet};
use crate::ring::{Node, members::Members, token_table::SlotWalk};

/// An iterator over all nodes, each once, in *rounds*: each round has one node of every zone that
/// has nodes left, in the order of a walk clockwise from a position. A clone goes on independently
/// from the same place.
///
/// So the first is the owner, and the first n are spread evenly, whatever n is. The numbers of
/// nodes of two zones differ by at most one, unless the zone with fewer has no node left. The first
/// n stand in n zones, or in all zones if there are fewer. A zone gives its nodes in the order of
/// [`Replicas`](super::Replicas). Nodes without a zone count as one zone, because nothing says that
/// they are apart. If no node has a zone, or all are in one, the order is that of
/// [`Replicas`](super::Replicas).
///
/// Allocates nothing for the first sixteen nodes and sixty-four zones. It takes more steps the
/// fewer tokens the rarest zone has, because a round ends with that zone's node. Beyond sixteen
/// nodes and the first round, it puts all nodes in order at once, in one lap at most.
///
/// ```
/// use ringpact::ring::{HashRing, Node};
///
/// let ring = HashRing::new([
///     Node::new("a").with_zone("eu-1"),
///     Node::new("b").with_zone("eu-1"),
///     Node::new("c").with_zone("eu-1"),
///     Node::new("d").with_zone("eu-2"),
///     Node::new("e").with_zone("eu-2"),
/// ])?;
/// let holders: Vec<_> = ring.replicas_across_zones("order:7").take(4).collect();
/// assert_ne!(holders[0].zone(), holders[1].zone());
/// assert_eq!(holders.iter().filter(|node| node.zone().is_some_and(|zone| *zone == *"eu-2")).count(), 2);
/// # Ok::<(), ringpact::ring::RingError>(())
/// ```
#[derive(Clone)]
#[must_use = "iterators do nothing unless they are used"]
pub struct ZoneReplicas<'a> {
    rounds: Rounds<'a, All>,
}

impl<'a> ZoneReplicas<'a> {
    #[inline]
    pub(in crate::ring) fn new(members: &'a Members, walk: SlotWalk<'a>) -> Self {
        Self { rounds: Rounds::new(members, walk, All, members.nodes().len(), members.zone_count()) }
    }

    /// Returns an iterator over the slots of the nodes.
    pub(in crate::ring) fn into_slots(mut self) -> impl Iterator<Item = u32> + use<'a> {
        std::iter::from_fn(move || self.rounds.next_slot())
    }
}

/// Returns an iterator over those nodes that are eligible, in rounds, as if there were no other
/// nodes. There are `total` of them.
pub(in crate::ring) fn rounds_of<'a, E: Eligible>(
    members: &'a Members,
    walk: SlotWalk<'a>,
    eligible: E,
    total: usize,
) -> impl ExactSizeIterator<Item = &'a Node> + Clone + use<'a, E> {
    let first_round = eligible.zones_with_over(members, 0);
    Rounds::new(members, walk, eligible, total, first_round)
}

/// Returns an iterator over all nodes, in rounds, as if the walk came to the node of slot `first`
/// before all others.
pub(in crate::ring) fn rounds_from<'a>(
    members: &'a Members,
    walk: SlotWalk<'a>,
    first: u32,
) -> impl Iterator<Item = &'a Node> + Clone + use<'a> {
    let mut rounds = Rounds::new(members, walk, All, members.nodes().len(), members.zone_count());
    // Its zone has had its node of the first round, so that the walk passes over it there.
    rounds.zones.insert(members.zone_of(first), members.zone_bound());
    rounds.returned.push_few(first);
    rounds.yielded = 1;
    rounds.first = Some(first);
    std::iter::once(members.by_slot(first)).chain(rounds)
}

/// The nodes that rounds are made of.
pub(in crate::ring) trait Eligible: Clone {
    /// Whether the node of this slot is one of them.
    fn has(&self, members: &Members, slot: u32) -> bool;

    /// Returns the number of zones with more than this many of them.
    fn zones_with_over(&self, members: &Members, nodes: u32) -> usize;
}

/// All nodes.
#[derive(Clone)]
struct All;

impl Eligible for All {
    #[inline]
    fn has(&self, _: &Members, _: u32) -> bool {
        true
    }

    fn zones_with_over(&self, members: &Members, nodes: u32) -> usize {
        members.zones_with_over(nodes, true)
    }
}

/// The nodes that aren't draining.
#[derive(Clone)]
pub(in crate::ring) struct Accepting;

impl Eligible for Accepting {
    fn has(&self, members: &Members, slot: u32) -> bool {
        !members.by_slot(slot).is_draining()
    }

    fn zones_with_over(&self, members: &Members, nodes: u32) -> usize {
        members.zones_with_over(nodes, false)
    }
}

/// The rounds of those nodes that are eligible.
#[derive(Clone)]
struct Rounds<'a, E> {
    members: &'a Members,
    eligible: E,
    /// The walk from the position, not yet begun.
    start: SlotWalk<'a>,
    walk: SlotWalk<'a>,
    /// The zones that the round has had.
    zones: ZoneSet,
    /// Number of nodes that were returned.
    yielded: usize,
    /// The first [`FEW`] nodes that were returned.
    returned: SmallSet,
    /// The node that comes before the walk, if there is one.
    first: Option<u32>,
    /// Number of nodes that are returned in all.
    total: usize,
    /// Number of nodes in the first round.
    first_round: usize,
    stage: Stage<'a>,
}

/// How the next node is found.
#[derive(Clone)]
enum Stage<'a> {
    /// In the first round, the walk has only to look at zones.
    First,
    /// In later rounds, until [`FEW`] nodes are returned, the walk looks at nodes, too.
    Later(Later<'a>),
    /// From then on, all nodes that are left are in order already.
    Ordered(vec::IntoIter<u32>),
}

/// A round after the first.
#[derive(Clone)]
struct Later<'a> {
    /// The number of the round, from 0.
    round: u32,
    /// Number of nodes that the round has yet to return.
    due: usize,
    /// The walk before the first node that the round has left to the next one.
    passed_over: Option<SlotWalk<'a>>,
}

impl<'a, E: Eligible> Rounds<'a, E> {
    #[inline]
    fn new(members: &'a Members, walk: SlotWalk<'a>, eligible: E, total: usize, first_round: usize) -> Self {
        let (start, zones, returned) = (walk.clone(), ZoneSet::new(), SmallSet::new());
        let (first, stage) = (None, Stage::First);
        Self { members, eligible, start, walk, zones, yielded: 0, returned, first, total, first_round, stage }
    }

    #[inline]
    fn next_slot(&mut self) -> Option<u32> {
        if self.yielded >= self.first_round {
            return self.next_of_later_rounds();
        }
        Some(self.next_of_the_first_round())
    }

    /// Returns the next node of a zone that the walk has not met. There must be one.
    #[inline]
    fn next_of_the_first_round(&mut self) -> u32 {
        // Every node has a token, so the walk comes to each zone within a lap.
        loop {
            let slot = self.walk.next();
            if self.eligible.has(self.members, slot)
                && self.zones.insert(self.members.zone_of(slot), self.members.zone_bound())
            {
                self.yielded += 1;
                self.returned.push_few(slot);
                return slot;
            }
        }
    }

    fn next_of_later_rounds(&mut self) -> Option<u32> {
        if self.yielded == self.total {
            return None;
        }
        if self.yielded >= FEW && !matches!(self.stage, Stage::Ordered(_)) {
            self.stage = Stage::Ordered(self.all_in_order().split_off(self.yielded).into_iter());
        }
        if let Stage::First = self.stage {
            self.stage = Stage::Later(Later { round: 0, due: 0, passed_over: Some(self.start.clone()) });
        }
        self.yielded += 1;
        match &mut self.stage {
            Stage::Later(later) => {
                let walk = (&mut self.walk, &mut self.zones, &mut self.returned);
                Some(later.next_slot(self.members, &self.eligible, walk))
            }
            Stage::Ordered(slots) => slots.next(),
            Stage::First => None,
        }
    }

    /// Returns all nodes.
    fn all_in_order(&self) -> Vec<u32> {
        let (mut walk, mut met) = (self.start.clone(), SmallSet::new());
        let mut of_zones = vec![0_u32; self.members.zone_bound()];
        let mut slots = Vec::with_capacity(self.total);
        let mut first = self.first;
        while slots.len() < self.total {
            let slot = first.take().unwrap_or_else(|| walk.next());
            if self.eligible.has(self.members, slot) && met.insert(slot, self.members.slot_count()) {
                let round = &mut of_zones[self.members.zone_of(slot) as usize];
                slots.push((*round, slot));
                *round += 1;
            }
        }
        // Stable, so that a round is in the order of the walk.
        slots.sort_by_key(|(round, _)| *round);
        slots.into_iter().map(|(_, slot)| slot).collect()
    }
}

impl<'a> Later<'a> {
    /// Returns the next node. There must be one, and fewer than [`FEW`] before it.
    fn next_slot(
        &mut self,
        members: &Members,
        eligible: &impl Eligible,
        (walk, zones, returned): (&mut SlotWalk<'a>, &mut ZoneSet, &mut SmallSet),
    ) -> u32 {
        if self.due == 0 {
            self.round += 1;
            self.due = eligible.zones_with_over(members, self.round);
            *zones = ZoneSet::new();
            // All nodes before were returned. If none was passed over, the walk goes on.
            if let Some(passed_over) = self.passed_over.take() {
                *walk = passed_over;
            }
        }
        loop {
            let here = walk.clone();
            let slot = walk.next();
            if returned.contains_few(slot) || !eligible.has(members, slot) {
                continue;
            }
            if zones.insert(members.zone_of(slot), members.zone_bound()) {
                returned.push_few(slot);
                self.due -= 1;
                return slot;
            }
            self.passed_over.get_or_insert(here);
        }
    }
}

impl<'a, E: Eligible> Iterator for Rounds<'a, E> {
    type Item = &'a Node;

    #[inline]
    fn next(&mut self) -> Option<&'a Node> {
        self.next_slot().map(|slot| self.members.by_slot(slot))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let remaining = self.total - self.yielded;
        (remaining, Some(remaining))
    }
}

impl<E: Eligible> ExactSizeIterator for Rounds<'_, E> {}

impl<'a> Iterator for ZoneReplicas<'a> {
    type Item = &'a Node;

    #[inline]
    fn next(&mut self) -> Option<&'a Node> {
        self.rounds.next()
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.rounds.size_hint()
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
