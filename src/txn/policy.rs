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
const NEVER: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);

/// Time-outs and back-off of a coordinator. A time-out of [`Duration::MAX`] never comes.
///
/// How to choose: `prepare_timeout` is what a client is ready to wait in the worst case before a slow participant
/// costs it the transaction; `delivery_timeout` only decides when a decision is sent *again*, so a few times the
/// participants' usual answer is right; the back-off bounds how hard a participant is knocked at while it is down.
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
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            prepare_timeout: Duration::from_secs(5),
            delivery_timeout: Duration::from_secs(5),
            first_backoff: Duration::from_millis(20),
            longest_backoff: Duration::from_secs(10),
        }
    }
}

impl Policy {
    /// The pause after the `failures`-th failure of a branch: between half of, and the whole of, the doubling value.
    ///
    /// The jitter spreads those out who failed together. It is a function of the transaction and the branch, not of
    /// chance, so that the protocol stays a pure function of its inputs.
    #[must_use]
    pub fn backoff(&self, txn: &TxnId, branch: usize, failures: u8) -> Duration {
        let doubled = 1_u32.checked_shl(u32::from(failures.saturating_sub(1))).unwrap_or(u32::MAX);
        let whole = self.first_backoff.saturating_mul(doubled).min(self.longest_backoff);
        let mut hasher = Xxh3Default::new();
        (txn, branch, failures).hash(&mut hasher);
        let sixteenths = u32::try_from(hasher.finish() & 0xF).unwrap_or(0);
        whole / 2 + whole / 32 * sixteenths
    }

    /// The same, with no pause shorter than [`SHORTEST_BACKOFF`]. It is the driver that must not spin; the protocol
    /// itself is content with no pause at all, and with none its states are finitely many, and can all be searched.
    pub(super) fn paced(self) -> Self {
        // A pause is at least half of the doubling value, which begins with the first and ends with the longest.
        let least = SHORTEST_BACKOFF * 2;
        Self { first_backoff: self.first_backoff.max(least), longest_backoff: self.longest_backoff.max(least), ..self }
    }

    /// After how many failures the back-off grows no more. Counting on would only tell states apart that are alike.
    pub(crate) fn settled_failures(&self) -> u8 {
        (1..32).find(|n| self.first_backoff.saturating_mul(1 << (n - 1)) >= self.longest_backoff).unwrap_or(32)
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
        for failures in 1..=u8::MAX {
            let pause = policy.backoff(&txn, 0, failures);
            assert!(whole / 2 <= pause && pause <= whole, "failure {failures}: {pause:?} of {whole:?}");
            whole = (whole * 2).min(policy.longest_backoff);
        }
        assert_eq!(policy.settled_failures(), 10, "20 ms doubles 9 times to pass 10 s");
    }

    #[test]
    fn a_coordinator_never_repeats_without_a_pause() {
        let txn = TxnId::new(Name::new("c").expect("a valid name"), Epoch::new(1), 1);
        let (zero, long) = (Duration::ZERO, Duration::from_secs(1));
        for (first_backoff, longest_backoff) in [(zero, zero), (zero, long), (long, zero)] {
            let policy = Policy { first_backoff, longest_backoff, ..Policy::default() }.paced();
            let shortest = (1..=u8::MAX).map(|failures| policy.backoff(&txn, 0, failures)).min();
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
