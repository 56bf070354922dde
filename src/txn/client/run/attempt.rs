//! [`Attempt`]: the transaction of one attempt, lent to the work.

use std::{
    fmt,
    ops::{Deref, DerefMut},
    sync::Arc,
};

use parking_lot::Mutex;

use crate::txn::Transaction;

/// The transaction under which the work of [`Coordinator::run`](crate::Coordinator::run) runs: use it
/// as a [`Transaction`]. Drop it before the work ends, as every local value is; then `run` commits the
/// transaction. If the work keeps it, the transaction is rolled back when it is dropped.
///
/// It is lent by value, because a reference would keep the future from being `Send`: the compiler
/// cannot show yet that an asynchronous closure is `Send` for every lifetime of its argument.
pub struct Attempt {
    txn: Transaction,
    back: Arc<Mutex<Option<Transaction>>>,
}

/// Where a lent transaction comes back to.
pub(super) struct LentTransaction(Arc<Mutex<Option<Transaction>>>);

impl LentTransaction {
    pub(super) fn lend(txn: Transaction) -> (Attempt, Self) {
        let back = Arc::default();
        (Attempt { txn, back: Arc::clone(&back) }, Self(back))
    }

    /// Returns the transaction, if the work has dropped it.
    pub(super) fn take(self) -> Option<Transaction> {
        self.0.lock().take()
    }
}

impl Deref for Attempt {
    type Target = Transaction;

    fn deref(&self) -> &Transaction {
        &self.txn
    }
}

impl DerefMut for Attempt {
    fn deref_mut(&mut self) -> &mut Transaction {
        &mut self.txn
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        // If `run` is gone, this is the last reference, and the transaction is rolled back at its end.
        let txn = self.txn.move_out();
        *self.back.lock() = Some(txn);
    }
}

impl fmt::Debug for Attempt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Attempt").field(&self.txn).finish()
    }
}
