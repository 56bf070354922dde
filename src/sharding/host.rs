//! [`ShardHost`]: a shard that takes part in transactions, and in hand-overs.

use std::{error::Error as StdError, fmt, sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::{
    id::{BranchId, Name, TxnId},
    log::TransactionLog,
    participant::{
        BranchRefusal, BranchTrouble, Call, Decision, Effort, Endpoint, ExecuteError, Greeting, InDoubtResolution,
        Life, OpenError, Participant, ParticipantError, ResourceManager, ResourceManagerOptions, ResourceManagerStatus,
        Vote,
    },
    ring::{NodeId, Position, RangeSet},
    sharding::{
        Digest, GateRefusal, Keyed, Shard, ShardRefusal, Tenure,
        link::may_pass,
        reads::AnswerEncoded,
        remote,
        sharded::{Frozen, Sharded},
        work::{Arrival, ClientWork, Content, Departure, ShardWork},
    },
};

/// Maximum time for which a call waits at a shard, whatever patience it names. A caller that is patient
/// calls again; and a message of another process must not hold a thread for long.
pub const MAX_PATIENCE: Duration = if cfg!(fuzzing) { Duration::from_millis(1) } else { Duration::from_secs(5) };

/// A shard of a service, as a participant: a [`ResourceManager`] over a [`Shard`] and its gate.
/// Shared by [`Arc`].
///
/// A [`Cluster`](crate::sharding::Cluster) routes clients' work to it, and moves its ranges. Methods
/// that take a branch may be called again with the same branch; that changes nothing more.
pub struct ShardHost<S: Shard> {
    manager: ResourceManager<Sharded<S>>,
    /// How the shard answers questions, if it does.
    pub(super) answer: Option<AnswerEncoded<S>>,
}

/// Why a shard did not do what it was asked.
#[derive(Clone, Debug, Error)]
#[non_exhaustive]
pub enum ShardError {
    /// The gate did not let it in. Nothing has happened.
    #[error("the shard's gate did not let it in")]
    Gate(#[source] GateRefusal),
    /// Transactions have unfinished changes in the ranges that were to be given away. Nothing has
    /// happened.
    #[error("unfinished transactions hold positions of the ranges: {}", Listed(by))]
    Held {
        /// Some of the transactions.
        by: Vec<TxnId>,
    },
    /// The service refused the work. The source is its own [refusal](crate::Service::Refusal) if the
    /// shard is in this process, and else a [`RemoteWorkError`](crate::sharding::RemoteWorkError) with the
    /// refusal's text. Unless the service says [otherwise](crate::Service::dooms), the transaction can
    /// only be rolled back.
    #[error("the service refused the work")]
    Refused(#[source] Arc<dyn StdError + Send + Sync>),
    /// The work was not done for another reason: an [`ExecuteError`]. The transaction can only be rolled
    /// back.
    #[error("the shard did not do the work")]
    Work(#[source] Arc<dyn StdError + Send + Sync>),
    /// The shard did not answer. What it was asked may have been done, so the transaction is to be
    /// rolled back.
    #[error("the shard did not answer")]
    Unreachable,
    /// The records could not be exported or taken.
    #[error("the shard could not export or take records")]
    Records(#[source] Arc<dyn StdError + Send + Sync>),
}

/// Transactions, one after the other.
struct Listed<'a>(&'a [TxnId]);

impl fmt::Display for Listed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "";
        for txn in self.0 {
            write!(f, "{separator}{txn}")?;
            separator = ", ";
        }
        Ok(())
    }
}

impl From<GateRefusal> for ShardError {
    fn from(refusal: GateRefusal) -> Self {
        Self::Gate(refusal)
    }
}

impl ShardError {
    fn work<R: StdError + Send + Sync + 'static>(error: ExecuteError<ShardRefusal<R>>) -> Self {
        match error {
            ExecuteError::Refused(ShardRefusal::Service(refusal)) => Self::Refused(Arc::new(refusal)),
            ExecuteError::Refused(ShardRefusal::Gate(refusal)) => Self::Gate(refusal),
            ExecuteError::Refused(ShardRefusal::Records(error)) => Self::Records(error.into()),
            error => Self::Work(Arc::new(error)),
        }
    }
}

/// A shard's state, a snapshot.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ShardStatus {
    /// The share of the circle that the shard owns, from 0.0 to 1.0.
    pub owned: f64,
    /// Number of ranges that it owns.
    pub ranges: usize,
    /// The latest hand-over that it has heard of.
    pub latest: Tenure,
    /// Number of positions and transactions with unfinished changes there.
    pub holds: usize,
    /// Number of hand-overs under way that take ranges away.
    pub leaving: usize,
    /// Number of hand-overs under way that bring ranges.
    pub arriving: usize,
}

/// What a transaction's unfinished branch at a shard was found to be; see
/// [`ShardHost::give_up`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum GivenUp {
    /// The branch had promised nothing, and is rolled back. It votes No.
    RolledBack,
    /// The branch has promised, and waits for its coordinator.
    Promised,
    /// The branch is finished, or a call for it is under way.
    Other,
}

impl<S: Shard> ShardHost<S> {
    /// Opens the shard `name` on `log`, and brings it to the state that the log holds. Blocks until
    /// that is done. A [`Cluster`](crate::sharding::Cluster) looks for the name `goods.node-7` for the
    /// service `goods` on the node `node-7`; see [`shard_name`](crate::sharding::shard_name).
    ///
    /// A new shard owns nothing, and refuses all work, until a cluster gives it its ranges.
    ///
    /// # Errors
    ///
    /// As for [`ResourceManager::open`]; [`OpenError::Service`] also if the shard's image can't be
    /// [loaded](Shard::load), or is that of another shard or belongs to another log, or the log has a branch that can't be read: it may be a hand-over, whose
    /// ranges must stay closed.
    pub fn open(name: &str, log: impl TransactionLog, shard: S) -> Result<Self, OpenError> {
        Self::open_with(ResourceManager::<Sharded<S>>::options(), name, log, shard)
    }

    /// As [`open`](Self::open), on a new log because the shard's own is lost for good. **What was committed since the
    /// last checkpoint is lost**, and so is what it had promised: audit the data. The next checkpoint takes the new
    /// log for the shard's own.
    ///
    /// # Errors
    ///
    /// As for [`open`](Self::open).
    pub fn open_after_loss(name: &str, log: impl TransactionLog, shard: S) -> Result<Self, OpenError> {
        Self::open_as(ResourceManager::<Sharded<S>>::options(), name, log, shard, true)
    }

    /// As [`open`](Self::open), with these options of the resource manager.
    ///
    /// # Errors
    ///
    /// As for [`open`](Self::open).
    pub fn open_with(
        options: ResourceManagerOptions,
        name: &str,
        log: impl TransactionLog,
        shard: S,
    ) -> Result<Self, OpenError> {
        Self::open_as(options, name, log, shard, false)
    }

    fn open_as(
        options: ResourceManagerOptions,
        name: &str,
        log: impl TransactionLog,
        shard: S,
        is_log_lost: bool,
    ) -> Result<Self, OpenError> {
        let sharded = Sharded::new(Name::new(name)?, log.id(), is_log_lost, shard, options.own_platform().clone());
        let sharded = sharded.map_err(|error| OpenError::Service(error.into()))?;
        let manager = options.open(name, log, sharded)?;
        // A branch that can't be read may be a hand-over, and its ranges are not known. The gate would let
        // work in where another shard does, too.
        let unreadable = |trouble: &BranchTrouble| {
            matches!(trouble, BranchTrouble::Unreadable { .. } | BranchTrouble::Incomplete { .. })
        };
        match manager.status().troubled.into_iter().find(unreadable) {
            Some(trouble) => Err(OpenError::Service(Arc::new(trouble))),
            None => Ok(Self { manager, answer: None }),
        }
    }

    /// Returns the shard, for everything that is not part of a transaction and does not depend on
    /// which ranges it owns. For the rest there is [`read`](Self::read).
    pub const fn shard(&self) -> &S {
        self.manager.service().shard()
    }

    /// Returns the name.
    pub const fn name(&self) -> &Name {
        self.manager.name()
    }

    const fn sharded(&self) -> &Sharded<S> {
        self.manager.service()
    }

    /// Does a client's piece of work, if this shard owns its position. `known` is the latest hand-over
    /// of the position that the client knows of.
    ///
    /// While the position is on its way, it waits for at most `patience`, and blocks for that long;
    /// zero refuses at once. Otherwise it blocks as [`ResourceManager::execute`] does.
    ///
    /// # Errors
    ///
    /// [`ShardError::Gate`]: nothing has happened, and the branch is as it was.
    /// [`ShardError::Refused`] and [`ShardError::Work`]: as for [`ResourceManager::execute`].
    pub fn execute(
        &self,
        branch: &BranchId,
        known: Tenure,
        work: S::Work,
        patience: Duration,
    ) -> Result<(), ShardError> {
        let (position, effort) = (work.position(), self.shard().effort(&work));
        let stamp = self.admitted(position, known, branch.txn(), effort, patience)?;
        let work = ShardWork::Client(ClientWork { stamp, work });
        self.manager.execute(branch, work).map_err(ShardError::work)
    }

    /// Waits until the gate lets the work in, and returns the stamp.
    fn admitted(
        &self,
        position: Position,
        known: Tenure,
        txn: &TxnId,
        effort: Effort,
        patience: Duration,
    ) -> Result<Tenure, GateRefusal> {
        // If the gate lets nothing in until the log's work is done again, no other call has it done.
        self.manager.mend_if_due();
        let mut gate = self.sharded().gate();
        let mut until = None;
        loop {
            match gate.admit(position, known, txn, effort) {
                Err(refusal) if refusal.is_brief() && !patience.is_zero() => {
                    let until = *until.get_or_insert_with(|| self.sharded().now() + patience.min(MAX_PATIENCE));
                    if !self.sharded().wait(&mut gate, until) {
                        return gate.admit(position, known, txn, effort);
                    }
                }
                result => return result,
            }
        }
    }

    /// Calls `read` with the shard, and returns what it returns, if the shard owned the position all
    /// the while. So a key that is not found does not exist. `read` may be called more than once. It
    /// sees what is committed, and reads under no lock.
    ///
    /// While the position is on its way, it waits for at most `patience`, as [`execute`](Self::execute)
    /// does.
    ///
    /// # Errors
    ///
    /// The gate's refusal.
    pub fn read<R>(
        &self,
        position: Position,
        known: Tenure,
        patience: Duration,
        mut read: impl FnMut(&S) -> R,
    ) -> Result<R, GateRefusal> {
        let reader = TxnId::new(self.name().clone(), crate::Epoch::default(), 0);
        let is_still_here = |stamp| self.sharded().still_here(position, stamp, &reader);
        // Most reads are let in at once, and need no clock. (Not in one expression: the gate is locked in it.)
        let admitted = self.sharded().gate().admit(position, known, &reader, Effort::ReadOnly);
        if let Ok(stamp) = admitted {
            let result = read(self.shard());
            if is_still_here(stamp).is_ok() {
                return Ok(result);
            }
        }
        let until = self.sharded().now() + patience.min(MAX_PATIENCE);
        loop {
            let left = until.saturating_duration_since(self.sharded().now());
            let stamp = self.admitted(position, known, &reader, Effort::ReadOnly, left)?;
            let result = read(self.shard());
            match is_still_here(stamp) {
                Ok(()) => return Ok(result),
                Err(refusal) if self.sharded().now() >= until => return Err(refusal),
                Err(_) => {}
            }
        }
    }

    /// Returns the first of these ranges whose records fit into `budget` bytes, the last range cut if
    /// need be, and what they have. Freezes nothing. At least one position is among them, if there is
    /// one.
    ///
    /// # Errors
    ///
    /// [`ShardError::Records`]: the shard could not export.
    pub fn measure(&self, ranges: &RangeSet, budget: u64) -> Result<(RangeSet, Digest), ShardError> {
        self.sharded().measure(ranges, budget).map_err(|error| ShardError::Records(error.into()))
    }

    /// Checks that the shard has room for this many bytes of records more.
    ///
    /// # Errors
    ///
    /// [`ShardError::Records`], with the shard's reason.
    pub fn has_room(&self, bytes: u64) -> Result<(), ShardError> {
        self.shard().has_room(bytes).map_err(|error| ShardError::Records(error.into()))
    }

    /// Does the work of giving these ranges to the shard on node `to`, under the branch of a
    /// hand-over: stops all work there, and returns the records. They are gone from here when the
    /// transaction commits. If it rolls back, work goes on here.
    ///
    /// Waits for transactions with unfinished changes in the ranges, for at most `patience`, and
    /// blocks for that long. No new changes are let in meanwhile, and reads go on.
    ///
    /// # Errors
    ///
    /// [`ShardError::Held`] if they did not finish in time; [`ShardError::Gate`];
    /// [`ShardError::Records`]. Work goes on here then.
    pub fn release(
        &self,
        branch: &BranchId,
        ranges: &RangeSet,
        tenure: Tenure,
        to: &NodeId,
        patience: Duration,
    ) -> Result<(Vec<u8>, Digest), ShardError> {
        let (sharded, txn) = (self.sharded(), branch.txn());
        let mut gate = sharded.gate();
        if !gate.is_sealed(txn, ranges) {
            gate.freeze(txn, ranges, tenure)?;
        }
        drop(gate);
        let _frozen = Frozen { sharded, txn };
        let until = sharded.now() + patience.min(MAX_PATIENCE);
        let mut gate = sharded.gate();
        while !gate.seal(txn) {
            let by = gate.holders(txn);
            if by.is_empty() {
                return Err(GateRefusal::NotSealed.into());
            }
            if !sharded.wait(&mut gate, until) {
                drop(gate);
                return Err(ShardError::Held { by });
            }
        }
        drop(gate);
        let exported = sharded.collect(ranges).map_err(|error| ShardError::Records(error.into()))?;
        let departure = Departure { ranges: ranges.clone(), tenure, to: to.clone() };
        self.manager.execute(branch, ShardWork::Release(departure)).map_err(ShardError::work)?;
        Ok(exported)
    }

    /// Does the work of taking these ranges, under the branch of a hand-over: imports the records,
    /// and checks that they are what was sent. Clients see them when the transaction commits.
    ///
    /// # Errors
    ///
    /// [`ShardError::Gate`], [`ShardError::Records`], [`ShardError::Work`]. Nothing of it stays.
    pub fn take(
        &self,
        branch: &BranchId,
        ranges: &RangeSet,
        tenure: Tenure,
        records: Vec<u8>,
        digest: Digest,
    ) -> Result<(), ShardError> {
        let content = Content::Sent { records, digest };
        self.arrive(branch, Arrival { ranges: ranges.clone(), tenure, content })
    }

    /// Does the work of owning these ranges from the beginning, with the records that the shard has
    /// there already, under the branch of a ring's first assignment.
    ///
    /// # Errors
    ///
    /// As for [`take`](Self::take).
    pub fn adopt(&self, branch: &BranchId, ranges: &RangeSet, tenure: Tenure) -> Result<(), ShardError> {
        self.arrive(branch, Arrival { ranges: ranges.clone(), tenure, content: Content::InPlace })
    }

    fn arrive(&self, branch: &BranchId, arrival: Arrival) -> Result<(), ShardError> {
        self.manager.execute(branch, ShardWork::Take(arrival)).map_err(ShardError::work)
    }

    /// Rolls back this transaction's branch here if it has promised nothing, so that a hand-over can
    /// go on. The transaction can't commit then; a new one goes to the new owner. Blocks while the
    /// service cancels.
    pub fn give_up(&self, txn: &TxnId) -> GivenUp {
        match self.manager.roll_back_unpromised(txn, BranchRefusal::Moving) {
            Some(true) => GivenUp::RolledBack,
            Some(false) => GivenUp::Promised,
            None => GivenUp::Other,
        }
    }

    /// Returns what the shard owns and what is under way. Waits for nothing. O(n) in its ranges.
    pub fn status(&self) -> ShardStatus {
        let gate = self.sharded().gate();
        let (leaving, arriving) = gate.hand_overs();
        let image = gate.image();
        ShardStatus {
            owned: image.fraction(),
            ranges: image.owned().count(),
            latest: image.latest(),
            holds: gate.holds(),
            leaving,
            arriving,
        }
    }

    /// Returns the ranges that the shard owns.
    pub fn owned(&self) -> RangeSet {
        self.sharded().gate().image().owned().map(|(range, _)| range).collect()
    }

    /// Sets the endpoint at which the coordinator of this name answers what became of its branches; see
    /// [`ResourceManager::set_verdict_endpoint`]. Does not block.
    ///
    /// A coordinator of the same process does it when it opens. For all others, and after each opening
    /// of the shard, call this before any work is done. Without it a shard that was opened again can't
    /// tell whether work under a branch is all of the branch's work: a client's earlier work may be
    /// lost, and a [`release`](Self::release) that comes twice may promise records that clients have
    /// changed since.
    pub fn set_verdict_endpoint(&self, coordinator: Name, endpoint: impl Endpoint) {
        self.manager.set_verdict_endpoint(coordinator, endpoint);
    }

    /// Asks the coordinators what became of every branch that is not finished, and acts on their
    /// answers; see [`ResourceManager::resolve_in_doubt`]. Blocks for at most `timeout`.
    pub fn resolve_in_doubt(&self, timeout: Duration) -> InDoubtResolution {
        self.manager.resolve_in_doubt(timeout)
    }

    /// Returns the number of branches by state; see [`ResourceManager::status`].
    pub fn branches(&self) -> ResourceManagerStatus {
        self.manager.status()
    }

    /// Saves the shard now; see [`ResourceManager::checkpoint`].
    ///
    /// # Errors
    ///
    /// As for [`ResourceManager::checkpoint`].
    pub fn checkpoint(&self) -> Result<(), crate::ServiceError> {
        self.manager.checkpoint()
    }
}

impl<S: Shard> Participant for ShardHost<S> {
    fn prepare(&self, branch: &BranchId, call: &Call) -> Result<Vote, ParticipantError> {
        self.manager.prepare(branch, call).map_err(lost_work)
    }
    fn commit(&self, branch: &BranchId, call: &Call) -> Result<(), ParticipantError> {
        self.manager.commit(branch, call)
    }
    fn rollback(&self, branch: &BranchId, call: &Call) -> Result<(), ParticipantError> {
        self.manager.rollback(branch, call)
    }
    fn commit_one_phase(&self, branch: &BranchId, call: &Call) -> Result<Decision, ParticipantError> {
        self.manager.commit_one_phase(branch, call).map_err(lost_work)
    }
    fn in_doubt(&self, coordinator: &Name) -> Result<Vec<BranchId>, ParticipantError> {
        self.manager.in_doubt(coordinator)
    }
    fn meet(&self, coordinator: &Name, life: &Life) -> Result<(), ParticipantError> {
        self.manager.meet(coordinator, life)
    }
    fn own_name(&self) -> Option<Name> {
        self.manager.own_name()
    }
    fn greet(&self, greeting: &Greeting) {
        self.manager.greet(greeting);
    }
    /// Answers a message of a [`RemoteShard`](crate::sharding::RemoteShard).
    fn message(&self, body: &[u8]) -> Result<Vec<u8>, ParticipantError> {
        remote::answer(self, body)
    }
    /// Recognises what the resource manager does, refusals that the service calls transient, every refusal
    /// of a gate, and that a shard did not answer.
    fn is_transient(&self, error: &(dyn StdError + 'static)) -> bool {
        let refusal = error.downcast_ref::<S::Refusal>();
        refusal.is_some_and(|refusal| self.shard().is_transient(refusal))
            || may_pass(error)
            || self.manager.is_transient(error)
    }
}

/// A client of a cluster commits only where it has worked, so a branch of which a shard knows no work has lost
/// it in a restart.
fn lost_work(error: ParticipantError) -> ParticipantError {
    match &error {
        ParticipantError::Refused(reason) if matches!(reason.downcast_ref(), Some(BranchRefusal::Unknown)) => {
            ParticipantError::refused(BranchRefusal::LostWork)
        }
        _ => error,
    }
}

impl<S: Shard> fmt::Debug for ShardHost<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ShardHost").field("name", self.name()).finish_non_exhaustive()
    }
}
