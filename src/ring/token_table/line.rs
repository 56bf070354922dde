//! What a look-up reads: one cache line for each bucket.

use std::ops::{Deref, DerefMut};

use super::large_pages;

/// Maximum number of tokens in a line. The sixteenth place of `prefixes` is always [`PAD`]; that of
/// `slots` is the sentinel of a full line.
pub(super) const CAPACITY: usize = 15;

/// The prefix in places without a token. It is above every prefix that a token in a line may have.
pub(super) const PAD: u16 = (1 << PREFIX_BITS) - 1;

/// Number of bits in a prefix. The sixteenth bit is free, so one subtraction compares two prefixes.
pub(super) const PREFIX_BITS: u32 = 15;

/// The value, in a place for a slot, that says that the line does not have the slot: a slower
/// search has the answer. So a node with this slot or a higher one does not stand in lines.
pub(in crate::ring) const NOT_IN_LINE: u16 = u16::MAX;

/// The tokens of one bucket: 15 bits of each position, ascending, and the slots of their nodes.
///
/// After the last token's slot stands the *sentinel*: the slot of the first token beyond this
/// bucket. So whatever the rank of a position among the tokens here, from none of them to all, the
/// slot at that rank owns the position. After the sentinel all slots are [`NOT_IN_LINE`], so that
/// lines with the same tokens are equal.
///
/// The line of a spilled bucket has [`NOT_IN_LINE`] in all slots, and the number of its spill in
/// the first two prefixes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C, align(64))]
pub(super) struct Line {
    pub(super) prefixes: [u16; CAPACITY + 1],
    pub(super) slots: [u16; CAPACITY + 1],
}

impl Line {
    pub(super) const EMPTY: Self = Self { prefixes: [PAD; CAPACITY + 1], slots: [NOT_IN_LINE; CAPACITY + 1] };

    /// Returns the line of a spilled bucket.
    pub(super) fn spilled(spill: u32) -> Self {
        let mut line = Self::EMPTY;
        [line.prefixes[0], line.prefixes[1]] = [spill as u16, (spill >> 16) as u16];
        line
    }

    /// Returns the number of the spill. This has to be the line of a spilled bucket.
    pub(super) fn spill(&self) -> usize {
        usize::from(self.prefixes[0]) | usize::from(self.prefixes[1]) << 16
    }

    /// Returns the number of prefixes below this one: at most [`CAPACITY`], because the last prefix
    /// is [`PAD`] and none is above it.
    #[inline(always)]
    pub(super) fn rank(&self, prefix: u16) -> usize {
        rank(&self.prefixes, prefix)
    }

    /// Inserts a token at an index. The line must have room for it.
    #[inline(always)]
    pub(super) fn insert(&mut self, index: usize, prefix: u16, slot: u16) {
        insert(&mut self.prefixes, index, prefix);
        insert(&mut self.slots, index, slot);
    }

    /// Removes the token at an index.
    #[inline(always)]
    pub(super) fn remove(&mut self, index: usize) {
        remove(&mut self.prefixes, index, PAD);
        remove(&mut self.slots, index, NOT_IN_LINE);
    }
}

/// The prefixes or the slots of a line.
type Places = [u16; CAPACITY + 1];

/// For each index, a mask of the places before it, as words of four places.
const BEFORE: [[u64; 4]; CAPACITY + 1] = {
    let mut before = [[0; 4]; CAPACITY + 1];
    let mut index = 0;
    while index <= CAPACITY {
        let mut place = 0;
        while place < index {
            before[index][place / 4] |= (u16::MAX as u64) << (16 * (place % 4));
            place += 1;
        }
        index += 1;
    }
    before
};

/// Returns the places as four words.
#[inline(always)]
fn words(places: &Places) -> [u64; 4] {
    let word = |four: &[u16]| (0..4).fold(0, |word, place| word | u64::from(four[place]) << (16 * place));
    std::array::from_fn(|number| word(&places[4 * number..4 * number + 4]))
}

/// Returns the places in these words.
#[inline(always)]
fn places(words: [u64; 4]) -> Places {
    std::array::from_fn(|place| (words[place / 4] >> (16 * (place % 4))) as u16)
}

/// Inserts a value at an index: the places from there on move up by one, without a branch.
#[inline(always)]
fn insert(line: &mut Places, index: usize, value: u16) {
    let (old, before) = (words(line), &BEFORE[index]);
    let moved = |number: usize| old[number] << 16 | number.checked_sub(1).map_or(0, |lower| old[lower] >> 48);
    *line = places(std::array::from_fn(|number| old[number] & before[number] | moved(number) & !before[number]));
    line[index] = value;
}

/// Removes the value at an index: the places after it move down by one, without a branch, and
/// `last` becomes the last one.
#[inline(always)]
fn remove(line: &mut Places, index: usize, last: u16) {
    let (old, before) = (words(line), &BEFORE[index]);
    let moved = |number: usize| old[number] >> 16 | old.get(number + 1).map_or(u64::from(last), |upper| *upper) << 48;
    *line = places(std::array::from_fn(|number| old[number] & before[number] | moved(number) & !before[number]));
}

/// Returns the number of these prefixes that are below `prefix`. The last bits are masked, so the
/// compiler sees that the result is at most [`CAPACITY`], whatever the prefixes are.
///
/// Looks at all sixteen, without a branch. That is cheaper than stopping at the right one, because
/// the processor can't predict where to stop.
///
/// If the program is compiled for processors that count bits (x86-64-v2 and later), compilers make
/// a mask of the comparisons and count its bits. For other processors that count would take a dozen
/// steps. There, the difference has its top bit set if a prefix is below, and compilers make a few
/// vector instructions of the sum.
#[inline(always)]
pub(super) fn rank(prefixes: &[u16; CAPACITY + 1], prefix: u16) -> usize {
    if cfg!(target_feature = "popcnt") {
        // A signed comparison takes one instruction. With 15 bits its outcome is the same.
        return prefixes.iter().filter(|other| (**other as i16) < prefix as i16).count() & CAPACITY;
    }
    usize::from(prefixes.iter().map(|other| other.wrapping_sub(prefix) >> 15).sum::<u16>()) & CAPACITY
}

/// The lines of all buckets, side by side in memory.
#[derive(Debug, Default)]
pub(super) struct Lines(Vec<Line>);

impl Lines {
    /// Returns no lines, with room for those of `buckets`.
    pub(super) fn with_capacity(buckets: usize) -> Self {
        Self(large_pages::with_capacity(buckets))
    }

    /// Adds lines without tokens until there is one for each of `buckets`.
    pub(super) fn grow_to(&mut self, buckets: usize) {
        self.0.resize(buckets, Line::EMPTY);
    }
}

impl Clone for Lines {
    fn clone(&self) -> Self {
        let mut lines = large_pages::with_capacity(self.0.len());
        lines.extend_from_slice(&self.0);
        Self(lines)
    }
}

impl Deref for Lines {
    type Target = [Line];

    #[inline(always)]
    fn deref(&self) -> &[Line] {
        &self.0
    }
}

impl DerefMut for Lines {
    #[inline(always)]
    fn deref_mut(&mut self) -> &mut [Line] {
        &mut self.0
    }
}
