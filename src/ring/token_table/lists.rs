//! A table's lines with a whole list of slots for each token, instead of one slot.

use super::{
    Position, SlotWalk, TokenTable, large_pages,
    line::{CAPACITY, NOT_IN_LINE, PAD, rank},
};

/// Number of ranks that a position may have in a bucket: one for each token, and one for the
/// sentinel.
const RANKS: usize = CAPACITY + 1;

/// Number of numbers of 2 bytes in a cache line.
const CACHE_LINE: usize = 32;

/// For each token, a list of the first slots of a walk that starts at it. All lists have the same
/// length.
///
/// A bucket takes `RANKS * (1 + copies)` numbers. First come the prefixes of its line. Then comes,
/// for each rank that a position may have among them, the list of the token at that rank. After the
/// last token's list comes that of the first token beyond the bucket. So the answer stands next to
/// the prefixes that decide it.
///
/// If the bucket is spilled, or a slot in one of its lists doesn't fit 2 bytes, then the lists are
/// [`NOT_IN_LINE`]. The first two prefixes are then the number of the bucket's first list in `far`,
/// which has one list for each token and one more.
#[derive(Clone, Debug)]
pub(in crate::ring) struct Lists {
    near: Aligned,
    far: Vec<u32>,
    copies: usize,
}

/// One list. It is in one of the two slices, and the other is empty.
pub(in crate::ring) type List<'a> = (&'a [u16], &'a [u32]);

impl Lists {
    /// Returns the lists of the first `copies` slots that `list` returns for a walk. It must return
    /// at least as many.
    pub(in crate::ring) fn new<'t, I: Iterator<Item = u32>>(
        table: &'t TokenTable,
        copies: usize,
        list: impl Fn(SlotWalk<'t>) -> I,
    ) -> Self {
        let near = Aligned::new(table.lines.len() * RANKS * (1 + copies));
        let mut lists = Self { near, far: Vec::new(), copies };
        // Backwards, because the list after a bucket's last token is the first list of the buckets
        // beyond.
        let mut beyond: Vec<_> = list(SlotWalk::new(table, 0, 0)).take(copies).collect();
        let mut here = Vec::new();
        for bucket in (0..table.lines.len()).rev() {
            here.clear();
            (0..table.tokens_in(bucket))
                .for_each(|index| here.extend(list(SlotWalk::new(table, bucket, index)).take(copies)));
            here.extend_from_slice(&beyond);
            beyond.copy_from_slice(&here[..copies]);
            lists.put(table, bucket, &here);
        }
        lists
    }

    fn put(&mut self, table: &TokenTable, bucket: usize, slots: &[u32]) {
        let numbers = RANKS * (1 + self.copies);
        let (prefixes, lists) = self.near.numbers_mut()[bucket * numbers..][..numbers].split_at_mut(RANKS);
        if !table.is_spilled(bucket) && slots.iter().all(|slot| *slot < u32::from(NOT_IN_LINE)) {
            prefixes.copy_from_slice(&table.lines[bucket].prefixes);
            lists.iter_mut().zip(slots).for_each(|(number, slot)| *number = *slot as u16);
            return;
        }
        // Fits 32 bits: there are at most as many lists as tokens and buckets.
        let first = self.far.len().checked_div(self.copies).unwrap_or(0);
        prefixes.fill(PAD);
        [prefixes[0], prefixes[1]] = [first as u16, (first >> 16) as u16];
        self.far.extend_from_slice(slots);
    }

    /// Returns the number of slots in each list.
    pub(in crate::ring) fn copies(&self) -> usize {
        self.copies
    }

    /// Returns the list of the first token at or after a position. `table` is the one that the
    /// lists were made from.
    #[inline(always)]
    pub(in crate::ring) fn at(&self, table: &TokenTable, position: Position) -> List<'_> {
        let (bucket, prefix) = table.place(position);
        let (prefixes, lists) = self.bucket(bucket);
        let rank = rank(prefixes, prefix);
        let list = &lists[rank * self.copies..][..self.copies];
        // If the prefixes are equal, only the whole positions decide.
        if prefixes[rank] == prefix || list.first() == Some(&NOT_IN_LINE) {
            return self.at_slow(table, position);
        }
        (list, &[])
    }

    /// Does what [`at`](Self::at) does, also if the prefixes do not decide or the list is in `far`.
    #[cold]
    #[inline(never)]
    fn at_slow(&self, table: &TokenTable, position: Position) -> List<'_> {
        let (bucket, index) = table.locate(position);
        let (prefixes, lists) = self.bucket(bucket);
        if lists.first() == Some(&NOT_IN_LINE) {
            let first = usize::from(prefixes[0]) | usize::from(prefixes[1]) << 16;
            return (&[], &self.far[(first + index) * self.copies..][..self.copies]);
        }
        (&lists[index * self.copies..][..self.copies], &[])
    }

    #[inline(always)]
    fn bucket(&self, bucket: usize) -> (&[u16; RANKS], &[u16]) {
        let numbers = RANKS * (1 + self.copies);
        let bucket = &self.near.numbers()[bucket * numbers..][..numbers];
        bucket.split_first_chunk().expect("a bucket begins with its prefixes")
    }
}

/// Numbers that start at the start of a cache line, all [`NOT_IN_LINE`] at first. So a bucket's
/// prefixes are in one cache line, and with three copies its lists are in that and the next.
#[derive(Debug)]
struct Aligned {
    buffer: Vec<u16>,
    start: usize,
}

impl Aligned {
    fn new(len: usize) -> Self {
        let mut buffer = large_pages::with_capacity(len + CACHE_LINE - 1);
        buffer.resize(len + CACHE_LINE - 1, NOT_IN_LINE);
        let start = buffer.as_ptr().align_offset(CACHE_LINE * size_of::<u16>()).min(CACHE_LINE - 1);
        Self { buffer, start }
    }

    fn len(&self) -> usize {
        self.buffer.len() - (CACHE_LINE - 1)
    }

    #[inline(always)]
    fn numbers(&self) -> &[u16] {
        &self.buffer[self.start..]
    }

    fn numbers_mut(&mut self) -> &mut [u16] {
        &mut self.buffer[self.start..]
    }
}

impl Clone for Aligned {
    fn clone(&self) -> Self {
        let mut clone = Self::new(self.len());
        let len = self.len();
        clone.numbers_mut()[..len].copy_from_slice(&self.numbers()[..len]);
        clone
    }
}
