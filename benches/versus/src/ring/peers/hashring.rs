//! hashring: a sorted vector. The caller makes virtual nodes: each is an entry, as its
//! documentation shows.

use hashring::HashRing;

use crate::ring::peer::{FastHash, Key, Member, Part, Peer, VIRTUAL_NODES, What, address};

#[derive(Debug, Clone, Copy, Hash)]
struct VirtualNode {
    name: &'static str,
    index: u16,
}

pub struct Hashring {
    ring: HashRing<VirtualNode, FastHash>,
}

fn virtual_nodes(member: &Member) -> impl Iterator<Item = VirtualNode> + use<> {
    let name = member.name;
    (0..VIRTUAL_NODES as u16).map(move |index| VirtualNode { name, index })
}

impl Peer for Hashring {
    const NAME: &'static str = "hashring";

    fn part(what: What, nodes: usize) -> Part {
        match what {
            What::Replicas3 => Part::Spared("replicas3 of hashring: they aren't distinct, and it clones the ring"),
            What::RemoveNode if nodes >= 10_000 => Part::Spared("remove_node of hashring at 10,000: seconds each"),
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
        let mut ring = HashRing::with_hasher(FastHash::default());
        ring.batch_add(members.iter().flat_map(virtual_nodes).collect());
        Self { ring }
    }

    #[inline(always)]
    fn owner(&self, key: &Key) -> usize {
        self.ring.get(&key.number()).map_or(0, |node| address(node.name))
    }

    fn add(&mut self, member: Member) {
        self.ring.batch_add(virtual_nodes(&member).collect());
    }

    fn remove(&mut self, member: Member) {
        for node in virtual_nodes(&member) {
            self.ring.remove(&node);
        }
    }

    fn tokens(&self) -> usize {
        self.ring.len()
    }
}
