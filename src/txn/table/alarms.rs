//! The alarms of a search for expired time-outs that looks at all of them.

use std::time::Instant;

/// The alarms that are set.
///
/// An alarm starts one search of everything, which finds out when to search again. So no alarm
/// later than the next one is needed, and a short time-out among long ones does not set the long
/// one again.
#[derive(Debug, Default)]
pub(in crate::txn) struct Alarms(
    /// The times of the alarms, the next one last.
    Vec<Instant>,
);

impl Alarms {
    /// Returns whether the caller must set an alarm at this time; it then counts as set. O(1).
    pub(in crate::txn) fn sets(&mut self, at: Instant) -> bool {
        let is_needed = self.0.last().is_none_or(|next| at < *next);
        if is_needed {
            self.0.push(at);
        }
        is_needed
    }

    /// Removes the alarms up to `now`, which have gone off.
    pub(in crate::txn) fn go_off(&mut self, now: Instant) {
        while self.0.pop_if(|at| *at <= now).is_some() {}
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn an_alarm_later_than_the_next_one_is_not_set() {
        let (mut alarms, begin) = (Alarms::default(), Instant::now());
        let after = |seconds| begin + Duration::from_secs(seconds);
        let set: Vec<_> = [10, 10, 12, 4, 5, 4, 1].map(|seconds| alarms.sets(after(seconds))).into();
        assert_eq!(set, [true, false, false, true, false, false, true]);
        alarms.go_off(after(0));
        assert!(!alarms.sets(after(1)), "it is still set");
        alarms.go_off(after(4));
        assert!(
            !alarms.sets(after(10)) && alarms.sets(after(9)),
            "only the alarm at 10 is left of those that were set"
        );
    }

    /// A bug: each short alarm that had gone off set the long one once more.
    #[test]
    fn short_time_outs_beside_a_long_one_do_not_pile_up() {
        let (mut alarms, begin) = (Alarms::default(), Instant::now());
        let long = begin + Duration::from_secs(1_000_000);
        assert!(alarms.sets(long));
        for second in 1..1_000 {
            let short = begin + Duration::from_secs(second);
            assert!(alarms.sets(short));
            alarms.go_off(short);
            assert!(!alarms.sets(long));
        }
        assert_eq!(alarms.0, [long]);
    }
}
