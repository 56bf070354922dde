//! The state of the registry, and its changes. It is pure: the caller holds the lock, and the time
//! is an argument.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    num::NonZeroUsize,
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    Instance, Lease, LeaseToken, MAX_INSTANCES, MAX_SERVICE_WEIGHT, RegistryError, WatchEvent, lease,
    service_entry::{Registration, ServiceEntry},
};
use crate::ring::{MAX_NAME_BYTES, NodeId};

/// Maximum number of services that have instances or watchers at a time.
pub const MAX_SERVICES: usize = 65_536;

/// All services of a registry.
///
/// Invariants: each registration has one entry in `by_token` and one in `deadlines`, and these have
/// no other entries. No service is unused. No live registration is due at `time`.
pub(super) struct RegistryState {
    /// Number of changes that are kept for the watchers of a service.
    buffer: NonZeroUsize,
    /// The latest `now` of any call. `None` before the first call.
    time: Option<Instant>,
    next_token: u64,
    services: BTreeMap<Arc<str>, ServiceEntry>,
    /// The service and the instance of each token that is not stale.
    by_token: HashMap<LeaseToken, (Arc<str>, NodeId)>,
    /// The end of each lease.
    deadlines: BTreeSet<(Instant, LeaseToken)>,
}

impl RegistryState {
    pub(super) fn new(buffer: NonZeroUsize) -> Self {
        Self {
            buffer,
            time: None,
            next_token: 1,
            services: BTreeMap::new(),
            by_token: HashMap::new(),
            deadlines: BTreeSet::new(),
        }
    }

    /// Sets the registry's time to `now`, unless it is later already, and expires what is due, in
    /// the order in which it became due. Returns the registry's time, and the number of instances
    /// that expired.
    pub(super) fn advance(&mut self, now: Instant) -> (Instant, usize) {
        let time = self.time.map_or(now, |time| time.max(now));
        self.time = Some(time);
        let mut expired = 0;
        while let Some((_, token)) = self.deadlines.first().copied().filter(|(deadline, _)| *deadline <= time) {
            self.deadlines.pop_first();
            expired += usize::from(self.end(token, WatchEvent::Expired).is_some());
        }
        (time, expired)
    }

    pub(super) fn next_expiry(&self) -> Option<Instant> {
        self.deadlines.first().map(|(deadline, _)| *deadline)
    }

    pub(super) fn register(
        &mut self,
        service: &str,
        instance: Instance,
        lease: Duration,
        now: Instant,
    ) -> Result<Lease, RegistryError> {
        // Every check comes before the first change.
        let (now, _) = self.advance(now);
        instance.check()?;
        let expires_at = lease::end_of(lease, now)?;
        let name = self.name_of(service)?;
        let live = self.services.get(service);
        let known = live.is_some_and(|live| live.registrations.contains_key(instance.id()));
        if !known && live.is_some_and(|live| live.registrations.len() >= MAX_INSTANCES) {
            return Err(RegistryError::TooManyInstances);
        }
        // Refused here, because otherwise a ring that follows the service would have to leave
        // instances out.
        let weight = live.map_or(u64::from(instance.weight()), |live| live.weight_with(&instance));
        if weight > MAX_SERVICE_WEIGHT {
            return Err(RegistryError::TooHeavy { id: instance.id().clone(), weight });
        }

        // The registration, its token and its deadline; then those of the registration that it
        // replaces go.
        let token = LeaseToken::new(self.next_token);
        self.next_token += 1;
        self.by_token.insert(token, (name.clone(), instance.id().clone()));
        self.deadlines.insert((expires_at, token));
        let service = self.services.entry(name).or_default();
        let registration = Registration { instance: instance.clone(), token, lease, expires_at };
        let change = match service.insert(registration) {
            None => WatchEvent::Joined(instance),
            Some(replaced) => {
                self.by_token.remove(&replaced.token);
                self.deadlines.remove(&(replaced.expires_at, replaced.token));
                WatchEvent::Updated(instance)
            }
        };
        service.record(change, self.buffer);
        Ok(Lease { token, expires_at })
    }

    pub(super) fn renew(&mut self, token: LeaseToken, now: Instant) -> Result<Lease, RegistryError> {
        let (now, _) = self.advance(now);
        let (service, id) = self.by_token.get(&token).ok_or(RegistryError::StaleLease { token })?;
        let registration = self
            .services
            .get_mut(service)
            .and_then(|service| service.registrations.get_mut(id))
            .ok_or(RegistryError::StaleLease { token })?;
        let expires_at = lease::end_of(registration.lease, now)?;
        self.deadlines.remove(&(registration.expires_at, token));
        self.deadlines.insert((expires_at, token));
        registration.expires_at = expires_at;
        Ok(Lease { token, expires_at })
    }

    pub(super) fn leave(&mut self, token: LeaseToken, now: Instant) -> Result<Instance, RegistryError> {
        self.advance(now);
        self.end(token, WatchEvent::Left).ok_or(RegistryError::StaleLease { token })
    }

    pub(super) fn services(&self) -> Vec<Arc<str>> {
        let live = self.services.iter().filter(|(_, service)| !service.registrations.is_empty());
        live.map(|(name, _)| name.clone()).collect()
    }

    pub(super) fn service(&self, name: &str) -> Option<&ServiceEntry> {
        self.services.get(name)
    }

    /// Adds a watcher to a service. Returns the service's name and the service.
    pub(super) fn add_watcher(&mut self, service: &str) -> Result<(Arc<str>, &ServiceEntry), RegistryError> {
        let name = self.name_of(service)?;
        let service = self.services.entry(name.clone()).or_default();
        service.add_watcher();
        Ok((name, service))
    }

    pub(super) fn remove_watcher(&mut self, service: &str) {
        if let Some(watched) = self.services.get_mut(service) {
            watched.remove_watcher();
            self.drop_if_unused(service);
        }
    }

    /// Ends a registration, records the change for the watchers, and returns the instance. Returns
    /// `None` if the token is stale.
    fn end(&mut self, token: LeaseToken, change: fn(Instance) -> WatchEvent) -> Option<Instance> {
        let (name, id) = self.by_token.remove(&token)?;
        let service = self.services.get_mut(&name)?;
        let registration = service.remove(&id)?;
        self.deadlines.remove(&(registration.expires_at, token));
        service.record(change(registration.instance.clone()), self.buffer);
        self.drop_if_unused(&name);
        Some(registration.instance)
    }

    /// Checks a service's name, and that there is room for the service. Returns the name to keep.
    fn name_of(&self, service: &str) -> Result<Arc<str>, RegistryError> {
        if let Some((name, _)) = self.services.get_key_value(service) {
            return Ok(name.clone());
        }
        if !(1..=MAX_NAME_BYTES).contains(&service.len()) {
            return Err(RegistryError::InvalidService { length: service.len() });
        }
        if self.services.len() >= MAX_SERVICES {
            return Err(RegistryError::TooManyServices);
        }
        Ok(service.into())
    }

    fn drop_if_unused(&mut self, service: &str) {
        if self.services.get(service).is_some_and(ServiceEntry::is_unused) {
            self.services.remove(service);
        }
    }
}
