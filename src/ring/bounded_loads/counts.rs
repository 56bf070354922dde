//! What each node is serving. A [`BoundedLoads`](super::BoundedLoads) has it under its lock; the
//! code here takes no lock.

use std::{collections::HashMap, sync::Arc};

use super::Epsilon;
use crate::ring::{HashRing, Node, NodeId};

/// The slots that are taken, by node.
///
/// Invariants: `loads` has one element for each member of the view's ring, in the same order.
/// `total` is its sum, and `draining` the part of it on draining members. `departed` has the ids of nodes that are not members, none of them with 0
/// slots.
pub(super) struct Counts<H> {
    pub(super) view: Arc<RingView<H>>,
    pub(super) loads: Vec<u64>,
    pub(super) total: u64,
    pub(super) draining: u64,
    pub(super) departed: HashMap<NodeId, u64>,
}

/// One version of the ring. Walks that are under way share it, so that they need no lock to read
/// it.
pub(super) struct RingView<H> {
    pub(super) ring: Arc<HashRing<H>>,
    pub(super) version: u64,
    /// The weight of all nodes that are not draining.
    pub(super) weight: u64,
}

/// The outcome of trying to take a slot on a node.
pub(super) enum Attempt {
    /// The slot is taken.
    Taken,
    /// The node is at its capacity.
    NoRoom,
    /// The ring was replaced after the walk began.
    RingChanged,
}

/// What bounds the load of a node.
#[derive(Clone, Copy)]
pub(super) struct Bound {
    pub(super) epsilon: Epsilon,
    /// The absolute limit for each unit of weight, if there is one.
    pub(super) limit: Option<u64>,
}

impl Bound {
    /// Returns the most slots that `node` may have when one more is taken, if `total` are taken on
    /// nodes of this total weight.
    #[inline]
    pub(super) fn capacity(self, node: &Node, total: u64, total_weight: u64) -> u64 {
        let weight = u64::from(node.weight());
        let share = self.epsilon.capacity(total + 1, weight, total_weight);
        self.limit.map_or(share, |limit| share.min(limit.saturating_mul(weight)))
    }
}

impl<H> Counts<H> {
    /// Takes a slot on a member, which isn't draining, if it has room. The `refused` members, which
    /// aren't draining either, count as absent, and so do all draining ones.
    pub(super) fn attempt(&mut self, view: &RingView<H>, index: usize, refused: &[usize], bound: Bound) -> Attempt {
        if self.view.version != view.version {
            return Attempt::RingChanged;
        }
        let nodes = view.ring.nodes();
        let (mut total, mut weight) = (self.accepting(), view.weight);
        for absent in refused {
            total -= self.loads[*absent];
            weight -= u64::from(nodes[*absent].weight());
        }
        if self.loads[index] >= bound.capacity(&nodes[index], total, weight) {
            return Attempt::NoRoom;
        }
        self.loads[index] += 1;
        self.total += 1;
        Attempt::Taken
    }

    /// Returns the number of slots that are taken on members that are not draining.
    pub(super) fn accepting(&self) -> u64 {
        self.total - self.draining
    }

    /// Sets the sums of the loads again.
    pub(super) fn add_up(&mut self) {
        self.total = self.loads.iter().sum();
        let draining = self.view.ring.nodes().iter().zip(&self.loads).filter(|(node, _)| node.is_draining());
        self.draining = draining.map(|(_, load)| load).sum();
    }

    /// Gives a slot back, on a member or on a node that has left.
    pub(super) fn give_back(&mut self, node: &Node, place: (u64, usize)) {
        let member = match place {
            (version, index) if version == self.view.version => Ok(index),
            _ => member(&self.view.ring, node.id().as_str()),
        };
        if let Ok(index) = member {
            self.loads[index] -= 1;
            self.total -= 1;
            self.draining -= u64::from(self.view.ring.nodes()[index].is_draining());
        } else if let Some(load) = self.departed.get_mut(node.id()) {
            *load -= 1;
            if *load == 0 {
                self.departed.remove(node.id());
            }
        }
    }
}

impl<H> RingView<H> {
    pub(super) fn new(ring: HashRing<H>, version: u64) -> Self {
        let accepting = ring.nodes().iter().filter(|node| !node.is_draining());
        let weight = accepting.map(|node| u64::from(node.weight())).sum();
        Self { ring: Arc::new(ring), version, weight }
    }

    pub(super) fn index_of(&self, node: &Node) -> usize {
        let (Ok(index) | Err(index)) = member(&self.ring, node.id().as_str());
        index
    }
}

/// Returns the index of the node with this id among the members, or as an error the index that it
/// would have.
pub(super) fn member<H>(ring: &HashRing<H>, id: &str) -> Result<usize, usize> {
    ring.nodes().binary_search_by(|node| node.id().as_str().cmp(id))
}
