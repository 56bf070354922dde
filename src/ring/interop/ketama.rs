//! Placement as libmemcached's ketama does it.

use md5::{Digest, Md5};

use super::continuum::{Collisions, Continuum, Walk, check_points, checked};
use crate::ring::{Node, RingError, RingKey};

/// Number of points of each server in the modes without weights.
const UNWEIGHTED_POINTS: u32 = 100;
/// Number of points of a server of average weight.
const WEIGHTED_POINTS: u32 = 160;
/// Number of points from one digest in the weighted mode. They take all 16 bytes of it.
const POINTS_A_DIGEST: u32 = 4;
/// The port that is left out of the text that is hashed.
const DEFAULT_PORT: &str = ":11211";

/// A ring that sends every key to the server to which libmemcached sends it: *ketama*, with MD5 or
/// with libmemcached's default hash. It never changes, so threads share it in an
/// [`Arc`](std::sync::Arc); a clone is a copy.
///
/// Choose the constructor by what the client sets:
///
/// | the client sets | constructor |
/// |---|---|
/// | `MEMCACHED_BEHAVIOR_KETAMA_WEIGHTED` | [`weighted`](Self::weighted) |
/// | `MEMCACHED_BEHAVIOR_KETAMA`, and `MEMCACHED_BEHAVIOR_HASH` to `MEMCACHED_HASH_MD5` | [`unweighted`](Self::unweighted), or `weighted` if a weight is above 1 |
/// | `MEMCACHED_BEHAVIOR_KETAMA` alone | [`with_default_hash`](Self::with_default_hash) |
///
/// A node's id is the server's address, `host:port`, spelled as it is given to libmemcached.
/// `:11211`, memcached's own port, may be left out and has no effect. Other clients that follow
/// libmemcached's weighted mode, as many do, agree if they spell addresses in the same way. The
/// order of the nodes matters only if two points collide: then the first node owns both.
///
/// For a new system take [`HashRing`](crate::ring::HashRing). Here weights are *relative*: the
/// number of a node's points is its share of the total weight. So a node that joins may add or
/// remove points of every other node, and keys move between nodes that stay. Shares are computed in
/// `f32` and rounded down, so a node may have 4 points less than its share, or, with a very small
/// share, no point at all. That is why a ring of this kind is built again for each change.
///
/// ```
/// use ringpact::ring::{KetamaRing, Node};
///
/// let ring = KetamaRing::weighted([Node::new("10.0.1.1:11211").with_weight(2), Node::new("10.0.1.2:11311")])?;
/// let server = ring.owner("user:42");
/// # assert_eq!(ring.replicas("user:42").next(), Some(server));
/// # Ok::<(), ringpact::ring::RingError>(())
/// ```
#[derive(Clone, Debug)]
pub struct KetamaRing {
    continuum: Continuum,
    keys: KeyHash,
}

/// The function that places keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum KeyHash {
    /// The first four bytes of MD5, little-endian.
    Md5,
    /// Jenkins's one-at-a-time, libmemcached's default.
    OneAtATime,
}

impl KeyHash {
    fn of(self, bytes: &[u8]) -> u32 {
        match self {
            Self::Md5 => Md5Digest::of(bytes).first(),
            Self::OneAtATime => one_at_a_time(bytes),
        }
    }
}

impl KetamaRing {
    /// Returns the ring for `MEMCACHED_BEHAVIOR_KETAMA_WEIGHTED`: 160 points for a server of
    /// average weight.
    ///
    /// With `MEMCACHED_HASH_MD5`, libmemcached also changes to this mode when a server of weight
    /// above 1 is added to a consistent distribution.
    ///
    /// # Errors
    ///
    /// The errors of [`RingBuilder::build`](crate::ring::RingBuilder::build) about nodes and
    /// limits. Two nodes are duplicates if their only difference is `:11211`.
    pub fn weighted<N: Into<Node>>(nodes: impl IntoIterator<Item = N>) -> Result<Self, RingError> {
        Self::with_weighted_points(checked(nodes, hashed_label)?, KeyHash::Md5)
    }

    /// Returns the ring for `MEMCACHED_BEHAVIOR_KETAMA` and `MEMCACHED_HASH_MD5`: 100 points for
    /// each server.
    ///
    /// # Errors
    ///
    /// The errors of [`KetamaRing::weighted`], and [`RingError::UnevenWeights`] for a weight other
    /// than 1, with which libmemcached would change to its weighted mode.
    pub fn unweighted<N: Into<Node>>(nodes: impl IntoIterator<Item = N>) -> Result<Self, RingError> {
        let nodes = checked(nodes, hashed_label)?;
        if let Some(node) = nodes.iter().find(|node| node.weight() != 1) {
            return Err(RingError::UnevenWeights { id: node.id().clone() });
        }
        Self::with_equal_points(nodes, KeyHash::Md5)
    }

    /// Returns the ring for `MEMCACHED_BEHAVIOR_KETAMA` and no other behaviour: libmemcached's
    /// default hash, Jenkins's one-at-a-time, places the keys.
    ///
    /// While all weights are 1, each server has 100 points, placed by the same hash. If a weight is
    /// above 1, libmemcached weights the points and places them by MD5, as
    /// [`weighted`](Self::weighted) does, but still places keys by one-at-a-time. So does this
    /// ring.
    ///
    /// The hash sign-extends bytes above 127, as libmemcached does on machines where C's `char` is
    /// signed (x86-64). On machines where `char` is unsigned, libmemcached places keys with such
    /// bytes elsewhere.
    ///
    /// # Errors
    ///
    /// The errors of [`KetamaRing::weighted`].
    pub fn with_default_hash<N: Into<Node>>(nodes: impl IntoIterator<Item = N>) -> Result<Self, RingError> {
        let nodes = checked(nodes, hashed_label)?;
        if nodes.iter().any(|node| node.weight() != 1) {
            return Self::with_weighted_points(nodes, KeyHash::OneAtATime);
        }
        Self::with_equal_points(nodes, KeyHash::OneAtATime)
    }

    /// Returns a ring with points in proportion to weights. MD5 places the points, whatever
    /// function places the keys.
    fn with_weighted_points(nodes: Vec<Node>, keys: KeyHash) -> Result<Self, RingError> {
        check_points(u64::from(WEIGHTED_POINTS) * nodes.len() as u64)?;
        let total: u64 = nodes.iter().map(|node| u64::from(node.weight())).sum();
        let mut points = Vec::with_capacity(WEIGHTED_POINTS as usize * nodes.len());
        for (owner, node) in (0..).zip(&nodes) {
            for index in 0..digests(node.weight(), total, nodes.len()) {
                let digest = Md5Digest::of(point_label(node, index).as_bytes());
                let (quarters, _) = digest.0.as_chunks::<4>();
                points.extend(quarters.iter().map(|quarter| (u32::from_le_bytes(*quarter), owner)));
            }
        }
        Ok(Self { continuum: Continuum::new(nodes, points, Collisions::Keep), keys })
    }

    /// Returns a ring with the same number of points for each server. The function that places the
    /// keys places the points.
    fn with_equal_points(nodes: Vec<Node>, keys: KeyHash) -> Result<Self, RingError> {
        check_points(u64::from(UNWEIGHTED_POINTS) * nodes.len() as u64)?;
        let points = (0..)
            .zip(&nodes)
            .flat_map(|(owner, node)| {
                (0..UNWEIGHTED_POINTS).map(move |index| (keys.of(point_label(node, index).as_bytes()), owner))
            })
            .collect();
        Ok(Self { continuum: Continuum::new(nodes, points, Collisions::Keep), keys })
    }

    /// Returns the server that owns `key`. O(log T) for T points, never panics.
    #[must_use]
    pub fn owner<K: RingKey>(&self, key: K) -> &Node {
        self.continuum.owner_at(self.position(key))
    }

    /// Returns the servers that `key` belongs to, in order of preference. (These are not what
    /// libmemcached calls replicas: it takes the next servers of its *list*, whatever the key.)
    pub fn replicas<K: RingKey>(&self, key: K) -> Walk<'_> {
        self.continuum.walk_from(self.position(key))
    }

    /// Returns the position of `key` among the 2^32 positions: the first four bytes of its MD5,
    /// little-endian, or its one-at-a-time hash in a ring [with the default
    /// hash](Self::with_default_hash). It does not depend on the members.
    #[must_use]
    pub fn position<K: RingKey>(&self, key: K) -> u32 {
        self.keys.of(key.key_bytes().as_ref())
    }

    /// Returns the nodes, in the order given.
    #[must_use]
    pub fn nodes(&self) -> &[Node] {
        self.continuum.nodes()
    }

    /// Returns all points with their owners, ascending.
    #[must_use]
    pub fn points(&self) -> impl ExactSizeIterator<Item = (u32, &Node)> {
        self.continuum.points()
    }
}

/// Returns the number of digests of a server, in exactly the floating-point steps of libmemcached,
/// because the rounding decides the number of points. (Single precision, as compiled for x86-64 and
/// any other machine that doesn't compute with more.)
fn digests(weight: u32, total: u64, servers: usize) -> u32 {
    let share = weight as f32 / total as f32;
    let exact = share * WEIGHTED_POINTS as f32 / POINTS_A_DIGEST as f32 * servers as f32 + 0.000_000_000_1;
    exact.floor() as u32
}

/// Returns the part of a server's address that is hashed.
fn hashed_label(address: &str) -> &str {
    address.strip_suffix(DEFAULT_PORT).unwrap_or(address)
}

/// Returns the text that is hashed for a server's point, or for several points that share a digest.
fn point_label(node: &Node, index: u32) -> String {
    format!("{}-{index}", hashed_label(node.id().as_str()))
}

/// Returns Bob Jenkins's one-at-a-time hash, as libmemcached computes it if `char` is signed: bytes
/// above 127 count as negative.
fn one_at_a_time(bytes: &[u8]) -> u32 {
    let mixed = bytes.iter().fold(0_u32, |hash, byte| {
        let hash = hash.wrapping_add(i32::from(*byte as i8) as u32);
        let hash = hash.wrapping_add(hash << 10);
        hash ^ (hash >> 6)
    });
    let mixed = mixed.wrapping_add(mixed << 3);
    let mixed = mixed ^ (mixed >> 11);
    mixed.wrapping_add(mixed << 15)
}

struct Md5Digest([u8; 16]);

impl Md5Digest {
    fn of(bytes: &[u8]) -> Self {
        Self(Md5::digest(bytes).into())
    }

    /// Returns the first four bytes as a number, little-endian.
    fn first(&self) -> u32 {
        let [a, b, c, d, ..] = self.0;
        u32::from_le_bytes([a, b, c, d])
    }
}
