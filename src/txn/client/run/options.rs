//! [`RunOptions`]: how often and how long `run` tries.

use std::time::Duration;

use crate::{
    id::TxnId,
    txn::policy::{SHORTEST_BACKOFF, jittered},
};

/// Limits and pauses of [`Coordinator::run_with`](crate::Coordinator::run_with). A plain value; set
/// what differs from the default:
///
/// ```
/// use std::time::Duration;
/// use ringpact::txn::RunOptions;
///
/// const HASTY: RunOptions = RunOptions::DEFAULT.attempts(3).time(Duration::from_secs(2));
/// assert_eq!(HASTY.first_backoff, RunOptions::default().first_backoff);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct RunOptions {
    /// Maximum number of attempts, the first one included. At least 1.
    pub attempts: u32,
    /// Time in which attempts begin, from the call on. An attempt that has begun is not cut short; the
    /// policy's time-outs limit it. [`Duration::MAX`] is no limit.
    pub time: Duration,
    /// Pause after the first attempt. It doubles with each further one. At least a millisecond.
    pub first_backoff: Duration,
    /// Longest pause between two attempts.
    pub longest_backoff: Duration,
}

impl Default for RunOptions {
    fn default() -> Self {
        Self::DEFAULT
    }
}

impl RunOptions {
    /// The options of [`run`](crate::Coordinator::run).
    pub const DEFAULT: Self = Self {
        attempts: 8,
        time: Duration::from_secs(30),
        first_backoff: Duration::from_millis(10),
        longest_backoff: Duration::from_secs(1),
    };

    /// Sets the maximum number of attempts. At least 1.
    #[must_use]
    pub const fn attempts(mut self, attempts: u32) -> Self {
        self.attempts = attempts;
        self
    }

    /// Sets the time in which attempts begin. See [`time`](#structfield.time).
    #[must_use]
    pub const fn time(mut self, time: Duration) -> Self {
        self.time = time;
        self
    }

    /// Sets the pause after the first attempt. At least a millisecond. See
    /// [`first_backoff`](#structfield.first_backoff).
    #[must_use]
    pub const fn first_backoff(mut self, pause: Duration) -> Self {
        self.first_backoff = pause;
        self
    }

    /// Sets the longest pause between two attempts.
    #[must_use]
    pub const fn longest_backoff(mut self, pause: Duration) -> Self {
        self.longest_backoff = pause;
        self
    }

    /// Returns the pause after the attempt with this number, which had this transaction; `None` if no
    /// other attempt may begin. `elapsed` is the time since the call.
    ///
    /// The pause is between half and all of a doubling value. The jitter is a function of the
    /// transaction, so transactions that failed together are tried again at different times.
    pub(super) fn pause_after(&self, txn: &TxnId, attempt: u32, elapsed: Duration) -> Option<Duration> {
        let pause = jittered(self.first_backoff, self.longest_backoff, attempt, txn).max(SHORTEST_BACKOFF);
        (attempt < self.attempts && elapsed.saturating_add(pause) <= self.time).then_some(pause)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::{Epoch, Name};

    fn txn(sequence: u64) -> TxnId {
        TxnId::new(Name::from_static("c"), Epoch::new(1), sequence)
    }

    #[test]
    fn attempts_are_bounded_in_number_and_in_time() {
        let options = RunOptions::DEFAULT.attempts(3).time(Duration::from_secs(1));
        let pauses = |elapsed| (1..=4).map(|n| options.pause_after(&txn(1), n, elapsed).is_some()).collect::<Vec<_>>();
        assert_eq!(pauses(Duration::ZERO), [true, true, false, false]);
        assert_eq!(pauses(Duration::from_secs(1)), [false; 4], "the pause would end too late");
        assert_eq!(options.attempts(0).pause_after(&txn(1), 1, Duration::ZERO), None);
    }

    #[test]
    fn pauses_double_up_to_the_longest_and_are_never_shorter_than_a_millisecond() {
        let options = RunOptions::DEFAULT.attempts(u32::MAX).time(Duration::MAX);
        let mut whole = options.first_backoff;
        for attempt in 1..100 {
            let pause = options.pause_after(&txn(7), attempt, Duration::MAX).expect("there is no limit");
            assert!(whole / 2 <= pause && pause <= whole, "attempt {attempt}: {pause:?} of {whole:?}");
            whole = (whole * 2).min(options.longest_backoff);
        }
        let none = options.first_backoff(Duration::ZERO).longest_backoff(Duration::ZERO);
        assert_eq!(none.pause_after(&txn(1), 1, Duration::ZERO), Some(SHORTEST_BACKOFF));
    }

    #[test]
    fn transactions_that_failed_together_are_tried_again_at_different_times() {
        let pauses: std::collections::BTreeSet<_> =
            (0..64).map(|n| RunOptions::DEFAULT.pause_after(&txn(n), 3, Duration::ZERO)).collect();
        assert!(pauses.len() >= 8, "{pauses:?}");
    }
}
