//! Describing a ring before it is built.

use super::{HashRing, KeyHasher, Node, RingError, Xxh3};

/// Virtual nodes for each unit of weight, unless told otherwise.
///
/// It is what ketama (libmemcached's weighted mode) and nginx use. The most loaded of 10 equal nodes then owns about
/// 1.12 times its fair share, of 100 about 1.22, of 1,000 about 1.28, and a node costs 2.5 kB. See [the placement
/// page](crate::docs::placement) for how to choose another number.
pub const DEFAULT_VIRTUAL_NODES: u32 = 160;

/// What a ring is to be made of. Get one from [`HashRing::builder`].
///
/// Nothing is checked before [`build`](RingBuilder::build).
///
/// ```
/// use ringpact::ring::{HashRing, Node};
///
/// let ring = HashRing::builder()
///     .virtual_nodes(40)
///     .node("a")
///     .node(Node::new("b").with_weight(2))
///     .nodes(["c", "d"])
///     .build()?;
/// assert_eq!(ring.token_count(), 40 * 5);
/// # Ok::<(), ringpact::ring::RingError>(())
/// ```
#[derive(Debug, Clone)]
#[must_use = "a builder does nothing before `build`"]
pub struct RingBuilder<H = Xxh3> {
    nodes: Vec<Node>,
    virtual_nodes: u32,
    hasher: H,
}

impl RingBuilder {
    /// No nodes, [`DEFAULT_VIRTUAL_NODES`], [`Xxh3`] with its pinned seed.
    pub fn new() -> Self {
        Self { nodes: Vec::new(), virtual_nodes: DEFAULT_VIRTUAL_NODES, hasher: Xxh3::default() }
    }
}

impl Default for RingBuilder {
    fn default() -> Self {
        Self::new()
    }
}

impl<H> RingBuilder<H> {
    /// One more node: a [`Node`], or an id for one of weight 1. The order of nodes has no effect.
    pub fn node(mut self, node: impl Into<Node>) -> Self {
        self.nodes.push(node.into());
        self
    }

    /// More nodes.
    pub fn nodes<N: Into<Node>>(mut self, nodes: impl IntoIterator<Item = N>) -> Self {
        self.nodes.extend(nodes.into_iter().map(Into::into));
        self
    }

    /// How many virtual nodes each unit of weight gets, at least 1. More make the load more even, and the ring larger.
    pub fn virtual_nodes(self, virtual_nodes: u32) -> Self {
        Self { virtual_nodes, ..self }
    }

    /// The function that places keys and virtual nodes, instead of [`Xxh3`].
    pub fn hasher<G: KeyHasher>(self, hasher: G) -> RingBuilder<G> {
        RingBuilder { nodes: self.nodes, virtual_nodes: self.virtual_nodes, hasher }
    }
}

impl<H: KeyHasher> RingBuilder<H> {
    /// The ring, in O(T) for T tokens that are about uniform, in O(T log T) for any.
    ///
    /// # Errors
    ///
    /// - [`RingError::NoNodes`] if there is none;
    /// - [`RingError::DuplicateNode`] if two share an id;
    /// - [`RingError::InvalidNodeId`], [`RingError::InvalidZone`] or [`RingError::ZeroWeight`] for a bad node;
    /// - [`RingError::ZeroVirtualNodes`] and [`RingError::TooManyTokens`] for a number of virtual nodes out of range.
    pub fn build(self) -> Result<HashRing<H>, RingError> {
        HashRing::from_parts(self.nodes, self.virtual_nodes, self.hasher)
    }
}
