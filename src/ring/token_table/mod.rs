//! The tokens of a ring in clockwise order, and the search for the first one at or after a
//! position.
//!
//! The circle is cut into equal *buckets* of about 8 tokens (see [`TokensPerBucket`]). With the
//! upper half of a position, its bucket is the integer part of half / 2^32 * buckets, and its *prefix*
//! is the next 15 bits. The page on look-ups (`src/docs/lookup.md`) explains why.
//!
//! A node is a *slot* here: a number that the node keeps for as long as it is in the ring. The
//! order of slots has no meaning. If tokens collide, the caller says which node comes first.
//!
//! In reading order:
//!
//! - [`line`](mod@line): the cache line of a bucket, which nearly every look-up reads alone;
//! - [`pages`]: the lowest bits of each position, which lines leave out;
//! - this file: the table, look-ups, and the way from lines and pages back to whole positions;
//! - [`walk`]: going round token by token;
//! - [`build`]: a table from nothing; [`change`]: tokens that come and go;
//! - [`decode`] and [`exchange`]: many tokens at once, for movements;
//! - [`lists`]: a table with a whole list of slots for each token, for replicas;
//! - [`large_pages`]: the memory of lines, and the only `unsafe` code.

mod build;
mod change;
mod decode;
mod exchange;
mod large_pages;
mod line;
mod lists;
mod pages;
#[cfg(test)]
mod tests;
mod walk;

use super::Position;
use line::{Lines, PREFIX_BITS};

pub(super) use line::NOT_IN_LINE;
use pages::{Page, Residual};

pub(super) use decode::{DecodedTokens, Decoder};
pub(super) use exchange::Exchange;
pub(super) use lists::{List, Lists};
pub(super) use walk::{Entries, SlotWalk};

/// The number of tokens in a bucket for which a table is built. With over a quarter more tokens the
/// table is built again with more buckets, and with under five eighths with fewer buckets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TokensPerBucket(usize);

impl TokensPerBucket {
    /// For tokens at random positions. A line has 15 places for tokens; under 1 bucket in 100 gets
    /// more than that.
    pub(super) const OF_RANDOM: Self = Self(8);
    /// For tokens that were placed to even out what nodes own. Hardly any bucket gets more than 15,
    /// after any changes, so there can be fewer buckets.
    pub(super) const OF_EVEN: Self = Self(10);

    const fn is_crowded(self, tokens: usize, buckets: usize) -> bool {
        4 * tokens > 5 * self.0 * buckets
    }

    const fn is_sparse(self, tokens: usize, buckets: usize) -> bool {
        8 * tokens < 5 * self.0 * buckets
    }
}

/// Minimum number of buckets. With fewer, lines and pages would not have all bits of a position.
const FEWEST_BUCKETS: usize = 4;

/// The value in `counts` of a bucket whose tokens are in a spill.
const SPILLED: u8 = 0x80;

/// A token: its position and the slot of its node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) position: Position,
    pub(super) slot: u32,
}

/// The tokens around a position.
pub(super) struct Neighbours {
    /// The last token before the position, going round. It is the position itself if no token is at
    /// another position.
    pub(super) before: Position,
    /// Whether there is a token exactly at the position.
    pub(super) is_at: bool,
    /// The slot that owns the position.
    pub(super) owner: u32,
}

/// Tokens by bucket. Invariants:
///
/// - `lines` and `counts` have one element for each bucket, from [`FEWEST_BUCKETS`] to 2^19 of
///   them, and `counts` has zeros after those. `pages` has one element for each [`pages::BUCKETS`]
///   buckets.
/// - A bucket is *spilled* if it has more than [`line::CAPACITY`] tokens, a token whose prefix is
///   [`line::PAD`], or a slot that a line can't hold. Its tokens are then in one of `spills`, and
///   its line says in which.
/// - Tokens ascend by position. Tokens at one position are in the order that the caller gave.
#[derive(Clone, Debug)]
pub(super) struct TokenTable {
    load: TokensPerBucket,
    lines: Lines,
    /// Number of tokens in each line, or [`SPILLED`]. It goes on to the end of the last page, so
    /// that all pages have as many.
    counts: Vec<u8>,
    pages: Vec<Page>,
    /// The tokens of spilled buckets. A spill in use is never empty.
    spills: Vec<Vec<Entry>>,
    /// The numbers of the spills that are not in use.
    vacant: Vec<u32>,
    /// Number of tokens.
    tokens: usize,
    /// Number of positions that share a bucket and a prefix, rounded down. It is kept because a
    /// division costs more than decoding a token.
    stride: u64,
}

impl TokenTable {
    pub(super) fn len(&self) -> usize {
        self.tokens
    }

    /// Returns the element of `by_slot` for the slot that owns `position`: the slot of the first
    /// token at or after it, going round. Returns `None` if one line does not have the answer; then
    /// [`owner_slow`](Self::owner_slow) has it.
    ///
    /// `by_slot` has no element [`NOT_IN_LINE`], so one comparison finds both a slot that is none
    /// and a slot out of bounds.
    #[inline(always)]
    pub(super) fn owner<'n, N>(&self, position: Position, by_slot: &'n [N]) -> Option<&'n N> {
        let (bucket, prefix) = self.place(position);
        let line = self.lines.get(bucket)?;
        let rank = line.rank(prefix);
        let node = by_slot.get(usize::from(line.slots[rank]))?;
        // If the prefixes are equal, only the whole positions decide.
        if line.prefixes[rank] == prefix { None } else { Some(node) }
    }

    /// Returns the slot that owns `position`, also if its line does not have the answer.
    pub(super) fn owner_slow(&self, position: Position) -> u32 {
        let (bucket, index) = self.successor(position);
        SlotWalk::new(self, bucket, index).next()
    }

    /// Returns a walk clockwise over the slots of all tokens, from the first at or after
    /// `position`.
    #[inline]
    pub(super) fn walk(&self, position: Position) -> SlotWalk<'_> {
        let (bucket, index) = self.locate(position);
        SlotWalk::new(self, bucket, index)
    }

    /// Returns the bucket of a position, and the index there of the first token at or after it,
    /// which may be one beyond the last.
    #[inline]
    fn locate(&self, position: Position) -> (usize, usize) {
        let (bucket, prefix) = self.place(position);
        let line = &self.lines[bucket];
        let rank = line.rank(prefix);
        if line.prefixes[rank] != prefix && line.slots[rank] != NOT_IN_LINE {
            return (bucket, rank);
        }
        self.successor(position)
    }

    /// Returns all tokens, clockwise from position 0.
    pub(super) fn iter(&self) -> Entries<'_> {
        Entries::new(self)
    }

    /// Returns the bucket and the prefix of a position.
    #[inline(always)]
    fn place(&self, position: Position) -> (usize, u16) {
        place(position, self.lines.len())
    }

    /// Does what [`locate`](Self::locate) does, also if the line does not have the answer.
    #[inline(never)]
    fn successor(&self, position: Position) -> (usize, usize) {
        let (bucket, prefix) = self.place(position);
        if self.is_spilled(bucket) {
            return (bucket, self.spill(bucket).partition_point(|entry| entry.position < position));
        }
        let line = &self.lines[bucket];
        let start = self.residuals_before(bucket);
        let mut index = line.rank(prefix);
        while line.prefixes[index] == prefix
            && index < self.count(bucket)
            && self.token(bucket, start, index).position < position
        {
            index += 1;
        }
        (bucket, index)
    }

    /// Returns the tokens around a position.
    pub(super) fn neighbours(&self, position: Position) -> Neighbours {
        let (bucket, index) = self.successor(position);
        let at = match self.is_spilled(bucket) {
            true => self.spill(bucket).get(index).map(|entry| entry.position),
            false => {
                (index < self.count(bucket)).then(|| self.token(bucket, self.residuals_before(bucket), index).position)
            }
        };
        Neighbours {
            before: self.last_before(bucket, index).unwrap_or(position),
            is_at: at == Some(position),
            owner: SlotWalk::new(self, bucket, index).next(),
        }
    }

    /// Returns the position of the last token before this place, going round, or `None` if there is
    /// none.
    fn last_before(&self, mut bucket: usize, mut index: usize) -> Option<Position> {
        // One lap, and the first bucket once more, because of the tokens in it that come after the
        // place.
        for _ in 0..=self.lines.len() {
            if let Some(index) = index.checked_sub(1) {
                return Some(match self.is_spilled(bucket) {
                    true => self.spill(bucket)[index].position,
                    false => self.token(bucket, self.residuals_before(bucket), index).position,
                });
            }
            bucket = bucket.checked_sub(1).unwrap_or(self.lines.len() - 1);
            index = self.tokens_in(bucket);
        }
        None
    }

    fn is_spilled(&self, bucket: usize) -> bool {
        self.counts[bucket] == SPILLED
    }

    /// Returns the number of tokens in the line of a bucket that isn't spilled.
    fn count(&self, bucket: usize) -> usize {
        usize::from(self.counts[bucket])
    }

    /// Returns the number of tokens in a bucket, spilled or not.
    fn tokens_in(&self, bucket: usize) -> usize {
        if self.is_spilled(bucket) { self.spill(bucket).len() } else { self.count(bucket) }
    }

    fn spill(&self, bucket: usize) -> &[Entry] {
        &self.spills[self.lines[bucket].spill()]
    }

    /// Returns the index in the page at which the residuals of a bucket's line start.
    #[inline]
    fn residuals_before(&self, bucket: usize) -> usize {
        const ONES: u64 = u64::from_ne_bytes([1; 8]);
        let page = self.counts.as_chunks::<{ pages::BUCKETS }>().0[bucket / pages::BUCKETS];
        // The counts of the page are taken as one number, and those of the buckets before are kept.
        // The top byte of a product with ones is the sum of all bytes: at most 15 times 15.
        let counts = u128::from_le_bytes(page) & u128::from_ne_bytes([!SPILLED; pages::BUCKETS]);
        let before = counts & ((1 << (8 * (bucket % pages::BUCKETS))) - 1);
        let sums = before as u64 + (before >> u64::BITS) as u64;
        (sums.wrapping_mul(ONES) >> (u64::BITS - 8)) as usize
    }

    /// Returns the number of residuals of the lines from bucket `first` up to but not including
    /// `beyond`.
    fn residuals_between(&self, first: usize, beyond: usize) -> usize {
        self.counts[first..beyond].iter().map(|count| usize::from(*count & !SPILLED)).sum()
    }

    /// Returns a token in a line, given the index in the page at which the residuals of that line
    /// start.
    #[inline]
    fn token(&self, bucket: usize, start: usize, index: usize) -> Entry {
        let line = &self.lines[bucket];
        let residual = self.pages[bucket / pages::BUCKETS][start + index];
        Entry {
            position: residual.position(bucket, line.prefixes[index], self.stride),
            slot: u32::from(line.slots[index]),
        }
    }
}

/// Returns the bucket, of `buckets` in all, and the prefix of a position. Both only grow with the
/// position.
///
/// They depend only on the upper half of the position. There are at most 2^19 buckets, so the
/// product has at most 51 bits. A look-up then waits for a multiplication without an upper half,
/// which is shorter.
#[inline(always)]
fn place(position: Position, buckets: usize) -> (usize, u16) {
    let product = (position.as_u64() >> 32) * buckets as u64;
    ((product >> 32) as usize, (product as u32 >> (u32::BITS - PREFIX_BITS)) as u16)
}

impl Residual {
    /// Returns the whole position of a token, from its bucket, its prefix and these lowest 48 bits.
    ///
    /// Let x be the bucket's number followed by the prefix. The position is at least x * 2^49 /
    /// buckets, and less than 2^49 / buckets + 2^32 above that, because `place` ignores the lower
    /// half. The stride is rounded, so x * stride may be too low by at most x, which is under 2^34.
    /// With three buckets or more, the position is less than 2^48 above x * stride, so its lowest
    /// 48 bits determine it.
    #[inline]
    fn position(self, bucket: usize, prefix: u16, stride: u64) -> Position {
        let x = (bucket as u64) << PREFIX_BITS | u64::from(prefix);
        Position::new(self.from(x.wrapping_mul(stride)))
    }
}
