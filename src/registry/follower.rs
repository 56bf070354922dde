//! A ring that follows a service.

use std::time::Instant;

use super::{Instance, WatchEvent, Watcher};
use crate::ring::{DEFAULT_VIRTUAL_NODES, HashRing, KeyHasher, Movement, RingError, Xxh3};

/// What an [`update`](RingFollower::update) found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Followed {
    /// The service's members are the same as before.
    Unchanged,
    /// Members came, went, or changed their weight or zone.
    Changed,
}

/// Keeps a [`HashRing`] equal to the live instances of a service, their weights and zones carried over.
///
/// There is no ring while the service has no instances. Changes go into the ring one by one; only a resync builds it
/// anew. Addresses aren't in the ring: look an owner's up by [`Registry::instance`](super::Registry::instance).
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
    ring: Option<HashRing<H>>,
    /// The ring before the last update that changed it.
    previous: Option<HashRing<H>>,
}

impl RingFollower {
    /// A follower whose ring has all settings at their default. It has no ring before its first update.
    pub fn new(watcher: Watcher) -> Self {
        Self::with_settings(watcher, DEFAULT_VIRTUAL_NODES, Xxh3::default())
    }
}

impl<H: KeyHasher + Clone + PartialEq> RingFollower<H> {
    /// A follower whose ring has these settings; see [`RingBuilder`](crate::ring::RingBuilder).
    pub fn with_settings(watcher: Watcher, virtual_nodes: u32, hasher: H) -> Self {
        Self { watcher, virtual_nodes, hasher, ring: None, previous: None }
    }

    /// Takes in all that happened to the service up to `now`.
    ///
    /// # Errors
    ///
    /// What [`RingBuilder::build`](crate::ring::RingBuilder::build) says of the members: together they may be too heavy
    /// for one ring, and zero virtual nodes are never right. The follower then keeps the ring it had, which is no
    /// longer that of the service, and the next update starts over from the live instances.
    pub fn update(&mut self, now: Instant) -> Result<Followed, RingError> {
        let mut next = None;
        while let Some(event) = self.watcher.poll(now) {
            // Copied at the first change only, since most updates find none.
            let ring = next.get_or_insert_with(|| self.ring.clone());
            if let Err(error) = apply(event, ring, self.virtual_nodes, &self.hasher) {
                self.watcher.request_resync();
                return Err(error);
            }
        }
        match next {
            Some(next) if next != self.ring => {
                self.previous = std::mem::replace(&mut self.ring, next);
                Ok(Followed::Changed)
            }
            _ => Ok(Followed::Unchanged),
        }
    }

    /// The ring as of the last update, or `None` if the service had no instances then.
    pub fn ring(&self) -> Option<&HashRing<H>> {
        self.ring.as_ref()
    }

    /// The ring before the last update that changed it.
    pub fn previous(&self) -> Option<&HashRing<H>> {
        self.previous.as_ref()
    }

    /// What moved with the last update that changed the ring, or `None` if there was no ring before or is none now: then
    /// there is nobody to move from or to.
    pub fn last_movement(&self) -> Option<Movement<'_>> {
        // Both have this follower's hasher, so they can be compared.
        self.previous.as_ref()?.movement(self.ring.as_ref()?).ok()
    }
}

fn apply<H: KeyHasher + Clone>(
    event: WatchEvent,
    ring: &mut Option<HashRing<H>>,
    virtual_nodes: u32,
    hasher: &H,
) -> Result<(), RingError> {
    let build = |instances: &[Instance]| {
        let nodes = instances.iter().map(|instance| instance.node().clone());
        HashRing::builder().virtual_nodes(virtual_nodes).hasher(hasher.clone()).nodes(nodes).build()
    };
    match (event, ring.as_mut()) {
        (WatchEvent::Resync { instances, .. }, _) if instances.is_empty() => *ring = None,
        (WatchEvent::Resync { instances, .. }, _) => *ring = Some(build(&instances)?),
        (WatchEvent::Joined(instance) | WatchEvent::Updated(instance), None) => *ring = Some(build(&[instance])?),
        (WatchEvent::Joined(instance), Some(ring)) => ring.add(instance.node().clone())?,
        (WatchEvent::Updated(instance), Some(ring)) => {
            ring.replace(instance.node().clone())?;
        }
        (WatchEvent::Left(_) | WatchEvent::Expired(_), None) => {}
        (WatchEvent::Left(instance) | WatchEvent::Expired(instance), Some(members)) => {
            match members.remove(instance.id()) {
                Err(RingError::LastNode { .. }) => *ring = None,
                removed => {
                    removed?;
                }
            }
        }
    }
    Ok(())
}
