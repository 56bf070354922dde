//! Going round a table, token by token.

use super::{
    Entry, Position, TokenTable,
    line::{CAPACITY, NOT_IN_LINE, PAD},
    pages,
};

/// An endless walk clockwise over the slots of tokens, lap after lap.
#[derive(Clone)]
pub(in crate::ring) struct SlotWalk<'a> {
    table: &'a TokenTable,
    bucket: usize,
    /// The index of the next token in its bucket. It may be beyond the last.
    index: usize,
}

impl<'a> SlotWalk<'a> {
    #[inline]
    pub(super) fn new(table: &'a TokenTable, bucket: usize, index: usize) -> Self {
        Self { table, bucket, index }
    }

    /// Returns the slot of the next token. The table must have tokens.
    #[inline]
    pub(in crate::ring) fn next(&mut self) -> u32 {
        if let Some(line) = self.table.lines.get(self.bucket) {
            let index = self.index & CAPACITY;
            let slot = line.slots[index];
            if line.prefixes[index] != PAD && slot != NOT_IN_LINE {
                self.index += 1;
                return u32::from(slot);
            }
        }
        self.next_slow()
    }

    /// Does what [`next`](Self::next) does, also if the line is at its end or the bucket is
    /// spilled.
    fn next_slow(&mut self) -> u32 {
        loop {
            if self.table.is_spilled(self.bucket) {
                if let Some(entry) = self.table.spill(self.bucket).get(self.index) {
                    self.index += 1;
                    return entry.slot;
                }
            } else if self.index < self.table.count(self.bucket) {
                self.index += 1;
                return u32::from(self.table.lines[self.bucket].slots[self.index - 1]);
            }
            self.index = 0;
            self.bucket += 1;
            if self.bucket == self.table.lines.len() {
                self.bucket = 0;
            }
        }
    }
}

/// An iterator over all tokens with their whole positions, clockwise from position 0.
#[derive(Clone)]
pub(in crate::ring) struct Entries<'a> {
    table: &'a TokenTable,
    bucket: usize,
    index: usize,
    /// The index in the page at which the residuals of the bucket's line start.
    start: usize,
    stride: u64,
    remaining: usize,
}

impl<'a> Entries<'a> {
    pub(super) fn new(table: &'a TokenTable) -> Self {
        Self { table, bucket: 0, index: 0, start: 0, stride: table.stride, remaining: table.len() }
    }
}

impl Iterator for Entries<'_> {
    type Item = Entry;

    #[inline]
    fn next(&mut self) -> Option<Entry> {
        while self.remaining > 0 {
            let bucket = self.bucket;
            if self.table.is_spilled(bucket) {
                if let Some(entry) = self.table.spill(bucket).get(self.index) {
                    self.index += 1;
                    self.remaining -= 1;
                    return Some(*entry);
                }
            } else if self.index < self.table.count(bucket) {
                let index = self.index & CAPACITY;
                let line = &self.table.lines[bucket];
                let residual = self.table.pages[bucket / pages::BUCKETS][self.start + index];
                self.index += 1;
                self.remaining -= 1;
                let position: Position = residual.position(bucket, line.prefixes[index], self.stride);
                return Some(Entry { position, slot: u32::from(line.slots[index]) });
            } else {
                self.start += self.index;
            }
            // The bucket has no more tokens. At the start of a page, the residuals start again at 0.
            self.bucket += 1;
            self.index = 0;
            if self.bucket.is_multiple_of(pages::BUCKETS) {
                self.start = 0;
            }
        }
        None
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.remaining, Some(self.remaining))
    }
}

impl ExactSizeIterator for Entries<'_> {}
