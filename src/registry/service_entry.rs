//! One service: its live instances, and what happened to them lately.

use std::{
    collections::{BTreeMap, VecDeque},
    num::NonZeroUsize,
    time::{Duration, Instant},
};

use super::{Instance, LeaseToken};
use crate::ring::{DEFAULT_VIRTUAL_NODES, MAX_TOKENS, NodeId};

/// The most live instances a service may have. A ring of as many nodes of weight 1 stays within
/// [`MAX_TOKENS`](crate::ring::MAX_TOKENS) at the default number of virtual nodes.
pub const MAX_INSTANCES: usize = 16_384;

/// The most that the live instances of a service may weigh together: 26,214. A ring of that weight stays within
/// [`MAX_TOKENS`] at the default number of virtual nodes, so every follower with default settings can hold the service.
pub const MAX_SERVICE_WEIGHT: u64 = MAX_TOKENS / DEFAULT_VIRTUAL_NODES as u64;

/// How many changes of a service are kept for its watchers, unless [`Registry::with_event_buffer`] says otherwise. A
/// watcher that falls further behind is told to start over.
///
/// [`Registry::with_event_buffer`]: super::Registry::with_event_buffer
// Checked when this is compiled: 1024 is not 0.
pub const DEFAULT_EVENT_BUFFER: NonZeroUsize = NonZeroUsize::new(1024).unwrap();

/// What a [`Watcher`](super::Watcher) is told about its service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WatchEvent {
    /// Forget what you knew: these are the live instances, sorted by id. The changes that follow are on top of it.
    ///
    /// The first event of every watcher, with `missed` 0, and the next event of one that fell too far behind.
    Resync {
        /// How many changes the watcher will never be told one by one.
        missed: u64,
        /// All live instances.
        instances: Vec<Instance>,
    },
    /// An instance registered under an id that wasn't live.
    Joined(Instance),
    /// An instance registered under an id that was live. This is what it is now; the earlier registration is void.
    Updated(Instance),
    /// An instance deregistered.
    Left(Instance),
    /// An instance's lease ran out.
    Expired(Instance),
}

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

/// Watchers share one log of changes, and each has a place in it; so a slow one costs nobody anything, and the memory
/// for changes is bounded whatever the number of watchers.
#[derive(Default)]
pub(super) struct ServiceEntry {
    pub(super) registrations: BTreeMap<NodeId, Registration>,
    /// Weight of all registrations together.
    weight: u64,
    watchers: usize,
    /// The latest changes; empty while nobody watches.
    changes: VecDeque<WatchEvent>,
    /// The number of the next change, counted for as long as the service is watched.
    next_change: u64,
}

impl ServiceEntry {
    pub(super) fn instances(&self) -> Vec<Instance> {
        self.registrations.values().map(|registration| registration.instance.clone()).collect()
    }

    /// Weight of all instances together, if `instance` is registered too or in place of the one with its id.
    pub(super) fn weight_with(&self, instance: &Instance) -> u64 {
        let replaced = self.registrations.get(instance.id()).map_or(0, Registration::weight);
        self.weight - replaced + u64::from(instance.weight())
    }

    /// Takes in a registration, and returns the one with the same id that it replaces.
    pub(super) fn insert(&mut self, registration: Registration) -> Option<Registration> {
        self.weight = self.weight_with(&registration.instance);
        self.registrations.insert(registration.instance.id().clone(), registration)
    }

    /// Takes out the registration of this instance.
    pub(super) fn remove(&mut self, id: &NodeId) -> Option<Registration> {
        let registration = self.registrations.remove(id)?;
        self.weight -= registration.weight();
        Some(registration)
    }

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

    /// The next event for a watcher that knows everything before change number `cursor`, or nothing yet.
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
