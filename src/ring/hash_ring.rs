//! The ring itself: who owns what, and members coming and going.

use std::fmt;

use super::{
    KeyHasher, Movement, Node, NodeId, Placement, Position, ReplicaIndex, ReplicaMovement, Replicas, RingBuilder,
    RingError, RingKey, Xxh3, ZoneReplicas, balanced, hashed,
    members::Members,
    token_table::{Entry, TokenTable},
};

/// The most tokens (virtual nodes) a ring may have: 1,024 nodes of 4,096, or 26,214 of the default 160.
///
/// At up to 16 bytes a token that is 64 MiB. The limit keeps a wrong weight, or a hostile serialised ring, from eating the
/// machine's memory.
pub const MAX_TOKENS: u64 = 1 << 22;

/// A consistent-hash ring with virtual nodes. See the [module](super) for what it promises.
///
/// With N nodes and T tokens: a look-up takes one hash and reads one cache line; a node that comes or goes touches its own
/// tokens only, and moves up to N entries of the list of nodes; a token costs about 15 bytes. See [the page about
/// look-ups](crate::docs::lookup) for how, and for what becomes of it when tokens aren't uniform.
/// All of `&self` may be used from several threads at once; for changing a ring meanwhile there is
/// [`SharedRing`](super::SharedRing). Cloning is O(T).
///
/// `==` compares members, placement, virtual nodes and hasher, and if the tokens aren't a function of these, the tokens.
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
    /// Never empty.
    members: Members,
    table: TokenTable,
    placement: Placement,
    virtual_nodes: u32,
    hasher: H,
}

/// A token: a position on the circle at which a node stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Token<'a> {
    /// Where.
    pub position: Position,
    /// Who.
    pub node: &'a Node,
}

impl HashRing {
    /// A ring of these nodes, with all settings at their default.
    ///
    /// # Errors
    ///
    /// As [`RingBuilder::build`].
    pub fn new<N: Into<Node>>(nodes: impl IntoIterator<Item = N>) -> Result<Self, RingError> {
        Self::builder().nodes(nodes).build()
    }

    /// A ring to be described first.
    pub fn builder() -> RingBuilder {
        RingBuilder::new()
    }
}

/// Look-ups.
impl<H: KeyHasher> HashRing<H> {
    /// The node that owns `key`. Reads one cache line, allocates nothing, never panics.
    // Always, here and in what it calls: a call costs as much as the look-up, and saves few instructions.
    #[inline(always)]
    pub fn owner<K: RingKey>(&self, key: K) -> &Node {
        self.owner_at(self.position(key))
    }

    /// The nodes that `key` belongs to, in order of preference; see [`Replicas`].
    ///
    /// The first is the owner. The first healthy one is `ring.replicas(key).find(|node| healthy(node))`, and the k
    /// nodes that should hold a copy are `ring.replicas(key).take(k)`.
    #[inline]
    pub fn replicas<K: RingKey>(&self, key: K) -> Replicas<'_> {
        self.replicas_at(self.position(key))
    }

    /// The nodes that `key` belongs to, one of each zone first; see [`ZoneReplicas`]. The n nodes that should hold a copy
    /// are `ring.replicas_across_zones(key).take(n)`.
    #[inline]
    pub fn replicas_across_zones<K: RingKey>(&self, key: K) -> ZoneReplicas<'_> {
        self.replicas_across_zones_at(self.position(key))
    }

    /// Where `key` is on the circle. Doesn't depend on the ring's members.
    #[inline(always)]
    pub fn position<K: RingKey>(&self, key: K) -> Position {
        self.hasher.hash_key(key.key_bytes().as_ref())
    }
}

/// What depends on positions alone.
impl<H> HashRing<H> {
    /// The node that owns `position`: that of the first token at or after it, or of the very first token if there is
    /// none. Where tokens of several nodes share a position, it is the node with the smallest id (by bytes).
    #[inline(always)]
    pub fn owner_at(&self, position: Position) -> &Node {
        match self.table.owner(position, self.members.low_slots()) {
            Some(node) => node,
            None => self.owner_slow(position),
        }
    }

    /// As [`owner_at`](Self::owner_at), for the one position in a hundred that its line doesn't decide.
    #[cold]
    #[inline(never)]
    fn owner_slow(&self, position: Position) -> &Node {
        self.members.by_slot(self.table.owner_slow(position))
    }

    /// The nodes that `position` belongs to, in order of preference; see [`Replicas`].
    #[inline]
    pub fn replicas_at(&self, position: Position) -> Replicas<'_> {
        Replicas::new(&self.members, self.table.walk(position))
    }

    /// The nodes that `position` belongs to, one of each zone first; see [`ZoneReplicas`].
    #[inline]
    pub fn replicas_across_zones_at(&self, position: Position) -> ZoneReplicas<'_> {
        ZoneReplicas::new(&self.members, self.table.walk(position))
    }

    /// The first `copies` nodes of every token's preference list, worked out for looking them up: what
    /// [`replicas`](Self::replicas) would find. O(T * copies).
    pub fn replica_index(&self, copies: usize) -> ReplicaIndex<&Self> {
        ReplicaIndex::new(self, copies)
    }

    /// The same of what [`replicas_across_zones`](Self::replicas_across_zones) would find.
    pub fn replica_index_across_zones(&self, copies: usize) -> ReplicaIndex<&Self> {
        ReplicaIndex::across_zones(self, copies)
    }

    /// What the nodes are, and where their tokens.
    #[inline(always)]
    pub(super) fn parts(&self) -> (&Members, &TokenTable) {
        (&self.members, &self.table)
    }

    /// The members, sorted by id (by bytes). Never empty.
    pub fn nodes(&self) -> &[Node] {
        self.members.nodes()
    }

    /// The member with this id. O(log N).
    pub fn node(&self, id: impl AsRef<str>) -> Option<&Node> {
        self.members.index_of(id.as_ref()).ok().map(|index| &self.nodes()[index])
    }

    /// All tokens, clockwise from position 0, those that collide in the order in which they are preferred.
    pub fn tokens(&self) -> impl ExactSizeIterator<Item = Token<'_>> {
        self.table.iter().map(|Entry { position, slot }| Token { position, node: self.members.by_slot(slot) })
    }

    /// How many tokens there are: the sum of weight times virtual nodes, or in a balanced ring about as many.
    pub fn token_count(&self) -> usize {
        self.table.len()
    }

    /// How the tokens are placed.
    pub fn placement(&self) -> Placement {
        self.placement
    }

    /// Every token and the index of its node in [`nodes`](Self::nodes), clockwise.
    pub(super) fn indexed_tokens(&self) -> Vec<(Position, u32)> {
        balanced::entries(&self.members, &self.table)
    }

    /// Virtual nodes for each unit of weight. In a balanced ring it is what each had when the ring was built.
    pub fn virtual_nodes(&self) -> u32 {
        self.virtual_nodes
    }

    /// The function that places keys and virtual nodes.
    pub fn hasher(&self) -> &H {
        &self.hasher
    }

    /// How the holders change when this ring is replaced by `after`, if each position is held by the first `copies` nodes
    /// of its preference list. O(T * copies) for the tokens of both.
    ///
    /// # Errors
    ///
    /// As [`movement`](Self::movement).
    pub fn replica_movement<'a>(&'a self, after: &'a Self, copies: usize) -> Result<ReplicaMovement<'a>, RingError>
    where
        H: PartialEq,
    {
        if self.hasher != after.hasher {
            return Err(RingError::DifferentHashers);
        }
        Ok(ReplicaMovement::between((&self.members, &self.table), (&after.members, &after.table), copies))
    }

    /// What moves, and from where to where, when this ring is replaced by `after`. O(T) for the tokens of both.
    ///
    /// Nodes are matched by id. The rings may differ in anything but the hasher.
    ///
    /// # Errors
    ///
    /// [`RingError::DifferentHashers`] if the two place keys differently: then positions in the one say nothing about
    /// the other.
    pub fn movement<'a>(&'a self, after: &'a Self) -> Result<Movement<'a>, RingError>
    where
        H: PartialEq,
    {
        if self.hasher != after.hasher {
            return Err(RingError::DifferentHashers);
        }
        // Hashed tokens are a function of the hasher, the node's id and how many there are of them.
        let are_alike = (self.placement, after.placement) == (Placement::Hashed, Placement::Hashed)
            && self.virtual_nodes == after.virtual_nodes;
        Ok(Movement::between((&self.members, &self.table), (&after.members, &after.table), are_alike))
    }
}

/// Members coming and going.
impl<H: KeyHasher> HashRing<H> {
    /// Takes a node in. It receives keys from others; no key moves between those.
    ///
    /// O(N + t log t) for its t tokens: only those are hashed, and only they are touched. Now and then, when the ring has
    /// grown by a quarter, O(T).
    ///
    /// # Errors
    ///
    /// [`RingError::DuplicateNode`], and those of [`RingBuilder::build`] about nodes and limits. The ring is then as
    /// it was.
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

    /// What [`add`](Self::add) of this node would move to it, without adding it: for moving the data first. Equal to the
    /// [`movement`](Self::movement) to the ring with the node in it, but looks only at the node's own tokens.
    ///
    /// # Errors
    ///
    /// As [`add`](Self::add).
    pub fn plan_join<'a>(&'a self, node: &'a Node) -> Result<Movement<'a>, RingError> {
        let index = self.check_newcomer(node)?;
        let ring = (&self.members, &self.table);
        Ok(match self.placement {
            Placement::Hashed => hashed::plan_join(ring, self.virtual_nodes, &self.hasher, node),
            Placement::Balanced => balanced::plan_join(ring, self.virtual_nodes, index, node),
        })
    }

    /// Lets a node go, and returns it. Its keys go to others; no other key moves. As cheap as [`add`](Self::add).
    ///
    /// # Errors
    ///
    /// [`RingError::UnknownNode`], or [`RingError::LastNode`] if it is the only one.
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

    /// Puts `node` in the place of the member with the same id, and returns what was there: a change of weight or
    /// zone. A heavier node only receives keys, a lighter one only gives keys away, a zone moves nothing.
    ///
    /// O(t log t) for the t tokens that come or go, O(log N) if the weight stays.
    ///
    /// # Errors
    ///
    /// [`RingError::UnknownNode`], and those of [`RingBuilder::build`] about nodes and limits. The ring is then as it
    /// was.
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

    /// A ring of these members, its tokens placed afresh.
    pub(super) fn from_parts(
        nodes: Vec<Node>,
        placement: Placement,
        virtual_nodes: u32,
        hasher: H,
    ) -> Result<Self, RingError> {
        let members = checked_members(nodes, placement, virtual_nodes)?;
        let table = match placement {
            Placement::Hashed => hashed::build(&members, virtual_nodes, &hasher),
            Placement::Balanced => balanced::build(&members, virtual_nodes),
        };
        Ok(Self { members, table, placement, virtual_nodes, hasher })
    }

    /// A balanced ring with these tokens, clockwise, by the index of their node in `nodes`.
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
        // An index that isn't one of a node stays as it is, for `restore` to refuse.
        for (_, node) in &mut tokens {
            let id = ids.get(*node as usize);
            *node = id.and_then(|id| members.index_of(id.as_str()).ok()).map_or(*node, |index| index as u32);
        }
        let table = balanced::restore(&members, &tokens)?;
        Ok(Self { members, table, placement, virtual_nodes, hasher })
    }

    /// Whether the node may be added; its index among the members if so.
    fn check_newcomer(&self, node: &Node) -> Result<usize, RingError> {
        node.check()?;
        let Err(index) = self.members.index_of(node.id().as_str()) else {
            return Err(RingError::DuplicateNode { id: node.id().clone() });
        };
        self.check_tokens(self.members.weight() + u64::from(node.weight()))?;
        Ok(index)
    }

    /// Whether nodes of this weight in all may have the tokens that they may come to have.
    fn check_tokens(&self, weight: u64) -> Result<(), RingError> {
        check_tokens(weight, self.placement.most_tokens(self.virtual_nodes))
    }

    fn member_index(&self, id: &str) -> Result<usize, RingError> {
        self.members.index_of(id).map_err(|_| RingError::UnknownNode { id: NodeId::from(id) })
    }
}

impl<H: PartialEq> PartialEq for HashRing<H> {
    fn eq(&self, other: &Self) -> bool {
        self.placement == other.placement
            && self.virtual_nodes == other.virtual_nodes
            && self.hasher == other.hasher
            && self.nodes() == other.nodes()
            && match self.placement {
                // They are a function of the rest, so comparing them would be a waste.
                Placement::Hashed => true,
                Placement::Balanced => self.indexed_tokens() == other.indexed_tokens(),
            }
    }
}

impl<H: Eq> Eq for HashRing<H> {}

/// Leaves out the tokens: there are too many to read.
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

/// The nodes sorted by id, if they and the settings are what a ring can be made of.
fn checked_members(mut nodes: Vec<Node>, placement: Placement, virtual_nodes: u32) -> Result<Members, RingError> {
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

/// Whether nodes of this weight in all may have so many tokens for each unit of it.
fn check_tokens(weight: u64, most_tokens: u32) -> Result<(), RingError> {
    let tokens = weight.saturating_mul(u64::from(most_tokens));
    if tokens > MAX_TOKENS { Err(RingError::TooManyTokens { tokens }) } else { Ok(()) }
}
