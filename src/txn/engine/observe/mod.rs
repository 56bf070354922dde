//! Reports transactions as `tracing` spans and `metrics`, if the features are on. Without them the
//! types here are empty, and nothing is compiled in.
//!
//! [`docs::observing`](crate::docs::observing) lists what is reported.

#[cfg(any(feature = "metrics", feature = "tracing"))]
mod watch;

#[cfg(any(feature = "metrics", feature = "tracing"))]
pub(in crate::txn) use watch::{Watch, fenced, gauges};

/// Whether spans or metrics are on. If not, values that only they need are not computed.
pub(in crate::txn) const WATCHED: bool = cfg!(any(feature = "metrics", feature = "tracing"));

/// Whether metrics are on.
pub(in crate::txn) const METERED: bool = cfg!(feature = "metrics");

#[cfg(not(any(feature = "metrics", feature = "tracing")))]
pub(in crate::txn) use unwatched::{Watch, fenced, gauges};

#[cfg(not(any(feature = "metrics", feature = "tracing")))]
mod unwatched {
    use std::time::Instant;

    use crate::{
        id::{BranchId, TxnId},
        log::Takeover,
        participant::{ParticipantError, Response, Verb},
        txn::{CoordinatorStatus, Outcome, TransactionState},
    };

    // Each transaction has one, and each message the other.
    const _: () =
        assert!(size_of::<Watch>() == 0 && size_of::<Entered>() == 0, "without the features there is no cost");

    /// Reports nothing.
    pub(in crate::txn) struct Watch;

    impl Watch {
        #[inline]
        pub(in crate::txn) const fn begun(_: &TxnId, _: Instant) -> Self {
            Self
        }
        #[inline]
        pub(in crate::txn) const fn resumed(_: &TxnId, _: Instant) -> Self {
            Self
        }
        #[inline]
        pub(in crate::txn) const fn stands(&mut self, _: TransactionState) {}
        #[inline]
        pub(in crate::txn) const fn sends(&mut self, _: usize, _: &BranchId, _: Verb) -> Entered {
            Entered
        }
        #[inline]
        pub(in crate::txn) const fn hears(&mut self, _: usize, _: &Result<Response, ParticipantError>) {}
        #[inline]
        pub(in crate::txn) const fn answers(&mut self, _: Outcome, _: bool) {}
    }

    pub(in crate::txn) struct Entered;

    impl Entered {
        #[inline]
        pub(in crate::txn) fn call<T>(self, send: impl FnOnce() -> T) -> T {
            send()
        }
    }

    #[inline]
    pub(in crate::txn) const fn fenced(_: &str, _: &Takeover) {}

    #[inline]
    pub(in crate::txn) const fn gauges(_: &str, _: &CoordinatorStatus) {}
}
