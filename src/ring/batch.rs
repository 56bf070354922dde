//! Many look-ups at once.

use std::hint::black_box;

use super::{HashRing, KeyHasher, Node, Position, RingKey};

/// Number of keys that are hashed before the first of them is looked up. It is large enough that
/// the look-ups of a block wait for memory together, and small enough that their positions stay in
/// the first-level cache.
const BLOCK: usize = 64;

impl<H: KeyHasher> HashRing<H> {
    /// Appends the owner of each key to `owners`, in the order of the keys. The answers are those
    /// of [`owner`](Self::owner).
    ///
    /// It is faster than one look-up after the other from some thousand nodes on, when the ring no
    /// longer fits a near cache: the keys are hashed in blocks first, and then the look-ups of a
    /// block, with nothing between them, wait for memory together.
    ///
    /// Allocates only if `owners` has no room left.
    ///
    /// ```
    /// use ringpact::ring::HashRing;
    ///
    /// let ring = HashRing::new(["a", "b", "c"])?;
    /// let keys = ["user:1", "user:2", "user:3"];
    /// let mut owners = Vec::new();
    /// ring.owners(&keys, &mut owners);
    /// assert!(owners.into_iter().eq(keys.iter().map(|key| ring.owner(key))));
    /// # Ok::<(), ringpact::ring::RingError>(())
    /// ```
    pub fn owners<'r, K: RingKey>(&'r self, keys: &[K], owners: &mut Vec<&'r Node>) {
        let mut positions = [Position::MIN; BLOCK];
        owners.reserve(keys.len());
        for block in keys.chunks(BLOCK) {
            for (position, key) in positions.iter_mut().zip(block) {
                *position = self.position(key);
                // Does nothing, but keeps compilers from vectorising this loop. They would do so on
                // processors where a multiplication of 64 bits has to be put together from parts,
                // and then it takes longer.
                black_box(());
            }
            owners.extend(positions[..block.len()].iter().map(|position| self.owner_at(*position)));
        }
    }
}
