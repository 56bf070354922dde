//! A view of the changes of one service.

use std::{fmt, sync::Arc, time::Instant};

use super::{Registry, WatchEvent};

/// Returns every change of a service's instances, in the order in which they happened. One thread
/// owns it and calls [`poll`](Self::poll); for another thread, make another watcher.
///
/// The first event is a [`WatchEvent::Resync`] with the instances that were live when the watch
/// began. The changes after that follow one by one. A watcher that is not polled while more changes
/// happen than the registry keeps (see [`DEFAULT_EVENT_BUFFER`](super::DEFAULT_EVENT_BUFFER)) gets
/// another `Resync`, which says how many changes it replaces. So a copy that is kept by the events
/// equals the live instances whenever `poll` returns `None`.
///
/// Dropping a watcher ends the watch, and frees all that the registry kept for it.
///
/// ```
/// use std::{collections::BTreeMap, time::{Duration, Instant}};
/// use ringpact::registry::{Instance, Registry, WatchEvent};
///
/// let registry = Registry::new();
/// let now = Instant::now();
/// let mut watcher = registry.watch("goods", now)?;
/// registry.register("goods", Instance::new("goods-1", "10.0.0.7:80"), Duration::from_secs(10), now)?;
///
/// let mut live = BTreeMap::new();
/// while let Some(event) = watcher.poll(now) {
///     match event {
///         WatchEvent::Resync { instances, .. } => {
///             live = instances.into_iter().map(|instance| (instance.id().clone(), instance)).collect();
///         }
///         WatchEvent::Joined(instance) | WatchEvent::Updated(instance) => {
///             live.insert(instance.id().clone(), instance);
///         }
///         WatchEvent::Left(instance) | WatchEvent::Expired(instance) => {
///             live.remove(instance.id());
///         }
///         _ => watcher.request_resync(),
///     }
/// }
/// assert!(live.into_values().eq(registry.instances("goods", now)));
/// # Ok::<(), ringpact::registry::RegistryError>(())
/// ```
pub struct Watcher {
    registry: Registry,
    service: Arc<str>,
    /// The number of the next change to return. `None` if a resync comes first.
    cursor: Option<u64>,
    /// The first event: the instances when the watch began. `None` after it was returned.
    first: Option<WatchEvent>,
}

impl Watcher {
    pub(super) fn new(registry: Registry, service: Arc<str>, cursor: Option<u64>, first: Option<WatchEvent>) -> Self {
        Self { registry, service, cursor, first }
    }

    /// Returns the next event, or `None` if no change is left at `now`. Never waits: call it again
    /// later, for example at [`Registry::next_expiry`] or on a timer.
    pub fn poll(&mut self, now: Instant) -> Option<WatchEvent> {
        self.registry.at(now, |state| {
            // The registry keeps a service while it is watched, so it is there.
            self.first.take().or_else(|| state.service(&self.service)?.event_at(&mut self.cursor))
        })
    }

    /// Makes the next event a [`WatchEvent::Resync`].
    pub fn request_resync(&mut self) {
        self.cursor = None;
        self.first = None;
    }

    /// Returns the service's name.
    #[must_use]
    pub fn service(&self) -> &str {
        &self.service
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.registry.unwatch(&self.service);
    }
}

impl fmt::Debug for Watcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watcher").field("service", &self.service).finish_non_exhaustive()
    }
}
