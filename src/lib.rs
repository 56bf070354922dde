//! Placement and atomic commit for sharded, multi-service backends.
#![forbid(unsafe_code)]
#![warn(missing_docs)]

pub mod id;
pub mod log;
pub mod registry;
pub mod ring;

pub use id::{BranchId, Epoch, IdError, Mark, Name, TxnId};
pub use log::{Durability, Fact, FileLog, LogError, LogId, LogStats, Lsn, MemoryLog, Record, TransactionLog};
