//! The oracle of whom participants listen to: whoever was answered goes on from what that participant has answered before.

use std::collections::BTreeMap;

use parking_lot::Mutex;
use ringpact::{LogId, Name, participant::Life};

use super::host::Host;
use super::world::World;

/// What each participant has last answered of each coordinator name.
#[derive(Default)]
pub struct Acquaintances(Mutex<BTreeMap<(Name, Name), Life>>);

impl Acquaintances {
    /// A message of this life comes. Gives what was known when it came.
    pub fn comes(&self, participant: &Name, coordinator: &Name, life: &Life) -> Option<Life> {
        let of = (participant.clone(), coordinator.clone());
        let mut known = self.0.lock();
        if life.replaces != LogId::NONE {
            // Whether it is taken in durably is not known before it is answered.
            known.remove(&of);
        }
        known.get(&of).copied()
    }

    /// It was answered.
    pub fn is_answered(
        &self,
        world: &World,
        participant: &Name,
        coordinator: &Name,
        before: Option<Life>,
        life: &Life,
    ) {
        if life.log == LogId::NONE {
            return;
        }
        if let Some(known) = before {
            let goes_on = known.log == life.log
                && known.epoch <= life.epoch
                && (known.epoch == life.epoch || known.position < life.position);
            if !goes_on {
                world
                    .is_wrong(format_args!("{participant} knows {coordinator} in {known}, and has listened to {life}"));
            }
        }
        let mut all = self.0.lock();
        let known = all.entry((participant.clone(), coordinator.clone())).or_insert(*life);
        // Answers overtake each other.
        if known.log != life.log || known.epoch < life.epoch {
            *known = *life;
        } else if known.epoch == life.epoch {
            known.position = known.position.max(life.position);
        }
        known.replaces = LogId::NONE;
    }

    /// The participants of this host start again. How far a log was they know only as long as anything depends on it; and of a
    /// coordinator on their own log they know by that log.
    pub fn restart(&self, host: &Host) {
        let mut known = self.0.lock();
        known.retain(|(participant, _), life| {
            let Some((_, log)) = host.plan.managers.iter().find(|(name, _)| *name == participant.as_str()) else {
                return true;
            };
            life.position = 0;
            life.log != super::operator::id_of(host.log_id(*log))
        });
    }
}
