//! The description of a ring before it is built.

use super::{HashRing, KeyHasher, Node, Placement, RingError, Xxh3};

/// The description of a ring to be built. [`HashRing::builder`] returns one.
///
/// Nothing is checked before [`build`](RingBuilder::build). A builder is plain data: it can be
/// cloned, and be sent to another thread.
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
#[derive(Clone, Debug)]
#[must_use = "a builder does nothing before `build`"]
pub struct RingBuilder<H = Xxh3> {
    nodes: Vec<Node>,
    placement: Placement,
    /// Virtual nodes for each unit of weight. `None` is the placement's default.
    virtual_nodes: Option<u32>,
    hasher: H,
}

impl RingBuilder {
    /// Returns a builder without nodes, with hashed placement, its default number of virtual nodes,
    /// and [`Xxh3`] with its pinned seed.
    pub fn new() -> Self {
        Self { nodes: Vec::new(), placement: Placement::Hashed, virtual_nodes: None, hasher: Xxh3::default() }
    }
}

impl Default for RingBuilder {
    fn default() -> Self {
        Self::new()
    }
}

impl<H> RingBuilder<H> {
    /// Adds a node: a [`Node`], or an id for one of weight 1. The order of nodes has no effect.
    pub fn node(mut self, node: impl Into<Node>) -> Self {
        self.nodes.push(node.into());
        self
    }

    /// Adds several nodes. The order of nodes has no effect.
    pub fn nodes<N: Into<Node>>(mut self, nodes: impl IntoIterator<Item = N>) -> Self {
        self.nodes.extend(nodes.into_iter().map(Into::into));
        self
    }

    /// Sets how tokens are placed. The default is [`Placement::Hashed`].
    pub fn placement(self, placement: Placement) -> Self {
        Self { placement, ..self }
    }

    /// Sets how many virtual nodes each unit of weight gets, at least 1, instead of the placement's
    /// [default](Placement::default_virtual_nodes). More virtual nodes make the load more even, and
    /// the ring larger.
    ///
    /// With balanced placement, it is the number for a ring built afresh. After changes, a unit of
    /// weight has as many on average, or a few more.
    pub fn virtual_nodes(self, virtual_nodes: u32) -> Self {
        Self { virtual_nodes: Some(virtual_nodes), ..self }
    }

    /// Sets the function that places keys and virtual nodes, instead of [`Xxh3`].
    pub fn hasher<G: KeyHasher>(self, hasher: G) -> RingBuilder<G> {
        let Self { nodes, placement, virtual_nodes, .. } = self;
        RingBuilder { nodes, placement, virtual_nodes, hasher }
    }
}

impl<H: KeyHasher> RingBuilder<H> {
    /// Builds the ring, in O(T) for T tokens that are about uniform, in O(T log T) for any.
    ///
    /// # Errors
    ///
    /// - [`RingError::NoNodes`] if there is no node;
    /// - [`RingError::DuplicateNode`] if two nodes share an id;
    /// - [`RingError::InvalidNodeId`], [`RingError::InvalidZone`] or [`RingError::ZeroWeight`] for
    ///   a bad node;
    /// - [`RingError::ZeroVirtualNodes`] and [`RingError::TooManyTokens`] for a number of virtual
    ///   nodes out of range.
    pub fn build(self) -> Result<HashRing<H>, RingError> {
        let virtual_nodes = self.virtual_nodes.unwrap_or(self.placement.default_virtual_nodes());
        HashRing::from_parts(self.nodes, self.placement, virtual_nodes, self.hasher)
    }
}
