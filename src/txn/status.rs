//! What an operator's page needs: every transaction that is open, and where it stands.

use std::{collections::BTreeMap, fmt, time::Duration};

use super::{BranchState, CircuitState, TransactionState, UnclaimedBranch, shared::Shared};
use crate::{
    error_chain,
    id::{Name, TxnId},
    participant::ParticipantError,
};

/// What is open at a coordinator; see [`Coordinator::status`](crate::Coordinator::status). Taken without waiting for
/// anybody, transaction by transaction, so that the whole is of no single moment.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct CoordinatorStatus {
    /// Clients still work under them.
    pub begun: usize,
    /// They are being committed or rolled back, and not yet settled at all their participants.
    pub settling: usize,
    /// The log failed while they were being decided; only opening it anew tells.
    pub indeterminate: usize,
    /// Their decision was delivered often enough; an operator is to look.
    pub parked: usize,
    /// A branch has ended otherwise than decided; an operator is to look, and to forget.
    pub heuristic: usize,
    /// Participants that have not yet said which branches of earlier epochs they hold.
    pub unanswered: usize,
    /// Who they are, and what went wrong last where anything did.
    pub unanswered_by: BTreeMap<Name, Option<ParticipantError>>,
    /// Branches that participants hold under this coordinator's name and that its log knows nothing of; an operator is to
    /// [settle](crate::Coordinator::settle_unclaimed) them. The first [`MAX_UNCLAIMED`](super::MAX_UNCLAIMED).
    pub unclaimed: Vec<UnclaimedBranch>,
    /// Number of such branches, those beyond the first included.
    pub unclaimed_count: usize,
    /// Transactions whose client has not been told an outcome; what [`Limits::in_flight`](super::Limits) is about.
    pub in_flight: usize,
    /// Records on their way to the disk; what [`Limits::log_queue`](super::Limits) is about.
    pub log_queue: u64,
    /// Every participant's circuit, in the order of their names.
    pub circuits: Vec<CircuitStatus>,
    /// Every open transaction, in the order in which they began.
    pub transactions: Vec<TransactionStatus>,
}

impl CoordinatorStatus {
    /// Number of transactions and branches whose end is not known to all participants, and of participants that have not said
    /// what they hold: what the next opening would have to settle. Zero means that nothing is left to do.
    ///
    /// It says nothing of whether participants answer. What a participant with an open circuit has not acknowledged is counted,
    /// because its transaction is settling or parked; the circuit itself is not, because it can be open while nothing is owed:
    /// see [`open_circuits`](Self::open_circuits).
    #[must_use]
    pub const fn in_doubt(&self) -> usize {
        self.settling + self.indeterminate + self.parked + self.heuristic + self.unanswered + self.unclaimed_count
    }

    /// The circuits of the participants that do not answer, or have only just begun to again: those that are not
    /// [closed](CircuitState::Closed). Empty where new transactions can have branches everywhere, as far as circuits go.
    pub fn open_circuits(&self) -> impl Iterator<Item = &CircuitStatus> {
        self.circuits.iter().filter(|circuit| circuit.state != CircuitState::Closed)
    }
}

/// As lines of text, one for each transaction and one for each of its branches.
impl fmt::Display for CoordinatorStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{} begun, {} settling, {} parked, {} heuristic, {} indeterminate; {} in flight, {} records queued",
            self.begun, self.settling, self.parked, self.heuristic, self.indeterminate, self.in_flight, self.log_queue
        )?;
        for (participant, error) in &self.unanswered_by {
            write!(f, "{participant} has not said what it holds of earlier epochs")?;
            error.iter().try_for_each(|error| write!(f, ": {}", error_chain(error)))?;
            writeln!(f)?;
        }
        for UnclaimedBranch { branch, reported } in &self.unclaimed {
            writeln!(f, "unclaimed: {branch}, reported {reported:.1?} ago; this log has not begun it")?;
        }
        let is_quiet = |circuit: &&CircuitStatus| circuit.state == CircuitState::Closed && circuit.undelivered == 0;
        self.circuits.iter().filter(|circuit| !is_quiet(circuit)).try_for_each(|circuit| circuit.fmt(f))?;
        self.transactions.iter().try_for_each(|transaction| transaction.fmt(f))
    }
}

/// A participant's circuit: what is outstanding there, and whether the participant is spoken to.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct CircuitStatus {
    /// Whose.
    pub participant: Name,
    /// Whether it is spoken to.
    pub state: CircuitState,
    /// For how long it has been open, where it is.
    pub since: Option<Duration>,
    /// Votes and acknowledgements that are waited for just now. Of a participant that answers at once nothing is counted while
    /// all goes well.
    pub unanswered: usize,
    /// Decisions that it has not acknowledged, parked ones included; what [`Limits::undelivered`](super::Limits) is about.
    pub undelivered: usize,
    /// Of these, how many are not sent before it answers again.
    pub kept_back: usize,
    /// How long ago the oldest of them was told for the first time.
    pub oldest: Option<Duration>,
    /// In how long it is tried next, where it is open.
    pub next_probe: Option<Duration>,
    /// What it said last that was a failure, if anything was.
    pub last_error: Option<ParticipantError>,
}

impl fmt::Display for CircuitStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "circuit of {}: {}", self.participant, self.state)?;
        self.since.iter().try_for_each(|since| write!(f, " for {since:.1?}"))?;
        write!(f, ", {} undelivered, {} kept back", self.undelivered, self.kept_back)?;
        self.oldest.iter().try_for_each(|oldest| write!(f, ", the oldest for {oldest:.1?}"))?;
        self.next_probe.iter().try_for_each(|next| write!(f, ", next probe in {next:.1?}"))?;
        self.last_error.iter().try_for_each(|error| write!(f, ", last: {error}"))?;
        writeln!(f)
    }
}

/// One open transaction.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct TransactionStatus {
    /// Which.
    pub txn: TxnId,
    /// Where it stands.
    pub state: TransactionState,
    /// How long ago it began, or was found again when the coordinator was opened.
    pub age: Duration,
    /// Its branches, those first that are asked first.
    pub branches: Vec<BranchStatus>,
}

impl fmt::Display for TransactionStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}: {}, for {:.1?}", self.txn, self.state, self.age)?;
        for branch in &self.branches {
            write!(f, "  {}: {}", branch.participant, branch.state)?;
            if branch.failures > 0 {
                write!(f, ", told {} times in vain", branch.failures)?;
            }
            branch.last_error.iter().try_for_each(|error| write!(f, ", last: {}", error_chain(error)))?;
            writeln!(f)?;
        }
        Ok(())
    }
}

/// One branch of it.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct BranchStatus {
    /// Whose.
    pub participant: Name,
    /// Where it stands.
    pub state: BranchState,
    /// How often it was told in vain, since the decision or the last retry.
    pub failures: u32,
    /// What went wrong last, where anything did and the participant said so.
    pub last_error: Option<ParticipantError>,
}

impl Shared {
    /// All that is open, and where it stands.
    pub(super) fn status(&self) -> CoordinatorStatus {
        let now = self.platform.now();
        let durable = self.log.durable();
        let tasks = self.tasks();
        let forced = tasks.iter().filter_map(|task| task.awaits_durable()).max().unwrap_or_default();
        let mut transactions: Vec<_> = tasks.iter().map(|task| task.status(now)).collect();
        transactions.retain(|transaction| transaction.state != TransactionState::Ended);
        transactions.sort_by(|one, other| one.txn.cmp(&other.txn));
        let mut queries = self.in_doubt_queries();
        queries.retain(|query| !query.is_answered());
        let mut status = CoordinatorStatus {
            unanswered: queries.len(),
            unanswered_by: queries.iter().map(|open| (open.participant().clone(), open.last_error())).collect(),
            unclaimed: self.unclaimed.list(now),
            unclaimed_count: self.unclaimed.count(),
            circuits: self.circuits(),
            in_flight: self.admission.in_flight(),
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
