//! Some of a ring's nodes, as slots.

use std::collections::BTreeMap;

use crate::ring::{
    Node,
    members::Members,
    replicas::{Eligible, SmallSet},
    token_table::SlotWalk,
};

/// Some of a ring's nodes. Never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Slots {
    /// The slots of the nodes, in the order in which the nodes were chosen.
    in_order: Vec<u32>,
    /// One bit for each slot of the ring.
    bits: Vec<u64>,
}

impl Slots {
    /// Returns these slots of a ring, or `None` if there are none.
    pub(super) fn new(members: &Members, in_order: Vec<u32>) -> Option<Self> {
        let mut bits = vec![0; members.slot_count().div_ceil(64)];
        in_order.iter().for_each(|slot| bits[*slot as usize / 64] |= 1 << (slot % 64));
        (!in_order.is_empty()).then_some(Self { in_order, bits })
    }

    pub(super) fn in_order(&self) -> &[u32] {
        &self.in_order
    }

    #[inline]
    pub(super) fn contains(&self, slot: u32) -> bool {
        self.bits[slot as usize / 64] >> (slot % 64) & 1 == 1
    }

    /// Whether both have the same nodes, in any order.
    pub(super) fn same_nodes(&self, other: &Self) -> bool {
        self.bits == other.bits
    }

    /// Returns the first of the slots on a walk.
    #[inline]
    pub(super) fn first(&self, mut walk: SlotWalk<'_>) -> u32 {
        // Every node has a token, so the walk comes to one of these within a lap.
        loop {
            let slot = walk.next();
            if self.contains(slot) {
                return slot;
            }
        }
    }

    /// Returns an iterator over the nodes in the order of a walk.
    pub(super) fn on<'a>(&'a self, members: &'a Members, walk: SlotWalk<'a>) -> NodesOnWalk<'a> {
        NodesOnWalk { slots: self, members, walk, met: SmallSet::new() }
    }
}

impl Eligible for &Slots {
    #[inline]
    fn has(&self, _: &Members, slot: u32) -> bool {
        self.contains(slot)
    }

    fn zones_with_over(&self, members: &Members, nodes: u32) -> usize {
        let mut zones = BTreeMap::new();
        self.in_order.iter().for_each(|slot| *zones.entry(members.zone_of(*slot)).or_insert(0) += 1);
        zones.values().filter(|count| **count > nodes).count()
    }
}

/// An iterator over some nodes, each once, in the order of a walk.
#[derive(Clone)]
pub(super) struct NodesOnWalk<'a> {
    slots: &'a Slots,
    members: &'a Members,
    walk: SlotWalk<'a>,
    met: SmallSet,
}

impl<'a> Iterator for NodesOnWalk<'a> {
    type Item = &'a Node;

    #[inline]
    fn next(&mut self) -> Option<&'a Node> {
        while self.met.len() < self.slots.in_order.len() {
            let slot = self.walk.next();
            if self.slots.contains(slot) && self.met.insert(slot, self.members.slot_count()) {
                return Some(self.members.by_slot(slot));
            }
        }
        None
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let remaining = self.slots.in_order.len() - self.met.len();
        (remaining, Some(remaining))
    }
}

impl ExactSizeIterator for NodesOnWalk<'_> {}
