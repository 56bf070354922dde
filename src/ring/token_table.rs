//! The tokens of a ring in clockwise order, and how nodes' tokens go in and out.

use super::Position;

/// Sorted tokens as a structure of arrays: a look-up touches `positions` and then one entry of `owners`.
///
/// Nodes are numbers here: the index of a node among the ring's nodes sorted by id. Invariants, while there is a node:
///
/// - the three arrays are equally long, and not empty; every node has at least one token;
/// - entries ascend by (position, owner). So where virtual nodes collide on a position, that of the smaller node id
///   comes first and owns it; the others stay in the walk behind it, and take over when it leaves;
/// - `gaps` is what [`TokenTable::relink`] makes of the other two.
#[derive(Clone, PartialEq, Eq, Default)]
pub(super) struct TokenTable {
    positions: Vec<Position>,
    owners: Vec<u32>,
    /// How many entries back the same node's preceding entry is, going round; the length of the table if it has no
    /// other. A walk that has made fewer steps than this meets the node for the first time, and needs no memory of
    /// what it has seen to know so.
    gaps: Vec<u32>,
}

impl TokenTable {
    /// The table of these (position, owner) pairs, in any order, of nodes `0..nodes`.
    pub(super) fn new(mut entries: Vec<(Position, u32)>, nodes: usize) -> Self {
        entries.sort_unstable();
        let (positions, owners) = entries.into_iter().unzip();
        let mut table = Self { positions, owners, gaps: Vec::new() };
        table.relink(nodes);
        table
    }

    pub(super) fn len(&self) -> usize {
        self.positions.len()
    }

    pub(super) fn positions(&self) -> &[Position] {
        &self.positions
    }

    pub(super) fn owners(&self) -> &[u32] {
        &self.owners
    }

    /// The entry that owns `position`: the first at or after it, or the very first beyond the last.
    #[inline]
    pub(super) fn successor(&self, position: Position) -> usize {
        let entry = self.positions.partition_point(|token| *token < position);
        if entry == self.positions.len() { 0 } else { entry }
    }

    /// The owner of an entry, if a walk clockwise that has made `steps` steps to get to it hasn't met that owner yet.
    #[inline]
    pub(super) fn newly_met(&self, entry: usize, steps: usize) -> Option<u32> {
        (self.gaps[entry] as usize > steps).then(|| self.owners[entry])
    }

    /// Gives a new node the number `node`, moving up those from there on, and puts its tokens in. O(T + t log t) for
    /// t new tokens, and no hashing of old ones.
    pub(super) fn insert(&mut self, node: u32, tokens: Vec<Position>, nodes: usize) {
        for owner in &mut self.owners {
            *owner += u32::from(*owner >= node);
        }
        self.merge(node, tokens);
        self.relink(nodes);
    }

    /// Takes a node's tokens out, and moves down the numbers above its own. O(T).
    pub(super) fn remove(&mut self, node: u32, nodes: usize) {
        self.discard(node);
        for owner in &mut self.owners {
            *owner -= u32::from(*owner > node);
        }
        self.relink(nodes);
    }

    /// Gives a node other tokens. O(T + t log t).
    pub(super) fn replace(&mut self, node: u32, tokens: Vec<Position>, nodes: usize) {
        self.discard(node);
        self.merge(node, tokens);
        self.relink(nodes);
    }

    fn discard(&mut self, node: u32) {
        let mut kept = 0;
        for entry in 0..self.positions.len() {
            self.positions[kept] = self.positions[entry];
            self.owners[kept] = self.owners[entry];
            kept += usize::from(self.owners[entry] != node);
        }
        self.positions.truncate(kept);
        self.owners.truncate(kept);
    }

    /// Merges in the tokens of a node that has none here. Works from the back, so that every entry is moved at most
    /// once and within the arrays.
    fn merge(&mut self, node: u32, mut tokens: Vec<Position>) {
        tokens.sort_unstable();
        let mut unmoved = self.positions.len();
        let mut free = unmoved + tokens.len();
        self.positions.resize(free, Position::MAX);
        self.owners.resize(free, node);
        for token in tokens.into_iter().rev() {
            let mut place = self.positions[..unmoved].partition_point(|position| *position < token);
            while place < unmoved && self.positions[place] == token && self.owners[place] < node {
                place += 1;
            }
            free -= unmoved - place;
            self.positions.copy_within(place..unmoved, free);
            self.owners.copy_within(place..unmoved, free);
            unmoved = place;
            free -= 1;
            self.positions[free] = token;
            self.owners[free] = node;
        }
    }

    /// Recomputes `gaps`, in one pass.
    fn relink(&mut self, nodes: usize) {
        /// No table has this many entries (see `MAX_TOKENS`).
        const UNSEEN: u32 = u32::MAX;
        let mut first_and_last = vec![(UNSEEN, UNSEEN); nodes];
        self.gaps.clear();
        self.gaps.extend((0..).zip(&self.owners).map(|(entry, owner)| {
            let (first, last) = &mut first_and_last[*owner as usize];
            if *first == UNSEEN {
                *first = entry;
            }
            let gap = entry.wrapping_sub(*last);
            *last = entry;
            gap
        }));
        let entries = self.owners.len() as u32;
        for (first, last) in first_and_last {
            // A node's first entry is preceded, round the circle, by its last.
            self.gaps[first as usize] = first + entries - last;
        }
    }
}
