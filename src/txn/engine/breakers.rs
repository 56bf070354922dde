//! Connects the participants' [circuits](crate::txn::engine::circuit) with the transactions: asks a
//! circuit before a message goes out, tells it the answer, and carries out what it wants done.

use std::{
    sync::{
        Arc, OnceLock, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

use parking_lot::Mutex;

use crate::{
    participant::{ParticipantError, Response, Verb},
    txn::{
        BranchError, Input,
        engine::{
            circuit::{Admitted, Circuit, Effect, Id, Pass, Settings},
            coordinator_core::CoordinatorCore,
            members::{Members, Slot},
            scheduler::{Runnable, Runner},
            transaction_driver::TransactionDriver,
        },
        operator::status::CircuitStatus,
        table::key::TxnKey,
    },
};

/// One participant's circuit.
pub(in crate::txn) struct Breaker {
    /// Whether nothing is wrong and nothing is outstanding. Then the circuit of a participant that
    /// answers at once need not be asked.
    is_calm: AtomicBool,
    inner: Mutex<BreakerState>,
    ticker: OnceLock<Arc<Ticker>>,
}

struct BreakerState {
    circuit: Circuit,
    last_error: Option<ParticipantError>,
    /// Time of the timer that is set.
    timer: Option<Instant>,
}

/// A message to a branch that the circuit knows of.
#[derive(Clone, Copy, Debug)]
pub(in crate::txn) struct Ticket {
    pub(in crate::txn) member: usize,
    /// Time at which it was sent, until it is answered.
    asked_at: Option<Instant>,
    is_vote: bool,
    owes: bool,
}

impl Breaker {
    pub(in crate::txn) fn new(settings: Settings) -> Self {
        let inner = BreakerState { circuit: Circuit::new(settings), last_error: None, timer: None };
        Self { is_calm: AtomicBool::new(true), inner: Mutex::new(inner), ticker: OnceLock::new() }
    }

    pub(in crate::txn) fn is_calm(&self) -> bool {
        self.is_calm.load(Ordering::Acquire)
    }

    fn with<T>(&self, act: impl FnOnce(&mut BreakerState) -> T) -> (T, Effects) {
        let mut inner = self.inner.lock();
        let result = act(&mut inner);
        let calm = inner.circuit.is_calm();
        if calm != self.is_calm.load(Ordering::Relaxed) {
            self.is_calm.store(calm, Ordering::Release);
        }
        let tick_at = inner.circuit.next_tick().filter(|at| inner.timer.is_none_or(|timer| *at < timer));
        if tick_at.is_some() {
            inner.timer = tick_at;
        }
        (result, Effects { of_branches: inner.circuit.take_effects(), tick_at })
    }
}

/// What a circuit wants done. It is carried out while no lock of a transaction is held.
#[must_use]
#[derive(Default)]
pub(in crate::txn) struct Effects {
    of_branches: Vec<Effect>,
    tick_at: Option<Instant>,
}

impl Effects {
    pub(in crate::txn) const fn is_empty(&self) -> bool {
        self.of_branches.is_empty() && self.tick_at.is_none()
    }
}

/// The answer to a message, in the circuit's terms.
#[derive(Clone, Debug)]
enum AnswerKind {
    Sense,
    Failure(ParticipantError),
}

impl AnswerKind {
    fn by(result: &Result<Response, ParticipantError>) -> Self {
        match result {
            Err(
                error @ (ParticipantError::Unreachable
                | ParticipantError::Panicked
                | ParticipantError::Log(_)
                | ParticipantError::Resource(_)),
            ) => Self::Failure(error.clone()),
            _ => Self::Sense,
        }
    }
}

/// Whether the answer ends what the branch owes.
const fn acknowledges(result: &Result<Response, ParticipantError>) -> bool {
    matches!(
        result,
        Ok(Response::Done)
            | Err(ParticipantError::UnknownBranch
                | ParticipantError::AlreadyCommitted
                | ParticipantError::AlreadyRolledBack
                | ParticipantError::Heuristic(_))
    )
}

/// An answer for a circuit.
pub(in crate::txn) struct Report {
    number: usize,
    id: Id,
    asked_at: Option<Instant>,
    is_vote: bool,
    acknowledged: bool,
    /// Whether the branch owes an acknowledgement of which the circuit does not know.
    owes: bool,
    told: AnswerKind,
}

/// The tickets of a transaction's branches, by their indices. Empty while nothing has gone wrong.
#[derive(Default)]
pub(in crate::txn) struct Tickets(Vec<Option<Ticket>>);

impl Tickets {
    pub(in crate::txn) const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn at(&mut self, index: usize) -> &mut Option<Ticket> {
        if self.0.len() <= index {
            self.0.resize(index + 1, None);
        }
        &mut self.0[index]
    }

    /// Returns what the circuit must hear of an answer, if it must.
    pub(in crate::txn) fn answered(
        &mut self,
        id: Id,
        number: Option<usize>,
        members: &Members,
        told_at_once: Option<Verb>,
        result: &Result<Response, ParticipantError>,
    ) -> Option<Report> {
        let ticket = self.0.get_mut(id.1).and_then(Option::as_mut);
        let number = ticket.as_ref().map(|ticket| ticket.member).or(number)?;
        let told = AnswerKind::by(result);
        if ticket.is_none() && matches!(told, AnswerKind::Sense) && members[number].breaker.is_calm() {
            return None;
        }
        let owes = ticket.is_none()
            && matches!(told, AnswerKind::Failure(_))
            && matches!(told_at_once, Some(Verb::Commit | Verb::Rollback));
        let acknowledged = acknowledges(result);
        let mut report = Report { number, id, asked_at: None, is_vote: false, acknowledged, owes, told };
        if owes {
            *self.at(id.1) = Some(Ticket { member: number, asked_at: None, is_vote: false, owes });
        } else if let Some(ticket) = ticket {
            (report.asked_at, report.is_vote) = (ticket.asked_at.take(), ticket.is_vote);
            ticket.owes &= !report.acknowledged;
        }
        Some(report)
    }
}

impl CoordinatorCore {
    /// Whether the participant answers at once, and nothing is wrong with it.
    #[inline]
    pub(in crate::txn) fn is_calm(&self, number: usize) -> bool {
        let slot = &self.members[number];
        slot.breaker.is_calm() && slot.is_at_once
    }

    /// Asks the circuit whether a message goes out, and notes that it does. Not needed while the
    /// circuit is [calm](Self::is_calm).
    pub(in crate::txn) fn passes(
        &self,
        tickets: &mut Tickets,
        id: Id,
        number: usize,
        verb: Verb,
        failures: u32,
    ) -> (Pass, Effects) {
        let breaker = &self.members[number].breaker;
        let now = self.platform.now();
        let ticket = tickets.at(id.1);
        breaker.with(|inner| {
            let circuit = &mut inner.circuit;
            if let Some(asked_at) = ticket.as_mut().and_then(|ticket| ticket.asked_at.take()) {
                circuit.unasked(ticket.is_some_and(|ticket| ticket.is_vote));
                circuit.is_late(now, id, asked_at);
            }
            let pass = match verb {
                Verb::Prepare => circuit.asks_vote(now),
                Verb::CommitOnePhase => {
                    circuit.asks(now);
                    Pass::Go
                }
                Verb::Commit | Verb::Rollback => circuit.delivers(now, id, failures),
            };
            let asked_at = (pass == Pass::Go).then_some(now);
            let owes = matches!(verb, Verb::Commit | Verb::Rollback);
            *ticket = Some(Ticket { member: number, asked_at, is_vote: verb == Verb::Prepare, owes });
            pass
        })
    }

    /// Tells the circuit the answer to a message.
    pub(in crate::txn) fn report(self: &Arc<Self>, report: Report) {
        let now = self.platform.now();
        self.wire(report.number, |inner| {
            let circuit = &mut inner.circuit;
            if let Some(asked_at) = report.asked_at {
                circuit.answered(now, asked_at, report.is_vote);
            }
            if report.owes {
                circuit.owes(now, report.id);
            }
            match report.told {
                AnswerKind::Sense => circuit.succeeded(now, report.id),
                AnswerKind::Failure(error) => {
                    circuit.failed(now, report.id);
                    inner.last_error = Some(error);
                }
            }
            if report.acknowledged {
                inner.circuit.settled(now, report.id);
            }
        });
    }

    /// Counts branches that ended otherwise than decided as undelivered, until the transaction is over
    /// because an operator has forgotten it. A participant that ends each branch by itself would
    /// otherwise fill up memory and log. The branches come with the numbers of their participants.
    pub(in crate::txn) fn owe_heuristics(
        self: &Arc<Self>,
        key: TxnKey,
        tickets: &mut Tickets,
        branches: impl IntoIterator<Item = (usize, usize)>,
    ) {
        let now = self.platform.now();
        for (index, member) in branches {
            let new = Ticket { member, asked_at: None, is_vote: false, owes: true };
            tickets.at(index).get_or_insert(new).owes = true;
            self.wire(member, |inner| inner.circuit.owes(now, (key, index)));
        }
    }

    /// Tells the circuits that a transaction is over, or that it is parked and its branches still
    /// owe.
    pub(in crate::txn) fn hand_in(self: &Arc<Self>, key: TxnKey, tickets: &mut Tickets, is_over: bool) {
        let now = self.platform.now();
        for (index, ticket) in tickets.0.iter_mut().enumerate() {
            let Some(held) = ticket else { continue };
            let (asked_at, id) = (held.asked_at.take(), (key, index));
            let (owes, is_vote, number) = (held.owes, held.is_vote, held.member);
            if asked_at.is_none() && !owes {
                continue;
            }
            self.wire(number, |inner| {
                if asked_at.is_some() {
                    inner.circuit.unasked(is_vote);
                }
                if is_over {
                    inner.circuit.settled(now, id);
                } else {
                    inner.circuit.parked(now, id);
                }
            });
        }
    }

    /// Returns how a new branch of the participant is let through; or an error if it gets none.
    pub(in crate::txn) fn admits(self: &Arc<Self>, number: usize) -> Result<Admitted, BranchError> {
        if self.is_calm(number) {
            return Ok(Admitted::Usually);
        }
        let now = self.platform.now();
        self.wire(number, |inner| inner.circuit.admits(now)).map_err(|refused| BranchError::Refused {
            participant: self.members[number].name.clone(),
            why: refused.why,
            outstanding: refused.outstanding,
            since: now.saturating_duration_since(refused.since),
        })
    }

    /// Tells the circuit that the trial that it has let through was withdrawn.
    pub(in crate::txn) fn withdraws_trial(self: &Arc<Self>, number: usize) {
        let now = self.platform.now();
        self.wire(number, |inner| inner.circuit.withdraws_trial(now));
    }

    /// Sends a probe now, because an operator retries.
    pub(in crate::txn) fn probe_now(self: &Arc<Self>, number: usize) {
        let now = self.platform.now();
        self.wire(number, |inner| inner.circuit.probe_now(now));
    }

    fn wire<T>(self: &Arc<Self>, number: usize, act: impl FnOnce(&mut BreakerState) -> T) -> T {
        let (result, effects) = self.members[number].breaker.with(act);
        self.carry_out(number, effects);
        result
    }

    /// Carries out what a circuit wants done. The caller holds no lock of a transaction.
    pub(in crate::txn) fn carry_out(self: &Arc<Self>, number: usize, mut effects: Effects) {
        // A loop, because each branch that has ended meanwhile releases the next ones, and
        // thousands of those may have ended, too.
        loop {
            let mut ended = Vec::new();
            for effect in effects.of_branches {
                let (id, input) = match effect {
                    Effect::LetOut(id) => (id, Input::LetOut(id.1)),
                    Effect::GiveUp(id) => (id, Input::GiveUp(id.1)),
                };
                let drivers: Vec<Arc<TransactionDriver>> =
                    self.drivers_of(id.0.ordinal).into_iter().filter(|driver| driver.key() == id.0).collect();
                if drivers.is_empty() {
                    ended.push(id);
                }
                for driver in drivers {
                    driver.push(input);
                    self.scheduler.enqueue(driver as Arc<dyn Runnable>);
                }
            }
            if let Some(at) = effects.tick_at {
                let new = || Arc::new(Ticker { core: Arc::downgrade(self), number });
                let ticker = Arc::downgrade(self.members[number].breaker.ticker.get_or_init(new));
                let ticker: Weak<dyn Runnable> = ticker;
                self.scheduler.enqueue_at(at, ticker);
            }
            if ended.is_empty() {
                return;
            }
            let now = self.platform.now();
            ((), effects) =
                self.members[number].breaker.with(|inner| ended.iter().for_each(|id| inner.circuit.settled(now, *id)));
        }
    }

    /// Returns the state of all circuits, for the status.
    pub(in crate::txn) fn circuits(&self) -> Vec<CircuitStatus> {
        let now = self.platform.now();
        let of = |slot: &Slot| {
            let (view, last_error) = {
                let inner = slot.breaker.inner.lock();
                (inner.circuit.view(), inner.last_error.clone())
            };
            let ago = |at: Instant| now.saturating_duration_since(at);
            CircuitStatus {
                participant: slot.name.clone(),
                state: view.state,
                since: view.since.map(ago),
                unanswered: view.unanswered,
                undelivered: view.undelivered,
                kept_back: view.kept,
                oldest: view.oldest.map(ago),
                next_probe: view.next_probe.map(|at| at.saturating_duration_since(now)),
                last_error,
            }
        };
        let mut all: Vec<_> = self.members.present().map(of).collect();
        all.sort_by(|one, other| one.participant.cmp(&other.participant));
        all
    }
}

/// Timer of one circuit.
struct Ticker {
    core: Weak<CoordinatorCore>,
    number: usize,
}

impl Runnable for Ticker {
    fn run(self: Arc<Self>, _: Runner) {
        let Some(core) = self.core.upgrade() else { return };
        let now = core.platform.now();
        core.wire(self.number, |inner| {
            if inner.timer.is_some_and(|at| at <= now) {
                inner.timer = None;
            }
            inner.circuit.tick(now);
        });
    }
}
