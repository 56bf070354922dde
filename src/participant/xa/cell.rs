//! What is kept of one branch: [`XaCell`].

use std::{
    error::Error as StdError,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

use ::tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard};
use parking_lot::Mutex;

use super::backend::{XaBackend, XaPromise};
use crate::{
    id::BranchId,
    participant::{BranchInput, BranchPhase, BranchProtocol, LogSharing, branch_table::Cell},
};

/// A session, while one task has it.
pub(super) type HeldSession<B> = OwnedMutexGuard<Option<<B as XaBackend>::Session>>;

/// The reason of a No.
pub(super) type Reason = Arc<dyn StdError + Send + Sync>;

/// One branch.
pub(super) struct XaCell<B: XaBackend> {
    pub(super) state: Mutex<State>,
    /// The branch's session, if it has one. Locked by the task that works with the branch: a client's, or a
    /// coordinator's message.
    session: Arc<AsyncMutex<Option<B::Session>>>,
    pub(super) interrupt: Mutex<Option<B::Interrupt>>,
    /// Whether a client has the session.
    is_at_work: AtomicBool,
    /// Whether a rollback came while a client had the session.
    doomed: AtomicBool,
}

/// What is known of the branch. Its lock is never held while the database is called.
#[derive(Default)]
pub(super) struct State {
    pub(super) protocol: BranchProtocol,
    /// How far the coordinator's log had come at the promise.
    pub(super) position: u64,
    /// Whether a session may still be at work in the server, of which this process has lost the
    /// connection.
    pub(super) is_lost: bool,
    /// Whether the branch is among the promises that the participant counts.
    pub(super) is_counted: bool,
    /// Since when the branch is bound by a promise.
    pub(super) promised_at: Option<Instant>,
    /// The reason why the branch can only vote No, if that is so.
    pub(super) refusal: Option<Reason>,
}

impl<B: XaBackend> XaCell<B> {
    /// Returns the session if no other task has it.
    pub(super) fn try_hold(&self) -> Option<HeldSession<B>> {
        Arc::clone(&self.session).try_lock_owned().ok()
    }

    /// Waits until no other task has the session.
    pub(super) async fn hold(&self) -> HeldSession<B> {
        Arc::clone(&self.session).lock_owned().await
    }

    pub(super) fn is_at_work(&self) -> bool {
        self.is_at_work.load(Ordering::SeqCst)
    }

    pub(super) fn set_at_work(&self, is_at_work: bool) {
        self.is_at_work.store(is_at_work, Ordering::SeqCst);
    }

    /// Notes that the branch is to be rolled back by the task that has the session. Returns whether that
    /// was noted before.
    pub(super) fn doom(&self) -> bool {
        self.doomed.swap(true, Ordering::SeqCst)
    }

    pub(super) fn is_doomed(&self) -> bool {
        self.doomed.load(Ordering::SeqCst)
    }

    /// Feeds in that work was refused. From here on the branch can only vote No.
    pub(super) fn refuse(&self, reason: impl FnOnce() -> Reason) {
        let mut state = self.state.lock();
        if state.protocol.accepts_work() {
            state.protocol.handle(BranchInput::Refused);
            state.refusal.get_or_insert_with(reason);
        }
    }

    /// Returns the phase, also while the branch is locked.
    pub(super) fn phase_now(&self) -> BranchPhase {
        self.state.lock().protocol.phase()
    }

    pub(super) fn promise(&self, branch: &BranchId) -> XaPromise {
        XaPromise::new(branch.clone(), self.state.lock().position)
    }
}

/// Whether a branch in this phase may be bound by a promise in the database.
pub(super) const fn is_promised(phase: BranchPhase) -> bool {
    matches!(
        phase,
        BranchPhase::Preparing { .. }
            | BranchPhase::Prepared
            | BranchPhase::Committing { .. }
            | BranchPhase::Confirming { .. }
            | BranchPhase::Cancelling { promised: Some(_), .. }
            | BranchPhase::Ending { .. }
    )
}

impl<B: XaBackend> Cell for XaCell<B> {
    fn phase(&self) -> Option<BranchPhase> {
        let _free = self.session.try_lock().ok()?;
        Some(self.phase_now())
    }

    fn is_empty(&self) -> bool {
        let Ok(session) = self.session.try_lock() else { return false };
        let state = self.state.lock();
        let is_kept = session.is_some() || state.is_lost || state.refusal.is_some() || self.is_doomed();
        state.protocol.phase() == BranchPhase::Unknown && !is_kept
    }

    fn tombstone() -> Self {
        let cell = Self::default();
        cell.state.lock().protocol.handle(BranchInput::Rollback(LogSharing::OwnLog));
        cell
    }

    fn wipe(&mut self) {
        *self = Self::default();
    }
}

impl<B: XaBackend> Default for XaCell<B> {
    fn default() -> Self {
        Self {
            state: Mutex::default(),
            session: Arc::default(),
            interrupt: Mutex::new(None),
            is_at_work: AtomicBool::new(false),
            doomed: AtomicBool::new(false),
        }
    }
}
