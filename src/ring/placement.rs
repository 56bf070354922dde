//! The two ways to place tokens.

use super::balanced::MAX_TOKEN_GROWTH;

/// Default number of virtual nodes for each unit of weight of a *hashed* ring.
///
/// It is what ketama (libmemcached's weighted mode) and nginx use. The most loaded of 10 equal
/// nodes then owns about 1.12 times its fair share, of 100 about 1.22, of 1,000 about 1.28. A node
/// costs 2.5 kB. See [the placement page](crate::docs::placement) for how to choose another number.
pub const DEFAULT_VIRTUAL_NODES: u32 = 160;

/// Default number of virtual nodes for each unit of weight of a *balanced* ring.
///
/// The most loaded node then owns at most about 1.016 times its fair share, however many nodes
/// there are and in whatever order they came and went. See [the balance page](crate::docs::balance)
/// for how to choose another number.
pub const DEFAULT_BALANCED_VIRTUAL_NODES: u32 = 64;

/// How a ring places its nodes' tokens. [The balance page](crate::docs::balance) says when to
/// choose which.
///
/// ```
/// use ringpact::ring::{HashRing, Placement};
///
/// let mut ring = HashRing::builder().placement(Placement::Balanced).nodes(["a", "b", "c"]).build()?;
/// let before = ring.clone();
/// ring.add("d")?;
///
/// // The newcomer gets its quarter, to a thousandth, and nothing else moves.
/// let movement = before.movement(&ring)?;
/// assert!((movement.fraction() - 0.25).abs() < 0.25 / 1000.0);
/// assert!(movement.ranges().iter().all(|moved| moved.to.id() == "d"));
/// # Ok::<(), ringpact::ring::RingError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Placement {
    /// A token is the hash of its node's id and an index. The ring is a pure function of its
    /// members, so that all processes that know the members have the same ring. Nodes own random
    /// shares around their fair ones.
    #[default]
    Hashed,
    /// Tokens are assigned so that every node owns nearly its fair share. The ring depends on the
    /// order in which its members came and went. Processes that are to have the same ring make the
    /// same changes in the same order, or pass the ring on serialised, with its tokens.
    Balanced,
}

impl Placement {
    /// Returns the default number of virtual nodes for each unit of weight.
    #[must_use]
    pub const fn default_virtual_nodes(self) -> u32 {
        match self {
            Self::Hashed => DEFAULT_VIRTUAL_NODES,
            Self::Balanced => DEFAULT_BALANCED_VIRTUAL_NODES,
        }
    }

    /// Returns the most tokens that a unit of weight may ever have, given its virtual nodes.
    pub(super) const fn most_tokens(self, virtual_nodes: u32) -> u32 {
        match self {
            Self::Hashed => virtual_nodes,
            Self::Balanced => virtual_nodes.saturating_mul(MAX_TOKEN_GROWTH),
        }
    }
}
