//! jump-back-hash: not a ring. Constant time and no memory, but nodes are numbers, and only the
//! last one can leave.

use std::hash::BuildHasher;

use jump_back_hash::bucket;
use rand_core::{Error, RngCore, impls};

use crate::ring::peer::{FastHash, Key, Member, Part, Peer, What, address};

pub struct JumpBack {
    nodes: Vec<&'static str>,
}

/// The generator, which the crate leaves to its caller: SplitMix64, as in its own tests.
struct SplitMix64(u64);

impl RngCore for SplitMix64 {
    #[inline(always)]
    fn next_u32(&mut self) -> u32 {
        self.next_u64() as u32
    }

    #[inline(always)]
    fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn fill_bytes(&mut self, bytes: &mut [u8]) {
        impls::fill_bytes_via_next(self, bytes);
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Error> {
        self.fill_bytes(bytes);
        Ok(())
    }
}

impl Peer for JumpBack {
    const NAME: &'static str = "jump-back-hash";

    fn part(what: What, _nodes: usize) -> Part {
        match what {
            What::Lookup | What::LookupDependent | What::MaxOverMean => Part::Takes,
            What::AddNode | What::RemoveNode => Part::Spared(
                "changes of jump-back-hash: there is only a number to change, and only the last node may leave",
            ),
            _ => Part::Lacks,
        }
    }

    fn build(members: &[Member]) -> Self {
        Self { nodes: members.iter().map(|member| member.name).collect() }
    }

    #[inline(always)]
    fn owner(&self, key: &Key) -> usize {
        let mut generator = SplitMix64(FastHash::default().hash_one(key.number()));
        address(self.nodes[bucket(&mut generator, self.nodes.len() as u32) as usize])
    }
}
