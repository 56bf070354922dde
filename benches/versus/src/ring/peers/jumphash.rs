//! jumphash: not a ring. No memory at all, but nodes are numbers, and only the last one can leave.

use std::hash::BuildHasher;

use jumphash::CustomJumpHasher;

use crate::ring::peer::{FastHash, Key, Member, Part, Peer, What, address};

type Hasher = <FastHash as BuildHasher>::Hasher;

pub struct Jump {
    jump: CustomJumpHasher<Hasher>,
    nodes: Vec<&'static str>,
}

impl Peer for Jump {
    const NAME: &'static str = "jumphash";

    fn part(what: What, _nodes: usize) -> Part {
        match what {
            What::Lookup | What::LookupDependent | What::MaxOverMean => Part::Takes,
            What::AddNode | What::RemoveNode => {
                Part::Spared("changes of jumphash: there is only a number to change, and only the last node may leave")
            }
            _ => Part::Lacks,
        }
    }

    fn build(members: &[Member]) -> Self {
        let jump = CustomJumpHasher::new(FastHash::default().build_hasher());
        Self { jump, nodes: members.iter().map(|member| member.name).collect() }
    }

    #[inline(always)]
    fn owner(&self, key: &Key) -> usize {
        address(self.nodes[self.jump.slot(&key.number(), self.nodes.len() as u32) as usize])
    }
}
