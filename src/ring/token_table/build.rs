//! A table from nothing: tokens are dealt to sections, then to buckets, then sorted within each
//! bucket.

use super::{
    Entry, FEWEST_BUCKETS, Position, SPILLED, TokenTable, TokensPerBucket,
    line::{CAPACITY, Line, Lines, NOT_IN_LINE, PAD, PREFIX_BITS},
    pages::{self, Residual},
    place,
};

impl TokenTable {
    /// Returns the table of these tokens, which may come in any order. `count` is about their
    /// number. Tokens at one position keep their order. O(T) for T uniform tokens, O(T log T) for
    /// any.
    pub(in crate::ring) fn new(load: TokensPerBucket, count: usize, entries: impl IntoIterator<Item = Entry>) -> Self {
        let mut builder = Self::builder(load, count);
        entries.into_iter().for_each(|entry| builder.push(entry));
        builder.finish()
    }

    /// Returns a builder that takes the tokens one by one.
    pub(in crate::ring) fn builder(load: TokensPerBucket, count: usize) -> TableBuilder {
        TableBuilder::new(load, buckets_for(load, count))
    }

    /// Builds the table again if there are too many tokens a bucket, or too few. That is rare: the
    /// cost, spread over the tokens that came or went since the last time, is constant for each.
    pub(super) fn reshape(&mut self) {
        let buckets = self.lines.len();
        let is_sparse = self.load.is_sparse(self.tokens, buckets) && buckets > FEWEST_BUCKETS;
        if is_sparse || self.load.is_crowded(self.tokens, buckets) {
            *self = Self::new(self.load, self.tokens, self.iter());
        }
    }

    /// Whether a line can hold these tokens.
    pub(super) fn fit_a_line(&self, entries: &[Entry]) -> bool {
        entries.len() <= CAPACITY && entries.iter().all(|entry| self.fits_a_line(*entry))
    }

    /// Whether a line can hold this token.
    pub(super) fn fits_a_line(&self, entry: Entry) -> bool {
        entry.slot < u32::from(NOT_IN_LINE) && self.place(entry.position).1 != PAD
    }

    /// Returns the sentinel for the line before: the slot of the first token in this bucket, or
    /// beyond if the bucket is empty.
    pub(super) fn head(&self, bucket: usize) -> u16 {
        match self.is_spilled(bucket) {
            true => u16::try_from(self.spill(bucket)[0].slot).unwrap_or(NOT_IN_LINE),
            false => self.lines[bucket].slots[0],
        }
    }
}

/// Number of neighbouring buckets that are filled together. It is a whole number of pages, and
/// small enough that all their lines and residuals are in a fast cache while tokens come in any
/// order.
const SECTION: usize = 32 * pages::BUCKETS;

/// A table that is being built. Tokens are dealt to sections of the circle first, and then, section
/// by section, to their buckets.
pub(in crate::ring) struct TableBuilder {
    /// The table. It has the lines of the sections that are finished.
    table: TokenTable,
    /// Number of buckets when it is finished.
    buckets: usize,
    /// The tokens of each section in the order in which they came.
    sections: Vec<Vec<PackedEntry>>,
    /// The residuals of each line of a section, in the order in which the tokens came. They go to
    /// their pages when their number is known.
    residuals: Vec<[Residual; CAPACITY]>,
}

/// An [`Entry`] without padding. All tokens of a ring are in sections at once, and touching new
/// memory costs as much as the work that is done in it.
#[derive(Clone, Copy)]
struct PackedEntry([u32; 3]);

impl From<Entry> for PackedEntry {
    #[inline]
    fn from(entry: Entry) -> Self {
        let position = entry.position.as_u64();
        Self([position as u32, (position >> 32) as u32, entry.slot])
    }
}

impl From<PackedEntry> for Entry {
    #[inline]
    fn from(PackedEntry([low, high, slot]): PackedEntry) -> Self {
        Self { position: Position::new(u64::from(low) | u64::from(high) << 32), slot }
    }
}

impl TableBuilder {
    fn new(load: TokensPerBucket, buckets: usize) -> Self {
        let table = TokenTable {
            load,
            lines: Lines::with_capacity(buckets),
            stride: (1 << (u64::BITS - PREFIX_BITS)) / buckets as u64,
            counts: vec![0; buckets.next_multiple_of(pages::BUCKETS)],
            pages: Vec::with_capacity(buckets.div_ceil(pages::BUCKETS)),
            spills: Vec::new(),
            vacant: Vec::new(),
            tokens: 0,
        };
        // Uniform tokens hardly ever need more room.
        let expected = buckets.min(SECTION) * (load.0 + 1);
        let sections = (0..buckets.div_ceil(SECTION)).map(|_| Vec::with_capacity(expected)).collect();
        Self { table, buckets, sections, residuals: vec![[Residual::ZERO; CAPACITY]; buckets.min(SECTION)] }
    }

    #[inline]
    pub(in crate::ring) fn push(&mut self, entry: Entry) {
        self.sections[place(entry.position, self.buckets).0 / SECTION].push(entry.into());
    }

    pub(in crate::ring) fn finish(mut self) -> TokenTable {
        for section in std::mem::take(&mut self.sections) {
            self.finish_section(section);
        }
        self.table.set_sentinels_before(0);
        self.table
    }

    /// Finishes all buckets of a section, so that none of their lines is written, or read again,
    /// when it has left the cache.
    fn finish_section(&mut self, section: Vec<PackedEntry>) {
        let first = self.table.lines.len();
        let beyond = self.buckets.min(first + SECTION);
        self.table.lines.grow_to(beyond);
        self.table.tokens += section.len();
        let spilled_before = self.table.spills.len();
        let has_tokens = !section.is_empty();
        // Each token goes to its line, unsorted; then the lines are sorted, page by page, and the
        // spills.
        section.into_iter().for_each(|dealt| self.put(dealt.into()));
        for first in (first..beyond).step_by(pages::BUCKETS) {
            self.finish_page(first, beyond.min(first + pages::BUCKETS));
        }
        for spill in &mut self.table.spills[spilled_before..] {
            // Stable, so that tokens that collide keep their order.
            spill.sort_by_key(|entry| entry.position);
            spill.shrink_to_fit();
        }
        // Then the sentinels, backwards. The sentinels after the section's last token follow with
        // the next section that has a token.
        let mut head = 0;
        for bucket in (first..beyond).rev() {
            if !self.table.is_spilled(bucket) {
                let count = self.table.count(bucket);
                self.table.lines[bucket].slots[count] = head;
            }
            head = self.table.head(bucket);
        }
        if has_tokens {
            self.table.set_sentinels_before(first);
        }
    }

    #[inline]
    fn put(&mut self, entry: Entry) {
        let (bucket, prefix) = place(entry.position, self.buckets);
        let count = usize::from(self.table.counts[bucket]);
        if count >= CAPACITY || prefix == PAD || entry.slot >= u32::from(NOT_IN_LINE) {
            self.put_in_spill(bucket, entry);
            return;
        }
        let line = &mut self.table.lines[bucket];
        line.prefixes[count] = prefix;
        line.slots[count] = entry.slot as u16;
        self.residuals[bucket % SECTION][count] = Residual::new(entry.position.as_u64());
        self.table.counts[bucket] += 1;
    }

    /// Puts a token into the spill of its bucket, which gets one first if it has none.
    #[cold]
    fn put_in_spill(&mut self, bucket: usize, entry: Entry) {
        if !self.table.is_spilled(bucket) {
            let entries = self.entries(bucket);
            self.table.counts[bucket] = SPILLED;
            self.table.lines[bucket] = Line::spilled(self.table.spills.len() as u32);
            self.table.spills.push(entries);
        }
        let spill = self.table.lines[bucket].spill();
        self.table.spills[spill].push(entry);
    }

    /// Returns the tokens of a line, in the order in which they came.
    fn entries(&self, bucket: usize) -> Vec<Entry> {
        let line = &self.table.lines[bucket];
        let residuals = &self.residuals[bucket % SECTION];
        let tokens = line.prefixes.iter().zip(&line.slots).zip(residuals).take(self.table.count(bucket));
        tokens
            .map(|((prefix, slot), residual)| Entry {
                position: residual.position(bucket, *prefix, self.table.stride),
                slot: u32::from(*slot),
            })
            .collect()
    }

    /// Sorts the lines of a page, and makes the page.
    fn finish_page(&mut self, first: usize, beyond: usize) {
        let mut page = vec![Residual::ZERO; self.table.residuals_between(first, beyond)];
        let mut rest = &mut page[..];
        for bucket in first..beyond {
            if !self.table.is_spilled(bucket) {
                let (residuals, others) = rest.split_at_mut(self.table.count(bucket));
                self.arrange(bucket, residuals);
                rest = others;
            }
        }
        self.table.pages.push(page);
    }

    /// Puts a line's tokens in ascending order, without a sort: the place of each is the number of
    /// prefixes below its own. No branch depends on the order in which the tokens came, so the
    /// processor can predict every branch.
    #[inline]
    fn arrange(&mut self, bucket: usize, residuals: &mut [Residual]) {
        let unsorted = self.table.lines[bucket];
        let line = &mut self.table.lines[bucket];
        let mut taken = 0_u32;
        let tokens =
            unsorted.prefixes.iter().zip(&unsorted.slots).zip(&self.residuals[bucket % SECTION]).take(residuals.len());
        for ((prefix, slot), residual) in tokens {
            let rank = unsorted.rank(*prefix);
            line.prefixes[rank] = *prefix;
            line.slots[rank] = *slot;
            residuals[rank] = *residual;
            taken |= 1 << rank;
        }
        // If two prefixes are equal, two tokens went to one place, and one place is not taken.
        if taken.count_ones() as usize != residuals.len() {
            self.table.lines[bucket] = unsorted;
            self.sort(bucket, residuals);
        }
    }

    /// Does what [`arrange`](Self::arrange) does, for a line with equal prefixes.
    #[cold]
    fn sort(&mut self, bucket: usize, residuals: &mut [Residual]) {
        let mut entries = self.entries(bucket);
        // Stable, so that tokens that collide keep their order.
        entries.sort_by_key(|entry| entry.position);
        for (index, entry) in entries.into_iter().enumerate() {
            let prefix = place(entry.position, self.buckets).1;
            let line = &mut self.table.lines[bucket];
            line.prefixes[index] = prefix;
            line.slots[index] = entry.slot as u16;
            residuals[index] = Residual::new(entry.position.as_u64());
        }
    }
}

/// Returns the number of buckets for a number of tokens. Only numbers with four significant bits
/// are used, so two rings of nearly the same size are likely to have the same buckets, which makes
/// comparing them faster.
fn buckets_for(load: TokensPerBucket, tokens: usize) -> usize {
    let wanted = (tokens / load.0).max(FEWEST_BUCKETS);
    let unit = 1 << wanted.ilog2().saturating_sub(3);
    (wanted + unit / 2) / unit * unit
}
