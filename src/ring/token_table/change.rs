//! Tokens that come and go. Only their buckets are touched, and the sentinels before those.

use super::{
    Entry, Position, SPILLED, TokenTable,
    line::{CAPACITY, Line},
    pages::{self, Residual},
};

/// Maximum number of tokens with which a spilled bucket goes back into its line. It is a little
/// below what a line can hold, so that one token that comes and goes doesn't move the whole bucket
/// each time.
const UNSPILL: usize = CAPACITY - 3;

impl TokenTable {
    /// Inserts tokens of one slot, which ascend. `precedes(a, b)` says whether slot `a` comes
    /// before slot `b` at a position where both have a token. It is a strict order.
    pub(in crate::ring) fn insert(&mut self, slot: u32, tokens: &[Position], precedes: impl Fn(u32, u32) -> bool) {
        self.put(slot, tokens, precedes);
        self.reshape();
    }

    /// Removes tokens of one slot, given their positions, which ascend. Returns how many of them
    /// were there.
    pub(in crate::ring) fn remove(&mut self, slot: u32, tokens: &[Position]) -> usize {
        let removed = self.take(slot, tokens);
        self.reshape();
        removed
    }

    /// Gives one token to another slot. Returns whether the token was there.
    ///
    /// The number of tokens stays, so this never builds the table again.
    pub(in crate::ring) fn reassign(&mut self, token: Entry, to: u32, precedes: impl Fn(u32, u32) -> bool) -> bool {
        // Removed and inserted again, because among tokens that collide the new owner may have
        // another place.
        let found = self.take(token.slot, &[token.position]) > 0;
        if found {
            self.put(to, &[token.position], precedes);
        }
        found
    }

    fn put(&mut self, slot: u32, tokens: &[Position], precedes: impl Fn(u32, u32) -> bool) {
        self.for_each_bucket(tokens, |table, bucket, tokens| table.insert_into(bucket, slot, tokens, &precedes));
        self.tokens += tokens.len();
    }

    fn take(&mut self, slot: u32, tokens: &[Position]) -> usize {
        let before = self.tokens;
        self.for_each_bucket(tokens, |table, bucket, tokens| table.tokens -= table.remove_from(bucket, slot, tokens));
        before - self.tokens
    }

    /// Splits ascending tokens by bucket, and calls `change` with each part. So no bucket is
    /// changed twice, and the sentinels before it are set only once, however long a run of empty
    /// lines they are in.
    fn for_each_bucket(&mut self, tokens: &[Position], mut change: impl FnMut(&mut Self, usize, &[Position])) {
        let mut rest = tokens;
        while let [first, others @ ..] = rest {
            let bucket = self.place(*first).0;
            let here = 1 + others.iter().take_while(|token| self.place(**token).0 == bucket).count();
            let (tokens, beyond) = rest.split_at(here);
            let head = self.head(bucket);
            change(self, bucket, tokens);
            self.update_sentinels(bucket, head);
            rest = beyond;
        }
    }

    /// Inserts these tokens of a slot, which are all in one bucket.
    fn insert_into(&mut self, bucket: usize, slot: u32, tokens: &[Position], precedes: impl Fn(u32, u32) -> bool) {
        let fits = |token: &Position| self.fits_a_line(Entry { position: *token, slot });
        if !self.is_spilled(bucket) {
            if self.count(bucket) + tokens.len() <= CAPACITY && tokens.iter().all(fits) {
                let start = self.residuals_before(bucket);
                for token in tokens {
                    self.insert_into_line(bucket, start, Entry { position: *token, slot }, &precedes);
                }
                return;
            }
            self.spill_over(bucket);
        }
        let spill = self.lines[bucket].spill();
        let spill = &mut self.spills[spill];
        spill.extend(tokens.iter().map(|token| Entry { position: *token, slot }));
        // There are two ascending runs, which this sort merges in one pass.
        spill.sort_by(|a, b| {
            a.position.cmp(&b.position).then_with(|| precedes(b.slot, a.slot).cmp(&precedes(a.slot, b.slot)))
        });
    }

    fn insert_into_line(&mut self, bucket: usize, start: usize, entry: Entry, precedes: impl Fn(u32, u32) -> bool) {
        let (_, prefix) = self.place(entry.position);
        let count = self.count(bucket);
        let mut index = self.lines[bucket].rank(prefix);
        while index < count && self.lines[bucket].prefixes[index] == prefix {
            let other = self.token(bucket, start, index);
            let collide = other.position == entry.position;
            if other.position > entry.position || (collide && precedes(entry.slot, other.slot)) {
                break;
            }
            index += 1;
        }
        self.lines[bucket].insert(index, prefix, entry.slot as u16);
        self.counts[bucket] += 1;
        let residual = Residual::new(entry.position.as_u64());
        pages::insert(&mut self.pages[bucket / pages::BUCKETS], start + index, residual);
    }

    /// Removes these tokens of a slot from their bucket. Returns how many of them were there. A
    /// node may have several tokens at one position; each position in `tokens` removes one.
    fn remove_from(&mut self, bucket: usize, slot: u32, tokens: &[Position]) -> usize {
        if self.is_spilled(bucket) {
            let mut sought = tokens.iter().copied().peekable();
            let spill = self.lines[bucket].spill();
            let before = self.spills[spill].len();
            self.spills[spill].retain(|entry| {
                while sought.next_if(|token| *token < entry.position).is_some() {}
                entry.slot != slot || sought.next_if_eq(&entry.position).is_none()
            });
            let removed = before - self.spills[spill].len();
            self.spill_back(bucket);
            return removed;
        }
        let start = self.residuals_before(bucket);
        tokens.iter().filter(|token| self.remove_from_line(bucket, start, Entry { position: **token, slot })).count()
    }

    /// Removes a token from a line. Returns whether it was there.
    fn remove_from_line(&mut self, bucket: usize, start: usize, entry: Entry) -> bool {
        let (_, prefix) = self.place(entry.position);
        let mut index = self.lines[bucket].rank(prefix);
        while index < self.count(bucket) && self.lines[bucket].prefixes[index] == prefix {
            if self.token(bucket, start, index) == entry {
                self.lines[bucket].remove(index);
                self.counts[bucket] -= 1;
                self.pages[bucket / pages::BUCKETS].remove(start + index);
                return true;
            }
            index += 1;
        }
        false
    }

    /// Moves a bucket's tokens from its line to a spill.
    fn spill_over(&mut self, bucket: usize) {
        let start = self.residuals_before(bucket);
        let count = self.count(bucket);
        let entries = (0..count).map(|index| self.token(bucket, start, index)).collect();
        self.pages[bucket / pages::BUCKETS].drain(start..start + count);
        let spill = match self.vacant.pop() {
            Some(vacant) => {
                self.spills[vacant as usize] = entries;
                vacant
            }
            None => {
                self.spills.push(entries);
                self.spills.len() as u32 - 1
            }
        };
        self.lines[bucket] = Line::spilled(spill);
        self.counts[bucket] = SPILLED;
    }

    /// Moves a bucket's tokens from its spill to its line, if they are few enough and fit.
    fn spill_back(&mut self, bucket: usize) {
        if self.spill(bucket).len() > UNSPILL || !self.fit_a_line(self.spill(bucket)) {
            return;
        }
        let spill = self.lines[bucket].spill();
        let entries = std::mem::take(&mut self.spills[spill]);
        self.vacant.push(spill as u32);
        let start = self.residuals_before(bucket);
        let page = &mut self.pages[bucket / pages::BUCKETS];
        page.splice(start..start, entries.iter().map(|entry| Residual::new(entry.position.as_u64())));
        self.lines[bucket] = Line::EMPTY;
        self.counts[bucket] = entries.len() as u8;
        for (index, entry) in entries.iter().enumerate() {
            let prefix = self.place(entry.position).1;
            self.lines[bucket].prefixes[index] = prefix;
            self.lines[bucket].slots[index] = entry.slot as u16;
        }
        let next = if bucket + 1 == self.lines.len() { 0 } else { bucket + 1 };
        self.lines[bucket].slots[entries.len()] = self.head(next);
    }

    /// Sets the sentinels that point to this bucket, if its first slot has changed.
    fn update_sentinels(&mut self, bucket: usize, old_head: u16) {
        if self.head(bucket) != old_head {
            self.set_sentinels_before(bucket);
        }
    }

    /// Sets the sentinels that point to this bucket. They are in the line before and, if that is
    /// empty, in the lines before it, up to the first line with a token.
    pub(super) fn set_sentinels_before(&mut self, bucket: usize) {
        let head = self.head(bucket);
        let mut before = bucket;
        // At most one lap: if no other line has a token, the sentinel of this line points to its
        // own first slot.
        for _ in 0..self.lines.len() {
            before = before.checked_sub(1).unwrap_or(self.lines.len() - 1);
            if self.is_spilled(before) {
                return;
            }
            let count = self.count(before);
            self.lines[before].slots[count] = head;
            if count > 0 {
                return;
            }
        }
    }
}
