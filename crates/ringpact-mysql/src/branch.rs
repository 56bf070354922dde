//! What clients work with: [`MySqlBranch`].

use mysql_async::{
    Conn, Params,
    prelude::{AsQuery, FromRow, Queryable as _},
};
use ringpact::participant::xa::XaBranch;

use crate::{
    MySqlBackend,
    error::{MySqlError, StatementError},
    link::Answer,
    statements::{is_plain_read, query_methods},
};

/// A branch at work: the statements that clients carry out in it.
///
/// The methods are those of [`mysql_async::prelude::Queryable`]. `query` is for statements without
/// parameters, `exec` prepares the statement and sends parameters apart from it. There is no commit
/// and no rollback, because the coordinator decides.
///
/// Each error dooms the branch: it will vote No. A failed statement undoes only itself, so the rest
/// of the branch would commit without it. If the future of a statement is dropped, the branch votes
/// No, too, because the answer is not known.
///
/// Drop it before the transaction commits. Until then the branch is at work, and votes No.
#[derive(Debug)]
pub struct MySqlBranch {
    branch: XaBranch<MySqlBackend>,
    has_failed: bool,
}

impl MySqlBranch {
    pub(crate) const fn new(branch: XaBranch<MySqlBackend>) -> Self {
        Self { branch, has_failed: false }
    }

    query_methods!();

    /// Has the branch vote No, for this reason. The first reason stays.
    pub fn doom(&self, reason: impl Into<Box<dyn std::error::Error + Send + Sync>>) {
        self.branch.doom(reason);
    }

    fn conn(&self) -> Option<&Conn> {
        self.branch.session()?.link.conn()
    }

    async fn run<T>(
        &mut self,
        is_plain_read: bool,
        statement: impl for<'c> FnOnce(&'c mut Conn) -> Answer<'c, T>,
    ) -> Result<T, MySqlError> {
        let session = self.branch.session_mut().filter(|_| !self.has_failed).ok_or(MySqlError::Over)?;
        session.only_reads &= is_plain_read;
        let within = session.answer_within();
        match session.link.carry_out(within, statement).await {
            Ok(result) => Ok(result),
            Err(error) => {
                let error = StatementError::new(error);
                self.has_failed = true;
                self.branch.doom(error.clone());
                Err(error.into())
            }
        }
    }
}
