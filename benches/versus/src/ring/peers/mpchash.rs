//! mpchash: multi-probe consistent hashing. One token a node in a skip list, and 23 probes a key.

use mpchash::HashRing;

use crate::ring::peer::{Key, Member, Part, Peer, What, address};

pub struct MultiProbe {
    ring: HashRing<&'static str>,
}

impl Peer for MultiProbe {
    const NAME: &'static str = "mpchash";

    fn part(what: What, nodes: usize) -> Part {
        match what {
            What::MaxOverMean if nodes >= 100 => Part::Spared(
                "balance of mpchash from 100 nodes on: to count a million keys takes ten seconds, and ten million keys take minutes",
            ),
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
        let ring = HashRing::new();
        members.iter().for_each(|member| ring.add(member.name));
        Self { ring }
    }

    #[inline(always)]
    fn owner(&self, key: &Key) -> usize {
        self.ring.node(&key.number()).map_or(0, |token| address(*token.node()))
    }

    #[inline(always)]
    fn replicas3(&self, key: &Key) -> usize {
        let nodes = self.ring.replicas(&key.number(), 3);
        nodes.iter().map(|token| address(*token.node())).fold(0, usize::wrapping_add)
    }

    fn add(&mut self, member: Member) {
        self.ring.add(member.name);
    }

    fn remove(&mut self, member: Member) {
        self.ring.remove(&member.name);
    }
}
