//! [`GateImage`]: what a shard must remember of its ranges across a restart.

use serde::{Deserialize, Serialize};

use crate::{
    id::Name,
    log::LogId,
    ring::{NodeId, Position, PositionRange, RangeMap, RangeSet},
    sharding::Tenure,
};

/// Which positions a shard owns, and since when; which it has given away, and to which node. A plain
/// value, which serialises.
///
/// A shard saves it together with its data; see [`Shard::save`](crate::sharding::Shard::save). It
/// has one entry for each chunk that the shard holds or has given away, of about 50 bytes.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub struct GateImage {
    /// The shard that saved it; `None` if it was made of notes alone.
    pub(super) shard: Option<Name>,
    /// The log of that shard, which has what was committed since.
    pub(super) log: Option<LogId>,
    pub(super) owned: RangeMap<Tenure>,
    pub(super) released: RangeMap<Released>,
    /// Ranges whose records were imported, and are not owned (yet).
    pub(super) staged: RangeSet,
    /// The latest tenure that the shard has heard of.
    pub(super) latest: Tenure,
}

/// The last release of a position.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(super) struct Released {
    pub(super) tenure: Tenure,
    pub(super) to: NodeId,
}

/// One step of a [`GateImage`]; see [`Shard::note`](crate::sharding::Shard::note).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum GateNote {
    /// The shard is about to import records of these ranges, which it does not own yet.
    Staged {
        /// The ranges.
        ranges: RangeSet,
    },
    /// The import was given up. The records are discarded.
    Dropped {
        /// The ranges.
        ranges: RangeSet,
    },
    /// The shard owns these ranges from here on.
    Owned {
        /// The ranges.
        ranges: RangeSet,
        /// The number of the chunk that brought them.
        tenure: Tenure,
    },
    /// The shard has given these ranges away. The records are discarded.
    Released {
        /// The ranges.
        ranges: RangeSet,
        /// The number of the chunk that took them away.
        tenure: Tenure,
        /// The node that has them now.
        to: NodeId,
    },
}

impl GateImage {
    /// Returns the image of a shard that owns nothing.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Returns the same, as saved by this shard on this log.
    pub(in crate::sharding) fn of(mut self, shard: &Name, log: LogId) -> Self {
        (self.shard, self.log) = (Some(shard.clone()), Some(log));
        self
    }

    pub(in crate::sharding) const fn log(&self) -> Option<LogId> {
        self.log
    }

    /// Returns the name of the shard that saved the image, if it is known.
    #[must_use]
    pub const fn shard(&self) -> Option<&Name> {
        self.shard.as_ref()
    }

    /// Takes one step. Repeating the last step changes nothing. O(k log n) for k ranges of the step.
    pub fn apply(&mut self, note: &GateNote) {
        match note {
            GateNote::Staged { ranges } => self.staged.extend(ranges.iter()),
            GateNote::Dropped { ranges } => ranges.iter().for_each(|range| self.staged.remove(range)),
            GateNote::Owned { ranges, tenure } => {
                for range in ranges.iter() {
                    self.staged.remove(range);
                    self.released.remove(range);
                    self.owned.insert(range, *tenure);
                }
                self.latest = self.latest.max(*tenure);
            }
            GateNote::Released { ranges, tenure, to } => {
                for range in ranges.iter() {
                    self.owned.remove(range);
                    self.released.insert(range, Released { tenure: *tenure, to: to.clone() });
                }
                self.latest = self.latest.max(*tenure);
            }
        }
    }

    /// Returns the tenure under which the shard owns `position`, or `None` if it does not own it.
    #[must_use]
    pub fn tenure(&self, position: Position) -> Option<Tenure> {
        self.owned.get(position).copied()
    }

    /// Returns the latest tenure that the shard has heard of.
    #[must_use]
    pub const fn latest(&self) -> Tenure {
        self.latest
    }

    /// Returns the ranges that the shard owns, and their tenures.
    pub fn owned(&self) -> impl Iterator<Item = (PositionRange, Tenure)> {
        self.owned.iter().map(|(range, tenure)| (range, *tenure))
    }

    /// Returns the share of the circle that the shard owns, from 0.0 to 1.0.
    #[must_use]
    pub fn fraction(&self) -> f64 {
        self.owned().map(|(range, _)| range.fraction()).sum()
    }

    /// Whether the number is later than those of all hand-overs of the ranges that the shard knows of.
    pub(super) fn is_news(&self, ranges: &RangeSet, tenure: Tenure) -> bool {
        ranges.iter().all(|range| {
            self.owned.overlapping(range).all(|(_, owned)| *owned < tenure)
                && self.released.overlapping(range).all(|(_, released)| released.tenure < tenure)
        })
    }

    /// Whether the chunk with this number has come and gone already, for any position of the ranges:
    /// the shard owns a position since that chunk or a later one, or has released it in a later one.
    pub(super) fn is_past_arrival(&self, ranges: &RangeSet, tenure: Tenure) -> bool {
        ranges.iter().any(|range| {
            self.owned.overlapping(range).any(|(_, owned)| *owned >= tenure)
                || self.released.overlapping(range).any(|(_, released)| released.tenure > tenure)
        })
    }

    /// Whether the chunk with this number has taken the ranges away already: the shard owns no
    /// position of them under an earlier tenure.
    pub(super) fn is_past_departure(&self, ranges: &RangeSet, tenure: Tenure) -> bool {
        !ranges.iter().any(|range| self.owned.overlapping(range).any(|(_, owned)| *owned < tenure))
    }
}
