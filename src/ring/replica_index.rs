//! Preference lists worked out beforehand.

use std::{fmt, slice};

use super::{
    HashRing, KeyHasher, Node, Position, RingKey,
    members::Members,
    token_table::{List, Lists, TokenTable, Walk},
};

/// The nodes that should hold a copy, looked up rather than found: the start of each token's preference list, worked out
/// once for as many copies as are wanted.
///
/// For services that ask for replicas at every request, of a ring that changes seldom. It answers what
/// [`HashRing::replicas`] or [`HashRing::replicas_across_zones`] would, whatever the number of nodes that a walk would have
/// to pass over, reads one or two neighbouring cache lines for three copies, and allocates nothing. It borrows its ring:
/// when that changes, a new one is made.
///
/// Takes 32 * (copies + 1) bytes for each bucket of about 8 tokens: with three copies, 16 bytes a token. To make one takes
/// as long as asking the ring for the replicas of each of its tokens.
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
#[derive(Clone)]
pub struct ReplicaIndex<'r, H> {
    ring: &'r HashRing<H>,
    members: &'r Members,
    table: &'r TokenTable,
    lists: Lists,
}

impl<'r, H> ReplicaIndex<'r, H> {
    /// Of the first `copies` slots that `list` gives for a walk.
    pub(super) fn new<I: Iterator<Item = u32>>(
        ring: &'r HashRing<H>,
        (members, table): (&'r Members, &'r TokenTable),
        copies: usize,
        list: impl Fn(Walk<'r>) -> I,
    ) -> Self {
        let lists = Lists::new(table, copies.min(members.nodes().len()), list);
        Self { ring, members, table, lists }
    }

    /// How many nodes each list has: as many as were asked for, or as there are.
    pub fn copies(&self) -> usize {
        self.lists.copies()
    }

    /// The ring that this is about.
    pub fn ring(&self) -> &'r HashRing<H> {
        self.ring
    }

    /// The nodes that `position` belongs to, in order of preference.
    // Always, as `HashRing::owner`.
    #[inline(always)]
    pub fn replicas_at(&self, position: Position) -> impl ExactSizeIterator<Item = &'r Node> + use<'_, 'r, H> {
        ListedNodes::new(self.members, self.lists.at(self.table, position))
    }
}

impl<'r, H: KeyHasher> ReplicaIndex<'r, H> {
    /// The nodes that `key` belongs to, in order of preference: its owner, and who comes next.
    #[inline(always)]
    pub fn replicas<K: RingKey>(&self, key: K) -> impl ExactSizeIterator<Item = &'r Node> + use<'_, 'r, H, K> {
        self.replicas_at(self.ring.position(key))
    }
}

impl<H: fmt::Debug> fmt::Debug for ReplicaIndex<'_, H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReplicaIndex").field("ring", &self.ring).field("copies", &self.copies()).finish_non_exhaustive()
    }
}

/// The nodes of a list.
struct ListedNodes<'i, 'r> {
    members: &'r Members,
    near: slice::Iter<'i, u16>,
    far: slice::Iter<'i, u32>,
}

impl<'i, 'r> ListedNodes<'i, 'r> {
    #[inline]
    fn new(members: &'r Members, (near, far): List<'i>) -> Self {
        Self { members, near: near.iter(), far: far.iter() }
    }
}

impl<'r> Iterator for ListedNodes<'_, 'r> {
    type Item = &'r Node;

    #[inline]
    fn next(&mut self) -> Option<&'r Node> {
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
    fn fold<B, F: FnMut(B, &'r Node) -> B>(self, start: B, mut f: F) -> B {
        let low = self.members.low_slots();
        let near = self.near.fold(start, |all, slot| f(all, &low[usize::from(*slot)]));
        self.far.fold(near, |all, slot| f(all, self.members.by_slot(*slot)))
    }
}

impl ExactSizeIterator for ListedNodes<'_, '_> {}
