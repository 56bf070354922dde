//! [`ServiceClient::execute_async`]: clients' work from async code, on any runtime.

use std::{
    future::{Future, poll_fn},
    pin::pin,
    sync::{Arc, atomic::Ordering},
    task::{Poll, Waker},
    time::{Duration, Instant},
};

use parking_lot::Mutex;

use super::{DEFAULT_PATIENCE, RouteError, ServiceClient, directory::Directory, routes::WAIT_AT_SHARD};
use crate::{
    foreign,
    ring::{NodeId, RingEpoch},
    sharding::{DEFAULT_ANSWER_WITHIN, GateRefusal, Keyed, ShardError},
    txn::Transaction,
};

/// Time after which a task asks again for a key that is on its way, at first. It doubles up to
/// [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_micros(500);

/// Maximum time after which a task asks again.
const LONGEST_PAUSE: Duration = Duration::from_millis(8);

impl<W: Keyed + Clone + Send + 'static> ServiceClient<W> {
    /// As [`execute`](Self::execute), for async code: no thread is blocked while the key is on its way, and
    /// the coordinator's own clock wakes the task. A shard of this process tries the work on the task's
    /// thread; one in another process is sent a message.
    ///
    /// If the future is dropped before it is ready, roll the transaction back: the shard may have done the
    /// work.
    ///
    /// # Errors
    ///
    /// As for [`execute`](Self::execute).
    pub async fn execute_async(&self, txn: &mut Transaction, work: W) -> Result<(), RouteError> {
        let directory = self.directory()?;
        let position = work.position();
        let mut again = AskAgain::within(&directory, DEFAULT_PATIENCE);
        loop {
            let (way, branch, had_branch) = self.enlist(&directory, txn, position)?;
            let answer = Answer::new();
            let told = Arc::clone(&answer);
            let then = Box::new(move |result| told.tell(result));
            way.route.link.send(&branch, way.known, work.clone(), WAIT_AT_SHARD, then);
            let waited = answer.within(&directory, DEFAULT_ANSWER_WITHIN + WAIT_AT_SHARD).await;
            let refusal = match waited.unwrap_or(Err(ShardError::Unreachable)) {
                Ok(()) => return Ok(()),
                Err(ShardError::Gate(refusal)) => refusal,
                Err(error) => return Err(RouteError::Shard(error)),
            };
            if !had_branch {
                // The shard has no trace of the branch, so the transaction goes on without it.
                txn.withdraw(&way.route.participant)?;
            }
            again.after(way.epoch, way.node, refusal).await?;
        }
    }
}

/// When a task asks again for a key that is on its way.
pub(super) struct AskAgain<'a> {
    directory: &'a Directory,
    until: Instant,
    pause: Duration,
}

impl<'a> AskAgain<'a> {
    /// For at most this time.
    pub(super) fn within(directory: &'a Directory, patience: Duration) -> Self {
        Self { directory, until: directory.platform.now() + patience, pause: FIRST_PAUSE }
    }

    /// Waits after a refusal by the node that the assignment of this epoch names, until it is time to ask again. Returns
    /// the refusal if there is no time left.
    pub(super) async fn after(
        &mut self,
        epoch: RingEpoch,
        node: NodeId,
        refusal: GateRefusal,
    ) -> Result<(), RouteError> {
        let directory = self.directory;
        if directory.platform.now() >= self.until {
            return Err(RouteError::Refused { node, refusal });
        }
        directory.refused.fetch_add(1, Ordering::Relaxed);
        if !refusal.is_brief() || self.pause == LONGEST_PAUSE {
            refresh(directory, epoch).await;
        }
        if directory.assignment.load().epoch() <= epoch {
            directory.coordinator.pause(self.pause).await;
            self.pause = (self.pause * 2).min(LONGEST_PAUSE);
        }
        Ok(())
    }
}

/// Asks the keeper of another process what has changed since this epoch. A keeper of this process tells
/// it by itself.
async fn refresh(directory: &Directory, epoch: RingEpoch) {
    if directory.assignment.load().epoch() > epoch {
        return;
    }
    let Some((keeper, within)) = directory.keeper() else { return };
    let answer = Answer::new();
    let told = Arc::clone(&answer);
    directory.ask_then(&**keeper, move |update| told.tell(update));
    if let Some(Some((asked, update))) = answer.within(directory, within).await {
        directory.learn(asked, update);
    }
}

/// An answer that comes later.
pub(super) struct Answer<T>(Mutex<(Option<T>, Option<Waker>)>);

impl<T: Send> Answer<T> {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self(Mutex::new((None, None))))
    }

    pub(super) fn tell(&self, what: T) {
        let waker = {
            let mut state = self.0.lock();
            state.0 = Some(what);
            state.1.take()
        };
        waker.into_iter().for_each(foreign::wake);
    }

    /// Waits for the answer, for at most this time.
    pub(super) async fn within(&self, directory: &Directory, time: Duration) -> Option<T> {
        // What a shard of this process answers is there already, and needs no clock.
        if let Some(answer) = self.0.lock().0.take() {
            return Some(answer);
        }
        let mut over = pin!(directory.coordinator.pause(time));
        poll_fn(|context| {
            let old = {
                let mut state = self.0.lock();
                if let Some(answer) = state.0.take() {
                    return Poll::Ready(Some(answer));
                }
                state.1.replace(context.waker().clone())
            };
            foreign::drop_value(old);
            over.as_mut().poll(context).map(|()| None)
        })
        .await
    }
}
