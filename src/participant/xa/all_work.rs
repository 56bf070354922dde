//! What an earlier life of this process has to do with a branch: some of its work may have been done
//! and undone with that life, or the branch may have been promised.

use std::sync::Arc;

use ::tokio::sync::oneshot;

use super::{Inner, XaBackend, XaParticipant, cell::XaCell};
use crate::{
    id::{BranchId, Name, TxnOrdinal},
    participant::{
        BranchInput, BranchPhase, BranchRefusal, Endpoint, ParticipantError, Reply, Request, Response,
        branch_table::{HasAllWork, ask_begun},
    },
};

impl<B: XaBackend> XaParticipant<B> {
    /// Sets the endpoint at which the coordinator of this name answers what became of its branches,
    /// and asks it at once which transactions have begun. Does not block. A coordinator of the same
    /// process sets it when it opens.
    ///
    /// A process that works for a coordinator of another one ([`work`](Self::work)) needs it. If the
    /// process is restarted between two pieces of a branch's work, the database has undone the first
    /// one, and only the coordinator knows that the transaction began before. With the endpoint, such a
    /// branch votes No. So call this right after opening, before any work is done.
    pub fn set_verdict_endpoint(&self, coordinator: Name, endpoint: impl Endpoint) {
        let endpoint: Arc<dyn Endpoint> = Arc::new(endpoint);
        let known_below = self.0.branches.lock().set_verdicts(&coordinator, Arc::clone(&endpoint));
        ask_begun(&self.0.name, coordinator, &*endpoint, known_below);
    }
}

impl<B: XaBackend> Inner<B> {
    /// Has the branch vote No if some of its work may be lost. Does not hold the branch, because the
    /// coordinator may never answer.
    pub(super) async fn check_work(
        &self,
        branch: &BranchId,
        cell: &XaCell<B>,
        begins_at: Option<TxnOrdinal>,
        message: BranchInput,
    ) -> Result<(), ParticipantError> {
        let wants_promise = matches!(message, BranchInput::Prepare(_) | BranchInput::CommitOnePhase);
        if !wants_promise || !matches!(cell.phase_now(), BranchPhase::Active { doomed: false, .. }) {
            return Ok(());
        }
        let has_all_work = match begins_at {
            Some(first) => first <= branch.txn().ordinal(),
            None => self.has_all_work(branch).await?,
        };
        if !has_all_work {
            cell.refuse(|| Arc::new(BranchRefusal::LostWork));
        }
        Ok(())
    }

    /// Undoes work of a branch that an earlier life of this process may have promised: it is a repeat
    /// that came late, and would hide the promise from the decision.
    pub(super) async fn drop_late_work(
        &self,
        branch: &BranchId,
        cell: &XaCell<B>,
        begins_at: Option<TxnOrdinal>,
        message: BranchInput,
    ) {
        let decides = matches!(message, BranchInput::Commit(_) | BranchInput::Rollback(_));
        let is_of_this_life = begins_at.is_some_and(|first| first <= branch.txn().ordinal());
        if !decides || is_of_this_life || !matches!(cell.phase_now(), BranchPhase::Active { .. }) {
            return;
        }
        // If a client still has the session, a commit is repeated until the client is done. A rollback ends the session, and
        // the promise is found when the coordinator opens again.
        let Some(mut held) = cell.try_hold() else { return };
        if let Some(session) = held.take() {
            self.backend.rollback(branch, session).await;
        }
    }

    async fn has_all_work(&self, branch: &BranchId) -> Result<bool, ParticipantError> {
        let lookup = self.branches.lock().has_all_work(branch.txn());
        let endpoint = match lookup {
            HasAllWork::Known(has_all_work) => return Ok(has_all_work),
            HasAllWork::Asks(endpoint) => endpoint,
        };
        let (told, answer) = oneshot::channel();
        // If the caller no longer waits, nothing reads the answer.
        let reply = Reply::new(move |answer| drop(told.send(answer)));
        endpoint.send(Request::Verdict { branch: branch.clone() }, reply);
        match answer.await.unwrap_or(Err(ParticipantError::Unreachable))? {
            Response::Verdict { begun_below, .. } => {
                Ok(self.branches.lock().learn_begun_below(branch.txn(), begun_below))
            }
            _ => Err(ParticipantError::Misdirected),
        }
    }
}
