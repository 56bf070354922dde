//! One ring for many threads: some look up while one changes it.
//!
//! In reading order: versions, the shared ring, the turns of its writers, changes, readers.

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

/// The number of a version of a [`SharedRing`]. Each version has the number of the version that it
/// replaced, plus one. It is a small value that is copied.
///
/// It says which of two versions is newer, so that a service that is told of a placement can refuse
/// one that is out of date.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RingEpoch(#[serde(with = "exact::counter")] u64);

impl RingEpoch {
    /// The epoch of the first version of a [`SharedRing`] by default.
    pub const FIRST: Self = Self(1);

    /// Returns the epoch with this number.
    #[must_use]
    pub const fn new(number: u64) -> Self {
        Self(number)
    }

    /// Returns the epoch's number.
    #[must_use]
    pub const fn as_u64(self) -> u64 {
        self.0
    }

    /// Returns the epoch of the next version. Counting never reaches the last epoch, but a ring may
    /// be started there.
    fn next(self) -> Result<Self, RingError> {
        self.0.checked_add(1).map(Self).ok_or(RingError::LastEpoch { epoch: self })
    }
}

impl fmt::Display for RingEpoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// A ring as it was in one epoch. It doesn't change, so threads share it in an [`Arc`]. It
/// dereferences to a [`HashRing`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RingVersion<H = Xxh3> {
    epoch: RingEpoch,
    ring: HashRing<H>,
}

impl<H> RingVersion<H> {
    /// Returns the number of this version.
    #[inline]
    #[must_use]
    pub fn epoch(&self) -> RingEpoch {
        self.epoch
    }

    /// Returns the ring.
    #[inline]
    #[must_use]
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

/// A ring that can be changed while other threads look up in it. Threads share it by reference or
/// in an [`Arc`].
///
/// A change makes a new [`RingVersion`] and publishes it whole, so no reader ever sees half of a
/// version. Readers never block and never retry, whatever the writers do. Writers never wait for
/// readers, only for each other. A change inside the closure of another one is refused with
/// [`RingError::UpdateInUpdate`]. A version lives as long as there is an [`Arc`] of it, so a
/// migration can use the old and the new version together.
///
/// Each thread that looks up often has a [`reader`](Self::reader) of its own. For a look-up now and
/// then there is [`load`](Self::load).
///
/// From async code, look-ups may be called anywhere. [`update`](Self::update) and
/// [`publish`](Self::publish) block while another thread is inside `update`, and `update` copies
/// the ring: run them on a thread that may block, for instance with `spawn_blocking`.
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
/// // The old version is still there for the task that moves the data:
/// let moving = change.movement();
/// assert!(moving.ranges().iter().all(|moved| moved.to.id() == "c"));
/// # Ok::<(), ringpact::ring::RingError>(())
/// ```
///
/// [`arc_swap`] has the pointer to the current version. It is the only dependency here, for two
/// reasons. With a mutex or a reader-writer lock around an [`Arc`], a writer that is suspended at
/// the wrong moment would block all readers. And such a pointer can't be swapped without locks
/// unless there is `unsafe` code.
pub struct SharedRing<H = Xxh3> {
    current: Arc<ArcSwap<RingVersion<H>>>,
    writers: Writers,
}

/// Lets one writer at a time make a new version of the current one, so that no writer overwrites
/// the change of another.
///
/// The lock is held only to read and set the field. A writer runs the caller's closure, and clones
/// and drops of the caller's hasher, without it.
#[derive(Default)]
struct Writers {
    /// The thread that is making a new version, if there is one.
    writing: Mutex<Option<ThreadId>>,
    /// Signalled when a writer ends.
    ended: Condvar,
}

impl Writers {
    /// Blocks until no other thread is writing. Another writer may enter after the turn is dropped.
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

/// The right to make the next version. Dropping it lets the next writer enter.
struct Turn<'a> {
    writers: &'a Writers,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        *self.writers.writing.lock() = None;
        self.writers.ended.notify_one();
    }
}

/// The version that a change of a [`SharedRing`] replaced, and the version that it made. A clone is
/// another handle on both.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct RingChange<H = Xxh3> {
    /// The version before.
    pub before: Arc<RingVersion<H>>,
    /// The version after. Its epoch is the next one.
    pub after: Arc<RingVersion<H>>,
}

impl<H: PartialEq> RingChange<H> {
    /// Returns what moves, and from which node to which. If the new ring has another hasher, any
    /// key may move: then this is empty, and [`HashRing::movement`] returns the error. O(T) for the
    /// tokens of both versions.
    #[must_use]
    pub fn movement(&self) -> Movement<'_> {
        self.before.movement(&self.after).unwrap_or_default()
    }
}

impl<H> SharedRing<H> {
    /// Returns a shared ring whose first version is `ring`, in [`RingEpoch::FIRST`].
    #[must_use]
    pub fn new(ring: HashRing<H>) -> Self {
        Self::starting_at(ring, RingEpoch::FIRST)
    }

    /// Returns a shared ring whose first version has this epoch, to continue earlier epochs, for
    /// example after a restart.
    #[must_use]
    pub fn starting_at(ring: HashRing<H>, epoch: RingEpoch) -> Self {
        let first = Arc::new(RingVersion { epoch, ring });
        Self { current: Arc::new(ArcSwap::new(first)), writers: Writers::default() }
    }

    /// Returns the current version. Never blocks. Costs some nanoseconds more than a
    /// [`reader`](Self::reader).
    #[must_use]
    pub fn load(&self) -> Arc<RingVersion<H>> {
        self.current.load_full()
    }

    /// Returns a handle with which one thread looks up. Its [`current`](RingReader::current) costs
    /// one load of a pointer, which readers share without contention.
    #[must_use]
    pub fn reader(&self) -> RingReader<H> {
        RingReader { cache: Cache::new(Arc::clone(&self.current)) }
    }

    /// Publishes this ring as the next version. After it returns, every call of
    /// [`load`](Self::load) and of [`current`](RingReader::current) returns this version or a later
    /// one.
    ///
    /// Blocks while other threads are inside [`update`](Self::update).
    ///
    /// # Errors
    ///
    /// [`RingError::UpdateInUpdate`] inside the closure of an [`update`](Self::update) of this
    /// shared ring, because the update would replace what was published. [`RingError::LastEpoch`]
    /// if no epoch is left for another version.
    pub fn publish(&self, ring: HashRing<H>) -> Result<RingChange<H>, RingError> {
        let turn = self.writers.enter()?;
        self.replace(self.load(), ring, turn)
    }

    /// Copies the current ring, makes a change to the copy, and publishes the copy as the next
    /// version.
    ///
    /// After it returns, every call of [`load`](Self::load) and of [`current`](RingReader::current)
    /// returns this version or a later one. If the change fails, or panics, no version is made.
    ///
    /// Blocks while an update or a publication of another thread is under way: each is made on the
    /// version of the one before. `change` runs under no lock, and may read this shared ring. It
    /// must not wait for another thread that changes this shared ring, because that thread waits
    /// for this update to end.
    ///
    /// # Errors
    ///
    /// - the error of `change`;
    /// - [`RingError::UpdateInUpdate`], as an `E`, inside the closure of another update of this
    ///   shared ring on the same thread, which would otherwise wait for itself;
    /// - [`RingError::LastEpoch`], as an `E`, if no epoch is left for another version.
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

/// One thread's view of a [`SharedRing`]. A clone, which is cheap, is the view of another thread. A
/// reader works even after the [`SharedRing`] itself is dropped.
///
/// It keeps the version that it last returned. So a reader that is not called for a long time keeps
/// that version's memory.
pub struct RingReader<H = Xxh3> {
    cache: Cache<Arc<ArcSwap<RingVersion<H>>>, Arc<RingVersion<H>>>,
}

impl<H> RingReader<H> {
    /// Returns the current version. Never blocks.
    ///
    /// Look-ups that have to agree with each other are made in one version, that is with one call
    /// of this.
    #[inline]
    #[must_use]
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
