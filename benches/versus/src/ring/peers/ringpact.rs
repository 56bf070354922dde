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
    /// The same nodes, spread over three zones; made when first asked for as well.
    zoned: OnceCell<HashRing>,
}

const ZONES: [&str; 3] = ["eu-1", "eu-2", "eu-3"];

fn ring_of(nodes: impl Iterator<Item = Node>) -> HashRing {
    let ring = HashRing::builder().virtual_nodes(VIRTUAL_NODES as u32).nodes(nodes).build();
    ring.expect("the names are valid and distinct")
}

impl Peer for Ringpact {
    const NAME: &'static str = "ringpact";

    fn part(_what: What, _nodes: usize) -> Part {
        Part::Takes
    }

    fn build(members: &[Member]) -> Self {
        let ring = ring_of(members.iter().map(|member| Node::new(member.name)));
        Self { ring, reader: OnceCell::new(), zoned: OnceCell::new() }
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

    #[inline]
    fn replicas3_zones(&self, key: Key) -> usize {
        let ring = self.zoned.get_or_init(|| {
            let nodes = self.ring.nodes().iter().zip(ZONES.iter().cycle());
            ring_of(nodes.map(|(node, zone)| node.clone().with_zone(*zone)))
        });
        ring.replicas_across_zones(key.bytes()).take(3).map(address).fold(0, usize::wrapping_add)
    }

    fn add(&mut self, member: Member) {
        self.ring.add(member.name).expect("the name is new");
    }

    fn remove(&mut self, member: Member) {
        self.ring.remove(member.name).expect("it was added before");
    }

    /// Before the newcomer is in, and without a ring that has it.
    fn plan_join(&self, _after: &Self, newcomer: Member) -> usize {
        let newcomer = Node::new(newcomer.name);
        let movement = self.ring.plan_join(&newcomer).expect("the name is new");
        movement.ranges().iter().map(|moved| usize::from(moved.from.id() != moved.to.id())).sum()
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
