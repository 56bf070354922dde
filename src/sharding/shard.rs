//! What a service implements to be sharded: [`Keyed`] work, and [`Shard`].

use crate::{
    participant::{Service, ServiceError},
    ring::{KeyHasher, Position, PositionRange, RingKey, Xxh3},
    sharding::{Export, GateImage, GateNote, Records},
};

/// Work that belongs to one key, and so to one position of the ring.
///
/// Work that touches several keys is several pieces of work: each goes to the shard of its key, all
/// in one transaction.
pub trait Keyed {
    /// Returns the position of the work's key. It must be the same in every process: use the hasher
    /// of the ring, as [`position_of`], [`HashRing::position`](crate::HashRing::position) or
    /// [`ByPosition::position`](crate::sharding::ByPosition::position) do. Must not block.
    fn position(&self) -> Position;
}

/// Returns the position of a key on a ring with the default hasher: what [`Keyed::position`] returns for work at
/// that key.
///
/// ```
/// use ringpact::{HashRing, sharding::{ByPosition, position_of}};
///
/// assert_eq!(position_of("alice"), HashRing::new(["a", "b"])?.position("alice"));
/// assert_eq!(position_of("alice"), ByPosition::<String, u64>::new().position("alice"));
/// # Ok::<(), ringpact::ring::RingError>(())
/// ```
pub fn position_of<K: RingKey + ?Sized>(key: &K) -> Position {
    Xxh3::default().hash_key(key.key_bytes().as_ref())
}

/// A service whose records can move to another node while clients write.
///
/// A [`ShardHost`](crate::sharding::ShardHost) owns the shard, and calls it as a
/// [`Service`](crate::Service) for clients' work and by these methods for the rest. It needs an index
/// of its records by position. [`ByPosition`](crate::sharding::ByPosition) is one in memory, which
/// provides `export`, `import` and `discard`; a database has a column with the position.
/// [`conformance`](crate::sharding::conformance) is the suite that every shard must pass.
///
/// All methods may block. None of them needs to know which ranges the shard owns: the host's gate
/// does.
///
/// # What survives a crash
///
/// As for every [`Service`](crate::Service), the log holds what was committed since the last
/// [`save`](Self::save), which takes the place of
/// [`Service::checkpoint`](crate::Service::checkpoint); the host never calls that. After a restart
/// the host reads the [image](Self::load) and then has all of that done again, in the same order:
/// clients' work, imports, discards. Work at a position that has left since is left out.
pub trait Shard: Service<Work: Keyed + Clone> {
    /// Passes all records of the range to `into`, in the order of their positions from the range's
    /// start, until `into` wants no more. Nothing writes to the range meanwhile, if the host exports
    /// to hand it over; if it only measures, writes may be under way.
    ///
    /// A record is all that the service keeps for one key. Reservations of branches under way are
    /// not part of it: a range is handed over when there are none.
    ///
    /// # Errors
    ///
    /// The range stays where it is; the mover tries again.
    fn export(&self, range: PositionRange, into: &mut Export) -> Result<(), ServiceError>;

    /// Puts these records in place of all records of the range. No client sees them before the host
    /// opens the range. It may be repeated.
    ///
    /// # Errors
    ///
    /// The range stays where it is. What was imported is [discarded](Self::discard).
    fn import(&self, range: PositionRange, records: Records<'_>) -> Result<(), ServiceError>;

    /// Deletes all records of the range. It may be repeated.
    ///
    /// # Errors
    ///
    /// The call is repeated until it succeeds. Clients get no access to the range meanwhile.
    fn discard(&self, range: PositionRange) -> Result<(), ServiceError>;

    /// Returns the image that was last saved, with the [notes](Self::note) since then. An empty image
    /// for a new shard. Called once, before anything else.
    ///
    /// # Errors
    ///
    /// The shard does not open.
    fn load(&self) -> Result<GateImage, ServiceError>;

    /// Makes durable, in one atomic step, the effect of every confirm, import and discard that has
    /// returned, **and** the image that `image` returns.
    ///
    /// Call `image` at the moment at which the data is what is saved: under the lock that confirm
    /// takes, if the shard copies its data under one. Else the image could be older than the data, and
    /// after a restart an import would be repeated over later writes.
    ///
    /// # Errors
    ///
    /// The log forgets nothing; the step is tried again later.
    fn save(&self, image: &mut dyn FnMut() -> GateImage) -> Result<(), ServiceError>;

    /// Takes in one step of the image. The default implementation does nothing, which is right for a
    /// shard whose data reaches the disk only by [`save`](Self::save).
    ///
    /// A shard whose data is durable as soon as confirm, import and discard return (a database) must
    /// make the step durable, too, before this returns: its data would otherwise be newer than its
    /// image. It appends the note to the image that it has, and [`load`](Self::load) returns the image
    /// with all notes [applied](GateImage::apply). In [`save`](Self::save) it does the same, and does
    /// not call `image`.
    ///
    /// # Errors
    ///
    /// The step is not taken. The hand-over fails or is repeated.
    fn note(&self, note: &GateNote) -> Result<(), ServiceError> {
        let _ = note;
        Ok(())
    }

    /// Whether the shard has room for this many bytes of records more. Asked before anything is
    /// frozen. The default implementation accepts everything.
    ///
    /// # Errors
    ///
    /// The reason why not. The mover moves other ranges meanwhile, and tries again later.
    fn has_room(&self, bytes: u64) -> Result<(), ServiceError> {
        let _ = bytes;
        Ok(())
    }
}
