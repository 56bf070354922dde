//! ATOMIC COMMIT. The pure protocol, and the one driver that carries it out.
//!
//! [`Coordinator`] opens on a log, [`Transaction`]s begin at it, and [`Transaction::commit`] gives
//! a [`Commit`] that a thread can wait for and a task can await. [`CommitProtocol`] is what
//! decides, and [`BranchProtocol`] is its counterpart at the participants; both are pure, for those
//! who check models or write drivers of their own.

mod admission;
mod alarms;
mod breakers;
mod circuit;
mod commit;
pub mod commit_protocol;
mod coordinator;
mod coordinator_core;
mod delivered;
mod expiry;
mod introductions;
mod lanes;
mod members;
mod observe;
mod open_transactions;
mod openings;
mod operator;
mod parked;
mod policy;
mod recovery;
mod scheduler;
mod status;
mod transaction;
mod transaction_driver;
mod unclaimed;
mod unsettled_ends;
mod verdict_endpoint;

pub use crate::participant::BranchProtocol;
pub use admission::{BeginError, DEFAULT_MAX_IN_FLIGHT, DEFAULT_MAX_UNDELIVERED, Limits};
pub use circuit::{CircuitState, Refusal};
pub use commit::{Commit, CommitError, RollbackCause};
pub use commit_protocol::{Action, BranchState, Cause, CommitProtocol, Input, Outcome, Remembered, TransactionState};
pub use coordinator::{Coordinator, CoordinatorBuilder, CoordinatorError, Recovered};
pub use delivered::{Delivered, DeliveryError};
pub use openings::{Openings, Standing};
pub use operator::OperatorError;
pub use policy::Policy;
pub use status::{BranchStatus, CircuitStatus, CoordinatorStatus, TransactionStatus};
pub use transaction::{BranchError, Transaction};
pub use unclaimed::{MAX_UNCLAIMED, UnclaimedBranch};
pub use verdict_endpoint::VerdictEndpoint;
