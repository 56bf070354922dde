//! maglev-hash: another table of 100 entries a node, with lists of replicas. Its hash is SipHash,
//! without a choice.

use maglev_hash::MaglevTable;

use crate::ring::peer::{Key, Member, Part, Peer, What, address};

pub struct MaglevHash {
    table: MaglevTable<&'static str>,
}

impl Peer for MaglevHash {
    const NAME: &'static str = "maglev-hash";

    fn part(what: What, nodes: usize) -> Part {
        match what {
            What::Build | What::AddNode | What::RemoveNode if nodes >= 10_000 => {
                Part::Spared("building maglev-hash at 10,000 nodes: a large part of a second each time")
            }
            What::Lookup
            | What::LookupDependent
            | What::Replicas3
            | What::Build
            | What::AddNode
            | What::RemoveNode
            | What::MaxOverMean => Part::Takes,
            _ => Part::Lacks,
        }
    }

    fn build(members: &[Member]) -> Self {
        Self { table: MaglevTable::new(members.iter().map(|member| member.name).collect()) }
    }

    #[inline(always)]
    fn owner(&self, key: &Key) -> usize {
        self.table.get(&key.number()).map_or(0, |node| address(*node))
    }

    #[inline(always)]
    fn replicas3(&self, key: &Key) -> usize {
        self.table.get_top_k(&key.number(), 3).iter().map(|node| address(**node)).fold(0, usize::wrapping_add)
    }

    fn add(&mut self, member: Member) {
        self.table = MaglevTable::new(self.table.nodes().iter().copied().chain([member.name]).collect());
    }

    fn remove(&mut self, _member: Member) {
        let nodes = self.table.nodes();
        self.table = MaglevTable::new(nodes[..nodes.len() - 1].to_vec());
    }
}
