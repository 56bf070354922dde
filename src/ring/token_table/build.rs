//! A table from nothing: tokens sorted by bucket, then within buckets.

use super::{
    Entry, FEWEST_BUCKETS, LEAST_LOAD, LOAD, MOST_LOAD, Position, SPILLED, TokenTable,
    line::{CAPACITY, ELSEWHERE, Line, PAD},
    pages::{self, Residual},
};

/// Buckets this long are left to the standard library's sort.
const LONG: usize = 40;

impl TokenTable {
    /// The table of these tokens, which may come in any order. Where several share a position, they keep their order.
    /// O(T) for T uniform tokens, O(T log T) for any.
    pub(in crate::ring) fn new(entries: &[Entry]) -> Self {
        let buckets = buckets_for(entries.len());
        let mut table = Self {
            lines: vec![Line::EMPTY; buckets],
            counts: vec![0; buckets],
            pages: vec![Vec::new(); buckets.div_ceil(pages::BUCKETS)],
            spills: Vec::new(),
            vacant: Vec::new(),
            tokens: entries.len(),
        };
        let (mut sorted, ends) = table.sorted_by_bucket(entries);
        let mut start = 0;
        for (first, ends) in (0..).step_by(pages::BUCKETS).zip(ends.chunks(pages::BUCKETS)) {
            let page_tokens = ends.last().map_or(0, |end| *end as usize - start);
            table.pages[first / pages::BUCKETS].reserve_exact(page_tokens);
            for (bucket, end) in (first..).zip(ends) {
                let bucket_entries = &mut sorted[start..*end as usize];
                sort(bucket_entries);
                table.fill(bucket, bucket_entries);
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
            *self = Self::new(&self.iter().collect::<Vec<_>>());
        }
    }

    /// The entries by bucket, in each in their old order; and for each bucket where it ends.
    fn sorted_by_bucket(&self, entries: &[Entry]) -> (Vec<Entry>, Vec<u32>) {
        let mut ends = vec![0_u32; self.lines.len()];
        for entry in entries {
            ends[self.place(entry.position).0] += 1;
        }
        let mut next = 0;
        for end in &mut ends {
            // Where the bucket starts, for now. Every entry put in moves it on, and so it becomes the end.
            let count = std::mem::replace(end, next);
            next += count;
        }
        let mut sorted = vec![Entry { position: Position::MIN, slot: 0 }; entries.len()];
        for entry in entries {
            let place = &mut ends[self.place(entry.position).0];
            sorted[*place as usize] = *entry;
            *place += 1;
        }
        (sorted, ends)
    }

    /// Puts a bucket's tokens, which are sorted, into its line, or else into a spill. The bucket is empty, the residuals
    /// go to the end of the page, and the sentinel isn't set.
    fn fill(&mut self, bucket: usize, entries: &[Entry]) {
        if !self.fit_a_line(entries) {
            self.counts[bucket] = SPILLED;
            self.lines[bucket] = Line::spilled(self.spills.len() as u32);
            self.spills.push(entries.to_vec());
            return;
        }
        let mut line = Line::EMPTY;
        for ((entry, prefix), slot) in entries.iter().zip(&mut line.prefixes).zip(&mut line.slots) {
            *prefix = self.place(entry.position).1;
            *slot = entry.slot as u16;
        }
        self.lines[bucket] = line;
        self.counts[bucket] = entries.len() as u8;
        let residuals = entries.iter().map(|entry| Residual::new(entry.position.as_u64()));
        self.pages[bucket / pages::BUCKETS].extend(residuals);
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

/// By position; keeps the order of equal ones.
fn sort(entries: &mut [Entry]) {
    if entries.len() > LONG {
        entries.sort_by_key(|entry| entry.position);
        return;
    }
    for unsorted in 1..entries.len() {
        let entry = entries[unsorted];
        let mut place = unsorted;
        while place > 0 && entries[place - 1].position > entry.position {
            entries[place] = entries[place - 1];
            place -= 1;
        }
        entries[place] = entry;
    }
}
