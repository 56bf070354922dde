//! Preference lists worked out beforehand.

use std::fmt;

use super::{HashRing, KeyHasher, Node, Position, RingKey, members::Members, token_table::TokenTable};

/// The nodes that should hold a copy, looked up rather than found: the start of each token's preference list, worked out
/// once for as many copies as are wanted.
///
/// For services that ask for replicas at every request, of a ring that changes seldom. It answers what
/// [`HashRing::replicas`] or [`HashRing::replicas_across_zones`] would, whatever the number of nodes that a walk would have
/// to pass over, and allocates nothing: with 1,000 nodes, three of them take as long as three or four look-ups. It borrows its ring: when that
/// changes, a new one is made.
///
/// Takes 4 bytes for each copy of each token, and half a byte a token; to make one takes as long as asking the ring for
/// the replicas of each of its tokens.
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
    copies: usize,
    /// For each bucket of the table, how many tokens come before it.
    before: Vec<u32>,
    /// The slots of the copies of each token, clockwise; behind the last token once more those of the first.
    slots: Vec<u32>,
}

impl<'r, H> ReplicaIndex<'r, H> {
    /// Of the first `copies` slots that `list` gives for a position.
    pub(super) fn new<I: Iterator<Item = u32>>(
        ring: &'r HashRing<H>,
        (members, table): (&'r Members, &'r TokenTable),
        copies: usize,
        list: impl Fn(Position) -> I,
    ) -> Self {
        let copies = copies.min(members.nodes().len());
        let mut slots = Vec::with_capacity((table.len() + 1) * copies);
        table.iter().for_each(|token| slots.extend(list(token.position).take(copies)));
        slots.extend_from_within(..copies);
        Self { ring, members, table, copies, before: table.tokens_before_buckets(), slots }
    }

    /// How many nodes each list has: as many as were asked for, or as there are.
    pub fn copies(&self) -> usize {
        self.copies
    }

    /// The ring that this is about.
    pub fn ring(&self) -> &'r HashRing<H> {
        self.ring
    }

    /// The nodes that `position` belongs to, in order of preference.
    #[inline]
    pub fn replicas_at(&self, position: Position) -> impl ExactSizeIterator<Item = &'r Node> + use<'_, 'r, H> {
        let (bucket, index) = self.table.locate(position);
        let first = (self.before[bucket] as usize + index) * self.copies;
        let members = self.members;
        self.slots[first..first + self.copies].iter().map(|slot| members.by_slot(*slot))
    }
}

impl<'r, H: KeyHasher> ReplicaIndex<'r, H> {
    /// The nodes that `key` belongs to, in order of preference: its owner, and who comes next.
    #[inline]
    pub fn replicas<K: RingKey>(&self, key: K) -> impl ExactSizeIterator<Item = &'r Node> + use<'_, 'r, H, K> {
        self.replicas_at(self.ring.position(key))
    }
}

impl<H: fmt::Debug> fmt::Debug for ReplicaIndex<'_, H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReplicaIndex").field("ring", &self.ring).field("copies", &self.copies).finish_non_exhaustive()
    }
}
