//! [`VerdictEndpoint`]: answers participants that ask what became of a branch.

use std::{fmt, sync::Weak};

use crate::{
    id::{BranchId, Epoch, Name, TxnOrdinal},
    participant::{Endpoint, ParticipantError, Reply, Request, Response, Verdict},
    txn::engine::coordinator_core::CoordinatorCore,
};

/// Answers for one coordinator what became of its transactions: an [`Endpoint`] that answers
/// [`Request::Verdict`] with a [`Verdict`]. A transport carries it to participants in other
/// processes. Clones answer for the same coordinator.
///
/// It does not keep the coordinator alive: once the coordinator is gone, it fails every request.
///
/// For an open transaction the answer is its decision. A transaction that is not open was rolled
/// back, or all participants have acknowledged its commit and none asks any more: *presumed abort*.
///
/// ```
/// use ringpact::{Coordinator, MemoryLog, participant::{Endpoint, Reply, Request, Response, Verdict}};
///
/// let coordinator = Coordinator::builder(MemoryLog::new()).name("shop").participant("goods", Yes).open()?;
/// let mut txn = coordinator.begin();
/// let branch = txn.branch("goods")?.clone();
/// drop(txn);
/// // A transport does this with a question that comes in:
/// coordinator.verdict_endpoint().send(Request::Verdict { branch }, Reply::new(|answer| {
///     assert!(matches!(answer, Ok(Response::Verdict { verdict: Verdict::Rollback, .. })));
/// }));
/// # use ringpact::{BranchId, Name, Participant, ParticipantError, Vote, participant::Call};
/// # struct Yes;
/// # impl Participant for Yes {
/// #     fn prepare(&self, _: &BranchId, _: &Call) -> Result<Vote, ParticipantError> { Ok(Vote::Yes) }
/// #     fn commit(&self, _: &BranchId, _: &Call) -> Result<(), ParticipantError> { Ok(()) }
/// #     fn rollback(&self, _: &BranchId, _: &Call) -> Result<(), ParticipantError> { Ok(()) }
/// #     fn in_doubt(&self, _: &Name) -> Result<Vec<BranchId>, ParticipantError> { Ok(Vec::new()) }
/// # }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct VerdictEndpoint {
    coordinator: Name,
    epoch: Epoch,
    core: Weak<CoordinatorCore>,
}

impl VerdictEndpoint {
    pub(in crate::txn) const fn new(coordinator: Name, epoch: Epoch, core: Weak<CoordinatorCore>) -> Self {
        Self { coordinator, epoch, core }
    }

    fn answer(&self, branch: &BranchId) -> Result<Response, ParticipantError> {
        let core = self.core.upgrade().ok_or(ParticipantError::Unreachable)?;
        let txn = branch.txn();
        let next = core.next_ordinal();
        // An id that was never given out comes from another log under the same name. That log may
        // have committed it, so it is not called rolled back. (No transaction has epoch 0: its id
        // asks which transactions have begun.)
        let asks_for_time = txn.coordinator() == &self.coordinator && txn.epoch() == Epoch::default();
        let (openings, next_number) = (&core.openings, next.sequence);
        let is_own = txn.coordinator() == &self.coordinator && openings.may_have_begun(txn.ordinal(), next_number);
        if !asks_for_time && !is_own {
            return Err(ParticipantError::Misdirected);
        }
        let drivers = core.drivers_of(txn.ordinal());
        // A coordinator that ends forgets what is open, and that is not rolled back. So this is
        // asked after the tasks were looked for.
        if core.is_gone() {
            return Err(ParticipantError::Unreachable);
        }
        let verdict = drivers.iter().map(|driver| driver.verdict_for_participants()).reduce(strongest);
        for driver in drivers.into_iter().filter(|driver| driver.key().reported_by == 0) {
            // The participant that asks can be reached again.
            core.retry(&driver);
        }
        // Presumed abort. Nothing is presumed of a log that may have forgotten decisions.
        let is_presumed = asks_for_time || openings.presumes_abort_of(txn.ordinal(), next_number);
        let is_earlier = !asks_for_time && txn.epoch() != self.epoch;
        let verdict = verdict.unwrap_or_else(|| match is_presumed {
            true if is_earlier => core.presumed_verdict(branch),
            true => Verdict::Rollback,
            false => Verdict::Undecided,
        });
        let begun_below: TxnOrdinal = next;
        Ok(Response::Verdict { verdict, begun_below })
    }
}

/// Returns the verdict that counts. Branches that participants have reported have tasks of their
/// own, which roll back; the transaction's own task, if there is one, knows better.
const fn strongest(one: Verdict, other: Verdict) -> Verdict {
    match (one, other) {
        (Verdict::Commit, _) | (_, Verdict::Commit) => Verdict::Commit,
        (Verdict::Undecided, _) | (_, Verdict::Undecided) => Verdict::Undecided,
        (Verdict::Rollback, Verdict::Rollback) => Verdict::Rollback,
    }
}

impl Endpoint for VerdictEndpoint {
    fn send(&self, request: Request, reply: Reply) {
        let result = match request {
            Request::Verdict { branch } => self.answer(&branch),
            Request::Branch { .. } | Request::InDoubt { .. } | Request::Message { .. } => {
                Err(ParticipantError::Misdirected)
            }
        };
        reply.send(result);
    }
}

impl fmt::Debug for VerdictEndpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VerdictEndpoint")
            .field("coordinator", &self.coordinator)
            .field("epoch", &self.epoch)
            .finish_non_exhaustive()
    }
}
