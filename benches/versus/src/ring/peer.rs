//! What a ring, or an algorithm that does a ring's work, is asked to do.

use std::net::{Ipv4Addr, SocketAddr};

/// Virtual nodes for each node, for all peers that have virtual nodes.
pub const VIRTUAL_NODES: usize = 160;

/// A key of 16 bytes. Peers that hash any `std::hash::Hash` get it as an integer: one write to
/// their hasher, which is the fastest form for them. Peers that hash bytes get the bytes.
///
/// Keys stand in memory, like keys that come with requests.
pub struct Key([u8; 16]);

impl Key {
    /// Returns the key of this number.
    #[inline]
    pub fn new(number: u128) -> Self {
        Self(number.to_le_bytes())
    }

    /// Returns the key as bytes.
    #[inline]
    pub fn bytes(&self) -> &[u8; 16] {
        &self.0
    }

    /// Returns the key as a number.
    #[inline]
    pub fn number(&self) -> u128 {
        u128::from_le_bytes(self.0)
    }
}

/// A fast hash with a fixed seed, for all peers that let their users choose: two multiplications a
/// key.
pub type FastHash = foldhash::fast::FixedState;

/// A member. Its name is `'static`, so that peers that borrow their nodes can be kept like all
/// others.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Member {
    /// `node-0`, `node-1` and so on.
    pub name: &'static str,
    /// Its address, for peers that place addresses rather than names.
    pub address: SocketAddr,
}

/// Returns the first `count` members.
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
    /// All work, in the order of the table.
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

    /// Its name in the table.
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

    /// Unit of the figure.
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
    /// It takes part.
    Takes,
    /// It has no such function.
    Lacks,
    /// It could take part, but is not asked to, for this reason.
    Spared(&'static str),
}

/// One implementation. Functions of work in which it takes no part are never called.
pub trait Peer: Sized + 'static {
    /// The crate's name; a second set-up of the same crate has a name of its own.
    const NAME: &'static str;

    /// Whether it takes part in this work at this size.
    fn part(what: What, nodes: usize) -> Part;

    /// Builds a ring of these members.
    fn build(members: &[Member]) -> Self;

    /// Returns the key's owner: an index or an address, anything that cannot be known without
    /// finding the owner.
    fn owner(&self, key: &Key) -> usize;

    /// Returns the owners of many keys, added up.
    fn owners(&self, _keys: &[Key]) -> usize {
        unreachable!("{} has no batches", Self::NAME)
    }

    /// Returns three distinct nodes for the key, added up.
    fn replicas3(&self, _key: &Key) -> usize {
        unreachable!("{} has no replicas", Self::NAME)
    }

    /// Returns three nodes of distinct zones, added up; the members are spread over three zones.
    fn replicas3_zones(&self, _key: &Key) -> usize {
        unreachable!("{} has no zones", Self::NAME)
    }

    /// Returns the owners, added up, each looked up while another thread may publish a new ring at
    /// any time.
    fn shared_owners(&self, _keys: &[Key]) -> usize {
        unreachable!("{} isn't shared", Self::NAME)
    }

    /// Adds a member.
    fn add(&mut self, _member: Member) {
        unreachable!("{} can't grow", Self::NAME)
    }

    /// Removes the member that was added last.
    fn remove(&mut self, _member: Member) {
        unreachable!("{} can't shrink", Self::NAME)
    }

    /// Returns the number of ranges that move when `after` replaces this ring. Each range is looked
    /// at.
    fn plan(&self, _after: &Self) -> usize {
        unreachable!("{} can't plan", Self::NAME)
    }

    /// Builds a ring of these members, a tenth of which differ from this ring's.
    fn changed(&self, members: &[Member]) -> Self {
        Self::build(members)
    }

    /// Does the same as `movement` if `after` differs only by `newcomer`.
    fn plan_join(&self, after: &Self, _newcomer: Member) -> usize {
        self.plan(after)
    }

    /// Number of tokens, if it can be known.
    fn tokens(&self) -> usize {
        unreachable!("{} has no tokens", Self::NAME)
    }

    /// The largest share of a member over the mean, if it can be known exactly; otherwise keys are
    /// counted.
    fn max_over_mean(&self) -> Option<f64> {
        None
    }
}

/// Returns the largest value over the mean.
pub fn ratio(shares: impl IntoIterator<Item = f64>) -> f64 {
    let (mut max, mut sum, mut count) = (0_f64, 0_f64, 0_f64);
    for share in shares {
        max = max.max(share);
        sum += share;
        count += 1.0;
    }
    max * count / sum
}

/// Returns the address of a value, to stand for the value.
#[inline]
pub fn address<T: ?Sized>(thing: &T) -> usize {
    std::ptr::from_ref(thing).addr()
}
