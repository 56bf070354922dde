//! ringlet-hash: a sorted array that tells what moves before a node joins. It takes part for that,
//! and for changes.

use ringlet_hash::{ConsistentRing, RingConfig};

use crate::ring::peer::{FastHash, Key, Member, Part, Peer, VIRTUAL_NODES, What, address};

pub struct Ringlet {
    ring: ConsistentRing<'static, &'static str, FastHash>,
}

impl Peer for Ringlet {
    const NAME: &'static str = "ringlet-hash";

    fn part(what: What, nodes: usize) -> Part {
        match what {
            What::AddNode | What::RemoveNode | What::PlanJoin if nodes >= 1_000 => {
                Part::Spared("ringlet-hash from 1,000 nodes on: it sorts all tokens for each node that it is built of")
            }
            What::AddNode | What::RemoveNode | What::PlanJoin => Part::Takes,
            _ => Part::Lacks,
        }
    }

    fn build(members: &[Member]) -> Self {
        let config = RingConfig { virtual_node_base_count: VIRTUAL_NODES, build_hasher: FastHash::default() };
        let ring = ConsistentRing::try_new(config).expect("there are virtual nodes");
        let mut peer = Self { ring };
        members.iter().for_each(|member| peer.add(*member));
        peer
    }

    fn owner(&self, key: &Key) -> usize {
        self.ring.get_node(&key.number()).map_or(0, |node| address(*node))
    }

    fn add(&mut self, member: Member) {
        self.ring.add_node(borrowed(member.name), member.name, 1).expect("the name is new");
    }

    fn remove(&mut self, member: Member) {
        self.ring.remove_node(member.name);
    }

    fn plan_join(&self, _after: &Self, newcomer: Member) -> usize {
        let moves = self.ring.calculate_migration_on_add(borrowed(newcomer.name), newcomer.name, 1);
        let moves = moves.expect("the name is new");
        moves.iter().map(|moved| usize::from(moved.start_hash != moved.end_hash)).sum()
    }
}

/// The ring borrows its nodes.
fn borrowed(name: &'static str) -> &'static &'static str {
    Box::leak(Box::new(name))
}
