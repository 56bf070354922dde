//! The status for an operator: every open transaction and its state.

use std::{collections::BTreeMap, fmt, time::Duration};

use crate::{
    error_chain,
    id::{Name, TxnId},
    log::Takeover,
    participant::ParticipantError,
    txn::{BranchState, CircuitState, TransactionState, UnclaimedBranch, engine::coordinator_core::CoordinatorCore},
};

/// The open transactions of a coordinator; see [`Coordinator::status`](crate::Coordinator::status).
/// It is plain data, taken transaction by transaction without waiting. So it does not show all of
/// them at one single moment.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct CoordinatorStatus {
    /// Number of transactions under which clients still work.
    pub begun: usize,
    /// Number of transactions that are being committed or rolled back, and are not yet settled at
    /// all their participants.
    pub settling: usize,
    /// Number of transactions that were being decided when the log failed. Only opening it again
    /// tells their outcome.
    pub indeterminate: usize,
    /// Number of parked transactions: the coordinator no longer delivers their decision, and an
    /// operator must look.
    pub parked: usize,
    /// Number of transactions with a branch that ended otherwise than decided. An operator must
    /// look, and then forget them.
    pub heuristic: usize,
    /// Number of participants that have not yet said which branches of earlier epochs they hold.
    pub unanswered: usize,
    /// These participants, each with its last error, if there was one.
    pub unanswered_by: BTreeMap<Name, Option<ParticipantError>>,
    /// Branches that participants hold under this coordinator's name, and that its log does not
    /// know. An operator must [settle](crate::Coordinator::settle_unclaimed) them. At most the
    /// first [`MAX_UNCLAIMED`](crate::txn::MAX_UNCLAIMED).
    pub unclaimed: Vec<UnclaimedBranch>,
    /// Number of all unclaimed branches, also of those that `unclaimed` leaves out.
    pub unclaimed_count: usize,
    /// Number of transactions without an answer to their client.
    /// [`Limits::in_flight`](crate::txn::Limits) limits it.
    pub in_flight: usize,
    /// Number of records on their way to the disk. [`Limits::log_queue`](crate::txn::Limits) limits
    /// it.
    pub log_queue: u64,
    /// The participants that [retire](crate::Coordinator::retire), in the order of their names.
    pub retiring: Vec<RetiringStatus>,
    /// Every participant's circuit, in the order of the participants' names.
    pub circuits: Vec<CircuitStatus>,
    /// The takeover, if another holder has taken the coordinator's log over. Then the coordinator does
    /// nothing more, no transaction is listed, and what was under way is the new holder's.
    pub fenced: Option<Takeover>,
    /// Every open transaction, in the order in which they began.
    pub transactions: Vec<TransactionStatus>,
}

impl CoordinatorStatus {
    /// Returns the number of transactions and branches with an end that not all participants know,
    /// and of participants that have not said what they hold. It is what the next opening would
    /// have to settle. Zero means that nothing is left to do.
    ///
    /// It says nothing about whether participants answer. What a participant with an open circuit
    /// has not acknowledged is counted, because its transaction is settling or parked. The circuit
    /// itself is not, because it can be open while nothing is owed: see
    /// [`open_circuits`](Self::open_circuits).
    #[must_use]
    pub const fn in_doubt(&self) -> usize {
        self.settling + self.indeterminate + self.parked + self.heuristic + self.unanswered + self.unclaimed_count
    }

    /// Returns the circuits that are not [closed](CircuitState::Closed): those of participants that
    /// do not answer, or have only just begun to answer again. Empty if no circuit refuses new
    /// branches.
    pub fn open_circuits(&self) -> impl Iterator<Item = &CircuitStatus> {
        self.circuits.iter().filter(|circuit| circuit.state != CircuitState::Closed)
    }
}

/// Lines of text, one for each transaction and one for each of its branches.
impl fmt::Display for CoordinatorStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(takeover) = &self.fenced {
            writeln!(
                f,
                "fenced: the log was {takeover}, which settles what was under way; this coordinator does nothing more"
            )?;
        }
        writeln!(
            f,
            "{} begun, {} settling, {} parked, {} heuristic, {} indeterminate, {} unclaimed, {} participants unanswered; \
             {} in flight, {} records queued",
            self.begun,
            self.settling,
            self.parked,
            self.heuristic,
            self.indeterminate,
            self.unclaimed_count,
            self.unanswered,
            self.in_flight,
            self.log_queue
        )?;
        for (participant, error) in &self.unanswered_by {
            write!(f, "{participant} has not said what it holds of earlier epochs")?;
            error.iter().try_for_each(|error| write!(f, ": {}", error_chain(error)))?;
            writeln!(f)?;
        }
        for UnclaimedBranch { branch, reported } in &self.unclaimed {
            writeln!(f, "unclaimed: {branch}, reported {reported:.1?} ago; this log has not begun it")?;
        }
        self.retiring.iter().try_for_each(|retiring| retiring.fmt(f))?;
        let is_quiet = |circuit: &&CircuitStatus| circuit.state == CircuitState::Closed && circuit.undelivered == 0;
        self.circuits.iter().filter(|circuit| !is_quiet(circuit)).try_for_each(|circuit| circuit.fmt(f))?;
        self.transactions.iter().try_for_each(|transaction| transaction.fmt(f))
    }
}

/// A participant that [retires](crate::Coordinator::retire).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RetiringStatus {
    /// The participant.
    pub participant: Name,
    /// Number of open transactions with a branch of it that has not ended there. It is dropped when there
    /// is none.
    pub transactions: usize,
}

impl fmt::Display for RetiringStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{} retires, {} open transactions with a branch of it are left",
            self.participant, self.transactions
        )
    }
}

/// A participant's circuit: what is outstanding there, and whether the coordinator sends to the
/// participant.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct CircuitStatus {
    /// The participant.
    pub participant: Name,
    /// State of the circuit.
    pub state: CircuitState,
    /// How long the circuit has been open, if it is open.
    pub since: Option<Duration>,
    /// Number of messages without an answer. For a participant that answers at once they are
    /// counted only while something is wrong with it.
    pub unanswered: usize,
    /// Number of decisions that the participant has not acknowledged, parked ones and heuristic
    /// outcomes included. [`Limits::undelivered`](crate::txn::Limits) limits it.
    pub undelivered: usize,
    /// Number of these that are not sent before the participant answers again.
    pub kept_back: usize,
    /// Time since the oldest of the undelivered decisions was sent first.
    pub oldest: Option<Duration>,
    /// Time until the next probe, if the circuit is open.
    pub next_probe: Option<Duration>,
    /// The participant's last error, if there was one.
    pub last_error: Option<ParticipantError>,
}

impl fmt::Display for CircuitStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "circuit of {}: {}", self.participant, self.state)?;
        self.since.iter().try_for_each(|since| write!(f, " for {since:.1?}"))?;
        write!(f, ", {} undelivered, {} kept back", self.undelivered, self.kept_back)?;
        self.oldest.iter().try_for_each(|oldest| write!(f, ", the oldest for {oldest:.1?}"))?;
        self.next_probe.iter().try_for_each(|next| write!(f, ", next probe in {next:.1?}"))?;
        self.last_error.iter().try_for_each(|error| write!(f, ", last: {}", error_chain(error)))?;
        writeln!(f)
    }
}

/// One open transaction.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct TransactionStatus {
    /// Id of the transaction.
    pub txn: TxnId,
    /// State of the transaction.
    pub state: TransactionState,
    /// Time since it began, or since an opening of the coordinator found it again.
    pub age: Duration,
    /// Its branches, in the order in which they are asked.
    pub branches: Vec<BranchStatus>,
}

impl fmt::Display for TransactionStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}: {}, for {:.1?}", self.txn, self.state, self.age)?;
        for branch in &self.branches {
            write!(f, "  {}: {}", branch.participant, branch.state)?;
            if branch.failures > 0 {
                write!(
                    f,
                    ", {} failed {}",
                    branch.failures,
                    if branch.failures == 1 { "attempt" } else { "attempts" }
                )?;
            }
            branch.last_error.iter().try_for_each(|error| write!(f, ", last: {}", error_chain(error)))?;
            writeln!(f)?;
        }
        Ok(())
    }
}

/// One branch of an open transaction.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct BranchStatus {
    /// The participant that holds the branch.
    pub participant: Name,
    /// State of the branch.
    pub state: BranchState,
    /// Number of failed attempts to send it the decision, since the decision or the last retry.
    pub failures: u32,
    /// The participant's last error, if it answered with one.
    pub last_error: Option<ParticipantError>,
}

impl CoordinatorCore {
    /// Returns the state of everything that is open. Takes no lock that is held during a call. O(n
    /// log n) in the open transactions.
    pub(in crate::txn) fn status(&self) -> CoordinatorStatus {
        let now = self.platform.now();
        let durable = self.log.durable();
        let drivers = self.drivers();
        let forced = drivers.iter().filter_map(|driver| driver.awaits_durable()).max().unwrap_or_default();
        let mut transactions: Vec<_> = drivers.iter().map(|driver| driver.status(now)).collect();
        transactions.retain(|transaction| transaction.state != TransactionState::Ended);
        transactions.sort_by(|one, other| one.txn.cmp(&other.txn));
        let mut queries = self.in_doubt_queries();
        queries.retain(|query| !query.is_answered());
        let mut status = CoordinatorStatus {
            unanswered: queries.len(),
            unanswered_by: queries.iter().map(|open| (open.participant().clone(), open.last_error())).collect(),
            unclaimed: self.unclaimed.list(now),
            unclaimed_count: self.unclaimed.count(),
            retiring: self.retiring(),
            circuits: self.circuits(),
            in_flight: self.admission.in_flight(),
            fenced: self.takeover().cloned(),
            log_queue: forced.as_u64().saturating_sub(durable.as_u64()),
            ..CoordinatorStatus::default()
        };
        for transaction in &transactions {
            *match transaction.state {
                TransactionState::Active => &mut status.begun,
                TransactionState::Parked(_) => &mut status.parked,
                TransactionState::Heuristic(..) => &mut status.heuristic,
                TransactionState::Indeterminate => &mut status.indeterminate,
                _ => &mut status.settling,
            } += 1;
        }
        CoordinatorStatus { transactions, ..status }
    }
}
