//! anchorhash: not a ring. A few bytes a node, and perfect balance. But placement depends on the
//! order of changes, and the capacity is fixed, here to a tenth above the number of nodes.

use anchorhash::{AnchorHash, Builder};

use crate::ring::peer::{FastHash, Key, Member, Part, Peer, What, address};

pub struct Anchor {
    anchor: AnchorHash<u128, &'static str, FastHash>,
}

impl Peer for Anchor {
    const NAME: &'static str = "anchorhash";

    fn part(what: What, _nodes: usize) -> Part {
        match what {
            What::Lookup
            | What::LookupDependent
            | What::Build
            | What::AddNode
            | What::RemoveNode
            | What::MaxOverMean => Part::Takes,
            _ => Part::Lacks,
        }
    }

    fn build(members: &[Member]) -> Self {
        let capacity = members.len() + members.len() / 10 + 1;
        let resources = members.iter().map(|member| member.name);
        Self { anchor: Builder::with_hasher(FastHash::default()).with_resources(resources).build(capacity as u16) }
    }

    #[inline(always)]
    fn owner(&self, key: &Key) -> usize {
        self.anchor.get_resource(key.number()).map_or(0, |resource| address(*resource))
    }

    fn add(&mut self, member: Member) {
        self.anchor.add_resource(member.name).expect("there is room for one more");
    }

    fn remove(&mut self, member: Member) {
        self.anchor.remove_resource(&member.name).expect("it was added before");
    }
}
