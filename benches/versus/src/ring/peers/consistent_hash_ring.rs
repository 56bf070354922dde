//! consistent_hash_ring: sorted vectors of virtual nodes, inserted one at a time; distinct
//! replicas; migrated ranges.

use consistent_hash_ring::{Ring, RingBuilder, migrated_ranges};

use crate::ring::peer::{FastHash, Key, Member, Part, Peer, VIRTUAL_NODES, What, address, ratio};

pub struct ConsistentHashRing {
    ring: Ring<&'static str, FastHash>,
}

impl Peer for ConsistentHashRing {
    const NAME: &'static str = "consistent_hash_ring";

    fn part(what: What, nodes: usize) -> Part {
        match what {
            _ if nodes >= 10_000 => Part::Spared(
                "consistent_hash_ring at 10,000 nodes: building inserts each token into a sorted vector, so 5 seconds for \
                 1,000 nodes become many minutes",
            ),
            What::Lookup
            | What::LookupDependent
            | What::Replicas3
            | What::Build
            | What::AddNode
            | What::RemoveNode
            | What::PlanJoin
            | What::PlanFull
            | What::BytesPerToken
            | What::MaxOverMean => Part::Takes,
            _ => Part::Lacks,
        }
    }

    fn build(members: &[Member]) -> Self {
        let nodes = members.iter().map(|member| member.name);
        Self { ring: RingBuilder::new(FastHash::default()).vnodes(VIRTUAL_NODES).nodes_iter(nodes).build() }
    }

    #[inline(always)]
    fn owner(&self, key: &Key) -> usize {
        address(*self.ring.get(key.number()))
    }

    #[inline(always)]
    fn replicas3(&self, key: &Key) -> usize {
        self.ring.replicas(key.number()).take(3).map(|node| address(*node)).fold(0, usize::wrapping_add)
    }

    fn add(&mut self, member: Member) {
        self.ring.insert(member.name);
    }

    fn remove(&mut self, member: Member) {
        self.ring.remove(&member.name);
    }

    fn plan(&self, after: &Self) -> usize {
        migrated_ranges(&self.ring, &after.ring).map(|moved| usize::from(moved.src() != moved.dst())).sum()
    }

    fn tokens(&self) -> usize {
        self.ring.vnodes()
    }

    fn max_over_mean(&self) -> Option<f64> {
        let mut shares = std::collections::HashMap::<_, f64>::new();
        for resident in self.ring.resident_ranges() {
            let width = (resident.keys().end() - resident.keys().start()) as f64;
            *shares.entry(*resident.node()).or_default() += width;
        }
        Some(ratio(shares.into_values()))
    }
}
