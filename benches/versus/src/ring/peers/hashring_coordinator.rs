//! hashring_coordinator: a sorted array that tells from which node another one fetches what. It
//! takes part for that alone, because each of its look-ups copies the whole ring.

use hashring_coordinator::HashRing;

use crate::ring::peer::{Key, Member, Part, Peer, VIRTUAL_NODES, What};

pub struct Coordinated {
    ring: HashRing<&'static str>,
    names: Vec<&'static str>,
}

impl Peer for Coordinated {
    const NAME: &'static str = "hashring_coordinator";

    fn part(what: What, nodes: usize) -> Part {
        match what {
            What::PlanJoin if nodes > 10 => {
                Part::Spared("hashring_coordinator above 10 nodes: to plan it copies the ring once for each token")
            }
            What::PlanJoin => Part::Takes,
            _ => Part::Lacks,
        }
    }

    fn build(members: &[Member]) -> Self {
        let names: Vec<_> = members.iter().map(|member| member.name).collect();
        let mut ring = HashRing::new(0, VIRTUAL_NODES);
        ring.batch_add(names.clone());
        Self { ring, names }
    }

    fn owner(&self, key: &Key) -> usize {
        self.ring.get(&key.number()).len()
    }

    fn plan_join(&self, after: &Self, newcomer: Member) -> usize {
        let sources = after.ring.find_sources(&newcomer.name, &self.ring, &self.names);
        sources.iter().map(|source| usize::from(source.hash_range.start() != source.hash_range.end())).sum()
    }
}
