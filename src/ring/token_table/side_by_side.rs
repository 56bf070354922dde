//! Two tables of the same buckets, compared bucket by bucket.

use super::{Entry, Position, TokenTable, line::ELSEWHERE, pages};

/// Two tables that have the same buckets.
pub(in crate::ring) struct Side<'t> {
    pub(in crate::ring) table: &'t TokenTable,
    pub(in crate::ring) other: &'t TokenTable,
    /// For each slot here, that of the same node in the other table.
    pub(in crate::ring) counterparts: &'t [u32],
    /// Whether no slot that is in use in both tables belongs to two nodes.
    pub(in crate::ring) same_slots: bool,
}

/// A bucket's tokens in two tables, and behind them on both sides the bucket's last position with the owner that it has.
pub(in crate::ring) struct Bucket<'b> {
    /// The last position before the bucket.
    pub(in crate::ring) start: Position,
    pub(in crate::ring) from: &'b [Entry],
    pub(in crate::ring) to: &'b [Entry],
}

impl TokenTable {
    pub(in crate::ring) fn has_the_buckets_of(&self, other: &Self) -> bool {
        self.lines.len() == other.lines.len()
    }

    /// The last position of a bucket: one before the first whose product with the number of buckets is 2^64 times the
    /// next bucket's number.
    fn last_position(&self, bucket: usize) -> Position {
        let first_beyond = ((bucket as u128 + 1) << 64).div_ceil(self.lines.len() as u128);
        Position::new((first_beyond - 1) as u64)
    }

    /// A bucket's tokens, and its last position with the owner of that.
    fn decode(&self, bucket: usize, start: usize, last: Position, tokens: &mut Vec<Entry>) {
        tokens.clear();
        if self.is_spilled(bucket) {
            tokens.extend_from_slice(self.spill(bucket));
        } else {
            tokens.extend((0..self.count(bucket)).map(|index| self.token(bucket, start, index)));
        }
        let mut beyond = super::Walk::new(self, bucket, tokens.len());
        tokens.push(Entry { position: last, slot: beyond.next() });
    }

    fn residuals(&self, bucket: usize, start: usize) -> &[pages::Residual] {
        &self.pages[bucket / pages::BUCKETS][start..start + self.count(bucket)]
    }
}

impl Side<'_> {
    /// Calls back with each bucket in which the owner of some position differs, and with few others.
    pub(in crate::ring) fn for_each_differing_bucket(&self, mut differing: impl FnMut(Bucket<'_>)) {
        let (mut from, mut to) = (Vec::new(), Vec::new());
        let (mut from_start, mut to_start) = (0, 0);
        for bucket in 0..self.table.lines.len() {
            if bucket % pages::BUCKETS == 0 {
                (from_start, to_start) = (0, 0);
            }
            if !self.is_equal(bucket, from_start, to_start) {
                let start = bucket.checked_sub(1).map_or(Position::MAX, |before| self.table.last_position(before));
                let last = self.table.last_position(bucket);
                self.table.decode(bucket, from_start, last, &mut from);
                self.other.decode(bucket, to_start, last, &mut to);
                differing(Bucket { start, from: &from, to: &to });
            }
            from_start += usize::from(self.table.counts[bucket] & !super::SPILLED);
            to_start += usize::from(self.other.counts[bucket] & !super::SPILLED);
        }
    }

    /// Whether both lines hold the same tokens of the same nodes, and what comes beyond belongs to the same node too.
    /// Then no position of the bucket changes hands.
    #[inline]
    fn is_equal(&self, bucket: usize, from_start: usize, to_start: usize) -> bool {
        let (from, to) = (&self.table.lines[bucket], &self.other.lines[bucket]);
        if from.prefixes != to.prefixes || self.table.is_spilled(bucket) || self.other.is_spilled(bucket) {
            return false;
        }
        // Of slots that stand elsewhere, nothing is known here.
        let count = self.table.count(bucket);
        let same_nodes = if self.same_slots {
            from.slots[..=count] == to.slots[..=count] && from.slots[count] != ELSEWHERE
        } else {
            from.slots[..=count].iter().zip(&to.slots[..=count]).all(|(from, to)| {
                self.counterparts.get(usize::from(*from)).is_some_and(|other| *other == u32::from(*to))
                    && *from != ELSEWHERE
            })
        };
        same_nodes && self.table.residuals(bucket, from_start) == self.other.residuals(bucket, to_start)
    }
}
