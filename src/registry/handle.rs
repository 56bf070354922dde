//! The registry as several threads see it: the state behind a lock.

use std::{
    fmt,
    num::NonZeroUsize,
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;

use super::{
    DEFAULT_EVENT_BUFFER, Instance, Lease, LeaseToken, RegistryError, Watcher, service_entry::ServiceEntry,
    state::RegistryState,
};

/// Who is alive, by service. See the [module](super) for how time and leases work.
///
/// A clone is another handle on the same registry. Each call takes one short lock and calls nothing of yours under it;
/// it costs O(log n) for n registrations, plus O(log n) for each that expires, plus what it returns.
///
/// ```
/// use std::time::{Duration, Instant};
/// use ringpact::registry::{Instance, Registry};
///
/// let registry = Registry::new();
/// let now = Instant::now();
/// let lease = registry.register("orders", Instance::new("orders-1", "10.0.0.9:80"), Duration::from_secs(30), now)?;
///
/// let later = now + Duration::from_secs(10);
/// registry.renew(lease.token(), later)?;
/// assert_eq!(registry.instances("orders", later)[0].address(), "10.0.0.9:80");
///
/// registry.leave(lease.token(), later)?;
/// assert!(registry.instances("orders", later).is_empty());
/// # Ok::<(), ringpact::registry::RegistryError>(())
/// ```
#[derive(Clone)]
pub struct Registry {
    state: Arc<Mutex<RegistryState>>,
}

impl Registry {
    /// An empty registry that keeps [`DEFAULT_EVENT_BUFFER`] changes a service for slow watchers.
    pub fn new() -> Self {
        Self::with_event_buffer(DEFAULT_EVENT_BUFFER)
    }

    /// An empty registry that keeps `changes` changes a service for slow watchers. They are kept once for all watchers
    /// of the service, and only while there are any.
    pub fn with_event_buffer(changes: NonZeroUsize) -> Self {
        Self { state: Arc::new(Mutex::new(RegistryState::new(changes))) }
    }

    /// Lists an instance under a service's name (1 to 255 bytes) until `now + lease`, and longer if it is renewed.
    ///
    /// If an instance of this id is live already, the new one takes its place and the earlier lease is void: it is
    /// taken for an earlier life of the same process.
    ///
    /// # Errors
    ///
    /// - [`RegistryError::InvalidService`], [`RegistryError::InvalidInstance`], [`RegistryError::AddressTooLong`],
    ///   [`RegistryError::InvalidLease`] or [`RegistryError::ClockOutOfRange`] for arguments out of range;
    /// - [`RegistryError::TooManyInstances`], [`RegistryError::TooHeavy`] or [`RegistryError::TooManyServices`] if there is
    ///   no room.
    pub fn register(
        &self,
        service: &str,
        instance: Instance,
        lease: Duration,
        now: Instant,
    ) -> Result<Lease, RegistryError> {
        self.state.lock().register(service, instance, lease, now)
    }

    /// Prolongs a registration to `now` plus the lease it was registered with. Watchers aren't told.
    ///
    /// # Errors
    ///
    /// [`RegistryError::StaleLease`] if the registration is over by `now`, even if nobody noticed so far;
    /// [`RegistryError::ClockOutOfRange`].
    pub fn renew(&self, token: LeaseToken, now: Instant) -> Result<Lease, RegistryError> {
        self.state.lock().renew(token, now)
    }

    /// Ends a registration, and returns the instance.
    ///
    /// # Errors
    ///
    /// [`RegistryError::StaleLease`] if it is over already; a newer registration of the same instance isn't touched.
    pub fn leave(&self, token: LeaseToken, now: Instant) -> Result<Instance, RegistryError> {
        self.state.lock().leave(token, now)
    }

    /// Expires what is due at `now`, and says how many instances that were. Every other call with a `now` does the same
    /// on its way; see [`next_expiry`](Registry::next_expiry) for when this one is worth making.
    pub fn expire(&self, now: Instant) -> usize {
        self.state.lock().advance(now).1
    }

    /// When the next lease runs out, if nothing is renewed; `None` while nobody is registered.
    pub fn next_expiry(&self) -> Option<Instant> {
        self.state.lock().next_expiry()
    }

    /// The live instances of a service, sorted by id; none for a service nobody registered under.
    pub fn instances(&self, service: &str, now: Instant) -> Vec<Instance> {
        self.at(now, |state| state.service(service).map(ServiceEntry::instances).unwrap_or_default())
    }

    /// The live instance of a service with this id.
    pub fn instance(&self, service: &str, id: &str, now: Instant) -> Option<Instance> {
        self.at(now, |state| Some(state.service(service)?.registrations.get(id)?.instance.clone()))
    }

    /// The names of the services that have live instances, sorted. O(services).
    pub fn services(&self, now: Instant) -> Vec<Arc<str>> {
        self.at(now, |state| state.services())
    }

    /// Watches a service (1 to 255 bytes), which needs no instances yet.
    ///
    /// # Errors
    ///
    /// [`RegistryError::InvalidService`], [`RegistryError::TooManyServices`].
    pub fn watch(&self, service: &str, now: Instant) -> Result<Watcher, RegistryError> {
        let mut state = self.state.lock();
        state.advance(now);
        let (name, service) = state.add_watcher(service)?;
        let mut cursor = None;
        let first = service.event_at(&mut cursor);
        Ok(Watcher::new(self.clone(), name, cursor, first))
    }

    /// Runs `read` on the state as of `now`.
    pub(super) fn at<R>(&self, now: Instant, read: impl FnOnce(&RegistryState) -> R) -> R {
        let mut state = self.state.lock();
        state.advance(now);
        read(&state)
    }

    pub(super) fn unwatch(&self, service: &str) {
        self.state.lock().remove_watcher(service);
    }
}

impl Default for Registry {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registry").finish_non_exhaustive()
    }
}
