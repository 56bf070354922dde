//! Placement and atomic commit for sharded, multi-service backends.
#![forbid(unsafe_code)]
#![warn(missing_docs)]

pub mod docs;
pub mod id;
pub mod log;
pub mod participant;
pub mod registry;
pub mod ring;
pub mod txn;

pub use id::{BranchId, Epoch, IdError, Mark, Name, TxnId};
pub use log::{Durability, Fact, FileLog, LogError, LogId, LogStats, Lsn, MemoryLog, Record, TransactionLog};
pub use participant::{Participant, ParticipantError, ResourceManager, Service, ServiceError, Vote};
pub use registry::{Instance, LeaseToken, Registry, RingFollower};
pub use ring::{HashRing, Node, RingKey};
pub use txn::{Commit, CommitError, Coordinator, Policy, Transaction};
