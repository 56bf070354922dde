//! hash-rings: a `BTreeMap` of points, the cheapest to change.

use std::collections::HashMap;

use hash_rings::consistent::Ring;

use crate::ring::peer::{FastHash, Key, Member, Part, Peer, VIRTUAL_NODES, What, address};

pub struct HashRings {
    ring: Ring<'static, &'static str, FastHash>,
    /// One for each member that was ever added: the ring borrows its nodes.
    added: HashMap<&'static str, &'static &'static str, FastHash>,
}

impl Peer for HashRings {
    const NAME: &'static str = "hash-rings";

    fn part(what: What, _nodes: usize) -> Part {
        match what {
            What::Lookup
            | What::LookupDependent
            | What::Build
            | What::AddNode
            | What::RemoveNode
            | What::BytesPerToken
            | What::MaxOverMean => Part::Takes,
            _ => Part::Lacks,
        }
    }

    fn build(members: &[Member]) -> Self {
        let mut ring = Ring::with_hasher(FastHash::default());
        for member in members {
            ring.insert_node(borrowed(member.name), VIRTUAL_NODES);
        }
        Self { ring, added: HashMap::default() }
    }

    #[inline(always)]
    fn owner(&self, key: &Key) -> usize {
        address(*self.ring.get_node(&key.number()))
    }

    fn add(&mut self, member: Member) {
        let node = *self.added.entry(member.name).or_insert_with(|| borrowed(member.name));
        self.ring.insert_node(node, VIRTUAL_NODES);
    }

    fn remove(&mut self, member: Member) {
        self.ring.remove_node(&member.name);
    }

    fn tokens(&self) -> usize {
        self.ring.len() * VIRTUAL_NODES
    }
}

fn borrowed(name: &'static str) -> &'static &'static str {
    Box::leak(Box::new(name))
}
