//! Shards in other processes: what is said to them, and the link that says it.
//!
//! A message to a shard is a [`Request::Message`] to it as a participant, so a transport for
//! participants carries it as it is. Its body is the message in postcard, after one byte with the
//! version.

use std::{fmt, sync::Arc, time::Duration};

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{
    error_chain,
    id::{BranchId, TxnId},
    participant::{Endpoint, ParticipantError, Reply, Request, Response, cut},
    platform::Platform,
    sharding::{
        Answered, Executed, GateRefusal, Shard, ShardError, ShardHost, ShardLink, ShardMoves, ShardRequest,
        ShardResponse, Tenure,
    },
    txn::policy::after,
};

/// Version number of the form of messages. Both sides must have the same.
const VERSION: u8 = 1;

/// Default time that a link waits for an answer, beyond the time for which the shard itself may wait.
pub const DEFAULT_ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// A message to a shard.
#[derive(Serialize, Deserialize)]
enum Message<W> {
    Execute { branch: BranchId, known: Tenure, work: W, patience: Duration },
    Move(ShardRequest),
    Read { query: Sent, known: Tenure, patience: Duration },
}

/// A question or an answer on its way.
#[derive(Serialize, Deserialize)]
struct Sent(#[serde(with = "serde_bytes")] Vec<u8>);

/// A shard's answer.
#[derive(Serialize, Deserialize)]
enum Answer {
    Done,
    Moved(ShardResponse),
    Failed(Failure),
    Read(Sent),
}

/// A [`ShardError`] on its way. What has no form of its own becomes text.
#[derive(Serialize, Deserialize)]
enum Failure {
    Gate(GateRefusal),
    Held(Vec<TxnId>),
    Work { text: String, is_transient: bool },
    Records(String),
    Refused { text: String, is_transient: bool },
}

/// What a shard of another process said of work that it did not do.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{text}")]
pub struct RemoteWorkError {
    text: String,
    is_transient: bool,
}

impl RemoteWorkError {
    /// Whether it may not come again if the transaction is tried again as a new one.
    #[must_use]
    pub const fn is_transient(&self) -> bool {
        self.is_transient
    }
}

/// Answers a message to the shard; see [`Participant::message`](crate::Participant::message).
pub(super) fn answer<S: Shard>(host: &ShardHost<S>, body: &[u8]) -> Result<Vec<u8>, ParticipantError> {
    let message: Message<S::Work> = decode(body)?;
    let answered = match message {
        Message::Execute { branch, known, work, patience } => {
            host.execute(&branch, known, work, patience).map(|()| Answer::Done)
        }
        Message::Move(request) => host.ask(request).map(Answer::Moved),
        Message::Read { query, known, patience } => {
            host.answer_encoded(&query.0, known, patience).map(|answer| Answer::Read(Sent(answer)))
        }
    };
    encode(&answered.unwrap_or_else(|error| Answer::Failed(failure(host, error))))
}

fn failure<S: Shard>(host: &ShardHost<S>, error: ShardError) -> Failure {
    let text = |error: &(dyn std::error::Error + 'static)| cut(error_chain(error));
    match error {
        ShardError::Gate(refusal) => Failure::Gate(refusal),
        ShardError::Held { by } => Failure::Held(by),
        ShardError::Records(error) => Failure::Records(text(&*error)),
        ShardError::Work(error) => Failure::Work { text: text(&*error), is_transient: is_transient(host, &*error) },
        ShardError::Refused(refusal) => {
            Failure::Refused { text: text(&*refusal), is_transient: is_transient(host, &*refusal) }
        }
        // A shard of this process does not say so.
        ShardError::Unreachable => Failure::Records(text(&error)),
    }
}

fn is_transient<S: Shard>(host: &ShardHost<S>, error: &(dyn std::error::Error + 'static)) -> bool {
    crate::causes(error).any(|cause| crate::Participant::is_transient(host, cause))
}

impl From<Failure> for ShardError {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Gate(refusal) => Self::Gate(refusal),
            Failure::Held(by) => Self::Held { by },
            Failure::Work { text, is_transient } => Self::Work(Arc::new(RemoteWorkError { text, is_transient })),
            Failure::Refused { text, is_transient } => Self::Refused(Arc::new(RemoteWorkError { text, is_transient })),
            Failure::Records(text) => Self::Records(Arc::new(RemoteWorkError { text, is_transient: false })),
        }
    }
}

pub(super) fn encode<T: Serialize>(value: &T) -> Result<Vec<u8>, ParticipantError> {
    postcard::to_extend(value, vec![VERSION]).map_err(ParticipantError::resource)
}

pub(super) fn decode<T: DeserializeOwned>(body: &[u8]) -> Result<T, ParticipantError> {
    match body.split_first() {
        Some((&VERSION, rest)) => postcard::from_bytes(rest).map_err(ParticipantError::resource),
        _ => Err(ParticipantError::resource(
            "the message is of another version of shards' messages; run one version on both sides",
        )),
    }
}

/// A [`ShardLink`] to a shard in another process, over an endpoint that reaches the shard as a
/// participant. Shared by [`Arc`].
///
/// Each call blocks until the answer comes, or until the time for it is up.
pub struct RemoteShard {
    endpoint: Arc<dyn Endpoint>,
    answer_within: Duration,
    platform: Platform,
}

impl RemoteShard {
    /// Returns the link over this endpoint.
    #[must_use]
    pub fn new(endpoint: Arc<dyn Endpoint>) -> Self {
        Self { endpoint, answer_within: DEFAULT_ANSWER_WITHIN, platform: Platform::default() }
    }

    /// Uses the clock of `platform` instead of the system's.
    #[doc(hidden)]
    #[must_use]
    pub fn platform(mut self, platform: Platform) -> Self {
        self.platform = platform;
        self
    }

    /// Waits for an answer for this long.
    #[must_use]
    pub const fn answer_within(mut self, time: Duration) -> Self {
        self.answer_within = time;
        self
    }

    fn send_and_wait<W: Serialize>(&self, message: &Message<W>, patience: Duration) -> Result<Answer, ShardError> {
        let failed = |error: ParticipantError| ShardError::Work(Arc::new(error));
        let body = encode(message).map_err(failed)?;
        let body = exchange(&self.platform, &*self.endpoint, body, self.answer_within.saturating_add(patience))?;
        match decode(&body).map_err(failed)? {
            Answer::Failed(failure) => Err(failure.into()),
            answer => Ok(answer),
        }
    }
}

/// Sends a message, and blocks until its answer comes, at most for `within`.
pub(super) fn exchange(
    platform: &Platform,
    endpoint: &dyn Endpoint,
    body: Vec<u8>,
    within: Duration,
) -> Result<Vec<u8>, ShardError> {
    let answers = platform.mailbox();
    // The answer may come when nothing waits any more.
    let told = answers.clone();
    let until = after(platform.now(), within);
    endpoint.send(Request::Message { body }, Reply::new(move |result| told.put(result)));
    answered(answers.take_until(until).unwrap_or(Err(ParticipantError::Unreachable)))
}

/// Returns the body of an answer.
pub(super) fn answered(result: Result<Response, ParticipantError>) -> Result<Vec<u8>, ShardError> {
    match result {
        Ok(Response::Message { body }) => Ok(body),
        Err(error @ (ParticipantError::Resource(_) | ParticipantError::Misdirected | ParticipantError::Log(_))) => {
            Err(ShardError::Work(Arc::new(error)))
        }
        Ok(_) | Err(_) => Err(ShardError::Unreachable),
    }
}

/// Returns the answer to a question.
fn read(result: Result<Response, ParticipantError>) -> Result<Vec<u8>, ShardError> {
    match decode(&answered(result)?).map_err(|error| ShardError::Work(Arc::new(error)))? {
        Answer::Read(answer) => Ok(answer.0),
        Answer::Failed(failure) => Err(failure.into()),
        _ => Err(ShardError::Unreachable),
    }
}

/// Returns the answer to a piece of work.
fn executed(result: Result<Response, ParticipantError>) -> Result<(), ShardError> {
    let body = answered(result)?;
    match decode(&body).map_err(|error| ShardError::Work(Arc::new(error)))? {
        Answer::Done => Ok(()),
        Answer::Failed(failure) => Err(failure.into()),
        _ => Err(ShardError::Unreachable),
    }
}

impl ShardMoves for RemoteShard {
    fn ask(&self, request: ShardRequest) -> Result<ShardResponse, ShardError> {
        let patience = request.patience();
        match self.send_and_wait::<()>(&Message::Move(request), patience)? {
            Answer::Moved(response) => Ok(response),
            _ => Err(ShardError::Unreachable),
        }
    }
}

impl<W: Serialize> ShardLink<W> for RemoteShard {
    fn execute(&self, branch: &BranchId, known: Tenure, work: W, patience: Duration) -> Result<(), ShardError> {
        match self.send_and_wait(&Message::Execute { branch: branch.clone(), known, work, patience }, patience)? {
            Answer::Done => Ok(()),
            _ => Err(ShardError::Unreachable),
        }
    }

    fn send(&self, branch: &BranchId, known: Tenure, work: W, patience: Duration, then: Executed) {
        match encode(&Message::Execute { branch: branch.clone(), known, work, patience }) {
            Ok(body) => self.endpoint.send(Request::Message { body }, Reply::new(move |result| then(executed(result)))),
            Err(error) => then(Err(ShardError::Work(Arc::new(error)))),
        }
    }

    fn read(&self, query: &[u8], known: Tenure, patience: Duration) -> Result<Vec<u8>, ShardError> {
        match self.send_and_wait::<()>(&Message::Read { query: Sent(query.to_vec()), known, patience }, patience)? {
            Answer::Read(answer) => Ok(answer.0),
            _ => Err(ShardError::Unreachable),
        }
    }

    fn send_read(&self, query: &[u8], known: Tenure, patience: Duration, then: Answered) {
        match encode::<Message<()>>(&Message::Read { query: Sent(query.to_vec()), known, patience }) {
            Ok(body) => self.endpoint.send(Request::Message { body }, Reply::new(move |result| then(read(result)))),
            Err(error) => then(Err(ShardError::Work(Arc::new(error)))),
        }
    }
}

impl fmt::Debug for RemoteShard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RemoteShard").field("answer_within", &self.answer_within).finish_non_exhaustive()
    }
}
