//! What a database must be able to do: [`TableBackend`], and the row that is kept for each branch.

use std::{error::Error as StdError, future::Future};

use crate::{
    id::{BranchId, Name, TxnOrdinal},
    participant::{BranchInput, BranchPhase, BranchProtocol, Effort, Life, LogSharing, xa::XaError},
};

/// A database with transactions of its own, and no *prepare*. Implemented for a client library;
/// [`TableParticipant`](super::TableParticipant) calls it and does the rest.
///
/// Each method is one step, and may fail at any moment. A future that is dropped counts as failed.
pub trait TableBackend: Send + Sync + 'static {
    /// A transaction of the database, with its connection. If it is dropped, it is rolled back.
    type Tx: Send + 'static;

    /// Takes a connection and begins a transaction. At *read committed* or above.
    ///
    /// # Errors
    ///
    /// They are not tried again at once: wait for a connection here, for a limited time.
    fn begin(&self) -> impl Future<Output = Result<Self::Tx, XaError>> + Send;

    /// Commits the transaction, durably.
    ///
    /// # Errors
    ///
    /// The transaction may be committed all the same if the connection was lost.
    fn commit(&self, tx: Self::Tx) -> impl Future<Output = Result<(), XaError>> + Send;

    /// Rolls the transaction back, and gives its connection back if that was answered. The default
    /// implementation drops the transaction.
    fn rollback(&self, tx: Self::Tx) -> impl Future<Output = ()> + Send {
        drop(tx);
        std::future::ready(())
    }

    /// Locks the branch's row until the transaction ends, and returns it.
    fn row(
        &self,
        tx: &mut Self::Tx,
        branch: &BranchId,
    ) -> impl Future<Output = Result<Option<BranchRow>, XaError>> + Send;

    /// Inserts the branch's row. Waits while another transaction has inserted it and is not ended.
    ///
    /// # Errors
    ///
    /// [`XaErrorKind::Transient`](crate::participant::xa::XaErrorKind::Transient) if the row is there
    /// by now.
    fn insert(
        &self,
        tx: &mut Self::Tx,
        branch: &BranchId,
        row: &BranchRow,
    ) -> impl Future<Output = Result<(), XaError>> + Send;

    /// Writes a row that was [locked](Self::row).
    fn update(
        &self,
        tx: &mut Self::Tx,
        branch: &BranchId,
        row: &BranchRow,
    ) -> impl Future<Output = Result<(), XaError>> + Send;

    /// Returns the rows of this coordinator's branches that are not ended.
    fn open_rows(&self, coordinator: &Name)
    -> impl Future<Output = Result<Vec<(BranchId, BranchRow)>, XaError>> + Send;

    /// Returns the last life of each coordinator that was noted.
    fn lives(&self) -> impl Future<Output = Result<Vec<(Name, Life)>, XaError>> + Send;

    /// Notes durably which life of a coordinator was met, in the place of `before`, which has the same
    /// log id and epoch as the note that is there; `None` if there is none. Returns whether the life is
    /// noted now. If another note is there, the statement has no effect: it may come late, and other
    /// processes note lives, too. May be repeated.
    fn note_life(
        &self,
        coordinator: &Name,
        life: &Life,
        before: Option<&Life>,
    ) -> impl Future<Output = Result<bool, XaError>> + Send;

    /// Whether an error of the client library may pass if the whole transaction is tried again: a
    /// deadlock, a serialization failure. What the service returns is asked about, too, with all of its
    /// causes. The default implementation returns `false`.
    fn is_transient(&self, error: &(dyn StdError + 'static)) -> bool {
        let _ = error;
        false
    }

    /// Deletes the rows of the coordinator's branches below this transaction that have ended.
    fn forget_below(&self, coordinator: &Name, below: TxnOrdinal) -> impl Future<Output = Result<(), XaError>> + Send;
}

/// What the database keeps of a branch, in the same transaction as the branch's work.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct BranchRow {
    /// What has become of the branch.
    pub state: RowState,
    /// The branch's work, as this crate encodes it.
    pub works: Vec<u8>,
    /// How far the coordinator's log had come at the promise; see [`Life::position`].
    pub position: u64,
    /// Why it can only be rolled back, if that is so.
    pub refusal: Option<String>,
}

impl BranchRow {
    /// A row with this state and work.
    #[must_use]
    pub const fn new(state: RowState, works: Vec<u8>, position: u64) -> Self {
        Self { state, works, position, refusal: None }
    }
}

/// What has become of a branch. Stored as the number. Exhaustive on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
#[expect(clippy::exhaustive_enums, reason = "a branch has these states and no others")]
pub enum RowState {
    /// Work was done under it; nothing is promised.
    Reserved = 1,
    /// Some of its work was refused: it can only be rolled back.
    Doomed = 2,
    /// It has promised.
    Promised = 3,
    /// It is committed: the service has confirmed it.
    Confirmed = 4,
    /// It is rolled back: the service has cancelled it, or there was no work.
    Cancelled = 5,
}

impl RowState {
    /// Returns the state with this number, if there is one.
    #[must_use]
    pub const fn from_number(number: u8) -> Option<Self> {
        Some(match number {
            1 => Self::Reserved,
            2 => Self::Doomed,
            3 => Self::Promised,
            4 => Self::Confirmed,
            5 => Self::Cancelled,
            _ => return None,
        })
    }

    /// Returns the number under which the state is stored.
    #[must_use]
    pub const fn number(self) -> u8 {
        self as u8
    }

    /// Whether the branch has ended.
    #[must_use]
    pub const fn is_final(self) -> bool {
        matches!(self, Self::Confirmed | Self::Cancelled)
    }

    /// Returns the protocol of a branch in this state; of an unknown one if there is no row.
    pub(super) fn protocol(state: Option<Self>) -> BranchProtocol {
        let mut protocol = BranchProtocol::new();
        let inputs: &[BranchInput] = match state {
            None => &[],
            Some(Self::Reserved) => &[BranchInput::Worked(Effort::Update)],
            Some(Self::Doomed) => &[BranchInput::Worked(Effort::Update), BranchInput::Refused],
            Some(Self::Promised) => return BranchProtocol::recovered_prepared(),
            Some(Self::Confirmed) => {
                protocol = BranchProtocol::recovered_committed();
                &[BranchInput::Commit(LogSharing::OwnLog), BranchInput::Confirmed]
            }
            Some(Self::Cancelled) => &[BranchInput::Rollback(LogSharing::OwnLog)],
        };
        for input in inputs {
            protocol.handle(*input);
        }
        protocol
    }

    /// Returns the state in which a branch of this phase is kept, if it is kept.
    pub(super) const fn of_phase(phase: BranchPhase) -> Option<Self> {
        match phase {
            BranchPhase::Prepared => Some(Self::Promised),
            BranchPhase::Committed => Some(Self::Confirmed),
            BranchPhase::RolledBack => Some(Self::Cancelled),
            _ => None,
        }
    }
}
