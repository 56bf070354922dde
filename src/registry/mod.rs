//! Membership: which instances of a service are alive, and a ring that follows them.
//!
//! Instances [`register`](Registry::register) under a service's name with a *lease* and renew it; one whose lease runs
//! out is gone (Gray and Cheriton, "Leases", SOSP 1989). [`Watcher`]s see who joined, left or expired, and a
//! [`RingFollower`] keeps a [`HashRing`](crate::ring::HashRing) equal to the live instances.
//!
//! **Time is an argument.** The registry has no thread and reads no clock: every call that depends on time takes `now`.
//! The registry's time is the latest `now` it was ever given, so threads that read the clock and then race each other
//! do no harm: an earlier `now` counts as the latest one. Each of these calls first expires what is due by then. So
//! an instance is gone for everybody at the same moment, and [`Registry::expire`] is needed only for watchers to hear
//! of it while nothing else happens; [`Registry::next_expiry`] says when.
//!
//! **Stale leases have no power.** A lease's token is handed out once. When an instance registers anew, after a crash
//! perhaps, its earlier process holds a dead token and can neither prolong nor end the new registration.
//!
//! The registry is in-process and in memory; it is [`Sync`], and its clones are handles on one and the same.
//!
//! ```
//! use std::time::{Duration, Instant};
//! use ringpact::registry::{Instance, Registry, RingFollower, WatchEvent};
//!
//! let registry = Registry::new();
//! let now = Instant::now();
//! let mut watcher = registry.watch("goods", now)?;
//!
//! let lease = registry.register("goods", Instance::new("goods-1", "10.0.0.7:80"), Duration::from_secs(10), now)?;
//! let mut follower = RingFollower::new(registry.watch("goods", now)?);
//! follower.update(now)?;
//! assert_eq!(follower.ring().map(|ring| ring.owner("sku:42").id().as_str()), Some("goods-1"));
//!
//! // Nobody renewed the lease, and its time is up:
//! let later = lease.expires_at();
//! assert!(registry.instances("goods", later).is_empty());
//! assert!(registry.renew(lease.token(), later).is_err());
//! follower.update(later)?;
//! assert!(follower.ring().is_none());
//!
//! assert!(matches!(watcher.poll(later), Some(WatchEvent::Resync { .. })));
//! assert!(matches!(watcher.poll(later), Some(WatchEvent::Joined(_))));
//! assert!(matches!(watcher.poll(later), Some(WatchEvent::Expired(_))));
//! assert!(watcher.poll(later).is_none());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod error;
mod follower;
mod handle;
mod instance;
mod lease;
mod service_entry;
mod state;
mod watcher;

pub use error::RegistryError;
pub use follower::{Followed, RingFollower};
pub use handle::Registry;
pub use instance::{Instance, MAX_ADDRESS_BYTES};
pub use lease::{Lease, LeaseToken, MAX_LEASE, MIN_LEASE};
pub use service_entry::{DEFAULT_EVENT_BUFFER, MAX_INSTANCES, MAX_SERVICE_WEIGHT, WatchEvent};
pub use state::MAX_SERVICES;
pub use watcher::Watcher;
