//! hrw-hash: rendezvous hashing. No tokens; each look-up scores and sorts all nodes.

use hrw_hash::HrwNodes;

use crate::ring::peer::{FastHash, Key, Member, Part, Peer, What, address};

pub struct Rendezvous {
    nodes: HrwNodes<&'static str, FastHash>,
}

/// Number of nodes from which looking up all keys takes seconds.
const TOO_MANY: usize = 1_000;

impl Peer for Rendezvous {
    const NAME: &'static str = "hrw-hash";

    fn part(what: What, nodes: usize) -> Part {
        match what {
            What::Lookup | What::LookupDependent | What::Replicas3 if nodes >= TOO_MANY => {
                Part::Spared("hrw-hash from 1,000 nodes on: it sorts all of them for each key, which takes some 50 µs")
            }
            What::MaxOverMean if nodes >= 100 => {
                Part::Spared("balance of hrw-hash from 100 nodes on: to count a million keys takes twenty seconds")
            }
            What::Lookup | What::LookupDependent | What::Replicas3 | What::Build | What::MaxOverMean => Part::Takes,
            _ => Part::Lacks,
        }
    }

    fn build(members: &[Member]) -> Self {
        let nodes = members.iter().map(|member| member.name);
        Self { nodes: HrwNodes::with_build_hasher(FastHash::default(), nodes) }
    }

    #[inline(always)]
    fn owner(&self, key: &Key) -> usize {
        self.nodes.sorted(&key.number()).next().map_or(0, |node| address(*node))
    }

    #[inline(always)]
    fn replicas3(&self, key: &Key) -> usize {
        self.nodes.sorted(&key.number()).take(3).map(|node| address(*node)).fold(0, usize::wrapping_add)
    }
}
