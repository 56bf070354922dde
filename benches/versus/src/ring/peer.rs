//! What a ring, or something that does a ring's work, is asked to do.

use std::net::{Ipv4Addr, SocketAddr};

/// Virtual nodes a node, for all who have the notion.
pub const VIRTUAL_NODES: usize = 160;

/// 16 bytes. Peers that hash any `std::hash::Hash` get it as an integer: one write to their hasher, which is the fastest
/// they can be given. Those that hash bytes get the bytes.
///
/// They stand in memory, as keys do that come with requests.
pub struct Key([u8; 16]);

impl Key {
    /// The key of this number.
    #[inline]
    pub fn new(number: u128) -> Self {
        Self(number.to_le_bytes())
    }

    /// As bytes.
    #[inline]
    pub fn bytes(&self) -> &[u8; 16] {
        &self.0
    }

    /// As a number.
    #[inline]
    pub fn number(&self) -> u128 {
        u128::from_le_bytes(self.0)
    }
}

/// A fast hash with a fixed seed, for all peers that let one choose: two multiplications for a key.
pub type FastHash = foldhash::fast::FixedState;

/// A member. Its name lives for ever, so that peers that borrow their nodes can be held like all others.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Member {
    /// `node-0`, `node-1` and so on.
    pub name: &'static str,
    /// For who places addresses rather than names.
    pub address: SocketAddr,
}

/// The first `count` members.
pub fn members(count: usize) -> Vec<Member> {
    (0..count as u32)
        .map(|number| Member {
            name: format!("node-{number}").leak(),
            address: SocketAddr::from((Ipv4Addr::from(0x0a00_0000 + number), 11211)),
        })
        .collect()
}

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    Lookup,
    LookupBatch,
    LookupDependent,
    Replicas3,
    Replicas3Zones,
    SharedLookup,
    Build,
    AddNode,
    RemoveNode,
    PlanJoin,
    PlanFull,
    BytesPerToken,
    MaxOverMean,
}

impl What {
    /// In the order of the table.
    pub const ALL: [Self; 13] = [
        Self::Lookup,
        Self::LookupBatch,
        Self::LookupDependent,
        Self::Replicas3,
        Self::Replicas3Zones,
        Self::SharedLookup,
        Self::Build,
        Self::AddNode,
        Self::RemoveNode,
        Self::PlanJoin,
        Self::PlanFull,
        Self::BytesPerToken,
        Self::MaxOverMean,
    ];

    /// As it is written in the table.
    pub fn name(self) -> &'static str {
        match self {
            Self::Lookup => "lookup",
            Self::LookupBatch => "lookup_batch",
            Self::LookupDependent => "lookup_dependent",
            Self::Replicas3 => "replicas3",
            Self::Replicas3Zones => "replicas3_zones",
            Self::SharedLookup => "shared_lookup",
            Self::Build => "build",
            Self::AddNode => "add_node",
            Self::RemoveNode => "remove_node",
            Self::PlanJoin => "plan_join",
            Self::PlanFull => "plan_full",
            Self::BytesPerToken => "bytes_per_token",
            Self::MaxOverMean => "max_over_mean",
        }
    }

    /// Of the figure.
    pub fn unit(self) -> &'static str {
        match self {
            Self::BytesPerToken => "bytes",
            Self::MaxOverMean => "ratio",
            _ => "ns",
        }
    }
}

/// Whether a peer takes part.
pub enum Part {
    /// It does.
    Takes,
    /// It has no such thing.
    Lacks,
    /// It could, but isn't asked to, for this reason.
    Spared(&'static str),
}

/// One implementation. What it doesn't take part in is never called.
pub trait Peer: Sized + 'static {
    /// The crate's name, and of a second set-up of the same crate, its own.
    const NAME: &'static str;

    /// Whether it does this at this size.
    fn part(what: What, nodes: usize) -> Part;

    /// A ring of these members, from nothing.
    fn build(members: &[Member]) -> Self;

    /// Who owns the key: an index or an address, anything that can't be known without finding the owner.
    fn owner(&self, key: &Key) -> usize;

    /// The owners of many keys, added up.
    fn owners(&self, _keys: &[Key]) -> usize {
        unreachable!("{} has no batches", Self::NAME)
    }

    /// Three distinct nodes for the key, added up.
    fn replicas3(&self, _key: &Key) -> usize {
        unreachable!("{} has no replicas", Self::NAME)
    }

    /// Three nodes of distinct zones, the members being spread over three.
    fn replicas3_zones(&self, _key: &Key) -> usize {
        unreachable!("{} has no zones", Self::NAME)
    }

    /// The owners added up, each looked up while another thread could publish a new ring at any time.
    fn shared_owners(&self, _keys: &[Key]) -> usize {
        unreachable!("{} isn't shared", Self::NAME)
    }

    /// Takes a member in.
    fn add(&mut self, _member: Member) {
        unreachable!("{} can't grow", Self::NAME)
    }

    /// Lets the member go that was added last.
    fn remove(&mut self, _member: Member) {
        unreachable!("{} can't shrink", Self::NAME)
    }

    /// How many ranges move when this ring is replaced by `after`, each of them having been looked at.
    fn plan(&self, _after: &Self) -> usize {
        unreachable!("{} can't plan", Self::NAME)
    }

    /// A ring of these members, a tenth of which are others than this one's.
    fn changed(&self, members: &[Member]) -> Self {
        Self::build(members)
    }

    /// The same when nothing but `newcomer` is different in `after`.
    fn plan_join(&self, after: &Self, _newcomer: Member) -> usize {
        self.plan(after)
    }

    /// How many tokens there are.
    fn tokens(&self) -> usize {
        unreachable!("{} has no tokens", Self::NAME)
    }

    /// The largest share of a member over the mean, if it can be known exactly. Else keys are counted.
    fn max_over_mean(&self) -> Option<f64> {
        None
    }
}

/// Largest over mean.
pub fn ratio(shares: impl IntoIterator<Item = f64>) -> f64 {
    let (mut max, mut sum, mut count) = (0_f64, 0_f64, 0_f64);
    for share in shares {
        max = max.max(share);
        sum += share;
        count += 1.0;
    }
    max * count / sum
}

/// Where something is, to stand for it.
#[inline]
pub fn address<T: ?Sized>(thing: &T) -> usize {
    std::ptr::from_ref(thing).addr()
}
