//! Work under a branch: [`PgBranch`].

use std::{error::Error as StdError, ops::Deref};

use deadpool_postgres::ClientWrapper;
use ringpact::participant::xa::XaBranch;

use crate::PgBackend;

/// A branch at work: its connection, with the branch's transaction open.
///
/// All methods of the client that take `&self` are there: `query`, `execute`, `prepare_cached`, `copy_in` and so on.
/// `&**branch` is the `tokio_postgres::Client`, which is a `GenericClient`. The participant sends `BEGIN`, and later
/// `PREPARE TRANSACTION`, `COMMIT` or `ROLLBACK`; savepoints are the caller's.
///
/// Drop it before the transaction commits: while it lives, the branch votes No. If it is dropped in a panic, the branch can
/// only be rolled back. After an error of a statement, PostgreSQL rolls the branch back, too, unless a savepoint came first.
#[derive(Debug)]
pub struct PgBranch(pub(crate) XaBranch<PgBackend>);

impl PgBranch {
    /// Has the branch vote No, for this reason. The first reason stays.
    pub fn doom(&self, reason: impl Into<Box<dyn StdError + Send + Sync>>) {
        self.0.doom(reason);
    }
}

impl Deref for PgBranch {
    type Target = ClientWrapper;

    fn deref(&self) -> &ClientWrapper {
        match self.0.session() {
            Some(session) => session.link.client(),
            None => unreachable!("only the drop of the branch takes its session"),
        }
    }
}
