//! [`ServiceClient::read`]: questions about one key, outside of transactions.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use super::{
    DEFAULT_PATIENCE, RouteError, ServiceClient,
    execute_async::{Answer, AskAgain},
    routes::WAIT_AT_SHARD,
};
use crate::{
    sharding::{
        DEFAULT_ANSWER_WITHIN, Query, ShardError,
        reads::work,
        remote::{decode, encode},
    },
    txn::policy::after,
};

impl<W: 'static> ServiceClient<W> {
    /// Asks the shard of the question's key, and returns its answer: what is committed there. A key that
    /// the answer does not have does not exist. The service is a [`ReadShard`](crate::sharding::ReadShard).
    ///
    /// While the key is on its way to another node, it is asked for again, for at most
    /// [`DEFAULT_PATIENCE`]. Blocks for that, and for the answer; from async code use
    /// [`read_async`](Self::read_async).
    ///
    /// The read is not part of a transaction. A transaction whose commit was answered, and that is not
    /// [delivered](crate::txn::Commit::delivered) yet, may not be seen; and two reads may see two states.
    ///
    /// # Errors
    ///
    /// [`RouteError::Refused`] if the key stayed on its way for too long. [`RouteError::Shard`]: the shard
    /// did not answer, could not read, or answers no such questions. The read may be repeated.
    pub fn read<Q: Query>(&self, query: Q) -> Result<Q::Answer, RouteError> {
        self.read_within(query, DEFAULT_PATIENCE)
    }

    /// As [`read`](Self::read), and waits for at most `patience` for a key that is on its way.
    ///
    /// # Errors
    ///
    /// As for [`read`](Self::read).
    pub fn read_within<Q: Query>(&self, query: Q, patience: Duration) -> Result<Q::Answer, RouteError> {
        let directory = self.directory()?;
        let position = query.position();
        let query = encode(&query).map_err(|error| RouteError::Shard(work(error)))?;
        let until = after(directory.platform.now(), patience);
        loop {
            let way = self.way(&directory, position)?;
            let wait = until.saturating_duration_since(directory.platform.now()).min(WAIT_AT_SHARD);
            let refusal = match way.route.link.read(&query, way.known, wait) {
                Ok(answer) => return decode(&answer).map_err(|error| RouteError::Shard(work(error))),
                Err(ShardError::Gate(refusal)) => refusal,
                Err(error) => return Err(RouteError::Shard(error)),
            };
            if directory.platform.now() >= until {
                return Err(RouteError::Refused { node: way.node, refusal });
            }
            directory.refused.fetch_add(1, Ordering::Relaxed);
            // Also if the refusal was to be brief: it was not, although the call waited at the shard.
            directory.refresh(way.epoch);
        }
    }

    /// As [`read`](Self::read), for async code: no thread is blocked while the key is on its way. A shard
    /// of this process answers on the task's thread; one in another process is sent a message.
    ///
    /// # Errors
    ///
    /// As for [`read`](Self::read).
    pub async fn read_async<Q: Query>(&self, query: Q) -> Result<Q::Answer, RouteError> {
        let directory = self.directory()?;
        let position = query.position();
        let query = encode(&query).map_err(|error| RouteError::Shard(work(error)))?;
        let mut again = AskAgain::within(&directory, DEFAULT_PATIENCE);
        loop {
            let way = self.way(&directory, position)?;
            let answer = Answer::new();
            let told = Arc::clone(&answer);
            way.route.link.send_read(&query, way.known, WAIT_AT_SHARD, Box::new(move |result| told.tell(result)));
            let waited = answer.within(&directory, DEFAULT_ANSWER_WITHIN + WAIT_AT_SHARD).await;
            match waited.unwrap_or(Err(ShardError::Unreachable)) {
                Ok(answer) => return decode(&answer).map_err(|error| RouteError::Shard(work(error))),
                Err(ShardError::Gate(refusal)) => again.after(way.epoch, way.node, refusal).await?,
                Err(error) => return Err(RouteError::Shard(error)),
            }
        }
    }
}
