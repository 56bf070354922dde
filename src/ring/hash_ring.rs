//! The ring itself: look-ups, and changes of its members.
//!
//! In reading order: the type, its look-ups, what depends on positions alone, changes, and the
//! checks that all of them share. What depends on the placement is a `match` here: [`hashed`] and
//! [`balanced`] have the same functions.

use std::fmt;

use super::{
    KeyHasher, Movement, Node, NodeId, Placement, Position, ReplicaIndex, ReplicaMovement, Replicas, RingBuilder,
    RingError, RingKey, Xxh3, ZoneReplicas, balanced, hashed,
    members::Members,
    token_table::{Entry, TokenTable},
};

/// Maximum number of tokens (virtual nodes) in a ring: 1,024 nodes of 4,096 tokens, or 26,214 of
/// the default 160.
///
/// At up to 16 bytes a token, that is 64 MiB. The limit keeps a wrong weight, or a hostile
/// serialised ring, from taking all of the machine's memory.
pub const MAX_TOKENS: u64 = 1 << 22;

/// A consistent-hash ring with virtual nodes. It is a value: a clone is a copy, in O(T). Threads
/// share it in an [`Arc`](std::sync::Arc), or in a [`SharedRing`](super::SharedRing) if it changes
/// meanwhile.
///
/// See the [module](super) for what it promises. All methods of `&self` may be called by several
/// threads at once. No method blocks.
///
/// With N nodes and T tokens: a look-up takes one hash and reads one cache line. A node that comes
/// or goes touches its own tokens only (in a balanced ring, all tokens are read once or twice), and
/// moves up to N entries of the list of nodes. A token costs about 15 bytes. [The page about
/// look-ups](crate::docs::lookup) says how, and what happens if tokens aren't uniform.
///
/// `==` compares members, placement, virtual nodes and hasher. If the tokens aren't a function of
/// these, it compares the tokens, too.
///
/// ```
/// use ringpact::ring::HashRing;
///
/// let ring = HashRing::new(["cache-1", "cache-2", "cache-3"])?;
/// let owner = ring.owner("user:42");
///
/// // The owner first, then where the key would go next:
/// let preference: Vec<_> = ring.replicas("user:42").collect();
/// assert_eq!(preference.len(), 3);
/// assert_eq!(preference[0], owner);
/// # Ok::<(), ringpact::ring::RingError>(())
/// ```
#[derive(Clone)]
pub struct HashRing<H = Xxh3> {
    /// The nodes. Never empty.
    members: Members,
    table: TokenTable,
    placement: Placement,
    virtual_nodes: u32,
    hasher: H,
}

/// A token: a position on the circle at which a node stands. It borrows the node of the ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Token<'a> {
    /// The position of the token.
    pub position: Position,
    /// The node that stands there.
    pub node: &'a Node,
}

impl HashRing {
    /// Returns a ring of these nodes, with all settings at their default.
    ///
    /// # Errors
    ///
    /// The errors of [`RingBuilder::build`].
    pub fn new<N: Into<Node>>(nodes: impl IntoIterator<Item = N>) -> Result<Self, RingError> {
        Self::builder().nodes(nodes).build()
    }

    /// Returns a builder, for a ring with other settings.
    pub fn builder() -> RingBuilder {
        RingBuilder::new()
    }
}

/// Look-ups.
impl<H: KeyHasher> HashRing<H> {
    /// Returns the node that owns `key`. Reads one cache line, allocates nothing, never panics.
    // Always inlined, here and in what it calls, because a call costs as much as the look-up and
    // saves few instructions.
    #[inline(always)]
    #[must_use]
    pub fn owner<K: RingKey>(&self, key: K) -> &Node {
        self.owner_at(self.position(key))
    }

    /// Returns the nodes that `key` belongs to, in order of preference; see [`Replicas`].
    ///
    /// The first is the owner. The first healthy one is
    /// `ring.replicas(key).find(|node| healthy(node))`. The k nodes that should hold a copy are
    /// `ring.replicas(key).take(k)`.
    #[inline]
    pub fn replicas<K: RingKey>(&self, key: K) -> Replicas<'_> {
        self.replicas_at(self.position(key))
    }

    /// Returns the nodes that `key` belongs to, spread evenly over the zones; see [`ZoneReplicas`].
    /// The n nodes that should hold a copy are `ring.replicas_across_zones(key).take(n)`.
    #[inline]
    pub fn replicas_across_zones<K: RingKey>(&self, key: K) -> ZoneReplicas<'_> {
        self.replicas_across_zones_at(self.position(key))
    }

    /// Returns the position of `key` on the circle. It doesn't depend on the ring's members.
    #[inline(always)]
    #[must_use]
    pub fn position<K: RingKey>(&self, key: K) -> Position {
        self.hasher.hash_key(key.key_bytes().as_ref())
    }
}

/// What depends on positions alone.
impl<H> HashRing<H> {
    /// Returns the node that owns `position`: the node of the first token at or after it, or of the
    /// very first token if there is none after it. If tokens of several nodes share a position, it
    /// is the node with the smallest id (by bytes).
    #[inline(always)]
    #[must_use]
    pub fn owner_at(&self, position: Position) -> &Node {
        match self.table.owner(position, self.members.low_slots()) {
            Some(node) => node,
            None => self.owner_slow(position),
        }
    }

    /// Does what [`owner_at`](Self::owner_at) does, for the one position in a hundred that its line
    /// doesn't decide.
    #[cold]
    #[inline(never)]
    fn owner_slow(&self, position: Position) -> &Node {
        self.members.by_slot(self.table.owner_slow(position))
    }

    /// Returns the nodes that `position` belongs to, in order of preference; see [`Replicas`].
    #[inline]
    pub fn replicas_at(&self, position: Position) -> Replicas<'_> {
        Replicas::new(&self.members, self.table.walk(position))
    }

    /// Returns the nodes that `position` belongs to, spread evenly over the zones; see
    /// [`ZoneReplicas`].
    #[inline]
    pub fn replicas_across_zones_at(&self, position: Position) -> ZoneReplicas<'_> {
        ZoneReplicas::new(&self.members, self.table.walk(position))
    }

    /// Returns an index of the first `copies` nodes of every token's preference list. It finds what
    /// [`replicas`](Self::replicas) finds, faster. O(T * copies).
    #[must_use]
    pub fn replica_index(&self, copies: usize) -> ReplicaIndex<&Self> {
        ReplicaIndex::new(self, copies)
    }

    /// Returns an index that finds what [`replicas_across_zones`](Self::replicas_across_zones)
    /// finds, faster. O(T * copies).
    #[must_use]
    pub fn replica_index_across_zones(&self, copies: usize) -> ReplicaIndex<&Self> {
        ReplicaIndex::across_zones(self, copies)
    }

    /// Returns the nodes and their tokens.
    #[inline(always)]
    pub(super) fn parts(&self) -> (&Members, &TokenTable) {
        (&self.members, &self.table)
    }

    /// Returns the members, sorted by id (by bytes). Never empty.
    #[must_use]
    pub fn nodes(&self) -> &[Node] {
        self.members.nodes()
    }

    /// Returns the member with this id, or `None` if there is none. O(log N).
    #[must_use]
    pub fn node(&self, id: impl AsRef<str>) -> Option<&Node> {
        self.members.index_of(id.as_ref()).ok().map(|index| &self.nodes()[index])
    }

    /// Returns all tokens, clockwise from position 0. Tokens that collide are in order of
    /// preference.
    #[must_use]
    pub fn tokens(&self) -> impl ExactSizeIterator<Item = Token<'_>> {
        self.table.iter().map(|Entry { position, slot }| Token { position, node: self.members.by_slot(slot) })
    }

    /// Returns the number of tokens: the sum of weight times virtual nodes, or in a balanced ring
    /// about as many.
    #[must_use]
    pub fn token_count(&self) -> usize {
        self.table.len()
    }

    /// Returns how the tokens are placed.
    #[must_use]
    pub fn placement(&self) -> Placement {
        self.placement
    }

    /// Returns every token and the index of its node in [`nodes`](Self::nodes), clockwise.
    pub(super) fn indexed_tokens(&self) -> Vec<(Position, u32)> {
        balanced::entries(&self.members, &self.table)
    }

    /// Returns the number of virtual nodes for each unit of weight. In a balanced ring, it is the
    /// number when the ring was built.
    #[must_use]
    pub fn virtual_nodes(&self) -> u32 {
        self.virtual_nodes
    }

    /// Returns the function that places keys and virtual nodes.
    #[must_use]
    pub fn hasher(&self) -> &H {
        &self.hasher
    }

    /// Returns how the holders of positions change when `after` replaces this ring, if the first
    /// `copies` nodes of its preference list hold a position. O(T * copies) for the tokens of both.
    ///
    /// # Errors
    ///
    /// The errors of [`movement`](Self::movement).
    pub fn replica_movement<'a>(&'a self, after: &'a Self, copies: usize) -> Result<ReplicaMovement<'a>, RingError>
    where
        H: PartialEq,
    {
        if self.hasher != after.hasher {
            return Err(RingError::DifferentHashers);
        }
        Ok(ReplicaMovement::between((&self.members, &self.table), (&after.members, &after.table), copies))
    }

    /// Returns what moves, and from which node to which, when `after` replaces this ring. O(T) for
    /// the tokens of both.
    ///
    /// Nodes are matched by id. The rings may differ in everything except the hasher.
    ///
    /// # Errors
    ///
    /// [`RingError::DifferentHashers`] if the two rings place keys differently, because positions
    /// in one then mean nothing in the other.
    pub fn movement<'a>(&'a self, after: &'a Self) -> Result<Movement<'a>, RingError>
    where
        H: PartialEq,
    {
        if self.hasher != after.hasher {
            return Err(RingError::DifferentHashers);
        }
        // Hashed tokens are a function of the hasher, the node's id and their number.
        let are_alike = (self.placement, after.placement) == (Placement::Hashed, Placement::Hashed)
            && self.virtual_nodes == after.virtual_nodes;
        Ok(Movement::between((&self.members, &self.table), (&after.members, &after.table), are_alike))
    }
}

/// Changes of the members.
impl<H: KeyHasher> HashRing<H> {
    /// Adds a node. It receives keys from the others, and no key moves between those.
    ///
    /// O(N + t log t) for the node's t tokens: only they are hashed, and only they are touched. Now
    /// and then, when the ring has grown by a quarter, O(T). With balanced placement always O(T).
    ///
    /// # Errors
    ///
    /// [`RingError::DuplicateNode`], and the errors of [`RingBuilder::build`] about nodes and
    /// limits. The ring is then unchanged.
    pub fn add(&mut self, node: impl Into<Node>) -> Result<(), RingError> {
        let node = node.into();
        let index = self.check_newcomer(&node)?;
        let ring = (&mut self.members, &mut self.table);
        match self.placement {
            Placement::Hashed => hashed::add(ring, self.virtual_nodes, &self.hasher, index, node),
            Placement::Balanced => balanced::add(ring, self.virtual_nodes, index, node),
        }
        Ok(())
    }

    /// Returns what [`add`](Self::add) of this node would move to it, without adding it, so that
    /// the data can move first.
    ///
    /// It is equal to the [`movement`](Self::movement) to the ring with the node in it. With hashed
    /// placement it looks only at the node's own tokens: O(N + t log t) for t of them. With
    /// balanced placement O(T).
    ///
    /// # Errors
    ///
    /// The errors of [`add`](Self::add).
    pub fn plan_join<'a>(&'a self, node: &'a Node) -> Result<Movement<'a>, RingError> {
        let index = self.check_newcomer(node)?;
        let ring = (&self.members, &self.table);
        Ok(match self.placement {
            Placement::Hashed => hashed::plan_join(ring, self.virtual_nodes, &self.hasher, node),
            Placement::Balanced => balanced::plan_join(ring, self.virtual_nodes, index, node),
        })
    }

    /// Removes a node, and returns it. Its keys go to others; no other key moves. It takes as long
    /// as [`add`](Self::add).
    ///
    /// # Errors
    ///
    /// [`RingError::UnknownNode`], or [`RingError::LastNode`] if it is the only node. The ring is
    /// then unchanged.
    pub fn remove(&mut self, id: impl AsRef<str>) -> Result<Node, RingError> {
        let index = self.member_index(id.as_ref())?;
        if let [node] = self.nodes() {
            return Err(RingError::LastNode { id: node.id().clone() });
        }
        let ring = (&mut self.members, &mut self.table);
        Ok(match self.placement {
            Placement::Hashed => hashed::remove(ring, self.virtual_nodes, &self.hasher, index),
            Placement::Balanced => balanced::remove(ring, self.virtual_nodes, index),
        })
    }

    /// Changes the weight, zone or draining mark of a member: puts `node` in the place of the member with the same
    /// id, and returns that member.
    ///
    /// A node that gets heavier only receives keys, one that gets lighter only gives keys away, and
    /// a change of zone or mark moves nothing. O(t log t) for the t tokens that come or go, O(log N) if the
    /// weight stays. With balanced placement, O(T) if the weight changes.
    ///
    /// # Errors
    ///
    /// [`RingError::UnknownNode`], and the errors of [`RingBuilder::build`] about nodes and limits.
    /// The ring is then unchanged.
    pub fn replace(&mut self, node: impl Into<Node>) -> Result<Node, RingError> {
        let node = node.into();
        node.check()?;
        let index = self.member_index(node.id().as_str())?;
        let (old, new) = (self.nodes()[index].weight(), node.weight());
        if new > old {
            self.check_tokens(self.members.weight() - u64::from(old) + u64::from(new))?;
        }
        let ring = (&mut self.members, &mut self.table);
        Ok(match self.placement {
            Placement::Hashed => hashed::replace(ring, self.virtual_nodes, &self.hasher, index, node),
            Placement::Balanced => balanced::replace(ring, self.virtual_nodes, index, node),
        })
    }

    /// Builds a ring of these members.
    pub(super) fn from_parts(
        nodes: Vec<Node>,
        placement: Placement,
        virtual_nodes: u32,
        hasher: H,
    ) -> Result<Self, RingError> {
        let members = checked_members(nodes, placement, virtual_nodes)?;
        Ok(Self::of_members(members, placement, virtual_nodes, hasher))
    }

    /// Returns a ring of some nodes of another ring, at least one, with the settings of that ring.
    pub(super) fn of_some(whole: &Self, mut nodes: Vec<Node>) -> Self
    where
        H: Clone,
    {
        nodes.sort_unstable_by(|a, b| a.id().cmp(b.id()));
        Self::of_members(Members::new(nodes), whole.placement, whole.virtual_nodes, whole.hasher.clone())
    }

    fn of_members(members: Members, placement: Placement, virtual_nodes: u32, hasher: H) -> Self {
        let table = match placement {
            Placement::Hashed => hashed::build(&members, virtual_nodes, &hasher),
            Placement::Balanced => balanced::build(&members, virtual_nodes),
        };
        Self { members, table, placement, virtual_nodes, hasher }
    }

    /// Builds a balanced ring with these tokens, clockwise, each with the index of its node in
    /// `nodes`.
    pub(super) fn from_tokens(
        nodes: Vec<Node>,
        mut tokens: Vec<(Position, u32)>,
        virtual_nodes: u32,
        hasher: H,
    ) -> Result<Self, RingError> {
        let placement = Placement::Balanced;
        if tokens.len() as u64 > MAX_TOKENS {
            return Err(RingError::TooManyTokens { tokens: tokens.len() as u64 });
        }
        let ids: Vec<_> = nodes.iter().map(|node| node.id().clone()).collect();
        let members = checked_members(nodes, placement, virtual_nodes)?;
        // An index that no node has stays as it is, so that `restore` refuses it.
        for (_, node) in &mut tokens {
            let id = ids.get(*node as usize);
            *node = id.and_then(|id| members.index_of(id.as_str()).ok()).map_or(*node, |index| index as u32);
        }
        let table = balanced::restore(&members, &tokens)?;
        Ok(Self { members, table, placement, virtual_nodes, hasher })
    }

    /// Checks that the node may be added, and returns the index that it gets among the members.
    fn check_newcomer(&self, node: &Node) -> Result<usize, RingError> {
        node.check()?;
        let Err(index) = self.members.index_of(node.id().as_str()) else {
            return Err(RingError::DuplicateNode { id: node.id().clone() });
        };
        self.check_tokens(self.members.weight() + u64::from(node.weight()))?;
        Ok(index)
    }

    /// Checks the limit of tokens for nodes of this weight in all, with the most tokens that they
    /// may ever have.
    fn check_tokens(&self, weight: u64) -> Result<(), RingError> {
        check_tokens(weight, self.placement.most_tokens(self.virtual_nodes))
    }
}

/// What changes of members in other files need.
impl<H> HashRing<H> {
    /// Returns the index of a member in [`nodes`](Self::nodes).
    pub(super) fn member_index(&self, id: &str) -> Result<usize, RingError> {
        self.members.index_of(id).map_err(|_| RingError::UnknownNode { id: NodeId::from(id) })
    }

    /// Returns the members. A change of their weights would have to change the tokens, too.
    pub(super) fn members_mut(&mut self) -> &mut Members {
        &mut self.members
    }

    /// Sets the number of virtual nodes for each unit of weight, and the weights. Each node must
    /// have as many tokens as before.
    pub(super) fn scale_units(&mut self, virtual_nodes: u32, scale: impl Fn(u32) -> u32) {
        self.virtual_nodes = virtual_nodes;
        for index in 0..self.nodes().len() {
            let node = self.nodes()[index].clone();
            let weight = scale(node.weight());
            self.members.replace(index, node.with_weight(weight));
        }
    }
}

impl<H: PartialEq> PartialEq for HashRing<H> {
    fn eq(&self, other: &Self) -> bool {
        self.placement == other.placement
            && self.virtual_nodes == other.virtual_nodes
            && self.hasher == other.hasher
            && self.nodes() == other.nodes()
            && match self.placement {
                // The tokens are a function of the rest, so comparing them would change nothing.
                Placement::Hashed => true,
                Placement::Balanced => self.indexed_tokens() == other.indexed_tokens(),
            }
    }
}

impl<H: Eq> Eq for HashRing<H> {}

/// Leaves out the tokens, because there are too many to read.
impl<H: fmt::Debug> fmt::Debug for HashRing<H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HashRing")
            .field("nodes", &self.members.nodes())
            .field("placement", &self.placement)
            .field("virtual_nodes", &self.virtual_nodes)
            .field("hasher", &self.hasher)
            .finish_non_exhaustive()
    }
}

/// Checks the nodes and settings of a ring that is to be built, and returns the nodes sorted by id.
pub(super) fn checked_members(
    mut nodes: Vec<Node>,
    placement: Placement,
    virtual_nodes: u32,
) -> Result<Members, RingError> {
    if nodes.is_empty() {
        return Err(RingError::NoNodes);
    }
    if virtual_nodes == 0 {
        return Err(RingError::ZeroVirtualNodes);
    }
    for node in &nodes {
        node.check()?;
    }
    nodes.sort_unstable_by(|a, b| a.id().cmp(b.id()));
    if let Some(pair) = nodes.windows(2).find(|pair| pair[0].id() == pair[1].id()) {
        return Err(RingError::DuplicateNode { id: pair[0].id().clone() });
    }
    let members = Members::new(nodes);
    check_tokens(members.weight(), placement.most_tokens(virtual_nodes))?;
    Ok(members)
}

/// Checks the limit of tokens for nodes of this weight in all, with `most_tokens` for each unit of
/// weight.
fn check_tokens(weight: u64, most_tokens: u32) -> Result<(), RingError> {
    let tokens = weight.saturating_mul(u64::from(most_tokens));
    if tokens > MAX_TOKENS { Err(RingError::TooManyTokens { tokens }) } else { Ok(()) }
}
