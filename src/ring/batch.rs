//! Many look-ups at once.

use std::hint::black_box;

use super::{HashRing, KeyHasher, Node, Position, RingKey};

/// So many keys are hashed before the first is looked up: enough for the look-ups of a block to wait for memory
/// together, few enough for their positions to stay in the first-level cache.
const BLOCK: usize = 64;

impl<H: KeyHasher> HashRing<H> {
    /// Appends the owner of each key to `owners`, in the order of the keys. What [`owner`](Self::owner) says of each,
    /// sooner: the keys are hashed in blocks first, and then the look-ups of a block, with nothing between them, wait for
    /// memory together. Worth it from some thousand nodes on, when the ring no longer fits a near cache.
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
                // Nothing, but compilers take this loop for one that can't be done for two keys at once. They would do so
                // where a multiplication of 64 bits has to be put together, and it takes longer.
                black_box(());
            }
            owners.extend(positions[..block.len()].iter().map(|position| self.owner_at(*position)));
        }
    }
}
