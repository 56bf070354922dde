//! [`RingTable`]: the keeper of a ring. It knows which node has which position, as a participant on
//! the coordinator's own log, so that each hand-over of data is one transaction with its record.
//!
//! In reading order: this file has the keeper as a service; `state.rs` has what it knows, pure;
//! `store.rs` has where it keeps what is too large for a log record.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    sync::{Arc, OnceLock},
};

use parking_lot::Mutex;

use crate::{
    id::{BranchId, TxnId},
    participant::{Service, ServiceError},
    ring::{RangeSet, RingEpoch},
    sharding::{Assignment, AssignmentStep, SharedAssignment, Tenure, assignment::Layout},
};

mod state;
mod store;

pub use state::KeeperRefusal;
pub(super) use state::{ChangeState, Control, Heading, RingState, RingWork};
pub use store::{FileRingStore, MemoryRingStore, RingStore};

/// The name under which the store has the keeper's state.
const STATE: &str = "state";

/// The name under which the store has the number of times that the keeper was opened.
const OPENINGS: &str = "openings";

/// The name under which the store has the services whose shards have had their ranges.
const SERVICES: &str = "services";

/// The keeper of a ring, as a service; see [`Cluster`](crate::sharding::Cluster).
pub(super) struct RingTable {
    store: Box<dyn RingStore>,
    table: Mutex<Table>,
    published: OnceLock<Arc<SharedAssignment>>,
}

#[derive(Default)]
struct Table {
    state: Option<RingState>,
    /// Hand-overs that are not decided yet.
    in_flight: BTreeMap<TxnId, RangeSet>,
    /// The transaction of a control step that is not decided yet.
    control: Option<TxnId>,
    /// The latest number that was given to a hand-over.
    given: Tenure,
    /// Names of rings in the store that a later state does not need.
    obsolete: Vec<String>,
}

impl RingTable {
    /// Reads what the store has.
    pub(super) fn open(store: Box<dyn RingStore>) -> Result<Self, ServiceError> {
        let state: Option<RingState> = store::get(&*store, STATE)?;
        let table = Table { state, ..Table::default() };
        Ok(Self { store, table: Mutex::new(table), published: OnceLock::new() })
    }

    /// Returns the state, or `None` if no ring has been set up.
    pub(super) fn state(&self) -> Option<RingState> {
        self.table.lock().state.clone()
    }

    /// Returns what `look` makes of the state.
    pub(super) fn with_state<R>(&self, look: impl FnOnce(&RingState) -> R) -> Option<R> {
        self.table.lock().state.as_ref().map(look)
    }

    /// Returns what `look` makes of the state, or `None` while a hand-over or a control step is undecided, and
    /// before a ring is set up.
    pub(super) fn with_settled<R>(&self, look: impl FnOnce(&RingState) -> R) -> Option<R> {
        let table = self.table.lock();
        let is_settled = table.in_flight.is_empty() && table.control.is_none();
        table.state.as_ref().filter(|_| is_settled).map(look)
    }

    /// Returns the names of the services whose shards have had their ranges once.
    pub(super) fn set_up_services(&self) -> io::Result<BTreeSet<String>> {
        Ok(store::get(&*self.store, SERVICES)?.unwrap_or_default())
    }

    /// Notes, durably, that these are the services whose shards have had their ranges.
    pub(super) fn note_services(&self, all: &BTreeSet<String>) -> io::Result<()> {
        store::put(&*self.store, SERVICES, all)
    }

    /// Keeps a ring for the control step with this revision, before that is taken. Returns its name, which
    /// no other step has: what one change needs no more, another never needs.
    pub(super) fn keep(&self, ring: &Layout, revision: u64) -> Result<String, ServiceError> {
        let encoded = postcard::to_stdvec(&(revision, ring))?;
        let name = format!("ring-{:032x}", xxhash_rust::xxh3::xxh3_128(&encoded));
        store::put(&*self.store, &name, ring)?;
        Ok(name)
    }

    /// Deletes a ring whose control step was refused; not if another thread had the same plan, and its step
    /// was taken: the log names the ring until a checkpoint.
    pub(super) fn let_go(&self, name: &str) {
        let table = self.table.lock();
        let change = table.state.as_ref().and_then(|state| state.change.as_ref());
        let is_needed = change.is_some_and(|change| change.ring == name) || table.obsolete.iter().any(|it| it == name);
        if table.control.is_none() && !is_needed {
            // What stays behind costs only space.
            let _ = self.store.remove(name);
        }
    }

    fn kept(&self, name: &str) -> Result<Arc<Layout>, KeeperRefusal> {
        let lost = || KeeperRefusal::LostRing { name: name.to_owned() };
        let ring = store::get::<Layout>(&*self.store, name).ok().flatten();
        Ok(Arc::new(ring.ok_or_else(lost)?))
    }

    /// Returns a number for a hand-over, later than all before it.
    pub(super) fn next_tenure(&self) -> Tenure {
        let mut table = self.table.lock();
        let latest = table.state.as_ref().map_or(Tenure::NONE, |state| state.latest);
        table.given = table.given.max(latest).next();
        table.given
    }

    /// Begins to publish the assignment, from the first epoch of this opening on. Epochs of earlier
    /// openings are lower, so that no client takes the steps of one for those of the other. Only the
    /// process that has claimed the keeper's name on the log calls this.
    ///
    /// The store counts the openings, because the coordinator's epochs have no bits to spare: from one
    /// opening to the next they grow by steps of up to 36 bits.
    pub(super) fn publish(
        &self,
        platform: &crate::platform::Platform,
    ) -> Result<Option<Arc<SharedAssignment>>, io::Error> {
        let opening = store::get::<u64>(&*self.store, OPENINGS)?.unwrap_or_default() + 1;
        store::put(&*self.store, OPENINGS, &opening)?;
        let table = self.table.lock();
        let Some(state) = table.state.as_ref() else { return Ok(None) };
        let published = self.published.get_or_init(|| {
            let base = RingEpoch::new(opening << EPOCH_BITS);
            Arc::new(SharedAssignment::on(platform, Assignment::clone(&state.assignment).at(base)))
        });
        Ok(Some(Arc::clone(published)))
    }

    fn tell(&self, step: Option<AssignmentStep>) {
        if let (Some(step), Some(published)) = (step, self.published.get()) {
            published.publish(step);
        }
    }
}

/// Number of bits of an epoch that count the steps of one opening of the keeper. The rest is the number
/// of the opening.
const EPOCH_BITS: u32 = 32;

impl Service for RingTable {
    type Work = RingWork;
    type Refusal = KeeperRefusal;

    fn try_reserve(&self, branch: &BranchId, work: &RingWork) -> Result<(), KeeperRefusal> {
        if let RingWork::Control { control: Control::First { ring } | Control::Begin { ring, .. }, .. } = work {
            self.kept(ring)?;
        }
        let mut table = self.table.lock();
        let txn = branch.txn();
        match work {
            RingWork::Moved { ranges, heading, tenure } => {
                let is_taken = |other: &RangeSet| ranges.iter().any(|range| other.overlaps(range));
                if let Some((other, _)) = table.in_flight.iter().find(|(other, taken)| *other != txn && is_taken(taken))
                {
                    return Err(KeeperRefusal::OnTheirWay { txn: other.clone() });
                }
                table.state.as_ref().ok_or(KeeperRefusal::NoRing)?.may_move(ranges, *heading, *tenure)?;
                table.in_flight.insert(txn.clone(), ranges.clone());
                table.given = table.given.max(*tenure);
            }
            RingWork::Control { revision, control } => {
                if table.control.as_ref().is_some_and(|other| other != txn) {
                    return Err(KeeperRefusal::Stale);
                }
                match (&table.state, control) {
                    (None, Control::First { .. }) => {}
                    (None, _) => return Err(KeeperRefusal::NoRing),
                    (Some(state), control) => {
                        if *revision != state.revision + 1 {
                            return Err(KeeperRefusal::Stale);
                        }
                        state.may(control)?;
                        if matches!(control, Control::End) && !table.in_flight.is_empty() {
                            return Err(KeeperRefusal::NotAllMoved);
                        }
                    }
                }
                table.control = Some(txn.clone());
            }
            RingWork::Left { .. } => {}
        }
        Ok(())
    }

    fn confirm(&self, branch: &BranchId, works: &[RingWork]) -> Result<(), ServiceError> {
        for work in works {
            if self.with_state(|state| !state.follows(work)).unwrap_or_default() {
                return Err(KeeperRefusal::OldStore.into());
            }
            match work {
                RingWork::Moved { ranges, heading, tenure } => {
                    let mut table = self.table.lock();
                    table.in_flight.remove(branch.txn());
                    table.given = table.given.max(*tenure);
                    let step = table.state.as_mut().and_then(|state| state.moved(ranges, heading.side, *tenure));
                    self.tell(step);
                }
                RingWork::Control { revision, control } => {
                    let is_known = self.with_state(|state| *revision <= state.revision).unwrap_or_default();
                    let ring = match control {
                        Control::First { ring } | Control::Begin { ring, .. } if !is_known => Some(self.kept(ring)?),
                        _ => None,
                    };
                    let mut table = self.table.lock();
                    table.control = None;
                    let step = match (&mut table.state, control, ring) {
                        (state @ None, Control::First { .. }, Some(ring)) => {
                            *state = Some(RingState::first(ring));
                            None
                        }
                        (Some(state), control, ring) => {
                            let obsolete = state.change.as_ref().map(|change| change.ring.clone());
                            let step = state.control(*revision, control, ring);
                            if state.change.is_none() {
                                table.obsolete.extend(obsolete);
                            }
                            step
                        }
                        _ => return Err(KeeperRefusal::NoRing.into()),
                    };
                    self.tell(step);
                }
                RingWork::Left { node, since } => {
                    if let Some(state) = &mut self.table.lock().state {
                        state.left(node, *since);
                    }
                }
            }
        }
        Ok(())
    }

    fn cancel(&self, branch: &BranchId, _: &[RingWork]) -> Result<(), ServiceError> {
        let mut table = self.table.lock();
        table.in_flight.remove(branch.txn());
        if table.control.as_ref() == Some(branch.txn()) {
            table.control = None;
        }
        Ok(())
    }

    /// What was promised was possible then. The store may have a later state than the log that a crash
    /// has left: a change that the branch belongs to has ended there already. So nothing is checked.
    fn restore(&self, branch: &BranchId, works: &[RingWork]) -> Result<(), ServiceError> {
        let mut table = self.table.lock();
        for work in works {
            match work {
                RingWork::Moved { ranges, tenure, .. } => {
                    table.in_flight.insert(branch.txn().clone(), ranges.clone());
                    table.given = table.given.max(*tenure);
                }
                RingWork::Control { .. } => table.control = Some(branch.txn().clone()),
                RingWork::Left { .. } => {}
            }
        }
        Ok(())
    }

    fn is_transient(&self, refusal: &KeeperRefusal) -> bool {
        matches!(refusal, KeeperRefusal::Stale)
    }

    fn checkpoint(&self) -> Result<(), ServiceError> {
        let (state, obsolete) = {
            let mut table = self.table.lock();
            (table.state.clone(), std::mem::take(&mut table.obsolete))
        };
        let Some(state) = state else { return Ok(()) };
        store::put(&*self.store, STATE, &state)?;
        for name in obsolete {
            // What stays behind costs only space.
            let _ = self.store.remove(&name);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{HashRing, ring::Pins, sharding::Side};

    fn branch(number: u64) -> BranchId {
        let txn = TxnId::new("keeper".parse().unwrap(), crate::Epoch::new(1), number);
        txn.branch(&"ring".parse().unwrap())
    }

    fn layout(nodes: &[&str]) -> Layout {
        Layout::new(HashRing::new(nodes.iter().copied()).unwrap(), Pins::new()).unwrap()
    }

    fn take_step(table: &RingTable, revision: u64, control: Control) {
        let work = RingWork::Control { revision, control };
        table.try_reserve(&branch(revision), &work).unwrap();
        table.confirm(&branch(revision), &[work]).unwrap();
    }

    fn begin(table: &RingTable, revision: u64, nodes: &[&str]) {
        let ring = table.keep(&layout(nodes), revision).unwrap();
        take_step(table, revision, Control::Begin { ring, pace: crate::sharding::Pace::new() });
    }

    /// Returns a hand-over of all that the change moves, as of the change that began in this step.
    fn all_moved(table: &RingTable, since: u64) -> RingWork {
        let moves = table.state().unwrap().assignment.moving(Side::Before);
        let ranges = moves.into_iter().map(|(range, ..)| range).collect();
        RingWork::Moved { ranges, heading: Heading { since, side: Side::After }, tenure: Tenure::new(2) }
    }

    /// Found by simulation: a thread of the mover still had a chunk of a change that was cancelled and had
    /// ended. The keeper took it for one of the next change, in which these ranges have other nodes.
    #[test]
    fn a_chunk_of_a_change_that_has_ended_is_none_of_the_next_one() {
        let table = RingTable::open(Box::new(MemoryRingStore::new())).unwrap();
        take_step(&table, 1, Control::First { ring: table.keep(&layout(&["a", "b"]), 1).unwrap() });
        begin(&table, 2, &["a", "b", "c"]);
        let late = all_moved(&table, 2);
        take_step(&table, 3, Control::Turn);
        take_step(&table, 4, Control::End);
        begin(&table, 5, &["a", "b", "d"]);
        assert_eq!(table.try_reserve(&branch(9), &late), Err(KeeperRefusal::NotThere));
        assert_eq!(table.try_reserve(&branch(9), &all_moved(&table, 5)), Ok(()));
    }

    /// The store may have a later state than the log that a crash has left.
    #[test]
    fn a_promise_is_restored_although_its_change_has_ended_in_the_store() {
        let table = RingTable::open(Box::new(MemoryRingStore::new())).unwrap();
        take_step(&table, 1, Control::First { ring: table.keep(&layout(&["a", "b"]), 1).unwrap() });
        begin(&table, 2, &["a", "b", "c"]);
        let moved = all_moved(&table, 2);
        table.try_reserve(&branch(9), &moved).unwrap();
        table.confirm(&branch(9), std::slice::from_ref(&moved)).unwrap();
        take_step(&table, 3, Control::End);
        let before = table.state();
        table.restore(&branch(9), std::slice::from_ref(&moved)).unwrap();
        table.confirm(&branch(9), &[moved]).unwrap();
        assert!(table.state() == before && table.table.lock().in_flight.is_empty());
    }
}
