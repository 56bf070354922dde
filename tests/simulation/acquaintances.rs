//! The oracle of which lives participants listen to: a coordinator that was answered continues what that participant has answered before.

use std::collections::BTreeMap;

use parking_lot::Mutex;
use ringpact::{LogId, Name, participant::Life};

use super::host::Host;
use super::world::World;

/// What each participant has last answered of each coordinator name.
#[derive(Default)]
pub struct Acquaintances(Mutex<BTreeMap<(Name, Name), Acquaintance>>);

#[derive(Default)]
struct Acquaintance {
    known: Option<Life>,
    /// How often an operator's word has come. Answers to what came before it tell nothing of what holds after it.
    words: u64,
}

/// What was known when a message came.
#[derive(Clone, Copy, Default)]
pub struct Before {
    known: Option<Life>,
    words: u64,
}

impl Acquaintances {
    /// A message of this life comes. Gives what was known when it came.
    pub fn comes(&self, participant: &Name, coordinator: &Name, life: &Life) -> Before {
        let mut all = self.0.lock();
        let there = all.entry((participant.clone(), coordinator.clone())).or_default();
        if life.replaces != LogId::NONE {
            // Whether it is taken in durably is not known before it is answered.
            (there.known, there.words) = (None, there.words + 1);
        }
        Before { known: there.known, words: there.words }
    }

    /// What was last answered.
    pub fn known(&self, participant: &Name, coordinator: &Name) -> Option<Life> {
        self.0.lock().get(&(participant.clone(), coordinator.clone()))?.known
    }

    /// It was answered.
    pub fn is_answered(&self, world: &World, participant: &Name, coordinator: &Name, before: Before, life: &Life) {
        if life.log == LogId::NONE {
            return;
        }
        if let Some(known) = before.known {
            let continues = known.log == life.log
                && known.epoch <= life.epoch
                && (known.epoch == life.epoch || known.position < life.position);
            if !continues {
                world
                    .is_wrong(format_args!("{participant} knows {coordinator} in {known}, and has listened to {life}"));
            }
        }
        let mut all = self.0.lock();
        let there = all.entry((participant.clone(), coordinator.clone())).or_default();
        if there.words != before.words {
            return;
        }
        if life.replaces != LogId::NONE {
            (there.known, there.words) = (None, there.words + 1);
        }
        let known = there.known.get_or_insert(*life);
        // Answers overtake each other.
        if known.log != life.log || known.epoch < life.epoch {
            *known = *life;
        } else if known.epoch == life.epoch {
            known.position = known.position.max(life.position);
        }
        known.replaces = LogId::NONE;
    }

    /// The participants of this host start again. How far a log was they know only as long as anything depends on it; and of a
    /// coordinator on their own log they know by that log. A database notes every life that was met.
    pub fn restart(&self, world: &World, host: &Host) {
        for ((participant, _), there) in &mut *self.0.lock() {
            let Some((_, log)) = host.plan.managers.iter().find(|(name, _)| *name == participant.as_str()) else {
                continue;
            };
            let own = super::operator::id_of(host.log_id(*log));
            there.known = there.known.filter(|life| life.log != own || world.plan.has_database(participant.as_str()));
            if let Some(life) = &mut there.known {
                life.position = 0;
            }
        }
    }
}
