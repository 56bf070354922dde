//! Positions on the circle, and the functions from bytes to positions.

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::RingError;
use crate::exact;

/// A point on the circle: an integer modulo 2^64, so that 0 follows 2^64 - 1. It is a small value
/// that is copied.
///
/// In JSON, and other formats for people, it is text, because tools that keep numbers as doubles
/// would round it. Numbers below 2^53 are read, too; numbers from 2^53 on are refused.
///
/// ```
/// use ringpact::ring::Position;
///
/// assert_eq!(Position::new(1 << 63).as_fraction(), 0.5);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Position(#[serde(with = "exact::text")] u64);

impl Position {
    /// The first position, 0.
    pub const MIN: Self = Self(0);
    /// The last position, 2^64 - 1; its successor is [`Position::MIN`].
    pub const MAX: Self = Self(u64::MAX);

    /// Returns the position with this number.
    #[inline]
    #[must_use]
    pub const fn new(value: u64) -> Self {
        Self(value)
    }

    /// Returns the position's number, from 0 to 2^64 - 1.
    #[inline]
    #[must_use]
    pub const fn as_u64(self) -> u64 {
        self.0
    }

    /// Returns the position as a share of the circle, from 0.0 up to but not including 1.0.
    ///
    /// An `f64` has 53 bits, so the lowest 11 bits of the position are cut off, not rounded.
    #[must_use]
    pub const fn as_fraction(self) -> f64 {
        const UNIT: f64 = 1.0 / (1_u64 << 53) as f64;
        (self.0 >> 11) as f64 * UNIT
    }
}

/// A function from bytes to positions, which places keys and virtual nodes.
///
/// It has to be *pure*: one value of a hasher sends the same bytes to the same position in every
/// process, forever. The ring takes two hashers that compare equal for the same function. The
/// shares of hashed nodes are even only if the positions look uniform over all 64 bits, as those of
/// [`Xxh3`] do.
///
/// The ring calls [`hash_key`](KeyHasher::hash_key) once for each look-up. It calls
/// [`hash_token`](KeyHasher::hash_token) once for each virtual node when a ring is built or a node
/// is added or removed. A panic in either reaches the caller of the ring, and leaves the ring as it
/// was.
///
/// ```
/// use ringpact::ring::{HashRing, KeyHasher, Position};
///
/// /// FNV-1a, for placement shared with a system that uses it.
/// #[derive(Clone, PartialEq)]
/// struct Fnv;
///
/// impl KeyHasher for Fnv {
///     fn hash_key(&self, key: &[u8]) -> Position {
///         Position::new(key.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
///             (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
///         }))
///     }
/// }
///
/// let ring = HashRing::builder().hasher(Fnv).nodes(["a", "b"]).build()?;
/// assert_eq!(ring.position("a").as_u64(), 0xaf63_dc4c_8601_ec8c);
/// # Ok::<(), ringpact::ring::RingError>(())
/// ```
pub trait KeyHasher {
    /// Returns the position of a key, given its bytes (see [`RingKey`](super::RingKey)).
    fn hash_key(&self, key: &[u8]) -> Position;

    /// Returns the position of a virtual node, given its encoding: the bytes of the node's id, then
    /// its index as 4 little-endian bytes.
    ///
    /// The default implementation hashes it as a key of the same bytes. Override this if `hash_key`
    /// spreads such bytes badly.
    #[inline(always)]
    fn hash_token(&self, encoded: &[u8]) -> Position {
        self.hash_key(encoded)
    }
}

/// The default hash: `XXH3_64bits` with a seed. It is a small value that is copied.
///
/// [`Xxh3::default`] uses [`Xxh3::SEED`], which never changes, so rings with the same members
/// agree. With a secret seed of your own ([`Xxh3::with_seed`]), clients that choose the keys can't
/// aim all of them at one node.
///
/// ```
/// use ringpact::ring::{KeyHasher, Xxh3};
///
/// assert_eq!(Xxh3::default().hash_key(b"").as_u64(), 0x2d06_8005_38d3_94c2);
/// assert_ne!(Xxh3::with_seed(1).hash_key(b"k"), Xxh3::default().hash_key(b"k"));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "SerialisedHasher", into = "SerialisedHasher")]
pub struct Xxh3 {
    seed: u64,
}

impl Xxh3 {
    /// The seed that never changes. It is 0, so that `XXH3_64bits` of any xxHash library, seeded or
    /// not, gives the same positions.
    pub const SEED: u64 = 0;

    /// Returns the same function with a seed of your own. It sends both keys and virtual nodes to
    /// other positions.
    #[must_use]
    pub const fn with_seed(seed: u64) -> Self {
        Self { seed }
    }

    /// Returns the seed.
    #[must_use]
    pub const fn seed(&self) -> u64 {
        self.seed
    }
}

impl Default for Xxh3 {
    fn default() -> Self {
        Self { seed: Self::SEED }
    }
}

impl KeyHasher for Xxh3 {
    #[inline(always)]
    fn hash_key(&self, key: &[u8]) -> Position {
        Position(xxh3_64_with_seed(key, self.seed))
    }
}

/// The textbook formula H(x) = (x mod p) / p taken literally, for integer keys.
///
/// The key's bytes are read as one unsigned little-endian integer x of any length (so a negative
/// integer counts as its two's complement in its own width). The position is floor((x mod p) * 2^64
/// / p), so [`Position::as_fraction`] of it is (x mod p) / p, up to the precision of an `f64`.
///
/// Keys only ever use p positions, and neighbouring integers become neighbours on the circle. That
/// follows from the formula, and it is useful if ranges of integers are to stay together. For
/// arbitrary keys use [`Xxh3`].
///
/// Virtual nodes are placed by [`Xxh3::default`] nevertheless. The formula over their encodings
/// would put a node's tokens at steps of one constant (the index is the most significant part of
/// the integer), and for a small p it would put many nodes on one spot.
///
/// ```
/// use ringpact::ring::{HashRing, Modular};
///
/// let ring = HashRing::builder().hasher(Modular::new(8)?).nodes(["a", "b"]).build()?;
/// assert_eq!(ring.position(13_u32).as_fraction(), 5.0 / 8.0);
/// # Ok::<(), ringpact::ring::RingError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "SerialisedHasher", into = "SerialisedHasher")]
pub struct Modular {
    /// The modulus, at least 2.
    p: u64,
}

impl Modular {
    /// Returns the formula with modulus `p`, best a prime well above the number of keys.
    ///
    /// # Errors
    ///
    /// [`RingError::ModulusTooSmall`] if `p` is below 2, because all keys would share one position.
    pub const fn new(p: u64) -> Result<Self, RingError> {
        if p < 2 {
            return Err(RingError::ModulusTooSmall { p });
        }
        Ok(Self { p })
    }

    /// Returns the modulus.
    #[must_use]
    pub const fn p(&self) -> u64 {
        self.p
    }

    /// Returns x mod p, for the integer x that `bytes` spell in little-endian order.
    fn remainder(&self, bytes: &[u8]) -> u64 {
        let p = u128::from(self.p);
        // Horner's rule from the most significant byte down. The remainder is below 2^64, so it
        // still fits after 8 bytes are shifted in.
        let remainder = bytes.rchunks(8).fold(0_u128, |remainder, chunk| {
            let chunk_value = chunk.iter().rev().fold(0_u128, |value, byte| (value << 8) | u128::from(*byte));
            ((remainder << (8 * chunk.len())) | chunk_value) % p
        });
        remainder as u64
    }
}

impl KeyHasher for Modular {
    fn hash_key(&self, key: &[u8]) -> Position {
        let remainder = u128::from(self.remainder(key));
        // The remainder is below p, so the quotient is below 2^64 and the cast keeps all of it.
        Position(((remainder << 64) / u128::from(self.p)) as u64)
    }

    fn hash_token(&self, encoded: &[u8]) -> Position {
        Xxh3::default().hash_key(encoded)
    }
}

/// The wire form of both hashers. It is one enum, so that a ring with one of them is never read as
/// a ring with the other, not even in a codec that doesn't spell names.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
enum SerialisedHasher {
    #[serde(rename = "xxh3_64")]
    Xxh3 {
        #[serde(with = "exact::text")]
        seed: u64,
    },
    Modular {
        #[serde(with = "exact::text")]
        p: u64,
    },
}

impl From<Xxh3> for SerialisedHasher {
    fn from(hasher: Xxh3) -> Self {
        Self::Xxh3 { seed: hasher.seed }
    }
}

impl From<Modular> for SerialisedHasher {
    fn from(hasher: Modular) -> Self {
        Self::Modular { p: hasher.p }
    }
}

impl TryFrom<SerialisedHasher> for Xxh3 {
    type Error = RingError;

    fn try_from(hasher: SerialisedHasher) -> Result<Self, RingError> {
        match hasher {
            SerialisedHasher::Xxh3 { seed } => Ok(Self { seed }),
            SerialisedHasher::Modular { .. } => Err(RingError::WrongHasher { expected: "xxh3_64" }),
        }
    }
}

impl TryFrom<SerialisedHasher> for Modular {
    type Error = RingError;

    fn try_from(hasher: SerialisedHasher) -> Result<Self, RingError> {
        match hasher {
            SerialisedHasher::Modular { p } => Self::new(p),
            SerialisedHasher::Xxh3 { .. } => Err(RingError::WrongHasher { expected: "modular" }),
        }
    }
}
