//! A ring's nodes, and the numbers that stand for them in the token table.

use std::collections::BTreeMap;

use super::{Node, NodeId, Zone, token_table::NOT_IN_LINE};

/// Number of slots that may stand in a line of the token table.
const LOW_SLOTS: usize = NOT_IN_LINE as usize;

/// Nodes sorted by id, each with a *slot*: a number that the node keeps for as long as it is a
/// member. So no token is touched when another node comes or goes.
#[derive(Clone, Debug, Default)]
pub(super) struct Members {
    /// The nodes, sorted by id, without duplicates.
    nodes: Vec<Node>,
    /// The slot of each of `nodes`.
    slots: Vec<u32>,
    /// The node of each slot; a vacant slot has any node. It is a copy of `nodes`, so that a
    /// look-up gets from a slot to its node in one step. (The copy shares the text of the id.)
    /// There are at most [`NOT_IN_LINE`] of them, so that one comparison with the length tells
    /// whether a slot may stand in a line.
    by_slot: Vec<Node>,
    /// The nodes of the slots from [`NOT_IN_LINE`] on.
    by_high_slot: Vec<Node>,
    /// The slots without a node.
    vacant: Vec<u32>,
    /// The weight of all nodes together.
    weight: u64,
    zones: ZoneNumbers,
}

/// The zones of a ring's nodes, numbered. Nodes without a zone count as one zone without a name.
#[derive(Clone, Debug, Default)]
struct ZoneNumbers {
    /// The zones of present members.
    named: BTreeMap<Option<Zone>, NumberedZone>,
    /// The number of each slot's zone.
    of_slots: Vec<u32>,
    /// The numbers without a zone.
    vacant: Vec<u32>,
}

#[derive(Clone, Debug)]
struct NumberedZone {
    number: u32,
    /// Number of members in the zone.
    members: u32,
    /// Number of them that are draining.
    draining: u32,
}

impl ZoneNumbers {
    /// Counts the node of a slot in its zone.
    fn enter(&mut self, slot: u32, node: &Node) {
        let number = self.vacant.last().copied().unwrap_or(self.named.len() as u32);
        let fresh = NumberedZone { number, members: 0, draining: 0 };
        let zone = self.named.entry(node.zone().cloned()).or_insert(fresh);
        zone.members += 1;
        zone.draining += u32::from(node.is_draining());
        if zone.members == 1 {
            // The new zone has taken the last vacant number, if there was one.
            self.vacant.pop();
        }
        let slot = slot as usize;
        self.of_slots.resize(self.of_slots.len().max(slot + 1), 0);
        self.of_slots[slot] = zone.number;
    }

    /// Counts this node no longer in its zone.
    fn leave(&mut self, node: &Node) {
        let name = node.zone().cloned();
        if let Some(zone) = self.named.get_mut(&name) {
            zone.members -= 1;
            zone.draining -= u32::from(node.is_draining());
            if zone.members == 0 {
                self.vacant.push(zone.number);
                self.named.remove(&name);
            }
        }
    }
}

impl Members {
    /// Returns the members of a ring. `nodes` is sorted by id and has no duplicates. The slots are
    /// 0, 1, 2 and so on in this order.
    pub(super) fn new(nodes: Vec<Node>) -> Self {
        let (low, high) = nodes.split_at(nodes.len().min(LOW_SLOTS));
        let mut zones = ZoneNumbers::default();
        (0..).zip(&nodes).for_each(|(slot, node)| zones.enter(slot, node));
        Self {
            zones,
            slots: (0..nodes.len() as u32).collect(),
            by_slot: low.to_vec(),
            by_high_slot: high.to_vec(),
            weight: nodes.iter().map(|node| u64::from(node.weight())).sum(),
            nodes,
            vacant: Vec::new(),
        }
    }

    pub(super) fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// Returns the weight of all nodes together.
    pub(super) fn weight(&self) -> u64 {
        self.weight
    }

    /// Returns the slot of the node with this index in [`nodes`](Self::nodes).
    pub(super) fn slot(&self, index: usize) -> u32 {
        self.slots[index]
    }

    #[inline(always)]
    pub(super) fn by_slot(&self, slot: u32) -> &Node {
        let slot = slot as usize;
        self.by_slot.get(slot).unwrap_or_else(|| &self.by_high_slot[slot - LOW_SLOTS])
    }

    fn by_slot_mut(&mut self, slot: u32) -> &mut Node {
        let slot = slot as usize;
        if slot < LOW_SLOTS { &mut self.by_slot[slot] } else { &mut self.by_high_slot[slot - LOW_SLOTS] }
    }

    /// Returns the nodes of those slots that may stand in a line of the token table.
    #[inline(always)]
    pub(super) fn low_slots(&self) -> &[Node] {
        &self.by_slot
    }

    /// Returns the number of zones. Nodes without a zone, if there are any, count as one.
    pub(super) fn zone_count(&self) -> usize {
        self.zones.named.len()
    }

    /// Returns the number of zones with more than this many nodes, or with more that aren't
    /// draining. O(Z) for Z zones.
    pub(super) fn zones_with_over(&self, nodes: u32, with_draining: bool) -> usize {
        let count = |zone: &NumberedZone| zone.members - if with_draining { 0 } else { zone.draining };
        self.zones.named.values().filter(|zone| count(zone) > nodes).count()
    }

    /// Returns the number of nodes that aren't draining. O(Z) for Z zones.
    pub(super) fn accepting(&self) -> usize {
        self.zones.named.values().map(|zone| (zone.members - zone.draining) as usize).sum()
    }

    /// Returns the number of a slot's zone.
    #[inline]
    pub(super) fn zone_of(&self, slot: u32) -> u32 {
        self.zones.of_slots[slot as usize]
    }

    /// Returns a number that is above the numbers of all zones.
    #[inline]
    pub(super) fn zone_bound(&self) -> usize {
        self.zones.named.len() + self.zones.vacant.len()
    }

    /// Returns the number of slots, vacant ones included.
    pub(super) fn slot_count(&self) -> usize {
        self.by_slot.len() + self.by_high_slot.len()
    }

    /// Returns the slots of all members, in the order of their ids.
    pub(super) fn slots(&self) -> &[u32] {
        &self.slots
    }

    /// Returns the index of the node with this id in [`nodes`](Self::nodes), or as an error the
    /// index that it would have.
    pub(super) fn index_of(&self, id: &str) -> Result<usize, usize> {
        self.nodes.binary_search_by(|node| node.id().as_str().cmp(id))
    }

    /// Whether the node of slot `a` comes before that of slot `b` at a position where both have a
    /// token.
    pub(super) fn precedes(&self, a: u32, b: u32) -> bool {
        let id = |slot| -> &NodeId { self.by_slot(slot).id() };
        id(a) < id(b)
    }

    /// Takes in a node at its index, and returns its slot.
    pub(super) fn insert(&mut self, index: usize, node: Node) -> u32 {
        let slot = match self.vacant.pop() {
            Some(slot) => {
                *self.by_slot_mut(slot) = node.clone();
                slot
            }
            None => {
                let by_slot = if self.by_slot.len() < LOW_SLOTS { &mut self.by_slot } else { &mut self.by_high_slot };
                by_slot.push(node.clone());
                self.slot_count() as u32 - 1
            }
        };
        self.zones.enter(slot, &node);
        self.weight += u64::from(node.weight());
        self.nodes.insert(index, node);
        self.slots.insert(index, slot);
        slot
    }

    /// Removes the node at an index, and returns it. The next node that is inserted gets its slot.
    pub(super) fn remove(&mut self, index: usize) -> Node {
        let slot = self.slots.remove(index);
        let node = self.nodes.remove(index);
        self.zones.leave(&node);
        self.weight -= u64::from(node.weight());
        if let Some(other) = self.nodes.first().cloned() {
            // Overwritten, so that the text of a removed id is not kept.
            *self.by_slot_mut(slot) = other;
        }
        self.vacant.push(slot);
        node
    }

    /// Puts a node in the place of the one with the same id, and returns that one.
    pub(super) fn replace(&mut self, index: usize, node: Node) -> Node {
        let slot = self.slots[index];
        self.zones.leave(&self.nodes[index]);
        self.zones.enter(slot, &node);
        *self.by_slot_mut(slot) = node.clone();
        self.weight += u64::from(node.weight());
        let old = std::mem::replace(&mut self.nodes[index], node);
        self.weight -= u64::from(old.weight());
        old
    }
}
