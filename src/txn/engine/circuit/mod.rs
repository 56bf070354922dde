//! A participant's circuit: counts what is outstanding there, and decides whether the participant
//! is called and gets new branches. Pure: time is an argument.
//!
//! | state | new branches | votes | decisions |
//! |---|---|---|---|
//! | closed | yes, unless too much is undelivered or votes take too long | asked for | sent |
//! | open | one for each probe | refused, except for that one | kept back, except for one at a time, the probe |
//! | draining | as closed | asked for | sent; of those that were kept back, a window's worth at a time |
//!
//! It opens when [a number](FAILING_OPENS) of transactions have failed in a row, or when the
//! participant has not answered for too long while as many wait. One branch that hangs alone does
//! not open it. Any sensible answer closes it.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use crate::txn::{Policy, policy::after, table::key::TxnKey};

mod view;

use view::Refused;
pub use view::{CircuitState, Refusal};

/// Identifies a branch: its transaction, and its index there.
pub(in crate::txn) type Id = (TxnKey, usize);

/// Number of transactions that must fail in a row before the circuit opens. One, or a few, may wait
/// for a lock of their own.
const FAILING_OPENS: usize = 8;

/// Number of votes that may be outstanding, however long they take. Fewer say nothing about the
/// load.
const FEW: usize = 16;

/// Number of kept-back decisions that are sent at once when a participant answers again. It doubles
/// with each answer, up to [`WIDEST`].
const FIRST_WINDOW: usize = 8;

/// Maximum number of kept-back decisions that are under way again.
const WIDEST: usize = 256;

/// Time over which the rate of votes is measured.
const RATE_OVER: Duration = Duration::from_millis(100);

/// Settings of a circuit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::txn) struct Settings {
    /// Maximum number of undelivered decisions before new branches are refused.
    pub(in crate::txn) undelivered: usize,
    pub(in crate::txn) policy: Policy,
}

impl Settings {
    /// Returns the time within which a vote should come, so that it is well within the time-out.
    fn patience(&self) -> Duration {
        self.policy.prepare_timeout / 2
    }
}

/// Whether a message goes out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::txn) enum Pass {
    Go,
    /// The message fails at once.
    Fail,
    /// The message is kept back, until an [`Effect`] lets it out.
    KeepBack,
}

/// How a new branch is let through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::txn) enum Admitted {
    Usually,
    /// The circuit is open, and the branch is to find out whether the participant answers again.
    AsTrial,
}

/// What the driver must do about a branch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::txn) enum Effect {
    LetOut(Id),
    GiveUp(Id),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum CircuitPhase {
    Closed,
    Open {
        since: Instant,
        /// Number of failed probes.
        failed_probes: u32,
        probe_at: Instant,
        probe: Option<Id>,
        /// Time at which the next new branch is let through.
        trial_at: Instant,
        /// Number of such branches that have not been asked for their vote.
        trials: u32,
    },
    Draining {
        window: usize,
        out: usize,
    },
}

/// A decision that is not acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Debt {
    since: Instant,
    /// Place among the kept-back decisions, if it is kept back.
    kept: Option<u64>,
    /// Number of failed probes when it was first kept back, less its own failures until then. From
    /// then on each failed probe counts for all.
    tried_from: Option<i64>,
    /// Whether it was let out again, and is not answered yet.
    let_out: bool,
    /// Whether it is no longer sent, until an operator retries it.
    parked: bool,
}

impl Debt {
    const fn new(since: Instant) -> Self {
        Self { since, kept: None, tried_from: None, let_out: false, parked: false }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::txn) struct Circuit {
    settings: Settings,
    state: CircuitPhase,
    debts: BTreeMap<Id, Debt>,
    kept: BTreeMap<u64, Id>,
    next_place: u64,
    /// Number of messages without an answer, and the number of votes among them.
    asked: usize,
    votes: usize,
    /// Time of the last answer, or of the first message since all others were answered.
    heard: Option<Instant>,
    /// Transactions that have failed since the last sensible answer.
    failing: Vec<TxnKey>,
    /// Moving average of the time that votes take.
    vote_takes: Duration,
    /// Rate of votes in [`RATE_OVER`], in 256ths; and the votes since the last measurement, with
    /// its time.
    rate: u64,
    counted: (u64, Option<Instant>),
    /// Time since which votes are refused because they would take too long.
    overloaded_since: Option<Instant>,
    effects: Vec<Effect>,
}

impl Circuit {
    pub(in crate::txn) const fn new(settings: Settings) -> Self {
        Self {
            settings,
            state: CircuitPhase::Closed,
            debts: BTreeMap::new(),
            kept: BTreeMap::new(),
            next_place: 0,
            asked: 0,
            votes: 0,
            heard: None,
            failing: Vec::new(),
            vote_takes: Duration::ZERO,
            rate: 0,
            counted: (0, None),
            overloaded_since: None,
            effects: Vec::new(),
        }
    }

    /// Whether nothing is wrong and nothing is outstanding, so that the circuit need not be asked.
    pub(in crate::txn) fn is_calm(&self) -> bool {
        self.state == CircuitPhase::Closed && self.debts.is_empty() && self.failing.is_empty()
    }

    /// Takes out what the driver must do now.
    pub(in crate::txn) fn take_effects(&mut self) -> Vec<Effect> {
        std::mem::take(&mut self.effects)
    }

    /// Returns whether a new branch is let through as a trial; or an error if a new transaction may
    /// have no branch there.
    pub(in crate::txn) fn admits(&mut self, now: Instant) -> Result<Admitted, Refused> {
        self.listen(now);
        let outstanding = self.asked.max(self.debts.len());
        let refused = |why, since| Err(Refused { why, outstanding, since });
        let mut admitted = Admitted::Usually;
        if let CircuitPhase::Open { since, failed_probes, trial_at, trials, .. } = &mut self.state {
            if now < *trial_at {
                return refused(Refusal::NotAnswering, *since);
            }
            *trial_at = after(now, pause(&self.settings.policy, *failed_probes));
            *trials = 1;
            admitted = Admitted::AsTrial;
        }
        if self.debts.len() >= self.settings.undelivered {
            let since = self.oldest().unwrap_or(now);
            return refused(Refusal::Undelivered, since);
        }
        if self.is_overloaded() {
            let since = *self.overloaded_since.get_or_insert(now);
            return refused(Refusal::Overloaded, since);
        }
        self.overloaded_since = None;
        Ok(admitted)
    }

    /// Notes that a [trial](Admitted::AsTrial) was withdrawn: it will not be asked for its vote, so it
    /// tells nothing of the participant, and the next new branch takes its place.
    pub(in crate::txn) fn withdraws_trial(&mut self, now: Instant) {
        if let CircuitPhase::Open { trial_at, trials, .. } = &mut self.state {
            (*trial_at, *trials) = (now, 0);
        }
    }

    /// Whether the next vote would take longer than it should: votes have become slow, and at their
    /// present rate the last of those that wait will be late. A participant that is far away and
    /// fast is not limited.
    fn is_overloaded(&self) -> bool {
        let patience = self.settings.patience();
        let ahead = u128::from(self.rate) * patience.as_nanos() / RATE_OVER.as_nanos() / 256;
        self.votes > FEW && self.vote_takes > patience / 2 && self.votes as u128 > ahead
    }

    /// Notes that a branch is asked for its vote, if it may be.
    pub(in crate::txn) fn asks_vote(&mut self, now: Instant) -> Pass {
        self.listen(now);
        if let CircuitPhase::Open { trials, .. } = &mut self.state {
            if *trials == 0 {
                return Pass::Fail;
            }
            *trials -= 1;
        }
        self.votes += 1;
        self.asks(now);
        Pass::Go
    }

    /// Notes a message that must go out.
    pub(in crate::txn) fn asks(&mut self, now: Instant) {
        if self.asked == 0 {
            self.heard = Some(now);
        }
        self.asked += 1;
    }

    /// Notes that a branch is sent the decision, or sent it again.
    pub(in crate::txn) fn delivers(&mut self, now: Instant, id: Id, failures: u32) -> Pass {
        self.listen(now);
        let debt = self.debts.entry(id).or_insert(Debt::new(now));
        if debt.parked {
            *debt = Debt::new(now);
        }
        if let CircuitPhase::Open { failed_probes, probe, .. } = &self.state
            && *probe != Some(id)
        {
            if debt.kept.is_none() {
                debt.kept = Some(self.next_place);
                debt.tried_from.get_or_insert(i64::from(*failed_probes) - i64::from(failures));
                self.kept.insert(self.next_place, id);
                self.next_place += 1;
            }
            return Pass::KeepBack;
        }
        self.asks(now);
        Pass::Go
    }

    /// Notes that a branch owes an acknowledgement. Its decision was sent without asking the
    /// circuit.
    pub(in crate::txn) fn owes(&mut self, now: Instant, id: Id) {
        self.debts.entry(id).or_insert(Debt::new(now));
    }

    /// Notes the answer to a message that was sent at that time, or that there will be none.
    pub(in crate::txn) fn answered(&mut self, now: Instant, asked_at: Instant, is_vote: bool) {
        self.unasked(is_vote);
        self.heard = Some(now);
        if is_vote {
            let took = now.saturating_duration_since(asked_at);
            self.vote_takes = (self.vote_takes * 7 + took) / 8;
            self.count_vote(now);
        }
    }

    /// Notes that the transaction no longer waits for the answer.
    pub(in crate::txn) fn unasked(&mut self, is_vote: bool) {
        self.asked = self.asked.saturating_sub(1);
        self.votes = self.votes.saturating_sub(usize::from(is_vote));
    }

    fn count_vote(&mut self, now: Instant) {
        let (count, since) = &mut self.counted;
        *count += 1;
        let since = *since.get_or_insert(now);
        let passed = now.saturating_duration_since(since);
        if passed >= RATE_OVER {
            let rate = u128::from(*count) * 256 * RATE_OVER.as_nanos() / passed.as_nanos();
            let rate = u64::try_from(rate).unwrap_or(u64::MAX / 2);
            self.rate = if self.rate == 0 { rate } else { self.rate.midpoint(rate) };
            self.counted = (0, Some(now));
        }
    }

    /// Notes a sensible answer.
    pub(in crate::txn) fn succeeded(&mut self, now: Instant, id: Id) {
        self.failing.clear();
        match &mut self.state {
            CircuitPhase::Closed => {}
            CircuitPhase::Open { .. } => {
                self.state = CircuitPhase::Draining { window: FIRST_WINDOW, out: 0 };
                self.debts.values_mut().for_each(|debt| (debt.let_out, debt.tried_from) = (false, None));
            }
            CircuitPhase::Draining { window, out } => {
                if let Some(debt) = self.debts.get_mut(&id).filter(|debt| debt.let_out) {
                    debt.let_out = false;
                    *out = out.saturating_sub(1);
                    *window = (*window * 2).min(WIDEST);
                }
            }
        }
        self.drain(now);
    }

    /// Notes a failure, or a missing answer.
    pub(in crate::txn) fn failed(&mut self, now: Instant, id: Id) {
        match &mut self.state {
            CircuitPhase::Open { failed_probes, probe_at, probe, .. } => {
                if *probe == Some(id) {
                    *probe = None;
                    *failed_probes = failed_probes.saturating_add(1);
                    *probe_at = after(now, pause(&self.settings.policy, *failed_probes));
                    self.give_up(now);
                }
                return;
            }
            CircuitPhase::Draining { out, .. } => {
                if let Some(debt) = self.debts.get_mut(&id).filter(|debt| debt.let_out) {
                    debt.let_out = false;
                    *out = out.saturating_sub(1);
                }
            }
            CircuitPhase::Closed => {}
        }
        if !self.failing.contains(&id.0) {
            self.failing.push(id.0);
        }
        if self.failing.len() >= FAILING_OPENS {
            self.open(now);
        }
        self.drain(now);
    }

    /// Notes that a message of that time was not answered in time. If the participant has answered
    /// others since, that concerns only this branch.
    pub(in crate::txn) fn is_late(&mut self, now: Instant, id: Id, asked_at: Instant) {
        let is_probe = matches!(self.state, CircuitPhase::Open { probe, .. } if probe == Some(id));
        if is_probe || self.heard.is_none_or(|heard| heard <= asked_at) {
            self.failed(now, id);
        }
    }

    /// Notes that the branch has acknowledged its decision, or never has to.
    pub(in crate::txn) fn settled(&mut self, now: Instant, id: Id) {
        let Some(debt) = self.debts.remove(&id) else { return };
        if let Some(place) = debt.kept {
            self.kept.remove(&place);
        }
        match &mut self.state {
            CircuitPhase::Open { probe, probe_at, .. } if *probe == Some(id) => (*probe, *probe_at) = (None, now),
            CircuitPhase::Draining { out, .. } if debt.let_out => *out = out.saturating_sub(1),
            _ => {}
        }
        self.drain(now);
    }

    /// Notes that the branch is parked: it gets no more messages, and still owes.
    pub(in crate::txn) fn parked(&mut self, now: Instant, id: Id) {
        let Some(debt) = self.debts.get(&id).copied() else { return };
        self.settled(now, id);
        self.debts.insert(id, Debt { parked: true, ..Debt::new(debt.since) });
    }

    /// Makes the next probe due now, because an operator retries.
    pub(in crate::txn) fn probe_now(&mut self, now: Instant) {
        if let CircuitPhase::Open { probe_at, trial_at, .. } = &mut self.state {
            (*probe_at, *trial_at) = (now, now);
        }
        self.tick(now);
    }

    /// Acts on the time that has passed; see [`next_tick`](Self::next_tick).
    pub(in crate::txn) fn tick(&mut self, now: Instant) {
        self.listen(now);
        self.give_up(now);
        if let CircuitPhase::Open { probe: probe @ None, probe_at, .. } = &mut self.state
            && *probe_at <= now
            && let Some((_, id)) = self.kept.pop_first()
        {
            *probe = Some(id);
            if let Some(debt) = self.debts.get_mut(&id) {
                debt.kept = None;
            }
            self.effects.push(Effect::LetOut(id));
        }
    }

    /// Returns the time of the next [tick](Self::tick), if nothing else happens before.
    pub(in crate::txn) fn next_tick(&self) -> Option<Instant> {
        match self.state {
            CircuitPhase::Open { probe: None, probe_at, .. } if !self.kept.is_empty() => Some(probe_at),
            // Decisions that wait for the probe may have to be parked meanwhile.
            CircuitPhase::Open { .. } => {
                let (_, first) = self.kept.first_key_value()?;
                Some(after(self.debts.get(first)?.since, self.settings.policy.park_after))
            }
            _ => None,
        }
    }

    /// Opens if there was no answer for too long while many messages wait.
    fn listen(&mut self, now: Instant) {
        let silent = self.heard.is_some_and(|heard| after(heard, self.settings.patience()) <= now);
        if self.asked >= FAILING_OPENS && silent && !matches!(self.state, CircuitPhase::Open { .. }) {
            self.open(now);
        }
    }

    fn open(&mut self, now: Instant) {
        let probe_at = after(now, pause(&self.settings.policy, 1));
        self.failing.clear();
        self.state =
            CircuitPhase::Open { since: now, failed_probes: 0, probe_at, probe: None, trial_at: probe_at, trials: 0 };
    }

    /// Lets out as many kept-back decisions as the window has room for.
    fn drain(&mut self, _now: Instant) {
        let CircuitPhase::Draining { window, out } = &mut self.state else { return };
        while *out < *window
            && let Some((_, id)) = self.kept.pop_first()
        {
            if let Some(debt) = self.debts.get_mut(&id) {
                (debt.kept, debt.let_out) = (None, true);
                *out += 1;
                self.effects.push(Effect::LetOut(id));
            }
        }
        if self.kept.is_empty() && *out == 0 {
            self.state = CircuitPhase::Closed;
        }
    }

    /// Parks decisions that were kept back for as long, or through as many probes, as the policy
    /// allows.
    fn give_up(&mut self, now: Instant) {
        let CircuitPhase::Open { failed_probes, .. } = self.state else { return };
        let policy = self.settings.policy;
        let is_over = |debt: &Debt| {
            let tries =
                debt.tried_from.and_then(|from| u32::try_from(i64::from(failed_probes) - from).ok()).unwrap_or(0);
            debt.kept.is_some() && policy.parks_after(tries, now.saturating_duration_since(debt.since))
        };
        let over: Vec<_> = self.debts.iter().filter(|(_, debt)| is_over(debt)).map(|(id, _)| *id).collect();
        for id in over {
            self.parked(now, id);
            self.effects.push(Effect::GiveUp(id));
        }
    }

    fn oldest(&self) -> Option<Instant> {
        self.debts.first_key_value().map(|(_, debt)| debt.since)
    }
}

/// Returns the pause after this number of failed probes. It doubles, as a branch's own pause does.
fn pause(policy: &Policy, failed_probes: u32) -> Duration {
    let doubled = 1_u32.checked_shl(failed_probes).unwrap_or(u32::MAX);
    policy.first_backoff.saturating_mul(doubled).min(policy.longest_backoff)
}

#[cfg(test)]
mod tests;
