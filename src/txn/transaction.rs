//! [`Transaction`]: what a client works under until it commits.

use std::{
    collections::{BTreeMap, VecDeque},
    fmt, mem,
    sync::Arc,
    time::Duration,
};

use thiserror::Error;

use super::{
    Commit, Input, Refusal,
    driver::{By, Driven},
    task::{Contact, Task},
};
use crate::id::{BranchId, IdError, Name, TxnId};

/// Among so many branches one is looked for one by one.
const FEW: usize = 8;

/// A transaction that has begun. Do work at the participants under its [branches](Self::branch), then
/// [`commit`](Self::commit). Dropping it rolls it back.
#[must_use = "dropping a transaction rolls it back"]
pub struct Transaction {
    task: Arc<Task>,
    /// In the order in which they will be asked.
    contacts: VecDeque<Contact>,
    places: Places,
    handed_over: bool,
}

/// Where the branch of each participant is in the order, once there are more than a [`FEW`].
struct Places {
    /// How many have come before all that were there.
    before: usize,
    /// By the participant's number, counted from the one that came first.
    of: BTreeMap<usize, isize>,
}

impl Transaction {
    pub(super) const fn new(task: Arc<Task>) -> Self {
        Self { task, contacts: VecDeque::new(), places: Places { before: 0, of: BTreeMap::new() }, handed_over: false }
    }

    /// Its id.
    #[must_use]
    pub fn id(&self) -> &TxnId {
        self.task.txn()
    }

    /// The branch id under which to work at `participant`; from the first call on, the participant takes part in
    /// the transaction. Give the id to the participant along with the work, in a header if it is elsewhere. O(log n) in the
    /// coordinator's participants.
    ///
    /// # Errors
    /// [`BranchError::UnknownParticipant`] where the coordinator was built without it; [`BranchError::Over`] where the
    /// transaction's time has run out; [`BranchError::SecondLastResource`]; [`BranchError::Refused`] where the participant
    /// does not answer, or has more to do already than it gets done in time.
    pub fn branch(&mut self, participant: impl AsRef<str>) -> Result<&BranchId, BranchError> {
        let participant = participant.as_ref();
        let index = match self.find(participant) {
            Some(index) => index,
            None => self.enlist(participant)?,
        };
        Ok(&self.contacts[index].branch)
    }

    fn find(&self, participant: &str) -> Option<usize> {
        if self.places.of.is_empty() {
            return self.contacts.iter().position(|contact| contact.branch.participant().as_str() == participant);
        }
        let number = self.task.shared().members.find(participant)?;
        self.places.of.get(&number)?.checked_add_unsigned(self.places.before)?.try_into().ok()
    }

    fn enlist(&mut self, participant: &str) -> Result<usize, BranchError> {
        let members = &self.task.shared().members;
        let Some(number) = members.find(participant) else {
            return Err(BranchError::UnknownParticipant { participant: Name::new(participant)? });
        };
        self.task.shared().admits(number)?;
        let index = self.task.enlist(number)?;
        let branch = self.id().branch(&members[number].0);
        self.put(index, Contact { branch, member: Some(number) });
        Ok(index)
    }

    /// A branch comes, before all that are there or after them.
    fn put(&mut self, index: usize, contact: Contact) {
        let Places { before, of } = &mut self.places;
        if index < self.contacts.len() {
            *before += 1;
            self.contacts.push_front(contact);
        } else {
            self.contacts.push_back(contact);
        }
        if of.is_empty() && self.contacts.len() <= FEW {
            return;
        }
        let unplaced = if of.is_empty() { 0..self.contacts.len() } else { index..index + 1 };
        let place = |index: usize| Some((self.contacts[index].member?, index.cast_signed() - before.cast_signed()));
        of.extend(unplaced.filter_map(place));
    }

    /// Commits. The participants of this process are asked for their votes, and the decision is handed to the log,
    /// before this returns; the [`Commit`] tells the outcome.
    pub fn commit(mut self) -> Commit {
        self.handed_over = true;
        self.task.take_over();
        let progress = self.task.commit(mem::take(&mut self.contacts).into());
        Commit::new(Arc::clone(&self.task), progress)
    }

    /// Rolls back: nothing of it happens. The participants of this process have undone their work when this returns.
    pub fn rollback(self) {
        drop(self);
    }
}

impl Drop for Transaction {
    fn drop(&mut self) {
        if !self.handed_over {
            // In this order: what is a client's is looked after by nobody else.
            self.task.take_over();
            self.task.push(Input::Rollback);
            (Arc::clone(&self.task) as Arc<dyn Driven>).run(By::Caller);
        }
    }
}

impl fmt::Debug for Transaction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let branches: Vec<_> = self.contacts.iter().map(|contact| &contact.branch).collect();
        f.debug_struct("Transaction").field("txn", self.id()).field("branches", &branches).finish_non_exhaustive()
    }
}

/// Why there is no such branch.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum BranchError {
    /// The coordinator does not know the participant.
    #[error("the coordinator knows no participant {participant}; name it to the builder before opening")]
    UnknownParticipant {
        /// Who was asked for.
        participant: Name,
    },
    /// The transaction takes no more branches.
    #[error("transaction {txn} is over: its time has run out, or its coordinator is shutting down; begin a new one")]
    Over {
        /// The transaction.
        txn: TxnId,
    },
    /// The transaction has a last resource already.
    #[error(
        "{participant} can't promise, and the transaction has one such participant already; two can't be made sure of"
    )]
    SecondLastResource {
        /// Who was asked for.
        participant: Name,
    },
    /// The participant is given no new branches for now: with this one it would only be more that it has not done. The
    /// transaction can go on without it, or be tried again as a new one. See
    /// [`CoordinatorStatus::circuits`](super::CoordinatorStatus::circuits).
    #[error(
        "{participant} takes no new branches: {why}, {outstanding} outstanding, for {since:.1?}; try again later, and see the coordinator's status"
    )]
    Refused {
        /// Who was asked for.
        participant: Name,
        /// Why.
        why: Refusal,
        /// Votes and acknowledgements that it has not given.
        outstanding: usize,
        /// For how long that has been so.
        since: Duration,
    },
    /// The name is not one.
    #[error(transparent)]
    Name(#[from] IdError),
}
