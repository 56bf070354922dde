//! A participant's circuit: what is outstanding there, whether it is spoken to, and whether it is given new branches. Pure: time
//! is an argument.
//!
//! | state | new branches | votes | decisions |
//! |---|---|---|---|
//! | closed | yes, unless too much is undelivered or votes take too long | asked | told |
//! | open | one for each probe | refused, but for that one | kept back, but for one at a time, the probe |
//! | draining | as closed | asked | told; of those that were kept back, a window's worth at a time |
//!
//! It opens when it has failed [so many](FAILING_OPENS) transactions in a row, or has said nothing at all for too long while as
//! many wait; one branch that hangs alone opens nothing. Any sensible answer closes it.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use super::{Policy, policy::after, shared::Key};

mod view;

use view::Refused;
pub use view::{CircuitState, Refusal};

/// Which branch: its transaction, and its index there.
pub(super) type Id = (Key, usize);

/// Transactions that must have failed in a row before the circuit opens. One, or a few, may have met a lock of their own.
const FAILING_OPENS: usize = 8;

/// Votes that may be outstanding whatever they take: too few to tell anything by.
const FEW: usize = 16;

/// Decisions that are let out at once when a participant answers again; twice as many with each answer, up to [`WIDEST`].
const FIRST_WINDOW: usize = 8;

/// Decisions at the most that were kept back and are under way again.
const WIDEST: usize = 256;

/// Over how long it is counted how many votes come.
const RATE_OVER: Duration = Duration::from_millis(100);

/// What a circuit goes by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Settings {
    /// The most that may be undelivered before new branches are refused.
    pub(super) undelivered: usize,
    pub(super) policy: Policy,
}

impl Settings {
    /// Within this time a vote should come, so that it comes well within the time-out.
    fn patience(&self) -> Duration {
        self.policy.prepare_timeout / 2
    }
}

/// Whether a message goes out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pass {
    Go,
    /// It fails at once.
    Fail,
    /// It is kept back, and let out by an [`Effect`].
    Hold,
}

/// What is to be done about branches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Effect {
    LetOut(Id),
    GiveUp(Id),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Closed,
    Open {
        since: Instant,
        /// Probes that have failed.
        vain: u32,
        probe_at: Instant,
        probe: Option<Id>,
        /// When the next new branch may try its luck.
        trial_at: Instant,
        /// Such a branch's vote may be asked for.
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
    /// Its place among those that are kept back.
    kept: Option<u64>,
    /// How many probes had failed when it was first kept back, less its own failures until then: from there on each probe that
    /// fails counts for all.
    tried_from: Option<i64>,
    /// Let out again, and not answered yet.
    let_out: bool,
    /// It is told no more, until an operator has it told again.
    parked: bool,
}

impl Debt {
    const fn new(since: Instant) -> Self {
        Self { since, kept: None, tried_from: None, let_out: false, parked: false }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Circuit {
    settings: Settings,
    state: State,
    debts: BTreeMap<Id, Debt>,
    kept: BTreeMap<u64, Id>,
    next_place: u64,
    /// All that waits for an answer; of it, votes.
    asked: usize,
    votes: usize,
    /// The last answer, or when something was asked while nothing else was.
    heard: Option<Instant>,
    /// Transactions that have failed since the last sensible answer.
    failing: Vec<Key>,
    /// How long the last votes took.
    vote_takes: Duration,
    /// Votes in [`RATE_OVER`], in 256ths; and how many came since when.
    rate: u64,
    counted: (u64, Option<Instant>),
    /// Votes have been refused since then because they would take too long.
    overloaded_since: Option<Instant>,
    effects: Vec<Effect>,
}

impl Circuit {
    pub(super) const fn new(settings: Settings) -> Self {
        Self {
            settings,
            state: State::Closed,
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

    /// Whether there is nothing to be asked or told of it: all goes well, and nothing is outstanding.
    pub(super) fn is_calm(&self) -> bool {
        self.state == State::Closed && self.debts.is_empty() && self.failing.is_empty()
    }

    /// What is to be done now.
    pub(super) fn take_effects(&mut self) -> Vec<Effect> {
        std::mem::take(&mut self.effects)
    }

    /// Whether a new transaction may have a branch there.
    pub(super) fn admits(&mut self, now: Instant) -> Result<(), Refused> {
        self.listen(now);
        let outstanding = self.asked.max(self.debts.len());
        let refused = |why, since| Err(Refused { why, outstanding, since });
        if let State::Open { since, vain, trial_at, trials, .. } = &mut self.state {
            if now < *trial_at {
                return refused(Refusal::NotAnswering, *since);
            }
            *trial_at = after(now, pause(&self.settings.policy, *vain));
            *trials = 1;
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
        Ok(())
    }

    /// Whether the next vote would take longer than it should: votes have begun to, and of as many as wait already the last
    /// will, as fast as they come. A participant that is only far away is given as much as it takes.
    fn is_overloaded(&self) -> bool {
        let patience = self.settings.patience();
        let ahead = u128::from(self.rate) * patience.as_nanos() / RATE_OVER.as_nanos() / 256;
        self.votes > FEW && self.vote_takes > patience / 2 && self.votes as u128 > ahead
    }

    /// A branch is asked for its vote.
    pub(super) fn asks_vote(&mut self, now: Instant) -> Pass {
        self.listen(now);
        if let State::Open { trials, .. } = &mut self.state {
            if *trials == 0 {
                return Pass::Fail;
            }
            *trials -= 1;
        }
        self.votes += 1;
        self.asks(now);
        Pass::Go
    }

    /// A branch is told something that must go through.
    pub(super) fn asks(&mut self, now: Instant) {
        if self.asked == 0 {
            self.heard = Some(now);
        }
        self.asked += 1;
    }

    /// A branch is told the decision, or again.
    pub(super) fn delivers(&mut self, now: Instant, id: Id, failures: u32) -> Pass {
        self.listen(now);
        let debt = self.debts.entry(id).or_insert(Debt::new(now));
        if debt.parked {
            *debt = Debt::new(now);
        }
        if let State::Open { vain, probe, .. } = &self.state
            && *probe != Some(id)
        {
            if debt.kept.is_none() {
                debt.kept = Some(self.next_place);
                debt.tried_from.get_or_insert(i64::from(*vain) - i64::from(failures));
                self.kept.insert(self.next_place, id);
                self.next_place += 1;
            }
            return Pass::Hold;
        }
        self.asks(now);
        Pass::Go
    }

    /// A branch that was told the decision without being asked about has not acknowledged it.
    pub(super) fn owes(&mut self, now: Instant, id: Id) {
        self.debts.entry(id).or_insert(Debt::new(now));
    }

    /// Something that was asked has been answered, or will never be: it had been asked at that time.
    pub(super) fn answered(&mut self, now: Instant, asked_at: Instant, is_vote: bool) {
        self.unasked(is_vote);
        self.heard = Some(now);
        if is_vote {
            let took = now.saturating_duration_since(asked_at);
            self.vote_takes = (self.vote_takes * 7 + took) / 8;
            self.count_vote(now);
        }
    }

    /// Nobody waits for the answer any more.
    pub(super) fn unasked(&mut self, is_vote: bool) {
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

    /// It has said something sensible.
    pub(super) fn succeeded(&mut self, now: Instant, id: Id) {
        self.failing.clear();
        match &mut self.state {
            State::Closed => {}
            State::Open { .. } => {
                self.state = State::Draining { window: FIRST_WINDOW, out: 0 };
                self.debts.values_mut().for_each(|debt| (debt.let_out, debt.tried_from) = (false, None));
            }
            State::Draining { window, out } => {
                if let Some(debt) = self.debts.get_mut(&id).filter(|debt| debt.let_out) {
                    debt.let_out = false;
                    *out = out.saturating_sub(1);
                    *window = (*window * 2).min(WIDEST);
                }
            }
        }
        self.drain(now);
    }

    /// It has failed, or not answered.
    pub(super) fn failed(&mut self, now: Instant, id: Id) {
        match &mut self.state {
            State::Open { vain, probe_at, probe, .. } => {
                if *probe == Some(id) {
                    *probe = None;
                    *vain = vain.saturating_add(1);
                    *probe_at = after(now, pause(&self.settings.policy, *vain));
                    self.give_up(now);
                }
                return;
            }
            State::Draining { out, .. } => {
                if let Some(debt) = self.debts.get_mut(&id).filter(|debt| debt.let_out) {
                    debt.let_out = false;
                    *out = out.saturating_sub(1);
                }
            }
            State::Closed => {}
        }
        if !self.failing.contains(&id.0) {
            self.failing.push(id.0);
        }
        if self.failing.len() >= FAILING_OPENS {
            self.open(now);
        }
        self.drain(now);
    }

    /// Something was asked at that time, and it has not been answered in time. Where others have been since, that is
    /// its own affair.
    pub(super) fn is_late(&mut self, now: Instant, id: Id, asked_at: Instant) {
        let is_probe = matches!(self.state, State::Open { probe, .. } if probe == Some(id));
        if is_probe || self.heard.is_none_or(|heard| heard <= asked_at) {
            self.failed(now, id);
        }
    }

    /// The branch has acknowledged its decision, or never has to.
    pub(super) fn settled(&mut self, now: Instant, id: Id) {
        let Some(debt) = self.debts.remove(&id) else { return };
        if let Some(place) = debt.kept {
            self.kept.remove(&place);
        }
        match &mut self.state {
            State::Open { probe, probe_at, .. } if *probe == Some(id) => (*probe, *probe_at) = (None, now),
            State::Draining { out, .. } if debt.let_out => *out = out.saturating_sub(1),
            _ => {}
        }
        self.drain(now);
    }

    /// The branch is told no more, and still owes.
    pub(super) fn parked(&mut self, now: Instant, id: Id) {
        let Some(debt) = self.debts.get(&id).copied() else { return };
        self.settled(now, id);
        self.debts.insert(id, Debt { parked: true, ..Debt::new(debt.since) });
    }

    /// An operator has it tried now.
    pub(super) fn probe_now(&mut self, now: Instant) {
        if let State::Open { probe_at, trial_at, .. } = &mut self.state {
            (*probe_at, *trial_at) = (now, now);
        }
        self.tick(now);
    }

    /// Time has passed; see [`next_tick`](Self::next_tick).
    pub(super) fn tick(&mut self, now: Instant) {
        self.listen(now);
        self.give_up(now);
        if let State::Open { probe: probe @ None, probe_at, .. } = &mut self.state
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

    /// When to [tick](Self::tick) next, if nothing else happens before.
    pub(super) fn next_tick(&self) -> Option<Instant> {
        match self.state {
            State::Open { probe: None, probe_at, .. } if !self.kept.is_empty() => Some(probe_at),
            // Those that wait for the probe's end may have to be given up meanwhile.
            State::Open { .. } => {
                let (_, first) = self.kept.first_key_value()?;
                Some(after(self.debts.get(first)?.since, self.settings.policy.park_after))
            }
            _ => None,
        }
    }

    /// Opens where nothing has been heard for too long while much is asked.
    fn listen(&mut self, now: Instant) {
        let silent = self.heard.is_some_and(|heard| after(heard, self.settings.patience()) <= now);
        if self.asked >= FAILING_OPENS && silent && !matches!(self.state, State::Open { .. }) {
            self.open(now);
        }
    }

    fn open(&mut self, now: Instant) {
        let probe_at = after(now, pause(&self.settings.policy, 1));
        self.failing.clear();
        self.state = State::Open { since: now, vain: 0, probe_at, probe: None, trial_at: probe_at, trials: 0 };
    }

    /// Lets out as many of those that were kept back as the window has room for.
    fn drain(&mut self, _now: Instant) {
        let State::Draining { window, out } = &mut self.state else { return };
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
            self.state = State::Closed;
        }
    }

    /// Gives up those that have been kept back for as long, or through as many probes, as the policy has a decision told.
    fn give_up(&mut self, now: Instant) {
        let State::Open { vain, .. } = self.state else { return };
        let policy = self.settings.policy;
        let is_over = |debt: &Debt| {
            let tries = debt.tried_from.and_then(|from| u32::try_from(i64::from(vain) - from).ok()).unwrap_or(0);
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

/// The pause after so many failed probes. It doubles, as a branch's own would.
fn pause(policy: &Policy, vain: u32) -> Duration {
    let doubled = 1_u32.checked_shl(vain).unwrap_or(u32::MAX);
    policy.first_backoff.saturating_mul(doubled).min(policy.longest_backoff)
}

#[cfg(test)]
mod tests;
