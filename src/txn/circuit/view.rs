//! A circuit as it is seen from outside: whether it is spoken to, and why it is given no new branches.

use std::{fmt, time::Instant};

use super::{Circuit, State};

/// Why a participant is given no new branches. Exhaustive on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// It has failed or not answered, again and again. It is probed.
    NotAnswering,
    /// As many decisions as are allowed are not acknowledged; see
    /// [`Limits::undelivered`](crate::txn::Limits).
    Undelivered,
    /// It has so much to do that votes would come too late.
    Overloaded,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotAnswering => "it does not answer",
            Self::Undelivered => "it has not acknowledged as many decisions as are allowed",
            Self::Overloaded => "its votes would come too late",
        })
    }
}

/// A refusal, with how much is outstanding and since when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::txn) struct Refused {
    pub(in crate::txn) why: Refusal,
    pub(in crate::txn) outstanding: usize,
    pub(in crate::txn) since: Instant,
}

/// What a participant's circuit is like.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum CircuitState {
    /// It is spoken to.
    #[default]
    Closed,
    /// It answers again, and is told bit by bit what was kept back.
    Draining,
    /// It does not answer. It is probed, and given nothing else.
    Open,
}

impl fmt::Display for CircuitState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Closed => "closed",
            Self::Draining => "draining",
            Self::Open => "open",
        })
    }
}

/// A circuit as it is seen.
pub(in crate::txn) struct View {
    pub(in crate::txn) state: CircuitState,
    pub(in crate::txn) since: Option<Instant>,
    pub(in crate::txn) next_probe: Option<Instant>,
    pub(in crate::txn) unanswered: usize,
    pub(in crate::txn) undelivered: usize,
    pub(in crate::txn) kept: usize,
    pub(in crate::txn) oldest: Option<Instant>,
}

impl Circuit {
    /// What there is to be seen of it.
    pub(in crate::txn) fn view(&self) -> View {
        let (state, since, next_probe) = match self.state {
            State::Closed => (CircuitState::Closed, None, None),
            State::Draining { .. } => (CircuitState::Draining, None, None),
            State::Open { since, probe_at, trial_at, .. } => {
                let next = if self.kept.is_empty() { trial_at } else { probe_at };
                (CircuitState::Open, Some(since), Some(next))
            }
        };
        let (unanswered, undelivered, kept) = (self.asked, self.debts.len(), self.kept.len());
        View { state, since, next_probe, unanswered, undelivered, kept, oldest: self.oldest() }
    }
}
