//! Placement: which node owns a key.
//!
//! A [`HashRing`] puts keys and nodes on one circle of 2^64 positions. A node stands on the circle
//! at many places, its *virtual nodes*, each of which is a *token* (a position). A key belongs to
//! the first token at or after its own position, clockwise: consistent hashing, after Karger,
//! Lehman, Leighton, Panigrahy, Levine and Lewin, "Consistent Hashing and Random Trees" (STOC 1997,
//! section 4), with weights as in "Web Caching with Consistent Hashing" (Karger and others, 1999).
//!
//! What it promises:
//!
//! - **Placement is a specified function**, down to the byte: see [the placement
//!   page](crate::docs::placement). It doesn't change between releases, processes or machines, and
//!   never goes through [`std::hash::Hash`].
//! - **A ring is a pure function of its members.** The order in which they were given never
//!   matters, and a ring that was changed by [`HashRing::add`] and [`HashRing::remove`] equals one
//!   built afresh. That is so with [`Placement::Hashed`], the default. A ring with
//!   [`Placement::Balanced`] has even shares instead: it is a function of the members and of the
//!   changes made, in their order.
//! - **Movement is minimal.** A node that joins only takes keys, a node that leaves only gives its
//!   own away, and nothing moves between two nodes that stay. [`HashRing::movement`] lists exactly
//!   what moves between any two rings.
//! - **A ring is never empty**, so [`HashRing::owner`] returns a node, not an option, and never
//!   panics.
//! - **A look-up reads one cache line**, and a node joins or leaves in place: see [the page about
//!   look-ups](crate::docs::lookup).
//!
//! For services that need more than an owner:
//!
//! | to | use |
//! |---|---|
//! | keep copies | [`HashRing::replicas`], [`HashRing::replicas_across_zones`], [`ReplicaIndex`] |
//! | even out what is in flight | [`BoundedLoads`] |
//! | give each tenant a few nodes | [`HashRing::subset`], and [`RingHistory`] for the nodes that it had |
//! | start a node slowly | [`Ramp`] |
//! | empty a node before it leaves | [`HashRing::set_draining`] |
//! | hold a key or a range on a node | [`PinnedRing`] |
//!
//! No call here blocks, with two exceptions: writers of a [`SharedRing`] wait for each other, and
//! [`BoundedLoads`] takes a short lock. Async code may call everything else anywhere, and should
//! call [`SharedRing::update`] on a thread that may block.
//!
//! ```
//! use ringpact::ring::{HashRing, Node};
//!
//! let mut ring = HashRing::builder()
//!     .node("cache-1")
//!     .node(Node::new("cache-2").with_weight(2).with_zone("eu-1"))
//!     .build()?;
//! let before = ring.clone();
//!
//! ring.add("cache-3")?;
//! for moved in before.movement(&ring)?.ranges() {
//!     assert_eq!(moved.to.id(), "cache-3");
//! }
//! # Ok::<(), ringpact::ring::RingError>(())
//! ```
//!
//! # Map of the source, in reading order
//!
//! | file | what is in it |
//! |---|---|
//! | `key.rs`, `hash.rs` | from bytes to positions |
//! | `node.rs`, `members.rs` | nodes, and the nodes of a ring |
//! | `placement.rs`, `builder.rs` | the settings of a ring |
//! | `hash_ring.rs`, `error.rs` | [`HashRing`] |
//! | `hashed.rs`, `balanced/` | where tokens go: the same functions, once for each placement |
//! | `token_table/` | all tokens in cache lines, and how the first one after a position is found |
//! | `batch.rs` | many look-ups at once |
//! | `replicas/` | preference lists |
//! | `draining.rs` | nodes that take no new keys |
//! | `ramp.rs` | nodes that get their weight in steps |
//! | `subset/` | a few nodes for each tenant |
//! | `movement/` | what moves between two rings |
//! | `ranges/` | sets of positions, and values for positions |
//! | `pins/` | positions that are held on a node |
//! | `shared_ring.rs` | one ring for many threads |
//! | `bounded_loads/` | no node far above its share |
//! | `serialised.rs`, `serialised_node.rs` | the wire form |
//! | `interop/` | the placement of other software |
//!
//! A *slot* in the private modules is a node's number in the token table. The public [`Slot`] is
//! something else: a unit of load.

#![warn(clippy::exhaustive_enums, clippy::exhaustive_structs, missing_debug_implementations)]

mod balanced;
mod batch;
mod bounded_loads;
mod builder;
mod draining;
mod error;
mod hash;
mod hash_ring;
mod hashed;
#[cfg(any(feature = "ketama", feature = "nginx"))]
mod interop;
mod key;
mod members;
mod movement;
mod node;
mod pins;
mod placement;
mod ramp;
mod ranges;
mod replicas;
mod serialised;
mod serialised_node;
mod shared_ring;
mod subset;
mod token_table;

pub use balanced::MAX_TOKEN_GROWTH;
pub use bounded_loads::{AcquireError, BoundedLoads, Epsilon, EpsilonError, NodeLoad, Slot};
pub use builder::RingBuilder;
pub use error::RingError;
pub use hash::{KeyHasher, Modular, Position, Xxh3};
pub use hash_ring::{HashRing, MAX_TOKENS, Token};
#[cfg(feature = "ketama")]
pub use interop::KetamaRing;
#[cfg(feature = "nginx")]
pub use interop::NginxRing;
#[cfg(any(feature = "ketama", feature = "nginx"))]
pub use interop::Walk;
pub use key::RingKey;
pub use movement::{MovedRange, Movement, PositionRange, ReplicaMove, ReplicaMovement};
pub use node::{MAX_NAME_BYTES, Node, NodeId, Zone};
pub use pins::{PINS_FORMAT_VERSION, PinnedRing, Pins};
pub use placement::{DEFAULT_BALANCED_VIRTUAL_NODES, DEFAULT_VIRTUAL_NODES, Placement};
pub use ramp::{MAX_RAMP_STEPS, Ramp};
pub use ranges::{RangeMap, RangeSet};
pub use replicas::{HeldRing, ReplicaIndex, Replicas, ZoneReplicas};
pub use serialised::{
    BALANCED_FORMAT_VERSION, DRAINING_BALANCED_FORMAT_VERSION, DRAINING_FORMAT_VERSION, FORMAT_VERSION,
};
pub use shared_ring::{RingChange, RingEpoch, RingReader, RingVersion, SharedRing};
pub use subset::{HISTORY_FORMAT_VERSION, LookBack, MAX_HISTORY, RingHistory, Subset};
