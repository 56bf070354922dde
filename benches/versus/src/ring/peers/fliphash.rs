//! fliphash: not a ring. Constant time and no memory, but nodes are numbers, and only the last one
//! can leave.

use std::hash::BuildHasher;

use fliphash::fliphash_64;

use crate::ring::peer::{FastHash, Key, Member, Part, Peer, What, address};

pub struct Flip {
    nodes: Vec<&'static str>,
}

impl Peer for Flip {
    const NAME: &'static str = "fliphash";

    fn part(what: What, _nodes: usize) -> Part {
        match what {
            What::Lookup | What::LookupDependent | What::MaxOverMean => Part::Takes,
            What::AddNode | What::RemoveNode => {
                Part::Spared("changes of fliphash: there is only a number to change, and only the last node may leave")
            }
            _ => Part::Lacks,
        }
    }

    fn build(members: &[Member]) -> Self {
        Self { nodes: members.iter().map(|member| member.name).collect() }
    }

    /// It takes an integer, and leaves hashing the key to the caller.
    #[inline(always)]
    fn owner(&self, key: &Key) -> usize {
        let hash = FastHash::default().hash_one(key.number());
        address(self.nodes[fliphash_64(hash, ..=self.nodes.len() as u64 - 1) as usize])
    }
}
