//! Connections that end promises, end sessions and look things up: [`Control`].
//!
//! Branches may have all connections of their pool, and wait for one another there. What ends them must not wait behind them,
//! so it has connections of its own.

use std::time::{Duration, Instant};

use deadpool::managed;
use deadpool_postgres::{ClientWrapper, Manager, Metrics, Pool, Timeouts};
use ringpact::participant::xa::{XaError, XaErrorKind};
use tokio::time::{sleep, timeout};
use tokio_postgres::{Error, SimpleQueryMessage, SimpleQueryRow};

use crate::{
    error::{During, PgFailure, PgOpenError, ends_connection, failure, no_answer, no_connection},
    names::literal,
};

/// Default number of connections for control. Each of them waits for a sync of the server's log, and these syncs are shared.
pub(crate) const DEFAULT_CONNECTIONS: usize = 4;

/// Time for one statement, with its connection. Above a sync, below the patience of a coordinator's caller.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// Time within which sessions that were told to end must be gone.
const SESSIONS_END_WITHIN: Duration = Duration::from_secs(10);

/// Shortest and longest pause between looks at the sessions.
const LOOK_AGAIN: (Duration, Duration) = (Duration::from_millis(2), Duration::from_millis(50));

/// Takes a connection only if that needs no wait.
const AT_ONCE: Timeouts = Timeouts { wait: Some(Duration::ZERO), create: None, recycle: None };

/// Connections of the same kind as a pool's, outside of its limit.
#[derive(Clone)]
pub(crate) struct Control(managed::Pool<BesideOf>);

/// Makes connections as the pool of the branches does.
struct BesideOf(Pool);

impl managed::Manager for BesideOf {
    type Type = ClientWrapper;
    type Error = Error;

    async fn create(&self) -> Result<ClientWrapper, Error> {
        <Manager as managed::Manager>::create(self.0.manager()).await
    }

    async fn recycle(&self, client: &mut ClientWrapper, _: &Metrics) -> managed::RecycleResult<Error> {
        if client.is_closed() { Err(managed::RecycleError::message("closed")) } else { Ok(()) }
    }

    fn detach(&self, client: &mut ClientWrapper) {
        managed::Manager::detach(self.0.manager(), client);
    }
}

impl Control {
    pub(crate) fn beside(pool: Pool, connections: usize) -> Result<Self, PgOpenError> {
        let built = managed::Pool::builder(BesideOf(pool)).max_size(connections.max(1)).build();
        built.map(Self).map_err(|error| PgOpenError::Pool(Box::new(error)))
    }

    /// Carries out one statement that may be repeated, and returns its rows. Repeats it once if the connection was dead.
    pub(crate) async fn ask(&self, statement: &str) -> Result<Vec<SimpleQueryRow>, XaError> {
        match self.ask_once(statement).await {
            Err(error) if error.kind() == XaErrorKind::Unavailable => self.ask_once(statement).await,
            answer => answer,
        }
    }

    async fn ask_once(&self, statement: &str) -> Result<Vec<SimpleQueryRow>, XaError> {
        let Ok(answer) = timeout(ANSWER_WITHIN, self.answer(statement)).await else {
            return Err(no_answer(ANSWER_WITHIN, During::Repeatable));
        };
        answer
    }

    async fn answer(&self, statement: &str) -> Result<Vec<SimpleQueryRow>, XaError> {
        // If this future is dropped, a statement may be under way on the connection.
        let mut client = InUse(Some(self.0.get().await.map_err(no_connection)?));
        let answer = client.query(statement).await;
        if answer.as_ref().err().is_none_or(|error| !ends_connection(error)) {
            drop(client.0.take());
        }
        let messages = answer.map_err(|error| failure(error, During::Repeatable))?;
        let row = |message| if let SimpleQueryMessage::Row(row) = message { Some(row) } else { None };
        Ok(messages.into_iter().filter_map(row).collect())
    }

    /// Ends a promise, by a statement that may be repeated. It goes to a connection of the branches' pool if one is idle: the
    /// syncs of many commits are then shared. A branch's locks come free by it, so it comes before new branches.
    pub(crate) async fn end_promise(&self, statement: &str) -> Result<(), XaError> {
        let pool = &self.0.manager().0;
        if pool.status().available > 0
            && let Ok(idle) = pool.timeout_get(&AT_ONCE).await
        {
            let mut client = InUse(Some(idle));
            if timeout(ANSWER_WITHIN, client.query(statement)).await.is_ok_and(|answer| answer.is_ok()) {
                drop(client.0.take());
                return Ok(());
            }
            // What the work has set in that session may be in the way. The others have nothing set.
        }
        self.ask(statement).await.map(drop)
    }

    /// Interrupts the statement that the session with this tag carries out.
    pub(crate) async fn cancel(&self, tag: &str) -> Result<(), XaError> {
        let of = sessions(&format!("application_name = {}", literal(tag)));
        self.ask(&format!("SELECT pg_cancel_backend(pid) {of}")).await.map(drop)
    }

    /// Ends the sessions with this tag, and returns when they are gone.
    pub(crate) async fn end_sessions(&self, tag: &str) -> Result<(), XaError> {
        self.end_all(&format!("application_name = {}", literal(tag))).await
    }

    /// Ends the sessions with tags that begin so and are lower than this one, and returns when they are gone.
    pub(crate) async fn end_sessions_below(&self, prefix: &str, tag: &str) -> Result<(), XaError> {
        let below = format!(r#"application_name COLLATE "C" < {}"#, literal(tag));
        self.end_all(&format!("starts_with(application_name, {}) AND {below}", literal(prefix))).await
    }

    async fn end_all(&self, which: &str) -> Result<(), XaError> {
        let statement = format!("SELECT pg_terminate_backend(pid) {}", sessions(which));
        let (begun, mut pause) = (Instant::now(), LOOK_AGAIN.0);
        loop {
            // A session is gone only when no row has it: its last statement has then had its whole effect, or none.
            let left = self.ask(&statement).await?.len();
            if left == 0 {
                return Ok(());
            }
            if begun.elapsed() > SESSIONS_END_WITHIN {
                let cause = PgFailure::SessionsLeft { sessions: left, waited: SESSIONS_END_WITHIN };
                return Err(XaError::new(XaErrorKind::Unavailable, cause));
            }
            sleep(pause).await;
            pause = (pause * 2).min(LOOK_AGAIN.1);
        }
    }
}

/// Returns the source of the sessions of this database and role for which the condition holds.
fn sessions(which: &str) -> String {
    format!(
        "FROM pg_stat_activity WHERE {which} AND datname = current_database() AND usename = session_user \
         AND pid <> pg_backend_pid()"
    )
}

/// A connection. It goes back to the others only when its statement has been answered.
struct InUse<M: managed::Manager<Type = ClientWrapper>>(Option<managed::Object<M>>);

impl<M: managed::Manager<Type = ClientWrapper>> InUse<M> {
    async fn query(&self, statement: &str) -> Result<Vec<SimpleQueryMessage>, Error> {
        match &self.0 {
            Some(client) => client.simple_query(statement).await,
            None => unreachable!("a connection in use is given back after its statement"),
        }
    }
}

impl<M: managed::Manager<Type = ClientWrapper>> Drop for InUse<M> {
    fn drop(&mut self) {
        if let Some(client) = self.0.take() {
            drop(managed::Object::take(client));
        }
    }
}
