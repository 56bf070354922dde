//! Two tables of the same buckets, compared bucket by bucket.

use std::ops::Range;

use super::{
    Position, SPILLED, TokenTable,
    decode::{Decoder, Tokens},
    line::{ELSEWHERE, Line},
    pages::{self, Residual},
};

/// Two tables that have the same buckets.
pub(in crate::ring) struct SideBySide<'t> {
    from: &'t TokenTable,
    to: &'t TokenTable,
    /// For each slot in `from`, that of the same node in `to`, or no slot if it isn't there; and behind them
    /// [`ELSEWHERE`], for what is no slot. Empty if some slots are too high for lines: then nothing is said of any line.
    kept: Vec<u32>,
}

/// The tokens of some buckets in a row in two tables, and behind them on both sides the last position of those buckets
/// with the owner that it has.
pub(in crate::ring) struct Run<'b> {
    /// The last position before the buckets.
    pub(in crate::ring) start: Position,
    pub(in crate::ring) from: &'b Tokens,
    pub(in crate::ring) to: &'b Tokens,
}

/// The buckets of a page, from the lowest bit up.
type Buckets = u32;

impl<'t> SideBySide<'t> {
    /// Unless the tables' buckets differ. `counterparts` has for each slot in `from` that of the same node in `to`, if
    /// there is one, and something higher than all slots otherwise.
    pub(in crate::ring) fn new(from: &'t TokenTable, to: &'t TokenTable, counterparts: &[u32]) -> Option<Self> {
        let kept = match counterparts.len() <= usize::from(ELSEWHERE) {
            true => counterparts.iter().copied().chain([u32::from(ELSEWHERE)]).collect(),
            false => Vec::new(),
        };
        (from.lines.len() == to.lines.len()).then_some(Self { from, to, kept })
    }

    /// Calls back with all buckets in which the owner of some position differs, and with some others.
    pub(in crate::ring) fn for_each_differing_run(&self, mut differing: impl FnMut(Run<'_>)) {
        let (mut decoder, mut from, mut to) = (Decoder::new(), Tokens::default(), Tokens::default());
        let buckets = self.from.lines.len();
        for first in (0..buckets).step_by(pages::BUCKETS) {
            let beyond = buckets.min(first + pages::BUCKETS);
            for_each_run(self.differing(first..beyond), |run| {
                let run = first + run.start..first + run.end;
                from.clear();
                decoder.decode_run(self.from, run.clone(), &mut from);
                to.clear();
                decoder.decode_run(self.to, run.clone(), &mut to);
                differing(Run { start: self.from.last_position_before(run.start), from: &from, to: &to });
            });
        }
    }

    /// Those of a page's buckets in which something differs, and maybe others.
    fn differing(&self, buckets: Range<usize>) -> Buckets {
        let all = Buckets::MAX >> (Buckets::BITS as usize - buckets.len());
        let lines = self.from.lines[buckets.clone()].iter().zip(&self.to.lines[buckets.clone()]);
        let counts = self.from.counts[buckets.clone()].iter().zip(&self.to.counts[buckets.clone()]);
        let differ = lines.zip(counts).map(|((from, to), (from_count, to_count))| {
            (from_count | to_count) & SPILLED != 0 || !self.is_equal(from, to)
        });
        let mut differing = (0..).zip(differ).fold(0, |all, (index, differs)| all | Buckets::from(differs) << index);
        if differing.count_ones() as usize > buckets.len() / 2 {
            // To go through all of them at once costs less than to stop and start.
            return all;
        }
        // Nearly always the rest is equal too.
        let page = buckets.start / pages::BUCKETS;
        if differing == 0 && self.from.pages[page] == self.to.pages[page] {
            return 0;
        }
        let (mut from_start, mut to_start) = (0, 0);
        for (index, bucket) in buckets.enumerate() {
            let from = self.from.residuals(bucket, from_start);
            let to = self.to.residuals(bucket, to_start);
            (from_start, to_start) = (from_start + from.len(), to_start + to.len());
            if differing >> index & 1 == 0 && from != to {
                differing |= 1 << index;
            }
        }
        differing
    }

    /// Whether both lines hold the same prefixes of the same nodes, and what comes beyond belongs to the same node too.
    #[inline]
    fn is_equal(&self, from: &Line, to: &Line) -> bool {
        let Some(last) = self.kept.len().checked_sub(1) else { return false };
        // Equal prefixes are equally many, so on both sides there are slots up to the sentinel, and `ELSEWHERE` after.
        let kept = |slot: &u16| self.kept[usize::from(*slot).min(last)];
        let mut slots = from.slots.iter().zip(&to.slots);
        from.prefixes == to.prefixes && slots.all(|(from, to)| kept(from) == u32::from(*to))
    }
}

/// Splits a set of buckets into runs of neighbours.
fn for_each_run(mut buckets: Buckets, mut each: impl FnMut(Range<usize>)) {
    let mut base = 0;
    while buckets != 0 {
        let start = buckets.trailing_zeros();
        let len = (!(buckets >> start)).trailing_zeros();
        each((base + start) as usize..(base + start + len) as usize);
        base += start + len;
        buckets = buckets.checked_shr(start + len).unwrap_or(0);
    }
}

impl TokenTable {
    fn residuals(&self, bucket: usize, start: usize) -> &[Residual] {
        let count = usize::from(self.counts[bucket] & !SPILLED);
        &self.pages[bucket / pages::BUCKETS][start..start + count]
    }
}
