//! How long to wait and how often to repeat.

use std::{
    hash::{Hash, Hasher},
    time::{Duration, Instant},
};

use xxhash_rust::xxh3::Xxh3Default;

use crate::id::TxnId;

/// A coordinator's shortest pause, whatever the policy says: who fails at once and is told again at once would keep the
/// thread that tells it busy with nothing else.
const SHORTEST_BACKOFF: Duration = Duration::from_millis(1);

/// A moment that no program lives to see, for time-outs that are longer than the clock can count.
pub(super) const NEVER: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);

/// Time-outs and back-off of a coordinator. A time-out of [`Duration::MAX`] never comes.
///
/// How to choose: `prepare_timeout` is what a client is ready to wait in the worst case before a slow participant
/// costs it the transaction; `delivery_timeout` only decides when a decision is sent *again*, so a few times the
/// participants' usual answer is right; the back-off bounds how hard a participant is knocked at while it is down.
/// `transaction_timeout` is the longest that a client may work; `park_after` is how long a participant may be down before
/// somebody should look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Policy {
    /// How long votes are waited for, from the first prepare on; then the transaction is rolled back.
    pub prepare_timeout: Duration,
    /// How long the answer to a decision is waited for before it is sent again.
    pub delivery_timeout: Duration,
    /// The pause after a participant's first failure; it doubles with each further one. A millisecond at the least.
    pub first_backoff: Duration,
    /// The longest pause.
    pub longest_backoff: Duration,
    /// How long a transaction may be worked under; nobody having committed it by then, it is rolled back. Votes are not
    /// waited for beyond it either. [`Coordinator::begin_within`](crate::Coordinator::begin_within) sets another one.
    pub transaction_timeout: Duration,
    /// How long a decision is delivered to a participant that does not acknowledge it; then it is *parked*, which is
    /// seen in [`Coordinator::status`](crate::Coordinator::status), and told again only when an operator wants
    /// [it](crate::Coordinator::retry), the participant asks, or the coordinator is opened.
    pub park_after: Duration,
    /// How often, where that comes first. [`u32::MAX`] is no limit.
    pub park_after_attempts: u32,
}

impl Default for Policy {
    fn default() -> Self {
        Self::DEFAULT
    }
}

impl Policy {
    /// What a coordinator does unless told otherwise.
    pub const DEFAULT: Self = Self {
        prepare_timeout: Duration::from_secs(5),
        delivery_timeout: Duration::from_secs(5),
        first_backoff: Duration::from_millis(20),
        longest_backoff: Duration::from_secs(10),
        transaction_timeout: Duration::from_secs(60),
        park_after: Duration::from_secs(60 * 60),
        park_after_attempts: u32::MAX,
    };

    /// The pause after the `failures`-th failure of a branch: between half of, and the whole of, the doubling value.
    ///
    /// The jitter spreads those out who failed together. It is a function of the transaction and the branch, not of
    /// chance, so that the protocol stays a pure function of its inputs.
    #[must_use]
    pub fn backoff(&self, txn: &TxnId, branch: usize, failures: u32) -> Duration {
        let doubled = 1_u32.checked_shl(failures.saturating_sub(1)).unwrap_or(u32::MAX);
        let whole = self.first_backoff.saturating_mul(doubled).min(self.longest_backoff);
        let mut hasher = Xxh3Default::new();
        (txn, branch, failures).hash(&mut hasher);
        let sixteenths = u32::try_from(hasher.finish() & 0xF).unwrap_or(0);
        whole / 2 + whole / 32 * sixteenths
    }

    /// The same, with no pause between messages shorter than [`SHORTEST_BACKOFF`]. It is the driver that must not spin; the protocol
    /// itself is content with no pause at all, and with none its states are finitely many, and can all be searched.
    pub(super) fn paced(self) -> Self {
        // A pause is at least half of the doubling value, which begins with the first and ends with the longest.
        let least = SHORTEST_BACKOFF * 2;
        Self {
            first_backoff: self.first_backoff.max(least),
            longest_backoff: self.longest_backoff.max(least),
            delivery_timeout: self.delivery_timeout.max(least),
            ..self
        }
    }

    /// Whether a branch that has failed so often, over such a time, is told no more.
    pub(super) fn parks_after(&self, failures: u32, time: Duration) -> bool {
        failures >= self.park_after_attempts || time >= self.park_after
    }

    /// The count of failures, as far as counting makes a difference. With no pause between attempts only the limit does,
    /// and to count on beyond it would only tell states apart that are alike.
    pub(super) const fn counted(&self, failures: u32) -> u32 {
        match self.park_after_attempts {
            _ if !self.longest_backoff.is_zero() => failures,
            u32::MAX => 0,
            limit if failures > limit => limit,
            _ => failures,
        }
    }
}

/// `wait` after `now`.
pub(super) fn after(now: Instant, wait: Duration) -> Instant {
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
    fn branches_that_fail_together_come_back_apart() {
        let policy = Policy::default();
        let txn = |n| TxnId::new(Name::new("c").expect("a valid name"), Epoch::new(1), n);
        let pauses: std::collections::BTreeSet<_> = (0..64).map(|n| policy.backoff(&txn(n), 0, 3)).collect();
        assert!(pauses.len() >= 8, "{pauses:?}");
    }
}
