//! Which nodes a tenant gets. Pure: a function of the nodes and the tenant's position.

use std::{cmp::Reverse, collections::BTreeMap};

use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::ring::{MAX_NAME_BYTES, Node, Position};

/// Returns the indices of the `size` nodes that the tenant gets, or of all nodes if there are
/// fewer. `nodes` is sorted by id. The first `n` are what it would return for a size of `n`.
///
/// Each node has a *score* for the tenant. Within a zone, the node with the highest score comes
/// first. All nodes together come in rounds, each with one node of every zone that has nodes left,
/// the highest score first.
///
/// Why a node that comes or goes exchanges at most one node: in the zone of a node that comes, the
/// score at each rank stays or rises, and one rank is added. So this zone gets the places that it
/// had, or one more, which the last node of another zone gives up. In both cases the zone's own
/// nodes stay, but for the one that the newcomer takes the place of. In the first case that is one
/// for one, and in the second no node of the zone has to go.
pub(super) fn choose<'a>(nodes: impl IntoIterator<Item = &'a Node>, tenant: Position, size: usize) -> Vec<usize> {
    let mut ranked: Vec<_> =
        nodes.into_iter().enumerate().map(|(index, node)| (score(node, tenant), index, node.zone())).collect();
    // If two scores are equal, the smaller id comes first.
    ranked.sort_unstable_by_key(|(score, index, _)| (Reverse(*score), *index));
    let mut of_zones = BTreeMap::new();
    let mut in_rounds: Vec<_> = ranked
        .into_iter()
        .map(|(_, index, zone)| {
            let next: &mut usize = of_zones.entry(zone).or_default();
            let round = *next;
            *next += 1;
            (round, index)
        })
        .collect();
    // Stable, so that within a round the order is that of the scores.
    in_rounds.sort_by_key(|(round, _)| *round);
    in_rounds.truncate(size);
    in_rounds.into_iter().map(|(_, index)| index).collect()
}

/// Returns the highest of the node's hashes for the tenant: one for each unit of weight.
///
/// The highest of w hashes is above the highest of v others with a chance of w / (v + w). So a node
/// of weight 2 comes first twice as often as one of weight 1. This is exact, and needs no logarithm,
/// which could differ between machines.
fn score(node: &Node, tenant: Position) -> u64 {
    let id = node.id().as_str().as_bytes();
    let length = id.len() + size_of::<u32>();
    let mut encoded = [0; MAX_NAME_BYTES + size_of::<u32>()];
    encoded[..id.len()].copy_from_slice(id);
    let mut highest = 0;
    for unit in 0..node.weight() {
        encoded[id.len()..length].copy_from_slice(&unit.to_le_bytes());
        highest = highest.max(xxh3_64_with_seed(&encoded[..length], tenant.as_u64()));
    }
    highest
}
