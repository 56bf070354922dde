//! What becomes of a coordinator's log, and the operator that follows `src/docs/backups.md` about it.
//!
//! The world's exemptions are the page's own: of a log that is gone for good, or set aside, or overtaken by a copy, a client may have
//! been told of a commit that no participant has carried out. It is rolled back everywhere.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use parking_lot::Mutex;
use ringpact::{
    BranchId, Coordinator, LogId, Name, ParticipantError, TransactionLog, TxnId,
    log::Fact,
    participant::Decision,
    txn::{BranchState, BranchStatus, CoordinatorBuilder},
};

use super::{
    MS,
    host::{Host, Life},
    ledger::Books,
    mailer::MAIL,
    plan::{LogFault, LogFaultKind},
    sim_storage::SimStorage,
    world::World,
};

/// How often the operator looks.
const LOOKS_EVERY: Duration = Duration::from_millis(100);

/// How long it takes an operator that does not act at once.
const SLOW: Duration = Duration::from_millis(1_000);

/// What the operator says of a log when a coordinator is opened on it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Word {
    #[default]
    Nothing,
    Replaces(LogId),
    WasRestored,
}

impl Word {
    pub fn said_to(self, builder: CoordinatorBuilder) -> CoordinatorBuilder {
        match self {
            Self::Nothing => builder,
            Self::Replaces(lost) => builder.replaces_log(lost),
            Self::WasRestored => builder.log_was_restored(),
        }
    }
}

/// What the operator knows.
#[derive(Default)]
pub struct Desk {
    /// Logs that are gone for good, or will not be opened again.
    gone: Mutex<BTreeSet<[u8; 3]>>,
    /// Since when all that is left is to clear up after the fault.
    over_at: Mutex<Option<Duration>>,
}

impl Desk {
    /// Whether the fault has been, and all that is left is to clear up after it.
    pub fn is_over(&self) -> bool {
        self.over_at.lock().is_some()
    }

    fn is_gone(&self, log: LogId) -> bool {
        self.gone.lock().iter().any(|id| id_of(*id) == log)
    }
}

/// The id that a log has in the simulation: its own is random, and would be in the trace.
pub fn id_of(id: [u8; 3]) -> LogId {
    let mut bytes = [0; 16];
    bytes[..3].copy_from_slice(&id);
    LogId::from_bytes(bytes)
}

/// Has the fault happen, if the plan has one, and the operator look after it.
pub fn start(world: &Arc<World>) {
    let Some(fault) = world.plan.log_fault else {
        return *world.desk.over_at.lock() = Some(Duration::ZERO);
    };
    let happens = Arc::clone(world);
    world.clock.start(move || {
        happen(&happens, fault);
        happens.clock.note(format_args!("{:?} is over", fault.kind));
        *happens.desk.over_at.lock() = Some(happens.clock.elapsed());
    });
    let world = Arc::clone(world);
    world.clock.clone().start(move || {
        while !world.is_over() {
            world.clock.sleep(LOOKS_EVERY);
            world.hosts.iter().for_each(|host| look(&world, host, fault));
        }
    });
}

fn happen(world: &Arc<World>, fault: LogFault) {
    use LogFaultKind::{Lost, Restored, SecondOnCopy, SecondOnEmpty, SwappedForCopy, SwappedForEmpty};
    let LogFault { host, kind, copied_after, happens_after, lasts, prompt } = fault;
    let host = &world.hosts[host];
    let Some((name, log)) = host.plan.coordinator else { return };
    world.clock.sleep(copied_after);
    let (id, copy) = (host.log_id(log), host.copy_of_log(log));
    let other = [id[0], id[1], id[2] + 1];
    let told_before = world.ledger.lock().told_before(name);
    world.clock.note(format_args!("the log of {name} is copied"));
    world.clock.sleep(happens_after);
    world.await_promise();
    let begun_before = world.ledger.lock().all();
    let gone = |id| {
        world.desk.gone.lock().insert(id);
    };
    // What participants have durably carried out they tell of.
    let loses = |is_lost: &dyn Fn(&TxnId, usize) -> bool| world.ledger.lock().loses(name, is_lost);
    if matches!(kind, SwappedForCopy | SecondOnCopy) {
        world.ledger.lock().is_copied_over(name);
    }
    match kind {
        Lost => {
            loses(&|_, _| true);
            gone(id);
            host.say(if prompt { Word::Replaces(id_of(id)) } else { Word::Nothing });
            host.put_log(log, SimStorage::new(), other, "and loses its log");
        }
        Restored => {
            // What a client was told of before is in the copy, or has ended.
            loses(&|txn, _| !told_before.contains(txn));
            host.say(if prompt { Word::WasRestored } else { Word::Nothing });
            host.put_log(log, copy, id, "and loses its log, but for a copy");
        }
        SwappedForEmpty | SwappedForCopy => {
            let (disk, there) = if kind == SwappedForEmpty { (SimStorage::new(), other) } else { (copy, id) };
            let kept = host.put_log(log, disk, there, "to be opened on another log");
            world.clock.sleep(lasts);
            world.await_promise();
            loses(&|txn, _| !begun_before.contains(txn));
            if there != id {
                gone(there);
            }
            host.put_log(log, kept, id, "to be opened on its own log again");
        }
        SecondOnEmpty | SecondOnCopy => {
            let number = world.hosts.len() - 1;
            let second = &world.hosts[number];
            if kind == SecondOnCopy {
                second.put_log(0, copy, id, "");
            }
            second.start(world, number);
            world.clock.sleep(lasts);
            world.await_promise();
            loses(&|_, host| host == number);
            if kind == SecondOnEmpty {
                gone(second.log_id(0));
            } else {
                world.ledger.lock().is_copied_over(name);
            }
            second.retire();
        }
    }
}

/// Looks at a coordinator, and does what is to be done.
fn look(world: &Arc<World>, host: &Host, fault: LogFault) {
    let since = world.desk.over_at.lock().map(|at| world.clock.elapsed().saturating_sub(at));
    let acts = !world.faulty() || since.is_some_and(|since| fault.prompt || since > SLOW);
    if host.plan.coordinator.is_none() || host.is_retired() || !acts {
        return;
    }
    let life = host.life().filter(|life| life.is_up());
    let coordinator = life.as_ref().and_then(|life| life.coordinator());
    let status = coordinator.as_ref().map(|coordinator| coordinator.status());
    let refused = host.take_refusal().or_else(|| {
        let status = status.as_ref()?;
        // When it is opened, or later, by each message.
        let circuits = status.circuits.iter().filter_map(|circuit| circuit.last_error.as_ref());
        let branches = status.transactions.iter().flat_map(|transaction| &transaction.branches);
        let told = circuits.chain(branches.filter_map(|branch| branch.last_error.as_ref()));
        status.unanswered_by.values().flatten().chain(told).find(|error| is_refusal(error)).cloned()
    });
    if let Some(word) = refused.and_then(|error| word_for(world, &error)).filter(|word| *word != host.word()) {
        world.clock.note(format_args!("the operator says of {:?}: {word:?}", host.plan.coordinator));
        host.say(word);
        if let Some(life) = host.life() {
            life.crash("to be opened with the operator's word");
        }
        return;
    }
    let (Some(life), Some(coordinator), Some(status)) = (life, coordinator, status) else { return };
    // Before all have met this life, one of them may still hear what the lost one has sent.
    if status.unanswered > 0 {
        return;
    }
    let unclaimed: BTreeSet<_> = status.unclaimed.iter().map(|unclaimed| unclaimed.branch.txn().clone()).collect();
    if unclaimed.is_empty() {
        host.say(Word::Nothing);
    }
    for txn in unclaimed {
        settle(world, &life, &coordinator, &txn);
    }
}

pub fn settle(world: &Arc<World>, life: &Arc<Life>, coordinator: &Coordinator, txn: &TxnId) {
    // All participants are to be looked at.
    if world.hosts.iter().any(|host| !host.is_retired() && host.life().is_none_or(|life| !life.is_up())) {
        return;
    }
    let is_committed =
        world.carried_out().contains(txn) || world.letters.lock().sent.iter().any(|letter| letter.txn() == txn);
    let decision = if is_committed { Decision::Commit } else { Decision::Rollback };
    let settled = coordinator.settle_unclaimed(txn, decision);
    world.count(|counts| counts.unclaimed += 1);
    world.clock.note(format_args!("{life}: the operator settles {txn}, {decision:?}: {settled:?}"));
}

/// An operator reads which letters went out although the purchase did not, and lets that be. And where a log was lost, or was
/// not the one that participants knew, a decision may be delivered again after they have forgotten that they carried it out.
/// Their services' books say that they did. And a copy of a log takes over if no participant has heard of what was decided since it
/// was made (`src/docs/backups.md` says so): it rolls that back everywhere. It also rolls back, at the others, what only absent ones have
/// heard of; an operator puts that right by hand. Nothing else may have ended otherwise than decided.
pub fn forget_heuristics(world: &World, coordinator: &Coordinator) {
    let fault = world.plan.log_fault.and_then(|fault| world.hosts[fault.host].plan.coordinator);
    let books: Books = world.hosts.iter().filter_map(Host::life).flat_map(|life| life.books()).collect();
    for transaction in coordinator.status().transactions {
        let txn = &transaction.txn;
        let there = || books.keys().filter(|branch| branch.txn() == txn).map(BranchId::participant);
        let is_by_copy = {
            let ledger = world.ledger.lock();
            ledger.was_overtaken(txn) && there().next().is_none() || ledger.is_torn_by_copy(txn, there())
        };
        let is_understood = |branch: &BranchStatus| {
            let had_fault = fault.is_some_and(|(name, _)| txn.coordinator().as_str() == name);
            let is_booked = books.contains_key(&txn.branch(&branch.participant));
            branch.participant.as_str() == MAIL || had_fault && (is_booked || is_by_copy)
        };
        let is_heuristic = |branch: &&BranchStatus| matches!(branch.state, BranchState::Heuristic(_));
        let mut branches = transaction.branches.iter().filter(is_heuristic).peekable();
        if branches.peek().is_some() && branches.all(is_understood) {
            // It may be under way to something else meanwhile; then the next round sees to it.
            let _ = coordinator.forget(txn);
        }
    }
}

pub fn is_refusal(error: &ParticipantError) -> bool {
    matches!(error, ParticipantError::OtherLog(_) | ParticipantError::Superseded(_))
}

/// What there is to say about a log that was refused.
fn word_for(world: &World, error: &ParticipantError) -> Option<Word> {
    match error {
        ParticipantError::OtherLog(lives) if world.desk.is_gone(lives.known.log) => {
            Some(Word::Replaces(lives.known.log))
        }
        // It was opened again since: the log that is there now is the newest one.
        ParticipantError::Superseded(_) if world.desk.is_over() => Some(Word::WasRestored),
        _ => None,
    }
}

impl World {
    /// Waits for a bad moment: some participant has promised. If none comes, any will do.
    fn await_promise(&self) {
        let has_promised = |life: Arc<Life>| life.managers().iter().any(|manager| manager.status().prepared > 0);
        #[cfg(feature = "tokio")]
        let has_promise_in_database = || self.databases.has_promise();
        #[cfg(not(feature = "tokio"))]
        let has_promise_in_database = || false;
        self.clock.await_until(MS * 50, || {
            has_promise_in_database() || self.hosts.iter().filter_map(Host::life).any(has_promised)
        });
    }

    /// The transactions that some participant has carried out, as its service's books and its log say.
    pub fn carried_out(&self) -> BTreeSet<TxnId> {
        let mut all = BTreeSet::new();
        for life in self.hosts.iter().filter_map(Host::life).filter(|life| life.is_up()) {
            all.extend(life.books().keys().map(|branch| branch.txn().clone()));
            for (name, log) in &self.hosts[life.host].plan.managers {
                let name: Name = name.parse().expect("a valid name");
                let records = life.logs()[*log].live(&name).unwrap_or_default();
                all.extend(records.into_iter().filter_map(|record| match record.fact {
                    Fact::Committed { txn, .. } => Some(txn),
                    _ => None,
                }));
            }
        }
        all
    }
}
