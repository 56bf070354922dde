//! This repository's ring, with hashed tokens and with balanced ones.

use std::{
    cell::{OnceCell, RefCell},
    collections::{HashMap, HashSet},
    sync::Arc,
};

use ringpact::ring::{HashRing, Node, Placement, ReplicaIndex, RingKey, RingReader, SharedRing};

use crate::ring::peer::{Key, Member, Part, Peer, VIRTUAL_NODES, What, address, ratio};

pub struct Ringpact<const BALANCED: bool> {
    ring: HashRing,
    /// Kept apart from the ring: next to cells, the ring's fields could not stay in registers from
    /// one look-up to the next.
    made: Box<Made>,
}

/// What is derived from a ring when it is first asked for.
#[derive(Default)]
struct Made {
    /// A shared ring, made of a copy.
    reader: OnceCell<RefCell<RingReader>>,
    /// Replicas worked out beforehand, for a service that asks for them at each request.
    index: OnceCell<Index>,
    /// The same, with the nodes spread over three zones.
    zoned: OnceCell<Index>,
}

type Index = ReplicaIndex<Arc<HashRing>>;

const ZONES: [&str; 3] = ["eu-1", "eu-2", "eu-3"];

/// Virtual nodes of the balanced ring: each of its tokens is worth several hashed ones.
const BALANCED_TOKENS: u32 = 64;

impl RingKey for Key {
    type Bytes<'a> = &'a [u8; 16];

    #[inline]
    fn key_bytes(&self) -> &[u8; 16] {
        self.bytes()
    }
}

fn ring_of<const BALANCED: bool>(nodes: impl Iterator<Item = Node>) -> HashRing {
    let builder = HashRing::builder().nodes(nodes);
    let ring = if BALANCED {
        builder.placement(Placement::Balanced).virtual_nodes(BALANCED_TOKENS).build()
    } else {
        builder.virtual_nodes(VIRTUAL_NODES as u32).build()
    };
    ring.expect("the names are valid and distinct")
}

impl<const BALANCED: bool> Peer for Ringpact<BALANCED> {
    const NAME: &'static str = if BALANCED { "ringpact-balanced" } else { "ringpact" };

    fn part(_what: What, _nodes: usize) -> Part {
        Part::Takes
    }

    fn build(members: &[Member]) -> Self {
        let ring = ring_of::<BALANCED>(members.iter().map(|member| Node::new(member.name)));
        Self { ring, made: Box::default() }
    }

    #[inline(always)]
    fn owner(&self, key: &Key) -> usize {
        address(self.ring.owner(key.bytes()))
    }

    fn owners(&self, keys: &[Key]) -> usize {
        const BATCH: usize = 1_024;
        let (mut owners, mut sum) = (Vec::with_capacity(BATCH), 0_usize);
        for keys in keys.chunks(BATCH) {
            owners.clear();
            self.ring.owners(keys, &mut owners);
            sum = owners.iter().fold(sum, |sum, node| sum.wrapping_add(address(*node)));
        }
        sum
    }

    /// Asks for the current version at each look-up, as a server would do at each request.
    fn shared_owners(&self, keys: &[Key]) -> usize {
        let reader = self.made.reader.get_or_init(|| RefCell::new(SharedRing::new(self.ring.clone()).reader()));
        let mut reader = reader.borrow_mut();
        keys.iter().fold(0, |sum: usize, key| sum.wrapping_add(address(reader.current().owner(key.bytes()))))
    }

    #[inline(always)]
    fn replicas3(&self, key: &Key) -> usize {
        let index = self.made.index.get_or_init(|| ReplicaIndex::new(Arc::new(self.ring.clone()), 3));
        index.replicas(key.bytes()).map(address).fold(0, usize::wrapping_add)
    }

    #[inline(always)]
    fn replicas3_zones(&self, key: &Key) -> usize {
        let index = self.made.zoned.get_or_init(|| {
            let nodes = self.ring.nodes().iter().zip(ZONES.iter().cycle());
            let ring = ring_of::<BALANCED>(nodes.map(|(node, zone)| node.clone().with_zone(*zone)));
            ReplicaIndex::across_zones(Arc::new(ring), 3)
        });
        index.replicas(key.bytes()).map(address).fold(0, usize::wrapping_add)
    }

    fn add(&mut self, member: Member) {
        self.ring.add(member.name).expect("the name is new");
    }

    fn remove(&mut self, member: Member) {
        self.ring.remove(member.name).expect("it was added before");
    }

    /// Balanced tokens depend on how the ring came about, so two rings that are built apart have
    /// nothing in common. Therefore this is the ring after members have left, one after the other,
    /// and others have joined.
    fn changed(&self, members: &[Member]) -> Self {
        if !BALANCED {
            return Self::build(members);
        }
        let staying: HashSet<_> = members.iter().map(|member| member.name).collect();
        let present: HashSet<_> = self.ring.nodes().iter().map(|node| node.id().as_str()).collect();
        let mut ring = self.ring.clone();
        let leaving = self.ring.nodes().iter().filter(|node| !staying.contains(node.id().as_str()));
        let joining = members.iter().filter(|member| !present.contains(member.name));
        for (leaves, joins) in leaving.zip(joining) {
            ring.remove(leaves.id()).expect("it is a member");
            ring.add(joins.name).expect("the name is new");
        }
        Self { ring, made: Box::default() }
    }

    /// Plans before the newcomer is in, and without a ring that has it.
    fn plan_join(&self, _after: &Self, newcomer: Member) -> usize {
        let newcomer = Node::new(newcomer.name);
        let movement = self.ring.plan_join(&newcomer).expect("the name is new");
        movement.ranges().iter().map(|moved| usize::from(moved.range.start != moved.range.end)).sum()
    }

    fn plan(&self, after: &Self) -> usize {
        let movement = self.ring.movement(&after.ring).expect("both hash alike");
        movement.ranges().iter().map(|moved| usize::from(moved.range.start != moved.range.end)).sum()
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
