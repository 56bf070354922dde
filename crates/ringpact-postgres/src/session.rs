//! A branch's connection: [`PgSession`].

use std::fmt;

use deadpool_postgres::{ClientWrapper, Object};
use ringpact_sql::postgres::{PgLink, StatementFailure, TextRow};
use tokio_postgres::SimpleQueryMessage;

use crate::error::of_statement;

/// A connection of the pool, for a branch. If it is dropped, the connection is closed.
pub struct PgSession {
    /// `None` only while it is dropped, or given back.
    client: Option<Object>,
}

impl PgSession {
    pub(crate) const fn new(client: Object) -> Self {
        Self { client: Some(client) }
    }

    /// Returns the connection. Its transaction is the branch's: leave `COMMIT` and `ROLLBACK` to the participant.
    #[must_use]
    pub fn client(&self) -> &ClientWrapper {
        match &self.client {
            Some(client) => client,
            None => unreachable!("a session has its connection until it is dropped"),
        }
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

    async fn end(&mut self, check: &str, ending: &str) -> Result<(), StatementFailure> {
        self.run(&format!("{check}; {ending}")).await
    }

    async fn rollback(&mut self) -> Result<(), StatementFailure> {
        self.run("ROLLBACK").await
    }

    async fn ask(&mut self, statement: &str) -> Result<Vec<TextRow>, StatementFailure> {
        self.client().simple_query(statement).await.map(rows).map_err(of_statement)
    }

    fn give_back(mut self) {
        drop(self.client.take());
    }
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
