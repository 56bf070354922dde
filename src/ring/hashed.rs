//! Hashed placement: a token is the hash of its node's id and an index.
//!
//! [`balanced`](super::balanced) has the same functions; here, the hasher is one more argument. The
//! caller has checked the node and the number of tokens. A hasher may panic, so every function
//! hashes before it changes anything.

use super::{
    KeyHasher, MAX_NAME_BYTES, Movement, Node, Position,
    members::Members,
    token_table::{Entry, TokenTable, TokensPerBucket},
};

/// Returns the table of a ring that is built afresh.
pub(super) fn build<H: KeyHasher>(members: &Members, virtual_nodes: u32, hasher: &H) -> TokenTable {
    let count = members.weight() as usize * virtual_nodes as usize;
    let mut table = TokenTable::builder(TokensPerBucket::OF_RANDOM, count);
    for (slot, node) in (0..).zip(members.nodes()) {
        for_each_token(node, 0, virtual_nodes, hasher, |position| table.push(Entry { position, slot }));
    }
    table.finish()
}

/// Adds a node, which gets this index.
pub(super) fn add<H: KeyHasher>(
    (members, table): (&mut Members, &mut TokenTable),
    virtual_nodes: u32,
    hasher: &H,
    index: usize,
    node: Node,
) {
    let tokens = sorted_tokens(&node, 0, virtual_nodes, hasher);
    let slot = members.insert(index, node);
    table.insert(slot, &tokens, |a, b| members.precedes(a, b));
}

/// Returns what would move to a node if it was added.
pub(super) fn plan_join<'a, H: KeyHasher>(
    ring: (&'a Members, &TokenTable),
    virtual_nodes: u32,
    hasher: &H,
    node: &'a Node,
) -> Movement<'a> {
    let mut tokens = sorted_tokens(node, 0, virtual_nodes, hasher);
    tokens.dedup();
    Movement::of_join(ring, node, &tokens, |owner| owner.id() < node.id())
}

/// Removes the node at an index, which isn't the only one, and returns it.
pub(super) fn remove<H: KeyHasher>(
    (members, table): (&mut Members, &mut TokenTable),
    virtual_nodes: u32,
    hasher: &H,
    index: usize,
) -> Node {
    let tokens = sorted_tokens(&members.nodes()[index], 0, virtual_nodes, hasher);
    table.remove(members.slot(index), &tokens);
    members.remove(index)
}

/// Puts a node in the place of the one with the same id, and returns that one.
pub(super) fn replace<H: KeyHasher>(
    (members, table): (&mut Members, &mut TokenTable),
    virtual_nodes: u32,
    hasher: &H,
    index: usize,
    node: Node,
) -> Node {
    let slot = members.slot(index);
    let (old, new) = (members.nodes()[index].weight(), node.weight());
    // Of two weights, the heavier has all tokens of the lighter, and more with the indices behind.
    if new > old {
        let tokens = sorted_tokens(&node, old, virtual_nodes, hasher);
        table.insert(slot, &tokens, |a, b| members.precedes(a, b));
    } else if new < old {
        let tokens = sorted_tokens(&members.nodes()[index], new, virtual_nodes, hasher);
        table.remove(slot, &tokens);
    }
    members.replace(index, node)
}

/// Returns the tokens of those units of a node's weight that come after the first `units`,
/// ascending.
fn sorted_tokens<H: KeyHasher>(node: &Node, units: u32, virtual_nodes: u32, hasher: &H) -> Vec<Position> {
    let mut tokens = Vec::with_capacity(((node.weight() - units) * virtual_nodes) as usize);
    for_each_token(node, units, virtual_nodes, hasher, |token| tokens.push(token));
    tokens.sort_unstable();
    tokens
}

/// Calls `each` with the tokens of those units of a node's weight that come after the first
/// `units`, in the order of their index.
///
/// The encoding is the id and then the index in 4 bytes, so no two pairs of id and index share one.
/// An index fits, because the number of tokens is limited.
fn for_each_token<H: KeyHasher>(
    node: &Node,
    units: u32,
    virtual_nodes: u32,
    hasher: &H,
    mut each: impl FnMut(Position),
) {
    let id = node.id().as_str().as_bytes();
    let length = id.len() + size_of::<u32>();
    // Several encodings are written before the first is hashed. A hash that reads what was written
    // just before, in larger pieces, would have to wait for the write each time.
    let mut encoded = [[0; MAX_NAME_BYTES + size_of::<u32>()]; 8];
    encoded.iter_mut().for_each(|encoded| encoded[..id.len()].copy_from_slice(id));
    let mut index = units * virtual_nodes;
    let beyond = node.weight() * virtual_nodes;
    while index < beyond {
        let batch = (beyond - index).min(encoded.len() as u32);
        for (encoded, index) in encoded.iter_mut().zip(index..index + batch) {
            encoded[id.len()..length].copy_from_slice(&index.to_le_bytes());
        }
        encoded[..batch as usize].iter().for_each(|encoded| each(hasher.hash_token(&encoded[..length])));
        index += batch;
    }
}
