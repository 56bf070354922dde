//! The tables of transactions that have not ended. One lock guards them all: see `Table` in
//! `engine/coordinator_core/mod.rs`.
//!
//! | file | contents |
//! |---|---|
//! | `key.rs` | the key of a transaction in all tables |
//! | `open_transactions.rs` | open transactions, in the order in which they began |
//! | `unsettled_ends.rs` | ended ones with an end that a crash could still undo |
//! | `parked.rs` | parked ones, and others that only some participants need to remember |
//! | `expiry.rs` | the search for transactions whose time-out has come |
//! | `alarms.rs` | the times at which that search must run |

mod alarms;
pub(super) mod expiry;
pub(super) mod key;
pub(super) mod open_transactions;
pub(super) mod parked;
pub(super) mod unsettled_ends;
