//! Which nodes hold copies of a key, in order of preference.
//!
//! In reading order:
//!
//! - [`any_zone`]: [`Replicas`], the nodes of the tokens from a position on, each once;
//! - [`across_zones`]: [`ZoneReplicas`], the same nodes, in rounds of one of each zone;
//! - [`index`]: [`ReplicaIndex`], which has worked out the start of both lists for every token;
//! - [`small_set`]: the set in which the first two note what they have met.

mod across_zones;
mod any_zone;
mod index;
mod small_set;

pub use across_zones::ZoneReplicas;
pub(super) use across_zones::{Accepting, Eligible, rounds_from, rounds_of};
pub use any_zone::Replicas;
pub use index::{HeldRing, ReplicaIndex};
pub(super) use small_set::SmallSet;
