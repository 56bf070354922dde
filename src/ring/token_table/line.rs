//! What a look-up reads: one cache line a bucket.

/// The most tokens a line holds. The sixteenth place of `prefixes` is always [`PAD`], that of `slots` the sentinel of a
/// full line.
pub(super) const CAPACITY: usize = 15;

/// Above every prefix that a token in a line may have.
pub(super) const PAD: i16 = i16::MAX;

/// Not a slot: the answer is to be had elsewhere. So slots from here on don't stand in lines.
pub(super) const ELSEWHERE: u16 = u16::MAX;

/// The tokens of one bucket: 16 bits of each position, ascending, and the slots of their nodes.
///
/// Behind the last token's slot stands the *sentinel*: the slot of the first token beyond this bucket. So whatever the
/// rank of a position among the tokens here, from none of them to all, the slot at that rank owns it.
///
/// The line of a spilled bucket has [`ELSEWHERE`] in all slots, and the number of its spill in the first two prefixes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C, align(64))]
pub(super) struct Line {
    /// The 16 bits that follow the bucket's number, with the top bit flipped: SSE2 compares signed numbers only.
    pub(super) prefixes: [i16; CAPACITY + 1],
    pub(super) slots: [u16; CAPACITY + 1],
}

impl Line {
    pub(super) const EMPTY: Self = Self { prefixes: [PAD; CAPACITY + 1], slots: [ELSEWHERE; CAPACITY + 1] };

    pub(super) fn spilled(spill: u32) -> Self {
        let mut line = Self::EMPTY;
        [line.prefixes[0], line.prefixes[1]] = [spill as i16, (spill >> 16) as i16];
        line
    }

    /// The number of the spill, if this is the line of a spilled bucket.
    pub(super) fn spill(&self) -> usize {
        usize::from(self.prefixes[0] as u16) | usize::from(self.prefixes[1] as u16) << 16
    }

    /// How many prefixes are below this one: at most [`CAPACITY`], as none is above the last, [`PAD`].
    #[inline(always)]
    pub(super) fn rank(&self, prefix: i16) -> usize {
        rank(&self.prefixes, prefix)
    }

    pub(super) fn insert(&mut self, index: usize, count: usize, prefix: i16, slot: u16) {
        self.prefixes.copy_within(index..count, index + 1);
        self.prefixes[index] = prefix;
        self.slots.copy_within(index..=count, index + 1);
        self.slots[index] = slot;
    }

    pub(super) fn remove(&mut self, index: usize, count: usize) {
        self.prefixes.copy_within(index + 1..=count, index);
        self.slots.copy_within(index + 1..=count, index);
    }
}

/// Compares all sixteen, without a branch: cheaper than to stop at the right one, which can't be predicted.
#[inline(always)]
fn rank(prefixes: &[i16; CAPACITY + 1], prefix: i16) -> usize {
    usize::from(prefixes.iter().map(|other| u16::from(*other < prefix)).sum::<u16>())
}
