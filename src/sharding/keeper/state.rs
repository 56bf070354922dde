//! [`RingState`]: what the keeper knows of the ring. Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::{
    id::TxnId,
    ring::{NodeId, RangeSet, RingEpoch},
    sharding::{Assignment, AssignmentStep, Pace, Side, Tenure, assignment::Layout},
};

/// The ring, and the change that is under way. What the keeper makes durable.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(in crate::sharding) struct RingState {
    /// Its epoch counts from the beginning, and clients see another one.
    pub(in crate::sharding) assignment: Assignment,
    pub(in crate::sharding) change: Option<ChangeState>,
    /// Nodes that have given all their keys away, and may still be named by transactions; and the
    /// control step that ended their change.
    pub(in crate::sharding) leavers: BTreeMap<NodeId, u64>,
    /// The latest hand-over.
    pub(in crate::sharding) latest: Tenure,
    /// Number of control steps taken, so that none is taken twice.
    pub(in crate::sharding) revision: u64,
}

/// A change under way.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(in crate::sharding) struct ChangeState {
    /// The side to which ranges move: after, or, once it is cancelled, before.
    pub(in crate::sharding) toward: Side,
    pub(in crate::sharding) is_paused: bool,
    /// The control step in which it began, which tells it from others.
    pub(in crate::sharding) since: u64,
    pub(in crate::sharding) pace: Pace,
    /// The name under which the store has the new ring.
    pub(in crate::sharding) ring: String,
}

/// Which change a hand-over is of, and the side to which its ranges move.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::sharding) struct Heading {
    /// The control step in which the change began.
    pub(in crate::sharding) since: u64,
    pub(in crate::sharding) side: Side,
}

impl ChangeState {
    /// Returns where the change's ranges move now.
    pub(in crate::sharding) const fn heading(&self) -> Heading {
        Heading { since: self.since, side: self.toward }
    }
}

/// One thing that the keeper is asked to do, as its log holds it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(in crate::sharding) enum RingWork {
    /// The ranges are on this side of the change from here on.
    Moved { ranges: RangeSet, heading: Heading, tenure: Tenure },
    /// The control step with this revision.
    Control { revision: u64, control: Control },
    /// No transaction names the node any more, which left in this control step.
    Left { node: NodeId, since: u64 },
}

/// A step that is not a hand-over.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(in crate::sharding) enum Control {
    /// The first ring, which the store has under this name.
    First { ring: String },
    /// A change to the ring that the store has under this name.
    Begin { ring: String, pace: Pace },
    /// What the change has moved goes back.
    Turn,
    /// Another pace, or a pause.
    Steer { pace: Option<Pace>, is_paused: Option<bool> },
    /// All has moved.
    End,
}

/// Reason why the keeper did not take a step.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum KeeperRefusal {
    /// Another step was taken meanwhile.
    #[error("the ring was changed meanwhile; make a new plan")]
    Stale,
    /// The ring has been set up already.
    #[error("the ring has been set up already; change it with `Cluster::change`")]
    NotFirst,
    /// No ring has been set up.
    #[error("there is no ring yet; open the cluster with its first ring")]
    NoRing,
    /// A change is under way.
    #[error("a change of the ring is under way; wait until it has ended, or cancel it")]
    UnderWay,
    /// Ranges are on their way.
    #[error("ranges are on their way; pause the change, and ask again")]
    InMotion,
    /// No change is under way.
    #[error("no change of the ring is under way")]
    NothingMoves,
    /// Ranges move, or have not moved yet.
    #[error("the change has not ended: ranges are still to be moved, or on their way")]
    NotAllMoved,
    /// The ranges are not where they were to be taken from.
    #[error("the ranges have moved already, or the change was turned round or has ended")]
    NotThere,
    /// An earlier hand-over of the ranges has not ended.
    #[error("transaction {txn} is moving ranges of these, and has not ended")]
    OnTheirWay {
        /// Its transaction.
        txn: TxnId,
    },
    /// The log has steps that follow others which neither the store nor the log has.
    #[error("the ring store is older than the coordinator's log; restore both from one backup")]
    OldStore,
    /// The store does not have the ring.
    #[error(
        "the ring store does not have ring `{name}`, or can't read it; restore it together with the coordinator's log"
    )]
    LostRing {
        /// The ring's name.
        name: String,
    },
}

impl RingState {
    /// Returns the state of a first ring.
    pub(super) fn first(ring: Arc<Layout>) -> Self {
        let assignment = Assignment::new(RingEpoch::FIRST, ring, Tenure::FIRST);
        Self { assignment, change: None, leavers: BTreeMap::new(), latest: Tenure::FIRST, revision: 1 }
    }

    /// Returns all nodes that keys or transactions may be at.
    pub(in crate::sharding) fn nodes(&self) -> BTreeSet<NodeId> {
        let rings = [Some(self.assignment.ring()), self.assignment.after()];
        let members = rings.into_iter().flatten().flat_map(|ring| ring.nodes()).map(|node| node.id().clone());
        members.chain(self.leavers.keys().cloned()).collect()
    }

    /// Whether the ranges can be handed over to this side now.
    pub(super) fn may_move(&self, ranges: &RangeSet, heading: Heading, tenure: Tenure) -> Result<(), KeeperRefusal> {
        let change = self.change.as_ref().ok_or(KeeperRefusal::NothingMoves)?;
        // A thread may come late with a chunk of a change that was cancelled and has ended. The change that is
        // under way now may not move these ranges at all, or to another node.
        if change.heading() != heading || ranges.is_empty() || !self.assignment.is_all_on(ranges, heading.side.other())
        {
            return Err(KeeperRefusal::NotThere);
        }
        // The number was given out, and others were faster since.
        if self.assignment.knows(ranges, tenure) {
            return Err(KeeperRefusal::NotThere);
        }
        Ok(())
    }

    /// Whether the step can be taken now.
    pub(super) fn may(&self, control: &Control) -> Result<(), KeeperRefusal> {
        match (control, &self.change) {
            (Control::First { .. }, _) => Err(KeeperRefusal::NotFirst),
            (Control::Begin { .. }, Some(_)) => Err(KeeperRefusal::UnderWay),
            (Control::Begin { .. }, None) => Ok(()),
            (_, None) => Err(KeeperRefusal::NothingMoves),
            (Control::Turn, Some(change)) if change.toward == Side::Before => Err(KeeperRefusal::NothingMoves),
            (Control::Turn | Control::Steer { .. }, Some(_)) => Ok(()),
            (Control::End, Some(change)) => {
                let is_over = self.assignment.moving(change.toward.other()).is_empty();
                if is_over { Ok(()) } else { Err(KeeperRefusal::NotAllMoved) }
            }
        }
    }

    /// Whether the step follows what is known. If not, the store has lost what came between.
    pub(super) fn follows(&self, work: &RingWork) -> bool {
        match work {
            RingWork::Moved { tenure, .. } => self.change.is_some() || *tenure <= self.latest,
            RingWork::Control { revision, .. } => *revision <= self.revision + 1,
            RingWork::Left { since, .. } => *since <= self.revision,
        }
    }

    /// Takes in that ranges have moved. Returns the step for clients, or `None` if that is known
    /// already.
    pub(super) fn moved(&mut self, ranges: &RangeSet, side: Side, tenure: Tenure) -> Option<AssignmentStep> {
        self.latest = self.latest.max(tenure);
        if self.change.is_none() || self.assignment.knows(ranges, tenure) {
            return None;
        }
        let step = AssignmentStep::Moved { ranges: ranges.clone(), side, tenure };
        self.step(&step);
        Some(step)
    }

    /// Takes a control step. `ring` is the one that it names. Returns the step for clients, if there is
    /// one for them.
    pub(super) fn control(
        &mut self,
        revision: u64,
        control: &Control,
        ring: Option<Arc<Layout>>,
    ) -> Option<AssignmentStep> {
        if revision <= self.revision {
            return None;
        }
        self.revision = revision;
        let step = match (control, &mut self.change) {
            (Control::Begin { ring: name, pace }, _) => {
                self.change = Some(ChangeState {
                    toward: Side::After,
                    is_paused: false,
                    since: revision,
                    pace: pace.clone(),
                    ring: name.clone(),
                });
                AssignmentStep::Began { after: ring? }
            }
            (Control::Turn, Some(change)) => {
                (change.toward, change.is_paused) = (Side::Before, false);
                return None;
            }
            (Control::Steer { pace, is_paused }, Some(change)) => {
                change.pace = pace.clone().unwrap_or_else(|| change.pace.clone());
                change.is_paused = is_paused.unwrap_or(change.is_paused);
                return None;
            }
            (Control::End, Some(change)) => {
                let side = change.toward;
                self.change = None;
                let leavers = self.assignment.leavers(side);
                self.leavers.extend(leavers.into_iter().map(|node| (node, revision)));
                AssignmentStep::Ended { side, settled: self.latest }
            }
            (Control::First { .. }, _) | (_, None) => return None,
        };
        self.step(&step);
        Some(step)
    }

    /// Takes in that the node, which left in this control step, is gone.
    pub(super) fn left(&mut self, node: &NodeId, since: u64) {
        if self.leavers.get(node) == Some(&since) {
            self.leavers.remove(node);
        }
    }

    fn step(&mut self, step: &AssignmentStep) {
        let epoch = RingEpoch::new(self.assignment.epoch().as_u64() + 1);
        self.assignment.apply(step, epoch);
    }
}
