//! A ring that follows the live instances of a service.

use std::{collections::BTreeMap, time::Instant};

use super::{WatchEvent, Watcher};
use crate::ring::{DEFAULT_VIRTUAL_NODES, HashRing, KeyHasher, MAX_TOKENS, Movement, Node, NodeId, RingError, Xxh3};

/// The outcome of an [`update`](RingFollower::update).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Followed {
    /// The service's members are the same as before.
    Unchanged,
    /// Members joined, left, or changed their weight, zone or draining mark.
    Changed,
}

/// Keeps a [`HashRing`] equal to the live instances of a service, with their weights, zones and
/// draining marks. One thread owns it and calls [`update`](Self::update); to share the ring with other threads, publish
/// it in a [`SharedRing`](crate::ring::SharedRing).
///
/// There is no ring while the service has no instances. The follower makes few changes in place,
/// and builds the ring again for many. Addresses aren't in the ring:
/// [`Registry::instance`](super::Registry::instance) has the address of an owner.
///
/// If the instances together are too heavy for one ring with the follower's settings, the ring
/// leaves the heaviest out ([`left_out`](Self::left_out)), and of equally heavy ones those with the
/// greatest ids. The choice follows from the live instances alone, so followers with the same
/// settings agree. With the default settings it never happens, because
/// [`Registry::register`](super::Registry::register) refuses what is over
/// [`MAX_SERVICE_WEIGHT`](super::MAX_SERVICE_WEIGHT).
///
/// ```
/// use std::time::{Duration, Instant};
/// use ringpact::registry::{Followed, Instance, Registry, RingFollower};
///
/// let registry = Registry::new();
/// let (now, lease) = (Instant::now(), Duration::from_secs(10));
/// registry.register("goods", Instance::new("goods-1", "10.0.0.1:80"), lease, now)?;
/// let mut follower = RingFollower::new(registry.watch("goods", now)?);
/// assert_eq!(follower.update(now)?, Followed::Changed);
///
/// registry.register("goods", Instance::new("goods-2", "10.0.0.2:80"), lease, now)?;
/// assert_eq!(follower.update(now)?, Followed::Changed);
/// for moved in follower.last_movement().iter().flat_map(|movement| movement.ranges()) {
///     assert_eq!((moved.from.id().as_str(), moved.to.id().as_str()), ("goods-1", "goods-2"));
/// }
/// assert_eq!(follower.update(now)?, Followed::Unchanged);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct RingFollower<H = Xxh3> {
    watcher: Watcher,
    virtual_nodes: u32,
    hasher: H,
    /// The live instances according to the events so far.
    live: BTreeMap<NodeId, Node>,
    /// Whether `ring` may not yet have the changes in `live`, because an error or a panic ended an
    /// update early.
    is_behind: bool,
    /// Live instances that the ring has no room for.
    left_out: Vec<Node>,
    ring: Option<HashRing<H>>,
    /// The ring before the last update that changed it.
    previous: Option<HashRing<H>>,
}

impl RingFollower {
    /// Returns a follower whose ring has all settings at their default. It has no ring before its
    /// first update.
    #[must_use]
    pub fn new(watcher: Watcher) -> Self {
        Self::with_settings(watcher, DEFAULT_VIRTUAL_NODES, Xxh3::default())
    }
}

impl<H: KeyHasher + Clone + PartialEq> RingFollower<H> {
    /// Returns a follower whose ring has these settings; see
    /// [`RingBuilder`](crate::ring::RingBuilder). It has no ring before its first update.
    #[must_use]
    pub fn with_settings(watcher: Watcher, virtual_nodes: u32, hasher: H) -> Self {
        let (live, left_out) = (BTreeMap::new(), Vec::new());
        Self { watcher, virtual_nodes, hasher, live, is_behind: false, left_out, ring: None, previous: None }
    }

    /// Brings the ring up to date with all changes of the service up to `now`. Does not wait for
    /// changes.
    ///
    /// # Errors
    ///
    /// [`RingError::TooManyTokens`] if the instances together are too heavy for one ring with the
    /// follower's settings. All changes are in the ring nevertheless, also those of instances that
    /// left or expired, but without the instances that it [leaves out](Self::left_out). Each update
    /// returns this error until the instances fit.
    ///
    /// [`RingError::ZeroVirtualNodes`] at every update, if that is the follower's setting. Then
    /// there is never a ring.
    pub fn update(&mut self, now: Instant) -> Result<Followed, RingError> {
        while let Some(event) = self.watcher.poll(now) {
            // Set first, because the watcher returns an event only once, and a hasher may panic
            // while the ring changes.
            self.is_behind = true;
            self.take_in(event);
        }
        let followed = if self.is_behind { self.catch_up()? } else { Followed::Unchanged };
        if self.left_out.is_empty() {
            return Ok(followed);
        }
        let weight: u64 = self.live.values().map(|node| u64::from(node.weight())).sum();
        Err(RingError::TooManyTokens { tokens: weight.saturating_mul(u64::from(self.virtual_nodes)) })
    }

    /// Makes the change of an event in `live`.
    fn take_in(&mut self, event: WatchEvent) {
        match event {
            WatchEvent::Resync { instances, .. } => {
                self.live = instances.iter().map(|instance| (instance.id().clone(), instance.node().clone())).collect();
            }
            WatchEvent::Joined(instance) | WatchEvent::Updated(instance) => {
                self.live.insert(instance.id().clone(), instance.node().clone());
            }
            WatchEvent::Left(instance) | WatchEvent::Expired(instance) => {
                self.live.remove(instance.id());
            }
        }
    }

    /// Makes the ring equal to the live instances.
    fn catch_up(&mut self) -> Result<Followed, RingError> {
        let room = MAX_TOKENS.checked_div(u64::from(self.virtual_nodes)).unwrap_or(MAX_TOKENS);
        let (members, left_out) = lightest(&self.live, room);
        let changes = changes(self.ring.as_ref().map_or(&[], HashRing::nodes), &members);
        let is_changed = !changes.is_empty();
        let next = if is_changed && !members.is_empty() { Some(self.ring_with(changes, &members)?) } else { None };
        self.left_out = left_out;
        self.is_behind = false;
        if !is_changed {
            return Ok(Followed::Unchanged);
        }
        self.previous = std::mem::replace(&mut self.ring, next);
        Ok(Followed::Changed)
    }

    /// Returns the ring with these changes. It then has these members, of which there is at least
    /// one.
    fn ring_with(&self, changes: Vec<MemberChange<'_>>, members: &[Node]) -> Result<HashRing<H>, RingError> {
        let Some(ring) = self.ring.as_ref().filter(|ring| 2 * changes.len() < ring.nodes().len()) else {
            let builder = HashRing::builder().virtual_nodes(self.virtual_nodes).hasher(self.hasher.clone());
            return builder.nodes(members.iter().cloned()).build();
        };
        // Fewer than half of the nodes leave, so at least one is left at any time.
        let mut ring = ring.clone();
        for change in changes {
            match change {
                MemberChange::Leave(id) => drop(ring.remove(id)?),
                MemberChange::Replace(node) => drop(ring.replace(node.clone())?),
                MemberChange::Join(node) => ring.add(node.clone())?,
            }
        }
        Ok(ring)
    }

    /// Returns the live instances that are not in the ring, because all together are too heavy for
    /// one ring. The lightest come first. It is empty unless the last update returned an error.
    #[must_use]
    pub fn left_out(&self) -> &[Node] {
        &self.left_out
    }

    /// Returns the ring as of the last update, or `None` if the service had no instances then.
    #[must_use]
    pub fn ring(&self) -> Option<&HashRing<H>> {
        self.ring.as_ref()
    }

    /// Returns the ring before the last update that changed it, or `None` if there was none.
    #[must_use]
    pub fn previous(&self) -> Option<&HashRing<H>> {
        self.previous.as_ref()
    }

    /// Returns what moved with the last update that changed the ring. Returns `None` if there was
    /// no ring before or is none now, because then no node can give or take.
    #[must_use]
    pub fn last_movement(&self) -> Option<Movement<'_>> {
        // Both have this follower's hasher, so they can be compared.
        self.previous.as_ref()?.movement(self.ring.as_ref()?).ok()
    }
}

/// Returns the nodes that fit a ring of this total weight, chosen from the lightest on and sorted
/// by id; and the other nodes, sorted by weight.
fn lightest(live: &BTreeMap<NodeId, Node>, room: u64) -> (Vec<Node>, Vec<Node>) {
    let mut nodes: Vec<Node> = live.values().cloned().collect();
    if nodes.iter().map(|node| u64::from(node.weight())).sum::<u64>() <= room {
        return (nodes, Vec::new());
    }
    // Stable, so that equally heavy nodes stay in the order of their ids.
    nodes.sort_by_key(Node::weight);
    let mut weight = 0;
    let fitting = nodes.iter().take_while(|node| {
        weight += u64::from(node.weight());
        weight <= room
    });
    let left_out = nodes.split_off(fitting.count());
    nodes.sort_by(|a, b| a.id().cmp(b.id()));
    (nodes, left_out)
}

/// A difference between two lists of members.
enum MemberChange<'a> {
    Leave(&'a NodeId),
    Replace(&'a Node),
    Join(&'a Node),
}

/// Returns the changes that make `before` equal to `after`, in an order in which the ring never has
/// more tokens than allowed on the way. Both lists are sorted by id.
fn changes<'a>(before: &'a [Node], after: &'a [Node]) -> Vec<MemberChange<'a>> {
    let find = |nodes: &'a [Node], id: &NodeId| {
        nodes.binary_search_by(|node| node.id().cmp(id)).ok().map(|index| &nodes[index])
    };
    let leave = before.iter().map(Node::id).filter(|id| find(after, id).is_none()).map(MemberChange::Leave);
    let mut replaced: Vec<(&Node, &Node)> = after
        .iter()
        .filter_map(|node| Some((find(before, node.id())?, node)))
        .filter(|(old, new)| old != new)
        .collect();
    // Nodes that get lighter come first, to make room for those that get heavier.
    replaced.sort_by_key(|(old, new)| i64::from(new.weight()) - i64::from(old.weight()));
    let replace = replaced.into_iter().map(|(_, new)| MemberChange::Replace(new));
    let join = after.iter().filter(|node| find(before, node.id()).is_none()).map(MemberChange::Join);
    leave.chain(replace).chain(join).collect()
}
