//! [`ShardWork`]: what a shard's resource manager logs.

use serde::{Deserialize, Serialize};

use crate::{
    ring::{NodeId, RangeSet},
    sharding::{Digest, Tenure},
};

/// A piece of work at a shard, as its log holds it: a client's, or a step of a hand-over.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) enum ShardWork<W> {
    /// A client's.
    Client(ClientWork<W>),
    /// The shard gives ranges away.
    Release(Departure),
    /// The shard takes ranges.
    Take(Arrival),
}

/// A client's piece of work, and the stamp under which the gate let it in.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct ClientWork<W> {
    pub(super) stamp: Tenure,
    pub(super) work: W,
}

/// Ranges that a shard gives away.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Departure {
    pub(super) ranges: RangeSet,
    pub(super) tenure: Tenure,
    pub(super) to: NodeId,
}

/// Ranges that a shard takes.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Arrival {
    pub(super) ranges: RangeSet,
    pub(super) tenure: Tenure,
    pub(super) content: Content,
}

/// The records of ranges that a shard takes.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) enum Content {
    /// They come along.
    Sent {
        #[serde(with = "serde_bytes")]
        records: Vec<u8>,
        digest: Digest,
    },
    /// The shard has them already: those of a ring's first assignment.
    InPlace,
}
