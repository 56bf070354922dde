//! The tokens of a ring in clockwise order: where they are, and which is the first at or after a position.
//!
//! The circle is cut into equal *buckets* of about 8 tokens (see [`TokensPerBucket`]). With the upper half of a position, its bucket is the
//! integer part of half / 2^32 * buckets, its *prefix* the next 15 bits. The page on look-ups (`src/docs/lookup.md`) explains why.
//!
//! Nodes are *slots* here: numbers that a node keeps for as long as it is in the ring. Their order has no meaning; where
//! tokens collide, the caller says which node comes first.

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

/// How many tokens a bucket a table is built for. With over a quarter more it is built anew, with more buckets, and with
/// under five eighths, with fewer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TokensPerBucket(usize);

impl TokensPerBucket {
    /// Of 16 places in a line 15 hold tokens. Of tokens that lie anywhere, under 1 bucket in 100 gets more than that.
    pub(super) const OF_RANDOM: Self = Self(8);
    /// Of tokens that were placed to even out what nodes own hardly any bucket does, after any changes, so there can be
    /// fewer of them.
    pub(super) const OF_EVEN: Self = Self(10);

    const fn is_crowded(self, tokens: usize, buckets: usize) -> bool {
        4 * tokens > 5 * self.0 * buckets
    }

    const fn is_sparse(self, tokens: usize, buckets: usize) -> bool {
        8 * tokens < 5 * self.0 * buckets
    }
}

/// With fewer, what lines and pages hold wouldn't be the whole of a position.
const FEWEST_BUCKETS: usize = 4;

/// In `counts`: the bucket's tokens are in a spill.
const SPILLED: u8 = 0x80;

/// A token: its position, and the slot of its node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) position: Position,
    pub(super) slot: u32,
}

/// What a table has around a position.
pub(super) struct Neighbours {
    /// The last token before the position, going round; the position itself if there is no token elsewhere.
    pub(super) before: Position,
    /// Whether there is a token on the very position.
    pub(super) is_at: bool,
    /// The slot that owns the position.
    pub(super) owner: u32,
}

/// Tokens by bucket. Invariants:
///
/// - `lines` and `counts` have one element a bucket, from [`FEWEST_BUCKETS`] to 2^19, and `counts` zeros behind; `pages`
///   has one for each [`pages::BUCKETS`] buckets;
/// - a bucket with more than [`line::CAPACITY`] tokens, with a token whose prefix is [`line::PAD`], or with a slot that
///   a line can't hold, is *spilled*: its tokens are in one of `spills`, and its line says in which;
/// - tokens ascend by position; where several share one, in the order the caller gave.
#[derive(Debug, Clone)]
pub(super) struct TokenTable {
    load: TokensPerBucket,
    lines: Lines,
    /// How many tokens a line holds, or [`SPILLED`]. To the end of the last page, so that all pages have as many.
    counts: Vec<u8>,
    pages: Vec<Page>,
    /// Never empty where in use; elsewhere its number is in `vacant`.
    spills: Vec<Vec<Entry>>,
    vacant: Vec<u32>,
    tokens: usize,
    /// How many positions share a bucket and a prefix, rounded down. Kept, since to divide costs more than to decode a
    /// token.
    stride: u64,
}

impl TokenTable {
    pub(super) fn len(&self) -> usize {
        self.tokens
    }

    /// What `by_slot` holds for the slot that owns `position`, that of the first token at or after it, going round; or
    /// `None` if that takes more than a look at one line, for [`owner_slow`](Self::owner_slow) to answer.
    ///
    /// `by_slot` has no element [`NOT_IN_LINE`], so that one comparison is enough for both.
    #[inline(always)]
    pub(super) fn owner<'n, N>(&self, position: Position, by_slot: &'n [N]) -> Option<&'n N> {
        let (bucket, prefix) = self.place(position);
        let line = self.lines.get(bucket)?;
        let rank = line.rank(prefix);
        let node = by_slot.get(usize::from(line.slots[rank]))?;
        // Where the prefixes are equal, only the whole positions tell.
        if line.prefixes[rank] == prefix { None } else { Some(node) }
    }

    /// The slot that owns a position whose line doesn't say so.
    pub(super) fn owner_slow(&self, position: Position) -> u32 {
        let (bucket, index) = self.successor(position);
        SlotWalk::new(self, bucket, index).next()
    }

    /// A walk clockwise over the slots of all tokens from the first at or after `position`.
    #[inline]
    pub(super) fn walk(&self, position: Position) -> SlotWalk<'_> {
        let (bucket, index) = self.locate(position);
        SlotWalk::new(self, bucket, index)
    }

    /// The bucket of a position and the index there of the first token at or after it; it may be one beyond the last.
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

    /// All tokens, clockwise from position 0.
    pub(super) fn iter(&self) -> Entries<'_> {
        Entries::new(self)
    }

    /// The bucket and the prefix of a position.
    #[inline(always)]
    fn place(&self, position: Position) -> (usize, u16) {
        place(position, self.lines.len())
    }

    /// As [`locate`](Self::locate), where more than the line is to be looked at.
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

    /// What is around a position.
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

    /// The position of the last token before this place, going round.
    fn last_before(&self, mut bucket: usize, mut index: usize) -> Option<Position> {
        // One lap and the first bucket once more, for the tokens in it that come after the place.
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

    /// How many tokens the line of a bucket that isn't spilled holds.
    fn count(&self, bucket: usize) -> usize {
        usize::from(self.counts[bucket])
    }

    /// How many tokens a bucket has.
    fn tokens_in(&self, bucket: usize) -> usize {
        if self.is_spilled(bucket) { self.spill(bucket).len() } else { self.count(bucket) }
    }

    fn spill(&self, bucket: usize) -> &[Entry] {
        &self.spills[self.lines[bucket].spill()]
    }

    /// Where in its page the residuals of a bucket's line start.
    #[inline]
    fn residuals_before(&self, bucket: usize) -> usize {
        const ONES: u64 = u64::from_ne_bytes([1; 8]);
        let page = self.counts.as_chunks::<{ pages::BUCKETS }>().0[bucket / pages::BUCKETS];
        // The counts of the page as one number, and those before the bucket alone. A product with ones has the sum of all bytes
        // in its top one: at most 15 times 15.
        let counts = u128::from_le_bytes(page) & u128::from_ne_bytes([!SPILLED; pages::BUCKETS]);
        let before = counts & ((1 << (8 * (bucket % pages::BUCKETS))) - 1);
        let sums = before as u64 + (before >> u64::BITS) as u64;
        (sums.wrapping_mul(ONES) >> (u64::BITS - 8)) as usize
    }

    /// How many residuals the lines of some buckets have.
    fn residuals_between(&self, first: usize, beyond: usize) -> usize {
        self.counts[first..beyond].iter().map(|count| usize::from(*count & !SPILLED)).sum()
    }

    /// A token in a line, given where in the page the residuals of that line start.
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

/// The bucket, of so many, and the prefix of a position. Both only grow with the position.
///
/// They are of the position's upper half alone: there are at most 2^19 buckets, so the product has 51 bits at the most, and a
/// look-up waits for a multiplication that is shorter by its upper half.
#[inline(always)]
fn place(position: Position, buckets: usize) -> (usize, u16) {
    let product = (position.as_u64() >> 32) * buckets as u64;
    ((product >> 32) as usize, (product as u32 >> (u32::BITS - PREFIX_BITS)) as u16)
}

impl Residual {
    /// The whole position of a token, from its bucket, prefix and these lowest 48 bits.
    ///
    /// With x the bucket's number followed by the prefix, the position is from x * 2^49 / buckets on, and less than
    /// 2^49 / buckets + 2^32 beyond, as `place` takes no notice of its lower half. As the stride is rounded, x * stride may be
    /// too low, by at most x, which is under 2^34. With three buckets or more, the position is less than 2^48 above
    /// x * stride, so its lowest 48 bits tell which it is.
    #[inline]
    fn position(self, bucket: usize, prefix: u16, stride: u64) -> Position {
        let x = (bucket as u64) << PREFIX_BITS | u64::from(prefix);
        Position::new(self.from(x.wrapping_mul(stride)))
    }
}
