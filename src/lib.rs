//! Placement and atomic commit for sharded, multi-service backends.
#![forbid(unsafe_code)]
#![warn(missing_docs)]

pub mod docs;
pub mod id;
pub mod log;
pub mod registry;
pub mod ring;

pub use id::{BranchId, Epoch, IdError, Mark, Name, TxnId};
pub use log::{Durability, Fact, LogError, LogId, LogStats, Lsn, MemoryLog, Record, TransactionLog};
pub use registry::{Instance, Registry, RingFollower};
pub use ring::{HashRing, Node, RingKey};
