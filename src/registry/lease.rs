//! The right to be listed, for a while.

use std::{
    fmt,
    time::{Duration, Instant},
};

use super::RegistryError;

/// The shortest lease. Below this the jitter of a scheduler alone would let instances expire.
pub const MIN_LEASE: Duration = Duration::from_millis(1);

/// The longest lease: a day. Whoever is listed longer without a sign of life isn't watched at all.
pub const MAX_LEASE: Duration = Duration::from_secs(24 * 60 * 60);

/// Names one registration. A registry hands out each number once, in ascending order, so that a token also fences:
/// of two registrations of one instance, the later has the greater.
///
/// The number may travel ([`as_u64`](LeaseToken::as_u64), [`LeaseToken::new`]), to an instance that renews by a message
/// for instance. It isn't a secret, and means something only to the [`Registry`](super::Registry) it is from: one that
/// was made anew counts from 1 again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LeaseToken(u64);

impl LeaseToken {
    /// The token with this number.
    pub const fn new(number: u64) -> Self {
        Self(number)
    }

    /// The token's number.
    pub const fn as_u64(self) -> u64 {
        self.0
    }
}

impl fmt::Display for LeaseToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What an instance holds while it is registered. Renew well before the end: at a third of the lease, so that two
/// renewals may get lost.
///
/// Dropping it ends nothing: see [`Registry::leave`](super::Registry::leave).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lease {
    pub(super) token: LeaseToken,
    pub(super) expires_at: Instant,
}

impl Lease {
    /// What to show to renew the lease or to leave.
    pub fn token(&self) -> LeaseToken {
        self.token
    }

    /// The first moment at which the instance is gone, unless it renews before.
    pub fn expires_at(&self) -> Instant {
        self.expires_at
    }
}

/// When a lease that is granted `now` ends.
pub(super) fn end_of(lease: Duration, now: Instant) -> Result<Instant, RegistryError> {
    if !(MIN_LEASE..=MAX_LEASE).contains(&lease) {
        return Err(RegistryError::InvalidLease { lease });
    }
    now.checked_add(lease).ok_or(RegistryError::ClockOutOfRange)
}
