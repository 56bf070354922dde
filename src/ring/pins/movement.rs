//! What moves between two rings with pins.

use super::{PinnedRing, Pins};
use crate::ring::{HashRing, HeldRing, Movement, Node, Position, PositionRange, RangeSet, RingError};

/// The whole circle.
const CIRCLE: PositionRange = PositionRange { start: Position::MAX, end: Position::MAX };

impl<R: HeldRing<Hasher: PartialEq>> PinnedRing<R> {
    /// Returns what moves, and from which node to which, when `after` replaces this ring with its
    /// pins. Exact, as [`HashRing::movement`] is: a pin that appears, changes or goes moves only those
    /// of its positions that get another owner.
    ///
    /// Takes what [`HashRing::movement`] takes, and O((P + t) log P) for P pinned ranges of both with
    /// t tokens among them.
    ///
    /// # Errors
    ///
    /// The errors of [`HashRing::movement`].
    pub fn movement<'a, S: HeldRing<Hasher = R::Hasher>>(
        &'a self,
        after: &'a PinnedRing<S>,
    ) -> Result<Movement<'a>, RingError> {
        let by_placement = self.ring().movement(after.ring())?;
        let mut pieces = Pieces { before: self.ring(), after: after.ring(), moved: Vec::new() };
        let pinned: RangeSet = self.pins().iter().chain(after.pins().iter()).map(|(range, _)| range).collect();
        for moved in &by_placement {
            pinned.gaps(moved.range).into_iter().for_each(|part| pieces.push(part, moved.from, moved.to));
        }
        pieces.push_pinned(self.pins(), after.pins());
        Ok(Movement::of_pieces(pieces.moved))
    }
}

/// Parts of ranges that may move.
struct Pieces<'a, H> {
    before: &'a HashRing<H>,
    after: &'a HashRing<H>,
    /// Disjoint, in any order. None of them passes position 0.
    moved: Vec<(PositionRange, &'a Node, &'a Node)>,
}

impl<'a, H> Pieces<'a, H> {
    fn push(&mut self, range: PositionRange, from: &'a Node, to: &'a Node) {
        if from.id() != to.id() {
            self.moved.push((range, from, to));
        }
    }

    /// Adds what moves of the positions that have a pin before or after.
    fn push_pinned(&mut self, before: &Pins, after: &Pins) {
        let (old, new) = (self.before, self.after);
        for (range, id) in before.ranges.overlapping(CIRCLE) {
            // Pins are to members only.
            let Some(from) = old.node(id) else { continue };
            for (part, id) in after.ranges.overlapping(range) {
                new.node(id).into_iter().for_each(|to| self.push(part, from, to));
            }
            for part in after.ranges.gaps(range) {
                stretches(new, part, |part, to| self.push(part, from, to));
            }
        }
        for (range, id) in after.ranges.overlapping(CIRCLE) {
            let Some(to) = new.node(id) else { continue };
            for part in before.ranges.gaps(range) {
                stretches(old, part, |part, from| self.push(part, from, to));
            }
        }
    }
}

/// Calls `each` with the parts of a range, which doesn't pass position 0, and their owners on the
/// ring: one call for each token in it, and one more.
fn stretches<'a, H>(ring: &'a HashRing<H>, range: PositionRange, mut each: impl FnMut(PositionRange, &'a Node)) {
    let (members, table) = ring.parts();
    let mut end = range.end;
    loop {
        // Backwards: all positions from the token before up to this one have its owner.
        let neighbours = table.neighbours(end);
        let owner = members.by_slot(neighbours.owner);
        let goes_on = neighbours.before < end && range.contains(neighbours.before);
        if !goes_on {
            return each(PositionRange { start: range.start, end }, owner);
        }
        each(PositionRange { start: neighbours.before, end }, owner);
        end = neighbours.before;
    }
}
