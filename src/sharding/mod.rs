//! RING MEETS TRANSACTIONS: shards that a ring finds, and whose data moves while clients write.
#![warn(clippy::exhaustive_enums, clippy::exhaustive_structs, missing_debug_implementations)]

mod assignment;
mod by_position;
mod cluster;
pub mod conformance;
mod gate;
mod host;
mod keeper;
mod link;
mod mover;
mod pace;
mod records;
mod shard;
mod sharded;
mod tenure;
mod work;

pub use assignment::{Assignment, AssignmentStep, AssignmentUpdate, Place, SharedAssignment, Side};
pub use by_position::ByPosition;
pub use cluster::{
    ChangeBuilder, Cluster, ClusterBuilder, ClusterError, DEFAULT_PATIENCE, Moving, Plan, Progress, RouteError, Routed,
    ServiceClient, shard_name,
};
#[doc(hidden)]
pub use gate::Gate;
pub use gate::{GateImage, GateNote, GateRefusal};
pub use host::{GivenUp, ShardError, ShardHost, ShardStatus};
pub use keeper::{FileRingStore, KeeperRefusal, MemoryRingStore, RingStore};
pub use link::{Connection, ShardLink, ShardMoves};
pub use mover::Blocked;
pub use pace::{DEFAULT_BYTES_PER_SECOND, DEFAULT_FREEZE, Pace};
pub use records::{Digest, Export, ExportError, MAX_CHUNK_BYTES, MAX_CHUNK_RANGES, MalformedRecords, Records};
pub use shard::{Keyed, Shard};
pub use sharded::ShardRefusal;
pub use tenure::Tenure;
pub use work::ShardWork;
