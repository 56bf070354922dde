//! Transactions that have ended, and whose end a crash could still undo.

use std::collections::{BTreeMap, btree_map::Entry};

use crate::{id::TxnOrdinal, log::Lsn};

/// What the log holds about the end of a transaction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::txn) enum EndRecord {
    /// Nothing, and nothing is needed, because the log holds no decision of it.
    #[default]
    Unlogged,
    /// The record with this number.
    Logged(Lsn),
    /// Nothing yet: its record is written together with those of other transactions.
    Unwritten,
    /// Nothing, although the log holds the decision: the log refused the record.
    Refused,
}

/// The ended transactions that `ended_below` must not pass yet.
///
/// Participants forget outcomes below it. A decision whose end is not durable comes back with the
/// next opening and is delivered again: forever, if the participants have forgotten it. So
/// `ended_below` waits until the ends are durable. They are written lazily, and become durable with
/// the next forced record.
#[derive(Debug, Default)]
pub(in crate::txn) struct UnsettledEnds {
    /// Number of records that each waits for. A transaction that was parked, and then ended, waits
    /// for both records.
    held: BTreeMap<TxnOrdinal, usize>,
    by_record: BTreeMap<Lsn, Vec<TxnOrdinal>>,
}

impl UnsettledEnds {
    pub(in crate::txn) fn add(&mut self, ordinal: TxnOrdinal, end: EndRecord) {
        match end {
            EndRecord::Unlogged => return,
            EndRecord::Logged(lsn) => {
                self.by_record.entry(lsn).or_default().push(ordinal);
            }
            // Held until its record is written, or until the log is opened again: only then is its
            // decision delivered and ended again.
            EndRecord::Unwritten | EndRecord::Refused => {}
        }
        *self.held.entry(ordinal).or_default() += 1;
    }

    /// Notes that an unwritten end is now in the log as this record.
    pub(in crate::txn) fn written(&mut self, ordinal: TxnOrdinal, lsn: Lsn) {
        if self.held.contains_key(&ordinal) {
            self.by_record.entry(lsn).or_default().push(ordinal);
        }
    }

    /// Notes that all records up to this one are durable. Amortised O(log n).
    pub(in crate::txn) fn durable(&mut self, up_to: Lsn) {
        while let Some(first) = self.by_record.first_entry().filter(|first| *first.key() <= up_to) {
            for ordinal in first.remove() {
                if let Entry::Occupied(mut held) = self.held.entry(ordinal) {
                    *held.get_mut() -= 1;
                    if *held.get() == 0 {
                        held.remove();
                    }
                }
            }
        }
    }

    /// Returns the first transaction that is held.
    pub(in crate::txn) fn first(&self) -> Option<TxnOrdinal> {
        self.held.first_key_value().map(|(ordinal, _)| *ordinal)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::Epoch;

    #[test]
    fn ended_below_waits_for_durable_ends_and_for_refused_ones_until_the_log_is_opened_again() {
        let ordinal = |sequence| TxnOrdinal { epoch: Epoch::new(1), sequence };
        let mut endings = UnsettledEnds::default();
        endings.add(ordinal(1), EndRecord::Unlogged);
        assert_eq!(endings.first(), None);
        endings.add(ordinal(4), EndRecord::Logged(Lsn::new(10)));
        endings.add(ordinal(2), EndRecord::Logged(Lsn::new(11)));
        endings.add(ordinal(3), EndRecord::Refused);
        let mut first = |up_to| {
            endings.durable(Lsn::new(up_to));
            endings.first()
        };
        assert_eq!(first(9), Some(ordinal(2)));
        assert_eq!(first(10), Some(ordinal(2)), "4 is free, 2 is not");
        assert_eq!(first(99), Some(ordinal(3)));
    }

    /// Found by simulation, once in 100,000 runs: a transaction was parked, an operator retried it,
    /// and it ended. The record of its parking was durable, so `ended_below` passed it, while its
    /// end was not. A participant forgot what it had committed, a crash undid the end, and the next
    /// life told a participant that knew nothing of it.
    #[test]
    fn a_parked_transaction_is_held_until_its_end_is_durable_too() {
        let ordinal = TxnOrdinal { epoch: Epoch::new(1), sequence: 1 };
        let mut endings = UnsettledEnds::default();
        endings.add(ordinal, EndRecord::Logged(Lsn::new(10)));
        endings.add(ordinal, EndRecord::Logged(Lsn::new(12)));
        endings.durable(Lsn::new(11));
        assert_eq!(endings.first(), Some(ordinal));
        endings.durable(Lsn::new(12));
        assert_eq!(endings.first(), None);
    }

    #[test]
    fn a_refused_end_is_held_whatever_else_is_durable() {
        let ordinal = TxnOrdinal { epoch: Epoch::new(1), sequence: 1 };
        let mut endings = UnsettledEnds::default();
        endings.add(ordinal, EndRecord::Refused);
        endings.add(ordinal, EndRecord::Logged(Lsn::new(10)));
        endings.durable(Lsn::new(10));
        assert_eq!(endings.first(), Some(ordinal));
    }
}
