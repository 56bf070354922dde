//! The errors of the registry.

use std::time::Duration;

use super::{LeaseToken, MAX_ADDRESS_BYTES, MAX_INSTANCES, MAX_LEASE, MAX_SERVICE_WEIGHT, MAX_SERVICES, MIN_LEASE};
use crate::ring::{MAX_NAME_BYTES, NodeId, RingError};

/// Why the registry refused a call. It has changed nothing then, except that it has expired what
/// was due.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RegistryError {
    /// A service's name is empty or too long.
    #[error("a service name has 1 to {MAX_NAME_BYTES} bytes, this one has {length}")]
    InvalidService {
        /// Length of the rejected name in bytes.
        length: usize,
    },

    /// The instance has an id, zone or weight that a ring would refuse.
    #[error(transparent)]
    InvalidInstance(RingError),

    /// The instance's address is too long.
    #[error("an address has at most {MAX_ADDRESS_BYTES} bytes, this one has {length}")]
    AddressTooLong {
        /// Length of the rejected address in bytes.
        length: usize,
    },

    /// The lease is shorter than [`MIN_LEASE`] or longer than [`MAX_LEASE`].
    #[error("a lease lasts {MIN_LEASE:?} to {MAX_LEASE:?}, not {lease:?}")]
    InvalidLease {
        /// The rejected lease.
        lease: Duration,
    },

    /// The lease would end beyond the range of [`Instant`](std::time::Instant).
    #[error("the lease would end beyond the range of the clock: check the `now` that was passed in")]
    ClockOutOfRange,

    /// The lease is over: it ran out, its instance left, or a newer registration of the instance
    /// replaced it.
    #[error("lease {token} is over: register again, unless another process uses this instance id now")]
    StaleLease {
        /// The token of the call.
        token: LeaseToken,
    },

    /// The service has [`MAX_INSTANCES`] instances.
    #[error("the service has {MAX_INSTANCES} live instances, which is the limit: let some leave, or split the service")]
    TooManyInstances,

    /// With this instance, the instances of the service would weigh more than
    /// [`MAX_SERVICE_WEIGHT`] together.
    #[error(
        "with instance `{id}` the service's instances would weigh {weight}, over the limit of {MAX_SERVICE_WEIGHT}: divide \
        all weights by one number, because only their proportions count, or split the service"
    )]
    TooHeavy {
        /// The instance that was refused.
        id: NodeId,
        /// The weight of the live instances, with this one.
        weight: u64,
    },

    /// There are [`MAX_SERVICES`] services with instances or watchers.
    #[error("{MAX_SERVICES} services have instances or watchers, which is the limit: end some first")]
    TooManyServices,
}
