//! A connection that is closed if anything about it is in doubt: [`Link`].

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Waker},
    time::Duration,
};

use mysql_async::{Conn, DriverError, Error};

use crate::error::{is_lost, no_answer};

/// What the client library's methods return.
pub(crate) type Answer<'a, T> = Pin<Box<dyn Future<Output = Result<T, Error>> + Send + 'a>>;

/// A connection of a pool. If it is dropped, it is closed; only [`release`](Self::release) gives it
/// back.
///
/// The client library gives a dropped connection back to its pool, and does not know that an `XA`
/// transaction may be open in it, or that a dropped future has left an answer unread.
#[derive(Debug)]
pub(crate) struct Link {
    conn: Option<Conn>,
    /// Whether all statements were answered.
    is_sound: bool,
}

impl Link {
    pub(crate) const fn new(conn: Conn) -> Self {
        Self { conn: Some(conn), is_sound: true }
    }

    /// Carries out a statement, within this time. An error that is no answer of the server leaves the
    /// link of no more use, and so does a future that is dropped.
    pub(crate) async fn run<T>(
        &mut self,
        within: Duration,
        statement: impl for<'c> FnOnce(&'c mut Conn) -> Answer<'c, T>,
    ) -> Result<T, Error> {
        let Some(conn) = self.conn.as_mut().filter(|_| self.is_sound) else {
            return Err(Error::Driver(DriverError::ConnectionClosed));
        };
        self.is_sound = false;
        let result = tokio::time::timeout(within, statement(conn)).await.map_err(|_| no_answer(within))?;
        self.is_sound = result.as_ref().err().is_none_or(|error| !is_lost(error));
        result
    }

    pub(crate) const fn is_sound(&self) -> bool {
        self.is_sound && self.conn.is_some()
    }

    pub(crate) const fn conn(&self) -> Option<&Conn> {
        self.conn.as_ref()
    }

    /// Gives the connection back to its pool, if all statements were answered. No transaction may be
    /// open in it.
    pub(crate) fn release(mut self) {
        if self.is_sound {
            drop(self.conn.take());
        }
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        let Some(conn) = self.conn.take() else { return };
        // The first step of this future marks the connection as closed, so the pool drops it. What
        // cannot be sent at once need not be: the socket is closed in any case.
        let mut closing = Box::pin(conn.disconnect());
        let _ready = closing.as_mut().poll(&mut Context::from_waker(Waker::noop()));
    }
}
