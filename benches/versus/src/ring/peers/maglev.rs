//! maglev: not a ring but a table of 100 entries a node, with look-up by remainder. It is rebuilt
//! for any change, and each change moves some keys between nodes that stay.

use maglev::{ConsistentHasher, Maglev};

use crate::ring::peer::{FastHash, Key, Member, Part, Peer, What, address};

pub struct MaglevTable {
    table: Maglev<&'static str, FastHash>,
}

impl Peer for MaglevTable {
    const NAME: &'static str = "maglev";

    fn part(what: What, nodes: usize) -> Part {
        match what {
            _ if nodes >= 10_000 => {
                Part::Spared("maglev at 10,000 nodes: building takes 80 GB (nodes x entries x 8 bytes)")
            }
            What::Build | What::AddNode | What::RemoveNode if nodes >= 1_000 => {
                Part::Spared("building maglev at 1,000 nodes: a second and 0.8 GB each time")
            }
            What::Lookup
            | What::LookupDependent
            | What::Build
            | What::AddNode
            | What::RemoveNode
            | What::MaxOverMean => Part::Takes,
            _ => Part::Lacks,
        }
    }

    fn build(members: &[Member]) -> Self {
        Self { table: Maglev::with_hasher(members.iter().map(|member| member.name), FastHash::default()) }
    }

    #[inline(always)]
    fn owner(&self, key: &Key) -> usize {
        self.table.get(&key.number()).map_or(0, |node| address(*node))
    }

    fn add(&mut self, member: Member) {
        let nodes = self.table.nodes().iter().copied().chain([member.name]);
        self.table = Maglev::with_hasher(nodes.collect::<Vec<_>>(), FastHash::default());
    }

    fn remove(&mut self, _member: Member) {
        let nodes = self.table.nodes();
        self.table = Maglev::with_hasher(nodes[..nodes.len() - 1].to_vec(), FastHash::default());
    }
}
