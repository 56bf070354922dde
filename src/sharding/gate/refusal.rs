//! [`GateRefusal`]: why a gate does not let work in.

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::{ring::NodeId, sharding::Tenure};

/// Why a shard's gate did not let work in, or did not begin a hand-over. Nothing has happened then,
/// and the transaction can go on: a client asks again, or asks another shard. It serialises.
#[derive(Clone, Debug, PartialEq, Eq, Error, Serialize, Deserialize)]
#[non_exhaustive]
pub enum GateRefusal {
    /// The shard has given the position away.
    #[error(
        "this shard has given the position to node {owner} in hand-over {since}; refresh the assignment and ask that node"
    )]
    NotOwner {
        /// The hand-over that took it away.
        since: Tenure,
        /// The node that it went to. It may have given the position away again.
        owner: NodeId,
    },
    /// The shard does not own the position yet: its hand-over is being committed.
    #[error("the position has not arrived at this shard yet; try again in a moment")]
    NotYet,
    /// The position is being given away.
    #[error("the position is being given away; try again in a moment")]
    Moving,
    /// The shard does not own all of the ranges that it is to give away.
    #[error("this shard does not own all of the ranges that it was to give away; the mover reads the assignment again")]
    NotAllOwned,
    /// The shard owns some of the ranges that it is to take.
    #[error("this shard owns some of the ranges already that it was to take; the mover reads the assignment again")]
    Owned,
    /// Another hand-over of some of the ranges is under way.
    #[error("another hand-over of some of these ranges is under way; try again when it has ended")]
    Overlaps,
    /// What the shard was to give away is not sealed, because its hand-over was taken back.
    #[error("the hand-over was taken back meanwhile; begin it again")]
    NotSealed,
}

impl GateRefusal {
    /// Whether the client should wait a moment and ask the same shard again.
    #[must_use]
    pub const fn is_brief(&self) -> bool {
        matches!(self, Self::NotYet | Self::Moving)
    }
}
