//! One service: its live instances and their latest changes.

use std::{
    collections::{BTreeMap, VecDeque},
    num::NonZeroUsize,
    time::{Duration, Instant},
};

use super::{Instance, LeaseToken};
use crate::ring::{DEFAULT_VIRTUAL_NODES, MAX_TOKENS, NodeId};

/// Maximum number of live instances of a service. A ring of as many nodes of weight 1 stays within
/// [`MAX_TOKENS`] at the default number of virtual nodes.
pub const MAX_INSTANCES: usize = 16_384;

/// Maximum weight of all live instances of a service together: 26,214. A ring of that weight stays
/// within [`MAX_TOKENS`] at the default number of virtual nodes, so every follower with default
/// settings can hold the service.
pub const MAX_SERVICE_WEIGHT: u64 = MAX_TOKENS / DEFAULT_VIRTUAL_NODES as u64;

/// Default number of changes of a service that are kept for its watchers; see
/// [`Registry::with_event_buffer`]. A watcher that falls further behind gets a
/// [`WatchEvent::Resync`].
///
/// [`Registry::with_event_buffer`]: super::Registry::with_event_buffer
// The compiler checks that 1024 is not 0.
pub const DEFAULT_EVENT_BUFFER: NonZeroUsize = NonZeroUsize::new(1024).unwrap();

/// What happened to a service. A [`Watcher`](super::Watcher) returns it. It is plain data.
///
/// A later version may have more events. A copy of the instances that meets an event that it does
/// not know calls [`Watcher::request_resync`](super::Watcher::request_resync).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum WatchEvent {
    /// These are all live instances now, sorted by id: they replace what earlier events said. Later
    /// events are changes of this list.
    ///
    /// It is the first event of every watcher, with `missed` 0, and the next event of a watcher
    /// that fell too far behind.
    Resync {
        /// Number of changes that the watcher will never get one by one.
        missed: u64,
        /// All live instances.
        instances: Vec<Instance>,
    },
    /// An instance has registered with an id that was not live.
    Joined(Instance),
    /// An instance has registered with an id that was live. This is the instance now; the earlier
    /// registration is over.
    Updated(Instance),
    /// An instance has ended its registration.
    Left(Instance),
    /// The lease of an instance ran out.
    Expired(Instance),
}

/// One live instance and its lease.
pub(super) struct Registration {
    pub(super) instance: Instance,
    pub(super) token: LeaseToken,
    pub(super) lease: Duration,
    pub(super) expires_at: Instant,
}

impl Registration {
    fn weight(&self) -> u64 {
        u64::from(self.instance.weight())
    }
}

/// A service with live instances or watchers.
///
/// Its watchers share one list of changes, and each has a position in it. So a slow watcher costs
/// the others nothing, and the memory for changes is bounded, whatever the number of watchers.
#[derive(Default)]
pub(super) struct ServiceEntry {
    pub(super) registrations: BTreeMap<NodeId, Registration>,
    /// The weight of all instances together.
    weight: u64,
    watchers: usize,
    /// The latest changes. Empty while there is no watcher.
    changes: VecDeque<WatchEvent>,
    /// The number of the next change, counted for as long as the service is watched.
    next_change: u64,
}

impl ServiceEntry {
    pub(super) fn instances(&self) -> Vec<Instance> {
        self.registrations.values().map(|registration| registration.instance.clone()).collect()
    }

    /// Returns the weight of all instances together, if `instance` were registered, too, or instead
    /// of the one with its id.
    pub(super) fn weight_with(&self, instance: &Instance) -> u64 {
        let replaced = self.registrations.get(instance.id()).map_or(0, Registration::weight);
        self.weight - replaced + u64::from(instance.weight())
    }

    /// Adds a registration, and returns the one with the same id that it replaces.
    pub(super) fn insert(&mut self, registration: Registration) -> Option<Registration> {
        self.weight = self.weight_with(&registration.instance);
        self.registrations.insert(registration.instance.id().clone(), registration)
    }

    /// Removes the registration of this instance, and returns it.
    pub(super) fn remove(&mut self, id: &NodeId) -> Option<Registration> {
        let registration = self.registrations.remove(id)?;
        self.weight -= registration.weight();
        Some(registration)
    }

    /// Whether the service has neither instances nor watchers.
    pub(super) fn is_unused(&self) -> bool {
        self.registrations.is_empty() && self.watchers == 0
    }

    pub(super) fn add_watcher(&mut self) {
        self.watchers += 1;
    }

    pub(super) fn remove_watcher(&mut self) {
        self.watchers -= 1;
        if self.watchers == 0 {
            self.changes = VecDeque::new();
        }
    }

    /// Appends a change for the watchers, if there are any.
    pub(super) fn record(&mut self, change: WatchEvent, buffer: NonZeroUsize) {
        if self.watchers == 0 {
            return;
        }
        if self.changes.len() == buffer.get() {
            self.changes.pop_front();
        }
        self.changes.push_back(change);
        self.next_change += 1;
    }

    /// Returns the next event for a watcher that has got all changes before number `cursor`, and
    /// advances the cursor. A cursor of `None` has got nothing yet. Returns `None` if there is no
    /// event.
    pub(super) fn event_at(&self, cursor: &mut Option<u64>) -> Option<WatchEvent> {
        let oldest = self.next_change - self.changes.len() as u64;
        if let Some(next) = cursor.filter(|next| *next >= oldest) {
            let event = self.changes.get((next - oldest) as usize)?.clone();
            *cursor = Some(next + 1);
            return Some(event);
        }
        let missed = cursor.map_or(0, |next| self.next_change - next);
        *cursor = Some(self.next_change);
        Some(WatchEvent::Resync { missed, instances: self.instances() })
    }
}
