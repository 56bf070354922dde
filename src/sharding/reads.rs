//! Reads outside of transactions: [`Query`], and [`ReadShard`], which answers it.

use std::{error::Error as StdError, sync::Arc, time::Duration};

use serde::{Serialize, de::DeserializeOwned};
use thiserror::Error;

use crate::{
    participant::ServiceError,
    sharding::{
        Keyed, Shard, ShardError, ShardHost, Tenure,
        remote::{decode, encode},
    },
};

/// A question about one key, outside of transactions. [`ServiceClient::read`](super::ServiceClient::read) takes it
/// to the shard that has the key.
///
/// A service with several kinds of questions has an enum of them, and one of answers.
pub trait Query: Keyed + Serialize + DeserializeOwned + Send + 'static {
    /// What the shard answers.
    type Answer: Serialize + DeserializeOwned + Send + 'static;
}

/// A [`Shard`] that answers questions outside of transactions. Open its host
/// [with reads](ShardHost::with_reads).
pub trait ReadShard: Shard {
    /// What it is asked.
    type Query: Query;

    /// Answers from what is committed. May block, and runs at the same time as all other methods.
    ///
    /// It may be called more than once for one question. An answer, or an error, counts only if the shard
    /// has owned the key all the while. So `None` for a key that is not found is right.
    ///
    /// # Errors
    ///
    /// The records can't be read.
    fn answer(&self, query: &Self::Query) -> Result<<Self::Query as Query>::Answer, ServiceError>;
}

/// Answers an encoded question.
pub(super) type AnswerEncoded<S> = fn(&ShardHost<S>, &[u8], Tenure, Duration) -> Result<Vec<u8>, ShardError>;

/// The shard answers no questions.
#[derive(Debug, Error)]
#[error(
    "this shard was opened without reads, or is reached over a link without them; implement `ReadShard`, and open its \
     host with `ShardHost::with_reads`"
)]
pub(super) struct NoReads;

pub(super) fn work(error: impl StdError + Send + Sync + 'static) -> ShardError {
    ShardError::Work(Arc::new(error))
}

impl<S: ReadShard> ShardHost<S> {
    /// Has the host answer questions: those that [`ServiceClient::read`](super::ServiceClient::read)
    /// sends, from this process and from others.
    #[must_use]
    pub fn with_reads(mut self) -> Self {
        self.answer = Some(|host, query, known, patience| {
            let query = decode(query).map_err(work)?;
            encode(&host.answer(&query, known, patience)?).map_err(work)
        });
        self
    }

    /// Answers a question about one key, if this shard owns it. `known` is the latest hand-over of the
    /// key's position that the client knows of.
    ///
    /// While the key is on its way, it waits for at most `patience`, as [`read`](Self::read) does, and
    /// blocks for that long.
    ///
    /// # Errors
    ///
    /// [`ShardError::Gate`], and [`ShardError::Work`] with the shard's own error.
    pub fn answer(
        &self,
        query: &S::Query,
        known: Tenure,
        patience: Duration,
    ) -> Result<<S::Query as Query>::Answer, ShardError> {
        let answered = self.read(query.position(), known, patience, |shard| shard.answer(query));
        answered?.map_err(|error| ShardError::Work(error.into()))
    }
}

impl<S: Shard> ShardHost<S> {
    /// Answers an encoded question.
    pub(super) fn answer_encoded(
        &self,
        query: &[u8],
        known: Tenure,
        patience: Duration,
    ) -> Result<Vec<u8>, ShardError> {
        let answer = self.answer.ok_or_else(|| work(NoReads))?;
        answer(self, query, known, patience)
    }
}
