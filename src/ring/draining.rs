//! Nodes that keep what they own, but take no new keys.

use super::{
    HashRing, KeyHasher, Node, Position, RingError, RingKey,
    replicas::{Accepting, rounds_of},
};

/// Draining: how a node is emptied before it leaves. It stays the owner of its keys, so reads go
/// where the data is, while new keys go past it.
///
/// ```
/// use ringpact::ring::HashRing;
///
/// let mut ring = HashRing::new(["a", "b", "c"])?;
/// let old = ring.owner("user:42").id().clone();
/// ring.set_draining(&old, true)?;
/// assert_eq!(ring.owner("user:42").id(), &old, "reads still go there");
///
/// // A new key goes at once to where it would go when the node has left:
/// let new = ring.owner_for_new("user:42").map(|node| node.id().clone());
/// ring.remove(&old)?;
/// assert_eq!(new.as_ref(), Some(ring.owner("user:42").id()));
/// # Ok::<(), ringpact::ring::RingError>(())
/// ```
impl<H> HashRing<H> {
    /// Marks a member as draining, or takes the mark away. No key moves. O(log N).
    ///
    /// A change of the ring's nodes, such as [`replace`](Self::replace), sets the mark, too:
    /// [`Node::is_draining`] is a part of the node.
    ///
    /// # Errors
    ///
    /// [`RingError::UnknownNode`] if there is no such member. The ring is then unchanged.
    pub fn set_draining(&mut self, id: impl AsRef<str>, draining: bool) -> Result<(), RingError> {
        let index = self.member_index(id.as_ref())?;
        let node = self.nodes()[index].clone().with_draining(draining);
        self.members_mut().replace(index, node);
        Ok(())
    }

    /// Returns the node that a new key at `position` goes to: the first node of the preference list
    /// that isn't draining. Returns `None` if all nodes are draining.
    ///
    /// With [hashed](super::Placement::Hashed) placement, it is the owner once the draining nodes
    /// have left. With balanced placement, it is the owner's stand-in, and the keys of a node that
    /// leaves may go to others.
    ///
    /// As fast as [`owner_at`](Self::owner_at) if the owner isn't draining; otherwise it walks on
    /// like [`replicas_at`](Self::replicas_at).
    #[inline]
    #[must_use]
    pub fn owner_for_new_at(&self, position: Position) -> Option<&Node> {
        let owner = self.owner_at(position);
        if owner.is_draining() { self.replicas_for_new_at(position).next() } else { Some(owner) }
    }

    /// Returns the nodes that aren't draining, in the order of [`replicas_at`](Self::replicas_at).
    /// The first n are to hold the copies of a new key. Costs what [`Replicas`](super::Replicas)
    /// cost.
    pub fn replicas_for_new_at(&self, position: Position) -> impl Iterator<Item = &Node> + Clone {
        self.replicas_at(position).filter(|node| !node.is_draining())
    }

    /// Returns the nodes that aren't draining, spread over the zones as if no other nodes were in the
    /// ring; see [`ZoneReplicas`](super::ZoneReplicas), also for the cost. The first n are to hold
    /// the copies of a new key.
    ///
    /// To filter [`replicas_across_zones_at`](Self::replicas_across_zones_at) is not the same,
    /// because a zone whose first node is draining would miss the first round.
    pub fn replicas_across_zones_for_new_at(&self, position: Position) -> impl ExactSizeIterator<Item = &Node> + Clone {
        let (members, table) = self.parts();
        rounds_of(members, table.walk(position), Accepting, members.accepting())
    }
}

impl<H: KeyHasher> HashRing<H> {
    /// Returns the node that `key` goes to if it is new; see
    /// [`owner_for_new_at`](Self::owner_for_new_at).
    #[inline]
    #[must_use]
    pub fn owner_for_new<K: RingKey>(&self, key: K) -> Option<&Node> {
        self.owner_for_new_at(self.position(key))
    }

    /// Returns the nodes for the copies of `key` if it is new; see
    /// [`replicas_for_new_at`](Self::replicas_for_new_at).
    pub fn replicas_for_new<K: RingKey>(&self, key: K) -> impl Iterator<Item = &Node> + Clone + use<'_, H, K> {
        self.replicas_for_new_at(self.position(key))
    }

    /// Returns the nodes for the copies of `key` if it is new, spread over the zones; see
    /// [`replicas_across_zones_for_new_at`](Self::replicas_across_zones_for_new_at).
    pub fn replicas_across_zones_for_new<K: RingKey>(
        &self,
        key: K,
    ) -> impl ExactSizeIterator<Item = &Node> + Clone + use<'_, H, K> {
        self.replicas_across_zones_for_new_at(self.position(key))
    }
}
