//! [`ClusterCore`]: what the parts of a cluster share.

use std::{
    collections::BTreeSet,
    future::Future,
    pin::pin,
    sync::Arc,
    task::{Context, Wake, Waker},
    time::Duration,
};

use parking_lot::Mutex;

use super::{ClusterError, directory::Directory};
use crate::{
    participant::{ExecuteError, ResourceManager},
    platform::{Condvar, Mailbox, Platform},
    ring::NodeId,
    sharding::{
        keeper::{Control, KeeperRefusal, RingState, RingTable, RingWork},
        mover::Mover,
    },
    txn::{BranchError, Delivered, Transaction},
};

/// The keeper's name as a participant.
pub(in crate::sharding) const KEEPER: &str = "ring";

/// Maximum time that a change waits for nodes that have left and are to join again.
const LEFT_WITHIN: Duration = Duration::from_secs(5);

/// Maximum time that a step waits for others that are being taken.
const CONTROL_WITHIN: Duration = Duration::from_secs(5);

/// The process that keeps the ring: the directory that it shares with its clients, the keeper, and the
/// mover.
pub(in crate::sharding) struct ClusterCore {
    pub(in crate::sharding) directory: Arc<Directory>,
    pub(in crate::sharding) keeper: Arc<ResourceManager<RingTable>>,
    pub(in crate::sharding) mover: Arc<Mover>,
    /// Whether a thread is starting a change.
    is_starting: Mutex<bool>,
    started: Condvar,
}

impl ClusterCore {
    pub(super) fn new(directory: Directory, keeper: Arc<ResourceManager<RingTable>>) -> Self {
        let (mover, started) = (Mover::new(directory.platform.clone()), directory.platform.condvar());
        Self { directory: Arc::new(directory), keeper, mover, is_starting: Mutex::new(false), started }
    }

    pub(in crate::sharding) fn table(&self) -> &RingTable {
        self.keeper.service()
    }

    /// Returns the state of the ring.
    pub(in crate::sharding) fn state(&self) -> Option<RingState> {
        self.table().state()
    }

    /// Has the keeper take a step, in a transaction of its own. Blocks for that.
    pub(in crate::sharding) fn control(&self, control: &Control) -> Result<(), ClusterError> {
        let until = self.directory.platform.now() + CONTROL_WITHIN;
        loop {
            let revision = self.table().with_state(|state| state.revision).unwrap_or_default() + 1;
            match self.control_at(revision, control) {
                // Another step is being taken. It ends soon, unless the log has failed, or the cluster is gone.
                Err(ClusterError::Keeper(KeeperRefusal::Stale)) if self.directory.platform.now() < until => {
                    self.mover.pause();
                }
                result => return result,
            }
        }
    }

    /// As [`control`](Self::control), if this is the next step since the state was read.
    pub(in crate::sharding) fn control_at(&self, revision: u64, control: &Control) -> Result<(), ClusterError> {
        self.step(RingWork::Control { revision, control: control.clone() })
    }

    fn step(&self, work: RingWork) -> Result<(), ClusterError> {
        let mut txn = self.directory.coordinator.begin_beyond_limits(CONTROL_WITHIN);
        let branch = txn.branch(KEEPER)?.clone();
        match self.keeper.execute(&branch, work) {
            Ok(()) => decided(&self.directory.platform, txn),
            Err(ExecuteError::Refused(refusal)) => Err(ClusterError::Keeper(refusal)),
            Err(error) => Err(ClusterError::Work(Arc::new(error))),
        }
    }

    /// Takes the nodes out that have given all their keys away. Returns whether all of them are gone.
    pub(in crate::sharding) fn retire_leavers(&self) -> bool {
        let leavers = self.table().with_state(|state| state.leavers.clone()).unwrap_or_default();
        let mut all_gone = true;
        for (node, since) in leavers {
            // A node that has left may be about to join again, and another thread may see nodes off, too.
            all_gone &= self.one_start(|| {
                let still_leaves = |state: &RingState| state.leavers.get(&node) == Some(&since);
                if !self.table().with_state(still_leaves).unwrap_or_default() {
                    return true;
                }
                // If the keeper can't note it, the next look tries again.
                self.directory.part(&node) && self.step(RingWork::Left { node: node.clone(), since }).is_ok()
            });
        }
        for node in self.strangers() {
            all_gone &= self.one_start(|| !self.strangers().contains(&node) || self.directory.part(&node));
        }
        all_gone
    }

    /// Returns nodes that have left, and that only decisions in the log name: the coordinator was opened
    /// with them, to tell them again.
    fn strangers(&self) -> BTreeSet<NodeId> {
        let members = self.state().map(|state| state.nodes()).unwrap_or_default();
        self.directory.nodes().difference(&members).cloned().collect()
    }

    /// Whether nodes have left that are still connected.
    pub(in crate::sharding) fn has_leavers(&self) -> bool {
        self.state().is_some_and(|state| !state.leavers.is_empty()) || !self.strangers().is_empty()
    }

    /// Calls `start`, one such call at a time: nodes join and leave the coordinator only in there. Must not
    /// be called inside of itself.
    pub(super) fn one_start<R>(&self, start: impl FnOnce() -> R) -> R {
        let mut is_starting = self.is_starting.lock();
        while *is_starting {
            self.started.wait(&mut is_starting);
        }
        *is_starting = true;
        drop(is_starting);
        // Also if `start` panics: it calls code of others, which makes connections.
        let _turn = Turn(self);
        start()
    }

    /// Blocks until none of the nodes is still leaving, for a moment. A node that has just left may join
    /// again once no transaction names it any more.
    pub(super) fn wait_for_leavers(&self, joining: &[NodeId]) -> Result<(), ClusterError> {
        let until = self.directory.platform.now() + LEFT_WITHIN;
        loop {
            let still_leaves = |state: &RingState| joining.iter().find(|id| state.leavers.contains_key(*id)).cloned();
            match self.table().with_state(still_leaves).flatten() {
                Some(node) if self.directory.platform.now() >= until => {
                    return Err(ClusterError::StillLeaving { node });
                }
                Some(_) => self.mover.pause(),
                None => return Ok(()),
            }
        }
    }
}

/// The turn to have nodes join and leave. Dropping it lets the next thread have it.
struct Turn<'a>(&'a ClusterCore);

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        *self.0.is_starting.lock() = false;
        self.0.started.notify_one();
    }
}

/// Commits, and waits until it is carried out.
pub(super) fn decided(platform: &Platform, txn: Transaction) -> Result<(), ClusterError> {
    let commit = txn.commit();
    let delivered = commit.delivered();
    commit.wait().map_err(ClusterError::Commit)?;
    // If a participant is slow to carry it out, the coordinator repeats it until it does. If the log has
    // failed meanwhile, only the next opening does.
    wait_for(platform, delivered);
    Ok(())
}

/// Wakes the thread that waits for a delivery.
struct Bell(Mailbox<()>);

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.0.put(());
    }
}

/// Blocks until it is delivered, at most for [`CONTROL_WITHIN`].
fn wait_for(platform: &Platform, delivered: Delivered) {
    let rings = platform.mailbox();
    let waker = Waker::from(Arc::new(Bell(rings.clone())));
    let until = platform.now() + CONTROL_WITHIN;
    let mut delivered = pin!(delivered);
    while delivered.as_mut().poll(&mut Context::from_waker(&waker)).is_pending() {
        if rings.take_until(until).is_none() && platform.now() >= until {
            return;
        }
    }
}

impl From<BranchError> for ClusterError {
    fn from(error: BranchError) -> Self {
        Self::Branch(error)
    }
}
