//! Changes of the members of a balanced ring: from the ring's table to a [`Layout`], and from edits
//! back to the table.
//!
//! [`hashed`](crate::ring::hashed) has the same functions. Here, nodes are known by their index
//! among the members, not by their slot.

use super::{Edits, Layout, fresh};
use crate::ring::{
    Movement, Node, Position, RingError,
    members::Members,
    token_table::{Entry, TokenTable, TokensPerBucket},
};

/// Returns the table of a ring that is built afresh.
pub(in crate::ring) fn build(members: &Members, virtual_nodes: u32) -> TokenTable {
    let entries = fresh(&weights(members), virtual_nodes);
    TokenTable::new(TokensPerBucket::OF_EVEN, entries.len(), by_slot(members, &entries))
}

/// Returns the table with these tokens, each with the index of its node.
///
/// # Errors
///
/// If the tokens don't ascend, if one belongs to no member, or if a member has none.
pub(in crate::ring) fn restore(members: &Members, entries: &[(Position, u32)]) -> Result<TokenTable, RingError> {
    if let Some(pair) = entries.windows(2).find(|pair| pair[0].0 >= pair[1].0) {
        return Err(RingError::TokensOutOfOrder { position: pair[1].0 });
    }
    let nodes = members.nodes();
    let mut owns = vec![false; nodes.len()];
    for (_, node) in entries {
        let Some(owns) = owns.get_mut(*node as usize) else {
            return Err(RingError::UnknownTokenOwner { index: *node, nodes: nodes.len() });
        };
        *owns = true;
    }
    if let Some((_, node)) = owns.iter().zip(nodes).find(|(owns, _)| !**owns) {
        return Err(RingError::NodeWithoutToken { id: node.id().clone() });
    }
    Ok(TokenTable::new(TokensPerBucket::OF_EVEN, entries.len(), by_slot(members, entries)))
}

/// Adds a node, which gets this index.
pub(in crate::ring) fn add(
    (members, table): (&mut Members, &mut TokenTable),
    virtual_nodes: u32,
    index: usize,
    node: Node,
) {
    members.insert(index, node);
    change(members, table, virtual_nodes, |layout| layout.join(index as u32));
}

/// Returns what would move to a node if it was added, and got this index.
pub(in crate::ring) fn plan_join<'a>(
    (members, table): (&'a Members, &TokenTable),
    virtual_nodes: u32,
    index: usize,
    node: &'a Node,
) -> Movement<'a> {
    let (mut entries, mut weights) = (entries(members, table), weights(members));
    weights.insert(index, node.weight());
    for (_, owner) in &mut entries {
        *owner += u32::from(*owner >= index as u32);
    }
    let layout = Layout { entries: &entries, weights: &weights, tokens: virtual_nodes };
    let tokens: Vec<_> = layout.join(index as u32).into_keys().collect();
    // No two tokens of a balanced ring share a position.
    Movement::of_join((members, table), node, &tokens, |_| false)
}

/// Removes the node at an index, which isn't the only one, and returns it.
pub(in crate::ring) fn remove(
    (members, table): (&mut Members, &mut TokenTable),
    virtual_nodes: u32,
    index: usize,
) -> Node {
    change(members, table, virtual_nodes, |layout| layout.leave(index as u32));
    members.remove(index)
}

/// Puts a node in the place of the one with the same id, and returns that one.
pub(in crate::ring) fn replace(
    (members, table): (&mut Members, &mut TokenTable),
    virtual_nodes: u32,
    index: usize,
    node: Node,
) -> Node {
    let weight = node.weight();
    let old = members.replace(index, node);
    if old.weight() != weight {
        change(members, table, virtual_nodes, |layout| layout.reweigh(index as u32, old.weight()));
    }
    old
}

/// Returns every token and the index of its node, clockwise. Indices, unlike slots, follow from the
/// members alone, so a ring that was read back changes as the one that was written would have.
pub(in crate::ring) fn entries(members: &Members, table: &TokenTable) -> Vec<(Position, u32)> {
    let mut indices = vec![0; members.slot_count()];
    for (index, slot) in (0..).zip(members.slots()) {
        indices[*slot as usize] = index;
    }
    table.iter().map(|entry| (entry.position, indices[entry.slot as usize])).collect()
}

/// Makes the edits that `decide` returns.
fn change(members: &Members, table: &mut TokenTable, virtual_nodes: u32, decide: impl FnOnce(Layout<'_>) -> Edits) {
    let (entries, weights) = (entries(members, table), weights(members));
    let edits = decide(Layout { entries: &entries, weights: &weights, tokens: virtual_nodes });
    for (position, after) in edits {
        let before = entries.binary_search_by_key(&position, |(position, _)| *position).ok();
        let before = before.map(|entry| members.slot(entries[entry].1 as usize));
        let after = after.map(|node| members.slot(node as usize));
        // No two tokens of a balanced ring share a position, so no order among them is needed.
        match (before, after) {
            (None, Some(after)) => table.insert(after, &[position], |_, _| false),
            (Some(before), None) => {
                table.remove(before, &[position]);
            }
            (Some(slot), Some(after)) if slot != after => {
                table.reassign(Entry { position, slot }, after, |_, _| false);
            }
            _ => {}
        }
    }
}

fn weights(members: &Members) -> Vec<u32> {
    members.nodes().iter().map(Node::weight).collect()
}

fn by_slot(members: &Members, entries: &[(Position, u32)]) -> impl Iterator<Item = Entry> {
    entries.iter().map(|(position, node)| Entry { position: *position, slot: members.slot(*node as usize) })
}
