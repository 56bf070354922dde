//! The members that a ring had.

use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, SystemTime},
};

use serde::{Deserialize, Serialize};

use super::LookBack;
use crate::ring::{HashRing, HeldRing, KeyHasher, Node, Placement, RingError, RingKey, hash_ring::checked_members};

/// Maximum number of versions in a [`RingHistory`]. A version takes about 40 bytes for each node, so
/// a history of 1,000 nodes stays below 42 MB.
pub const MAX_HISTORY: usize = 1_024;

/// Version number of the serialised form of a [`RingHistory`].
pub const HISTORY_FORMAT_VERSION: u32 = 1;

/// The members that a ring had within a window of time, for reads that must find what a tenant wrote
/// to nodes that it no longer uses. It is plain data: a clone shares the members.
///
/// When a node joins or leaves, a tenant's [subset](super::Subset) may exchange a node. What was
/// written before is still on the old one. [`subset`](Self::subset) returns the tenant's nodes with
/// those that it had in any version of the window ([`LookBack`]).
///
/// The window is as long as reads go back without asking elsewhere, and a bit more, because a writer
/// may still use a version just after the next was published.
///
/// Why a list of versions, and not a time of joining in each node, as dskit has it
/// (`ShuffleShardWithLookback`): the versions are what a [`SharedRing`](crate::ring::SharedRing) makes
/// anyway, so nothing is added to nodes. They say exactly which nodes a tenant had, also after a
/// node left, changed its weight or zone, or began to drain; a time of joining says only which nodes
/// it may not have had. Old rings themselves are not kept, because a choice needs no tokens.
///
/// Time is an argument: the system's time, so that a history can be saved and go on after a restart,
/// or on another machine. An earlier time than that of the latest version counts as that one.
///
/// ```
/// use std::time::{Duration, SystemTime};
/// use ringpact::ring::{HashRing, RingHistory, SharedRing};
///
/// let now = SystemTime::now();
/// let hours = |hours: u64| Duration::from_secs(hours * 3_600);
/// let shared = SharedRing::new(HashRing::new(["a", "b", "c", "d"])?);
/// let mut history = RingHistory::new(hours(12));
/// history.record(&shared.load(), now)?;
///
/// // A node leaves the tenant's subset, because others join:
/// let old = shared.load().subset("tenant-7", 2)?.nodes().map(|node| node.id().clone()).collect::<Vec<_>>();
/// for n in 0..40 {
///     let change = shared.update(|ring| ring.add(format!("late-{n}")))?;
///     history.record(&change.after, now + hours(1))?;
/// }
///
/// // It is read for as long as the window lasts:
/// let reads = history.subset(shared.load(), "tenant-7", 2, now + hours(2))?;
/// assert!(old.iter().all(|id| reads.nodes().any(|node| node.id() == id)));
/// let reads = history.subset(shared.load(), "tenant-7", 2, now + hours(14))?;
/// assert_eq!(reads.nodes().count(), 2);
/// # Ok::<(), ringpact::ring::RingError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Form", into = "Form")]
pub struct RingHistory {
    window: Duration,
    /// The oldest first. Each was current from its own time to that of the next.
    versions: VecDeque<PastVersion>,
}

/// What a choice needs of a version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PastVersion {
    since: SystemTime,
    pub(super) placement: Placement,
    pub(super) virtual_nodes: u32,
    /// Sorted by id.
    pub(super) nodes: Arc<[Node]>,
}

impl RingHistory {
    /// Returns a history without versions.
    #[must_use]
    pub fn new(window: Duration) -> Self {
        Self { window, versions: VecDeque::new() }
    }

    /// Returns how far back the history goes.
    #[must_use]
    pub fn window(&self) -> Duration {
        self.window
    }

    /// Returns the number of versions in the history.
    #[must_use]
    pub fn versions(&self) -> usize {
        self.versions.len()
    }

    /// Notes that `ring` is the current version from `now` on, and forgets what is beyond the
    /// window. Does nothing else if its members are those of the latest version. O(N).
    ///
    /// All versions belong to one ring, with one hasher. Record the first version, too.
    ///
    /// # Errors
    ///
    /// [`RingError::HistoryFull`] if [`MAX_HISTORY`] versions are within the window. The version is
    /// then not recorded.
    pub fn record<H>(&mut self, ring: &HashRing<H>, now: SystemTime) -> Result<(), RingError> {
        let since = self.versions.back().map_or(now, |latest| now.max(latest.since));
        let outdated = self.versions.len() - self.within(since).count();
        let is_same = self.versions.back().is_some_and(|latest| {
            *latest.nodes == *ring.nodes()
                && (latest.placement, latest.virtual_nodes) == (ring.placement(), ring.virtual_nodes())
        });
        if !is_same && self.versions.len() - outdated >= MAX_HISTORY {
            return Err(RingError::HistoryFull);
        }
        self.versions.drain(..outdated);
        if !is_same {
            let (placement, virtual_nodes, nodes) = (ring.placement(), ring.virtual_nodes(), ring.nodes().into());
            self.versions.push_back(PastVersion { since, placement, virtual_nodes, nodes });
        }
        Ok(())
    }

    /// Returns the nodes that a tenant uses in `ring`, with those that it used in any version of the
    /// window before `now`; see [`LookBack`].
    ///
    /// `ring` is the version that the caller uses, recorded or not. If the tenant's size was larger
    /// within the window, pass the larger one: its nodes include those of a smaller one.
    ///
    /// O(V (W + N log N)) for V versions of N nodes of total weight W, so keep it for a while.
    ///
    /// # Errors
    ///
    /// [`RingError::EmptySubset`] if `size` is 0.
    pub fn subset<R: HeldRing<Hasher: KeyHasher>, K: RingKey>(
        &self,
        ring: R,
        tenant: K,
        size: usize,
        now: SystemTime,
    ) -> Result<LookBack<R>, RingError> {
        let tenant = ring.ring().position(tenant);
        LookBack::new(ring, tenant, size, self.within(now).rev())
    }

    /// Returns the versions that were current at any time within the window before `now`.
    fn within(&self, now: SystemTime) -> impl DoubleEndedIterator<Item = &PastVersion> {
        let is_over = |end: &PastVersion| now.duration_since(end.since).is_ok_and(|ago| ago > self.window);
        // The version before the latest one that is over has ended by then, and so have all before.
        let outdated = self.versions.iter().skip(1).take_while(|next| is_over(next)).count();
        self.versions.iter().skip(outdated)
    }
}

/// The wire form.
#[derive(Serialize, Deserialize)]
#[serde(rename = "RingHistory", deny_unknown_fields)]
struct Form {
    format: u32,
    window: Duration,
    versions: Vec<VersionForm>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename = "Version", deny_unknown_fields)]
struct VersionForm {
    since: SystemTime,
    balanced: bool,
    virtual_nodes: u32,
    nodes: Vec<Node>,
}

impl From<RingHistory> for Form {
    fn from(history: RingHistory) -> Self {
        let versions = history.versions.into_iter().map(|version| VersionForm {
            since: version.since,
            balanced: version.placement == Placement::Balanced,
            virtual_nodes: version.virtual_nodes,
            nodes: version.nodes.to_vec(),
        });
        Self { format: HISTORY_FORMAT_VERSION, window: history.window, versions: versions.collect() }
    }
}

impl TryFrom<Form> for RingHistory {
    type Error = RingError;

    fn try_from(form: Form) -> Result<Self, RingError> {
        if form.format != HISTORY_FORMAT_VERSION {
            return Err(RingError::UnsupportedHistory { found: form.format });
        }
        if form.versions.len() > MAX_HISTORY {
            return Err(RingError::HistoryFull);
        }
        if form.versions.windows(2).any(|pair| pair[0].since > pair[1].since) {
            return Err(RingError::HistoryOutOfOrder);
        }
        let checked = form.versions.into_iter().map(|version| {
            let VersionForm { since, balanced, virtual_nodes, nodes } = version;
            let placement = if balanced { Placement::Balanced } else { Placement::Hashed };
            let members = checked_members(nodes, placement, virtual_nodes)?;
            Ok(PastVersion { since, placement, virtual_nodes, nodes: members.nodes().into() })
        });
        Ok(Self { window: form.window, versions: checked.collect::<Result<_, RingError>>()? })
    }
}
