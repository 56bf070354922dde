//! A circle of 2^32 positions, as other software has it, with points at any positions.

use std::{fmt, iter::FusedIterator};

use crate::ring::{MAX_TOKENS, Node, RingError};

/// Nodes in the order in which they were given, and their points on the circle.
///
/// Invariants: `positions`, `owners` and `gaps` are equally long, and not empty. Positions ascend,
/// and points at one position are in order of preference.
#[derive(Clone)]
pub(super) struct Continuum {
    nodes: Vec<Node>,
    positions: Vec<u32>,
    owners: Vec<u32>,
    /// For each point, the number of points back to the preceding point of the same node, going
    /// round. A walk that has made fewer steps than this meets the node for the first time.
    gaps: Vec<u32>,
}

/// What happens to points at one position. In either case, the node that was given first owns the
/// position.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Collisions {
    /// The points of the other nodes stay behind it.
    #[cfg(feature = "ketama")]
    Keep,
    /// The points of the other nodes are dropped.
    #[cfg(feature = "nginx")]
    Drop,
}

impl Continuum {
    /// Returns the circle with these points, as (position, index of the node), in any order.
    pub(super) fn new(nodes: Vec<Node>, mut points: Vec<(u32, u32)>, collisions: Collisions) -> Self {
        points.sort_unstable();
        match collisions {
            #[cfg(feature = "ketama")]
            Collisions::Keep => {}
            #[cfg(feature = "nginx")]
            Collisions::Drop => points.dedup_by_key(|(position, _)| *position),
        }
        let (positions, owners): (Vec<u32>, Vec<u32>) = points.into_iter().unzip();
        let gaps = gaps(&owners, nodes.len());
        Self { nodes, positions, owners, gaps }
    }

    pub(super) fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    pub(super) fn points(&self) -> impl ExactSizeIterator<Item = (u32, &Node)> {
        self.positions.iter().zip(&self.owners).map(|(position, owner)| (*position, &self.nodes[*owner as usize]))
    }

    pub(super) fn owner_at(&self, position: u32) -> &Node {
        &self.nodes[self.owners[self.successor(position)] as usize]
    }

    pub(super) fn walk_from(&self, position: u32) -> Walk<'_> {
        Walk { continuum: self, point: self.successor(position), steps: 0 }
    }

    /// Returns the first point at or after `position`. Beyond the last point, returns the very
    /// first.
    fn successor(&self, position: u32) -> usize {
        let point = self.positions.partition_point(|other| *other < position);
        if point == self.positions.len() { 0 } else { point }
    }
}

/// Returns, for each point, the steps back to its owner's preceding point. For an owner's only
/// point, that is a whole lap.
fn gaps(owners: &[u32], nodes: usize) -> Vec<u32> {
    let points = owners.len() as u32;
    // The first lap finds each node's last point, as seen from before the start. The second lap
    // counts the steps.
    let mut last_seen = vec![0_i64; nodes];
    for (point, owner) in (0_i64..).zip(owners) {
        last_seen[*owner as usize] = point - i64::from(points);
    }
    (0_i64..)
        .zip(owners)
        .map(|(point, owner)| {
            let last = std::mem::replace(&mut last_seen[*owner as usize], point);
            // Between 1 and the number of points, which is limited by `MAX_TOKENS`.
            (point - last) as u32
        })
        .collect()
}

/// Checks the nodes as every ring does, and returns them in the order given. Two nodes with one
/// `label` are duplicates.
pub(super) fn checked<N: Into<Node>>(
    nodes: impl IntoIterator<Item = N>,
    label: impl Fn(&str) -> &str,
) -> Result<Vec<Node>, RingError> {
    let nodes: Vec<Node> = nodes.into_iter().map(Into::into).collect();
    if nodes.is_empty() {
        return Err(RingError::NoNodes);
    }
    nodes.iter().try_for_each(Node::check)?;
    let mut labels: Vec<_> = nodes.iter().map(|node| label(node.id().as_str())).collect();
    labels.sort_unstable();
    if let Some(pair) = labels.windows(2).find(|pair| pair[0] == pair[1]) {
        return Err(RingError::DuplicateNode { id: pair[0].into() });
    }
    Ok(nodes)
}

/// Checks the limit of points, so that a wrong weight can't take all of the machine's memory.
pub(super) fn check_points(points: u64) -> Result<(), RingError> {
    if points > MAX_TOKENS {
        return Err(RingError::TooManyTokens { tokens: points });
    }
    Ok(())
}

/// An iterator over the distinct nodes on a walk up from a position: each node with a point once,
/// the owner first. A clone goes on independently from the same place.
#[derive(Clone)]
#[must_use = "iterators do nothing unless they are used"]
pub struct Walk<'a> {
    continuum: &'a Continuum,
    point: usize,
    steps: usize,
}

impl<'a> Iterator for Walk<'a> {
    type Item = &'a Node;

    fn next(&mut self) -> Option<&'a Node> {
        let continuum = self.continuum;
        // After one lap, every node was met.
        while self.steps < continuum.owners.len() {
            let (point, steps) = (self.point, self.steps);
            self.steps += 1;
            self.point = if point + 1 == continuum.owners.len() { 0 } else { point + 1 };
            if continuum.gaps[point] as usize > steps {
                return Some(&continuum.nodes[continuum.owners[point] as usize]);
            }
        }
        None
    }
}

impl FusedIterator for Walk<'_> {}

impl fmt::Debug for Walk<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.clone().map(Node::id)).finish()
    }
}

/// Leaves out the points, because there are too many to read, and they follow from the nodes.
impl fmt::Debug for Continuum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Continuum")
            .field("nodes", &self.nodes)
            .field("points", &self.owners.len())
            .finish_non_exhaustive()
    }
}
