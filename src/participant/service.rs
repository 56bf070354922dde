//! What a plain service implements to take part: try, confirm, cancel.

use serde::{Serialize, de::DeserializeOwned};

use crate::id::BranchId;

/// Whatever goes wrong inside a service.
pub type ServiceError = Box<dyn std::error::Error + Send + Sync>;

/// Whether a piece of work changes something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Effort {
    /// It only looks. Neither confirm nor cancel will be called for a branch that only looked.
    ReadOnly,
    /// It changes something.
    Update,
}

/// A service's side of *try / confirm / cancel*: small, synchronous, and about the service's own things only.
///
/// A [`ResourceManager`](super::ResourceManager) wraps it and sees to the rest: it keeps each branch's state, logs
/// what was promised, drops what comes twice or late, and after a restart tells the service what became of it. It
/// never calls two of these methods at once *for the same branch*; for different branches it does.
///
/// # What survives a crash
///
/// The resource manager's log is the service's write-ahead log. What `try_reserve` did may be lost in a crash: the
/// branches that had promised are [restored](Self::restore), all others are void. A service whose reservations survive
/// gives those back in [`opened`](Self::opened), for no message will ever come for them. What `confirm` did may be lost too, up to the last
/// [`checkpoint`](Self::checkpoint) or further back: it is confirmed again. So a service can keep its state in memory and write it
/// down now and then; one that writes at once (to a database) leaves `checkpoint` as it is.
///
/// Hence the one duty: **confirm and cancel are idempotent for each branch**, also when the reservation that they
/// speak of is gone.
pub trait Service: Send + Sync + 'static {
    /// A piece of work: small, and enough to carry it out with.
    type Work: Serialize + DeserializeOwned + Send + Sync + 'static;

    /// Why the service refuses a piece of work.
    type Refusal: std::error::Error + Send + Sync + 'static;

    /// Whether the work changes anything. Branches that only look need no second phase and no log.
    fn effort(&self, work: &Self::Work) -> Effort {
        let _ = work;
        Effort::Update
    }

    /// *Try*: checks the work and sets aside what it needs, so that a confirm can't fail for want of it.
    ///
    /// # Errors
    /// A refusal leaves nothing set aside, and dooms the branch: the transaction can't commit.
    fn try_reserve(&self, branch: &BranchId, work: &Self::Work) -> Result<(), Self::Refusal>;

    /// *Confirm*: makes all of the branch's work happen, in order. May be repeated.
    ///
    /// # Errors
    /// The call is repeated until it succeeds: the transaction is committed.
    fn confirm(&self, branch: &BranchId, works: &[Self::Work]) -> Result<(), ServiceError>;

    /// *Cancel*: gives back what was set aside. May be repeated. The last of `works` may be one whose try panicked.
    ///
    /// # Errors
    /// The call is repeated until it succeeds.
    fn cancel(&self, branch: &BranchId, works: &[Self::Work]) -> Result<(), ServiceError>;

    /// After a restart, for each branch that had promised and awaits its decision: sets aside again what it needs.
    /// The default implementation tries each piece of work again. A service whose reservations survive does nothing here, and
    /// implements [`opened`](Self::opened).
    ///
    /// # Errors
    /// The promise may not be kept until that is mended: the branch is in
    /// [`ResourceManager::status`](super::ResourceManager::status), keeps no other from opening, and this is called again at
    /// each checkpoint and when the branch is to be committed.
    fn restore(&self, branch: &BranchId, works: &[Self::Work]) -> Result<(), ServiceError> {
        works.iter().try_for_each(|work| self.try_reserve(branch, work)).map_err(Into::into)
    }

    /// The service was brought to where the log says it is: called once at each opening, after all branches were confirmed
    /// again or restored, and before any work is done. `promised` has every branch whose reservation may still be needed, in
    /// order: it awaits its decision, or could not be taken back in full. A service whose reservations survive a restart gives
    /// back all others of this resource manager here. Their branches had promised nothing, are void, and vote No; nothing else
    /// would ever give back what they had set aside. The default implementation does nothing, which is right for services that
    /// keep their reservations in memory.
    ///
    /// # Errors
    /// The resource manager does not open: [`OpenError::Service`](super::OpenError::Service). So it does if this panics.
    fn opened(&self, promised: &[BranchId]) -> Result<(), ServiceError> {
        let _ = promised;
        Ok(())
    }

    /// Makes durable the effects of every confirm that has returned. Those whose transaction has ended at all its
    /// participants won't be repeated after a later crash; others may be, up to a checkpoint after it has ended. As
    /// provided it does nothing, which is right for services whose effects are durable when confirm returns.
    ///
    /// # Errors
    /// Nothing is forgotten; it is tried again later.
    fn checkpoint(&self) -> Result<(), ServiceError> {
        Ok(())
    }
}
