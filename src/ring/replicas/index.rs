//! Preference lists that are computed beforehand.

use std::{fmt, slice, sync::Arc};

use super::{Replicas, ZoneReplicas};
use crate::ring::{
    HashRing, KeyHasher, Node, Position, RingKey, RingVersion,
    members::Members,
    token_table::{List, Lists},
};

/// A way to hold a ring so that it can't change meanwhile: by value, by reference or in an [`Arc`],
/// and as a [`HashRing`] or as a version of a [`SharedRing`](crate::ring::SharedRing). No other type
/// can implement this trait.
pub trait HeldRing: sealed::Sealed {
    /// The ring's hasher.
    type Hasher;

    /// Returns the ring.
    fn ring(&self) -> &HashRing<Self::Hasher>;
}

mod sealed {
    pub trait Sealed {}
}

macro_rules! holds_a_ring {
    ($($holder:ty),*) => {$(
        impl<H> sealed::Sealed for $holder {}

        impl<H> HeldRing for $holder {
            type Hasher = H;

            #[inline(always)]
            fn ring(&self) -> &HashRing<H> {
                self
            }
        }
    )*};
}

holds_a_ring!(HashRing<H>, RingVersion<H>, &HashRing<H>, Arc<HashRing<H>>, &RingVersion<H>, Arc<RingVersion<H>>);

/// An index of the nodes that should hold a copy: the start of each token's preference list,
/// computed once. Threads share it by reference or in an [`Arc`]; a clone copies the lists.
///
/// It is for services that ask for replicas at every request, of a ring that seldom changes. It
/// returns what [`HashRing::replicas`] or [`HashRing::replicas_across_zones`] returns, whatever the
/// number of nodes that a walk would have to pass. It reads one or two neighbouring cache lines for
/// three copies, and allocates nothing. It belongs to the one ring that it [holds](HeldRing): when
/// another ring follows, make a new index.
///
/// An index takes 32 * (copies + 1) bytes for each bucket of about 8 tokens: with three copies, 16
/// bytes a token. To make one takes as long as asking the ring for the replicas of each of its
/// tokens.
///
/// ```
/// use ringpact::ring::{HashRing, Node};
///
/// let ring = HashRing::new((0..9).map(|n| Node::new(format!("n{n}")).with_zone(format!("z{}", n % 3))))?;
/// let index = ring.replica_index_across_zones(3);
/// let zones: std::collections::BTreeSet<_> = index.replicas("order:7").map(|node| node.zone()).collect();
/// assert_eq!(zones.len(), 3);
/// assert!(index.replicas("order:7").eq(ring.replicas_across_zones("order:7").take(3)));
/// # Ok::<(), ringpact::ring::RingError>(())
/// ```
///
/// With a [`SharedRing`](crate::ring::SharedRing), an index holds the version that it belongs to:
///
/// ```
/// use std::sync::Arc;
///
/// use ringpact::ring::{HashRing, ReplicaIndex, SharedRing};
///
/// let shared = SharedRing::new(HashRing::new(["a", "b", "c", "d"])?);
/// let mut index = ReplicaIndex::new(shared.load(), 3);
/// assert_eq!(index.replicas("order:7").len(), 3);
///
/// // The thread that changes the ring makes the next index and passes it on.
/// let change = shared.update(|ring| ring.add("e"))?;
/// index = ReplicaIndex::new(Arc::clone(&change.after), 3);
/// assert_eq!(index.held().epoch(), shared.load().epoch());
/// # Ok::<(), ringpact::ring::RingError>(())
/// ```
#[derive(Clone)]
pub struct ReplicaIndex<R> {
    held: R,
    lists: Lists,
}

impl<R: HeldRing> ReplicaIndex<R> {
    /// Returns an index of the first `copies` nodes of every token's preference list. It finds what
    /// [`HashRing::replicas`] finds. O(T * copies) for T tokens.
    #[must_use]
    pub fn new(ring: R, copies: usize) -> Self {
        let (members, table) = ring.ring().parts();
        let copies = copies.min(members.nodes().len());
        let lists = Lists::new(table, copies, |walk| Replicas::new(members, walk).into_slots());
        Self { held: ring, lists }
    }

    /// Returns an index that finds what [`HashRing::replicas_across_zones`] finds. O(T * copies)
    /// for T tokens.
    #[must_use]
    pub fn across_zones(ring: R, copies: usize) -> Self {
        let (members, table) = ring.ring().parts();
        let copies = copies.min(members.nodes().len());
        let lists = Lists::new(table, copies, |walk| ZoneReplicas::new(members, walk).into_slots());
        Self { held: ring, lists }
    }

    /// Returns the number of nodes in each list: the number of copies, or the number of nodes in
    /// the ring if that is smaller.
    #[must_use]
    pub fn copies(&self) -> usize {
        self.lists.copies()
    }

    /// Returns the ring that the index belongs to.
    #[must_use]
    pub fn ring(&self) -> &HashRing<R::Hasher> {
        self.held.ring()
    }

    /// Returns the holder of the ring.
    #[must_use]
    pub fn held(&self) -> &R {
        &self.held
    }

    /// Returns the nodes that `position` belongs to, in order of preference.
    // Always inlined, like `HashRing::owner`.
    #[inline(always)]
    #[must_use]
    pub fn replicas_at(&self, position: Position) -> impl ExactSizeIterator<Item = &Node> + use<'_, R> {
        let (members, table) = self.held.ring().parts();
        ListedNodes::new(members, self.lists.at(table, position))
    }

    /// Returns the nodes that `key` belongs to, in order of preference: its owner, and the nodes
    /// that come next.
    #[inline(always)]
    #[must_use]
    pub fn replicas<K: RingKey>(&self, key: K) -> impl ExactSizeIterator<Item = &Node> + use<'_, R, K>
    where
        R::Hasher: KeyHasher,
    {
        self.replicas_at(self.held.ring().position(key))
    }
}

impl<R: HeldRing<Hasher: fmt::Debug>> fmt::Debug for ReplicaIndex<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReplicaIndex")
            .field("ring", self.ring())
            .field("copies", &self.copies())
            .finish_non_exhaustive()
    }
}

/// An iterator over the nodes of a list, of which either the slots of 2 bytes or those of 4 bytes
/// are empty.
struct ListedNodes<'i> {
    members: &'i Members,
    near: slice::Iter<'i, u16>,
    far: slice::Iter<'i, u32>,
}

impl<'i> ListedNodes<'i> {
    #[inline]
    fn new(members: &'i Members, (near, far): List<'i>) -> Self {
        Self { members, near: near.iter(), far: far.iter() }
    }
}

impl<'i> Iterator for ListedNodes<'i> {
    type Item = &'i Node;

    #[inline]
    fn next(&mut self) -> Option<&'i Node> {
        match self.near.next() {
            Some(slot) => Some(&self.members.low_slots()[usize::from(*slot)]),
            None => self.far.next().map(|slot| self.members.by_slot(*slot)),
        }
    }

    #[inline]
    fn size_hint(&self) -> (usize, Option<usize>) {
        let remaining = self.near.len() + self.far.len();
        (remaining, Some(remaining))
    }

    #[inline]
    fn fold<B, F: FnMut(B, &'i Node) -> B>(self, start: B, mut f: F) -> B {
        let low = self.members.low_slots();
        let near = self.near.fold(start, |all, slot| f(all, &low[usize::from(*slot)]));
        self.far.fold(near, |all, slot| f(all, self.members.by_slot(*slot)))
    }
}

impl ExactSizeIterator for ListedNodes<'_> {}
