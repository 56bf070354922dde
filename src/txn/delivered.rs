//! [`Delivered`]: when a decision has reached every branch, to be waited for or awaited.

use std::{
    fmt,
    future::Future,
    mem,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use thiserror::Error;

use super::{CommitError, commit::tell, task::Task};
use crate::{
    id::{Name, TxnId},
    participant::Decision,
};

/// Waits until every branch of a transaction has acknowledged what was decided; see [`Commit::delivered`](super::Commit::delivered).
///
/// Block on it with [`wait`](Self::wait), or `.await` it on any executor. It is *cancel-safe*: dropping it loses the answer,
/// never the delivery.
#[must_use = "dropping it loses the answer; wait for it or await it"]
pub struct Delivered {
    task: Arc<Task>,
    /// Its number among those who wait for this delivery, once it waits.
    listener: Option<u64>,
}

impl Delivered {
    pub(super) const fn of(task: Arc<Task>) -> Self {
        Self { task, listener: None }
    }

    /// The transaction.
    #[must_use]
    pub fn txn(&self) -> &TxnId {
        self.task.txn()
    }

    /// Blocks until every branch has acknowledged the decision, or the coordinator goes on without it. Not on a thread of the
    /// runtime that an asynchronous participant lives on: that thread would keep it from acknowledging, until the decision is parked.
    /// Tasks `.await` it.
    ///
    /// # Errors
    /// [`DeliveryError`]: it was decided otherwise, waits for an operator, or its coordinator is gone.
    pub fn wait(mut self) -> Result<(), DeliveryError> {
        let parker = Arc::new(self.task.shared().platform.parker());
        let waker = Waker::from(Arc::clone(&parker));
        loop {
            match self.look(&waker) {
                Poll::Ready(result) => return result,
                Poll::Pending => parker.park(),
            }
        }
    }

    fn look(&mut self, waker: &Waker) -> Poll<Result<(), DeliveryError>> {
        match self.task.delivery(&mut self.listener, waker) {
            Poll::Ready(delivery) => Poll::Ready(self.tell(delivery)),
            Poll::Pending => Poll::Pending,
        }
    }

    fn tell(&self, delivery: Delivery) -> Result<(), DeliveryError> {
        let txn = self.txn().clone();
        match delivery {
            Delivery::Told(explained) => tell(&self.task, *explained).map_err(DeliveryError::NotCommitted),
            Delivery::Parked(decision, participants) => Err(DeliveryError::Parked { txn, decision, participants }),
            Delivery::Abandoned => Err(DeliveryError::Abandoned { txn }),
        }
    }
}

impl Future for Delivered {
    type Output = Result<(), DeliveryError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        self.look(context.waker())
    }
}

impl Drop for Delivered {
    fn drop(&mut self) {
        if let Some(listener) = self.listener {
            self.task.forget_listener(listener);
        }
    }
}

impl fmt::Debug for Delivered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Delivered").field("txn", self.txn()).finish_non_exhaustive()
    }
}

/// How far a decision has come that nobody delivers any further by itself.
#[derive(Debug)]
pub(super) enum Delivery {
    /// This is all that there is to be said.
    Told(Box<super::task::ExplainedOutcome>),
    /// These have not acknowledged it, and it waits for an operator.
    Parked(Decision, Vec<Name>),
    /// The coordinator is gone.
    Abandoned,
}

/// Those who wait for a delivery. Nearly all transactions have none.
#[derive(Default)]
pub(super) struct Listeners {
    last: u64,
    waiting: Vec<(u64, Waker)>,
}

impl Listeners {
    /// Notes whom to wake, and gives the waker that it replaces, to be dropped without a lock.
    pub(super) fn put(&mut self, listener: &mut Option<u64>, waker: Waker) -> Option<Waker> {
        let number = *listener.get_or_insert_with(|| {
            self.last += 1;
            self.last
        });
        match self.waiting.iter_mut().find(|(other, _)| *other == number) {
            Some((_, old)) => Some(mem::replace(old, waker)),
            None => {
                self.waiting.push((number, waker));
                None
            }
        }
    }

    pub(super) fn take(&mut self, listener: u64) -> Option<Waker> {
        let place = self.waiting.iter().position(|(other, _)| *other == listener)?;
        Some(self.waiting.swap_remove(place).1)
    }

    pub(super) fn take_all(&mut self) -> Vec<(u64, Waker)> {
        mem::take(&mut self.waiting)
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }
}

/// Why not every branch has carried out a commit.
#[derive(Clone, Debug, Error)]
#[non_exhaustive]
pub enum DeliveryError {
    /// The transaction has not committed, or not surely. If it was rolled back, every branch has acknowledged that.
    #[error(transparent)]
    NotCommitted(CommitError),
    /// It was decided, and these participants were told often enough without acknowledging it. The decision stands.
    #[error(
        "transaction {txn} is decided ({decision:?}), but {} told in vain and parked: {}; see the coordinator's status, mend \
         that, and `retry`", if .participants.len() == 1 { "one participant was" } else { "some participants were" },
        .participants.iter().map(Name::as_str).collect::<Vec<_>>().join(", ")
    )]
    Parked {
        /// The transaction.
        txn: TxnId,
        /// What was decided.
        decision: Decision,
        /// The participants that have not acknowledged it.
        participants: Vec<Name>,
    },
    /// The coordinator was dropped before every branch had acknowledged the decision.
    #[error(
        "the coordinator was dropped before every branch of transaction {txn} had acknowledged; open it again: it goes on \
         delivering"
    )]
    Abandoned {
        /// The transaction.
        txn: TxnId,
    },
}

impl DeliveryError {
    /// The transaction.
    #[must_use]
    pub const fn txn(&self) -> &TxnId {
        match self {
            Self::NotCommitted(error) => error.txn(),
            Self::Parked { txn, .. } | Self::Abandoned { txn } => txn,
        }
    }
}
