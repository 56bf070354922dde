//! A commit as a future.

use std::{
    fmt,
    future::Future,
    mem,
    pin::Pin,
    task::{Context, Poll},
};

use super::{LogError, Lsn, Record, TransactionLog};

/// The future that [`TransactionLog::commit_async`] returns. It resolves to the record's number
/// once the record is durable.
///
/// The record is appended at the first poll. A future that is dropped before that has done nothing.
/// If it is dropped later, the record stays in the log, and becomes durable with the batch that it
/// is in.
#[must_use = "nothing is appended before it is polled"]
pub struct Committing<'a, L: ?Sized> {
    log: &'a L,
    state: CommitStage,
}

enum CommitStage {
    New(Record),
    Appended(Lsn),
    Done,
}

impl<'a, L: ?Sized> Committing<'a, L> {
    pub(super) const fn new(log: &'a L, record: Record) -> Self {
        Self { log, state: CommitStage::New(record) }
    }
}

/// No part of it is ever pinned.
impl<L: ?Sized> Unpin for Committing<'_, L> {}

impl<L: TransactionLog + ?Sized> Future for Committing<'_, L> {
    type Output = Result<Lsn, LogError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        // An early return, by an error or a panic, leaves the stage at `Done`.
        let lsn = match mem::replace(&mut self.state, CommitStage::Done) {
            CommitStage::New(record) => {
                let lsn = self.log.append_awaited(record, context)?;
                if lsn > self.log.durable() {
                    self.state = CommitStage::Appended(lsn);
                    return Poll::Pending; // `append_awaited` has registered the waker
                }
                lsn
            }
            CommitStage::Appended(lsn) => {
                if self.log.poll_durable(lsn, context)?.is_pending() {
                    self.state = CommitStage::Appended(lsn);
                    return Poll::Pending;
                }
                lsn
            }
            CommitStage::Done => panic!("a commit was polled after it had given its result"),
        };
        Poll::Ready(Ok(lsn))
    }
}

impl<L: ?Sized> fmt::Debug for Committing<'_, L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match &self.state {
            CommitStage::New(_) => "new",
            CommitStage::Appended(_) => "appended",
            CommitStage::Done => "done",
        };
        f.debug_tuple("Committing").field(&state).finish()
    }
}
