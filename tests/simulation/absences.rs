//! The oracle of what a copy of a coordinator's log may do because a participant is absent, and nothing else may: see
//! `src/docs/backups.md`. A participant that has heard more than the copy holds refuses it. The copy settles by presumption without
//! one that has not answered any of several questions for as long as a message may take. A database does not keep how far the log was
//! when it carried a decision out, so a participant with one is as good as absent once its process was restarted.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use parking_lot::Mutex;
use ringpact::{
    Epoch, Name, TxnId,
    participant::{Call, Request},
};

use super::{
    plan::{LogFault, LogFaultKind},
    world::World,
};

/// How often a participant must have been asked. It is asked once more, but the last time may be too late to count.
const ASKED: usize = 3;

/// Which opening of which coordinator asks.
pub type Opening = (Name, Epoch);

/// What each opening has asked participants on other hosts when it introduced itself.
#[derive(Default)]
pub struct Absences(Mutex<BTreeMap<(Opening, Name), Asked>>);

#[derive(Default)]
struct Asked {
    at: Vec<Duration>,
    answered: Option<Duration>,
}

impl Asked {
    /// Whether the coordinator may go on without it.
    fn is_absent(&self, patience: Duration, now: Duration) -> bool {
        let Some(until) = self.at.first().map(|first| *first + patience) else { return false };
        let in_time = self.at.iter().filter(|at| **at < until).count();
        now >= until && in_time >= ASKED && self.answered.is_none_or(|answered| answered >= until)
    }
}

impl Absences {
    /// A request goes out. Gives the opening that asks, if this is how it introduces itself.
    pub fn asks(&self, world: &World, participant: &Name, request: &Request) -> Option<Opening> {
        let Request::InDoubt { coordinator, life: Some(life) } = request else { return None };
        let opening = (coordinator.clone(), life.epoch);
        let now = world.clock.elapsed();
        self.0.lock().entry((opening.clone(), participant.clone())).or_default().at.push(now);
        Some(opening)
    }

    /// An answer comes, be it a refusal.
    pub fn is_answered(&self, world: &World, participant: &Name, opening: &Opening) {
        let now = world.clock.elapsed();
        if let Some(asked) = self.0.lock().get_mut(&(opening.clone(), participant.clone())) {
            asked.answered.get_or_insert(now);
        }
    }

    /// A participant has rolled back a branch because this call says so. Gives the participants that had to be there for it to be
    /// certain, and were not.
    pub fn of(&self, world: &World, txn: &TxnId, call: &Call) -> BTreeSet<Name> {
        use LogFaultKind::{Restored, SecondOnCopy, SwappedForCopy};
        let is_copied = |fault: LogFault| matches!(fault.kind, Restored | SecondOnCopy | SwappedForCopy);
        if call.epoch <= txn.epoch() || !world.plan.log_fault.is_some_and(is_copied) {
            return BTreeSet::new();
        }
        let opening = (txn.coordinator().clone(), call.epoch);
        let (patience, now) = (world.plan.policy.delivery_timeout, world.clock.elapsed());
        let all = self.0.lock();
        let absent = all.iter().filter(|((asks, _), asked)| *asks == opening && asked.is_absent(patience, now));
        let absent = absent.map(|((_, participant), _)| participant.clone());
        #[cfg(feature = "tokio")]
        let absent = absent.chain(super::databases::forgetful(world, txn));
        absent.collect()
    }
}
