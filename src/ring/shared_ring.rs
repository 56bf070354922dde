//! One ring for many threads: some look up, one changes it now and then.

use std::{
    fmt,
    ops::Deref,
    sync::Arc,
    thread::{self, ThreadId},
};

use arc_swap::{ArcSwap, cache::Cache};
use parking_lot::{Condvar, Mutex};
use serde::{Deserialize, Serialize};

use super::{HashRing, Movement, RingError, Xxh3};
use crate::exact;

/// The number of a version of a [`SharedRing`]: each version's is one above that of the version it replaced.
///
/// It says which of two versions is newer, so that whoever is told of a placement can refuse one that is out of date.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RingEpoch(#[serde(with = "exact::counter")] u64);

impl RingEpoch {
    /// Of the version that a [`SharedRing`] starts with, unless it is told otherwise.
    pub const FIRST: Self = Self(1);

    /// The epoch with this number.
    pub const fn new(number: u64) -> Self {
        Self(number)
    }

    /// The epoch's number.
    pub const fn as_u64(self) -> u64 {
        self.0
    }

    /// The epoch of the version after. The last one is never reached by counting, but a ring may be started there.
    fn next(self) -> Result<Self, RingError> {
        self.0.checked_add(1).map(Self).ok_or(RingError::LastEpoch { epoch: self })
    }
}

impl fmt::Display for RingEpoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// A ring as it was in one epoch. Doesn't change; it can be looked up as the [`HashRing`] that it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RingVersion<H = Xxh3> {
    epoch: RingEpoch,
    ring: HashRing<H>,
}

impl<H> RingVersion<H> {
    /// Which version this is.
    #[inline]
    pub fn epoch(&self) -> RingEpoch {
        self.epoch
    }

    /// The ring.
    #[inline]
    pub fn ring(&self) -> &HashRing<H> {
        &self.ring
    }
}

impl<H> Deref for RingVersion<H> {
    type Target = HashRing<H>;

    #[inline]
    fn deref(&self) -> &HashRing<H> {
        &self.ring
    }
}

/// A ring that can be changed while others look up in it.
///
/// A change makes a new [`RingVersion`] and publishes it whole: no reader ever sees half of one. Readers never block and
/// never retry, whatever the writers do, and writers never wait for readers, only for each other. A change inside the closure
/// of another one is refused with [`RingError::UpdateInUpdate`]. A version lives for as
/// long as somebody holds it, so that a migration can ask the old and the new one together.
///
/// Each thread that looks up often has a [`reader`](Self::reader) of its own. For a look-up now and then there is
/// [`load`](Self::load).
///
/// ```
/// use ringpact::ring::{HashRing, SharedRing};
///
/// let shared = SharedRing::new(HashRing::new(["a", "b"])?);
/// let mut reader = shared.reader();
/// assert_eq!(reader.current().nodes().len(), 2);
///
/// let change = shared.update(|ring| ring.add("c"))?;
/// assert_eq!(reader.current().nodes().len(), 3);
/// assert_eq!(reader.current().epoch(), change.after.epoch());
///
/// // The old version is still there for whoever moves the data:
/// let moving = change.movement();
/// assert!(moving.ranges().iter().all(|moved| moved.to.id() == "c"));
/// # Ok::<(), ringpact::ring::RingError>(())
/// ```
///
/// The pointer to the current version is an [`arc_swap`] one. That is the one dependency here: a mutex or a
/// reader-writer lock around an [`Arc`] would let a writer that is suspended at the wrong moment hold up all readers, and
/// what swaps such a pointer without locks can't be written without `unsafe`.
pub struct SharedRing<H = Xxh3> {
    current: Arc<ArcSwap<RingVersion<H>>>,
    writers: Writers,
}

/// Lets one writer at a time make a new version of the current one, so that no writer's change is lost to another's.
///
/// The lock is held only to look at and set the field: a writer runs the caller's closure, and clones and drops of the
/// caller's hasher, without it.
#[derive(Default)]
struct Writers {
    /// The thread that is making a new version.
    writing: Mutex<Option<ThreadId>>,
    /// Signalled when a writer ends.
    ended: Condvar,
}

impl Writers {
    /// Waits until no other thread is writing. Another writer may enter once the turn is dropped.
    fn enter(&self) -> Result<Turn<'_>, RingError> {
        let this = thread::current().id();
        let mut writing = self.writing.lock();
        if *writing == Some(this) {
            return Err(RingError::UpdateInUpdate);
        }
        while writing.is_some() {
            self.ended.wait(&mut writing);
        }
        *writing = Some(this);
        Ok(Turn { writers: self })
    }
}

/// The right to make the next version.
struct Turn<'a> {
    writers: &'a Writers,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        *self.writers.writing.lock() = None;
        self.writers.ended.notify_one();
    }
}

/// What a change of a [`SharedRing`] replaced, and with what.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct RingChange<H = Xxh3> {
    /// The version before.
    pub before: Arc<RingVersion<H>>,
    /// The version after; its epoch is the next.
    pub after: Arc<RingVersion<H>>,
}

impl<H: PartialEq> RingChange<H> {
    /// What moves from whom to whom. If the change replaced the ring by one with another hasher, anything may: then this
    /// is empty, and [`HashRing::movement`] says so.
    pub fn movement(&self) -> Movement<'_> {
        self.before.movement(&self.after).unwrap_or_default()
    }
}

impl<H> SharedRing<H> {
    /// A shared ring whose first version is `ring`, in [`RingEpoch::FIRST`].
    pub fn new(ring: HashRing<H>) -> Self {
        Self::starting_at(ring, RingEpoch::FIRST)
    }

    /// As [`new`](Self::new), for going on with epochs that were counted before: after a restart, say.
    pub fn starting_at(ring: HashRing<H>, epoch: RingEpoch) -> Self {
        let first = Arc::new(RingVersion { epoch, ring });
        Self { current: Arc::new(ArcSwap::new(first)), writers: Writers::default() }
    }

    /// The current version, to keep for as long as it is wanted. Costs some nanoseconds more than asking a
    /// [`reader`](Self::reader).
    pub fn load(&self) -> Arc<RingVersion<H>> {
        self.current.load_full()
    }

    /// A handle for one thread to look up with. Asking it for the current version costs one load of a pointer, which
    /// readers share without contention.
    pub fn reader(&self) -> RingReader<H> {
        RingReader { cache: Cache::new(Arc::clone(&self.current)) }
    }

    /// Publishes this ring as the next version. Once this returns, every reader that asks gets this version or a later
    /// one. Blocks while other threads are inside [`update`](Self::update).
    ///
    /// # Errors
    ///
    /// [`RingError::UpdateInUpdate`] inside the closure of an [`update`](Self::update) of this shared ring: the update would
    /// replace what was published. [`RingError::LastEpoch`] if there is no epoch for another version.
    pub fn publish(&self, ring: HashRing<H>) -> Result<RingChange<H>, RingError> {
        let turn = self.writers.enter()?;
        self.replace(self.load(), ring, turn)
    }

    /// Copies the current ring, makes a change to the copy, and publishes that as the next version. Updates of several
    /// threads are made one after the other, each upon the one before: an update blocks while others are under way.
    ///
    /// Once this returns, every reader that asks gets this version or a later one. If the change fails, or panics, no
    /// version is made.
    ///
    /// `change` runs under no lock, and may read this shared ring. It must not wait for another thread that changes this
    /// shared ring, because that thread waits for this update to end.
    ///
    /// # Errors
    ///
    /// What `change` answers; and [`RingError::UpdateInUpdate`], as an `E`, inside the closure of another update of this
    /// shared ring on the same thread, which would otherwise wait for itself; and [`RingError::LastEpoch`] if there is no epoch
    /// for another version.
    pub fn update<E: From<RingError>>(
        &self,
        change: impl FnOnce(&mut HashRing<H>) -> Result<(), E>,
    ) -> Result<RingChange<H>, E>
    where
        H: Clone,
    {
        let turn = self.writers.enter()?;
        let before = self.load();
        let mut ring = before.ring.clone();
        change(&mut ring)?;
        Ok(self.replace(before, ring, turn)?)
    }

    /// Makes `ring` the version after `before`, which is the current one, and ends the turn.
    fn replace(
        &self,
        before: Arc<RingVersion<H>>,
        ring: HashRing<H>,
        turn: Turn<'_>,
    ) -> Result<RingChange<H>, RingError> {
        let after = Arc::new(RingVersion { epoch: before.epoch.next()?, ring });
        self.current.store(Arc::clone(&after));
        drop(turn);
        Ok(RingChange { before, after })
    }
}

impl<H: fmt::Debug> fmt::Debug for SharedRing<H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedRing").field("current", &self.load()).finish_non_exhaustive()
    }
}

/// One thread's view of a [`SharedRing`]. Cheap to clone; it keeps the ring's versions coming even if the
/// [`SharedRing`] itself is gone.
///
/// It holds on to the version it last gave out. So a reader that isn't asked for long keeps that version's memory.
pub struct RingReader<H = Xxh3> {
    cache: Cache<Arc<ArcSwap<RingVersion<H>>>, Arc<RingVersion<H>>>,
}

impl<H> RingReader<H> {
    /// The version that is current now.
    ///
    /// Several look-ups that have to agree are made in one version, that is with one call of this.
    #[inline]
    pub fn current(&mut self) -> &Arc<RingVersion<H>> {
        self.cache.load()
    }
}

impl<H> Clone for RingReader<H> {
    fn clone(&self) -> Self {
        Self { cache: self.cache.clone() }
    }
}

impl<H> fmt::Debug for RingReader<H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RingReader").finish_non_exhaustive()
    }
}
