//! Placement as nginx's `hash ... consistent` does it.

use super::continuum::{Collisions, Continuum, Walk, check_points, checked};
use crate::ring::{Node, RingError, RingKey};

/// Number of points for each unit of weight.
const POINTS: u32 = 160;

/// A ring that sends every key to the server to which nginx sends it, with `hash $key consistent`
/// in an `upstream`. It never changes, so threads share it in an [`Arc`](std::sync::Arc); a clone
/// is a copy.
///
/// A node's id is the server as it is written in the configuration: `10.0.0.1:8080`,
/// `backend.example.com`, `unix:/run/app.sock`. Servers marked `backup` aren't on nginx's ring, so
/// leave them out. Servers marked `down` are on it, so name them, and skip them in
/// [`replicas`](Self::replicas). The order of the nodes matters only if two points collide.
///
/// Weights are absolute: a node that joins only takes keys, except if points collide. The circle
/// has 32 bits, and CRC32 soon collides for names that resemble each other. So the balance is a
/// little worse than that of a [`HashRing`](crate::ring::HashRing), which a new system should use.
///
/// ```
/// use ringpact::ring::{Node, NginxRing};
///
/// let ring = NginxRing::new([Node::new("10.0.0.1:8080").with_weight(2), Node::new("10.0.0.2:8080")])?;
/// let server = ring.owner("/images/42");
/// # assert_eq!(ring.replicas("/images/42").next(), Some(server));
/// # Ok::<(), ringpact::ring::RingError>(())
/// ```
#[derive(Clone, Debug)]
pub struct NginxRing {
    continuum: Continuum,
}

impl NginxRing {
    /// Returns the ring of these servers: 160 points for each unit of weight.
    ///
    /// # Errors
    ///
    /// The errors of [`RingBuilder::build`](crate::ring::RingBuilder::build) about nodes and
    /// limits.
    pub fn new<N: Into<Node>>(nodes: impl IntoIterator<Item = N>) -> Result<Self, RingError> {
        let nodes = checked(nodes, |id| id)?;
        check_points(nodes.iter().map(|node| u64::from(node.weight()) * u64::from(POINTS)).sum())?;
        let points = (0..)
            .zip(&nodes)
            .flat_map(|(owner, node)| points_of(node).map(move |position| (position, owner)))
            .collect();
        Ok(Self { continuum: Continuum::new(nodes, points, Collisions::Drop) })
    }

    /// Returns the server that owns `key`, which is the value of nginx's expression. O(log T) for T
    /// points, never panics.
    #[must_use]
    pub fn owner<K: RingKey>(&self, key: K) -> &Node {
        self.continuum.owner_at(Self::position(key))
    }

    /// Returns the servers in the order in which nginx tries them for `key` while those before are
    /// down.
    pub fn replicas<K: RingKey>(&self, key: K) -> Walk<'_> {
        self.continuum.walk_from(Self::position(key))
    }

    /// Returns the position of `key` among the 2^32 positions: its CRC32.
    #[must_use]
    pub fn position<K: RingKey>(key: K) -> u32 {
        crc32fast::hash(key.key_bytes().as_ref())
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

/// Returns a server's points. Each is the CRC32 of host, a zero byte, port and the point before; 0
/// stands before the first.
fn points_of(node: &Node) -> impl Iterator<Item = u32> {
    let (host, port) = host_and_port(node.id().as_str());
    let mut server = crc32fast::Hasher::new();
    server.update(host.as_bytes());
    server.update(b"\0");
    server.update(port.as_bytes());
    // The caller has checked the number of points against the limit of a ring.
    let count = node.weight().saturating_mul(POINTS) as usize;
    let after = move |previous: u32| {
        let mut point = server.clone();
        point.update(&previous.to_le_bytes());
        point.finalize()
    };
    std::iter::successors(Some(after(0)), move |previous| Some(after(*previous))).take(count)
}

/// Splits a server's name as nginx does. The port, if there is one, is what follows the last colon,
/// and has only digits. (So an IPv6 address in brackets has a port only if it follows the brackets,
/// and the path of a socket never has one.)
fn host_and_port(server: &str) -> (&str, &str) {
    if let Some(path) = server.get(5..)
        && server.as_bytes()[..5].eq_ignore_ascii_case(b"unix:")
    {
        return (path, "");
    }
    match server.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => (host, port),
        _ => (server, ""),
    }
}
