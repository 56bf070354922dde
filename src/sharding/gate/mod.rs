//! [`Gate`]: which work a shard lets in. Pure: no I/O, no threads, no clock.
//!
//! The gate of a shard knows which positions the shard owns. It stops work at the others, and at
//! those that are being handed over. What it answers to work at a position:
//!
//! | the position is | work that changes something | work that reads |
//! |---|---|---|
//! | owned | in, and held | in |
//! | owned, *frozen* | in if its transaction has a hold there, else `Moving` | in |
//! | owned, *sealed* | `Moving` | `Moving` |
//! | *arriving* | `NotYet` | `NotYet` |
//! | at which the log's work could not be done again yet | `NotYet` | `NotYet` |
//! | given away, and the client does not know | `NotOwner` | `NotOwner` |
//! | not owned, and the client knows of a later hand-over | `NotYet` | `NotYet` |
//!
//! A *hold* says that an unfinished branch has changes at a position. A position with a hold is not
//! handed over: [`freeze`](Gate::freeze) stops new holds in a range, and [`seal`](Gate::seal) waits
//! for the old ones. So records are exported with nothing under way in them.
//!
//! A chunk leaves in these steps: freeze, seal, (export), register, (promise), release; and arrives in
//! these: stage, (import), staged, (promise), open. [`give_back`](Gate::give_back) takes the steps back
//! before the release is registered; [`thaw`](Gate::thaw) and [`unstage`](Gate::unstage) do when the
//! branch is cancelled.
//!
//! In reading order: this file has the gate; `image.rs` has what survives a restart; `refusal.rs`
//! has the answers.

use std::collections::{BTreeMap, btree_map::Entry};

use crate::{
    id::TxnId,
    participant::Effort,
    ring::{NodeId, Position, RangeMap, RangeSet},
    sharding::Tenure,
};

mod image;
mod refusal;

use image::Released;
pub use image::{GateImage, GateNote};
pub use refusal::GateRefusal;

/// Maximum number of transactions that [`Gate::holders`] lists: enough to name what is in the way, few
/// enough for a message.
const MAX_BLOCKERS: usize = 16;

/// The gate of one shard. A plain value. Public for the exhaustive search in `tests/model`.
#[doc(hidden)]
#[derive(Clone, Debug, PartialEq, Eq, Hash, Default)]
pub struct Gate {
    image: GateImage,
    /// The ranges of `hand_overs`.
    moving: RangeMap<Stage>,
    /// Hand-overs under way, by their transaction.
    hand_overs: BTreeMap<TxnId, HandOver>,
    /// The transactions that have unfinished changes at a position.
    holds: BTreeMap<Position, Holders>,
    /// Positions at which something of the log must still be done again since the opening.
    late: RangeSet,
}

/// The transactions that hold a position. Usually one, which needs no allocation of its own.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Holders {
    first: TxnId,
    others: Vec<TxnId>,
}

impl Holders {
    fn iter(&self) -> impl Iterator<Item = &TxnId> {
        std::iter::once(&self.first).chain(&self.others)
    }

    fn contains(&self, txn: &TxnId) -> bool {
        self.iter().any(|other| other == txn)
    }
}

/// A hand-over under way.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct HandOver {
    ranges: RangeSet,
    stage: Stage,
    /// Whether the branch of this transaction can promise it: what leaves is sealed and its work is
    /// registered with the branch, what arrives is imported in full.
    is_ready: bool,
}

/// How far a hand-over has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Stage {
    /// Leaves: no new transaction may change it.
    Frozen,
    /// Leaves: nothing may read or change it.
    Sealed,
    /// Arrives: nothing may read or change it yet.
    Arriving,
}

/// Work.
impl Gate {
    pub fn new(image: GateImage) -> Self {
        Self { image, ..Self::default() }
    }

    pub const fn image(&self) -> &GateImage {
        &self.image
    }

    /// Returns the stamp under which work at `position` is let in, or why it is not. `known` is the
    /// latest hand-over of the position that the client knows of.
    pub fn admit(&self, position: Position, known: Tenure, txn: &TxnId, effort: Effort) -> Result<Tenure, GateRefusal> {
        self.owned_since(position, known, txn, effort).map(|_| self.image.latest)
    }

    /// Returns since when the shard owns `position`, or why work there is not let in.
    fn owned_since(
        &self,
        position: Position,
        known: Tenure,
        txn: &TxnId,
        effort: Effort,
    ) -> Result<Tenure, GateRefusal> {
        let stage = if self.moving.is_empty() { None } else { self.moving.get(position) };
        if stage == Some(&Stage::Arriving) || !self.late.is_empty() && self.late.contains(position) {
            return Err(GateRefusal::NotYet);
        }
        let Some(tenure) = self.image.tenure(position) else {
            return Err(match self.image.released.get(position) {
                Some(Released { tenure, to }) if known <= *tenure => {
                    GateRefusal::NotOwner { since: *tenure, owner: to.clone() }
                }
                _ => GateRefusal::NotYet,
            });
        };
        match (stage, effort) {
            (None, _) | (Some(Stage::Frozen), Effort::ReadOnly) => Ok(tenure),
            (Some(Stage::Frozen), Effort::Update) if self.is_held(position, txn) => Ok(tenure),
            (Some(_), _) => Err(GateRefusal::Moving),
        }
    }

    /// Lets work in that was admitted under `stamp`, and holds the position if the work changes it.
    /// Returns whether the hold is new.
    pub fn enter(
        &mut self,
        position: Position,
        stamp: Tenure,
        txn: &TxnId,
        effort: Effort,
    ) -> Result<bool, GateRefusal> {
        self.admit_under(position, stamp, txn, effort)?;
        Ok(effort == Effort::Update && self.hold(position, txn))
    }

    /// Whether work that was admitted under `stamp` may come in, or go out if it reads.
    pub fn admit_under(
        &self,
        position: Position,
        stamp: Tenure,
        txn: &TxnId,
        effort: Effort,
    ) -> Result<(), GateRefusal> {
        // As `is_current`, with one look-up.
        let tenure = self.owned_since(position, Tenure::NONE, txn, effort)?;
        if tenure <= stamp { Ok(()) } else { Err(GateRefusal::Moving) }
    }

    /// Holds a position, also one that the shard does not own: for a transaction that has promised, after a restart.
    /// Returns whether the hold is new.
    pub fn hold(&mut self, position: Position, txn: &TxnId) -> bool {
        match self.holds.entry(position) {
            Entry::Vacant(place) => {
                place.insert(Holders { first: txn.clone(), others: Vec::new() });
                true
            }
            Entry::Occupied(mut place) => {
                let is_new = !place.get().contains(txn);
                if is_new {
                    place.get_mut().others.push(txn.clone());
                }
                is_new
            }
        }
    }

    /// Takes the hold of a transaction whose branch is finished. Returns whether a hand-over may have
    /// waited for that.
    pub fn drop_hold(&mut self, position: Position, txn: &TxnId) -> bool {
        let Entry::Occupied(mut place) = self.holds.entry(position) else { return false };
        let Holders { first, others } = place.get_mut();
        if first != txn {
            let Some(index) = others.iter().position(|other| other == txn) else { return false };
            others.remove(index);
        } else if others.is_empty() {
            place.remove();
        } else {
            *first = others.remove(0);
        }
        !self.moving.is_empty() && self.moving.get(position).is_some()
    }

    fn is_held(&self, position: Position, txn: &TxnId) -> bool {
        self.holds.get(&position).is_some_and(|holders| holders.contains(txn))
    }

    /// Whether work that was let in under `stamp` still belongs to this shard's records: the shard
    /// owns the position, and has done so since before the work came.
    ///
    /// The stamp is the latest tenure that the shard had heard of. If the position has left since
    /// and come back, the chunk that brought it began after that, so its number is higher.
    pub fn is_current(&self, position: Position, stamp: Tenure) -> bool {
        self.image.tenure(position).is_some_and(|tenure| tenure <= stamp)
    }

    /// Lets nothing in at these positions, and at no others for this reason.
    pub fn set_late(&mut self, late: RangeSet) {
        self.late = late;
    }

    /// Returns the number of holds.
    pub fn holds(&self) -> usize {
        self.holds.values().map(|holders| 1 + holders.others.len()).sum()
    }
}

/// Hand-overs.
impl Gate {
    /// Stops new changes in the ranges, which the shard must own, for the hand-over with this number.
    pub fn freeze(&mut self, txn: &TxnId, ranges: &RangeSet, tenure: Tenure) -> Result<(), GateRefusal> {
        if ranges.is_empty() || !ranges.iter().all(|range| self.image.owned.covers(range)) {
            return Err(GateRefusal::NotAllOwned);
        }
        if !self.image.is_news(ranges, tenure) {
            return Err(GateRefusal::Outdated);
        }
        self.begin(txn, ranges, Stage::Frozen)
    }

    /// Returns transactions that have changes in the ranges of this hand-over, at most a few.
    pub fn holders(&self, txn: &TxnId) -> Vec<TxnId> {
        let Some(hand_over) = self.hand_overs.get(txn) else { return Vec::new() };
        let mut found: Vec<TxnId> = Vec::new();
        for segment in hand_over.ranges.iter().flat_map(|range| range.segments()) {
            let (low, high) = (Position::new(*segment.start()), Position::new(*segment.end()));
            for holder in self.holds.range(low..=high).flat_map(|(_, holders)| holders.iter()) {
                if found.len() == MAX_BLOCKERS {
                    return found;
                }
                if !found.contains(holder) {
                    found.push(holder.clone());
                }
            }
        }
        found
    }

    /// Stops reads as well, once no transaction has changes in the ranges. Returns whether that is
    /// so.
    pub fn seal(&mut self, txn: &TxnId) -> bool {
        if !self.holders(txn).is_empty() {
            return false;
        }
        let Some(hand_over) = self.hand_overs.get_mut(txn) else { return false };
        if hand_over.stage == Stage::Frozen {
            hand_over.stage = Stage::Sealed;
            hand_over.ranges.iter().for_each(|range| self.moving.insert(range, Stage::Sealed));
        }
        hand_over.stage == Stage::Sealed
    }

    /// Seals the ranges of a chunk that this shard has promised to give away, after a restart. It had
    /// sealed them before.
    pub fn restore_sealed(&mut self, txn: &TxnId, ranges: &RangeSet) {
        if !self.is_sealed(txn, ranges) {
            self.end(txn);
            self.insert(txn, ranges, Stage::Sealed);
        }
        self.set_ready(txn);
    }

    /// Takes in that the release of these ranges is work of its branch from here on. Returns whether
    /// they are sealed; else it is not.
    pub fn register(&mut self, txn: &TxnId, ranges: &RangeSet) -> bool {
        let is_sealed = self.is_sealed(txn, ranges);
        if is_sealed {
            self.set_ready(txn);
        }
        is_sealed
    }

    /// Lets work in again, unless the release is work of its branch: then only the end of the branch
    /// does.
    pub fn give_back(&mut self, txn: &TxnId) {
        if self.hand_overs.get(txn).is_some_and(|hand_over| !hand_over.is_ready) {
            self.thaw(txn);
        }
    }

    /// Whether this hand-over is of these ranges, and all work in them has stopped.
    pub fn is_sealed(&self, txn: &TxnId, ranges: &RangeSet) -> bool {
        let hand_over = self.hand_overs.get(txn);
        hand_over.is_some_and(|hand_over| hand_over.stage == Stage::Sealed && hand_over.ranges == *ranges)
    }

    /// Lets work in again, if the ranges were being given away.
    pub fn thaw(&mut self, txn: &TxnId) {
        if self.hand_overs.get(txn).is_some_and(|hand_over| hand_over.stage != Stage::Arriving) {
            self.end(txn);
        }
    }

    /// Whether the release with this number is already done.
    pub fn is_released(&self, ranges: &RangeSet, tenure: Tenure) -> bool {
        self.image.is_past_departure(ranges, tenure)
    }

    /// Gives the ranges away.
    pub fn release(&mut self, txn: &TxnId, ranges: &RangeSet, tenure: Tenure, to: &NodeId) {
        self.end(txn);
        self.image.apply(&GateNote::Released { ranges: ranges.clone(), tenure, to: to.clone() });
    }

    /// Makes room for ranges that arrive in the hand-over with this number. The shard must own nothing
    /// in them. Their records are imported next, and then they are [`staged`](Self::staged); or, if
    /// they are `in_place`, they are there already.
    pub fn stage(&mut self, txn: &TxnId, ranges: &RangeSet, tenure: Tenure, in_place: bool) -> Result<(), GateRefusal> {
        if ranges.is_empty() || ranges.iter().any(|range| self.image.owned.overlaps(range)) {
            return Err(GateRefusal::Owned);
        }
        if !self.image.is_news(ranges, tenure) {
            return Err(GateRefusal::Outdated);
        }
        if !self.is_arriving(txn, ranges) {
            self.begin(txn, ranges, Stage::Arriving)?;
        }
        if in_place {
            self.set_ready(txn);
        } else {
            self.image.apply(&GateNote::Staged { ranges: ranges.clone() });
        }
        Ok(())
    }

    /// Takes in that all records of an arrival are imported.
    pub fn staged(&mut self, txn: &TxnId) {
        self.set_ready(txn);
    }

    /// Whether this hand-over brings these ranges, whether or not their records are imported in full.
    pub fn is_arriving(&self, txn: &TxnId, ranges: &RangeSet) -> bool {
        let hand_over = self.hand_overs.get(txn);
        hand_over.is_some_and(|hand_over| hand_over.stage == Stage::Arriving && hand_over.ranges == *ranges)
    }

    /// Whether this hand-over brings these ranges, and all their records are imported.
    pub fn is_staged(&self, txn: &TxnId, ranges: &RangeSet) -> bool {
        self.is_arriving(txn, ranges) && self.hand_overs[txn].is_ready
    }

    /// Gives an arrival up.
    pub fn unstage(&mut self, txn: &TxnId, ranges: &RangeSet) {
        if self.is_arriving(txn, ranges) {
            self.end(txn);
            self.image.apply(&GateNote::Dropped { ranges: ranges.clone() });
        }
    }

    /// Gives an arrival up whose records could not be discarded. They stay behind unseen, until the
    /// next arrival there replaces them, or they are found [left over](Self::left_over).
    pub fn abandon(&mut self, txn: &TxnId, ranges: &RangeSet) {
        if self.is_arriving(txn, ranges) {
            self.end(txn);
        }
    }

    /// Whether the arrival with this number is already done, and perhaps what followed it.
    pub fn is_opened(&self, ranges: &RangeSet, tenure: Tenure) -> bool {
        self.image.is_past_arrival(ranges, tenure)
    }

    /// Owns the ranges from here on.
    pub fn open(&mut self, txn: &TxnId, ranges: &RangeSet, tenure: Tenure) {
        self.end(txn);
        self.image.apply(&GateNote::Owned { ranges: ranges.clone(), tenure });
    }

    /// Returns the ranges that were imported before a restart, and that no transaction brings.
    pub fn left_over(&self) -> RangeSet {
        let mut left_over = self.image.staged.clone();
        // What leaves is owned, and nothing is staged there; or it has left before, and a restart knows only
        // of the promise.
        for hand_over in self.hand_overs.values().filter(|hand_over| hand_over.stage == Stage::Arriving) {
            hand_over.ranges.iter().for_each(|range| left_over.remove(range));
        }
        left_over
    }

    /// Takes in that what was left over is discarded.
    pub fn dropped(&mut self, ranges: &RangeSet) {
        self.image.apply(&GateNote::Dropped { ranges: ranges.clone() });
    }

    /// Whether a hand-over of this transaction is under way.
    pub fn hands_over(&self, txn: &TxnId) -> bool {
        self.hand_overs.contains_key(txn)
    }

    /// Returns the number of hand-overs that leave, and of those that arrive.
    pub fn hand_overs(&self) -> (usize, usize) {
        let arriving = self.hand_overs.values().filter(|hand_over| hand_over.stage == Stage::Arriving).count();
        (self.hand_overs.len() - arriving, arriving)
    }

    fn begin(&mut self, txn: &TxnId, ranges: &RangeSet, stage: Stage) -> Result<(), GateRefusal> {
        if self.hand_overs.contains_key(txn) || ranges.iter().any(|range| self.moving.overlaps(range)) {
            return Err(GateRefusal::Overlaps);
        }
        self.insert(txn, ranges, stage);
        Ok(())
    }

    fn insert(&mut self, txn: &TxnId, ranges: &RangeSet, stage: Stage) {
        ranges.iter().for_each(|range| self.moving.insert(range, stage));
        self.hand_overs.insert(txn.clone(), HandOver { ranges: ranges.clone(), stage, is_ready: false });
    }

    fn set_ready(&mut self, txn: &TxnId) {
        if let Some(hand_over) = self.hand_overs.get_mut(txn) {
            hand_over.is_ready = true;
        }
    }

    fn end(&mut self, txn: &TxnId) {
        if let Some(hand_over) = self.hand_overs.remove(txn) {
            hand_over.ranges.iter().for_each(|range| self.moving.remove(range));
        }
    }
}
