//! What moves between two rings.

use std::ops::RangeInclusive;

use serde::{Deserialize, Serialize};

use super::{
    Node, Position,
    members::Members,
    token_table::{Entry, TokenTable},
};

/// Positions clockwise from `start`, which isn't among them, to `end`, which is.
///
/// A range may pass position 0: with `start` above `end` it holds all after `start` and all up to `end`. With `start`
/// equal to `end` it is the whole circle. There is no empty range.
///
/// ```
/// use ringpact::ring::{Position, PositionRange};
///
/// let range = PositionRange { start: Position::MAX, end: Position::new(9) };
/// assert!(range.contains(Position::new(0)) && range.contains(Position::new(9)));
/// assert!(!range.contains(Position::MAX) && !range.contains(Position::new(10)));
/// assert_eq!(range.width(), 10);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct PositionRange {
    /// The last position before the range.
    pub start: Position,
    /// The last position of the range.
    pub end: Position,
}

impl PositionRange {
    /// Whether `position` is in the range.
    pub fn contains(&self, position: Position) -> bool {
        let (after_start, up_to_end) = (self.start < position, position <= self.end);
        if self.start < self.end { after_start && up_to_end } else { after_start || up_to_end }
    }

    /// How many positions there are in the range, from 1 to 2^64.
    pub fn width(&self) -> u128 {
        match self.end.as_u64().wrapping_sub(self.start.as_u64()) {
            0 => 1 << 64,
            width => u128::from(width),
        }
    }

    /// The range's share of the circle, above 0.0 and up to 1.0.
    pub fn fraction(&self) -> f64 {
        fraction(self.width())
    }

    /// The range as one or two ranges of numbers that don't pass 0, ascending: what a `BETWEEN` in a query needs.
    ///
    /// ```
    /// use ringpact::ring::{Position, PositionRange};
    ///
    /// let range = PositionRange { start: Position::new(u64::MAX - 1), end: Position::new(9) };
    /// assert_eq!(range.segments().collect::<Vec<_>>(), [0..=9, u64::MAX..=u64::MAX]);
    /// ```
    pub fn segments(&self) -> impl Iterator<Item = RangeInclusive<u64>> + use<> {
        let (start, end) = (self.start.as_u64(), self.end.as_u64());
        let after_start = start.checked_add(1);
        let (low, high) = if start < end {
            (after_start.map(|first| first..=end), None)
        } else {
            (Some(0..=end), after_start.map(|first| first..=u64::MAX))
        };
        low.into_iter().chain(high)
    }
}

/// A range of positions that changes hands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct MovedRange<'a> {
    /// What moves.
    pub range: PositionRange,
    /// The owner in the ring before.
    pub from: &'a Node,
    /// The owner in the ring after; never of the same id as `from`.
    pub to: &'a Node,
}

/// Exactly what moves between two rings: a position is in one of the ranges if and only if its owner changes. Made by
/// [`HashRing::movement`](super::HashRing::movement).
///
/// The ranges are disjoint, and ascend by their end; the first may pass position 0. Two that touch differ in `from` or
/// in `to`.
///
/// ```
/// use ringpact::ring::HashRing;
///
/// let before = HashRing::new(["a", "b", "c"])?;
/// let mut after = before.clone();
/// after.remove("b")?;
///
/// let movement = before.movement(&after)?;
/// let moved = movement.find(before.position("user:42"));
/// assert_eq!(moved.is_some(), before.owner("user:42").id() == "b");
/// assert!((0.25..0.42).contains(&movement.fraction()));
/// # Ok::<(), ringpact::ring::RingError>(())
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Movement<'a> {
    ranges: Vec<MovedRange<'a>>,
}

impl<'a> Movement<'a> {
    /// The ranges that move.
    pub fn ranges(&self) -> &[MovedRange<'a>] {
        &self.ranges
    }

    /// The range that `position` moves with, or `None` if its owner stays. O(log R) for R ranges.
    pub fn find(&self, position: Position) -> Option<&MovedRange<'a>> {
        let index = self.ranges.partition_point(|moved| moved.range.end < position);
        // Beyond the last end there is only what passes 0, and that is the first range.
        self.ranges.get(index).or(self.ranges.first()).filter(|moved| moved.range.contains(position))
    }

    /// Whether every owner stays.
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// How many positions move, from 0 to 2^64; exact.
    pub fn width(&self) -> u128 {
        self.ranges.iter().map(|moved| moved.range.width()).sum()
    }

    /// Which share of the circle moves, from 0.0 to 1.0.
    pub fn fraction(&self) -> f64 {
        fraction(self.width())
    }

    /// Merges the tokens of both rings. Between two neighbours of the merged tokens neither ring has a token, so all
    /// positions up to the second have one owner before and one after.
    pub(super) fn between(before: (&'a Members, &TokenTable), after: (&'a Members, &TokenTable)) -> Self {
        let counterparts = counterparts(before.0, after.0);
        let (from, to): (Vec<_>, Vec<_>) = (before.1.iter().collect(), after.1.iter().collect());
        let (mut from, mut to) = (Cursor::new(&from), Cursor::new(&to));
        let mut moves = Moves { ranges: Vec::new() };
        let Some(mut start) = from.last().max(to.last()) else {
            // A ring has tokens; without any there would be nothing to move.
            return Self { ranges: Vec::new() };
        };
        while let Some(end) = from.next_token().into_iter().chain(to.next_token()).min() {
            let (giver, taker) = (from.owner(), to.owner());
            if counterparts[giver as usize] != taker {
                moves.push(PositionRange { start, end }, giver, taker);
            }
            from.pass(end);
            to.pass(end);
            start = end;
        }
        moves.join_across_zero();
        let ranges = moves
            .ranges
            .into_iter()
            .map(|(range, from, to)| MovedRange { range, from: before.0.by_slot(from), to: after.0.by_slot(to) })
            .collect();
        Self { ranges }
    }
}

impl<'m, 'a> IntoIterator for &'m Movement<'a> {
    type Item = &'m MovedRange<'a>;
    type IntoIter = std::slice::Iter<'m, MovedRange<'a>>;

    fn into_iter(self) -> Self::IntoIter {
        self.ranges.iter()
    }
}

impl<'a> IntoIterator for Movement<'a> {
    type Item = MovedRange<'a>;
    type IntoIter = std::vec::IntoIter<MovedRange<'a>>;

    fn into_iter(self) -> Self::IntoIter {
        self.ranges.into_iter()
    }
}

/// A place in one ring's tokens: all before it are passed.
struct Cursor<'t> {
    tokens: &'t [Entry],
    passed: usize,
}

impl<'t> Cursor<'t> {
    fn new(tokens: &'t [Entry]) -> Self {
        Self { tokens, passed: 0 }
    }

    fn last(&self) -> Option<Position> {
        self.tokens.last().map(|token| token.position)
    }

    fn next_token(&self) -> Option<Position> {
        self.tokens.get(self.passed).map(|token| token.position)
    }

    /// Who owns the positions between the token passed last and the next one; beyond the last token, the first's owner.
    fn owner(&self) -> u32 {
        self.tokens.get(self.passed).unwrap_or(&self.tokens[0]).slot
    }

    fn pass(&mut self, position: Position) {
        while self.next_token() == Some(position) {
            self.passed += 1;
        }
    }
}

/// Ranges with the numbers of their nodes, ascending, touching ones merged.
struct Moves {
    ranges: Vec<(PositionRange, u32, u32)>,
}

impl Moves {
    fn push(&mut self, range: PositionRange, from: u32, to: u32) {
        match self.ranges.last_mut() {
            Some((last, last_from, last_to)) if last.end == range.start && (*last_from, *last_to) == (from, to) => {
                last.end = range.end;
            }
            _ => self.ranges.push((range, from, to)),
        }
    }

    /// The first range starts at the last token of all, so the last range may touch it.
    fn join_across_zero(&mut self) {
        if let [(first, first_from, first_to), .., (last, last_from, last_to)] = &mut self.ranges[..]
            && last.end == first.start
            && (last_from, last_to) == (first_from, first_to)
        {
            first.start = last.start;
            self.ranges.pop();
        }
    }
}

/// No slot is this high.
const NONE: u32 = u32::MAX;

/// For each slot before, the slot of the node with the same id after, or [`NONE`]. Both are sorted by id.
fn counterparts(before: &Members, after: &Members) -> Vec<u32> {
    let mut counterparts = vec![NONE; before.slot_count()];
    let mut others = after.nodes().iter().zip(after.slots()).peekable();
    for (node, slot) in before.nodes().iter().zip(before.slots()) {
        while others.next_if(|(other, _)| other.id() < node.id()).is_some() {}
        if let Some((_, counterpart)) = others.next_if(|(other, _)| other.id() == node.id()) {
            counterparts[*slot as usize] = *counterpart;
        }
    }
    counterparts
}

fn fraction(width: u128) -> f64 {
    const CIRCLE: f64 = (1_u128 << 64) as f64;
    width as f64 / CIRCLE
}
