//! What moves between two rings if several nodes hold each position.

use std::fmt;

use super::{
    super::{
        members::Members,
        token_table::{Entry, TokenTable},
    },
    Node, Position, PositionRange,
    between::{counterparts, whole_if_whole},
};

/// A range of positions with a set of holders that changes. It borrows the nodes of both rings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ReplicaMove<'m, 'a> {
    /// The range.
    pub range: PositionRange,
    /// The nodes that hold the range after but not before, sorted by id.
    pub gained_by: &'m [&'a Node],
    /// The nodes that hold the range before but not after, sorted by id.
    pub lost_by: &'m [&'a Node],
}

/// The exact ranges in which the set of the first n nodes of the [preference
/// list](super::super::Replicas) changes between two rings, with the nodes that gain a copy and the
/// nodes that lose one. [`HashRing::replica_movement`](super::super::HashRing::replica_movement)
/// returns it. It borrows the nodes of both rings; a clone copies the list.
///
/// The ranges are disjoint, and ascend by their end. The first may pass position 0. Two that touch
/// differ in the nodes that gain or in the nodes that lose. If only the order of the n nodes
/// changes, nothing has to be copied, and the range is not listed.
///
/// The nodes that can give a copy of a range to the nodes that gain it are
/// `before.replicas_at(range.end).take(n)`.
///
/// ```
/// use ringpact::ring::HashRing;
///
/// let before = HashRing::new(["a", "b", "c", "d"])?;
/// let mut after = before.clone();
/// after.remove("b")?;
///
/// for moved in before.replica_movement(&after, 2)?.iter() {
///     assert_eq!(moved.lost_by, [before.node("b").unwrap()]);
///     assert_eq!(moved.gained_by.len(), 1);
/// }
/// # Ok::<(), ringpact::ring::RingError>(())
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct ReplicaMovement<'a> {
    ranges: Vec<StoredRange>,
    /// For each range, first the nodes that gain it, then the nodes that lose it.
    nodes: Vec<&'a Node>,
}

/// A range, and the place of its nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct StoredRange {
    range: PositionRange,
    /// The index in `nodes` of the first node that gains, of the first that loses, and of the first
    /// of the next range.
    gained: usize,
    lost: usize,
    end: usize,
}

impl<'a> ReplicaMovement<'a> {
    /// Returns the ranges whose holders change.
    #[must_use]
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = ReplicaMove<'_, 'a>> + ExactSizeIterator {
        self.ranges.iter().map(|stored| self.with_nodes(stored))
    }

    /// Returns the range that `position` is in, or `None` if its holders stay. O(log R) for R
    /// ranges.
    #[must_use]
    pub fn find(&self, position: Position) -> Option<ReplicaMove<'_, 'a>> {
        let index = self.ranges.partition_point(|stored| stored.range.end < position);
        let stored = self.ranges.get(index).or(self.ranges.first())?;
        stored.range.contains(position).then(|| self.with_nodes(stored))
    }

    /// Returns the number of ranges.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ranges.len()
    }

    /// Whether every position keeps its holders.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// Returns how much is to be copied, in circles: 1.0 if every position gains one holder.
    #[must_use]
    pub fn copied_fraction(&self) -> f64 {
        self.iter().map(|moved| moved.range.fraction() * moved.gained_by.len() as f64).sum()
    }

    fn with_nodes(&self, stored: &StoredRange) -> ReplicaMove<'_, 'a> {
        ReplicaMove {
            range: stored.range,
            gained_by: &self.nodes[stored.gained..stored.lost],
            lost_by: &self.nodes[stored.lost..stored.end],
        }
    }

    /// Returns what moves between two rings.
    ///
    /// Goes round both rings backwards. The first n nodes from a token on are that token's node,
    /// and then the first n from the next token on without it. So no token needs a walk.
    pub(in crate::ring) fn between(
        before: (&'a Members, &TokenTable),
        after: (&'a Members, &TokenTable),
        copies: usize,
    ) -> Self {
        let counterparts = counterparts(before.0, after.0);
        let (from, to): (Vec<_>, Vec<_>) = (before.1.iter().collect(), after.1.iter().collect());
        let (mut from, mut to) = (&from[..], &to[..]);
        let (mut old, mut new) = (Holders::of_the_start(before, copies), Holders::of_the_start(after, copies));
        let mut movement = Self { ranges: Vec::new(), nodes: Vec::new() };
        let highest = last(from).max(last(to));
        let mut boundary = highest;
        // From each token of either ring back to the one before, the holders are the same.
        while let Some(end) = boundary {
            from = old.step_back(from, end);
            to = new.step_back(to, end);
            boundary = last(from).max(last(to));
            let start = boundary.or(highest).unwrap_or(end);
            let kept = |slot: &u32| counterparts[*slot as usize];
            let gained = new.slots.iter().filter(|slot| !old.slots.iter().any(|old| kept(old) == **slot));
            let lost = old.slots.iter().filter(|slot| !new.slots.contains(&kept(slot)));
            movement.push_back(
                PositionRange { start, end },
                gained.map(|slot| after.0.by_slot(*slot)),
                lost.map(|slot| before.0.by_slot(*slot)),
            );
        }
        movement.finish()
    }

    /// Adds a range that ends where the last one starts, or before. Does nothing if no node gains
    /// or loses it.
    fn push_back(
        &mut self,
        range: PositionRange,
        gained_by: impl Iterator<Item = &'a Node>,
        lost_by: impl Iterator<Item = &'a Node>,
    ) {
        let gained = self.nodes.len();
        self.nodes.extend(gained_by);
        let lost = self.nodes.len();
        self.nodes.extend(lost_by);
        let end = self.nodes.len();
        if gained == end {
            return;
        }
        // Sorted, so that equal sets of nodes are equal lists.
        self.nodes[gained..lost].sort_unstable_by_key(|node| node.id());
        self.nodes[lost..end].sort_unstable_by_key(|node| node.id());
        let stored = StoredRange { range, gained, lost, end };
        // A range that touches the last one, with the same nodes, is joined to it.
        if let Some(last) = self.ranges.last().copied()
            && last.range.start == range.end
            && self.same_nodes(last, stored)
        {
            self.nodes.truncate(gained);
            if let Some(last) = self.ranges.last_mut() {
                last.range.start = range.start;
            }
            return;
        }
        self.ranges.push(stored);
    }

    /// Puts the ranges in ascending order, and joins the last to the first if they are one range
    /// across position 0.
    fn finish(mut self) -> Self {
        self.ranges.reverse();
        if let [first, .., last] = self.ranges[..]
            && last.range.end == first.range.start
            && self.same_nodes(first, last)
        {
            self.ranges[0].range.start = last.range.start;
            self.ranges.pop();
        }
        for stored in &mut self.ranges {
            stored.range = whole_if_whole(stored.range);
        }
        self
    }

    fn same_nodes(&self, a: StoredRange, b: StoredRange) -> bool {
        let nodes = |from: usize, to: usize| self.nodes[from..to].iter().map(|node| node.id());
        a.lost - a.gained == b.lost - b.gained && nodes(a.gained, a.end).eq(nodes(b.gained, b.end))
    }
}

impl fmt::Debug for ReplicaMovement<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

/// The slots of the nodes that hold a position in one ring, in order of preference.
struct Holders {
    slots: Vec<u32>,
    copies: usize,
}

impl Holders {
    fn of_the_start((members, table): (&Members, &TokenTable), copies: usize) -> Self {
        let copies = copies.min(members.nodes().len());
        let mut walk = table.walk(Position::MIN);
        let mut slots = Vec::with_capacity(copies + 1);
        while slots.len() < copies {
            let slot = walk.next();
            if !slots.contains(&slot) {
                slots.push(slot);
            }
        }
        Self { slots, copies }
    }

    /// Goes from the holders beyond the last of `tokens` to the holders at `position`. Returns the
    /// tokens before that position.
    fn step_back<'t>(&mut self, mut tokens: &'t [Entry], position: Position) -> &'t [Entry] {
        while let [rest @ .., token] = tokens
            && token.position == position
        {
            match self.slots.iter().position(|slot| *slot == token.slot) {
                Some(index) => self.slots[..=index].rotate_right(1),
                None => {
                    self.slots.insert(0, token.slot);
                    self.slots.truncate(self.copies);
                }
            }
            tokens = rest;
        }
        tokens
    }
}

fn last(tokens: &[Entry]) -> Option<Position> {
    tokens.last().map(|token| token.position)
}
