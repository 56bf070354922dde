//! Consistent-hash placement and atomic commit for services that are spread over many nodes.
//!
//! - [`ring`]: which node owns a key. [`HashRing`] is a consistent-hash ring with virtual nodes.
//! - [`txn`]: several services change together, or none of them. [`Coordinator`] runs two-phase commit
//!   over a durable [`log`]; a [`ResourceManager`] makes a durable participant of a service's try,
//!   confirm and cancel.
//! - [`registry`]: which instances of a service are alive. A ring can follow it.
//! - [`docs`]: the long explanations, by reader.
//!
//! ```
//! use ringpact::HashRing;
//!
//! let mut ring = HashRing::new(["cache-1", "cache-2", "cache-3"])?;
//! let owner = ring.owner("alice").id().to_string();
//! ring.remove(&owner)?;
//! assert_ne!(ring.owner("alice").id().as_str(), owner, "the next node on the ring has it now");
//! # Ok::<(), ringpact::ring::RingError>(())
//! ```
//!
//! A whole program with transactions opens the [README](https://docs.rs/crate/ringpact).
#![cfg_attr(not(feature = "large-pages"), forbid(unsafe_code))]
#![cfg_attr(feature = "large-pages", deny(unsafe_code))]
#![warn(missing_docs)]
// docs.rs names, beside each item, the feature that the item needs.
#![cfg_attr(docsrs, feature(doc_cfg))]

// Ring and registry, in every build.
mod error_chain;
mod exact;
pub mod registry;
pub mod ring;

// Transactions: the feature `transactions`, which is a default.
#[cfg(feature = "transactions")]
pub mod docs;
#[cfg(feature = "transactions")]
mod foreign;
#[cfg(feature = "transactions")]
pub mod id;
#[cfg(feature = "transactions")]
pub mod log;
#[cfg(feature = "transactions")]
pub mod participant;
#[cfg(feature = "transactions")]
#[doc(hidden)]
pub mod platform;
#[cfg(feature = "transactions")]
pub mod sharding;
#[cfg(feature = "transactions")]
mod striped;
#[cfg(feature = "transactions")]
pub mod txn;

pub use error_chain::{causes, error_chain};
#[cfg(feature = "transactions")]
pub use id::{BranchId, Epoch, IdError, Name, TxnId, TxnOrdinal};
#[cfg(feature = "transactions")]
pub use log::{FileLog, LogError, LogId, MemoryLog, TransactionLog};
#[cfg(feature = "tokio")]
pub use participant::AsyncParticipant;
#[cfg(feature = "transactions")]
pub use participant::{Call, Participant, ParticipantError, ResourceManager, Service, ServiceError, Vote};
pub use registry::{Instance, LeaseToken, Registry, RingFollower};
pub use ring::{HashRing, Node, RingKey, SharedRing};
#[cfg(feature = "transactions")]
pub use txn::{Commit, CommitError, Coordinator, CoordinatorError, Limits, Policy, Transaction, TransactionState};

/// The README's program compiles and runs.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
pub struct Readme;
