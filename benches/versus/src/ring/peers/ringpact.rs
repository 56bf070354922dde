//! This repository's ring, with hashed tokens.

use ringpact::ring::{HashRing, Node};

use crate::ring::peer::{Key, Member, Part, Peer, VIRTUAL_NODES, What, address, ratio};

pub struct Ringpact {
    ring: HashRing,
}

impl Peer for Ringpact {
    const NAME: &'static str = "ringpact";

    fn part(what: What, _nodes: usize) -> Part {
        match what {
            What::LookupBatch | What::Replicas3Zones | What::SharedLookup => Part::Lacks,
            _ => Part::Takes,
        }
    }

    fn build(members: &[Member]) -> Self {
        let nodes = members.iter().map(|member| Node::new(member.name));
        let ring = HashRing::builder().virtual_nodes(VIRTUAL_NODES as u32).nodes(nodes).build();
        Self { ring: ring.expect("the names are valid and distinct") }
    }

    #[inline]
    fn owner(&self, key: Key) -> usize {
        address(self.ring.owner(key.bytes()))
    }

    #[inline]
    fn replicas3(&self, key: Key) -> usize {
        self.ring.replicas(key.bytes()).take(3).map(address).fold(0, usize::wrapping_add)
    }

    fn add(&mut self, member: Member) {
        self.ring.add(member.name).expect("the name is new");
    }

    fn remove(&mut self, member: Member) {
        self.ring.remove(member.name).expect("it was added before");
    }

    fn plan(&self, after: &Self) -> usize {
        let movement = self.ring.movement(&after.ring).expect("both hash alike");
        movement.ranges().iter().map(|moved| usize::from(moved.from.id() != moved.to.id())).sum()
    }

    fn tokens(&self) -> usize {
        self.ring.token_count()
    }

    fn max_over_mean(&self) -> Option<f64> {
        let mut shares = vec![0.0; self.ring.nodes().len()];
        let first = address(&self.ring.nodes()[0]);
        let mut before = self.ring.tokens().last()?.position.as_u64();
        for token in self.ring.tokens() {
            let index = (address(token.node) - first) / size_of::<Node>();
            shares[index] += token.position.as_u64().wrapping_sub(before) as f64;
            before = token.position.as_u64();
        }
        Some(ratio(shares))
    }
}
