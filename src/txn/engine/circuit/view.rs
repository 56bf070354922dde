//! The public view of a circuit: its state, and the reason why its participant gets no new
//! branches.

use std::{fmt, time::Instant};

use super::{Circuit, CircuitPhase};

/// Reason why a participant gets no new branches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Refusal {
    /// It has failed, or not answered, several times in a row. The coordinator probes it.
    NotAnswering,
    /// The maximum number of decisions is not acknowledged; see
    /// [`Limits::undelivered`](crate::txn::Limits).
    Undelivered,
    /// It has too much work: votes would come too late.
    Overloaded,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotAnswering => "it does not answer",
            Self::Undelivered => {
                "it owes as many acknowledgements as the limit allows (parked ones and heuristic outcomes count)"
            }
            Self::Overloaded => "its votes would come too late",
        })
    }
}

/// A refusal, with the number of outstanding messages and the time since which it holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::txn) struct Refused {
    pub(in crate::txn) why: Refusal,
    pub(in crate::txn) outstanding: usize,
    pub(in crate::txn) since: Instant,
}

/// State of a participant's circuit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum CircuitState {
    /// The coordinator calls the participant.
    #[default]
    Closed,
    /// The participant answers again, and gets the kept-back decisions step by step.
    Draining,
    /// The participant does not answer. The coordinator sends it probes, and nothing else.
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

/// The public view of a circuit.
pub(in crate::txn) struct CircuitView {
    pub(in crate::txn) state: CircuitState,
    pub(in crate::txn) since: Option<Instant>,
    pub(in crate::txn) next_probe: Option<Instant>,
    pub(in crate::txn) unanswered: usize,
    pub(in crate::txn) undelivered: usize,
    pub(in crate::txn) kept: usize,
    pub(in crate::txn) oldest: Option<Instant>,
}

impl Circuit {
    /// Returns the public view of the circuit.
    pub(in crate::txn) fn view(&self) -> CircuitView {
        let (state, since, next_probe) = match self.state {
            CircuitPhase::Closed => (CircuitState::Closed, None, None),
            CircuitPhase::Draining { .. } => (CircuitState::Draining, None, None),
            CircuitPhase::Open { since, probe_at, trial_at, .. } => {
                let next = if self.kept.is_empty() { trial_at } else { probe_at };
                (CircuitState::Open, Some(since), Some(next))
            }
        };
        let (unanswered, undelivered, kept) = (self.asked, self.debts.len(), self.kept.len());
        CircuitView { state, since, next_probe, unanswered, undelivered, kept, oldest: self.oldest() }
    }
}
