//! A branch's connection: [`PgSession`].

use std::{fmt, future::poll_fn, pin::pin};

use deadpool_postgres::{ClientWrapper, Object};
use futures_core::Stream as _;
use ringpact_sql::postgres::{PgLink, StatementFailure, TextRow};
use tokio::task::JoinHandle;
use tokio_postgres::{SimpleQueryMessage, SimpleQueryStream};

use crate::error::of_statement;

/// A connection of the pool, for a branch. If it is dropped, the connection is closed.
pub struct PgSession {
    /// `None` only while it is dropped, or given back.
    client: Option<Object>,
    /// Reads the answer to the `BEGIN`.
    begun: Option<JoinHandle<Result<(), StatementFailure>>>,
    /// Whether statements of the work may have been carried out outside of its transaction.
    is_spoilt: bool,
}

impl PgSession {
    pub(crate) const fn new(client: Object) -> Self {
        Self { client: Some(client), begun: None, is_spoilt: false }
    }

    /// Returns the connection. Its transaction is the branch's: leave `COMMIT` and `ROLLBACK` to the participant.
    #[must_use]
    pub fn client(&self) -> &ClientWrapper {
        match &self.client {
            Some(client) => client,
            None => unreachable!("a session has its connection until it is dropped"),
        }
    }

    /// Waits for the answer to the `BEGIN`.
    async fn begun(&mut self) -> Result<(), StatementFailure> {
        let Some(answer) = self.begun.take() else { return Ok(()) };
        self.is_spoilt = true;
        answer.await.unwrap_or_else(|error| Err(StatementFailure::of_connection(error)))?;
        self.is_spoilt = false;
        Ok(())
    }

    async fn run(&self, message: &str) -> Result<(), StatementFailure> {
        self.client().batch_execute(message).await.map_err(of_statement)
    }
}

impl PgLink for PgSession {
    fn is_closed(&self) -> bool {
        self.client().is_closed()
    }

    async fn begin(&mut self, message: String) -> Result<(), StatementFailure> {
        self.run(&message).await
    }

    async fn begin_ahead(&mut self, message: String) -> Result<(), StatementFailure> {
        let sent = self.client().simple_query_raw(&message).await.map_err(of_statement)?;
        // A task, because an answer that is not read keeps the connection from the answers behind it.
        self.begun = Some(tokio::spawn(all_of(sent)));
        Ok(())
    }

    async fn end(&mut self, check: &str, ending: &str) -> Result<(), StatementFailure> {
        self.begun().await?;
        self.run(&format!("{check}; {ending}")).await
    }

    async fn rollback(&mut self) -> Result<(), StatementFailure> {
        self.begun().await?;
        self.run("ROLLBACK").await
    }

    async fn ask(&mut self, statement: &str) -> Result<Vec<TextRow>, StatementFailure> {
        self.client().simple_query(statement).await.map(rows).map_err(of_statement)
    }

    fn give_back(mut self) {
        if !self.is_spoilt {
            drop(self.client.take());
        }
    }
}

/// Reads an answer to its end.
async fn all_of(answer: SimpleQueryStream) -> Result<(), StatementFailure> {
    let mut answer = pin!(answer);
    while let Some(message) = poll_fn(|context| answer.as_mut().poll_next(context)).await {
        message.map_err(of_statement)?;
    }
    Ok(())
}

/// Returns the rows among the messages of an answer.
pub(crate) fn rows(messages: Vec<SimpleQueryMessage>) -> Vec<TextRow> {
    let row = |message| match message {
        SimpleQueryMessage::Row(row) => Some((0..row.len()).map(|column| row.get(column).map(str::to_owned)).collect()),
        _ => None,
    };
    messages.into_iter().filter_map(row).collect()
}

impl Drop for PgSession {
    fn drop(&mut self) {
        if let Some(client) = self.client.take() {
            drop(Object::take(client));
        }
    }
}

impl fmt::Debug for PgSession {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PgSession").finish_non_exhaustive()
    }
}
