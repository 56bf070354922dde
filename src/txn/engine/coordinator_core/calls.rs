//! What each message carries: how far transactions have ended, and which life of the coordinator sends
//! it.

use std::{sync::atomic::Ordering, time::Instant};

use super::{CoordinatorCore, Table};
use crate::{
    id::TxnOrdinal,
    log::Lsn,
    participant::{Call, Life, ParticipantError, Verb},
    txn::engine::members::Slot,
};

/// Maximum number of ended transactions of which participants are not told yet, while others are
/// open.
const MOST_UNSAID: u64 = 16;

impl CoordinatorCore {
    /// Updates `ended_below`, because something may have ended. `durable` is a record that the log
    /// has made durable. The log must not be asked under this lock; a smaller number only delays
    /// `ended_below`.
    pub(super) fn note_ended(&self, table: &mut Table, durable: Lsn) {
        let first = table.transactions.first(durable);
        let is_known = first.epoch == self.epoch && !table.abandoned;
        let (known, below) = (self.ended_below.load(Ordering::Relaxed), if is_known { first.sequence } else { 0 });
        // All threads read it with each message, so it is written the less often the more
        // transactions are open.
        let news = below.saturating_sub(known);
        if known == 0 || below < known || news >= table.transactions.at_once().min(MOST_UNSAID) {
            self.ended_below.store(below, Ordering::Release);
            self.position.fetch_max(durable.as_u64(), Ordering::Relaxed);
        }
    }

    /// Returns the life as the coordinator introduces it to a participant that has refused it
    /// because the participant has missed the opening before.
    pub(in crate::txn) fn continuing(&self, refusal: &ParticipantError) -> Option<Life> {
        let ParticipantError::Superseded(mismatch) = refusal else { return None };
        self.openings.continuing(&self.life, &mismatch.known).filter(|life| life.after != mismatch.came.after)
    }

    /// Returns what a message to the participant carries. A commit carries how far the log is
    /// durable with its decision in it; for all others what was known a moment ago is enough.
    /// `decided` is the number of the decision's record, if this life has appended it.
    pub(in crate::txn) fn call(&self, slot: &Slot, verb: Verb, deadline: Option<Instant>, decided: Lsn) -> Call {
        let ended_below = match self.ended_below.load(Ordering::Acquire) {
            0 => TxnOrdinal::default(),
            sequence => slot.held.limit(TxnOrdinal { epoch: self.epoch, sequence }),
        };
        let position = match verb {
            Verb::Commit => self.position_of_commit(decided),
            _ => self.position.load(Ordering::Relaxed),
        };
        let Life { log: identity, after, .. } = self.life;
        Call { epoch: self.epoch, ended_below, deadline, identity, position, after, ..Call::new(self.opening) }
    }

    /// Returns how far the log is durable, as far as this life knows it. Once the coordinator is
    /// gone the next life may write to the same log. Its records must not count, because a
    /// participant that hears of them would take the next life for an older copy of the log.
    fn position_of_commit(&self, decided: Lsn) -> u64 {
        let durable = self.log.durable(); // before the question whether the coordinator is gone
        if !self.is_gone() {
            return durable.as_u64();
        }
        let known = self.position.load(Ordering::Relaxed).max(self.closed_at.load(Ordering::Acquire));
        known.max(decided.as_u64())
    }
}
