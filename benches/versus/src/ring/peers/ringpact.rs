//! This repository's ring, with hashed tokens.

use std::{
    cell::{OnceCell, RefCell},
    collections::HashMap,
};

use ringpact::ring::{HashRing, Node, RingReader, SharedRing};

use crate::ring::peer::{Key, Member, Part, Peer, VIRTUAL_NODES, What, address, ratio};

pub struct Ringpact {
    ring: HashRing,
    /// Made when first asked for, since it is a copy.
    reader: OnceCell<RefCell<RingReader>>,
}

impl Peer for Ringpact {
    const NAME: &'static str = "ringpact";

    fn part(what: What, _nodes: usize) -> Part {
        match what {
            What::Replicas3Zones => Part::Lacks,
            _ => Part::Takes,
        }
    }

    fn build(members: &[Member]) -> Self {
        let nodes = members.iter().map(|member| Node::new(member.name));
        let ring = HashRing::builder().virtual_nodes(VIRTUAL_NODES as u32).nodes(nodes).build();
        Self { ring: ring.expect("the names are valid and distinct"), reader: OnceCell::new() }
    }

    #[inline]
    fn owner(&self, key: Key) -> usize {
        address(self.ring.owner(key.bytes()))
    }

    fn owners(&self, keys: &[Key]) -> usize {
        const BATCH: usize = 1_024;
        let (mut batch, mut owners) = (Vec::with_capacity(BATCH), Vec::with_capacity(BATCH));
        let mut sum = 0_usize;
        for keys in keys.chunks(BATCH) {
            batch.clear();
            batch.extend(keys.iter().map(|key| key.bytes()));
            owners.clear();
            self.ring.owners(&batch, &mut owners);
            sum = owners.iter().fold(sum, |sum, node| sum.wrapping_add(address(*node)));
        }
        sum
    }

    /// Asks for the current version at each look-up, as a server would at each request.
    fn shared_owners(&self, keys: &[Key]) -> usize {
        let reader = self.reader.get_or_init(|| RefCell::new(SharedRing::new(self.ring.clone()).reader()));
        let mut reader = reader.borrow_mut();
        keys.iter().fold(0, |sum: usize, key| sum.wrapping_add(address(reader.current().owner(key.bytes()))))
    }

    #[inline]
    fn replicas3(&self, key: Key) -> usize {
        self.ring.replicas(key.bytes()).take(3).map(address).fold(0, usize::wrapping_add)
    }

    fn add(&mut self, member: Member) {
        self.ring.add(member.name).expect("the name is new");
    }

    fn remove(&mut self, member: Member) {
        self.ring.remove(member.name).expect("it was added before");
    }

    fn plan(&self, after: &Self) -> usize {
        let movement = self.ring.movement(&after.ring).expect("both hash alike");
        movement.ranges().iter().map(|moved| usize::from(moved.from.id() != moved.to.id())).sum()
    }

    fn tokens(&self) -> usize {
        self.ring.token_count()
    }

    fn max_over_mean(&self) -> Option<f64> {
        let mut shares = HashMap::<&str, f64>::new();
        let mut before = self.ring.tokens().last()?.position.as_u64();
        for token in self.ring.tokens() {
            let position = token.position.as_u64();
            *shares.entry(token.node.id().as_str()).or_default() += position.wrapping_sub(before) as f64;
            before = position;
        }
        Some(ratio(shares.into_values()))
    }
}
