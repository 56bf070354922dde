//! [`Mover`]: carries a change out, chunk by chunk.
//!
//! `schedule.rs` decides which chunk is next, purely; `chunk.rs` moves one chunk, as one transaction;
//! this file has the threads that do so while a change is under way. While none is, there are no
//! threads and nothing is done.

use std::{
    collections::BTreeMap,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Weak},
    time::{Duration, Instant},
};

use parking_lot::Mutex;

use super::cluster::{ClusterCore, ClusterError};
use crate::{
    id::TxnId,
    participant::ParticipantError,
    platform::{Condvar, Platform, Thread},
    ring::NodeId,
    sharding::{
        KeeperRefusal,
        keeper::{ChangeState, Control, Heading, RingState, RingTable},
        mover::{
            chunk::{ChunkFailure, MovedChunk, move_chunk},
            schedule::{Chunk, ChunkEnd, Next, Schedule},
        },
    },
};

mod chunk;
mod schedule;

/// Maximum number of chunks that move at once. Each has a thread, which mostly waits for shards and for
/// the log.
const MAX_WORKERS: usize = 4;

/// Time after which the mover asks again whether what is in flight has ended.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// Drives the change that is under way.
pub(in crate::sharding) struct Mover {
    platform: Platform,
    state: Mutex<MoverState>,
    changed: Condvar,
}

#[derive(Default)]
struct MoverState {
    /// What is to move, while a change is under way.
    plan: Option<Planned>,
    /// The control step in which the change began that was planned last. The tally is its.
    planned: u64,
    is_closed: bool,
    /// Number of the schedule. Chunks of an earlier one are not its own.
    generation: u64,
    workers: usize,
    threads: Vec<Thread>,
    /// Whether a thread waits for nodes that have left.
    sees_off: bool,
    tally: Tally,
    blocked: BTreeMap<(NodeId, NodeId), Blocked>,
}

/// What a change still has to move.
struct Planned {
    schedule: Schedule,
    heading: Heading,
}

impl MoverState {
    /// Makes the schedule of what the keeper says is still to move. Returns whether a change is under way.
    ///
    /// The keeper is asked under the lock: of two threads that have changed something there, the later one
    /// here may be the earlier one there.
    fn plan(&mut self, keeper: &RingTable, now: Instant) -> bool {
        let Some(RingState { assignment, change: Some(change), .. }) = keeper.state() else { return false };
        if self.planned != change.since {
            self.planned = change.since;
            self.tally = Tally { begun: Some(now), ..Tally::default() };
            self.blocked.clear();
        }
        let moves = assignment.moving(change.toward.other());
        let heading = change.heading();
        self.plan = Some(Planned { schedule: Schedule::new(change.pace, moves), heading });
        self.generation += 1;
        true
    }

    /// As [`plan`](Self::plan), but keeps the schedule of this change in this direction, if there is one: the
    /// chunks that are on their way are its own.
    fn plan_once(&mut self, keeper: &RingTable, now: Instant) -> bool {
        let is_planned = |plan: &Planned| {
            let of_plan = |ring: &RingState| ring.change.as_ref().map(ChangeState::heading) == Some(plan.heading);
            keeper.with_state(of_plan).unwrap_or_default()
        };
        self.plan.as_ref().is_some_and(is_planned) || self.plan(keeper, now)
    }

    /// Takes in how a chunk of the schedule with this number ended.
    fn ended(
        &mut self,
        keeper: &RingTable,
        chunk: &Chunk,
        generation: u64,
        result: Result<MovedChunk, ChunkFailure>,
        now: Instant,
    ) {
        let pair = (chunk.from.clone(), chunk.to.clone());
        let is_own = self.generation == generation;
        let end = match result {
            Ok(moved) => {
                self.tally.take(&moved);
                self.blocked.remove(&pair);
                ChunkEnd::Moved { ranges: moved.ranges, bytes: moved.bytes, held_up: moved.held_up }
            }
            // Some of its ranges have moved, in an earlier chunk whose outcome was not known.
            Err(ChunkFailure { error, .. })
                if is_own && matches!(*error, ClusterError::Keeper(KeeperRefusal::NotThere)) =>
            {
                self.tally.again += 1;
                self.plan(keeper, now);
                return;
            }
            Err(ChunkFailure { error, by, exported }) => {
                self.tally.again += 1;
                self.tally.bytes_again += exported;
                let tries = self.blocked.get(&pair).map_or(0, |blocked| blocked.tries) + 1;
                let reason = crate::error_chain(&*error);
                let (from, to) = pair.clone();
                self.blocked.insert(pair, Blocked { from, to, by, reason, tries });
                ChunkEnd::Failed
            }
        };
        if let Some(plan) = self.plan.as_mut().filter(|_| is_own) {
            plan.schedule.ended(chunk, &end, now);
        }
    }

    /// Keeps the threads to join them in the end, and lets go of those that have ended.
    fn keep(&mut self, thread: Option<Thread>) {
        self.threads.retain(|thread| !thread.is_finished());
        self.threads.extend(thread);
    }
}

/// What a change has done since this process drives it.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(in crate::sharding) struct Tally {
    pub(in crate::sharding) begun: Option<Instant>,
    pub(in crate::sharding) chunks: u64,
    pub(in crate::sharding) records: u64,
    pub(in crate::sharding) bytes: u64,
    /// Number of chunks that failed, and went again.
    pub(in crate::sharding) again: u64,
    /// Number of bytes of chunks that were exported and did not move.
    pub(in crate::sharding) bytes_again: u64,
    pub(in crate::sharding) longest_freeze: Duration,
    /// Number of positions that have moved.
    pub(in crate::sharding) width: u128,
}

impl Tally {
    fn take(&mut self, moved: &MovedChunk) {
        self.chunks += u64::from(!moved.ranges.is_empty());
        self.records += moved.records;
        self.bytes += moved.bytes;
        self.width += moved.ranges.width();
        self.longest_freeze = self.longest_freeze.max(moved.held_up);
    }
}

/// Ranges that could not move at their last try.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Blocked {
    /// The node that has them.
    pub from: NodeId,
    /// The node that is to have them.
    pub to: NodeId,
    /// Transactions with unfinished changes there, if that is the reason.
    pub by: Vec<TxnId>,
    /// The reason, with its causes.
    pub reason: String,
    /// Number of tries since ranges of this pair last moved.
    pub tries: u32,
}

/// What the mover does now.
#[derive(Clone, Debug)]
pub(in crate::sharding) struct MoverView {
    pub(in crate::sharding) tally: Tally,
    pub(in crate::sharding) blocked: Vec<Blocked>,
}

impl Mover {
    pub(in crate::sharding) fn new(platform: Platform) -> Arc<Self> {
        Arc::new(Self { state: Mutex::default(), changed: platform.condvar(), platform })
    }

    /// Blocks for a moment.
    pub(in crate::sharding) fn pause(&self) {
        let mut state = self.state.lock();
        let _ = self.changed.wait_for(&mut state, LOOK_AGAIN);
    }

    /// Drives the change that is under way, as the keeper has it, from now on.
    pub(in crate::sharding) fn drive(self: &Arc<Self>, core: &Arc<ClusterCore>) {
        let mut state = self.state.lock();
        if state.is_closed || !state.plan_once(core.table(), self.platform.now()) {
            return;
        }
        state.blocked.clear();
        for _ in state.workers..MAX_WORKERS {
            let (mover, core) = (Arc::clone(self), Arc::downgrade(core));
            // If no thread can be started at all, the change waits for the next call, or opening.
            if let Ok(thread) = self.platform.spawn("ringpact-mover", move || mover.work(&core)) {
                state.workers += 1;
                state.keep(Some(thread));
            }
        }
        drop(state);
        self.changed.notify_all();
    }

    /// Takes in that the keeper has another pace, or a pause.
    pub(in crate::sharding) fn steer(&self, core: &ClusterCore) {
        let mut state = self.state.lock();
        let pace = core.table().with_state(|ring| Some(ring.change.as_ref()?.pace.clone())).flatten();
        if let (Some(plan), Some(pace)) = (&mut state.plan, pace) {
            plan.schedule.set_pace(pace);
        }
        drop(state);
        self.changed.notify_all();
    }

    /// Blocks while `goes_on`, at most until the given time. Returns whether it has ended.
    pub(in crate::sharding) fn wait_while(&self, goes_on: impl Fn() -> bool, until: Instant) -> bool {
        let mut state = self.state.lock();
        while goes_on() {
            if state.is_closed || self.platform.now() >= until {
                return false;
            }
            // The keeper may end the change before the mover's own threads hear of it.
            let look_again = self.platform.now() + LOOK_AGAIN;
            let _ = self.changed.wait_until(&mut state, until.min(look_again));
        }
        true
    }

    pub(in crate::sharding) fn view(&self) -> MoverView {
        let state = self.state.lock();
        MoverView { tally: state.tally, blocked: state.blocked.values().cloned().collect() }
    }

    /// Ends the threads after their present chunk, and blocks until they have ended.
    pub(in crate::sharding) fn close(&self) {
        let threads = {
            let mut state = self.state.lock();
            state.is_closed = true;
            std::mem::take(&mut state.threads)
        };
        self.changed.notify_all();
        for thread in threads {
            if thread.id() != self.platform.current() {
                thread.join();
            }
        }
    }

    fn work(&self, core: &Weak<ClusterCore>) {
        while let Some(core) = core.upgrade() {
            let mut state = self.state.lock();
            if state.is_closed || state.plan.is_none() {
                break;
            }
            // As the keeper has it, because two threads may come here in another order than there.
            let is_paused = core.table().with_state(|ring| ring.change.as_ref().is_some_and(|it| it.is_paused));
            if is_paused.unwrap_or_default() {
                self.changed.wait(&mut state);
                continue;
            }
            let now = self.platform.now();
            let generation = state.generation;
            let Some(Planned { schedule, heading }) = &mut state.plan else { break };
            let heading = *heading;
            match schedule.next(now) {
                Next::Chunk(chunk) => {
                    drop(state);
                    self.carry_out(&core, &chunk, heading, generation);
                }
                Next::Wait(until) => _ = self.changed.wait_until(&mut state, until),
                Next::Busy => self.changed.wait(&mut state),
                Next::Done => {
                    drop(state);
                    self.finish(&core, generation);
                }
            }
        }
        self.state.lock().workers -= 1;
        self.changed.notify_all();
    }

    fn carry_out(&self, core: &ClusterCore, chunk: &Chunk, heading: Heading, generation: u64) {
        // It calls shards, which may panic. That rolls the chunk back, and must not end the mover.
        let result = catch_unwind(AssertUnwindSafe(|| move_chunk(core, chunk, heading)))
            .unwrap_or_else(|_| Err(ClusterError::Work(Arc::new(ParticipantError::Panicked)).into()));
        let now = self.platform.now();
        self.state.lock().ended(core.table(), chunk, generation, result, now);
        self.changed.notify_all();
    }

    /// Ends the change, if all of it has moved.
    fn finish(&self, core: &Arc<ClusterCore>, generation: u64) {
        let ended = core.control(&Control::End);
        let mut state = self.state.lock();
        if state.generation != generation || state.is_closed {
            return;
        }
        match ended {
            // Another worker has ended it.
            Ok(()) | Err(ClusterError::Keeper(KeeperRefusal::NothingMoves)) => {
                state.plan = None;
                drop(state);
                self.changed.notify_all();
                // If the log is lost later, the store has this ring. If it can't be saved, the log has all of it.
                let _ = core.keeper.checkpoint();
                core.mover.retire(core);
            }
            // Chunks of an earlier schedule are on their way, or have moved after it was made.
            Err(_) => {
                let _ = self.changed.wait_for(&mut state, LOOK_AGAIN);
                if state.generation == generation && !state.is_closed {
                    state.plan(core.table(), self.platform.now());
                }
                drop(state);
                self.changed.notify_all();
            }
        }
    }

    /// Takes nodes out that have left, on a thread of its own, if there are some.
    pub(in crate::sharding) fn retire(self: &Arc<Self>, core: &Arc<ClusterCore>) {
        if !core.has_leavers() {
            return;
        }
        // One thread for all of them, because a node that owes something may take forever.
        let mut state = self.state.lock();
        if std::mem::replace(&mut state.sees_off, true) {
            return;
        }
        let (mover, weak) = (Arc::clone(self), Arc::downgrade(core));
        let seen_off = self.platform.spawn("ringpact-mover", move || {
            if let Some(core) = weak.upgrade() {
                mover.see_off(&core);
            }
        });
        state.sees_off = seen_off.is_ok();
        state.keep(seen_off.ok());
    }

    /// Blocks until nodes that have left are out of the coordinator.
    fn see_off(&self, core: &ClusterCore) {
        loop {
            // It drops shards' connections, which may panic. The next look tries again.
            let all_gone = catch_unwind(AssertUnwindSafe(|| core.retire_leavers())).unwrap_or(false);
            let mut state = self.state.lock();
            // A change that ends from here on starts another thread.
            if state.is_closed || all_gone && !core.has_leavers() {
                state.sees_off = false;
                return;
            }
            let _ = self.changed.wait_for(&mut state, LOOK_AGAIN);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        HashRing, TxnId,
        participant::Service,
        ring::{Pins, Position, PositionRange, RangeSet},
        sharding::{MemoryRingStore, Pace, Side, Tenure, assignment::Layout, keeper::RingWork},
    };

    fn take(keeper: &RingTable, sequence: u64, work: RingWork) {
        let txn = TxnId::new("keeper".parse().unwrap(), crate::Epoch::new(1), sequence);
        let branch = txn.branch(&"ring".parse().unwrap());
        keeper.try_reserve(&branch, &work).unwrap();
        keeper.confirm(&branch, &[work]).unwrap();
    }

    /// Returns a keeper of a ring that a node is joining.
    fn keeper() -> RingTable {
        let layout = |nodes: &[&str]| Layout::new(HashRing::new(nodes.iter().copied()).unwrap(), Pins::new()).unwrap();
        let keeper = RingTable::open(Box::new(MemoryRingStore::new())).unwrap();
        let first = Control::First { ring: keeper.keep(&layout(&["a"]), 1).unwrap() };
        take(&keeper, 1, RingWork::Control { revision: 1, control: first });
        let ring = keeper.keep(&layout(&["a", "b"]), 2).unwrap();
        take(&keeper, 2, RingWork::Control { revision: 2, control: Control::Begin { ring, pace: Pace::new() } });
        keeper
    }

    fn next(state: &mut MoverState, now: Instant) -> (Chunk, u64) {
        let generation = state.generation;
        match state.plan.as_mut().unwrap().schedule.next(now) {
            Next::Chunk(chunk) => (chunk, generation),
            other => panic!("{other:?}"),
        }
    }

    /// The mover did not hear that a part of a range had moved. It then tried the whole range forever.
    #[test]
    fn a_range_of_which_a_part_has_moved_is_planned_again() {
        let (keeper, mut state, now) = (keeper(), MoverState::default(), Instant::now());
        assert!(state.plan_once(&keeper, now));
        let (chunk, generation) = next(&mut state, now);
        let whole = chunk.ranges.iter().next().unwrap();
        let middle = whole.start.as_u64().wrapping_add(u64::try_from(whole.width() / 2).unwrap());
        let part = PositionRange { end: Position::new(middle), ..whole };
        let ranges = RangeSet::from_iter([part]);
        let heading = Heading { since: 2, side: Side::After };
        take(&keeper, 3, RingWork::Moved { ranges, heading, tenure: Tenure::new(2) });
        let refused = ClusterError::Keeper(KeeperRefusal::NotThere).into();
        state.ended(&keeper, &chunk, generation, Err(refused), now);
        let (again, generation) = next(&mut state, now);
        assert!(!again.ranges.overlaps(part) && again.ranges.contains(whole.end));
        assert_eq!((generation, state.tally.again), (2, 1));
    }

    /// Another schedule would have the ranges that are on their way, too.
    #[test]
    fn one_schedule_is_made_of_a_change_and_another_when_it_is_turned_round() {
        let (keeper, mut state, now) = (keeper(), MoverState::default(), Instant::now());
        assert!(state.plan_once(&keeper, now) && state.plan_once(&keeper, now));
        assert_eq!(state.generation, 1);
        take(&keeper, 3, RingWork::Control { revision: 3, control: Control::Turn });
        assert!(state.plan_once(&keeper, now));
        assert_eq!((state.generation, state.plan.unwrap().heading.side), (2, Side::Before));
    }
}
