//! consistent-choose-k: not a ring. No memory, and any number of distinct replicas. Nodes are
//! numbers, and only the last one leaves without a trace.

use std::hash::{BuildHasher, Hash};

use consistent_choose_k::{ConsistentChooseKHasher, ConsistentHasher};

use crate::ring::peer::{FastHash, Key, Member, Part, Peer, What, address};

type Hasher = <FastHash as BuildHasher>::Hasher;

pub struct ChooseK {
    nodes: Vec<&'static str>,
}

/// It leaves hashing the key to the caller.
#[inline(always)]
fn hasher(key: &Key) -> Hasher {
    let mut hasher = FastHash::default().build_hasher();
    key.number().hash(&mut hasher);
    hasher
}

impl Peer for ChooseK {
    const NAME: &'static str = "consistent-choose-k";

    fn part(what: What, _nodes: usize) -> Part {
        match what {
            What::Lookup | What::LookupDependent | What::Replicas3 | What::MaxOverMean => Part::Takes,
            What::AddNode | What::RemoveNode => Part::Spared(
                "changes of consistent-choose-k: there is only a number to change; a set skips nodes that leave earlier",
            ),
            _ => Part::Lacks,
        }
    }

    fn build(members: &[Member]) -> Self {
        Self { nodes: members.iter().map(|member| member.name).collect() }
    }

    #[inline(always)]
    fn owner(&self, key: &Key) -> usize {
        ConsistentHasher::new(hasher(key)).into_prev(self.nodes.len()).map_or(0, |node| address(self.nodes[node]))
    }

    #[inline(always)]
    fn replicas3(&self, key: &Key) -> usize {
        let chosen = ConsistentChooseKHasher::new(hasher(key), self.nodes.len()).take(3);
        chosen.map(|node| address(self.nodes[node])).fold(0, usize::wrapping_add)
    }
}
