//! A table from nothing: tokens sorted by bucket, then within buckets.

use super::{
    Entry, FEWEST_BUCKETS, LEAST_LOAD, LOAD, MOST_LOAD, Position, SPILLED, TokenTable,
    line::{CAPACITY, ELSEWHERE, Line, PAD},
    pages::{self, Residual},
};

impl TokenTable {
    /// The table of these tokens, which may come in any order; `count` says how many they are. Where several share a
    /// position, they keep their order. O(T) for T uniform tokens, O(T log T) for any.
    pub(in crate::ring) fn new(count: usize, entries: impl IntoIterator<Item = Entry>) -> Self {
        let buckets = buckets_for(count);
        let mut table = Self {
            lines: vec![Line::EMPTY; buckets],
            counts: vec![0; buckets],
            pages: vec![Vec::new(); buckets.div_ceil(pages::BUCKETS)],
            spills: Vec::new(),
            vacant: Vec::new(),
            tokens: 0,
        };
        let (mut sorted, ends) = table.sorted_by_bucket(count, entries);
        table.tokens = sorted.len();
        let mut start = 0;
        for (first, ends) in (0..).step_by(pages::BUCKETS).zip(ends.chunks(pages::BUCKETS)) {
            let page_tokens = ends.last().map_or(0, |end| *end as usize - start);
            table.pages[first / pages::BUCKETS].reserve_exact(page_tokens);
            for (bucket, end) in (first..).zip(ends) {
                table.fill(bucket, &mut sorted[start..*end as usize]);
                start = *end as usize;
            }
        }
        table.set_all_sentinels();
        table
    }

    /// Builds anew if there are too many tokens a bucket, or too few. Rare enough that the tokens that came or went
    /// since the last time pay for it.
    pub(super) fn reshape(&mut self) {
        let buckets = self.lines.len();
        let crowded = self.tokens > buckets * MOST_LOAD;
        let sparse = self.tokens < buckets * LEAST_LOAD && buckets > FEWEST_BUCKETS;
        if crowded || sparse {
            *self = Self::new(self.tokens, self.iter());
        }
    }

    /// The entries by bucket, in each in their old order; and for each bucket where it ends.
    fn sorted_by_bucket(&self, count: usize, entries: impl IntoIterator<Item = Entry>) -> (Vec<Entry>, Vec<u32>) {
        let mut ends = vec![0_u32; self.lines.len()];
        let mut unsorted = Vec::with_capacity(count);
        unsorted.extend(entries.into_iter().inspect(|entry| ends[self.place(entry.position).0] += 1));
        let mut next = 0;
        for end in &mut ends {
            // Where the bucket starts, for now. Every entry put in moves it on, and so it becomes the end.
            let count = std::mem::replace(end, next);
            next += count;
        }
        let mut sorted = vec![Entry { position: Position::MIN, slot: 0 }; unsorted.len()];
        for entry in unsorted {
            let place = &mut ends[self.place(entry.position).0];
            sorted[*place as usize] = entry;
            *place += 1;
        }
        (sorted, ends)
    }

    /// Puts a bucket's tokens into its line, or else into a spill. The bucket is empty, its residuals go to the end of
    /// the page, and its sentinel isn't set.
    fn fill(&mut self, bucket: usize, entries: &mut [Entry]) {
        if self.fill_by_rank(bucket, entries) {
            return;
        }
        // Stable, so that tokens that collide keep their order.
        entries.sort_by_key(|entry| entry.position);
        if self.fit_a_line(entries) {
            let mut line = Line::EMPTY;
            for ((entry, prefix), slot) in entries.iter().zip(&mut line.prefixes).zip(&mut line.slots) {
                *prefix = self.place(entry.position).1;
                *slot = entry.slot as u16;
            }
            self.lines[bucket] = line;
            self.counts[bucket] = entries.len() as u8;
            let residuals = entries.iter().map(|entry| Residual::new(entry.position.as_u64()));
            self.pages[bucket / pages::BUCKETS].extend(residuals);
        } else {
            self.counts[bucket] = SPILLED;
            self.lines[bucket] = Line::spilled(self.spills.len() as u32);
            self.spills.push(entries.to_vec());
        }
    }

    /// Fills a line without sorting: a token goes where as many prefixes are below its own. There is no branch in this
    /// that depends on the tokens' order, and so none that can't be predicted. Doesn't do it, and says so, if two
    /// prefixes are equal or the tokens don't fit a line.
    #[inline]
    fn fill_by_rank(&mut self, bucket: usize, entries: &[Entry]) -> bool {
        if entries.len() > CAPACITY || !self.fit_a_line(entries) {
            return false;
        }
        let mut unsorted = Line::EMPTY;
        for (entry, prefix) in entries.iter().zip(&mut unsorted.prefixes) {
            *prefix = self.place(entry.position).1;
        }
        let mut line = Line::EMPTY;
        let mut residuals = [Residual::new(0); CAPACITY + 1];
        let mut taken = 0_u32;
        for (entry, prefix) in entries.iter().zip(unsorted.prefixes) {
            let rank = unsorted.rank(prefix);
            line.prefixes[rank] = prefix;
            line.slots[rank] = entry.slot as u16;
            residuals[rank] = Residual::new(entry.position.as_u64());
            taken |= 1 << rank;
        }
        if taken.count_ones() as usize != entries.len() {
            return false;
        }
        self.lines[bucket] = line;
        self.counts[bucket] = entries.len() as u8;
        self.pages[bucket / pages::BUCKETS].extend_from_slice(&residuals[..entries.len()]);
        true
    }

    pub(super) fn fit_a_line(&self, entries: &[Entry]) -> bool {
        entries.len() <= CAPACITY && entries.iter().all(|entry| self.fits_a_line(*entry))
    }

    pub(super) fn fits_a_line(&self, entry: Entry) -> bool {
        entry.slot < u32::from(ELSEWHERE) && self.place(entry.position).1 != PAD
    }

    fn set_all_sentinels(&mut self) {
        let mut beyond =
            (0..self.lines.len()).find(|bucket| self.counts[*bucket] > 0).map_or(0, |first| self.head(first));
        for bucket in (0..self.lines.len()).rev() {
            if !self.is_spilled(bucket) {
                let count = self.count(bucket);
                self.lines[bucket].slots[count] = beyond;
            }
            beyond = self.head(bucket);
        }
    }

    /// What stands as the sentinel in the line before: the slot of the first token here, or beyond if here is none.
    pub(super) fn head(&self, bucket: usize) -> u16 {
        match self.is_spilled(bucket) {
            true => u16::try_from(self.spill(bucket)[0].slot).unwrap_or(ELSEWHERE),
            false => self.lines[bucket].slots[0],
        }
    }
}

/// About one for each [`LOAD`] tokens, but only numbers with four significant bits: two rings of nearly the same size
/// are likely to have the same buckets, which makes comparing them faster.
fn buckets_for(tokens: usize) -> usize {
    let wanted = (tokens / LOAD).max(FEWEST_BUCKETS);
    let unit = 1 << wanted.ilog2().saturating_sub(3);
    (wanted + unit / 2) / unit * unit
}
