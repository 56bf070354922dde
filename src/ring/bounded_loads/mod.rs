//! Bounded loads: consistent hashing that never sends a node much more than its share of what is in
//! flight.
//!
//! After Mirrokni, Thorup and Zadimoghaddam, "Consistent Hashing with Bounded Loads" (arXiv
//! 1608.01350).
//!
//! This file is what users see. [`counts`] is what happens under its lock, and [`epsilon`] is the
//! arithmetic of the bound.

mod counts;
mod epsilon;

use std::{collections::HashMap, fmt, sync::Arc};

use parking_lot::Mutex;

use counts::{Attempt, Bound, Counts, RingView, member};
pub use epsilon::{Epsilon, EpsilonError};

use super::{HashRing, KeyHasher, Node, RingKey, Xxh3};

/// Sends each key to the first node of its preference list that has room, and counts what each node
/// is serving. A clone is another handle on the same counts; all handles may be used by several
/// threads.
///
/// With L slots taken on members of total weight W, a node of weight w takes one more only if it
/// then has at most
///
/// ```text
/// ceil((1 + epsilon) * (L + 1) * w / W)
/// ```
///
/// of them: its share of all slots, the new one included, and [`Epsilon`] above it. Most keys stay
/// with their owner. What is too much for the owner overflows to the next node, so a popular key or
/// an unlucky stretch of the circle can't overload a node.
///
/// - **The bound is exact**, however many threads acquire and release. It is checked and the slot
///   taken in one step, under a lock that is held only for that (never while a predicate or a
///   hasher runs). It is checked when a slot is taken: as slots are given back, the average sinks,
///   and a node may then be above the bound until its own slots return.
/// - **There is always room.** The capacities add up to more than L + 1, so
///   [`acquire`](Self::acquire) succeeds. It fails only with an absolute limit
///   ([`with_limit`](Self::with_limit)) that all nodes have reached, or if all nodes are draining.
/// - **The ring may change** while slots are taken ([`set_ring`](Self::set_ring)). Loads follow
///   node ids. The slots of a node that has left are still given back, but no longer count in the
///   average. If the node returns before that, they count again.
/// - **Draining nodes** ([`Node::is_draining`]) take no new slots. They count as absent: neither
///   their weight nor their slots count in the average.
///
/// No call waits for room. Each takes a short lock ([`set_ring`](Self::set_ring) and
/// [`snapshot`](Self::snapshot) for O(N)), so async code may call all of them.
///
/// ```
/// use ringpact::ring::{BoundedLoads, Epsilon, HashRing};
///
/// let loads = BoundedLoads::new(HashRing::new(["a", "b", "c"])?, Epsilon::percent(25)?);
///
/// // One key, asked for again and again, would overload its owner:
/// let slots: Vec<_> = (0..30).map(|_| loads.acquire("celebrity")).collect::<Result<_, _>>()?;
/// let owner = loads.ring().owner("celebrity").id().clone();
/// assert_eq!(slots[0].node().id(), &owner);
/// assert_eq!(loads.load(&owner), 13, "ceil(1.25 * 30 / 3)");
///
/// // A slot is given back by dropping it.
/// drop(slots);
/// assert_eq!(loads.total(), 0);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct BoundedLoads<H = Xxh3> {
    shared: Arc<SharedCounts<H>>,
    limit: Option<u64>,
}

/// Why no node could take a key. No slot was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AcquireError {
    /// The predicate has refused every node of the ring that is not draining.
    #[error("the predicate refused all of the ring's nodes that are not draining, so no node is left for the key")]
    AllRefused,

    /// Every node of the ring is draining.
    #[error("all of the ring's nodes are draining, so none takes new load: add a node, or end the draining of one")]
    AllDraining,

    /// Every node that the predicate accepts has reached the absolute limit of
    /// [`BoundedLoads::with_limit`].
    #[error(
        "every node that may serve the key is at its limit of {limit} slots for each unit of weight: shed load, or raise the limit"
    )]
    AllFull {
        /// The limit for each unit of weight.
        limit: u64,
    },
}

/// One unit of load on a node. Keep it for as long as the node works on the key; dropping it, on
/// any thread, gives it back.
#[must_use = "the slot is given back as soon as it is dropped"]
pub struct Slot<H = Xxh3> {
    shared: Arc<SharedCounts<H>>,
    node: Node,
    /// A version of the ring, and the index of the node among its members. It spares the search if
    /// that version is still current.
    place: (u64, usize),
}

/// The load of a member, and its capacity; see [`BoundedLoads::snapshot`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct NodeLoad {
    /// The member.
    pub node: Node,
    /// Number of slots that are taken on it.
    pub load: u64,
    /// The most slots that it may have when it takes the next one. It is 0 if the node is draining.
    pub capacity: u64,
}

/// What all handles share.
struct SharedCounts<H> {
    epsilon: Epsilon,
    counts: Mutex<Counts<H>>,
}

impl<H: KeyHasher> BoundedLoads<H> {
    /// Returns bounded loads over this ring, without slots.
    #[must_use]
    pub fn new(ring: HashRing<H>, epsilon: Epsilon) -> Self {
        let loads = vec![0; ring.nodes().len()];
        let view = Arc::new(RingView::new(ring, 0));
        let counts = Counts { view, loads, total: 0, draining: 0, departed: HashMap::new() };
        Self { shared: Arc::new(SharedCounts { epsilon, counts: Mutex::new(counts) }), limit: None }
    }

    /// Returns a handle on the same counts that gives a node at most `per_weight` slots for each
    /// unit of its weight, however high the average is. Other handles are not affected.
    #[must_use]
    pub fn with_limit(self, per_weight: u64) -> Self {
        Self { limit: Some(per_weight), ..self }
    }

    /// Takes a slot on the first node of the key's preference list that isn't draining and has room.
    /// Does not wait.
    ///
    /// # Errors
    ///
    /// [`AcquireError::AllFull`], and only from a handle [with a limit](Self::with_limit).
    /// [`AcquireError::AllDraining`] if no node takes new load.
    pub fn acquire<K: RingKey>(&self, key: K) -> Result<Slot<H>, AcquireError> {
        self.acquire_where(key, |_| true)
    }

    /// Takes a slot on the first node of the key's preference list that isn't draining, that
    /// `accept` accepts and that has room. Does not wait.
    ///
    /// A refused node counts as absent: neither its weight nor its load counts in the average, from
    /// the moment the walk has met the node. So the nodes that are up share the load of those that
    /// are down, and there is room while a single node is accepted. `accept` is called at most once
    /// for each node, unless the ring changes meanwhile. It is never called under a lock, so it may
    /// use this same `BoundedLoads`.
    ///
    /// ```
    /// # use ringpact::ring::{AcquireError, BoundedLoads, Epsilon, HashRing};
    /// # let loads = BoundedLoads::new(HashRing::new(["a", "b"])?, Epsilon::default());
    /// let slot = loads.acquire_where("order:7", |node| node.id() != "a")?;
    /// assert_eq!(slot.node().id(), "b");
    /// assert_eq!(loads.acquire_where("order:7", |_| false).unwrap_err(), AcquireError::AllRefused);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`AcquireError::AllRefused`], [`AcquireError::AllDraining`], or [`AcquireError::AllFull`]
    /// from a handle [with a limit](Self::with_limit).
    pub fn acquire_where<K: RingKey>(
        &self,
        key: K,
        mut accept: impl FnMut(&Node) -> bool,
    ) -> Result<Slot<H>, AcquireError> {
        'ring: loop {
            let view = Arc::clone(&self.shared.counts.lock().view);
            let position = view.ring.position(&key);
            // Empty, and therefore without an allocation, until a node is refused or has no room.
            let (mut refused, mut passed) = (Vec::new(), Vec::new());
            for node in view.ring.replicas_at(position).filter(|node| !node.is_draining()) {
                let index = view.index_of(node);
                if !accept(node) {
                    refused.push(index);
                    continue;
                }
                let attempt = self.shared.counts.lock().attempt(&view, index, &refused, self.bound());
                match attempt {
                    Attempt::Taken => return Ok(self.slot(&view, index)),
                    Attempt::NoRoom => passed.push(index),
                    Attempt::RingChanged => continue 'ring,
                }
            }
            if passed.is_empty() {
                return Err(if refused.is_empty() { AcquireError::AllDraining } else { AcquireError::AllRefused });
            }
            // The walk found no room. But other threads may have taken and returned slots
            // meanwhile, and a node that was refused late in the walk raises the share of the nodes
            // before it. Under one lock, with all refusals known, one of the nodes that were passed
            // has room (see `Epsilon`), unless there is a limit.
            let mut counts = self.shared.counts.lock();
            for index in passed {
                match counts.attempt(&view, index, &refused, self.bound()) {
                    Attempt::Taken => return Ok(self.slot(&view, index)),
                    Attempt::NoRoom => {}
                    Attempt::RingChanged => continue 'ring,
                }
            }
            return Err(AcquireError::AllFull { limit: self.limit.unwrap_or(u64::MAX) });
        }
    }

    /// Replaces the ring. Slots that are taken from now on are on nodes of the new one.
    ///
    /// Nodes are matched by id, and a node that stays keeps its load. O(N).
    pub fn set_ring(&self, ring: HashRing<H>) {
        let mut guard = self.shared.counts.lock();
        let counts = &mut *guard;
        let old = Arc::clone(&counts.view);
        for (node, load) in old.ring.nodes().iter().zip(counts.loads.drain(..)) {
            if load > 0 {
                counts.departed.insert(node.id().clone(), load);
            }
        }
        counts.loads.extend(ring.nodes().iter().map(|node| counts.departed.remove(node.id()).unwrap_or(0)));
        counts.view = Arc::new(RingView::new(ring, old.version + 1));
        counts.add_up();
        // A ring is large, so the old one is dropped after the lock is released.
        drop(guard);
        drop(old);
    }

    fn slot(&self, view: &RingView<H>, index: usize) -> Slot<H> {
        let node = view.ring.nodes()[index].clone();
        Slot { shared: Arc::clone(&self.shared), node, place: (view.version, index) }
    }
}

/// Observing the loads.
impl<H> BoundedLoads<H> {
    /// Returns the current ring.
    #[must_use]
    pub fn ring(&self) -> Arc<HashRing<H>> {
        Arc::clone(&self.shared.counts.lock().view.ring)
    }

    /// Returns how far above the average a node may be.
    #[must_use]
    pub fn epsilon(&self) -> Epsilon {
        self.shared.epsilon
    }

    /// Returns the number of slots that are taken on members.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.shared.counts.lock().total
    }

    /// Returns the number of slots that are taken on the node with this id, be it a member or one
    /// that has left.
    #[must_use]
    pub fn load(&self, id: impl AsRef<str>) -> u64 {
        let (id, counts) = (id.as_ref(), self.shared.counts.lock());
        match member(&counts.view.ring, id) {
            Ok(index) => counts.loads[index],
            Err(_) => counts.departed.get(id).copied().unwrap_or(0),
        }
    }

    /// Returns all members with their load and capacity at one moment, in the order of their ids.
    /// O(N).
    #[must_use]
    pub fn snapshot(&self) -> Vec<NodeLoad> {
        let (bound, counts) = (self.bound(), self.shared.counts.lock());
        let nodes = counts.view.ring.nodes().iter().zip(&counts.loads);
        nodes
            .map(|(node, load)| NodeLoad {
                node: node.clone(),
                load: *load,
                capacity: match node.is_draining() {
                    true => 0,
                    false => bound.capacity(node, counts.accepting(), counts.view.weight),
                },
            })
            .collect()
    }

    fn bound(&self) -> Bound {
        Bound { epsilon: self.shared.epsilon, limit: self.limit }
    }
}

impl<H> Slot<H> {
    /// Returns the node that is to serve the key.
    #[must_use]
    pub fn node(&self) -> &Node {
        &self.node
    }
}

impl<H> Drop for Slot<H> {
    fn drop(&mut self) {
        self.shared.counts.lock().give_back(&self.node, self.place);
    }
}

impl<H> Clone for BoundedLoads<H> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared), limit: self.limit }
    }
}

impl<H> fmt::Debug for BoundedLoads<H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Read before writing, because the writer behind a formatter is the caller's code and must
        // not run under the lock.
        let (nodes, total) = {
            let counts = self.shared.counts.lock();
            (counts.loads.len(), counts.total)
        };
        f.debug_struct("BoundedLoads")
            .field("epsilon", &self.shared.epsilon)
            .field("limit", &self.limit)
            .field("nodes", &nodes)
            .field("total", &total)
            .finish_non_exhaustive()
    }
}

impl<H> fmt::Debug for Slot<H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Slot").field(&self.node).finish()
    }
}
