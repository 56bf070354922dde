//! What a seed of the cluster's world draws before anything happens.

use std::{sync::OnceLock, time::Duration};

use fastrand::Rng;
use ringpact::{
    HashRing, Policy,
    ring::{KeyHasher, Position},
};
use serde::{Deserialize, Serialize};

use crate::plan::{Disk, Network};

const MS: fn(u64) -> Duration = Duration::from_millis;

/// Services, whose shards are on each node.
pub const SERVICES: [&str; 2] = ["goods", "accounts"];

/// Names of all nodes that there ever are.
pub const NODES: [&str; 5] = ["n0", "n1", "n2", "n3", "n4"];

/// Number of keys of each service.
pub const KEYS: u32 = 20;

/// A process on a machine of its own, with one log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SitePlan {
    /// What it coordinates, if it does.
    pub seat: Option<Seat>,
    /// The node whose shards it has, if it has some.
    pub node: Option<usize>,
}

/// A coordinator of the cluster's transactions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seat {
    /// It keeps the ring.
    Keeper,
    /// It follows the keeper.
    Follower,
}

/// When what a shard does becomes durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// At each save, as a copy of the memory.
    InMemory,
    /// At once, as in a database.
    AtOnce,
}

/// How the keeper reaches shards of its own process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Near {
    Local,
    Slow,
}

#[derive(Clone, Debug)]
pub struct Plan {
    /// The keeper's is the first.
    pub sites: Vec<SitePlan>,
    pub near: Near,
    /// Whether coordinators reach shards by production's messages, instead of the world's own.
    pub by_messages: [bool; 2],
    /// Number of nodes of the first ring.
    pub first: usize,
    pub virtual_nodes: u32,
    pub kinds: [Kind; SERVICES.len()],
    pub clients: usize,
    pub transfers: usize,
    pub pause: Duration,
    pub changes: usize,
    /// Nothing goes wrong.
    pub is_calm: bool,
    /// Clients stop in the middle of a transaction for long, once in this number of times.
    pub dawdles: u32,
    pub policy: Policy,
    pub checkpoint_every: usize,
    pub seal_after: Duration,
    pub network: Network,
    pub disk: Disk,
    pub crash_at_message: u32,
    pub crash_at_io: u32,
    /// A shard crashes when it has promised to give ranges away, once in this number of times.
    pub crash_at_promise: u32,
    /// A host crashes when a change is over, once in this number of times.
    pub crash_after_change: u32,
    pub longest_down: Duration,
    pub mishaps_every: Option<Duration>,
    pub shard_fails: u32,
    /// Time for an answer of a shard.
    pub answer_within: Duration,
    /// Maximum number of bytes of a chunk.
    pub chunk_bytes: u64,
}

impl Plan {
    pub fn draw(random: &mut Rng, is_mutated: bool) -> Self {
        let is_near = !is_mutated && random.u8(..3) == 0;
        let nodes = random.usize(3..=NODES.len());
        let first = random.usize(2..nodes);
        let keeper = SitePlan { seat: Some(Seat::Keeper), node: is_near.then_some(0) };
        let mut sites = vec![keeper];
        let apart = usize::from(is_near)..nodes;
        sites.extend(apart.map(|node| SitePlan { seat: None, node: Some(node) }));
        if random.bool() || is_mutated {
            sites.push(SitePlan { seat: Some(Seat::Follower), node: None });
        }
        let is_calm = random.u8(..8) == 0;
        let mut often = |choices: &[u32]| if is_calm { 0 } else { choices[random.usize(..choices.len())] };
        let network = Network {
            fastest: Duration::from_micros(50),
            slowest: MS(2),
            lost: often(&[0, 100, 25]),
            doubled: often(&[0, 40, 8]),
            late: often(&[0, 60, 15]),
        };
        let disk = Disk {
            sync: MS(1),
            slow: often(&[0, 400, 80]),
            fails: often(&[0, 0, 0, 400]),
            full: often(&[0, 0, 0, 400]),
        };
        let crash_at_message = often(&[0, 0, 600, 150]);
        let crash_at_io = often(&[0, 0, 600, 150]);
        let (crash_at_promise, crash_after_change) = (often(&[0, 20, 4]), often(&[0, 3, 1]));
        let shard_fails = often(&[0, 0, 50, 15]);
        let mishaps_every = [None, Some(MS(500)), Some(MS(100))][often(&[0, 1, 2]) as usize];
        let mut kind = || if random.bool() { Kind::InMemory } else { Kind::AtOnce };
        Self {
            sites,
            first,
            is_calm,
            network,
            disk,
            crash_at_message,
            crash_at_io,
            crash_at_promise,
            crash_after_change,
            shard_fails,
            mishaps_every,
            kinds: [kind(), kind()],
            near: if random.bool() { Near::Local } else { Near::Slow },
            by_messages: [(); 2].map(|()| random.bool() && !is_mutated),
            virtual_nodes: random.u32(1..=3),
            clients: random.usize(2..=5),
            transfers: random.usize(4..=12),
            pause: MS([2, 20, 60][random.usize(..3)]),
            changes: random.usize(1..=4),
            dawdles: [0, 20, 6][random.usize(..3)],
            policy: Policy::default()
                .prepare_timeout(MS([50, 300, 1_000][random.usize(..3)]))
                .delivery_timeout(MS([30, 200][random.usize(..2)]))
                .first_backoff(MS(2))
                .longest_backoff(MS([10, 300][random.usize(..2)]))
                .transaction_timeout(MS([10_000, 2_000, 300][random.usize(..3)]))
                .park_after_attempts([u32::MAX, 5][random.usize(..2)]),
            checkpoint_every: [1, 3, 10, 1_000][random.usize(..4)],
            seal_after: [MS(5), MS(50), Duration::MAX][random.usize(..3)],
            longest_down: MS([5, 100, 600][random.usize(..3)]),
            answer_within: MS([40, 300, 1_000][random.usize(..3)]),
            chunk_bytes: [40, 120, 1 << 20][random.usize(..3)],
        }
    }

    /// The ring with which the cluster begins.
    pub fn first_ring(&self) -> HashRing {
        ring_of(self.virtual_nodes, &NODES[..self.first])
    }

    /// Number of nodes that there are.
    pub fn nodes(&self) -> usize {
        self.sites.iter().filter(|site| site.node.is_some()).count()
    }

    pub fn site_of(&self, node: &str) -> Option<usize> {
        self.sites.iter().position(|site| site.node.is_some_and(|number| NODES[number] == node))
    }
}

fn ring_of(virtual_nodes: u32, nodes: &[&str]) -> HashRing {
    let ring = HashRing::builder().virtual_nodes(virtual_nodes).nodes(nodes.iter().copied()).build();
    ring.expect("the names are different")
}

/// Positions at which mistakes show: around 0 and the middle, equal ones, and those of virtual nodes, where ranges begin and end.
fn places() -> &'static [u64; KEYS as usize] {
    static PLACES: OnceLock<[u64; KEYS as usize]> = OnceLock::new();
    PLACES.get_or_init(|| {
        let fixed = [0, u64::MAX, 1, 1 << 63, 7 << 61, 7 << 61];
        let ring = ring_of(3, &NODES);
        let tokens: Vec<_> = ring.tokens().map(|token| token.position.as_u64()).collect();
        let ends = tokens.iter().step_by(3).take(4).flat_map(|end| [*end, end.wrapping_add(1)]);
        let mut places = fixed.into_iter().chain(ends).collect::<Vec<_>>();
        places.extend((0..).map(|spread: u64| (spread + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15)).take(KEYS as usize));
        places.truncate(KEYS as usize);
        places.try_into().expect("as many as there are keys")
    })
}

/// Has keys at [`places`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Places;

impl KeyHasher for Places {
    fn hash_key(&self, key: &[u8]) -> Position {
        let key = key.try_into().map(u32::from_le_bytes).unwrap_or_default();
        Position::new(places()[(key % KEYS) as usize])
    }
}

pub fn position(key: u32) -> Position {
    Places.hash_key(&key.to_le_bytes())
}
