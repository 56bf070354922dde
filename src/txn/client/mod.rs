//! What clients hold: the coordinator, its transactions, and their outcomes.
//!
//! | file | contents |
//! |---|---|
//! | `coordinator.rs` | [`Coordinator`]: begins transactions, settles, shuts down |
//! | `builder.rs` | [`CoordinatorBuilder`]: configures and opens a coordinator |
//! | `membership.rs` | participants that are added or retire while the coordinator is open |
//! | `admission.rs` | [`Limits`], and the wait for a free slot |
//! | `transaction.rs` | [`Transaction`]: enlists branches, then commits or rolls back |
//! | `commit.rs` | [`Commit`]: waits for the outcome |
//! | `delivered.rs` | [`Delivered`]: waits until every branch has acknowledged |
//! | `run/` | [`Coordinator::run`]: tries a transaction again while what fails is transient |
//!
//! [`Coordinator`]: coordinator::Coordinator
//! [`CoordinatorBuilder`]: builder::CoordinatorBuilder
//! [`Limits`]: admission::Limits
//! [`Transaction`]: transaction::Transaction
//! [`Commit`]: commit::Commit
//! [`Delivered`]: delivered::Delivered

pub(super) mod admission;
pub(super) mod builder;
pub(super) mod commit;
pub(super) mod coordinator;
pub(super) mod delivered;
pub(super) mod membership;
pub(super) mod run;
pub(super) mod transaction;
