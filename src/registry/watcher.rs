//! Following the changes of one service.

use std::{fmt, sync::Arc, time::Instant};

use super::{Registry, WatchEvent};

/// Sees every change of a service's instances, in the order in which they happened.
///
/// The first event is a [`WatchEvent::Resync`] with the instances that were live when the watch began; the changes since
/// follow one by one. A watcher that is not polled while more changes happen than the registry keeps (see
/// [`DEFAULT_EVENT_BUFFER`](super::DEFAULT_EVENT_BUFFER)) gets another `Resync`, which says how many changes it stands
/// for. So a mirror that obeys the events equals the live instances whenever `poll` answers `None`.
///
/// Dropping a watcher ends the watch; nothing of it stays behind.
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
///     }
/// }
/// assert!(live.into_values().eq(registry.instances("goods", now)));
/// # Ok::<(), ringpact::registry::RegistryError>(())
/// ```
pub struct Watcher {
    registry: Registry,
    service: Arc<str>,
    /// The number of the next change to tell; none if a resync comes first.
    cursor: Option<u64>,
    /// Where the service was when the watch began, until it was told.
    first: Option<WatchEvent>,
}

impl Watcher {
    pub(super) fn new(registry: Registry, service: Arc<str>, cursor: Option<u64>, first: Option<WatchEvent>) -> Self {
        Self { registry, service, cursor, first }
    }

    /// The next event, or `None` if the watcher knows all there is to know at `now`. Doesn't wait.
    pub fn poll(&mut self, now: Instant) -> Option<WatchEvent> {
        self.registry.at(now, |state| {
            // A watched service is kept, so it is there.
            self.first.take().or_else(|| state.service(&self.service)?.event_at(&mut self.cursor))
        })
    }

    /// Makes the next event a [`WatchEvent::Resync`].
    pub fn request_resync(&mut self) {
        self.cursor = None;
        self.first = None;
    }

    /// The service's name.
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
