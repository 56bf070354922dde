//! Decides which transactions are a coordinator's own. Pure: no I/O, no clock.

use std::{
    collections::BTreeMap,
    ops::Bound::{Excluded, Unbounded},
};

use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::{
    id::{Epoch, TxnOrdinal},
    log::{LogId, Lsn, Record},
    participant::{EndedOpening, Life},
};

/// The openings of one coordinator's log, including this one. They say which transaction ids the
/// coordinator has given out, in this life or in an earlier one. A plain value; clones are
/// independent.
///
/// Presumed abort says that a transaction without a decision in the log is rolled back. That holds
/// only for transactions that this log has begun. It knows nothing of all others, and a rollback of
/// them could undo what another log has committed.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Openings {
    /// The epochs, each with the number of its opening's record, if that is known.
    begun: BTreeMap<Epoch, Lsn>,
    current: Epoch,
    /// Whether the log is an older copy of a log that was lost, and may lack decisions.
    is_restored: bool,
}

/// The standing of a branch that a participant has reported, and of which the log holds no
/// decision.
/// Exhaustive on purpose: there is no fourth.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(clippy::exhaustive_enums, reason = "there is no fourth standing")]
pub enum Standing {
    /// Its transaction began after the opening, and is under way.
    UnderWay,
    /// Its transaction began in an earlier life, and nothing was decided: it is rolled back.
    PresumedAborted,
    /// Nothing can be presumed about it; an operator must look.
    Unclaimed,
}

impl Openings {
    /// Begins the next opening of a log in which a coordinator has these records. The step from the
    /// last epoch to the new one is drawn from the
    /// [incarnation](crate::TransactionLog::incarnation) of the log. Returns `None` if no epoch is
    /// left.
    #[must_use]
    pub fn begin(records: &[Record], incarnation: u64) -> Option<Self> {
        let epochs = records.iter().filter_map(|record| record.fact.epoch());
        let mut begun: BTreeMap<Epoch, Lsn> = epochs.map(|epoch| (epoch, Lsn::NONE)).collect();
        let last = begun.keys().next_back().copied().unwrap_or_default();
        // While the log stays open, its coordinator may be opened more than once: each time with
        // another step.
        let current = last.draw_next(xxh3_64_with_seed(&last.as_u64().to_le_bytes(), incarnation))?;
        begun.insert(current, Lsn::NONE);
        Some(Self { begun, current, is_restored: false })
    }

    /// Returns the openings with the numbers of their records; see
    /// [`TransactionLog::openings`](crate::TransactionLog::openings).
    #[must_use]
    pub fn numbered(mut self, numbers: &[(Epoch, Lsn)]) -> Self {
        for (epoch, number) in numbers {
            if let Some(known) = self.begun.get_mut(epoch) {
                *known = *number;
            }
        }
        self
    }

    /// Returns the opening before this one; none if there was none, or if its end is not known.
    #[must_use]
    pub fn before(&self) -> EndedOpening {
        let before = self.begun.range(..self.current).next_back();
        before.and_then(|(epoch, _)| self.ended(*epoch)).unwrap_or_default()
    }

    /// Returns all earlier openings with a known end, in the order of their epochs.
    pub(in crate::txn) fn earlier(&self) -> Vec<EndedOpening> {
        self.begun.keys().filter_map(|epoch| self.ended(*epoch)).collect()
    }

    /// Returns the earlier opening that began this epoch; `None` if there was none, or if its end
    /// is not known. O(log n).
    fn ended(&self, epoch: Epoch) -> Option<EndedOpening> {
        self.begun.get(&epoch)?;
        let (_, next) = self.begun.range((Excluded(epoch), Unbounded)).next()?;
        (*next != Lsn::NONE).then(|| EndedOpening { epoch, position: next.as_u64() - 1 })
    }

    /// Returns this life for a participant that heard of `known` last: as one that continues it.
    /// `None` if it does not, or if the log does not show it. If an operator said that the
    /// log was restored, it takes the place of whatever is known of the log. O(log n) in the
    /// openings.
    #[must_use]
    pub fn continuing(&self, life: &Life, known: &Life) -> Option<Life> {
        let ended = if self.is_restored {
            EndedOpening { epoch: known.epoch, position: known.position }
        } else {
            self.ended(known.epoch).filter(|ended| ended.position >= known.position)?
        };
        (known.log == life.log).then(|| life.continuing(ended))
    }

    /// Returns the epoch of this opening.
    #[must_use]
    pub const fn current(&self) -> Epoch {
        self.current
    }

    /// Returns the openings with what an operator has said about the log.
    #[must_use]
    pub fn told(mut self, life: &Life) -> Self {
        self.is_restored = life.replaces != LogId::NONE && life.replaces == life.log;
        self
    }

    /// Whether this log's coordinator may have begun the transaction. `next` is the first number of
    /// this epoch that has not been given out. O(log n) in the openings.
    #[must_use]
    pub fn may_have_begun(&self, ordinal: TxnOrdinal, next: u64) -> bool {
        self.begun.contains_key(&ordinal.epoch) && (ordinal.epoch != self.current || ordinal.sequence < next)
    }

    /// Whether a transaction without a decision in the log is rolled back. O(log n) in the
    /// openings.
    #[must_use]
    pub fn presumes_abort_of(&self, ordinal: TxnOrdinal, next: u64) -> bool {
        self.may_have_begun(ordinal, next) && (ordinal.epoch == self.current || !self.is_restored)
    }

    /// Returns the standing of a reported branch of this transaction. O(log n) in the openings.
    #[must_use]
    pub fn standing_of(&self, ordinal: TxnOrdinal, next: u64) -> Standing {
        match self.presumes_abort_of(ordinal, next) {
            true if ordinal.epoch == self.current => Standing::UnderWay,
            true => Standing::PresumedAborted,
            false => Standing::Unclaimed,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{id::Name, log::Fact};

    fn opened(epoch: u64) -> Record {
        Record { owner: Name::from_static("shop"), fact: Fact::Opened { epoch: Epoch::new(epoch) } }
    }

    #[test]
    fn only_transactions_that_this_log_has_begun_are_presumed_aborted() {
        let openings = Openings::begin(&[opened(10), opened(30)], 4).expect("there are epochs left");
        let current = openings.current().as_u64();
        assert!(current > 30);
        let standing = |openings: &Openings, epoch, sequence| {
            openings.standing_of(TxnOrdinal { epoch: Epoch::new(epoch), sequence }, 7)
        };
        let all = [(10, 9), (20, 1), (30, 9), (current, 6), (current, 7), (current + 1, 1)];
        use Standing::{PresumedAborted, Unclaimed, UnderWay};
        let expected = [PresumedAborted, Unclaimed, PresumedAborted, UnderWay, Unclaimed, Unclaimed];
        assert_eq!(all.map(|(epoch, sequence)| standing(&openings, epoch, sequence)), expected);
        let log = LogId::from_bytes([1; 16]);
        let restored = openings.clone().told(&Life { replaces: log, ..Life::new(log, openings.current(), 1) });
        let expected = [Unclaimed, Unclaimed, Unclaimed, UnderWay, Unclaimed, Unclaimed];
        assert_eq!(all.map(|(epoch, sequence)| standing(&restored, epoch, sequence)), expected);
    }

    #[test]
    fn a_life_continues_an_opening_of_its_own_log_that_had_come_as_far_as_was_heard() {
        let openings = Openings::begin(&[opened(10), opened(30)], 4).expect("there are epochs left");
        let (log, current) = (LogId::from_bytes([1; 16]), openings.current());
        assert_eq!(openings.before(), EndedOpening::default(), "no number is known");
        let openings = openings.numbered(&[(Epoch::new(10), Lsn::new(1)), (Epoch::new(30), Lsn::new(8))]);
        let openings = openings.numbered(&[(current, Lsn::new(20))]);
        assert_eq!(openings.before(), EndedOpening { epoch: Epoch::new(30), position: 19 });
        let life = Life::new(log, current, 20);
        let continued = |epoch, position| {
            let life = openings.continuing(&life, &Life::new(log, Epoch::new(epoch), position));
            life.map(|life| (life.after.epoch.as_u64(), life.after.position))
        };
        assert_eq!([continued(30, 19), continued(30, 20)], [Some((30, 19)), None]);
        assert_eq!([continued(10, 7), continued(10, 8)], [Some((10, 7)), None]);
        assert_eq!([continued(20, 1), continued(current.as_u64(), 1)], [None, None]);
        let other = Life::new(LogId::from_bytes([2; 16]), Epoch::new(30), 8);
        assert_eq!(openings.continuing(&life, &other), None);
        // By an operator's word it takes the place of an opening that it knows nothing of.
        let restored = Life { replaces: log, ..life };
        let openings = openings.told(&restored);
        let names = openings.continuing(&restored, &Life::new(log, Epoch::new(20), 90)).expect("an operator said so");
        assert_eq!((names.after.epoch, names.replaces), (Epoch::new(20), log));
        assert_eq!(openings.continuing(&restored, &other), None);
    }

    #[test]
    fn running_out_of_epochs_is_no_panic() {
        assert_eq!(Openings::begin(&[opened(u64::MAX)], 0), None);
    }
}
