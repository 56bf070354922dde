//! The logs: records become durable, or the log fails; a crash cuts off what was not durable.

use ringpact::{
    log::Lsn,
    participant::{BranchInput, LogSharing},
    txn::Input,
};

use super::{
    CommitRun, LogOf, Model, Mutant, Trouble,
    world::{Log, World},
};

impl Model {
    /// Every log of the setting.
    pub(super) fn logs(&self) -> impl Iterator<Item = LogOf> + use<> {
        let own = match self.setting.sharing {
            LogSharing::OwnLog => self.promisers(),
            LogSharing::SharedLog => 0..0,
        };
        std::iter::once(LogOf::Coordinator).chain(own.map(LogOf::Participant))
    }

    pub(super) fn log(world: &mut World, of: LogOf) -> &mut Log {
        match of {
            LogOf::Coordinator => &mut world.log,
            LogOf::Participant(number) => &mut world.parties[number].log,
        }
    }

    /// The participants that write to this log.
    fn writers(&self, of: LogOf) -> std::ops::Range<usize> {
        match (of, self.setting.sharing) {
            (LogOf::Participant(number), _) => number..number + 1,
            (LogOf::Coordinator, LogSharing::SharedLog) => self.promisers(),
            (LogOf::Coordinator, LogSharing::OwnLog) => 0..0,
        }
    }

    /// The first record of the log that a protocol waits for.
    pub(super) fn first_awaited(&self, world: &World, of: LogOf) -> Option<u8> {
        let coordinator = if of == LogOf::Coordinator { self.coordinator_awaits(world) } else { None };
        let branches = self.writers(of).filter_map(|number| self.branch_awaits(world, number));
        branches.chain(coordinator).min().map(|lsn| u8::try_from(lsn.as_u64()).expect("a log has few records"))
    }

    /// Makes the log's first `up_to` records durable, and tells the protocols that wait for them.
    pub(super) fn sync(&mut self, world: &mut World, of: LogOf, up_to: u8) {
        if !self.is(Mutant::LogLies) {
            Self::log(world, of).make_durable(up_to);
        }
        let lsn = Lsn::new(u64::from(up_to));
        if of == LogOf::Coordinator && self.coordinator_awaits(world).is_some_and(|awaited| awaited <= lsn) {
            self.drive(world, CommitRun::Main, Some(Input::Durable(lsn)), Trouble::None);
        }
        for number in self.writers(of) {
            if self.branch_awaits(world, number).is_some_and(|awaited| awaited <= lsn) {
                self.exchange(world, number, BranchInput::Durable(lsn), Trouble::None);
            }
        }
    }

    /// Makes the log fail for good, and tells the protocols that wait for it.
    pub(super) fn fail_log(&mut self, world: &mut World, of: LogOf) {
        Self::log(world, of).poisoned = true;
        if of == LogOf::Coordinator && self.coordinator_awaits(world).is_some() {
            self.drive(world, CommitRun::Main, Some(Input::LogFailed), Trouble::None);
        }
        for number in self.writers(of) {
            if self.branch_awaits(world, number).is_some() {
                self.exchange(world, number, BranchInput::LogFailed, Trouble::None);
            }
        }
    }

    /// Cuts the log down to its first `kept` records, as a crash does.
    pub(super) fn cut(&self, world: &mut World, of: LogOf, kept: u8) {
        let log = Self::log(world, of);
        *log = log.reopened(kept, &self.cast);
    }
}
