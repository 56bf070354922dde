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
        KeeperRefusal, Side,
        keeper::{Control, RingState, RingTable},
        mover::{
            chunk::{ChunkFailure, move_chunk},
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
    /// The ranges that are to move, and the side that they move to, while a change is under way.
    schedule: Option<(Schedule, Side)>,
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

impl MoverState {
    /// Makes the schedule of what the keeper says is still to move. Returns whether a change is under way.
    ///
    /// The keeper is asked under the lock: of two threads that have changed something there, the later one
    /// here may be the earlier one there.
    fn plan(&mut self, keeper: &RingTable) -> bool {
        let Some(RingState { assignment, change: Some(change), .. }) = keeper.state() else { return false };
        let moves = assignment.moving(change.toward.other());
        self.schedule = Some((Schedule::new(change.pace, moves), change.toward));
        self.generation += 1;
        true
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
        let is_new = state.schedule.is_none();
        if state.is_closed || !state.plan(core.table()) {
            return;
        }
        state.blocked.clear();
        if is_new {
            state.tally = Tally { begun: Some(self.platform.now()), ..Tally::default() };
        }
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
        if let (Some((schedule, _)), Some(pace)) = (&mut state.schedule, pace) {
            schedule.set_pace(pace);
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
            if state.is_closed || state.schedule.is_none() {
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
            let Some((schedule, side)) = &mut state.schedule else { break };
            let side = *side;
            match schedule.next(now) {
                Next::Chunk(chunk) => {
                    drop(state);
                    self.carry_out(&core, &chunk, side, generation);
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

    fn carry_out(&self, core: &ClusterCore, chunk: &Chunk, side: Side, generation: u64) {
        // It calls shards, which may panic. That rolls the chunk back, and must not end the mover.
        let result = catch_unwind(AssertUnwindSafe(|| move_chunk(core, chunk, side)))
            .unwrap_or_else(|_| Err(ClusterError::Work(Arc::new(ParticipantError::Panicked)).into()));
        let now = self.platform.now();
        let mut state = self.state.lock();
        let pair = (chunk.from.clone(), chunk.to.clone());
        let end = match result {
            Ok(moved) => {
                let width: u128 = moved.ranges.width();
                let tally = &mut state.tally;
                tally.chunks += u64::from(!moved.ranges.is_empty());
                tally.records += moved.records;
                tally.bytes += moved.bytes;
                tally.width += width;
                tally.longest_freeze = tally.longest_freeze.max(moved.held_up);
                state.blocked.remove(&pair);
                ChunkEnd::Moved { ranges: moved.ranges, bytes: moved.bytes, held_up: moved.held_up }
            }
            Err(ChunkFailure { error, by, exported }) => {
                state.tally.again += 1;
                state.tally.bytes_again += exported;
                let tries = state.blocked.get(&pair).map_or(0, |blocked| blocked.tries) + 1;
                let reason = crate::error_chain(&*error);
                let (from, to) = pair.clone();
                state.blocked.insert(pair, Blocked { from, to, by, reason, tries });
                ChunkEnd::Failed
            }
        };
        if state.generation == generation
            && let Some((schedule, _)) = &mut state.schedule
        {
            schedule.ended(chunk, &end, now);
        }
        drop(state);
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
                state.schedule = None;
                drop(state);
                self.changed.notify_all();
                core.mover.retire(core);
            }
            // Chunks of an earlier schedule are on their way, or have moved after it was made.
            Err(_) => {
                let _ = self.changed.wait_for(&mut state, LOOK_AGAIN);
                if state.generation == generation && !state.is_closed {
                    state.plan(core.table());
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
