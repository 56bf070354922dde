//! [`TxnKey`]: the key of an open transaction in all tables.

use std::ops::RangeInclusive;

use crate::id::TxnOrdinal;

/// Key of an open transaction: its place in the order, and 0. For a branch that a participant
/// reported and the log does not know, it has the participant's number instead of 0, because each
/// such branch is settled by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(in crate::txn) struct TxnKey {
    pub(in crate::txn) ordinal: TxnOrdinal,
    pub(in crate::txn) reported_by: usize,
}

impl TxnKey {
    pub(in crate::txn) const fn of(ordinal: TxnOrdinal) -> Self {
        Self { ordinal, reported_by: 0 }
    }

    /// Returns the range of all keys of one transaction.
    pub(in crate::txn) const fn all_of(ordinal: TxnOrdinal) -> RangeInclusive<Self> {
        Self::of(ordinal)..=Self { ordinal, reported_by: usize::MAX }
    }
}
