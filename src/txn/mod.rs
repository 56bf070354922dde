//! ATOMIC COMMIT. The pure protocol, and the one driver that carries it out.
//!
//! [`Coordinator`] opens on a log, [`Transaction`]s begin at it, and [`Transaction::commit`]
//! returns a [`Commit`] that a thread can wait for and a task can await. [`CommitProtocol`]
//! decides, and [`BranchProtocol`] is its counterpart at the participants. Both are pure, for
//! models and for drivers of your own.
//!
//! | folder | contents, in reading order |
//! |---|---|
//! | `commit_protocol/` | the protocol of one transaction, pure |
//! | `client/` | what clients hold: coordinator, transaction, commit |
//! | `engine/` | what carries transactions out: the driver, threads, circuits |
//! | `table/` | which transactions are open, and below which number all have ended |
//! | `recovery/` | what an earlier life left behind |
//! | `operator/` | what operators see and do |
//! | `policy.rs` | time-outs and back-off |

#![warn(clippy::exhaustive_enums, clippy::exhaustive_structs, missing_debug_implementations)]

mod client;
pub mod commit_protocol;
mod engine;
mod operator;
pub(crate) mod policy;
mod recovery;
mod table;

pub use crate::participant::BranchProtocol;
pub use client::admission::{BeginError, DEFAULT_MAX_IN_FLIGHT, DEFAULT_MAX_UNDELIVERED, Limits};
pub use client::builder::{CoordinatorBuilder, CoordinatorError};
pub use client::commit::{Commit, CommitError, RollbackCause};
pub use client::coordinator::{Coordinator, Recovered};
pub use client::delivered::{Delivered, DeliveryError};
pub use client::membership::RetireError;
pub use client::run::{Attempt, RunError, RunOptions, WorkError};
pub use client::transaction::{BranchError, Transaction};
pub use commit_protocol::{Action, BranchState, Cause, CommitProtocol, Input, Outcome, Remembered, TransactionState};
pub use engine::circuit::{CircuitState, Refusal};
pub use operator::OperatorError;
pub use operator::status::{BranchStatus, CircuitStatus, CoordinatorStatus, RetiringStatus, TransactionStatus};
pub use operator::unclaimed::{MAX_UNCLAIMED, UnclaimedBranch};
pub use policy::Policy;
pub use recovery::openings::{Openings, Standing};
pub use recovery::verdict_endpoint::VerdictEndpoint;
