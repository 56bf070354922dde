//! How a cluster reaches a shard: [`ShardLink`], and [`Connection`].

use std::{error::Error as StdError, fmt, num::NonZeroUsize, sync::Arc, time::Duration};

use serde::Serialize;

use crate::{
    id::{BranchId, Name},
    participant::{Endpoint, Greeting, Participant, Reply, Request},
    sharding::{
        GateRefusal, RemoteShard, RemoteWorkError, RouteError, Shard, ShardError, ShardHost, ShardMoves, Tenure,
        reads::{NoReads, work},
    },
};

/// What clients and a mover ask of a shard whose work is of type `W`.
pub trait ShardLink<W>: ShardMoves {
    /// See [`ShardHost::execute`].
    ///
    /// # Errors
    ///
    /// As there.
    fn execute(&self, branch: &BranchId, known: Tenure, work: W, patience: Duration) -> Result<(), ShardError>;

    /// As [`execute`](Self::execute), for async code: must not block for long, and passes the result to
    /// `then`, from any thread. The default implementation calls `execute` without patience, which is
    /// right for a shard of this process that is quick.
    fn send(&self, branch: &BranchId, known: Tenure, work: W, patience: Duration, then: Executed) {
        let _ = patience;
        then(self.execute(branch, known, work, Duration::ZERO));
    }

    /// See [`ShardHost::answer`]. The question and the answer are encoded: a link passes them on as they are,
    /// to a [`ShardHost`] as a [`ShardLink`] or over a [`RemoteShard`].
    ///
    /// The default implementation refuses each question: a link of your own that has none need not
    /// pass them on.
    ///
    /// # Errors
    ///
    /// As there; [`ShardError::Work`] if the shard or the link answers no questions.
    fn read(&self, query: &[u8], known: Tenure, patience: Duration) -> Result<Vec<u8>, ShardError> {
        let _ = (query, known, patience);
        Err(work(NoReads))
    }

    /// As [`read`](Self::read), for async code, as [`send`](Self::send) does it. The default
    /// implementation calls `read` without patience.
    fn send_read(&self, query: &[u8], known: Tenure, patience: Duration, then: Answered) {
        let _ = patience;
        then(self.read(query, known, Duration::ZERO));
    }
}

/// Takes the answer to a question; see [`ShardLink::send_read`].
pub type Answered = Box<dyn FnOnce(Result<Vec<u8>, ShardError>) + Send>;

/// Takes the result of a client's work; see [`ShardLink::send`].
pub type Executed = Box<dyn FnOnce(Result<(), ShardError>) + Send>;

impl<S: Shard> ShardLink<S::Work> for ShardHost<S> {
    fn execute(&self, branch: &BranchId, known: Tenure, work: S::Work, patience: Duration) -> Result<(), ShardError> {
        self.execute(branch, known, work, patience)
    }
    fn read(&self, query: &[u8], known: Tenure, patience: Duration) -> Result<Vec<u8>, ShardError> {
        self.answer_encoded(query, known, patience)
    }
}

/// How a cluster reaches the shard of a service on one node: for clients' work and moves, and for its
/// coordinator.
pub struct Connection<W> {
    pub(super) link: Arc<dyn ShardLink<W>>,
    pub(super) reach: Reach,
}

/// How the coordinator reaches the shard.
#[derive(Clone)]
pub(super) enum Reach {
    AtOnce(Arc<dyn Participant>),
    /// The coordinator starts its threads, on its own platform.
    Slow(Arc<dyn Participant>, NonZeroUsize),
    Endpoint(Arc<dyn Endpoint>),
}

impl<W: 'static> Connection<W> {
    /// A shard of this process that answers quickly and never blocks for long. See
    /// [`CoordinatorBuilder::participant`](crate::txn::CoordinatorBuilder::participant).
    pub fn local<S: Shard<Work = W>>(host: Arc<ShardHost<S>>) -> Self {
        Self { link: Arc::clone(&host) as Arc<dyn ShardLink<W>>, reach: Reach::AtOnce(host) }
    }

    /// A shard of this process that is slow, which gets threads of its own. See
    /// [`CoordinatorBuilder::slow_participant`](crate::txn::CoordinatorBuilder::slow_participant).
    pub fn slow<S: Shard<Work = W>>(host: Arc<ShardHost<S>>, threads: NonZeroUsize) -> Self {
        Self { link: Arc::clone(&host) as Arc<dyn ShardLink<W>>, reach: Reach::Slow(host, threads) }
    }

    /// A shard in another process: work, moves and the coordinator's messages go through the endpoint,
    /// which reaches the shard's [`ShardHost`] as a participant. See [`RemoteShard`].
    pub fn remote(endpoint: Arc<dyn Endpoint>) -> Self
    where
        W: Serialize,
    {
        Self {
            link: Arc::new(RemoteShard::new(Arc::clone(&endpoint))),
            reach: Reach::Endpoint(Arc::new(ShardEndpoint(endpoint))),
        }
    }

    /// A shard that is reached in a way of your own: work and moves through `link`, the coordinator's
    /// messages through `endpoint`.
    pub fn with_link(link: Arc<dyn ShardLink<W>>, endpoint: impl Endpoint) -> Self {
        Self { link, reach: Reach::Endpoint(Arc::new(ShardEndpoint(endpoint))) }
    }
}

impl<W> fmt::Debug for Connection<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").finish_non_exhaustive()
    }
}

/// Whether an error of a cluster's own may not come again if the client tries again with a new transaction. An
/// error of work comes before any promise, so the old transaction has certainly no effect.
pub(super) fn may_pass(error: &(dyn StdError + 'static)) -> bool {
    error.is::<GateRefusal>()
        || matches!(error.downcast_ref(), Some(ShardError::Unreachable))
        || matches!(error.downcast_ref(), Some(RouteError::NoShard { .. }))
}

/// A shard's endpoint, which knows the errors of a cluster and of a remote shard: whether a new transaction
/// may have more luck.
struct ShardEndpoint<E>(E);

impl<E: Endpoint> Endpoint for ShardEndpoint<E> {
    fn send(&self, request: Request, reply: Reply) {
        self.0.send(request, reply);
    }
    fn own_name(&self) -> Option<Name> {
        self.0.own_name()
    }
    fn can_promise(&self) -> bool {
        self.0.can_promise()
    }
    fn sends_at_once(&self) -> bool {
        self.0.sends_at_once()
    }
    fn greet(&self, greeting: &Greeting) {
        self.0.greet(greeting);
    }
    fn stalled(&self) -> Option<Duration> {
        self.0.stalled()
    }
    fn is_transient(&self, error: &(dyn StdError + 'static)) -> bool {
        may_pass(error)
            || error.downcast_ref::<RemoteWorkError>().is_some_and(RemoteWorkError::is_transient)
            || self.0.is_transient(error)
    }
}
