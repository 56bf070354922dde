//! The resource manager asks coordinators what became of branches in doubt.

use std::{sync::Arc, time::Duration};

use super::ResourceManager;
use crate::{
    id::{BranchId, Name},
    log::LogId,
    participant::{
        BranchInput, BranchPhase, Call, Endpoint, LogSharing, ParticipantError, Reply, Request, Response, Service,
        Verdict,
        branch_table::{HasAllWork, ask_begun},
    },
};

/// Time that a coordinator has to answer which of its transactions began before this opening. If it
/// takes longer, a vote fails, and a one-phase commit is repeated.
const VERDICT_WITHIN: Duration = Duration::from_secs(2);

/// Number of branches by what became of them; see [`ResourceManager::resolve_in_doubt`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct InDoubtResolution {
    /// Branches that are now committed, as their coordinator decided.
    pub committed: usize,
    /// Branches that are now rolled back, as their coordinator decided.
    pub rolled_back: usize,
    /// Branches whose coordinator has not decided yet.
    pub undecided: usize,
    /// Branches whose coordinator did not answer in time, or has no [verdict
    /// endpoint](ResourceManager::set_verdict_endpoint) here; and branches that the service could
    /// not settle now.
    pub unresolved: usize,
}

impl<S: Service> ResourceManager<S> {
    /// Sets the endpoint at which the coordinator of this name answers what became of its branches,
    /// and asks it at once which transactions have begun. Does not block. A coordinator of the same
    /// process sets it when it opens.
    ///
    /// [`resolve_in_doubt`](Self::resolve_in_doubt) uses it. A resource manager that was opened
    /// again also needs it to tell which transactions began since. It votes No for all others that
    /// have done work, because some of their work may have been lost from memory, or may be a late
    /// repeat of messages that were dealt with before. So call this right after opening, before any
    /// work is done.
    pub fn set_verdict_endpoint(&self, coordinator: Name, endpoint: impl Endpoint) {
        let endpoint: Arc<dyn Endpoint> = Arc::new(endpoint);
        let known_below = self.branches.lock().set_verdicts(&coordinator, Arc::clone(&endpoint));
        ask_begun(&self.name, coordinator, &*endpoint, known_below);
    }

    /// Asks the coordinators what became of every branch that is not finished, and acts on their
    /// answers.
    ///
    /// Blocks until all answers have come and are carried out, or until `timeout` has passed; from
    /// async code, call it on a thread for blocking calls. For a participant that does not want to
    /// wait for its coordinator, for example after a restart, or when the coordinator has parked a
    /// transaction. Presumed abort: a branch that its coordinator does not know is rolled back.
    pub fn resolve_in_doubt(&self, timeout: Duration) -> InDoubtResolution {
        self.mend_if_due();
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
            // If the caller no longer waits, nothing reads the mailbox.
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
        // It is not known here in which log the coordinator decides. One forced record too many
        // does no harm.
        let sharing = LogSharing::OwnLog;
        let message = match verdict {
            Verdict::Commit => BranchInput::Commit(sharing),
            Verdict::Rollback => BranchInput::Rollback(sharing),
            Verdict::Undecided => return Ok(verdict),
        };
        self.deliver(branch, &Call::new(LogId::NONE), message).map(|_| verdict)
    }

    /// Returns the unfinished branches, each with the endpoint at which its coordinator answers.
    fn unfinished(&self) -> Vec<(BranchId, Option<Arc<dyn Endpoint>>)> {
        let entries: Vec<_> = {
            let branches = self.branches.lock();
            let all = branches.all();
            all.map(|(txn, known, entry)| (txn, Arc::clone(entry), known.verdicts.clone())).collect()
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
        let mut unfinished: Vec<_> = entries
            .into_iter()
            // A branch that is locked is being told right now.
            .filter(|(_, entry, _)| entry.try_lock().is_some_and(|entry| waits(entry.protocol.phase())))
            .map(|(txn, _, endpoint)| (txn.branch(&self.name), endpoint))
            .collect();
        unfinished.sort_by(|one, other| one.0.cmp(&other.0));
        unfinished
    }

    /// Whether no work of the branch can have been lost, or be a late repeat: its transaction
    /// certainly began after this opening, and what was done under it since is not forgotten.
    /// Blocks until the coordinator has answered, as a rule once for each coordinator.
    ///
    /// Without a [verdict endpoint](Self::set_verdict_endpoint) there is no way to tell, and it is
    /// assumed.
    pub(super) fn has_all_work(&self, branch: &BranchId) -> Result<bool, ParticipantError> {
        let lookup = self.branches.lock().has_all_work(branch.txn());
        let endpoint = match lookup {
            HasAllWork::Known(has_all_work) => return Ok(has_all_work),
            HasAllWork::Asks(endpoint) => endpoint,
        };
        let answers = self.options.platform.mailbox();
        let told = answers.clone();
        let request = Request::Verdict { branch: branch.clone() };
        endpoint.send(request, Reply::new(move |answer| told.put(answer)));
        let until = self.options.platform.now() + VERDICT_WITHIN;
        let answer = answers.take_until(until).unwrap_or(Err(ParticipantError::Unreachable))?;
        let Response::Verdict { begun_below, .. } = answer else { return Err(ParticipantError::Misdirected) };
        Ok(self.branches.lock().learn_begun_below(branch.txn(), begun_below))
    }
}
