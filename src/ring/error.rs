//! What can be wrong with a ring's members or settings.

use super::{FORMAT_VERSION, MAX_NAME_LEN, MAX_TOKENS, NodeId};

/// Why a ring could not be built, changed, compared or read.
///
/// An operation that answers with an error has changed nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RingError {
    /// A ring was to be built of no nodes at all.
    #[error("a ring needs at least one node: give the builder one, or keep an `Option<HashRing>`")]
    NoNodes,

    /// The node to be removed is the only one.
    #[error("node `{id}` is the last of its ring, and a ring is never empty: add another node first, or drop the ring")]
    LastNode {
        /// The node that stays.
        id: NodeId,
    },

    /// Two nodes carry one id.
    #[error("the ring has a node `{id}` already: ids are unique, so pick another or use `replace`")]
    DuplicateNode {
        /// The id given twice.
        id: NodeId,
    },

    /// No node carries this id.
    #[error("the ring has no node `{id}`")]
    UnknownNode {
        /// The id that was looked for.
        id: NodeId,
    },

    /// A node id is empty or too long.
    #[error("a node id has 1 to {MAX_NAME_LEN} bytes, this one has {length}")]
    InvalidNodeId {
        /// Length of the rejected id in bytes.
        length: usize,
    },

    /// A zone's name is empty or too long.
    #[error(
        "a zone has 1 to {MAX_NAME_LEN} bytes, that of node `{id}` has {length}: leave the zone out if there is none"
    )]
    InvalidZone {
        /// The node that carries the zone.
        id: NodeId,
        /// Length of the rejected zone in bytes.
        length: usize,
    },

    /// A node of weight zero would own nothing.
    #[error("node `{id}` has weight 0: give it at least 1, or leave it out of the ring")]
    ZeroWeight {
        /// The weightless node.
        id: NodeId,
    },

    /// A ring that knows no weights was given one.
    #[error("node `{id}` has a weight other than 1, which this kind of ring can't honour: use the weighted kind")]
    UnevenWeights {
        /// The node of another weight.
        id: NodeId,
    },

    /// Zero virtual nodes for each unit of weight would leave the ring without tokens.
    #[error("a ring needs at least 1 virtual node for each unit of weight")]
    ZeroVirtualNodes,

    /// The sum over all nodes of weight times virtual nodes is over [`MAX_TOKENS`].
    #[error(
        "the ring would have {tokens} tokens, over the limit of {MAX_TOKENS}: use smaller weights or fewer virtual nodes"
    )]
    TooManyTokens {
        /// Tokens the ring would have had (saturating).
        tokens: u64,
    },

    /// Two rings place keys by different hash functions, so their positions can't be compared.
    #[error("the two rings hash keys differently, so any key may move: build both with the same hasher")]
    DifferentHashers,

    /// A [`Modular`](super::Modular) hash with a modulus below 2 sends every key to one position.
    #[error("the modulus is {p}, and has to be at least 2: use a prime above the number of keys")]
    ModulusTooSmall {
        /// The rejected modulus.
        p: u64,
    },

    /// A serialised ring names another hash function than the type it is read into.
    #[error("the serialised ring doesn't hash keys with {expected}: read it into a `HashRing` of its own hasher")]
    WrongHasher {
        /// The hash function of the type that was asked for.
        expected: &'static str,
    },

    /// A serialised ring is of a format this version doesn't know.
    #[error("the serialised ring has format {found}, this version reads format {FORMAT_VERSION}: upgrade the reader")]
    UnsupportedFormat {
        /// The format found.
        found: u32,
    },
}
