//! The hash of a key and nothing else: no ring can be faster.

use ringpact::ring::{KeyHasher, Xxh3};

use crate::ring::peer::{Key, Member, Part, Peer, What};

pub struct BareHash;

impl Peer for BareHash {
    const NAME: &'static str = "bare-hash";

    fn part(what: What, _nodes: usize) -> Part {
        match what {
            What::Lookup | What::LookupDependent => Part::Takes,
            _ => Part::Lacks,
        }
    }

    fn build(_members: &[Member]) -> Self {
        Self
    }

    #[inline(always)]
    fn owner(&self, key: &Key) -> usize {
        Xxh3::default().hash_key(key.bytes()).as_u64() as usize
    }
}
