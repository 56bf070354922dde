//! The movement between any two rings.

use super::{
    super::{
        members::Members,
        token_table::{Entry, Side, TokenTable},
    },
    MovedRange, Movement, Node, Position, PositionRange,
};

impl<'a> Movement<'a> {
    /// Walks the tokens of both rings at once. Between two neighbours of the merged tokens neither ring has a token, so
    /// all positions up to the second have one owner before and one after.
    ///
    /// If both rings have the same buckets, those that hold the same tokens on both sides are skipped.
    pub(in crate::ring) fn between(before: (&'a Members, &TokenTable), after: (&'a Members, &TokenTable)) -> Self {
        let counterparts = counterparts(before.0, after.0);
        let mut moves = Moves { ranges: Vec::new() };
        let mut change = |range, from: u32, to: u32| {
            if counterparts[from as usize] != to {
                moves.push(range, from, to);
            }
        };
        if before.1.has_the_buckets_of(after.1) {
            let mut live_before = vec![false; before.0.slot_count()];
            before.0.slots().iter().for_each(|slot| live_before[*slot as usize] = true);
            let same_slots = after.0.slots().iter().all(|slot| {
                // A slot that is in use on both sides is in use by the same node.
                counterparts
                    .get(*slot as usize)
                    .is_none_or(|counterpart| counterpart == slot || !live_before[*slot as usize])
            });
            let sides = Side { table: before.1, other: after.1, counterparts: &counterparts, same_slots };
            sides.for_each_differing_bucket(|bucket| merge(bucket.start, bucket.from, bucket.to, &mut change));
        } else {
            let (mut from, mut to): (Vec<_>, Vec<_>) = (before.1.iter().collect(), after.1.iter().collect());
            // Beyond the last token, up to the end of the circle, the first owns what is left.
            for tokens in [&mut from, &mut to] {
                let beyond = Entry { position: Position::MAX, ..tokens[0] };
                tokens.push(beyond);
            }
            merge(Position::MAX, &from, &to, &mut change);
        }
        moves.finish(|from| before.0.by_slot(from), |to| after.0.by_slot(to))
    }
}

/// Goes through the stretches between `start` and the last token of each list, which are on one position. Each stretch
/// has one owner on either side: that of the first token at its end or after it.
fn merge(start: Position, mut from: &[Entry], mut to: &[Entry], change: &mut impl FnMut(PositionRange, u32, u32)) {
    let mut start = start;
    while let ([giver, ..], [taker, ..]) = (from, to) {
        let end = giver.position.min(taker.position);
        // Ends ascend, so the start is equal to one only if it is the last position and all tokens are there: the stretch
        // is then the whole circle, as it should be.
        change(PositionRange { start, end }, giver.slot, taker.slot);
        start = end;
        from = beyond(from, end);
        to = beyond(to, end);
    }
}

fn beyond(mut tokens: &[Entry], end: Position) -> &[Entry] {
    while let [first, rest @ ..] = tokens
        && first.position == end
    {
        tokens = rest;
    }
    tokens
}

/// Ranges with the slots of their nodes, ascending, touching ones merged.
pub(super) struct Moves {
    pub(super) ranges: Vec<(PositionRange, u32, u32)>,
}

impl Moves {
    pub(super) fn push(&mut self, range: PositionRange, from: u32, to: u32) {
        match self.ranges.last_mut() {
            Some((last, last_from, last_to)) if last.end == range.start && (*last_from, *last_to) == (from, to) => {
                last.end = range.end;
            }
            _ => self.ranges.push((range, from, to)),
        }
    }

    /// Joins the last range to the first, if they are one across position 0, and names the nodes.
    pub(super) fn finish<'a>(
        mut self,
        giver: impl Fn(u32) -> &'a Node,
        taker: impl Fn(u32) -> &'a Node,
    ) -> Movement<'a> {
        if let [(first, first_from, first_to), .., (last, last_from, last_to)] = &mut self.ranges[..]
            && last.end == first.start
            && (last_from, last_to) == (first_from, first_to)
        {
            first.start = last.start;
            self.ranges.pop();
        }
        let name = |(range, from, to)| MovedRange { range: whole_if_whole(range), from: giver(from), to: taker(to) };
        Movement { ranges: self.ranges.into_iter().map(name).collect() }
    }
}

/// The whole circle starts and ends nowhere in particular: always written in one way, so that equal movements are equal.
pub(super) fn whole_if_whole(range: PositionRange) -> PositionRange {
    if range.start == range.end { PositionRange { start: Position::MAX, end: Position::MAX } } else { range }
}

/// No slot is this high.
pub(super) const NONE: u32 = u32::MAX;

/// For each slot before, the slot of the node with the same id after, or [`NONE`]. Both are sorted by id.
pub(super) fn counterparts(before: &Members, after: &Members) -> Vec<u32> {
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
