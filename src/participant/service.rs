//! What a plain service implements to take part: try, confirm, cancel.

use serde::{Serialize, de::DeserializeOwned};

use crate::id::{BranchId, Name, TxnOrdinal};

/// An error of a service, of any type.
pub type ServiceError = Box<dyn std::error::Error + Send + Sync>;

/// Whether a piece of work changes something. Exhaustive on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(clippy::exhaustive_enums, reason = "work changes something or it does not")]
pub enum Effort {
    /// The work only reads. Neither confirm nor cancel is called for a branch that only read.
    ReadOnly,
    /// The work changes something.
    Update,
}

/// A service's side of *try / confirm / cancel*: small, synchronous, and only about the service's
/// own data.
///
/// A [`ResourceManager`](super::ResourceManager) owns the service and does the rest. It keeps each
/// branch's state, logs what was promised, drops what comes twice or late, and tells the service
/// after a restart what became of it. For one branch it never calls two of these methods at once;
/// for different branches it does.
///
/// All methods may block. A client's thread waits for [`try_reserve`](Self::try_reserve), the
/// thread that calls the resource manager for the others. They may come back to the resource manager,
/// but not for the branch that they are called for: that is an error
/// ([`ExecuteError::Inside`](super::ExecuteError::Inside)), and a wait without end if another thread does it
/// and the method waits for that thread.
///
/// # What survives a crash
///
/// The resource manager's log is the service's write-ahead log.
///
/// - What `try_reserve` did may be lost in a crash. The branches that had promised are
///   [restored](Self::restore), all others are void. A service that keeps its reservations across a
///   restart gives those of void branches back in [`opened`](Self::opened), because no message will
///   ever come for them.
/// - What `confirm` did may be lost too, up to the last [`checkpoint`](Self::checkpoint) or further
///   back: it is confirmed again. So a service can keep its state in memory and write it down now
///   and then. A service that writes at once (to a database) leaves `checkpoint` as it is.
///
/// Hence the one duty: **confirm and cancel are idempotent for each branch**, also if the
/// reservation that they are about is gone.
pub trait Service: Send + Sync + 'static {
    /// A piece of work: small, with all that is needed to carry it out.
    type Work: Serialize + DeserializeOwned + Send + Sync + 'static;

    /// The reason why the service refuses a piece of work.
    type Refusal: std::error::Error + Send + Sync + 'static;

    /// Returns whether the work changes anything. Branches that only read need no second phase and
    /// no log. The default implementation returns [`Effort::Update`].
    fn effort(&self, work: &Self::Work) -> Effort {
        let _ = work;
        Effort::Update
    }

    /// *Try*: checks the work and sets aside what it needs, so that a later confirm can't lack it.
    ///
    /// # Errors
    ///
    /// A refusal leaves nothing set aside. It dooms the branch, so that the transaction can't commit,
    /// unless [`dooms`](Self::dooms) says otherwise.
    fn try_reserve(&self, branch: &BranchId, work: &Self::Work) -> Result<(), Self::Refusal>;

    /// *Confirm*: carries out all of the branch's work, in order. It may be repeated.
    ///
    /// # Errors
    ///
    /// The call is repeated until it succeeds, because the transaction is committed.
    fn confirm(&self, branch: &BranchId, works: &[Self::Work]) -> Result<(), ServiceError>;

    /// *Cancel*: gives back what was set aside. It may be repeated. The last of `works` may be one
    /// whose try panicked.
    ///
    /// # Errors
    ///
    /// The call is repeated until it succeeds.
    fn cancel(&self, branch: &BranchId, works: &[Self::Work]) -> Result<(), ServiceError>;

    /// Whether this refusal dooms the branch, so that its transaction can only be rolled back. The
    /// default implementation returns `true`. Must not block, and a panic counts as one of the try.
    ///
    /// With `false` the branch is what it was before the call: earlier pieces of work stay, and it can
    /// still promise them. A branch without any leaves no trace. Its client may do the work elsewhere
    /// and [withdraw](crate::txn::Transaction::withdraw) this participant from the transaction. If the
    /// client does not, the branch votes No, as every branch without work. Only for a refusal that
    /// certainly has changed nothing: work that came to the wrong place, for example.
    fn dooms(&self, refusal: &Self::Refusal) -> bool {
        let _ = refusal;
        true
    }

    /// Whether this refusal may not come again if the transaction is tried again as a new one: work of
    /// another branch is in the way, which ends soon. Must not block.
    /// [`Coordinator::run`](crate::Coordinator::run) asks. The default implementation returns `false`.
    fn is_transient(&self, refusal: &Self::Refusal) -> bool {
        let _ = refusal;
        false
    }

    /// Sets aside again what a promised branch needs. Called after a restart, for each branch that
    /// had promised and waits for its decision.
    ///
    /// The default implementation tries each piece of work again. A service that keeps its
    /// reservations across a restart does nothing here, and implements [`opened`](Self::opened).
    ///
    /// # Errors
    ///
    /// The promise may not be kept until that is mended. The branch is listed in
    /// [`ResourceManager::status`](super::ResourceManager::status) and does not keep the others
    /// from opening. The call is repeated with growing pauses when other calls reach the resource
    /// manager, at each checkpoint, and when the branch is to be committed.
    fn restore(&self, branch: &BranchId, works: &[Self::Work]) -> Result<(), ServiceError> {
        works.iter().try_for_each(|work| self.try_reserve(branch, work)).map_err(Into::into)
    }

    /// Takes in that the service is at the state that the log holds. Called once at each opening,
    /// after all branches were confirmed again or restored, and before any work is done.
    ///
    /// `promised` lists, in order, every branch whose reservation may still be needed: it waits for
    /// its decision, or could not be restored in full. A service that keeps its reservations across
    /// a restart gives back all others of this resource manager here. Their branches had promised
    /// nothing, are void, and vote No; nothing else would ever give back what they had set aside.
    /// The default implementation does nothing, which is right for services that keep their
    /// reservations in memory.
    ///
    /// # Errors
    ///
    /// The resource manager does not open: [`OpenError::Service`](super::OpenError::Service). A
    /// panic does the same.
    fn opened(&self, promised: &[BranchId]) -> Result<(), ServiceError> {
        let _ = promised;
        Ok(())
    }

    /// Makes durable the effects of every confirm that has returned.
    ///
    /// Confirms of transactions that have ended at all their participants are not repeated after a
    /// later crash. Others may be, up to a checkpoint after their transaction has ended. The
    /// default implementation does nothing, which is right for services whose effects are durable
    /// when confirm returns.
    ///
    /// # Errors
    ///
    /// Nothing is forgotten; the checkpoint is tried again later.
    fn checkpoint(&self) -> Result<(), ServiceError> {
        Ok(())
    }

    /// Takes in that the log will not have any branch of this coordinator's transactions before `below`
    /// confirmed again: they have ended everywhere, and a checkpoint has covered them. Called after
    /// checkpoints, outside of all locks.
    ///
    /// It is for what a service keeps to confirm each branch once. A branch that was rolled back may
    /// still be [restored](Self::restore) and cancelled once more, because a crash can lose the record of
    /// a rollback. The default implementation does nothing.
    fn forget_below(&self, coordinator: &Name, below: TxnOrdinal) {
        let _ = (coordinator, below);
    }
}
