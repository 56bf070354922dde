//! What an operator sees and does: status, promises that no coordinator claims, and the end.

use std::{
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use super::{
    Inner, Prepared, XaBackend, XaError, XaParticipant,
    cell::{XaCell, is_promised},
};
use crate::{
    id::{BranchId, Name},
    participant::{BranchInput, BranchPhase, Decision, LogSharing, branch_table::EndedBranches},
};

/// Number of a coordinator's transactions after which the markers of those that have ended are
/// deleted: so often that the table stays in memory, and so rarely that the statement's cost
/// is shared by many.
const SWEEP_EVERY: u64 = 512;

/// What a participant of this process is doing; see [`XaParticipant::status`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct XaStatus {
    /// Number of branches under which work is done.
    pub active: usize,
    /// Number of branches that have promised and are not ended: they wait for their decision, or the
    /// decision could not be carried out yet.
    pub promised: usize,
    /// Time since the oldest of these promises was made by this process.
    pub oldest_promise: Option<Duration>,
    /// Number of branches of which the connection was lost in the middle of a promise or a commit.
    pub lost: usize,
    /// Number of connections that are tied to a branch.
    pub sessions: usize,
}

impl<B: XaBackend> XaParticipant<B> {
    /// Returns what this participant is doing, as far as this process knows. Does not ask the
    /// database. O(n) in the branches that are remembered.
    #[must_use]
    pub fn status(&self) -> XaStatus {
        let mut status = XaStatus::default();
        let now = Instant::now();
        for (_, _, cell) in self.0.branches.lock().all() {
            let has_session = cell.try_hold().is_none_or(|session| session.is_some());
            let state = cell.state.lock();
            let phase = state.protocol.phase();
            status.active += usize::from(matches!(phase, BranchPhase::Active { .. }));
            status.lost += usize::from(state.is_lost);
            status.sessions += usize::from(has_session);
            if is_promised(phase) {
                status.promised += 1;
                let age = state.promised_at.map(|since| now.saturating_duration_since(since));
                status.oldest_promise = status.oldest_promise.max(age);
            }
        }
        status
    }

    /// Returns the prepared transactions of this participant in the database that none of these
    /// coordinators has made: promises that only a lost coordinator, or an operator, can end.
    ///
    /// # Errors
    ///
    /// The database could not be asked.
    pub async fn orphans(&self, coordinators: &[Name]) -> Result<Vec<Prepared>, XaError> {
        let mut found = self.0.backend.prepared().await?;
        let mut claimed = Vec::new();
        for coordinator in coordinators {
            claimed.extend(self.0.backend.promises(coordinator).await?.into_iter().map(|promise| promise.branch));
        }
        found.retain(|prepared| {
            prepared.is_own && prepared.branch.as_ref().is_none_or(|branch| !claimed.contains(branch))
        });
        Ok(found)
    }

    /// Ends a prepared transaction by an operator's decision. The coordinator, if
    /// there still is one, hears of a heuristic outcome when it decides otherwise.
    ///
    /// # Errors
    ///
    /// [`XaErrorKind::NotThere`](super::XaErrorKind::NotThere) if there is none with this id, and what
    /// else the database says.
    pub async fn settle(&self, id: &str, decision: Decision) -> Result<(), XaError> {
        self.0.backend.settle(id, decision).await
    }

    /// Begins no more branches, and rolls back those that have promised nothing, except those that a
    /// client works under. Promises stay in the database, and the next opening settles them.
    pub async fn shutdown(&self) {
        self.0.is_closed.store(true, Ordering::SeqCst);
        let all: Vec<(BranchId, Arc<XaCell<B>>)> = {
            let branches = self.0.branches.lock();
            branches.all().map(|(txn, _, cell)| (txn.branch(&self.0.name), Arc::clone(cell))).collect()
        };
        for (branch, cell) in all {
            self.0.roll_back_active(&branch, &cell).await;
        }
    }
}

impl<B: XaBackend> Inner<B> {
    /// Rolls back a branch that has promised nothing, if no task has it.
    async fn roll_back_active(&self, branch: &BranchId, cell: &Arc<XaCell<B>>) {
        let Some(mut session) = cell.try_hold() else { return };
        if let BranchPhase::Active { .. } = cell.phase_now() {
            if let Some(session) = session.take() {
                self.backend.rollback(branch, session).await;
            }
            let mut state = cell.state.lock();
            state.protocol.handle(BranchInput::Rollback(LogSharing::OwnLog));
            state.protocol.handle(BranchInput::Cancelled);
        }
    }

    /// Forgets the coordinator's branches below `ended_below`, here and in the database, if there are
    /// enough of them. One call in [`SWEEP_EVERY`] pays for it.
    pub(super) async fn sweep_if_due(&self, coordinator: &Name) {
        let due = self.branches.lock().sweep_due(coordinator, SWEEP_EVERY);
        let Some(ended_below) = due else { return };
        let Ok(_one_at_a_time) = self.sweep.try_lock() else { return };
        // The branches here first: a late message must not find the marker gone while the branch is
        // still remembered as open.
        let ended = self.branches.lock().ended();
        for sorted in ended.into_iter().map(EndedBranches::sort_out) {
            for txn in &sorted.overdue {
                let cell = self.branches.lock().get(txn).cloned();
                if let Some(cell) = cell {
                    self.roll_back_active(&txn.branch(&self.name), &cell).await;
                }
            }
            drop(self.branches.lock().forget_ended(&sorted));
        }
        {
            let mut branches = self.branches.lock();
            let surplus = branches.surplus();
            branches.forget(&surplus);
        }
        if self.backend.forget_below(coordinator, ended_below).await.is_ok() {
            self.branches.lock().swept(coordinator, ended_below);
        }
    }
}
