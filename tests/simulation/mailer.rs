//! The shop's last resource: it writes to the buyer. A letter can't be called back, and a host that has crashed has sent it all the
//! same.

use std::{collections::BTreeSet, sync::Arc};

use parking_lot::Mutex;
use ringpact::{
    BranchId, ParticipantError,
    participant::{Call, CommitMemory, Decision, LastResource, LastResourceAnswer},
};

use super::{host::Life, mutants::Mutant};

/// As the coordinators know it.
pub const MAIL: &str = "mail";

/// What became of all letters of all hosts. It outlives every process.
#[derive(Debug, Default)]
pub struct Letters {
    pub sent: BTreeSet<BranchId>,
    torn_up: BTreeSet<BranchId>,
}

/// A process's way to the post.
pub struct Mailer(pub Arc<Life>);

impl Mailer {
    fn go<T>(&self, go: impl FnOnce(&mut Letters) -> Result<T, ParticipantError>) -> Result<T, ParticipantError> {
        let (life, world) = (&self.0, &self.0.world);
        if !life.is_alive() {
            return Err(ParticipantError::Unreachable);
        }
        world.clock.sleep(world.plan.network.fastest);
        let is_lost = || world.faulty() && world.clock.once_in(world.plan.network.lost);
        if !life.is_alive() || is_lost() {
            return Err(ParticipantError::Unreachable);
        }
        let gone = go(&mut world.letters.lock());
        if world.faulty() && world.clock.once_in(world.plan.crash_at_message) {
            life.crash("at the letter box");
        }
        if !life.is_alive() || is_lost() { Err(ParticipantError::Unreachable) } else { gone }
    }
}

impl LastResource for Mailer {
    fn memory(&self) -> Option<&dyn CommitMemory> {
        self.0.world.plan.remembers.then_some(self)
    }

    fn commit(&self, branch: &BranchId, _: &Call) -> Result<Decision, ParticipantError> {
        self.0.world.clock.note(format_args!("{} sends the letter of {branch}", self.0));
        let gone = self.go(|letters| {
            if letters.torn_up.contains(branch) {
                return Ok(Decision::Rollback);
            }
            letters.sent.insert(branch.clone());
            Ok(Decision::Commit)
        });
        if self.0.world.is_mutated(Mutant::TrustsTheLastResource) { gone.or(Ok(Decision::Commit)) } else { gone }
    }

    fn rollback(&self, branch: &BranchId, _: &Call) -> Result<(), ParticipantError> {
        self.0.world.clock.note(format_args!("{} tears up the letter of {branch}", self.0));
        self.go(|letters| {
            if self.0.world.is_mutated(Mutant::AsksTheLastResourceAnyhow) {
                letters.sent.insert(branch.clone());
                return Ok(());
            }
            if letters.sent.contains(branch) {
                return Err(ParticipantError::AlreadyCommitted);
            }
            letters.torn_up.insert(branch.clone());
            Ok(())
        })
    }
}

/// Letters are marked, so the post remembers which were sent. One that was not is never sent from then on.
impl CommitMemory for Mailer {
    fn committed(&self, branch: &BranchId) -> Result<LastResourceAnswer, ParticipantError> {
        self.0.world.clock.note(format_args!("{} asks for the letter of {branch}", self.0));
        self.go(|letters| {
            if letters.sent.contains(branch) {
                return Ok(LastResourceAnswer::Committed);
            }
            letters.torn_up.insert(branch.clone());
            Ok(LastResourceAnswer::NotCommitted)
        })
    }
}

/// All letters, in the world.
pub type Post = Mutex<Letters>;
