//! Which session works for which branch, and how such a session is ended for certain.
//!
//! A connection takes two locks of the server (`GET_LOCK`) before it begins a branch: one under the
//! branch's name, and one under its own. The server frees them when the session is gone, after it has
//! undone what was not promised. So a session is ended by `KILL` of the connection that has the lock,
//! repeated until no connection has it. Numbers of connections are not kept, because they come again
//! after a restart of the server.
//!
//! The branch's lock leads to the session of one branch, also if another process has it. The
//! connection's own lock leads to the sessions of an earlier epoch, of which the branches are not
//! known: a row in `ringpact_session` says for which coordinator and epoch a connection works. It is
//! written when a connection first works for that epoch, not for each branch.
//!
//! A process that was only slow must not begin or promise anything after its epoch was fenced. So:
//!
//! 1. The coordinator's later epoch is noted in `ringpact_coordinator`. From here on no row is
//!    written for an earlier epoch.
//! 2. The rows of earlier epochs are marked as *fenced*. A branch begins only if its session finds its
//!    row unmarked, after it has taken its locks. So one that begins has taken them before the mark.
//! 3. The holders of all these locks are ended. Then the rows are deleted.

use std::{collections::HashMap, time::Duration};

use parking_lot::Mutex;
use ringpact::{
    Epoch, Name,
    participant::xa::{XaError, XaErrorKind},
};
use tokio::time::{Instant, sleep};

use super::{
    answer_within,
    backend::MySqlBackend,
    client::{MySqlClient, MySqlLink as _},
    error::{code, unavailable},
    id::{NameHash, Xid},
    session::{Registration, SessionId},
};

/// Maximum number of connections of which the registration is remembered. Forgetting one costs a
/// statement. Servers have fewer connections at once.
const MAX_REGISTRATIONS: usize = 1 << 12;

/// Time between looks at whether a session is gone.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// What this process knows of its sessions.
#[derive(Debug, Default)]
pub(crate) struct Sessions {
    /// The registration of each connection, by the server's number of it.
    registrations: Mutex<HashMap<u64, Registration>>,
}

impl Sessions {
    /// Returns how a connection is registered once it works for this coordinator and epoch, and
    /// whether a row must be written for that. `None` if the system gives no random numbers.
    pub(crate) fn register(&self, conn: u64, coordinator: NameHash, epoch: Epoch) -> Option<(Registration, bool)> {
        let known = self.registrations.lock().get(&conn).copied();
        match known {
            Some(known) if known.coordinator == coordinator && known.epoch == epoch => Some((known, false)),
            Some(known) => Some((Registration { coordinator, epoch, ..known }, true)),
            None => Some((Registration { id: SessionId::random()?, coordinator, epoch }, true)),
        }
    }

    /// Takes in that the row of a connection is written.
    pub(crate) fn registered(&self, conn: u64, registration: Registration) {
        let mut registrations = self.registrations.lock();
        if registrations.len() >= MAX_REGISTRATIONS {
            registrations.clear();
        }
        registrations.insert(conn, registration);
    }

    /// Takes in that a session did not find its row.
    pub(crate) fn unregister(&self, id: SessionId) {
        self.registrations.lock().retain(|_, known| known.id != id);
    }
}

impl<C: MySqlClient> MySqlBackend<C> {
    /// Ends the session that works for this branch, and returns when it is gone.
    pub(crate) async fn end_session_of(&self, branch: &Xid) -> Result<(), XaError> {
        let mut control = self.control().await?;
        self.end_session(&mut control, &branch.lock()).await?;
        control.release();
        Ok(())
    }

    /// Ends the sessions of a coordinator's earlier epochs, of any process.
    pub(crate) async fn end_earlier_sessions(&self, coordinator: &Name, before: Epoch) -> Result<(), XaError> {
        let (database, participant, hash) = (&self.database, self.hash, NameHash::of(coordinator));
        let rows = format!("participant = {participant} AND coordinator = {hash} AND epoch < {before}");
        let mut control = self.control().await?;
        let mark = format!("UPDATE {database}.ringpact_session SET fenced = 1 WHERE {rows}");
        self.run(&mut control, mark).await.map_err(unavailable)?;
        // Most of the rows are of connections that are closed.
        let held = format!(
            "SELECT id FROM {database}.ringpact_session \
             WHERE {rows} AND IS_USED_LOCK(CONCAT('ringpact:', LOWER(HEX(id)))) IS NOT NULL"
        );
        let ids = self.rows(&mut control, held).await.map_err(unavailable)?;
        for id in ids.iter().filter_map(|row| SessionId::from_bytes(row.bytes(0)?)) {
            self.end_session(&mut control, &id.lock()).await?;
        }
        let delete = format!("DELETE FROM {database}.ringpact_session WHERE {rows} AND fenced");
        self.run(&mut control, delete).await.map_err(unavailable)?;
        control.release();
        Ok(())
    }

    /// Interrupts the statement of the session that works for this branch, if there is one.
    pub(crate) async fn interrupt_session_of(&self, branch: &Xid) {
        let Ok(mut control) = self.control().await else { return };
        let kill = format!("KILL QUERY IS_USED_LOCK({})", branch.lock());
        if self.run(&mut control, kill).await.is_ok() || control.is_sound() {
            control.release();
        }
    }

    /// Ends the session that has this lock, and returns when the server has let go of it.
    pub(crate) async fn end_session(&self, control: &mut C::Link, lock: &str) -> Result<(), XaError> {
        let deadline = Instant::now() + answer_within(&self.timeouts);
        loop {
            let kill = format!("KILL CONNECTION IS_USED_LOCK({lock})");
            match self.run(control, kill).await {
                Ok(()) => {}
                // No connection has the lock.
                Err(error) if error.code == Some(code::NO_SUCH_THREAD) => return Ok(()),
                Err(error) => return Err(unavailable(error)),
            }
            if Instant::now() >= deadline {
                let text =
                    "the server has not ended a session that was killed; see SHOW PROCESSLIST for what it waits for";
                return Err(XaError::new(XaErrorKind::Unavailable, text));
            }
            sleep(LOOK_EVERY).await;
        }
    }
}
