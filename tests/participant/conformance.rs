//! The conformance suite passes resource managers and catches participants that break a rule.

use std::{
    collections::BTreeMap,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use parking_lot::Mutex;
use ringpact::{
    BranchId, Epoch, LogId, MemoryLog, Name, Participant, ParticipantError, TransactionLog, Vote,
    participant::{
        Call, Decision, EndedOpening, ExecuteError, Introduction, KnownLife, Life,
        conformance::{self, Effect, Harness, Worked},
    },
};

use crate::txn_support::{self, Account, Disk, Manager, manager_on};

enum Coordinators {
    OwnLog,
    SameLog,
}

struct ManagerHarness {
    log: MemoryLog,
    disk: Disk,
    manager: Manager,
    coordinators: Coordinators,
}

impl ManagerHarness {
    fn new(coordinators: Coordinators) -> Self {
        let (log, disk) = (MemoryLog::new(), Disk::default());
        let manager = manager_on("tested", log.clone(), &disk);
        Self { log, disk, manager, coordinators }
    }

    fn execute(&self, branch: &BranchId, amount: i64) -> Worked {
        match self.manager.execute(branch, amount) {
            Ok(()) => Worked::Done,
            Err(ExecuteError::Closed { .. } | ExecuteError::EarlierLife { .. }) => Worked::Refused,
            Err(error) => panic!("{error}"),
        }
    }
}

impl Harness for ManagerHarness {
    fn name(&self) -> Name {
        self.manager.name().clone()
    }
    fn participant(&self) -> Arc<dyn Participant> {
        self.manager.clone()
    }
    fn work(&self, branch: &BranchId) -> Worked {
        self.execute(branch, 2)
    }
    fn refused_work(&self, branch: &BranchId) {
        assert!(matches!(self.manager.execute(branch, 3), Err(ExecuteError::Refused(_))));
    }
    fn read_only_work(&self, branch: &BranchId) -> Option<Worked> {
        Some(self.execute(branch, 0))
    }
    fn effect(&self, branch: &BranchId) -> Effect {
        let account: &Account = self.manager.service();
        let (applied, reserved) = (account.applied.lock(), account.reserved.lock());
        match (applied.contains_key(branch), reserved.contains_key(branch)) {
            (true, false) => Effect::Applied { times: 1 },
            (false, true) => Effect::Reserved,
            (false, false) => Effect::Absent,
            (true, true) => panic!("{branch} is applied and its reservation still there"),
        }
    }
    fn crash(&mut self) {
        self.log = self.log.crash();
        self.manager = manager_on("tested", self.log.clone(), &self.disk);
    }
    fn coordinator_log(&self) -> LogId {
        match self.coordinators {
            Coordinators::OwnLog => LogId::from_bytes([7; 16]),
            Coordinators::SameLog => self.log.opening(),
        }
    }
    fn coordinator_syncs(&self) {
        if let Coordinators::SameLog = self.coordinators {
            // Reading the live records syncs a memory log, just as the next decision would.
            self.log.live(&txn_support::name("coordinator")).expect("the log is open");
        }
    }
}

#[test]
fn a_resource_manager_with_its_own_log_conforms() {
    let report = conformance::check(|| ManagerHarness::new(Coordinators::OwnLog));
    assert_eq!((report.skipped.len(), report.passed.len()), (0, 33));
}

#[test]
fn a_resource_manager_that_shares_the_coordinators_log_conforms() {
    let report = conformance::check(|| ManagerHarness::new(Coordinators::SameLog));
    assert_eq!((report.skipped.len(), report.passed.len()), (0, 33));
}

/// The rule that the hand-made participant below breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Breaks {
    Nothing,
    ForgetsItsPromiseInACrash,
    ForgetsItsEffectInACrash,
    CommitsOnceMoreWhenToldAgain,
    LeavesNoTombstone,
    VotesYesForUnknownBranches,
    AppliesOnPrepare,
    CommitsWithoutAPromise,
    RollsBackWhatIsCommitted,
    IgnoresRefusedWork,
    ListsAllBranches,
    ListsOnlyPromises,
    TakesWorkAfterTheVote,
    WorksForEndedTransactions,
    ForgetsWhatItDecidedAlone,
    KeepsTheReservationOfARollback,
    AnswersUnfitCommitsByAFailure,
    TakesMessagesOfEarlierEpochs,
    ListensToAnyLog,
    ListensToCallsOfAnyLog,
    ListensToOlderCopies,
    ForgetsLivesInACrash,
    ForgetsPositionsInACrash,
    IgnoresOperators,
    DropsPromisesToALostLog,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Active,
    Doomed,
    Prepared,
    Committed,
    RolledBack,
}

#[derive(Clone, Copy, Debug, Default)]
struct Row {
    state: State,
    reserved: bool,
    applied: usize,
}

/// A participant written by hand: a table in memory, and a copy of it that survives crashes.
pub struct HandMade {
    breaks: Breaks,
    tables: Mutex<Tables>,
}

#[derive(Clone, Default)]
struct Tables {
    rows: BTreeMap<BranchId, Row>,
    durable: BTreeMap<BranchId, Row>,
    ended_below: BTreeMap<Name, ringpact::TxnOrdinal>,
    epochs: BTreeMap<Name, Epoch>,
    lives: BTreeMap<Name, KnownLife>,
    durable_lives: BTreeMap<Name, Life>,
}

impl Tables {
    /// Whether a message for the branch, if the branch is unknown, comes too late.
    fn is_late(&self, branch: &BranchId, breaks: Breaks) -> bool {
        let coordinator = branch.txn().coordinator();
        let ended = self.ended_below.get(coordinator).is_some_and(|ordinal| branch.txn().ordinal() < *ordinal);
        let stale = self.epochs.get(coordinator).is_some_and(|epoch| branch.txn().epoch() < *epoch);
        ended && breaks != Breaks::WorksForEndedTransactions || stale && breaks != Breaks::TakesMessagesOfEarlierEpochs
    }

    /// Takes in what the message says of its coordinator, or refuses the message.
    fn learn(&mut self, branch: &BranchId, call: &Call, breaks: Breaks) -> Result<(), ParticipantError> {
        let mut call = call.clone();
        if matches!(breaks, Breaks::ListensToAnyLog | Breaks::ListensToCallsOfAnyLog) {
            call.identity = LogId::NONE;
        }
        let coordinator = branch.txn().coordinator();
        if breaks == Breaks::ListensToOlderCopies {
            call.after = self.whatever_was_met(coordinator);
        }
        self.lives.entry(coordinator.clone()).or_default().hear(coordinator, &call)?;
        self.write_life_down(coordinator, breaks);
        let known = self.ended_below.entry(branch.txn().coordinator().clone()).or_default();
        *known = call.ended_below.max(*known);
        let known = self.epochs.entry(branch.txn().coordinator().clone()).or_default();
        *known = call.epoch.max(*known);
        Ok(())
    }

    fn meet(&mut self, coordinator: &Name, life: &Life, breaks: Breaks) -> Result<(), ParticipantError> {
        let mut life = *life;
        match breaks {
            Breaks::ListensToAnyLog => return Ok(()),
            Breaks::ListensToOlderCopies => life.after = self.whatever_was_met(coordinator),
            Breaks::IgnoresOperators => life.replaces = LogId::NONE,
            _ => {}
        }
        let met = self.lives.entry(coordinator.clone()).or_default().meet(coordinator, &life)?;
        if met == Introduction::Replaces && breaks == Breaks::DropsPromisesToALostLog {
            self.rows.retain(|_, row| row.state != State::Prepared);
        }
        self.write_life_down(coordinator, breaks);
        Ok(())
    }

    /// An ended opening that continues the known life, however long the log was.
    fn whatever_was_met(&self, coordinator: &Name) -> EndedOpening {
        let known = self.lives.get(coordinator).map_or_else(KnownLife::new, |known| *known);
        EndedOpening { epoch: known.life().epoch, position: u64::MAX }
    }

    fn write_life_down(&mut self, coordinator: &Name, breaks: Breaks) {
        let mut life = self.lives[coordinator].life();
        if breaks == Breaks::ForgetsPositionsInACrash {
            life.position = 0;
        }
        self.durable_lives.insert(coordinator.clone(), life);
    }

    fn write_down(&mut self, branch: &BranchId) {
        let row = self.rows[branch];
        self.durable.insert(branch.clone(), row);
    }
}

impl HandMade {
    fn new(breaks: Breaks) -> Self {
        Self { breaks, tables: Mutex::default() }
    }

    pub fn is_committed(&self, branch: &BranchId) -> bool {
        self.tables.lock().rows.get(branch).is_some_and(|row| row.state == State::Committed)
    }

    fn work(&self, branch: &BranchId) -> Worked {
        let mut tables = self.tables.lock();
        let unknown = !tables.rows.contains_key(branch);
        if unknown && tables.is_late(branch, self.breaks) {
            return Worked::Refused;
        }
        let row = tables.rows.entry(branch.clone()).or_default();
        let open = match row.state {
            State::Active | State::Doomed => true,
            State::Prepared => self.breaks == Breaks::TakesWorkAfterTheVote,
            State::Committed | State::RolledBack => false,
        };
        if !open {
            return Worked::Refused;
        }
        row.reserved = true;
        Worked::Done
    }

    fn undo(&self, row: &mut Row) {
        row.state = State::RolledBack;
        row.reserved &= self.breaks == Breaks::KeepsTheReservationOfARollback;
    }
}

impl Participant for HandMade {
    fn prepare(&self, branch: &BranchId, call: &Call) -> Result<Vote, ParticipantError> {
        let mut tables = self.tables.lock();
        tables.learn(branch, call, self.breaks)?;
        let tables = &mut *tables;
        if !tables.rows.contains_key(branch) {
            if self.breaks == Breaks::VotesYesForUnknownBranches {
                return Ok(Vote::Yes);
            }
            tables.rows.insert(branch.clone(), Row { state: State::RolledBack, ..Row::default() });
        }
        let row = tables.rows.get_mut(branch).expect("the lines above have inserted it");
        match row.state {
            State::Active => {
                row.state = State::Prepared;
                if self.breaks == Breaks::AppliesOnPrepare {
                    (row.reserved, row.applied) = (false, 1);
                }
                if self.breaks != Breaks::ForgetsItsPromiseInACrash {
                    tables.write_down(branch);
                }
                Ok(Vote::Yes)
            }
            State::Doomed => {
                self.undo(row);
                Ok(Vote::No)
            }
            State::Prepared => Ok(Vote::Yes),
            State::RolledBack => Ok(Vote::No),
            State::Committed => Err(ParticipantError::Stale),
        }
    }

    fn commit(&self, branch: &BranchId, call: &Call) -> Result<(), ParticipantError> {
        let mut tables = self.tables.lock();
        tables.learn(branch, call, self.breaks)?;
        let unfit = |error| match self.breaks {
            Breaks::AnswersUnfitCommitsByAFailure => ParticipantError::resource("it can't be committed"),
            _ => error,
        };
        let Some(row) = tables.rows.get_mut(branch) else { return Err(unfit(ParticipantError::UnknownBranch)) };
        match row.state {
            State::Active if self.breaks == Breaks::CommitsWithoutAPromise => {}
            State::Active | State::Doomed => return Err(ParticipantError::Stale),
            State::RolledBack => return Err(unfit(ParticipantError::AlreadyRolledBack)),
            State::Committed if self.breaks == Breaks::CommitsOnceMoreWhenToldAgain => {}
            State::Committed => return Ok(()),
            State::Prepared => {}
        }
        *row = Row { state: State::Committed, reserved: false, applied: row.applied + 1 };
        if self.breaks == Breaks::AppliesOnPrepare {
            row.applied = 1;
        }
        if self.breaks != Breaks::ForgetsItsEffectInACrash {
            tables.write_down(branch);
        }
        Ok(())
    }

    fn rollback(&self, branch: &BranchId, call: &Call) -> Result<(), ParticipantError> {
        let mut tables = self.tables.lock();
        tables.learn(branch, call, self.breaks)?;
        let row = tables.rows.entry(branch.clone()).or_default();
        if row.state == State::Committed && self.breaks != Breaks::RollsBackWhatIsCommitted {
            return Err(ParticipantError::AlreadyCommitted);
        }
        self.undo(row);
        row.applied = 0;
        if self.breaks == Breaks::LeavesNoTombstone {
            tables.rows.remove(branch);
        }
        tables.durable.remove(branch);
        Ok(())
    }

    fn commit_one_phase(&self, branch: &BranchId, call: &Call) -> Result<Decision, ParticipantError> {
        if self.is_committed(branch) {
            if self.breaks == Breaks::ForgetsWhatItDecidedAlone {
                return Ok(Decision::Rollback);
            }
            return Ok(Decision::Commit);
        }
        match self.prepare(branch, call)? {
            Vote::Yes => self.commit(branch, call).map(|()| Decision::Commit),
            Vote::ReadOnly => Ok(Decision::Commit),
            Vote::No => Ok(Decision::Rollback),
        }
    }

    fn meet(&self, coordinator: &Name, life: &Life) -> Result<(), ParticipantError> {
        self.tables.lock().meet(coordinator, life, self.breaks)
    }

    fn in_doubt(&self, coordinator: &Name) -> Result<Vec<BranchId>, ParticipantError> {
        let unfinished = |state| match state {
            State::Prepared => true,
            State::Active | State::Doomed => self.breaks != Breaks::ListsOnlyPromises,
            State::Committed | State::RolledBack => false,
        };
        let theirs =
            |branch: &BranchId| branch.txn().coordinator() == coordinator || self.breaks == Breaks::ListsAllBranches;
        let tables = self.tables.lock();
        let rows = tables.rows.iter().filter(|(branch, row)| theirs(branch) && unfinished(row.state));
        Ok(rows.map(|(branch, _)| branch.clone()).collect())
    }
}

pub struct HandMadeHarness(pub Arc<HandMade>);

impl HandMadeHarness {
    pub fn new(breaks: Breaks) -> Self {
        Self(Arc::new(HandMade::new(breaks)))
    }
}

impl Harness for HandMadeHarness {
    fn name(&self) -> Name {
        txn_support::name("tested")
    }
    fn participant(&self) -> Arc<dyn Participant> {
        self.0.clone()
    }
    fn work(&self, branch: &BranchId) -> Worked {
        self.0.work(branch)
    }
    fn refused_work(&self, branch: &BranchId) {
        if self.0.breaks != Breaks::IgnoresRefusedWork {
            self.0.tables.lock().rows.entry(branch.clone()).or_default().state = State::Doomed;
        }
    }
    fn effect(&self, branch: &BranchId) -> Effect {
        match self.0.tables.lock().rows.get(branch) {
            Some(Row { applied: times @ 1.., .. }) => Effect::Applied { times: *times },
            Some(Row { reserved: true, .. }) => Effect::Reserved,
            _ => Effect::Absent,
        }
    }
    fn crash(&mut self) {
        let durable = std::mem::take(&mut self.0.tables.lock().durable);
        let durable_lives = std::mem::take(&mut self.0.tables.lock().durable_lives);
        let mut tables = Tables { rows: durable.clone(), durable, ..Tables::default() };
        if self.0.breaks != Breaks::ForgetsLivesInACrash {
            for (coordinator, life) in &durable_lives {
                tables.lives.entry(coordinator.clone()).or_default().remember(*life);
            }
            tables.durable_lives = durable_lives;
        }
        self.0 = Arc::new(HandMade { breaks: self.0.breaks, tables: Mutex::new(tables) });
    }
}

pub fn check(breaks: Breaks) -> conformance::Report {
    conformance::check(|| HandMadeHarness::new(breaks))
}

/// The check that fails in `run`.
pub fn rule_broken_by(run: impl FnOnce()) -> String {
    let panic = catch_unwind(AssertUnwindSafe(run)).expect_err("a broken participant passed");
    let message = panic.downcast::<String>().expect("the suite panics with a message");
    let (rule, _) = message.split_once("\" does not hold: ").unwrap_or_else(|| panic!("{message}"));
    rule.strip_prefix("participant conformance: \"").unwrap_or_else(|| panic!("{message}")).to_owned()
}

#[test]
fn a_sound_hand_made_participant_conforms_and_what_it_lacks_is_named() {
    let report = check(Breaks::Nothing);
    assert_eq!(report.skipped, ["a branch that only looked votes read-only"]);
    assert_eq!(report.passed.len(), 32);
}

/// A harness can say that its participant accepts every life. The report then lists what was not
/// checked.
#[test]
fn without_lives_the_report_lists_what_was_skipped() {
    struct Harnessed(HandMadeHarness);
    impl Harness for Harnessed {
        fn name(&self) -> Name {
            self.0.name()
        }
        fn participant(&self) -> Arc<dyn Participant> {
            self.0.participant()
        }
        fn work(&self, branch: &BranchId) -> Worked {
            self.0.work(branch)
        }
        fn refused_work(&self, branch: &BranchId) {
            self.0.refused_work(branch);
        }
        fn effect(&self, branch: &BranchId) -> Effect {
            self.0.effect(branch)
        }
        fn crash(&mut self) {
            self.0.crash();
        }
        fn remembers_lives(&self) -> bool {
            false
        }
    }
    let make = || Harnessed(HandMadeHarness(Arc::new(HandMade::new(Breaks::ListensToAnyLog))));
    let report = conformance::check(make);
    assert_eq!((report.skipped.len(), report.passed.len()), (5, 28));
}

#[test]
fn every_broken_participant_is_caught_by_the_rule_that_it_breaks() {
    let cases = [
        (Breaks::ForgetsItsPromiseInACrash, "a yes vote survives a crash and can be committed"),
        (Breaks::ForgetsItsEffectInACrash, "the effect of a commit survives a crash"),
        (Breaks::CommitsOnceMoreWhenToldAgain, "a repeated commit has one effect"),
        (Breaks::LeavesNoTombstone, "a rollback before the vote leaves a tombstone"),
        (Breaks::VotesYesForUnknownBranches, "an unknown branch gets a no"),
        (Breaks::AppliesOnPrepare, "a yes vote sets the work aside and applies nothing"),
        (Breaks::CommitsWithoutAPromise, "a commit without a promise is an error and applies nothing"),
        (Breaks::RollsBackWhatIsCommitted, "a committed branch can't be rolled back"),
        (Breaks::IgnoresRefusedWork, "refused work dooms its branch"),
        (Breaks::ListsAllBranches, "in-doubt branches are the unfinished ones of the coordinator that asks"),
        (Breaks::ListsOnlyPromises, "in-doubt branches are the unfinished ones of the coordinator that asks"),
        (Breaks::TakesWorkAfterTheVote, "no work is taken after the vote"),
        (Breaks::WorksForEndedTransactions, "what comes late for an ended transaction is refused"),
        (Breaks::ForgetsWhatItDecidedAlone, "a one-phase commit applies, and says so again"),
        (Breaks::KeepsTheReservationOfARollback, "a yes vote survives a crash and can be rolled back"),
        (
            Breaks::AnswersUnfitCommitsByAFailure,
            "a commit of a branch that is unknown or rolled back is answered as such",
        ),
        (
            Breaks::TakesMessagesOfEarlierEpochs,
            "what an earlier epoch has sent is refused once a later one is heard of",
        ),
        (Breaks::ListensToAnyLog, "another log under a coordinator's name is refused"),
        (Breaks::ListensToCallsOfAnyLog, "another log under a coordinator's name is refused"),
        (Breaks::ListensToOlderCopies, "an earlier life of a coordinator, and an older copy of its log, are refused"),
        (Breaks::ForgetsLivesInACrash, "the life that was met is known after a crash"),
        (Breaks::ForgetsPositionsInACrash, "the life that was met is known after a crash"),
        (Breaks::IgnoresOperators, "a log that replaces a lost one is accepted, and promises stay"),
        (Breaks::DropsPromisesToALostLog, "a log that replaces a lost one is accepted, and promises stay"),
    ];
    for (breaks, rule) in cases {
        assert_eq!(rule_broken_by(|| drop(check(breaks))), rule, "{breaks:?}");
    }
}
