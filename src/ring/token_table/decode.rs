//! Whole positions from lines and pages, for many tokens at once.

use std::ops::Range;

use super::{
    Entry, Position, SlotWalk, TokenTable,
    line::{CAPACITY, PREFIX_BITS},
    pages,
};

/// Number of places in the lines of a page.
const PLACES: usize = pages::BUCKETS * (CAPACITY + 1);

/// Tokens that ascend by position.
#[derive(Default)]
pub(in crate::ring) struct DecodedTokens {
    pub(in crate::ring) positions: Vec<Position>,
    /// The slot of the node of each token.
    pub(in crate::ring) slots: Vec<u32>,
}

impl DecodedTokens {
    fn push(&mut self, entry: Entry) {
        self.positions.push(entry.position);
        self.slots.push(entry.slot);
    }
}

/// Decodes the tokens of whole buckets.
///
/// Lines are copied with all their places, each over the end of the one before. So no branch
/// depends on the number of tokens in a line, which the processor can't predict. Then one loop
/// decodes many tokens.
pub(in crate::ring) struct Decoder {
    /// For each token, the number of its bucket in the page, followed by the prefix.
    places: [u32; PLACES],
    slots: [u16; PLACES],
}

impl Decoder {
    pub(in crate::ring) fn new() -> Self {
        Self { places: [0; PLACES], slots: [0; PLACES] }
    }

    /// Adds all tokens of a table, and then the last position of the circle with its owner.
    pub(in crate::ring) fn decode_all(&mut self, table: &TokenTable, tokens: &mut DecodedTokens) {
        let buckets = table.lines.len();
        tokens.positions.reserve(table.len() + 1);
        tokens.slots.reserve(table.len() + 1);
        for first in (0..buckets).step_by(pages::BUCKETS) {
            self.decode(table, first..buckets.min(first + pages::BUCKETS), tokens);
        }
        tokens.push(Entry { position: Position::MAX, slot: SlotWalk::new(table, 0, 0).next() });
    }

    /// Appends the tokens of some buckets of one page.
    fn decode(&mut self, table: &TokenTable, buckets: Range<usize>, tokens: &mut DecodedTokens) {
        let first = buckets.start & !(pages::BUCKETS - 1);
        let mut residuals = table.residuals_between(first, buckets.start);
        let mut collected = 0;
        for bucket in buckets {
            if table.is_spilled(bucket) {
                self.complete(table, first, residuals, collected, tokens);
                residuals += collected;
                collected = 0;
                table.spill(bucket).iter().for_each(|entry| tokens.push(*entry));
                continue;
            }
            let line = &table.lines[bucket];
            let of_bucket = ((bucket - first) as u32) << PREFIX_BITS;
            let places = &mut self.places[collected..][..CAPACITY + 1];
            places.iter_mut().zip(&line.prefixes).for_each(|(place, prefix)| *place = of_bucket | u32::from(*prefix));
            self.slots[collected..][..CAPACITY + 1].copy_from_slice(&line.slots);
            collected += table.count(bucket);
        }
        self.complete(table, first, residuals, collected, tokens);
    }

    /// Adds the lowest bits to the first `count` places, and appends the tokens. `start` is the
    /// index, in the page of bucket `first`, at which those bits start.
    fn complete(&self, table: &TokenTable, first: usize, start: usize, count: usize, tokens: &mut DecodedTokens) {
        let stride = table.stride;
        let near = ((first as u64) << PREFIX_BITS).wrapping_mul(stride);
        let residuals = &table.pages[first / pages::BUCKETS][start..start + count];
        tokens.positions.extend(residuals.iter().zip(&self.places).map(|(residual, place)| {
            Position::new(residual.from(near.wrapping_add(u64::from(*place).wrapping_mul(stride))))
        }));
        tokens.slots.extend(self.slots[..count].iter().map(|slot| u32::from(*slot)));
    }
}
