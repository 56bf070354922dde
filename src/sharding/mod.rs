//! RING MEETS TRANSACTIONS. Shards that a ring finds, several of them changed in one transaction, and
//! data that moves between nodes while clients write.
//!
//! A service that is too large for one node is divided into *shards*, one on each node of a
//! [ring](crate::ring). A key belongs to the shard on the node that the ring names. When a node joins or
//! leaves, the ring says which ranges of positions change their node; a [`Cluster`] then moves their
//! records, *chunk* by chunk. Each chunk is one distributed transaction: the shard that has the range
//! gives it away, the shard on the other node takes it, and the ring's keeper writes down that it has
//! moved. So a range is at one node or at the other, never at both or at neither, whatever crashes; and a
//! change that is interrupted goes on by itself.
//!
//! Implement [`Shard`] for your service, and [`Keyed`] for its work. A [`ShardHost`] makes a participant
//! of the shard; a [`Cluster`] routes clients' work to the shards and changes the nodes.
//! [The page about sharding](crate::docs::sharding) shows what happens in a move, what a crash leaves,
//! and what it costs.
//!
//! ```
//! use std::sync::Arc;
//! use parking_lot::Mutex;
//! use ringpact::{
//!     BranchId, HashRing, MemoryLog, Service, ServiceError,
//!     ring::{NodeId, Position, PositionRange},
//!     sharding::{
//!         ByPosition, Cluster, Connection, Export, GateImage, Keyed, Pace, Records, Shard, ShardHost, position_of,
//!     },
//! };
//! use serde::{Deserialize, Serialize};
//!
//! /// Adds to the balance of an account.
//! #[derive(Clone, Serialize, Deserialize)]
//! struct Add { account: String, cents: i64 }
//!
//! impl Keyed for Add {
//!     fn position(&self) -> Position { position_of(&self.account) }
//! }
//!
//! #[derive(Default)]
//! struct Accounts(Mutex<State>);
//!
//! #[derive(Default)]
//! struct State { balances: ByPosition<String, i64>, applied: Vec<BranchId>, image: GateImage }
//!
//! impl Service for Accounts {
//!     type Work = Add;
//!     type Refusal = std::convert::Infallible;
//!     fn try_reserve(&self, _: &BranchId, _: &Add) -> Result<(), Self::Refusal> { Ok(()) }
//!     fn confirm(&self, branch: &BranchId, adds: &[Add]) -> Result<(), ServiceError> {
//!         let mut state = self.0.lock();
//!         if !state.applied.contains(branch) {
//!             for add in adds {
//!                 *state.balances.get_or_insert_with(add.account.clone(), || 0) += add.cents;
//!             }
//!             state.applied.push(branch.clone());
//!         }
//!         Ok(())
//!     }
//!     fn cancel(&self, _: &BranchId, _: &[Add]) -> Result<(), ServiceError> { Ok(()) }
//! }
//!
//! // The records of a range: out, in, and away. This shard keeps all of it in memory.
//! impl Shard for Accounts {
//!     fn export(&self, range: PositionRange, into: &mut Export) -> Result<(), ServiceError> {
//!         self.0.lock().balances.export(range, into)
//!     }
//!     fn import(&self, range: PositionRange, records: Records<'_>) -> Result<(), ServiceError> {
//!         self.0.lock().balances.import(range, records)
//!     }
//!     fn discard(&self, range: PositionRange) -> Result<(), ServiceError> {
//!         self.0.lock().balances.discard(range);
//!         Ok(())
//!     }
//!     fn load(&self) -> Result<GateImage, ServiceError> { Ok(self.0.lock().image.clone()) }
//!     fn save(&self, image: &mut dyn FnMut() -> GateImage) -> Result<(), ServiceError> {
//!         self.0.lock().image = image(); // a real one writes its balances and this to a file
//!         Ok(())
//!     }
//! }
//!
//! let log = Arc::new(MemoryLog::new());
//! let shards = Arc::clone(&log);
//! let builder = Cluster::builder(log).first_ring(HashRing::new(["node-1", "node-2"])?);
//! let (builder, accounts) = builder.service("accounts", move |node: &NodeId| {
//!     let host = ShardHost::open(&format!("accounts.{node}"), Arc::clone(&shards), Accounts::default())?;
//!     Ok(Connection::local(Arc::new(host)))
//! });
//! let cluster = builder.open()?;
//!
//! let mut txn = cluster.begin();
//! accounts.execute(&mut txn, Add { account: "alice".into(), cents: -500 })?;
//! accounts.execute(&mut txn, Add { account: "bob".into(), cents: 500 })?;
//! txn.commit().wait()?;
//!
//! // A node joins. Its keys move to it while clients go on.
//! let plan = cluster.change()?.join("node-3").plan()?;
//! println!("{:.1} % of the keys move", plan.movement().fraction() * 100.0);
//! let moving = plan.start(Pace::new())?;
//! assert!(moving.wait(std::time::Duration::from_secs(10)));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! | file, in reading order | what is in it |
//! |---|---|
//! | `tenure.rs` | [`Tenure`]: since which hand-over a shard owns a position |
//! | `assignment.rs` | [`Assignment`]: which node has a position now, pure; and how threads and processes follow it |
//! | `gate/` | which work a shard lets in, pure |
//! | `shard.rs`, `records.rs` | [`Shard`], which a service implements, and how records travel |
//! | `by_position.rs` | [`ByPosition`]: a map with the ranges' methods |
//! | `work.rs`, `sharded.rs` | a shard behind its gate, as a service |
//! | `reads.rs` | [`ReadShard`]: a shard that answers questions outside of transactions |
//! | `turns.rs` | what has failed at an opening is done again in the log's order |
//! | `host.rs` | [`ShardHost`]: the shard as a participant |
//! | `request.rs`, `link.rs`, `remote.rs` | what a cluster asks of shards, and how it reaches them, here and in other processes |
//! | `detachable.rs` | a shard of this process, which goes when its node has left |
//! | `keeper/` | what the keeper of the ring knows, and makes durable |
//! | `pace.rs` | [`Pace`]: how fast data moves |
//! | `mover/` | which chunk is next, pure; and how one moves |
//! | `cluster/` | [`Cluster`], its clients and changes; [`ClusterFollower`] |
//! | `conformance/` | the suite that every shard must pass |

#![warn(clippy::exhaustive_enums, clippy::exhaustive_structs, missing_debug_implementations)]

mod assignment;
mod by_position;
mod cluster;
pub mod conformance;
mod detachable;
mod gate;
mod host;
mod keeper;
mod link;
mod mover;
mod pace;
mod reads;
mod records;
mod remote;
mod request;
mod shard;
mod sharded;
mod tenure;
mod turns;
mod work;

pub use assignment::{Assignment, AssignmentStep, AssignmentUpdate, Place, SharedAssignment, Side};
pub use by_position::ByPosition;
pub use cluster::{
    AssignmentFeed, ChangeBuilder, Cluster, ClusterBuilder, ClusterError, ClusterFollower, ClusterVerdicts,
    DEFAULT_PATIENCE, FollowerBuilder, Moving, Oversized, Plan, Progress, RouteError, Routed, ServiceClient,
    ShardFault, ShardFinding, shard_name,
};
#[doc(hidden)]
pub use gate::Gate;
pub use gate::{GateImage, GateNote, GateRefusal};
pub use host::{GivenUp, MAX_PATIENCE, ShardError, ShardHost, ShardStatus};
pub use keeper::{FileRingStore, KeeperRefusal, MemoryRingStore, RingStore};
pub use link::{Answered, Connection, Executed, ShardLink};
pub use mover::Blocked;
pub use pace::{DEFAULT_BYTES_PER_SECOND, DEFAULT_FREEZE, Pace};
pub use reads::{Query, ReadShard};
pub use records::{Digest, Export, ExportError, MAX_CHUNK_BYTES, MAX_CHUNK_RANGES, MalformedRecords, Records};
pub use remote::{DEFAULT_ANSWER_WITHIN, RemoteShard, RemoteWorkError};
pub use request::{ShardMoves, ShardRequest, ShardResponse};
pub use shard::{Keyed, Shard, position_of};
pub use sharded::ShardRefusal;
pub use tenure::Tenure;
