//! Bounded loads: consistent hashing that never sends a node much more than its share of what is in flight.
//!
//! After Mirrokni, Thorup and Zadimoghaddam, "Consistent Hashing with Bounded Loads" (arXiv 1608.01350).

mod counts;
mod epsilon;

use std::{collections::HashMap, fmt, sync::Arc};

use parking_lot::Mutex;

use counts::{Attempt, Bound, Counts, RingView, member};
pub use epsilon::{Epsilon, EpsilonError};

use super::{HashRing, KeyHasher, Node, RingKey, Xxh3};

/// Sends each key to the first node of its preference list that has room, and counts what each node is serving.
///
/// With L slots out among members of total weight W, a node of weight w takes one more only as long as it then has at
/// most
///
/// ```text
/// ceil((1 + epsilon) * (L + 1) * w / W)
/// ```
///
/// of them: its share of the average, the new one included, and [`Epsilon`] above it. Most keys stay with their owner;
/// what is too much for it overflows to the next node, so a popular key or an unlucky stretch of the circle can't
/// overload anyone.
///
/// - **The bound is exact**, however many threads acquire and release: it is checked and the slot taken in one step,
///   under a lock that is held for no more than that (never while a predicate or a hasher runs). It is checked when a
///   slot is taken: as slots are given back the average sinks, and a node may then be above it until its own return.
/// - **There is always room.** The capacities add up to more than L + 1, so [`acquire`](Self::acquire) succeeds, unless
///   an absolute limit was asked for ([`with_limit`](Self::with_limit)) and all have reached it.
/// - **The ring may change** while slots are out ([`set_ring`](Self::set_ring)). Loads follow node ids. A node that has
///   left takes its slots back, and they count no longer in the average; if it returns first, they count again.
///
/// A clone is a handle to the same counts.
///
/// ```
/// use ringpact::ring::{BoundedLoads, Epsilon, HashRing};
///
/// let loads = BoundedLoads::new(HashRing::new(["a", "b", "c"])?, Epsilon::percent(25)?);
///
/// // One key, asked for again and again, would drown its owner:
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

/// Why no node could take a key. Nothing was counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AcquireError {
    /// The predicate refused every node of the ring.
    #[error("the predicate refused all of the ring's nodes: nothing is left to send the key to")]
    AllRefused,

    /// Every node that wasn't refused has reached the absolute limit of [`BoundedLoads::with_limit`].
    #[error("every node that may serve the key is at its limit of {limit} slots for each unit of weight: shed load")]
    AllFull {
        /// The limit for each unit of weight.
        limit: u64,
    },
}

/// One unit of load on a node, given back when dropped. Keep it for as long as the node is at work.
#[must_use = "the slot is given back as soon as it is dropped"]
pub struct Slot<H = Xxh3> {
    shared: Arc<SharedCounts<H>>,
    node: Node,
    /// Where the node stands among the members of this version of the ring: spares the search if it is still current.
    place: (u64, usize),
}

/// What a member is carrying, and what it could; see [`BoundedLoads::snapshot`].
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct NodeLoad {
    /// The member.
    pub node: Node,
    /// Slots that are out on it.
    pub load: u64,
    /// The most it would have after taking the next slot.
    pub capacity: u64,
}

struct SharedCounts<H> {
    epsilon: Epsilon,
    counts: Mutex<Counts<H>>,
}

impl<H: KeyHasher> BoundedLoads<H> {
    /// Nobody is at work yet.
    pub fn new(ring: HashRing<H>, epsilon: Epsilon) -> Self {
        let loads = vec![0; ring.nodes().len()];
        let view = Arc::new(RingView::new(ring, 0));
        let counts = Counts { view, loads, total: 0, departed: HashMap::new() };
        Self { shared: Arc::new(SharedCounts { epsilon, counts: Mutex::new(counts) }), limit: None }
    }

    /// The same counts, seen through a handle that also refuses to give a node more than `per_weight` slots for each
    /// unit of its weight, however high the average. Other handles are not affected.
    pub fn with_limit(self, per_weight: u64) -> Self {
        Self { limit: Some(per_weight), ..self }
    }

    /// A slot on the first node of the key's preference list that has room.
    ///
    /// # Errors
    ///
    /// [`AcquireError::AllFull`], and only from a handle [with a limit](Self::with_limit).
    pub fn acquire<K: RingKey>(&self, key: K) -> Result<Slot<H>, AcquireError> {
        self.acquire_where(key, |_| true)
    }

    /// A slot on the first node of the key's preference list that `accept` doesn't refuse and that has room.
    ///
    /// A refused node counts as absent: neither its weight nor its load has a part in the average, from the moment the
    /// walk has met it. So the load of nodes that are down is shared by those that are up, and while a single node is
    /// accepted there is room. `accept` is asked about a node at most once, unless the ring changes meanwhile, and never
    /// under a lock: it may use this very `BoundedLoads`.
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
    /// [`AcquireError::AllRefused`], or [`AcquireError::AllFull`] from a handle [with a limit](Self::with_limit).
    pub fn acquire_where<K: RingKey>(
        &self,
        key: K,
        mut accept: impl FnMut(&Node) -> bool,
    ) -> Result<Slot<H>, AcquireError> {
        'ring: loop {
            let view = Arc::clone(&self.shared.counts.lock().view);
            let position = view.ring.position(&key);
            // Empty, and thus without an allocation, until a node is refused or passed over.
            let (mut refused, mut passed) = (Vec::new(), Vec::new());
            for node in view.ring.replicas_at(position) {
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
                return Err(AcquireError::AllRefused);
            }
            // Others may have come and gone during the walk, and refusals late in it raise the share of the nodes
            // before. With all refusals known and the counts held still, one of them has room (see `Epsilon`).
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

    /// Puts another ring in the place of the current one, for slots to come.
    ///
    /// Nodes are matched by id: who stays keeps its load. O(N).
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
        counts.total = counts.loads.iter().sum();
        counts.view = Arc::new(RingView::new(ring, old.version + 1));
        // A ring is large: let go of the old one only after the lock.
        drop(guard);
        drop(old);
    }

    fn slot(&self, view: &RingView<H>, index: usize) -> Slot<H> {
        let node = view.ring.nodes()[index].clone();
        Slot { shared: Arc::clone(&self.shared), node, place: (view.version, index) }
    }
}

/// What is going on.
impl<H> BoundedLoads<H> {
    /// The ring that places keys now.
    pub fn ring(&self) -> Arc<HashRing<H>> {
        Arc::clone(&self.shared.counts.lock().view.ring)
    }

    /// How far above the average a node may be.
    pub fn epsilon(&self) -> Epsilon {
        self.shared.epsilon
    }

    /// Slots that are out on members.
    pub fn total(&self) -> u64 {
        self.shared.counts.lock().total
    }

    /// Slots that are out on the node with this id, be it a member or one that has left.
    pub fn load(&self, id: impl AsRef<str>) -> u64 {
        let (id, counts) = (id.as_ref(), self.shared.counts.lock());
        match member(&counts.view.ring, id) {
            Ok(index) => counts.loads[index],
            Err(_) => counts.departed.get(id).copied().unwrap_or(0),
        }
    }

    /// All members with their load and capacity at one moment, in the order of their ids. O(N).
    pub fn snapshot(&self) -> Vec<NodeLoad> {
        let (bound, counts) = (self.bound(), self.shared.counts.lock());
        let nodes = counts.view.ring.nodes().iter().zip(&counts.loads);
        nodes
            .map(|(node, load)| NodeLoad {
                node: node.clone(),
                load: *load,
                capacity: bound.capacity(node, counts.total, counts.view.weight),
            })
            .collect()
    }

    fn bound(&self) -> Bound {
        Bound { epsilon: self.shared.epsilon, limit: self.limit }
    }
}

impl<H> Slot<H> {
    /// The node that is to serve the key.
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
        // Taken out first, because the writer behind a formatter is the caller's code.
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
