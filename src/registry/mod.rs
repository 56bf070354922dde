//! Membership: which instances of a service are alive, and a ring that follows them.
//!
//! Instances [`register`](Registry::register) under a service's name with a *lease*, and renew it.
//! An instance whose lease runs out is no longer listed (Gray and Cheriton, "Leases", SOSP 1989).
//! [`Watcher`]s see which instances join, leave or expire, and a [`RingFollower`] keeps a
//! [`HashRing`](crate::ring::HashRing) equal to the live instances.
//!
//! **Time is an argument.** The registry has no thread and reads no clock: every call that depends
//! on time takes `now`. The registry's time is the latest `now` of any call. An earlier `now`
//! counts as the latest one, so it does no harm if threads read the clock and then race each other.
//! Each of these calls first expires what is due at that time. So an instance expires for all
//! callers at the same moment. [`Registry::expire`] is needed only so that watchers get the event
//! while no other call is made; [`Registry::next_expiry`] says when.
//!
//! **Stale leases have no power.** A lease's token is given out once. When an instance registers
//! again, perhaps after a crash, its earlier process has a stale token, and can neither prolong nor
//! end the new registration.
//!
//! The registry is in one process and in memory. It is [`Sync`], and its clones are handles on the
//! same registry. No call blocks for longer than a short lock, so async code may use all of it.
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
//! // No call has renewed the lease, and its time is over:
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
//!
//! # Map of the source, in reading order
//!
//! | file | what is in it |
//! |---|---|
//! | `handle.rs` | [`Registry`]: a lock around the state |
//! | `state.rs` | the state and its changes, pure |
//! | `service_entry.rs` | one service in the state: its instances and its latest changes |
//! | `instance.rs`, `lease.rs` | what a service consists of |
//! | `watcher.rs` | [`Watcher`]: the changes of one service |
//! | `follower.rs` | [`RingFollower`]: a ring of the live instances |
//! | `error.rs` | why the registry refuses a call |

#![warn(clippy::exhaustive_enums, clippy::exhaustive_structs, missing_debug_implementations)]

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
