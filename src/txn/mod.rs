//! ATOMIC COMMIT. The pure protocol, and the one driver that carries it out.
//!
//! [`Coordinator`] opens on a log, [`Transaction`]s begin at it, and [`Transaction::commit`] gives a [`Commit`] that a
//! thread can wait for and a task can await. [`CommitProtocol`] is what decides, and [`BranchProtocol`] is its
//! counterpart at the participants; both are pure, for those who check models or write drivers of their own.

mod commit;
pub mod commit_protocol;
mod coordinator;
mod driver;
mod endings;
mod policy;
mod recovery;
mod shared;
mod task;
mod transaction;

pub use crate::participant::BranchProtocol;
pub use commit::{Commit, CommitError, RollbackCause};
pub use commit_protocol::{Action, Cause, CommitProtocol, Input, Outcome};
pub use coordinator::{Coordinator, CoordinatorBuilder, CoordinatorError, CoordinatorStatus, Recovered};
pub use policy::Policy;
pub use transaction::{BranchError, Transaction};
