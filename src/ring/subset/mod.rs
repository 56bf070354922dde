//! A few nodes for each tenant: shuffle sharding.
//!
//! In reading order:
//!
//! - [`choice`]: which nodes a tenant gets;
//! - [`slots`]: some of a ring's nodes, and the look-ups among them;
//! - this file: [`Subset`];
//! - [`history`]: [`RingHistory`], the members that a ring had;
//! - [`look_back`]: [`LookBack`], a subset with the nodes that a tenant had earlier.

mod choice;
mod history;
mod look_back;
mod slots;

use std::fmt;

use choice::choose;
pub use history::{HISTORY_FORMAT_VERSION, MAX_HISTORY, RingHistory};
pub use look_back::LookBack;
use slots::Slots;

use super::{HashRing, HeldRing, KeyHasher, Node, Position, RingError, RingKey, replicas::rounds_of};

/// The few nodes of a ring that one tenant uses: shuffle sharding. [`HashRing::subset`] returns it.
/// Threads share it by reference or in an [`Arc`](std::sync::Arc). It belongs to the one ring that
/// it [holds](HeldRing): when another ring follows, make it again.
///
/// A tenant that overloads or breaks its nodes harms only the tenants that have the same ones. Of
/// 100 nodes, two tenants with 5 each share on average a quarter of a node, and all 5 with a chance
/// of 1 in 75 million. See "Workload isolation using shuffle-sharding" (C. MacCárthaigh, Amazon
/// Builders' Library) and `ShuffleShard` of Grafana's dskit.
///
/// - **It is a function** of the tenant's [position](HashRing::position), the size, and the members'
///   ids, weights and zones. So all processes agree, with balanced placement, too.
/// - **It changes little.** A node that joins, leaves or changes its weight exchanges at most one
///   node of each subset. A larger size only adds nodes: the nodes of a smaller one are the first.
/// - **It is spread over the zones**: in rounds of one node of each, as in
///   [`ZoneReplicas`](super::ZoneReplicas). Nodes without a zone count as one zone.
/// - **Two tenants overlap as if nodes were drawn at random.** A node of twice the weight is chosen
///   first twice as often. Unlike neighbours on the ring, the nodes of a tenant have nothing else in
///   common.
///
/// Within a subset, keys are placed as on the ring: the owner is the first node of the key's
/// preference list that is in the subset. With [hashed](super::Placement::Hashed) placement, it is
/// the owner in a ring of these nodes alone, which [`to_ring`](Self::to_ring) makes.
///
/// Nodes are chosen by highest random weight (D. Thaler, C. Ravishankar: "Using Name-Based Mappings
/// to Increase Hit Rates", IEEE/ACM Transactions on Networking 6(1), 1998). A node's score for a
/// tenant is the highest `XXH3_64bits_withSeed(data, seed)` over the units of its weight. The data
/// are the id's bytes and the number of the unit, from 0, in 4 little-endian bytes. The seed is the
/// tenant's position. The nodes with the highest scores are chosen; if two are equal, the smaller id
/// comes first. A walk from a few random positions, as in dskit, would keep neighbours together,
/// and depend on tokens, which the past members of a [`RingHistory`] no longer have.
///
/// Of 1,000 nodes, 5 are chosen in about 50 microseconds. An owner among them is found in half a
/// microsecond, and in their own ring, which is made in 6, in 3 nanoseconds.
///
/// ```
/// use ringpact::ring::HashRing;
///
/// let mut ring = HashRing::new((0..100).map(|n| format!("n{n}")))?;
/// let before: Vec<_> = ring.subset("tenant-7", 5)?.nodes().map(|node| node.id().clone()).collect();
///
/// ring.add("late")?;
/// let subset = ring.subset("tenant-7", 5)?;
/// assert!(subset.nodes().filter(|node| !before.contains(node.id())).count() <= 1);
///
/// // Where the tenant's keys go:
/// let owner = subset.owner("order:42");
/// assert!(subset.contains(owner.id()));
/// assert_eq!(subset.replicas("order:42").next(), Some(owner));
/// # Ok::<(), ringpact::ring::RingError>(())
/// ```
///
/// With a [`SharedRing`](super::SharedRing), a subset holds the version that it belongs to:
///
/// ```
/// use ringpact::ring::{HashRing, SharedRing, Subset};
///
/// let shared = SharedRing::new(HashRing::new(["a", "b", "c", "d"])?);
/// let subset = Subset::new(shared.load(), "tenant-7", 2)?;
/// assert_eq!(subset.held().epoch(), shared.load().epoch());
/// # Ok::<(), ringpact::ring::RingError>(())
/// ```
#[derive(Clone)]
pub struct Subset<R> {
    held: R,
    slots: Slots,
    /// The nodes that the tenant would get if no draining node were in the ring. `None` if all nodes
    /// are draining.
    for_new: Option<Slots>,
}

impl<H: KeyHasher> HashRing<H> {
    /// Returns the `size` nodes that a tenant uses, or all nodes if there are fewer; see [`Subset`].
    /// O(W + N log N) for N nodes of total weight W, so keep it while the ring stays.
    ///
    /// # Errors
    ///
    /// [`RingError::EmptySubset`] if `size` is 0.
    pub fn subset<K: RingKey>(&self, tenant: K, size: usize) -> Result<Subset<&Self>, RingError> {
        Subset::new(self, tenant, size)
    }
}

impl<R: HeldRing<Hasher: KeyHasher>> Subset<R> {
    /// Returns the `size` nodes of `ring` that a tenant uses, or all nodes if there are fewer.
    /// O(W + N log N) for N nodes of total weight W.
    ///
    /// # Errors
    ///
    /// [`RingError::EmptySubset`] if `size` is 0.
    pub fn new<K: RingKey>(ring: R, tenant: K, size: usize) -> Result<Self, RingError> {
        let tenant = ring.ring().position(tenant);
        Self::at(ring, tenant, size)
    }

    /// Returns the node that owns `key` among those of the subset. About N / n steps of a walk if it
    /// has n of N equal nodes; allocates nothing.
    #[must_use]
    pub fn owner<K: RingKey>(&self, key: K) -> &Node {
        self.owner_at(self.ring().position(key))
    }

    /// Returns the node of the subset that `key` goes to if it is new; see
    /// [`owner_for_new_at`](Self::owner_for_new_at).
    #[must_use]
    pub fn owner_for_new<K: RingKey>(&self, key: K) -> Option<&Node> {
        self.owner_for_new_at(self.ring().position(key))
    }

    /// Returns the nodes of the subset in the order of the key's preference list.
    pub fn replicas<K: RingKey>(&self, key: K) -> impl ExactSizeIterator<Item = &Node> + Clone + use<'_, R, K> {
        self.replicas_at(self.ring().position(key))
    }

    /// Returns the nodes of the subset in the order of the key's preference list, spread over the
    /// zones as if no other nodes were in the ring; see [`ZoneReplicas`](super::ZoneReplicas).
    pub fn replicas_across_zones<K: RingKey>(
        &self,
        key: K,
    ) -> impl ExactSizeIterator<Item = &Node> + Clone + use<'_, R, K> {
        self.replicas_across_zones_at(self.ring().position(key))
    }

    /// Returns a ring of the subset's nodes, with the settings of the whole ring, for a service that
    /// looks up often or that needs the [movement](HashRing::movement) of a tenant's keys. With
    /// hashed placement its answers are those of the subset. O(n V) for n nodes of V tokens each.
    #[must_use]
    pub fn to_ring(&self) -> HashRing<R::Hasher>
    where
        R::Hasher: Clone,
    {
        let (members, _) = self.ring().parts();
        HashRing::of_some(
            self.ring(),
            self.slots.in_order().iter().map(|slot| members.by_slot(*slot).clone()).collect(),
        )
    }
}

/// What depends on positions alone.
impl<R: HeldRing> Subset<R> {
    /// Returns the nodes of `ring` that a tenant at this position uses.
    pub(super) fn at(ring: R, tenant: Position, size: usize) -> Result<Self, RingError> {
        let (members, _) = ring.ring().parts();
        let slots_of = |indices: Vec<usize>| {
            let slots = indices.into_iter().map(|index| members.slot(index));
            Slots::new(members, slots.collect())
        };
        let slots = slots_of(choose(members.nodes(), tenant, size)).ok_or(RingError::EmptySubset)?;
        let is_draining = |slot: &u32| members.by_slot(*slot).is_draining();
        // A draining node that isn't chosen leaves the choice as it is.
        let for_new = if slots.in_order().iter().any(is_draining) {
            let accepting: Vec<_> =
                (0..members.nodes().len()).filter(|index| !members.nodes()[*index].is_draining()).collect();
            let chosen = choose(accepting.iter().map(|index| &members.nodes()[*index]), tenant, size);
            slots_of(chosen.into_iter().map(|index| accepting[index]).collect())
        } else {
            Some(slots.clone())
        };
        Ok(Self { held: ring, slots, for_new })
    }

    /// Returns the nodes, in the order in which a growing size adds them.
    #[must_use]
    pub fn nodes(&self) -> impl ExactSizeIterator<Item = &Node> + Clone {
        let (members, _) = self.ring().parts();
        self.slots.in_order().iter().map(|slot| members.by_slot(*slot))
    }

    /// Returns the nodes that take the tenant's new keys: the subset of a ring without its
    /// [draining](Node::is_draining) nodes. It is empty if all nodes are draining.
    #[must_use]
    pub fn nodes_for_new(&self) -> impl ExactSizeIterator<Item = &Node> + Clone {
        let (members, _) = self.ring().parts();
        self.for_new.as_ref().map_or(&[][..], Slots::in_order).iter().map(|slot| members.by_slot(*slot))
    }

    /// Returns the number of nodes: the size, or the number of nodes in the ring if that is smaller.
    #[expect(clippy::len_without_is_empty, reason = "a subset is never empty")]
    #[must_use]
    pub fn len(&self) -> usize {
        self.slots.in_order().len()
    }

    /// Whether the node with this id is in the subset. O(log N).
    #[must_use]
    pub fn contains(&self, id: impl AsRef<str>) -> bool {
        let (members, _) = self.ring().parts();
        members.index_of(id.as_ref()).is_ok_and(|index| self.slots.contains(members.slot(index)))
    }

    /// Returns the node that owns `position` among those of the subset.
    #[must_use]
    pub fn owner_at(&self, position: Position) -> &Node {
        let (members, table) = self.ring().parts();
        members.by_slot(self.slots.first(table.walk(position)))
    }

    /// Returns the node of [`nodes_for_new`](Self::nodes_for_new) that a new key at `position` goes
    /// to, or `None` if all nodes of the ring are draining. With hashed placement, it owns the
    /// position in the subset once the draining nodes have left.
    #[must_use]
    pub fn owner_for_new_at(&self, position: Position) -> Option<&Node> {
        let (members, table) = self.ring().parts();
        self.for_new.as_ref().map(|slots| members.by_slot(slots.first(table.walk(position))))
    }

    /// Returns the nodes of the subset in the order of the position's preference list.
    pub fn replicas_at(&self, position: Position) -> impl ExactSizeIterator<Item = &Node> + Clone + use<'_, R> {
        let (members, table) = self.ring().parts();
        self.slots.on(members, table.walk(position))
    }

    /// Returns the nodes of the subset in the order of the position's preference list, spread over
    /// the zones.
    pub fn replicas_across_zones_at(
        &self,
        position: Position,
    ) -> impl ExactSizeIterator<Item = &Node> + Clone + use<'_, R> {
        let (members, table) = self.ring().parts();
        rounds_of(members, table.walk(position), &self.slots, self.len())
    }

    /// Returns the ring that the subset belongs to.
    #[must_use]
    pub fn ring(&self) -> &HashRing<R::Hasher> {
        self.held.ring()
    }

    /// Returns the holder of the ring.
    #[must_use]
    pub fn held(&self) -> &R {
        &self.held
    }
}

impl<R: HeldRing> fmt::Debug for Subset<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.nodes().map(Node::id)).finish()
    }
}
