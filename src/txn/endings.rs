//! Transactions that have ended, and whose ends a crash could still take back.

use std::collections::{BTreeMap, BTreeSet};

use crate::{id::Mark, log::Lsn};

/// What the log holds of a transaction's end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum End {
    /// Nothing, and nothing is needed: the log holds no decision of it either.
    #[default]
    Unlogged,
    /// The record with this number.
    Logged(Lsn),
    /// Nothing yet: it gets the record together with those of others.
    Unwritten,
    /// Nothing, though it holds the decision: it refused the record.
    Refused,
}

/// The ended transactions that the mark must not pass yet.
///
/// Below the mark participants forget what they did. A decision whose end was not durable comes back with the next
/// opening and is delivered again; to participants that have forgotten it, for ever. So the mark waits for the ends
/// that it passes. They are written lazily, and go along with the next forced record.
#[derive(Debug, Default)]
pub(super) struct Endings {
    marks: BTreeSet<Mark>,
    by_record: BTreeMap<Lsn, Vec<Mark>>,
}

impl Endings {
    pub(super) fn add(&mut self, mark: Mark, end: End) {
        match end {
            End::Unlogged => return,
            End::Logged(lsn) => {
                self.by_record.entry(lsn).or_default().push(mark);
            }
            // Held until it is written; or else until the log is opened again: only then is its decision delivered and
            // ended anew.
            End::Unwritten | End::Refused => {}
        }
        self.marks.insert(mark);
    }

    /// What was unwritten is in the log as this record.
    pub(super) fn written(&mut self, mark: Mark, lsn: Lsn) {
        if self.marks.contains(&mark) {
            self.by_record.entry(lsn).or_default().push(mark);
        }
    }

    /// All records up to this one are durable. Amortised O(log n).
    pub(super) fn durable(&mut self, up_to: Lsn) {
        while let Some(first) = self.by_record.first_entry().filter(|first| *first.key() <= up_to) {
            for mark in first.remove() {
                self.marks.remove(&mark);
            }
        }
    }

    /// The first transaction that is held.
    pub(super) fn first(&self) -> Option<Mark> {
        self.marks.first().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::Epoch;

    #[test]
    fn the_mark_waits_for_ends_to_be_durable_and_for_refused_ones_until_the_log_is_opened_again() {
        let mark = |sequence| Mark { epoch: Epoch::new(1), sequence };
        let mut endings = Endings::default();
        endings.add(mark(1), End::Unlogged);
        assert_eq!(endings.first(), None);
        endings.add(mark(4), End::Logged(Lsn::new(10)));
        endings.add(mark(2), End::Logged(Lsn::new(11)));
        endings.add(mark(3), End::Refused);
        let mut first = |up_to| {
            endings.durable(Lsn::new(up_to));
            endings.first()
        };
        assert_eq!(first(9), Some(mark(2)));
        assert_eq!(first(10), Some(mark(2)), "4 is free, 2 is not");
        assert_eq!(first(99), Some(mark(3)));
    }
}
