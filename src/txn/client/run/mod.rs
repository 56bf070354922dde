//! [`Coordinator::run`]: begins a transaction, calls the work, commits, and tries all of it again if
//! what failed is transient.
//!
//! | file | contents |
//! |---|---|
//! | `mod.rs` | the calls of [`Coordinator`], and the loop of attempts |
//! | `attempt.rs` | [`Attempt`]: the transaction, lent to the work |
//! | `options.rs` | [`RunOptions`]: how often and how long it tries; pure |
//! | `transient.rs` | which failures are transient; pure |
//! | `error.rs` | [`RunError`]: why it gave up |

use std::{error::Error as StdError, future::Future, sync::Arc, time::Instant};

use crate::{
    id::TxnId,
    txn::{
        Coordinator, Transaction,
        engine::{members::Member, pause::Pause},
    },
};

mod attempt;
mod error;
mod options;
mod transient;

pub use attempt::Attempt;
use attempt::LentTransaction;
pub use error::{RunError, WorkError};
pub use options::RunOptions;
use transient::Judge;

impl Coordinator {
    /// Runs work as a transaction: begins it, awaits the work, and commits. If what failed is
    /// *transient*, it tries all of it again, with a new transaction, a limited number of times and with
    /// growing pauses. Returns what the work returned, once the transaction is committed. As with
    /// [`Commit`](crate::Commit), slow participants may not have carried it out yet.
    ///
    /// The work gets an [`Attempt`], which is the [`Transaction`] until it is dropped. The future works on
    /// any executor, because the coordinator's own clock ends the pauses. It is `Send` if the work is, so
    /// `tokio::spawn` takes it.
    ///
    /// ```
    /// use ringpact::{Coordinator, MemoryLog, txn::WorkError};
    ///
    /// # tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
    /// let coordinator = Coordinator::builder(MemoryLog::new()).last_resource("mail", Mailer).open()?;
    /// let address = String::from("a@example.org");
    /// let sent = coordinator
    ///     .run(async |mut txn| {
    ///         let branch = txn.branch("mail")?.clone();
    ///         enqueue(&branch, &address).await?;
    ///         Ok::<_, WorkError>(branch)
    ///     })
    ///     .await?;
    /// assert_eq!(sent.participant().as_str(), "mail");
    /// # Ok::<(), WorkError>(())
    /// # })?;
    /// # use ringpact::{BranchId, ParticipantError, participant::{Call, Decision, LastResource}};
    /// # async fn enqueue(_: &BranchId, _: &str) -> Result<(), std::io::Error> { Ok(()) }
    /// # struct Mailer;
    /// # impl LastResource for Mailer {
    /// #     fn commit(&self, _: &BranchId, _: &Call) -> Result<Decision, ParticipantError> { Ok(Decision::Commit) }
    /// #     fn rollback(&self, _: &BranchId, _: &Call) -> Result<(), ParticipantError> { Ok(()) }
    /// # }
    /// # Ok::<(), WorkError>(())
    /// ```
    ///
    /// # What is tried again
    ///
    /// Only a transaction that was certainly rolled back, and only if
    ///
    /// - a participant or a service calls the error transient
    ///   ([`Participant::is_transient`](crate::Participant::is_transient)): the error of the work, the
    ///   reason of a No, or any of their sources;
    /// - a participant did not answer, was busy, or takes no new branches for now
    ///   ([`BranchError::Refused`](crate::txn::BranchError::Refused));
    /// - votes were missing at the time-out, or the transaction's own time ran out;
    /// - the work itself began a transaction without waiting, and a limit was reached
    ///   ([`BeginError`](crate::txn::BeginError)).
    ///
    /// A transaction with an outcome that is not known, or that differs between branches, is **never**
    /// tried again, because it may have taken effect. Neither is one whose work failed otherwise, whose
    /// decision the log refused, or whose coordinator is being shut down.
    ///
    /// The work may run several times. What it does outside the transaction's branches, it does each time.
    ///
    /// # Cancellation
    ///
    /// If the future is dropped while the work is under way, the transaction is rolled back. If it is
    /// dropped later, the commit goes on to its end. A panic of the work passes through: the transaction
    /// is rolled back and not tried again.
    ///
    /// # Errors
    ///
    /// [`RunError`] says why it gave up, and whether the transaction may have taken effect.
    pub async fn run<T, E, F>(&self, work: impl FnMut(Attempt) -> F) -> Result<T, RunError>
    where
        E: Into<WorkError>,
        F: Future<Output = Result<T, E>>,
    {
        self.run_with(RunOptions::DEFAULT, work).await
    }

    /// As [`run`](Self::run), with other limits and pauses.
    ///
    /// # Errors
    ///
    /// As for [`run`](Self::run).
    pub async fn run_with<T, E, F>(
        &self,
        options: RunOptions,
        mut work: impl FnMut(Attempt) -> F,
    ) -> Result<T, RunError>
    where
        E: Into<WorkError>,
        F: Future<Output = Result<T, E>>,
    {
        let mut tries = Tries::new(self, options);
        loop {
            let txn = self.begin_async().await;
            let id = tries.begins(&txn)?;
            let (attempt, lent) = LentTransaction::lend(txn);
            let failed = match work(attempt).await {
                Ok(value) => {
                    let txn = lent.take().ok_or_else(|| RunError::Kept { txn: id.clone() })?;
                    match txn.commit().await {
                        Ok(()) => return Ok(value),
                        Err(error) => RunError::of_commit(error),
                    }
                }
                Err(error) => RunError::of_work(error, lent),
            };
            let pause = tries.after(&id, failed)?;
            Pause::new(&self.core, pause).await;
        }
    }

    /// As [`run`](Self::run), for code that is not asynchronous: blocks until the transaction has
    /// committed or is given up. The work gets the transaction by reference.
    ///
    /// ```
    /// use ringpact::{Coordinator, MemoryLog, txn::BranchError};
    /// # use ringpact::{BranchId, ParticipantError, participant::{Call, Decision, LastResource}};
    /// # struct Mailer;
    /// # impl LastResource for Mailer {
    /// #     fn commit(&self, _: &BranchId, _: &Call) -> Result<Decision, ParticipantError> { Ok(Decision::Commit) }
    /// #     fn rollback(&self, _: &BranchId, _: &Call) -> Result<(), ParticipantError> { Ok(()) }
    /// # }
    ///
    /// let coordinator = Coordinator::builder(MemoryLog::new()).last_resource("mail", Mailer).open()?;
    /// let sent = coordinator.run_blocking(|txn| {
    ///     let branch = txn.branch("mail")?.clone();
    ///     // .. work under the branch
    ///     Ok::<_, BranchError>(branch)
    /// })?;
    /// assert_eq!(sent.participant().as_str(), "mail");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As for [`run`](Self::run).
    pub fn run_blocking<T, E>(&self, work: impl FnMut(&mut Transaction) -> Result<T, E>) -> Result<T, RunError>
    where
        E: Into<WorkError>,
    {
        self.run_blocking_with(RunOptions::DEFAULT, work)
    }

    /// As [`run_blocking`](Self::run_blocking), with other limits and pauses.
    ///
    /// # Errors
    ///
    /// As for [`run`](Self::run).
    pub fn run_blocking_with<T, E>(
        &self,
        options: RunOptions,
        mut work: impl FnMut(&mut Transaction) -> Result<T, E>,
    ) -> Result<T, RunError>
    where
        E: Into<WorkError>,
    {
        let mut tries = Tries::new(self, options);
        loop {
            let mut txn = self.begin();
            let id = tries.begins(&txn)?;
            let failed = match work(&mut txn) {
                Ok(value) => match txn.commit().wait() {
                    Ok(()) => return Ok(value),
                    Err(error) => RunError::of_commit(error),
                },
                Err(error) => RunError::of_work(error, txn),
            };
            let pause = tries.after(&id, failed)?;
            self.core.pause(pause);
        }
    }
}

/// The attempts so far.
struct Tries<'a> {
    coordinator: &'a Coordinator,
    options: RunOptions,
    since: Instant,
    /// Number of attempts that have begun.
    begun: u32,
    /// The failure of the last attempt.
    last: Option<RunError>,
}

impl<'a> Tries<'a> {
    fn new(coordinator: &'a Coordinator, options: RunOptions) -> Self {
        Self { coordinator, options, since: coordinator.core.platform.now(), begun: 0, last: None }
    }

    /// Counts an attempt, and returns its transaction's id. Gives up if the wait for a slot has taken what was left of the
    /// time, or if the coordinator was shut down meanwhile.
    fn begins(&mut self, txn: &Transaction) -> Result<TxnId, RunError> {
        let core = &self.coordinator.core;
        let elapsed = core.platform.now().saturating_duration_since(self.since);
        if let Some(last) = self.last.take().filter(|_| elapsed > self.options.time || core.admission.is_closed()) {
            return Err(RunError::GaveUp { attempts: self.begun, elapsed, last: Box::new(last) });
        }
        self.begun = self.begun.saturating_add(1);
        Ok(txn.id().clone())
    }

    /// Takes in how the last attempt failed. Returns the pause before the next one, or the error to return.
    fn after(&mut self, txn: &TxnId, failed: RunError) -> Result<std::time::Duration, RunError> {
        let core = &self.coordinator.core;
        let asks = |member: Option<&Arc<Member>>, error: &(dyn StdError + 'static)| {
            member.is_some_and(|member| member.is_transient(error))
        };
        let judge = Judge::new(|error| core.members.present().any(|slot| asks(slot.member().as_ref(), error)));
        if core.admission.is_closed() || !judge.is_transient(&failed) {
            return Err(failed);
        }
        let elapsed = core.platform.now().saturating_duration_since(self.since);
        match self.options.pause_after(txn, self.begun, elapsed) {
            Some(pause) => {
                self.last = Some(failed);
                Ok(pause)
            }
            None => Err(RunError::GaveUp { attempts: self.begun, elapsed, last: Box::new(failed) }),
        }
    }
}
