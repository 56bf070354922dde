//! The right of an instance to be listed, for a limited time.

use std::{
    fmt,
    time::{Duration, Instant},
};

use super::RegistryError;

/// Minimum lease. With a shorter one, the delays of a thread scheduler alone would let instances
/// expire.
pub const MIN_LEASE: Duration = Duration::from_millis(1);

/// Maximum lease: a day. With a longer one, an instance that is dead would stay listed as if there
/// were no lease.
pub const MAX_LEASE: Duration = Duration::from_secs(24 * 60 * 60);

/// The number of one registration. It is a small value that is copied.
///
/// A registry gives out each number once, in ascending order. So a token is also a fencing token:
/// of two registrations of one instance, the later one has the greater token.
///
/// The number may be sent elsewhere ([`as_u64`](LeaseToken::as_u64), [`LeaseToken::new`]), for
/// example to an instance that renews its lease by a message. It isn't a secret. It has a meaning
/// only for the [`Registry`](super::Registry) that gave it out: a new registry counts from 1 again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LeaseToken(u64);

impl LeaseToken {
    /// Returns the token with this number.
    #[must_use]
    pub const fn new(number: u64) -> Self {
        Self(number)
    }

    /// Returns the token's number.
    #[must_use]
    pub const fn as_u64(self) -> u64 {
        self.0
    }
}

impl fmt::Display for LeaseToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What an instance has while it is registered: a token and an end. It is a small value that is
/// copied.
///
/// Renew well before the end, best at a third of the lease, so that two renewals may get lost.
/// Dropping a lease does not end it; see [`Registry::leave`](super::Registry::leave).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lease {
    pub(super) token: LeaseToken,
    pub(super) expires_at: Instant,
}

impl Lease {
    /// Returns the token, which renews the lease or ends it.
    #[must_use]
    pub fn token(&self) -> LeaseToken {
        self.token
    }

    /// Returns the first moment at which the instance is no longer listed, unless it renews before.
    #[must_use]
    pub fn expires_at(&self) -> Instant {
        self.expires_at
    }
}

/// Returns the end of a lease that begins at `now`.
pub(super) fn end_of(lease: Duration, now: Instant) -> Result<Instant, RegistryError> {
    if !(MIN_LEASE..=MAX_LEASE).contains(&lease) {
        return Err(RegistryError::InvalidLease { lease });
    }
    now.checked_add(lease).ok_or(RegistryError::ClockOutOfRange)
}
