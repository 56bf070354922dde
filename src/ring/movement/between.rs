//! The movement between any two rings.
//!
//! There are two ways. If few nodes differ, [`Exchange`] looks only at their tokens. Otherwise
//! [`Merger`] goes through all tokens of both rings. [`Moves`] collects the ranges of either.

use super::{
    super::{
        members::Members,
        token_table::{DecodedTokens, Decoder, Exchange, TokenTable},
    },
    MovedRange, Movement, Node, Position, PositionRange,
};

impl<'a> Movement<'a> {
    /// Returns what moves between two rings.
    ///
    /// If the tokens of both rings are merged, all positions between two neighbours, up to the
    /// second, have one owner before and one after.
    ///
    /// `are_alike` says that a node with the same weight has the same tokens in both rings. Then,
    /// if most nodes stay as they were, only the tokens of the other nodes are looked at. Otherwise
    /// all tokens of both rings are merged.
    pub(in crate::ring) fn between(
        before: (&'a Members, &TokenTable),
        after: (&'a Members, &TokenTable),
        are_alike: bool,
    ) -> Self {
        let counterparts = counterparts(before.0, after.0);
        let exchanged = exchanged(before.0, after.0, &counterparts);
        let tokens = |members: &Members, table: &TokenTable, slots: &[u32]| {
            let weight =
                |slots: &[u32]| slots.iter().map(|slot| f64::from(members.by_slot(*slot).weight())).sum::<f64>();
            (table.len() as f64 * (weight(slots) / weight(members.slots()))) as usize
        };
        // At most one range moves for each token that only one of the rings has.
        let expected = tokens(before.0, before.1, &exchanged.gone) + tokens(after.0, after.1, &exchanged.came);
        let mut moves = Moves::with_capacity(expected);
        // Both ways call this, with the slots of the owner before and of the owner after.
        let mut moved = |start, end, from, to| {
            let range = PositionRange { start, end };
            moves.push(MovedRange { range, from: before.0.by_slot(from), to: after.0.by_slot(to) }, (from, to));
        };
        // If more nodes differ, telling their tokens from the rest costs more than merging all.
        let are_few = expected < before.1.len().max(after.1.len());
        let sides = ((before.1, &exchanged.gone[..]), (after.1, &exchanged.came[..]));
        match (are_alike && are_few).then(|| Exchange::new(sides.0, sides.1)).flatten() {
            Some(exchange) => exchange.for_each(|stretch| {
                if counterparts[stretch.from as usize] != stretch.to {
                    moved(stretch.start, stretch.end, stretch.from, stretch.to);
                }
            }),
            None => {
                let (mut decoder, mut from, mut to) =
                    (Decoder::new(), DecodedTokens::default(), DecodedTokens::default());
                decoder.decode_all(before.1, &mut from);
                decoder.decode_all(after.1, &mut to);
                Merger::new(&counterparts).merge(&from, &to, &mut moved);
            }
        }
        moves.finish()
    }
}

/// The slots of the nodes that are not in both rings with the same weight.
struct Exchanged {
    /// In the ring before.
    gone: Vec<u32>,
    /// In the ring after.
    came: Vec<u32>,
}

/// Returns the slots of the nodes that differ.
fn exchanged(before: &Members, after: &Members, counterparts: &[u32]) -> Exchanged {
    let mut is_kept = vec![false; after.slot_count()];
    let weight = |members: &Members, slot| members.by_slot(slot).weight();
    let mut gone = before.slots().to_vec();
    gone.retain(|slot| {
        let counterpart = counterparts[*slot as usize];
        let is_same = counterpart != NONE && weight(before, *slot) == weight(after, counterpart);
        if is_same {
            is_kept[counterpart as usize] = true;
        }
        !is_same
    });
    let came = after.slots().iter().copied().filter(|slot| !is_kept[*slot as usize]).collect();
    Exchanged { gone, came }
}

/// Number of stretches that move and are collected before the caller gets them.
const BATCH: usize = 256;

/// The positions between two neighbours of the merged tokens.
#[derive(Clone, Copy)]
struct MergedStretch {
    start: Position,
    end: Position,
    /// The index of the token, in the ring before, whose node owns the stretch.
    giver: u32,
    /// The same in the ring after.
    taker: u32,
}

/// Goes through the stretches between the merged tokens of two rings.
struct Merger<'c> {
    /// For each slot in the ring before, the slot of the same node in the ring after.
    counterparts: &'c [u32],
    batch: [MergedStretch; BATCH],
}

impl<'c> Merger<'c> {
    fn new(counterparts: &'c [u32]) -> Self {
        let none = MergedStretch { start: Position::MIN, end: Position::MIN, giver: 0, taker: 0 };
        Self { counterparts, batch: [none; BATCH] }
    }

    /// Goes through the stretches of the whole circle, and calls `moved` with those that move.
    ///
    /// In both lists, the circle's last position, with its owner, follows the last token. Each
    /// stretch has one owner in either ring: the node of the first token at its end or after it.
    fn merge(
        &mut self,
        from: &DecodedTokens,
        to: &DecodedTokens,
        moved: &mut impl FnMut(Position, Position, u32, u32),
    ) {
        let start = Position::MAX;
        // The only stretch is the whole circle, if all tokens of both rings are on its last
        // position.
        if from.positions[0] == start && to.positions[0] == start {
            if self.counterparts[from.slots[0] as usize] != to.slots[0] {
                moved(start, start, from.slots[0], to.slots[0]);
            }
            return;
        }
        let mut next = MergedStretch { start, end: start, giver: 0, taker: 0 };
        while (next.giver as usize) < from.positions.len() && (next.taker as usize) < to.positions.len() {
            let count = self.next_batch(&mut next, from, to);
            for stretch in &self.batch[..count] {
                let (from, to) = (from.slots[stretch.giver as usize], to.slots[stretch.taker as usize]);
                moved(stretch.start, stretch.end, from, to);
            }
        }
    }

    /// Goes on until the batch is full of stretches that move, or no token is left. Returns the
    /// number of stretches in the batch.
    ///
    /// No branch here depends on which token comes next, or on whether a stretch moves, because the
    /// processor can predict neither. It is a function of its own so that what it needs stays in
    /// registers: the work for each token waits for the token before.
    #[inline(never)]
    fn next_batch(&mut self, next: &mut MergedStretch, from: &DecodedTokens, to: &DecodedTokens) -> usize {
        let (givers, takers) = (&from.positions[..], &to.positions[..]);
        let (from, to) = (&from.slots[..givers.len()], &to.slots[..takers.len()]);
        let (mut start, mut giver, mut taker) = (next.start, next.giver as usize, next.taker as usize);
        let mut count = 0;
        while count < BATCH && giver < givers.len() && taker < takers.len() {
            let (a, b) = (givers[giver], takers[taker]);
            let end = a.min(b);
            self.batch[count] = MergedStretch { start, end, giver: giver as u32, taker: taker as u32 };
            // Overwritten by the next stretch unless it moves. Between tokens that collide there is
            // no position.
            count += usize::from((start != end) & (self.counterparts[from[giver] as usize] != to[taker]));
            giver += usize::from(a <= b);
            taker += usize::from(b <= a);
            start = end;
        }
        *next = MergedStretch { start, end: start, giver: giver as u32, taker: taker as u32 };
        count
    }
}

/// Collects ranges that ascend, and joins those that touch and move between the same nodes.
pub(super) struct Moves<'a> {
    ranges: Vec<MovedRange<'a>>,
    /// The two slots of the last range, in one number. One of them alone often equals that of the
    /// range before, so the processor could not predict the outcome of comparing it.
    last: u64,
}

impl<'a> Moves<'a> {
    pub(super) fn with_capacity(ranges: usize) -> Self {
        Self { ranges: Vec::with_capacity(ranges), last: 0 }
    }

    /// Adds a range that moves between the nodes with these slots.
    #[inline]
    pub(super) fn push(&mut self, moved: MovedRange<'a>, (from, to): (u32, u32)) {
        let slots = u64::from(from) << 32 | u64::from(to);
        if slots == self.last
            && let Some(last) = self.ranges.last_mut()
            && last.range.end == moved.range.start
        {
            last.range.end = moved.range.end;
            return;
        }
        self.last = slots;
        self.ranges.push(moved);
    }

    /// Joins the last range to the first, if they are one range across position 0, and returns the
    /// movement.
    pub(super) fn finish(mut self) -> Movement<'a> {
        if let [first, .., last] = &mut self.ranges[..]
            && last.range.end == first.range.start
            && (last.from.id(), last.to.id()) == (first.from.id(), first.to.id())
        {
            first.range.start = last.range.start;
            self.ranges.pop();
        }
        if let [only] = &mut self.ranges[..] {
            only.range = whole_if_whole(only.range);
        }
        Movement { ranges: self.ranges }
    }
}

impl<'a> Movement<'a> {
    /// Returns the movement of these disjoint ranges, from the first node to the second. They are in
    /// any order. None of them passes position 0, and none is empty.
    pub(in crate::ring) fn of_pieces(mut pieces: Vec<(PositionRange, &'a Node, &'a Node)>) -> Self {
        pieces.sort_unstable_by_key(|(range, ..)| range.end);
        let mut moves = Moves::with_capacity(pieces.len());
        for (range, from, to) in pieces {
            match moves.ranges.last_mut() {
                Some(last)
                    if last.range.end == range.start && (last.from.id(), last.to.id()) == (from.id(), to.id()) =>
                {
                    last.range.end = range.end;
                }
                _ => moves.ranges.push(MovedRange { range, from, to }),
            }
        }
        moves.finish()
    }
}

/// Returns the range. The whole circle may start anywhere, so it is always written in one way: then
/// equal movements are equal.
pub(super) fn whole_if_whole(range: PositionRange) -> PositionRange {
    if range.start == range.end { PositionRange { start: Position::MAX, end: Position::MAX } } else { range }
}

/// A number that is higher than any slot.
pub(super) const NONE: u32 = u32::MAX;

/// Returns, for each slot before, the slot of the node with the same id after, or [`NONE`].
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
