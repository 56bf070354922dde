//! Placement as nginx's `hash ... consistent` does it.

use super::continuum::{Collisions, Continuum, Walk, check_points, checked};
use crate::ring::{Node, RingError, RingKey};

/// Points for each unit of weight.
const POINTS: u32 = 160;

/// A ring that sends every key to the server to which nginx sends it, given `hash $key consistent` in an `upstream`.
///
/// A node's id is the server as it is written in the configuration: `10.0.0.1:8080`, `backend.example.com`,
/// `unix:/run/app.sock`. Servers marked `backup` aren't on nginx's ring, so leave them out; those marked `down` are,
/// so name them and skip them in [`replicas`](Self::replicas). The order of the nodes matters only where two points
/// collide.
///
/// Weights are absolute: a node that joins only takes keys (but for those collisions). With 32 bits and CRC32, which is
/// quick to collide for names that resemble each other, the balance is a little worse than that of a
/// [`HashRing`](crate::ring::HashRing), which is what a new system should use.
///
/// ```
/// use ringpact::ring::{Node, NginxRing};
///
/// let ring = NginxRing::new([Node::new("10.0.0.1:8080").with_weight(2), Node::new("10.0.0.2:8080")])?;
/// let server = ring.owner("/images/42");
/// # assert_eq!(ring.replicas("/images/42").next(), Some(server));
/// # Ok::<(), ringpact::ring::RingError>(())
/// ```
#[derive(Debug, Clone)]
pub struct NginxRing {
    continuum: Continuum,
}

impl NginxRing {
    /// The ring of these servers: 160 points for each unit of weight.
    ///
    /// # Errors
    ///
    /// Those of [`RingBuilder::build`](crate::ring::RingBuilder::build) about nodes and limits.
    pub fn new<N: Into<Node>>(nodes: impl IntoIterator<Item = N>) -> Result<Self, RingError> {
        let nodes = checked(nodes, |id| id)?;
        check_points(nodes.iter().map(|node| u64::from(node.weight()) * u64::from(POINTS)).sum())?;
        let points = (0..)
            .zip(&nodes)
            .flat_map(|(owner, node)| points_of(node).map(move |position| (position, owner)))
            .collect();
        Ok(Self { continuum: Continuum::new(nodes, points, Collisions::Drop) })
    }

    /// The server that owns `key`, the value of nginx's expression. O(log T) for T points, never panics.
    pub fn owner<K: RingKey>(&self, key: K) -> &Node {
        self.continuum.owner_at(Self::position(key))
    }

    /// The servers in the order in which nginx tries them for `key` while those before are down.
    pub fn replicas<K: RingKey>(&self, key: K) -> Walk<'_> {
        self.continuum.walk_from(Self::position(key))
    }

    /// Where `key` is among the 2^32 positions: its CRC32.
    pub fn position<K: RingKey>(key: K) -> u32 {
        crc32fast::hash(key.key_bytes().as_ref())
    }

    /// The nodes, in the order given.
    pub fn nodes(&self) -> &[Node] {
        self.continuum.nodes()
    }

    /// All points with their owners, ascending.
    pub fn points(&self) -> impl ExactSizeIterator<Item = (u32, &Node)> {
        self.continuum.points()
    }
}

/// A server's points: each is the CRC32 of host, a zero byte, port and the point before, the first following on 0.
fn points_of(node: &Node) -> impl Iterator<Item = u32> {
    let (host, port) = host_and_port(node.id().as_str());
    let mut server = crc32fast::Hasher::new();
    server.update(host.as_bytes());
    server.update(b"\0");
    server.update(port.as_bytes());
    // Nobody needs more points than the ring may have, and their number was checked.
    let count = node.weight().saturating_mul(POINTS) as usize;
    let after = move |previous: u32| {
        let mut point = server.clone();
        point.update(&previous.to_le_bytes());
        point.finalize()
    };
    std::iter::successors(Some(after(0)), move |previous| Some(after(*previous))).take(count)
}

/// Where nginx sees the port, if there is one: behind a colon, with nothing but digits after it. (So an IPv6 address
/// in brackets has none unless it follows them, and a socket's path never has.)
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
