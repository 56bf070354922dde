//! A ring's nodes, and the numbers by which its tokens know them.

use super::{Node, NodeId, token_table::ELSEWHERE};

const LOW_SLOTS: usize = ELSEWHERE as usize;

/// Nodes sorted by id, each with a *slot*: a number that stays its own for as long as it is a member, so that no token
/// is touched when a node with another id comes or goes.
#[derive(Debug, Clone, Default)]
pub(super) struct Members {
    /// By id, without duplicates.
    nodes: Vec<Node>,
    /// The slot of each of `nodes`.
    slots: Vec<u32>,
    /// The node of each slot; that of a vacant one is any. A copy of `nodes`, so that a look-up gets from a slot to its
    /// node in one step. (It's the id's pointer that is copied, not the id.) At most [`ELSEWHERE`] of them, so that the
    /// length bounds what may stand in a line.
    by_slot: Vec<Node>,
    /// The nodes of the slots from [`ELSEWHERE`] on.
    by_high_slot: Vec<Node>,
    vacant: Vec<u32>,
}

impl Members {
    /// Of nodes that are sorted by id and have no duplicates. The slots are 0, 1, 2 and so on in this order.
    pub(super) fn new(nodes: Vec<Node>) -> Self {
        let (low, high) = nodes.split_at(nodes.len().min(LOW_SLOTS));
        Self {
            slots: (0..nodes.len() as u32).collect(),
            by_slot: low.to_vec(),
            by_high_slot: high.to_vec(),
            nodes,
            vacant: Vec::new(),
        }
    }

    pub(super) fn nodes(&self) -> &[Node] {
        &self.nodes
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
        self.nodes.insert(index, node);
        self.slots.insert(index, slot);
        slot
    }

    /// Lets the node at an index go. Its slot goes to the next that is inserted.
    pub(super) fn remove(&mut self, index: usize) -> Node {
        let slot = self.slots.remove(index);
        let node = self.nodes.remove(index);
        if let Some(other) = self.nodes.first().cloned() {
            // Not to keep the id of one that is gone.
            *self.by_slot_mut(slot) = other;
        }
        self.vacant.push(slot);
        node
    }

    /// Puts a node in the place of one with the same id, and returns that.
    pub(super) fn replace(&mut self, index: usize, node: Node) -> Node {
        *self.by_slot_mut(self.slots[index]) = node.clone();
        std::mem::replace(&mut self.nodes[index], node)
    }
}
