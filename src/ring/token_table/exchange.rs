//! The movement between two tables with the same buckets, if few of their nodes differ.

use super::{
    Entry, Position, SPILLED, SlotWalk, TokenTable,
    line::{CAPACITY, Line, NOT_IN_LINE, PREFIX_BITS},
    pages::{self, Residual},
};

/// Two tables with the same buckets. Each of their nodes is *kept*, and has exactly the same tokens
/// in both, or it is *exchanged*.
///
/// A position moves only if the next token, in either table, is of an exchanged node: a token of a
/// kept node would be the next one in both. So whatever moves ends at a token of an exchanged node,
/// and of the other tokens only their neighbours are looked at.
pub(in crate::ring) struct Exchange<'t> {
    from: Side<'t>,
    to: Side<'t>,
}

/// One of the two tables.
struct Side<'t> {
    table: &'t TokenTable,
    /// For each slot, 1 if its node is exchanged. It has an element for every number of 16 bits, so
    /// that no slot is out of bounds. Only the elements that are read come into a cache.
    exchanged: Box<[u8; 1 << u16::BITS]>,
}

/// A stretch of positions with one owner before and one after.
pub(in crate::ring) struct Stretch {
    /// The last token before the stretch, in either table.
    pub(in crate::ring) start: Position,
    /// The last position of the stretch.
    pub(in crate::ring) end: Position,
    /// The slot of the owner before.
    pub(in crate::ring) from: u32,
    /// The slot of the owner after.
    pub(in crate::ring) to: u32,
}

impl<'t> Side<'t> {
    fn new(table: &'t TokenTable, slots: &[u32]) -> Option<Self> {
        let mut exchanged = Box::new([0; 1 << u16::BITS]);
        for slot in slots {
            let slot = u16::try_from(*slot).ok().filter(|slot| *slot < NOT_IN_LINE)?;
            exchanged[usize::from(slot)] = 1;
        }
        Some(Self { table, exchanged })
    }

    /// Returns the line and the residuals of a bucket. `residuals` are those of the page from this
    /// bucket on; they are advanced to the next bucket.
    #[inline(always)]
    fn half(&self, bucket: usize, residuals: &mut &'t [Residual]) -> Half<'t> {
        let (own, others) = residuals.split_at(usize::from(self.table.counts[bucket] & !SPILLED));
        *residuals = others;
        let near = ((bucket as u64) << PREFIX_BITS).wrapping_mul(self.table.stride);
        Half { line: &self.table.lines[bucket], residuals: own, near, stride: self.table.stride }
    }

    /// Returns which tokens of a line are of exchanged nodes, as bits, the first token in the
    /// lowest bit.
    ///
    /// Looks at places whether or not they have a token. That is cheaper than stopping at the last
    /// token, because the processor can't predict where to stop. It can only predict that there are
    /// hardly ever more than twelve.
    #[inline(always)]
    fn exchanged(&self, half: &Half<'_>) -> u32 {
        let tokens = half.residuals.len();
        let flag = |index: usize| u32::from(self.exchanged[usize::from(half.line.slots[index])]) << index;
        let mut all = (0..12).fold(0, |all, index| all | flag(index));
        if tokens > 12 {
            all |= (12..CAPACITY).fold(0, |all, index| all | flag(index));
        }
        all & ((1 << tokens) - 1)
    }

    fn is_exchanged(&self, slot: u32) -> bool {
        u16::try_from(slot).is_ok_and(|slot| self.exchanged[usize::from(slot)] == 1)
    }
}

/// A bucket that isn't spilled, in one of the tables.
struct Half<'t> {
    line: &'t Line,
    /// The residuals of the line's tokens.
    residuals: &'t [Residual],
    /// The number to which a prefix times the stride is added.
    near: u64,
    stride: u64,
}

impl Half<'_> {
    /// Returns the position of the last token. The line must have one.
    #[inline(always)]
    fn last(&self) -> u64 {
        self.position(self.residuals.len() - 1)
    }

    #[inline(always)]
    fn position(&self, index: usize) -> u64 {
        let prefix = u64::from(self.line.prefixes[index & CAPACITY]);
        self.residuals[index].from(self.near.wrapping_add(prefix.wrapping_mul(self.stride)))
    }
}

impl<'t> Exchange<'t> {
    /// Returns the exchange. `gone` are the slots of the exchanged nodes in `from`, `came` those in
    /// `to`. Returns `None` if the tables have different buckets, or if one of these slots is too
    /// high for lines.
    pub(in crate::ring) fn new(
        (from, gone): (&'t TokenTable, &[u32]),
        (to, came): (&'t TokenTable, &[u32]),
    ) -> Option<Self> {
        let alike = from.lines.len() == to.lines.len();
        Some(Self { from: Side::new(from, gone).filter(|_| alike)?, to: Side::new(to, came)? })
    }

    /// Calls `each` with all stretches that end at a token of an exchanged node, ascending by their
    /// end.
    pub(in crate::ring) fn for_each(&self, mut each: impl FnMut(Stretch)) {
        let sides = [&self.from, &self.to];
        let buckets = self.from.table.lines.len();
        for first in (0..buckets).step_by(pages::BUCKETS) {
            let mut residuals = sides.map(|side| &side.table.pages[first / pages::BUCKETS][..]);
            let mut previous = None;
            for bucket in first..buckets.min(first + pages::BUCKETS) {
                let [from, to] = &mut residuals;
                let halves = [self.from.half(bucket, from), self.to.half(bucket, to)];
                if sides.iter().any(|side| side.table.is_spilled(bucket)) {
                    self.for_each_in_any(bucket, None, &mut each);
                    previous = None;
                } else {
                    self.for_each_in_lines(bucket, previous.as_ref(), &halves, &mut each);
                    previous = Some(halves).filter(|halves| halves.iter().all(|half| !half.residuals.is_empty()));
                }
            }
        }
    }

    /// Calls `each` with the stretches of one bucket that is spilled in neither table. `previous`
    /// are the lines of the bucket before, if both have tokens.
    ///
    /// The processor can predict neither which table has the next token nor where its neighbours
    /// are, so there are few branches here.
    #[inline(always)]
    fn for_each_in_lines(
        &self,
        bucket: usize,
        previous: Option<&[Half<'_>; 2]>,
        halves: &[Half<'_>; 2],
        each: &mut impl FnMut(Stretch),
    ) {
        let [from, to] = halves;
        let mut exchanged = [self.from.exchanged(from), self.to.exchanged(to)];
        let mut last = None;
        while exchanged[0] | exchanged[1] != 0 {
            // If one table has no more of them, the index is that of the padding at the end, which
            // is above all prefixes.
            let indices = exchanged.map(|bits| (bits.trailing_zeros() as usize).min(CAPACITY));
            let side = usize::from(to.line.prefixes[indices[1]] < from.line.prefixes[indices[0]]);
            let (own, other) = (&halves[side], &halves[1 - side]);
            let index = indices[side];
            let prefix = own.line.prefixes[index];
            let rank = other.line.rank(prefix);
            let next = own.line.prefixes[(index + 1) & CAPACITY];
            let is_tie = (other.line.prefixes[rank] == prefix) | (next == prefix);
            if is_tie | (other.line.slots[rank] == NOT_IN_LINE) {
                // Only whole positions decide which token comes first, or only a walk finds the
                // owner.
                return self.for_each_in_any(bucket, last, each);
            }
            // The stretch starts at the nearer of the tokens before, one in each table.
            let end = own.position(index);
            let start = match (index, rank) {
                (0, 0) => match previous {
                    Some([from, to]) => from.last().max(to.last()),
                    None => self.last_before(bucket, end),
                },
                (0, _) => other.position(rank - 1),
                (_, 0) => own.position(index - 1),
                _ => own.position(index - 1).max(other.position(rank - 1)),
            };
            let slots = [own.line.slots[index], other.line.slots[rank]].map(u32::from);
            let (from, to) = (slots[side], slots[1 - side]);
            each(Stretch { start: Position::new(start), end: Position::new(end), from, to });
            exchanged[side] &= exchanged[side] - 1;
            last = Some(Position::new(end));
        }
    }

    /// Returns the nearer, seen from a position in a bucket, of the last tokens before the bucket
    /// in both tables, going round.
    #[inline(never)]
    fn last_before(&self, bucket: usize, position: u64) -> u64 {
        let last = |side: &Side<'_>| side.table.last_before(bucket, 0).map_or(position, Position::as_u64);
        let (from, to) = (last(&self.from), last(&self.to));
        // A token on the same position is a whole lap away.
        let back = |token: u64| position.wrapping_sub(token).wrapping_sub(1);
        if back(from) < back(to) { from } else { to }
    }

    /// Calls `each` with the stretches of one bucket of any kind that end beyond a position.
    #[cold]
    #[inline(never)]
    fn for_each_in_any(&self, bucket: usize, beyond: Option<Position>, each: &mut impl FnMut(Stretch)) {
        let (from, to) = (self.from.table.entries(bucket), self.to.table.entries(bucket));
        let is_any = |side: &Side<'_>, entries: &[Entry]| entries.iter().any(|entry| side.is_exchanged(entry.slot));
        if !is_any(&self.from, &from) && !is_any(&self.to, &to) {
            return;
        }
        // Merges the tokens of both tables. Each step is a stretch up to the next token of either.
        let (mut before, mut after) = (0, 0);
        let mut start = None;
        while let Some(end) = [from.get(before), to.get(after)].into_iter().flatten().map(|entry| entry.position).min()
        {
            let next = |side: &Side<'_>, entries: &[Entry], index: usize| match entries.get(index) {
                Some(entry) => entry.slot,
                None => SlotWalk::new(side.table, bucket, index).next(),
            };
            let (giver, taker) = (next(&self.from, &from, before), next(&self.to, &to, after));
            let is_new = beyond.is_none_or(|beyond| beyond < end);
            if is_new && (self.from.is_exchanged(giver) || self.to.is_exchanged(taker)) {
                let start = start.unwrap_or_else(|| Position::new(self.last_before(bucket, end.as_u64())));
                each(Stretch { start, end, from: giver, to: taker });
            }
            // Several tokens may stand at the end of the stretch.
            let beyond_end = |entries: &[Entry], index| index + entries[index..].partition_point(|e| e.position <= end);
            (before, after) = (beyond_end(&from, before), beyond_end(&to, after));
            start = Some(end);
        }
    }
}

impl TokenTable {
    /// Returns the tokens of a bucket.
    fn entries(&self, bucket: usize) -> Vec<Entry> {
        if self.is_spilled(bucket) {
            return self.spill(bucket).to_vec();
        }
        let start = self.residuals_before(bucket);
        (0..self.count(bucket)).map(|index| self.token(bucket, start, index)).collect()
    }
}
