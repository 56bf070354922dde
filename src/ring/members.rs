//! A ring's nodes, and the numbers by which its tokens know them.

use std::collections::BTreeMap;

use super::{Node, NodeId, Zone, token_table::NOT_IN_LINE};

const LOW_SLOTS: usize = NOT_IN_LINE as usize;

/// Nodes sorted by id, each with a *slot*: a number that stays its own for as long as it is a member, so that no token
/// is touched when a node with another id comes or goes.
#[derive(Debug, Clone, Default)]
pub(super) struct Members {
    /// By id, without duplicates.
    nodes: Vec<Node>,
    /// The slot of each of `nodes`.
    slots: Vec<u32>,
    /// The node of each slot; that of a vacant one is any. A copy of `nodes`, so that a look-up gets from a slot to its
    /// node in one step. (It's the id's pointer that is copied, not the id.) At most [`NOT_IN_LINE`] of them, so that the
    /// length bounds what may stand in a line.
    by_slot: Vec<Node>,
    /// The nodes of the slots from [`NOT_IN_LINE`] on.
    by_high_slot: Vec<Node>,
    vacant: Vec<u32>,
    /// Of all nodes together.
    weight: u64,
    zones: ZoneNumbers,
}

/// The zones of a ring's nodes, numbered. Nodes without one are together in a zone without a name.
#[derive(Debug, Clone, Default)]
struct ZoneNumbers {
    /// The zones of present members, each with its number and how many members it has.
    named: BTreeMap<Option<Zone>, (u32, u32)>,
    /// The number of each slot's zone.
    of_slots: Vec<u32>,
    vacant: Vec<u32>,
}

impl ZoneNumbers {
    fn enter(&mut self, slot: u32, zone: Option<&Zone>) {
        let next = self.vacant.last().copied().unwrap_or(self.named.len() as u32);
        let (number, members) = self.named.entry(zone.cloned()).or_insert((next, 0));
        *members += 1;
        if *members == 1 {
            // If there was a vacant number, it is in use now.
            self.vacant.pop();
        }
        let slot = slot as usize;
        self.of_slots.resize(self.of_slots.len().max(slot + 1), 0);
        self.of_slots[slot] = *number;
    }

    fn leave(&mut self, zone: Option<&Zone>) {
        let zone = zone.cloned();
        if let Some((number, members)) = self.named.get_mut(&zone) {
            *members -= 1;
            if *members == 0 {
                self.vacant.push(*number);
                self.named.remove(&zone);
            }
        }
    }
}

impl Members {
    /// Of nodes that are sorted by id and have no duplicates. The slots are 0, 1, 2 and so on in this order.
    pub(super) fn new(nodes: Vec<Node>) -> Self {
        let (low, high) = nodes.split_at(nodes.len().min(LOW_SLOTS));
        let mut zones = ZoneNumbers::default();
        (0..).zip(&nodes).for_each(|(slot, node)| zones.enter(slot, node.zone()));
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

    /// The weight of all nodes together.
    pub(super) fn weight(&self) -> u64 {
        self.weight
    }

    /// The slot of the node with this index in [`nodes`](Self::nodes).
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

    /// The nodes of those slots that may stand in a line.
    #[inline(always)]
    pub(super) fn low_slots(&self) -> &[Node] {
        &self.by_slot
    }

    /// How many zones there are, that without a name included if a node is in it.
    pub(super) fn zone_count(&self) -> usize {
        self.zones.named.len()
    }

    /// The number of a slot's zone.
    #[inline]
    pub(super) fn zone_of(&self, slot: u32) -> u32 {
        self.zones.of_slots[slot as usize]
    }

    /// Above all numbers of zones.
    #[inline]
    pub(super) fn zone_bound(&self) -> usize {
        self.zones.named.len() + self.zones.vacant.len()
    }

    /// How many slots there are, vacant ones included.
    pub(super) fn slot_count(&self) -> usize {
        self.by_slot.len() + self.by_high_slot.len()
    }

    /// The slots of all members, in the order of their ids.
    pub(super) fn slots(&self) -> &[u32] {
        &self.slots
    }

    /// Where a node with this id is in [`nodes`](Self::nodes), or would be.
    pub(super) fn index_of(&self, id: &str) -> Result<usize, usize> {
        self.nodes.binary_search_by(|node| node.id().as_str().cmp(id))
    }

    /// Whether the node of slot `a` comes before that of slot `b` where both have a token.
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
        self.zones.enter(slot, node.zone());
        self.weight += u64::from(node.weight());
        self.nodes.insert(index, node);
        self.slots.insert(index, slot);
        slot
    }

    /// Lets the node at an index go. Its slot goes to the next that is inserted.
    pub(super) fn remove(&mut self, index: usize) -> Node {
        let slot = self.slots.remove(index);
        let node = self.nodes.remove(index);
        self.zones.leave(node.zone());
        self.weight -= u64::from(node.weight());
        if let Some(other) = self.nodes.first().cloned() {
            // Not to keep the id of one that is gone.
            *self.by_slot_mut(slot) = other;
        }
        self.vacant.push(slot);
        node
    }

    /// Puts a node in the place of one with the same id, and returns that.
    pub(super) fn replace(&mut self, index: usize, node: Node) -> Node {
        let slot = self.slots[index];
        self.zones.leave(self.nodes[index].zone());
        self.zones.enter(slot, node.zone());
        *self.by_slot_mut(slot) = node.clone();
        self.weight += u64::from(node.weight());
        let old = std::mem::replace(&mut self.nodes[index], node);
        self.weight -= u64::from(old.weight());
        old
    }
}
