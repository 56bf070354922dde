//! What a look-up reads: one cache line a bucket.

use std::ops::{Deref, DerefMut};

use super::large_pages;

/// The most tokens a line holds. The sixteenth place of `prefixes` is always [`PAD`], that of `slots` the sentinel of a
/// full line.
pub(super) const CAPACITY: usize = 15;

/// Above every prefix that a token in a line may have.
pub(super) const PAD: u16 = (1 << PREFIX_BITS) - 1;

/// With the sixteenth bit free, one subtraction compares two prefixes.
pub(super) const PREFIX_BITS: u32 = 15;

/// Not a slot: the answer is to be had elsewhere. So slots from here on don't stand in lines.
pub(in crate::ring) const NOT_IN_LINE: u16 = u16::MAX;

/// The tokens of one bucket: 15 bits of each position, ascending, and the slots of their nodes.
///
/// Behind the last token's slot stands the *sentinel*: the slot of the first token beyond this bucket. So whatever the
/// rank of a position among the tokens here, from none of them to all, the slot at that rank owns it. Behind the
/// sentinel all slots are [`NOT_IN_LINE`], so that lines of the same tokens are the same.
///
/// The line of a spilled bucket has [`NOT_IN_LINE`] in all slots, and the number of its spill in the first two prefixes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C, align(64))]
pub(super) struct Line {
    pub(super) prefixes: [u16; CAPACITY + 1],
    pub(super) slots: [u16; CAPACITY + 1],
}

impl Line {
    pub(super) const EMPTY: Self = Self { prefixes: [PAD; CAPACITY + 1], slots: [NOT_IN_LINE; CAPACITY + 1] };

    pub(super) fn spilled(spill: u32) -> Self {
        let mut line = Self::EMPTY;
        [line.prefixes[0], line.prefixes[1]] = [spill as u16, (spill >> 16) as u16];
        line
    }

    /// The number of the spill, if this is the line of a spilled bucket.
    pub(super) fn spill(&self) -> usize {
        usize::from(self.prefixes[0]) | usize::from(self.prefixes[1]) << 16
    }

    /// How many prefixes are below this one: at most [`CAPACITY`], as none is above the last, [`PAD`].
    #[inline(always)]
    pub(super) fn rank(&self, prefix: u16) -> usize {
        rank(&self.prefixes, prefix)
    }

    /// Puts a token in at an index, where there is room for it.
    #[inline(always)]
    pub(super) fn insert(&mut self, index: usize, prefix: u16, slot: u16) {
        insert(&mut self.prefixes, index, prefix);
        insert(&mut self.slots, index, slot);
    }

    /// Takes out the token at an index.
    #[inline(always)]
    pub(super) fn remove(&mut self, index: usize) {
        remove(&mut self.prefixes, index, PAD);
        remove(&mut self.slots, index, NOT_IN_LINE);
    }
}

type Places = [u16; CAPACITY + 1];

/// Places in words of four, of which those before each index are set.
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

#[inline(always)]
fn words(places: &Places) -> [u64; 4] {
    let word = |four: &[u16]| (0..4).fold(0, |word, place| word | u64::from(four[place]) << (16 * place));
    std::array::from_fn(|number| word(&places[4 * number..4 * number + 4]))
}

#[inline(always)]
fn places(words: [u64; 4]) -> Places {
    std::array::from_fn(|place| (words[place / 4] >> (16 * (place % 4))) as u16)
}

#[inline(always)]
fn insert(line: &mut Places, index: usize, value: u16) {
    let (old, before) = (words(line), &BEFORE[index]);
    let moved = |number: usize| old[number] << 16 | number.checked_sub(1).map_or(0, |lower| old[lower] >> 48);
    *line = places(std::array::from_fn(|number| old[number] & before[number] | moved(number) & !before[number]));
    line[index] = value;
}

#[inline(always)]
fn remove(line: &mut Places, index: usize, last: u16) {
    let (old, before) = (words(line), &BEFORE[index]);
    let moved = |number: usize| old[number] >> 16 | old.get(number + 1).map_or(u64::from(last), |upper| *upper) << 48;
    *line = places(std::array::from_fn(|number| old[number] & before[number] | moved(number) & !before[number]));
}

/// How many of these are below `prefix`: at most [`CAPACITY`], whatever they are.
///
/// Looks at all sixteen, without a branch: cheaper than to stop at the right one, which can't be predicted.
///
/// If the program is compiled for processors that count bits (x86-64-v2 and later), compilers make a mask of the comparisons
/// and count its bits. For others they would count in a dozen steps: there, the difference has its top bit set where a prefix
/// is below, and compilers make a few vector instructions of the sum.
#[inline(always)]
pub(super) fn rank(prefixes: &[u16; CAPACITY + 1], prefix: u16) -> usize {
    if cfg!(target_feature = "popcnt") {
        // Signed, which needs no more than one instruction. With 15 bits it is the same.
        return prefixes.iter().filter(|other| (**other as i16) < prefix as i16).count() & CAPACITY;
    }
    usize::from(prefixes.iter().map(|other| other.wrapping_sub(prefix) >> 15).sum::<u16>()) & CAPACITY
}

/// The lines of all buckets, side by side.
#[derive(Debug, Default)]
pub(super) struct Lines(Vec<Line>);

impl Lines {
    /// None, with room for so many.
    pub(super) fn with_capacity(buckets: usize) -> Self {
        Self(large_pages::with_capacity(buckets))
    }

    /// Adds lines without tokens, until there are so many.
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
