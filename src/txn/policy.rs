//! [`Policy`]: time-outs and back-off.

use std::{
    hash::{Hash, Hasher},
    time::{Duration, Instant},
};

use xxhash_rust::xxh3::Xxh3Default;

use crate::id::TxnId;

/// Shortest pause of a coordinator, whatever the policy says. Without it, a participant that fails
/// at once would be called again at once, and the calling thread would do nothing else.
pub(super) const SHORTEST_BACKOFF: Duration = Duration::from_millis(1);

/// Time-out that stands for those that are longer than the clock can count: no program runs that
/// long.
pub(super) const NEVER: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);

/// Time-outs and back-off of a coordinator. A time-out of [`Duration::MAX`] never comes.
///
/// How to choose:
///
/// - `prepare_timeout` is the longest time that a client will wait before a slow participant costs
///   it the transaction.
/// - `delivery_timeout` only decides when a decision is sent *again*, so a few times the
///   participants' usual answer time is right.
/// - The back-off limits how often an unreachable participant is retried.
/// - `transaction_timeout` is the longest time that a client may work.
/// - `park_after` is how long a participant may be down before an operator should look.
///
/// A plain value; set what differs from the default:
///
/// ```
/// use std::time::Duration;
/// use ringpact::Policy;
///
/// const PATIENT: Policy = Policy::DEFAULT.prepare_timeout(Duration::from_secs(30)).park_after_attempts(100);
/// assert_eq!(PATIENT.delivery_timeout, Policy::default().delivery_timeout);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Policy {
    /// Time that the coordinator waits for votes, from the first prepare on. Then it rolls the
    /// transaction back.
    pub prepare_timeout: Duration,
    /// Time that the coordinator waits for the answer to a decision before it sends the decision
    /// again.
    pub delivery_timeout: Duration,
    /// Pause after a participant's first failure. It doubles with each further one. At least a
    /// millisecond.
    pub first_backoff: Duration,
    /// Longest pause.
    pub longest_backoff: Duration,
    /// Time in which a client must commit a transaction. After it the coordinator rolls the
    /// transaction back, and waits for no votes either.
    /// [`Coordinator::begin_within`](crate::Coordinator::begin_within) sets another time for one
    /// transaction.
    pub transaction_timeout: Duration,
    /// Time in which a participant must acknowledge a decision. After it the decision is *parked*:
    /// it is shown in [`Coordinator::status`](crate::Coordinator::status), and sent again only when
    /// an operator [retries](crate::Coordinator::retry) it, the participant asks, or the
    /// coordinator is opened.
    pub park_after: Duration,
    /// Number of failed attempts after which the decision is parked, if that comes first.
    /// [`u32::MAX`] is no limit.
    pub park_after_attempts: u32,
}

impl Default for Policy {
    fn default() -> Self {
        Self::DEFAULT
    }
}

impl Policy {
    /// The policy of a coordinator that is opened without one.
    pub const DEFAULT: Self = Self {
        prepare_timeout: Duration::from_secs(5),
        delivery_timeout: Duration::from_secs(5),
        first_backoff: Duration::from_millis(20),
        longest_backoff: Duration::from_secs(10),
        transaction_timeout: Duration::from_secs(60),
        park_after: Duration::from_secs(60 * 60),
        park_after_attempts: u32::MAX,
    };

    /// Sets the time that the coordinator waits for votes. See
    /// [`prepare_timeout`](#structfield.prepare_timeout).
    #[must_use]
    pub const fn prepare_timeout(mut self, timeout: Duration) -> Self {
        self.prepare_timeout = timeout;
        self
    }

    /// Sets the time after which a decision without an answer is sent again. See
    /// [`delivery_timeout`](#structfield.delivery_timeout).
    #[must_use]
    pub const fn delivery_timeout(mut self, timeout: Duration) -> Self {
        self.delivery_timeout = timeout;
        self
    }

    /// Sets the pause after a participant's first failure. At least a millisecond. See
    /// [`first_backoff`](#structfield.first_backoff).
    #[must_use]
    pub const fn first_backoff(mut self, pause: Duration) -> Self {
        self.first_backoff = pause;
        self
    }

    /// Sets the longest pause between two attempts. See
    /// [`longest_backoff`](#structfield.longest_backoff).
    #[must_use]
    pub const fn longest_backoff(mut self, pause: Duration) -> Self {
        self.longest_backoff = pause;
        self
    }

    /// Sets the time in which a client must commit a transaction. See
    /// [`transaction_timeout`](#structfield.transaction_timeout).
    #[must_use]
    pub const fn transaction_timeout(mut self, timeout: Duration) -> Self {
        self.transaction_timeout = timeout;
        self
    }

    /// Sets the time in which a participant must acknowledge a decision before it is parked. See
    /// [`park_after`](#structfield.park_after).
    #[must_use]
    pub const fn park_after(mut self, time: Duration) -> Self {
        self.park_after = time;
        self
    }

    /// Sets the number of failed attempts after which a decision is parked. See
    /// [`park_after_attempts`](#structfield.park_after_attempts).
    #[must_use]
    pub const fn park_after_attempts(mut self, attempts: u32) -> Self {
        self.park_after_attempts = attempts;
        self
    }

    /// Returns the pause after the `failures`-th failure of a branch: between half and all of the
    /// doubling value.
    ///
    /// The jitter spreads branches that failed together. It is a function of the transaction and
    /// the branch, not of chance, so that the protocol stays a pure function of its inputs.
    #[must_use]
    pub fn backoff(&self, txn: &TxnId, branch: usize, failures: u32) -> Duration {
        jittered(self.first_backoff, self.longest_backoff, failures, (txn, branch, failures))
    }

    /// Returns the policy with no pause shorter than [`SHORTEST_BACKOFF`]. Only the driver needs
    /// that, so that it does not spin. The protocol itself works without pauses; then it has
    /// finitely many states, and all can be searched.
    pub(super) fn paced(self) -> Self {
        // A pause is at least half of the doubling value, which starts at the first back-off and
        // ends at the longest.
        let least = SHORTEST_BACKOFF * 2;
        Self {
            first_backoff: self.first_backoff.max(least),
            longest_backoff: self.longest_backoff.max(least),
            delivery_timeout: self.delivery_timeout.max(least),
            ..self
        }
    }

    /// Whether a branch is parked after this number of failures, or this time.
    pub(super) fn parks_after(&self, failures: u32, time: Duration) -> bool {
        failures >= self.park_after_attempts || time >= self.park_after
    }

    /// Returns the number of failures, as far as it makes a difference. Without a pause between
    /// attempts only the limit does, and a count beyond it would only make equal states differ.
    pub(super) const fn counted(&self, failures: u32) -> u32 {
        match self.park_after_attempts {
            _ if !self.longest_backoff.is_zero() => failures,
            u32::MAX => 0,
            limit if failures > limit => limit,
            _ => failures,
        }
    }
}

/// Returns the pause after the `failures`-th failure: between half and all of a value that doubles
/// from `first` to `longest`. The same seed gives the same pause.
pub(super) fn jittered(first: Duration, longest: Duration, failures: u32, seed: impl Hash) -> Duration {
    let doubled = 1_u32.checked_shl(failures.saturating_sub(1)).unwrap_or(u32::MAX);
    let whole = first.saturating_mul(doubled).min(longest);
    let mut hasher = Xxh3Default::new();
    seed.hash(&mut hasher);
    let sixteenths = u32::try_from(hasher.finish() & 0xF).unwrap_or(0);
    whole / 2 + whole / 32 * sixteenths
}

/// Returns `now + wait`, or a time far away if the clock cannot count that.
pub(crate) fn after(now: Instant, wait: Duration) -> Instant {
    now.checked_add(wait).unwrap_or_else(|| now + NEVER)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::{Epoch, Name};

    #[test]
    fn the_backoff_doubles_up_to_its_limit_and_never_exceeds_it() {
        let policy = Policy::default();
        let txn = TxnId::new(Name::new("c").expect("a valid name"), Epoch::new(1), 1);
        let mut whole = policy.first_backoff;
        for failures in 1..=255 {
            let pause = policy.backoff(&txn, 0, failures);
            assert!(whole / 2 <= pause && pause <= whole, "failure {failures}: {pause:?} of {whole:?}");
            whole = (whole * 2).min(policy.longest_backoff);
        }
        assert_eq!(whole, policy.longest_backoff);
    }

    #[test]
    fn a_coordinator_never_repeats_without_a_pause() {
        let txn = TxnId::new(Name::new("c").expect("a valid name"), Epoch::new(1), 1);
        let (zero, long) = (Duration::ZERO, Duration::from_secs(1));
        for (first_backoff, longest_backoff) in [(zero, zero), (zero, long), (long, zero)] {
            let policy = Policy { first_backoff, longest_backoff, delivery_timeout: zero, ..Policy::default() }.paced();
            assert!(
                policy.delivery_timeout >= SHORTEST_BACKOFF,
                "a message without an answer is not sent without a pause"
            );
            let shortest = (1..=255).map(|failures| policy.backoff(&txn, 0, failures)).min();
            assert!(shortest >= Some(SHORTEST_BACKOFF), "{policy:?}: {shortest:?}");
        }
    }

    #[test]
    fn branches_that_fail_together_are_retried_at_different_times() {
        let policy = Policy::default();
        let txn = |n| TxnId::new(Name::new("c").expect("a valid name"), Epoch::new(1), n);
        let pauses: std::collections::BTreeSet<_> = (0..64).map(|n| policy.backoff(&txn(n), 0, 3)).collect();
        assert!(pauses.len() >= 8, "{pauses:?}");
    }
}
