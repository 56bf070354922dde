//! The branches' pool, and connections beside it that end promises, end sessions and look things up: [`Control`].

use std::{error::Error as StdError, fmt, time::Duration};

use deadpool::managed;
use deadpool_postgres::{ClientWrapper, Manager, Metrics, Pool, Timeouts};
use ringpact::participant::xa::{XaError, XaErrorKind};
use ringpact_sql::postgres::{
    ANSWER_WITHIN, During, PgClient, TextRow, leads_to_one_session, no_answer, no_free_connection,
};
use tokio::time::timeout;
use tokio_postgres::{Error, SimpleQueryMessage};

use crate::{
    error::{PgOpenError, ends_connection, failure, no_connection},
    session::{PgSession, rows},
};

/// Default number of connections for control. Each of them waits for a sync of the server's log, and these syncs are shared.
pub(crate) const DEFAULT_CONNECTIONS: usize = 4;

/// Time for finding out whether a proxy is in between. One with a single session keeps the second connection waiting.
const PROBE_WITHIN: Duration = Duration::from_secs(2);

/// Number of times that is tried, if the server ends its statements.
const PROBES: usize = 3;

/// Takes a connection only if that needs no wait.
const AT_ONCE: Timeouts = Timeouts { wait: Some(Duration::ZERO), create: None, recycle: None };

/// Connections of the same kind as a pool's, outside of its limit, and that pool.
#[derive(Clone)]
pub struct Control(managed::Pool<BesideOf>);

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

impl fmt::Debug for Control {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Control").finish_non_exhaustive()
    }
}

impl Control {
    pub(crate) fn beside(pool: Pool, connections: usize) -> Result<Self, PgOpenError> {
        let built = managed::Pool::builder(BesideOf(pool)).max_size(connections.max(1)).build();
        built.map(Self).map_err(|error| PgOpenError::Pool(Box::new(error)))
    }

    /// Whether each connection has a session of the server to itself; see
    /// [`leads_to_one_session`](ringpact_sql::postgres::leads_to_one_session).
    pub(crate) async fn leads_to_one_session(&self) -> bool {
        let pool = &self.0.manager().0;
        if pool.status().max_size < 2 {
            return false; // it takes two connections to find out, and not to find out is safe
        }
        let answer = || async {
            let first = pool.get().await.ok()?;
            let second = pool.get().await.ok()?;
            let (mut first, mut second) = (PgSession::new(first), PgSession::new(second));
            // They are closed afterwards: nothing that was set in them stays.
            leads_to_one_session(&mut first, &mut second).await.ok()
        };
        for _ in 0..PROBES {
            match timeout(PROBE_WITHIN, answer()).await {
                Ok(Some(leads)) => return leads,
                Ok(None) => {} // a statement of it was ended, which says nothing
                Err(_) => return false,
            }
        }
        false
    }

    /// Closes the idle connections of the branches' pool.
    pub(crate) fn empty_pool(&self) {
        drop(self.0.manager().0.retain(|_, _| false));
    }

    async fn ask_once(&self, statement: &str) -> Result<Vec<TextRow>, XaError> {
        let Ok(answer) = timeout(ANSWER_WITHIN, self.answer(statement)).await else {
            return Err(no_answer(ANSWER_WITHIN, During::Repeatable));
        };
        answer
    }

    async fn answer(&self, statement: &str) -> Result<Vec<TextRow>, XaError> {
        // If this future is dropped, a statement may be under way on the connection.
        let mut client = InUse(Some(self.0.get().await.map_err(no_connection)?));
        let answer = client.query(statement).await;
        if answer.as_ref().err().is_none_or(|error| !ends_connection(error)) {
            drop(client.0.take());
        }
        let messages = answer.map_err(|error| failure(error, During::Repeatable))?;
        Ok(rows(messages))
    }
}

impl PgClient for Control {
    type Link = PgSession;

    async fn connect(&self, within: Duration) -> Result<PgSession, XaError> {
        let pool = &self.0.manager().0;
        match timeout(within, pool.get()).await {
            Ok(taken) => taken.map(PgSession::new).map_err(no_connection),
            Err(_) => Err(no_free_connection(within, pool.status().max_size)),
        }
    }

    async fn ask(&self, statement: &str) -> Result<Vec<TextRow>, XaError> {
        match self.ask_once(statement).await {
            Err(error) if error.kind() == XaErrorKind::Unavailable => self.ask_once(statement).await,
            answer => answer,
        }
    }

    /// It goes to a connection of the branches' pool if one is idle: the
    /// syncs of many commits are then shared. A branch's locks come free by it, so it comes before new branches.
    async fn end_promise(&self, statement: &str) -> Result<(), XaError> {
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

    fn sqlstate(error: &(dyn StdError + 'static)) -> Option<String> {
        let code = error.downcast_ref::<Error>()?.code()?;
        Some(code.code().to_owned())
    }

    fn is_of_connection(error: &(dyn StdError + 'static)) -> bool {
        let Some(error) = error.downcast_ref::<Error>() else { return false };
        error.is_closed() || error.source().is_some_and(|source| source.is::<std::io::Error>())
    }
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
