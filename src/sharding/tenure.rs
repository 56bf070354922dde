//! [`Tenure`]: when a shard came to own a position.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::exact;

/// The number of a hand-over: of the chunk that brought a position to its present shard. A small
/// value that is copied.
///
/// The keeper gives numbers out in order and never gives one out twice, if its chunk was committed.
/// A position has one hand-over under way at a time, so the numbers of its owners ascend. That is
/// what a *fencing token* is to a lock: work that was admitted under an earlier tenure is never
/// carried out under a later one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Tenure(#[serde(with = "exact::counter")] u64);

impl Tenure {
    /// Below all tenures: that of a position that a shard has never owned.
    pub const NONE: Self = Self(0);
    /// The tenure of the first assignment of a ring.
    pub const FIRST: Self = Self(1);

    /// Returns the tenure with this number.
    #[must_use]
    pub const fn new(number: u64) -> Self {
        Self(number)
    }

    /// Returns the number.
    #[must_use]
    pub const fn as_u64(self) -> u64 {
        self.0
    }

    /// Returns the next tenure. At a million chunks a second, numbers last for half a million years.
    #[must_use]
    pub(crate) const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

impl fmt::Display for Tenure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}
