//! The errors of rings.

use super::{
    DRAINING_BALANCED_FORMAT_VERSION, DRAINING_FORMAT_VERSION, FORMAT_VERSION, HISTORY_FORMAT_VERSION, MAX_HISTORY,
    MAX_NAME_BYTES, MAX_RAMP_STEPS, MAX_TOKENS, NodeId, PINS_FORMAT_VERSION, Position, RingEpoch,
};

/// Why a ring could not be built, changed, compared or read.
///
/// An operation that returns an error has changed nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RingError {
    /// A ring was to be built without nodes.
    #[error("a ring needs at least one node: give the builder one, or keep an `Option<HashRing>`")]
    NoNodes,

    /// The node to be removed is the only one.
    #[error("node `{id}` is the last of its ring, and a ring is never empty: add another node first, or drop the ring")]
    LastNode {
        /// The node that stays.
        id: NodeId,
    },

    /// Two nodes have the same id.
    #[error("the ring has a node `{id}` already: ids are unique, so choose another or use `replace`")]
    DuplicateNode {
        /// The id that was given twice.
        id: NodeId,
    },

    /// No node has this id.
    #[error("the ring has no node `{id}`")]
    UnknownNode {
        /// The id that was looked for.
        id: NodeId,
    },

    /// A node id is empty or too long.
    #[error("a node id has 1 to {MAX_NAME_BYTES} bytes, this one has {length}")]
    InvalidNodeId {
        /// Length of the rejected id in bytes.
        length: usize,
    },

    /// A zone's name is empty or too long.
    #[error(
        "a zone has 1 to {MAX_NAME_BYTES} bytes, that of node `{id}` has {length}: leave the zone out if there is none"
    )]
    InvalidZone {
        /// The node with the zone.
        id: NodeId,
        /// Length of the rejected zone in bytes.
        length: usize,
    },

    /// A node has weight 0, so it would own nothing.
    #[error("node `{id}` has weight 0: give it at least 1, or leave it out of the ring")]
    ZeroWeight {
        /// The node of weight 0.
        id: NodeId,
    },

    /// A kind of ring without weights got a node of another weight than 1.
    #[error("node `{id}` has a weight other than 1, which this kind of ring does not support: use the weighted kind")]
    UnevenWeights {
        /// The node with another weight than 1.
        id: NodeId,
    },

    /// The number of virtual nodes for each unit of weight is 0, so the ring would have no tokens.
    #[error("a ring needs at least 1 virtual node for each unit of weight")]
    ZeroVirtualNodes,

    /// The sum over all nodes of weight times virtual nodes is over [`MAX_TOKENS`], or for a
    /// balanced ring, over that divided by [`MAX_TOKEN_GROWTH`](super::MAX_TOKEN_GROWTH).
    #[error(
        "the ring would have up to {tokens} tokens, over the limit of {MAX_TOKENS}: use smaller weights or fewer virtual nodes"
    )]
    TooManyTokens {
        /// Number of tokens that the ring could have had (saturating).
        tokens: u64,
    },

    /// Two rings place keys with different hash functions, so their positions can't be compared.
    #[error("the two rings hash keys differently, so any key may move: build both with the same hasher")]
    DifferentHashers,

    /// A [`SharedRing`](super::SharedRing) was to be changed from inside the closure of its own
    /// [`update`](super::SharedRing::update), on the thread that runs it.
    #[error(
        "this thread is inside an `update` of the same `SharedRing`: change the `&mut HashRing` that the closure gets, or \
        change the shared ring after `update` has returned"
    )]
    UpdateInUpdate,

    /// A [`SharedRing`](super::SharedRing) was started at such a high epoch that no higher one is
    /// left for another version.
    #[error("epoch {epoch} is the last possible one: start the shared ring at a lower one, 1 for instance")]
    LastEpoch {
        /// The current version's epoch.
        epoch: RingEpoch,
    },

    /// A subset was to have no node.
    #[error("a subset has at least 1 node: give a size from 1 on, or use the whole ring")]
    EmptySubset,

    /// A [`RingHistory`](super::RingHistory) has [`MAX_HISTORY`] versions within its window.
    #[error(
        "the history has {MAX_HISTORY} versions within its window, and takes no more: make several changes of members at \
        once, or use a shorter window"
    )]
    HistoryFull,

    /// The versions of a serialised [`RingHistory`](super::RingHistory) are not in the order of their
    /// times.
    #[error("the serialised history has a version that is older than the one before it: list the oldest first")]
    HistoryOutOfOrder,

    /// A serialised [`RingHistory`](super::RingHistory) has a format that this version doesn't know.
    #[error(
        "the serialised history has format {found}, this version reads format {HISTORY_FORMAT_VERSION}: upgrade the reader"
    )]
    UnsupportedHistory {
        /// The format found.
        found: u32,
    },

    /// A [`Ramp`](super::Ramp) has no step, more than [`MAX_RAMP_STEPS`], or more than its node's
    /// weight has units.
    #[error(
        "a ramp of node `{id}` to weight {weight} can't have {steps} steps: choose from 1 up to the weight, at most \
        {MAX_RAMP_STEPS}; `HashRing::refine_weights` gives a ring finer weights"
    )]
    RampSteps {
        /// The node that was to get its weight in steps.
        id: NodeId,
        /// Its whole weight.
        weight: u32,
        /// The rejected number of steps.
        steps: u32,
    },

    /// A [`Ramp`](super::Ramp) ends later than the system's time can express.
    #[error("the ramp of node `{id}` ends later than any time that the system knows: use a shorter duration")]
    RampEnd {
        /// The node that was to get its weight in steps.
        id: NodeId,
    },

    /// A number of virtual nodes can't be divided by a factor without a remainder.
    #[error(
        "{virtual_nodes} virtual nodes for each unit of weight can't be divided by {factor}: use a divisor of them"
    )]
    UnevenUnits {
        /// The ring's number of virtual nodes for each unit of weight.
        virtual_nodes: u32,
        /// The rejected factor.
        factor: u32,
    },

    /// [`Pins`](super::Pins) hold positions on a node that is not a member, or is to leave.
    #[error(
        "positions are pinned to node `{id}`, so it has to be a member: keep or add the node, pin the positions to another \
        one, or release them"
    )]
    PinnedNode {
        /// The node that the positions are held on.
        id: NodeId,
    },

    /// Serialised [`Pins`](super::Pins) have a format that this version doesn't know.
    #[error(
        "the serialised pins have format {found}, this version reads format {PINS_FORMAT_VERSION}: upgrade the reader"
    )]
    UnsupportedPins {
        /// The format found.
        found: u32,
    },

    /// A [`Modular`](super::Modular) hash with a modulus below 2 sends every key to one position.
    #[error("the modulus is {p}, and has to be at least 2: use a prime above the number of keys")]
    ModulusTooSmall {
        /// The rejected modulus.
        p: u64,
    },

    /// A serialised ring has another hash function than the type it is read into.
    #[error("the serialised ring doesn't hash keys with {expected}: read it into a `HashRing` of its own hasher")]
    WrongHasher {
        /// The hash function of the type that was to be read.
        expected: &'static str,
    },

    /// A serialised ring has a format that this version doesn't know.
    #[error(
        "the serialised ring has format {found}, this version reads formats {FORMAT_VERSION} to \
        {DRAINING_BALANCED_FORMAT_VERSION}: upgrade the reader"
    )]
    UnsupportedFormat {
        /// The format found.
        found: u32,
    },

    /// A serialised ring has a draining node, but its format has none.
    #[error(
        "the serialised ring's node `{id}` is draining, which its format can't say: write format \
        {DRAINING_FORMAT_VERSION}, or {DRAINING_BALANCED_FORMAT_VERSION} if it has tokens"
    )]
    DrainingOutOfFormat {
        /// The draining node.
        id: NodeId,
    },

    /// The tokens of a serialised balanced ring don't ascend.
    #[error("the serialised ring's token at {} isn't after the one before it: tokens ascend", position.as_u64())]
    TokensOutOfOrder {
        /// The position of the first token that isn't after the one before it.
        position: Position,
    },

    /// A serialised balanced ring has a token of a node that is not in it.
    #[error("the serialised ring has a token of node number {index}, and {nodes} nodes, counted from 0")]
    UnknownTokenOwner {
        /// The number that no node has.
        index: u32,
        /// The number of nodes.
        nodes: usize,
    },

    /// A serialised balanced ring has a node without a token, which would own nothing.
    #[error("the serialised ring has no token of node `{id}`: every node has at least one")]
    NodeWithoutToken {
        /// The node without a token.
        id: NodeId,
    },
}
