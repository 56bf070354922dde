//! [`Delivered`]: waits until every branch has acknowledged a decision.

use std::{
    fmt,
    future::Future,
    mem,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use thiserror::Error;

use crate::{
    id::{Name, TxnId},
    log::holder_in_words,
    participant::Decision,
    txn::{CommitError, client::commit::tell, engine::transaction_driver::TransactionDriver},
};

/// Waits until every branch of a transaction has acknowledged what was decided; see
/// [`Commit::delivered`](crate::txn::Commit::delivered).
///
/// Block on it with [`wait`](Self::wait), or `.await` it on any executor. One thread or task waits
/// for it; call `delivered` again for another. It is *cancel-safe*: dropping it loses the answer,
/// never the delivery.
#[must_use = "dropping it loses the answer; wait for it or await it"]
pub struct Delivered {
    driver: Arc<TransactionDriver>,
    /// Its number among the listeners of this delivery, once it waits.
    listener: Option<u64>,
}

impl Delivered {
    pub(in crate::txn) const fn of(driver: Arc<TransactionDriver>) -> Self {
        Self { driver, listener: None }
    }

    /// Returns the transaction's id.
    #[must_use]
    pub fn txn(&self) -> &TxnId {
        self.driver.txn()
    }

    /// Blocks until every branch has acknowledged the decision, or no longer can. From async code
    /// `.await` the value instead: on a thread of the runtime of an asynchronous participant this
    /// call would keep that participant from acknowledging, until the decision is parked.
    ///
    /// # Errors
    ///
    /// [`DeliveryError`]: it was decided otherwise, is parked, or its coordinator was dropped.
    pub fn wait(mut self) -> Result<(), DeliveryError> {
        let parker = Arc::new(self.driver.core().platform.parker());
        let waker = Waker::from(Arc::clone(&parker));
        loop {
            match self.look(&waker) {
                Poll::Ready(result) => return result,
                Poll::Pending => parker.park(),
            }
        }
    }

    fn look(&mut self, waker: &Waker) -> Poll<Result<(), DeliveryError>> {
        match self.driver.delivery(&mut self.listener, waker) {
            Poll::Ready(delivery) => Poll::Ready(self.tell(delivery)),
            Poll::Pending => Poll::Pending,
        }
    }

    fn tell(&self, delivery: Delivery) -> Result<(), DeliveryError> {
        let txn = self.txn().clone();
        match delivery {
            Delivery::Told(explained) => tell(&self.driver, *explained).map_err(DeliveryError::NotCommitted),
            Delivery::Parked(decision, participants) => Err(DeliveryError::Parked { txn, decision, participants }),
            Delivery::Abandoned => Err(DeliveryError::Abandoned { txn }),
            Delivery::Fenced => {
                let takeover = self.driver.core().takeover().cloned();
                Err(DeliveryError::Fenced { txn, holder: takeover.and_then(|takeover| takeover.holder) })
            }
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
            self.driver.forget_listener(listener);
        }
    }
}

impl fmt::Debug for Delivered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Delivered").field("txn", self.txn()).finish_non_exhaustive()
    }
}

/// How the delivery of a decision has ended, or stopped.
#[derive(Debug)]
pub(in crate::txn) enum Delivery {
    /// Every branch has acknowledged, or the outcome is uncertain or heuristic: this is the final
    /// answer.
    Told(Box<crate::txn::engine::transaction_driver::ExplainedOutcome>),
    /// It is parked; these participants have not acknowledged it.
    Parked(Decision, Vec<Name>),
    /// The coordinator was dropped.
    Abandoned,
    /// Another holder has taken the log over.
    Fenced,
}

/// The tasks and threads that wait for a delivery. Nearly all transactions have none.
#[derive(Default)]
pub(in crate::txn) struct Listeners {
    last: u64,
    waiting: Vec<(u64, Waker)>,
}

impl Listeners {
    /// Registers a waker, and returns the one that it replaces. The caller drops that without a
    /// lock.
    pub(in crate::txn) fn put(&mut self, listener: &mut Option<u64>, waker: Waker) -> Option<Waker> {
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

    pub(in crate::txn) fn take(&mut self, listener: u64) -> Option<Waker> {
        let place = self.waiting.iter().position(|(other, _)| *other == listener)?;
        Some(self.waiting.swap_remove(place).1)
    }

    pub(in crate::txn) fn take_all(&mut self) -> Vec<(u64, Waker)> {
        mem::take(&mut self.waiting)
    }

    pub(in crate::txn) const fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }
}

/// Reason why not every branch has carried out a commit.
#[derive(Clone, Debug, Error)]
#[non_exhaustive]
pub enum DeliveryError {
    /// The transaction has not committed, or that is uncertain. If it was rolled back, every branch
    /// has acknowledged that; but if another holder has taken the log over, that one sees to it.
    #[error(transparent)]
    NotCommitted(CommitError),
    /// It was decided, and is parked because these participants did not acknowledge the decision.
    /// The decision stands.
    #[error(
        "transaction {txn} is decided ({decision:?}) and parked, because {} not acknowledged it: {}; see the coordinator's status, \
         repair the cause, and `retry`", if .participants.len() == 1 { "a participant has" } else { "some participants have" },
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
        "the coordinator was dropped before every branch of transaction {txn} had acknowledged; open it again, and it goes on \
         delivering"
    )]
    Abandoned {
        /// The transaction.
        txn: TxnId,
    },
    /// Another holder has taken the coordinator's log over before every branch had acknowledged the
    /// outcome.
    #[error(
        "the coordinator's log was taken over by {} before every branch of transaction {txn} had acknowledged; the coordinator \
         there goes on delivering",
        holder_in_words(.holder.as_deref())
    )]
    Fenced {
        /// The transaction.
        txn: TxnId,
        /// The new holder, as it names itself, if that is known.
        holder: Option<Arc<str>>,
    },
}

impl DeliveryError {
    /// Returns the transaction's id.
    #[must_use]
    pub const fn txn(&self) -> &TxnId {
        match self {
            Self::NotCommitted(error) => error.txn(),
            Self::Parked { txn, .. } | Self::Abandoned { txn } | Self::Fenced { txn, .. } => txn,
        }
    }
}
