//! The resource manager asks: what became of a branch that nobody tells it about?

use std::{sync::Arc, time::Duration};

use super::ResourceManager;
use crate::{
    id::{BranchId, Epoch, Name, TxnId},
    log::LogId,
    participant::{
        BranchInput, BranchPhase, Call, Endpoint, LogSharing, ParticipantError, Reply, Request, Response, Service,
        Verdict,
    },
};

/// How long a coordinator may take to say which of its transactions began before this opening. A vote fails when that was
/// too short, and a one-phase commit is repeated.
const VERDICT_WITHIN: Duration = Duration::from_secs(2);

/// What came of asking for verdicts; see [`ResourceManager::resolve_in_doubt`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct InDoubtResolution {
    /// Branches that are committed, and are now.
    pub committed: usize,
    /// Branches that are rolled back, and are now.
    pub rolled_back: usize,
    /// Branches that their coordinator has not decided yet.
    pub undecided: usize,
    /// Branches whose coordinator did not answer, or that nobody has said where to ask about; and those that the service
    /// could not settle now.
    pub unresolved: usize,
}

impl<S: Service> ResourceManager<S> {
    /// Says where the coordinator of this name can be asked what became of its branches. A coordinator of the same
    /// process says so by itself when it is opened.
    ///
    /// With it, [`resolve_in_doubt`](Self::resolve_in_doubt) can settle what is in doubt. And only with it a resource manager that has been
    /// opened again can tell which transactions began since: it votes No for all others that have done work, because
    /// some of their work may have been lost with what was in memory before, or be a late repeat of messages that were
    /// dealt with then. So say it right after opening, and before any work is done; the coordinator is asked at once.
    pub fn set_verdict_endpoint(&self, coordinator: Name, endpoint: impl Endpoint) {
        let endpoint: Arc<dyn Endpoint> = Arc::new(endpoint);
        let begins_at = {
            let mut branches = self.branches.lock();
            let known = branches.acquaintance(&coordinator);
            known.verdicts = Some(Arc::clone(&endpoint));
            Arc::clone(&known.begins_at)
        };
        // The epoch's zeroth transaction, which there is none of, stands for the question when transactions begin.
        let branch = TxnId::new(coordinator, Epoch::default(), 0).branch(&self.name);
        let learn = move |answer| {
            if let Ok(Response::Verdict { begun_below, .. }) = answer {
                begins_at.get_or_init(|| begun_below);
            }
        };
        endpoint.send(Request::Verdict { branch }, Reply::new(learn));
    }

    /// Asks the coordinators what became of every branch that is not finished, waits up to `timeout` for the answers, and
    /// acts on them. For a participant whose coordinator is slow to come back to it: after a restart, say, or when it was
    /// parked. Presumed abort: what a coordinator knows nothing of is rolled back.
    pub fn resolve_in_doubt(&self, timeout: Duration) -> InDoubtResolution {
        let until = self.options.platform.now() + timeout.min(Duration::from_secs(u32::MAX.into()));
        let answers = self.options.platform.mailbox();
        let mut resolution = InDoubtResolution::default();
        let mut waited_for = 0_usize;
        for (branch, endpoint) in self.unfinished() {
            let Some(endpoint) = endpoint else {
                resolution.unresolved += 1;
                continue;
            };
            waited_for += 1;
            let answers = answers.clone();
            let of = branch.clone();
            // Whoever asked may have stopped waiting; the answer is then of no use to anybody.
            let reply = Reply::new(move |answer| answers.put((of, answer)));
            endpoint.send(Request::Verdict { branch }, reply);
        }
        while waited_for > 0 {
            let Some((branch, answer)) = answers.take_until(until) else { break };
            waited_for -= 1;
            let Ok(Response::Verdict { verdict, .. }) = answer else {
                resolution.unresolved += 1;
                continue;
            };
            *match self.follow(&branch, verdict) {
                Ok(Verdict::Commit) => &mut resolution.committed,
                Ok(Verdict::Rollback) => &mut resolution.rolled_back,
                Ok(Verdict::Undecided) => &mut resolution.undecided,
                Err(_) => &mut resolution.unresolved,
            } += 1;
        }
        resolution.unresolved += waited_for;
        resolution
    }

    fn follow(&self, branch: &BranchId, verdict: Verdict) -> Result<Verdict, ParticipantError> {
        // Which log the coordinator decides in is not known here. To force one record too many does no harm.
        let sharing = LogSharing::OwnLog;
        let message = match verdict {
            Verdict::Commit => BranchInput::Commit(sharing),
            Verdict::Rollback => BranchInput::Rollback(sharing),
            Verdict::Undecided => return Ok(verdict),
        };
        self.deliver(branch, &Call::new(LogId::NONE), message).map(|_| verdict)
    }

    /// The branches that somebody has to tell the end of, and where to ask about them.
    fn unfinished(&self) -> Vec<(BranchId, Option<Arc<dyn Endpoint>>)> {
        let slots: Vec<_> = {
            let branches = self.branches.lock();
            let all = branches.all();
            all.map(|(txn, known, slot)| (txn, Arc::clone(slot), known.verdicts.clone())).collect()
        };
        let waits = |state| {
            matches!(
                state,
                BranchPhase::Active { .. }
                    | BranchPhase::Prepared
                    | BranchPhase::Confirming { .. }
                    | BranchPhase::Cancelling { .. }
            )
        };
        let mut unfinished: Vec<_> = slots
            .into_iter()
            // Who is in the middle of something is being told right now.
            .filter(|(_, slot, _)| slot.try_lock().is_some_and(|slot| waits(slot.protocol.phase())))
            .map(|(txn, _, endpoint)| (txn.branch(&self.name), endpoint))
            .collect();
        unfinished.sort_by(|one, other| one.0.cmp(&other.0));
        unfinished
    }

    /// Whether no work of the branch can have been lost, nor be a late repeat: its transaction surely began after this
    /// opening, and what was done under it before is not forgotten.
    ///
    /// Where nobody has said where to ask (see [`set_verdict_endpoint`](Self::set_verdict_endpoint)), there is no telling, and it is assumed.
    pub(super) fn has_all_work(&self, branch: &BranchId) -> Result<bool, ParticipantError> {
        let coordinator = branch.txn().coordinator();
        let (endpoint, begins_at) = {
            let branches = self.branches.lock();
            let Some(known) = branches.known(coordinator) else { return Ok(true) };
            if let Some(ordinal) = known.begins_at.get() {
                return Ok(*ordinal <= branch.txn().ordinal());
            }
            let Some(endpoint) = known.verdicts.clone() else { return Ok(true) };
            (endpoint, Arc::clone(&known.begins_at))
        };
        let answers = self.options.platform.mailbox();
        let told = answers.clone();
        let request = Request::Verdict { branch: branch.clone() };
        endpoint.send(request, Reply::new(move |answer| told.put(answer)));
        let until = self.options.platform.now() + VERDICT_WITHIN;
        let answer = answers.take_until(until).unwrap_or(Err(ParticipantError::Unreachable))?;
        let Response::Verdict { begun_below, .. } = answer else { return Err(ParticipantError::Misdirected) };
        // It has begun before this answer, so whether before the opening is not known; the next ones surely did not.
        Ok(*begins_at.get_or_init(|| begun_below) <= branch.txn().ordinal())
    }
}
