//! The registry as users see it: the state behind a lock.

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

/// The live instances of services. A clone is another handle on the same registry, and all handles
/// may be used by several threads.
///
/// See the [module](super) for how time and leases work. Each call takes one short lock, under
/// which no code of the caller runs. No call waits for anything else, so async code may call all of
/// them. A call costs O(log n) for n registrations, plus O(log n) for each that expires, plus the
/// size of what it returns.
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
    /// Returns an empty registry that keeps [`DEFAULT_EVENT_BUFFER`] changes of each service for
    /// slow watchers.
    #[must_use]
    pub fn new() -> Self {
        Self::with_event_buffer(DEFAULT_EVENT_BUFFER)
    }

    /// Returns an empty registry that keeps `changes` changes of each service for slow watchers.
    /// All watchers of a service share them, and they are kept only while there are watchers.
    #[must_use]
    pub fn with_event_buffer(changes: NonZeroUsize) -> Self {
        Self { state: Arc::new(Mutex::new(RegistryState::new(changes))) }
    }

    /// Registers an instance under a service's name (1 to 255 bytes). It is listed until
    /// `now + lease`, and longer if the lease is renewed.
    ///
    /// If an instance with this id is live already, the new one replaces it, and the earlier lease
    /// is over. The registry takes the earlier instance for an earlier life of the same process.
    ///
    /// # Errors
    ///
    /// - [`RegistryError::InvalidService`], [`RegistryError::InvalidInstance`],
    ///   [`RegistryError::AddressTooLong`], [`RegistryError::InvalidLease`] or
    ///   [`RegistryError::ClockOutOfRange`] for arguments out of range;
    /// - [`RegistryError::TooManyInstances`], [`RegistryError::TooHeavy`] or
    ///   [`RegistryError::TooManyServices`] if there is no room.
    pub fn register(
        &self,
        service: &str,
        instance: Instance,
        lease: Duration,
        now: Instant,
    ) -> Result<Lease, RegistryError> {
        self.state.lock().register(service, instance, lease, now)
    }

    /// Prolongs a registration to `now` plus the lease that it was registered with. Watchers get no
    /// event.
    ///
    /// # Errors
    ///
    /// [`RegistryError::StaleLease`] if the registration is over at `now`, even if no call has
    /// expired it yet; [`RegistryError::ClockOutOfRange`] if the lease would end beyond the range
    /// of the clock.
    pub fn renew(&self, token: LeaseToken, now: Instant) -> Result<Lease, RegistryError> {
        self.state.lock().renew(token, now)
    }

    /// Ends a registration, and returns the instance.
    ///
    /// # Errors
    ///
    /// [`RegistryError::StaleLease`] if the registration is over already. A newer registration of
    /// the same instance stays.
    pub fn leave(&self, token: LeaseToken, now: Instant) -> Result<Instance, RegistryError> {
        self.state.lock().leave(token, now)
    }

    /// Expires what is due at `now`, and returns the number of instances that expired. Every other
    /// call with a `now` does the same first. [`next_expiry`](Registry::next_expiry) says when it
    /// is useful to call this one.
    pub fn expire(&self, now: Instant) -> usize {
        self.state.lock().advance(now).1
    }

    /// Returns when the next lease runs out, if none is renewed. Returns `None` while no instance
    /// is registered.
    #[must_use]
    pub fn next_expiry(&self) -> Option<Instant> {
        self.state.lock().next_expiry()
    }

    /// Returns the live instances of a service, sorted by id. The list is empty if no instance has
    /// registered under this name.
    #[must_use]
    pub fn instances(&self, service: &str, now: Instant) -> Vec<Instance> {
        self.at(now, |state| state.service(service).map(ServiceEntry::instances).unwrap_or_default())
    }

    /// Returns the live instance of a service with this id, or `None` if there is none.
    #[must_use]
    pub fn instance(&self, service: &str, id: &str, now: Instant) -> Option<Instance> {
        self.at(now, |state| Some(state.service(service)?.registrations.get(id)?.instance.clone()))
    }

    /// Returns the names of the services that have live instances, sorted. O(services).
    #[must_use]
    pub fn services(&self, now: Instant) -> Vec<Arc<str>> {
        self.at(now, |state| state.services())
    }

    /// Returns a watcher of a service (1 to 255 bytes), which need not have instances yet.
    ///
    /// # Errors
    ///
    /// [`RegistryError::InvalidService`] if the name is empty or too long,
    /// [`RegistryError::TooManyServices`] if there is no room for another service.
    pub fn watch(&self, service: &str, now: Instant) -> Result<Watcher, RegistryError> {
        let mut state = self.state.lock();
        state.advance(now);
        let (name, service) = state.add_watcher(service)?;
        let mut cursor = None;
        let first = service.event_at(&mut cursor);
        Ok(Watcher::new(self.clone(), name, cursor, first))
    }

    /// Calls `read` with the state as of `now`.
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
