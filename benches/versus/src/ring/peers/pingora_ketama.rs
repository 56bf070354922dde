//! pingora-ketama: a sorted slice and a binary search over 32-bit points, nginx's placement. It is
//! rebuilt for any change. Both of its versions: V1, the default, is nginx's; V2 has smaller points
//! and another sort.

use std::net::SocketAddr;

use pingora_ketama::{Bucket, Continuum, Version};

use crate::ring::peer::{Key, Member, Part, Peer, VIRTUAL_NODES, What, address};

pub struct Ketama<const V2: bool> {
    buckets: Vec<Bucket>,
    continuum: Continuum,
}

impl<const V2: bool> Ketama<V2> {
    fn continuum(buckets: &[Bucket]) -> Continuum {
        let version = if V2 { Version::V2 { point_multiple: VIRTUAL_NODES as u32 } } else { Version::V1 };
        Continuum::new_with_version(buckets, version)
    }
}

impl<const V2: bool> Peer for Ketama<V2> {
    const NAME: &'static str = if V2 { "pingora-ketama-v2" } else { "pingora-ketama" };

    fn part(what: What, _nodes: usize) -> Part {
        match what {
            What::Lookup
            | What::LookupDependent
            | What::Replicas3
            | What::Build
            | What::AddNode
            | What::RemoveNode
            | What::BytesPerToken
            | What::MaxOverMean => Part::Takes,
            _ => Part::Lacks,
        }
    }

    fn build(members: &[Member]) -> Self {
        let buckets: Vec<_> = members.iter().map(|member| Bucket::new(member.address, 1)).collect();
        Self { continuum: Self::continuum(&buckets), buckets }
    }

    #[inline(always)]
    fn owner(&self, key: &Key) -> usize {
        let mut point = self.continuum.node_idx(key.bytes());
        self.continuum.get_addr(&mut point).map_or(0, address)
    }

    /// Its iterator repeats nodes, so a caller that wants distinct ones has to compare.
    #[inline(always)]
    fn replicas3(&self, key: &Key) -> usize {
        let mut found: [Option<&SocketAddr>; 3] = [None; 3];
        let (mut point, mut count) = (self.continuum.node_idx(key.bytes()), 0);
        while count < 3 {
            let node = self.continuum.get_addr(&mut point);
            if !found[..count].contains(&node) {
                found[count] = node;
                count += 1;
            }
        }
        found.into_iter().flatten().map(address).fold(0, usize::wrapping_add)
    }

    fn add(&mut self, member: Member) {
        self.buckets.push(Bucket::new(member.address, 1));
        self.continuum = Self::continuum(&self.buckets);
    }

    fn remove(&mut self, _member: Member) {
        self.buckets.pop();
        self.continuum = Self::continuum(&self.buckets);
    }

    /// It drops points that collide, and does not tell how many are left. With 32 bits less than
    /// one thousandth collide.
    fn tokens(&self) -> usize {
        self.buckets.len() * VIRTUAL_NODES
    }
}
