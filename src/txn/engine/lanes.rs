//! A participant's lane: the threads on which the coordinator calls that participant when no
//! client's thread does.
//!
//! A participant that hangs blocks its own lane and nothing else: no time-out, and no other
//! participant.

use std::{
    cell::Cell,
    collections::{BTreeMap, HashSet, VecDeque},
    mem,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;

use crate::{
    participant::Verb,
    platform::{Condvar, Platform, Thread, Woken},
    txn::table::key::TxnKey,
};

/// Maximum number of threads of a lane. While one hangs in a call for one branch, the other serves
/// the rest.
const MAX_THREADS: usize = 2;

/// Time without work after which a thread ends.
const LINGER: Duration = Duration::from_secs(5);

/// Subject of an errand: a branch of an open transaction and the message to it, `None` for the question
/// whether a last resource has committed; or `None` for the question at opening.
pub(in crate::txn) type About = Option<(TxnKey, usize, Option<Verb>)>;

/// A call of the participant. It must call its argument when it is over, before it passes the
/// answer on: the receiver of the answer may run the next errand about the same branch.
type Errand = Box<dyn FnOnce(&dyn Fn()) + Send>;

pub(in crate::txn) struct Lane {
    platform: Platform,
    state: Mutex<LaneState>,
    work: Condvar,
}

#[derive(Default)]
struct LaneState {
    queue: VecDeque<(About, Errand)>,
    /// Subjects that are queued or under way. It holds none twice, so a lane's queue is no longer
    /// than the list of what is open.
    about: HashSet<About>,
    threads: BTreeMap<usize, Thread>,
    started: usize,
    idle: usize,
    closed: bool,
}

impl Lane {
    pub(in crate::txn) fn new(platform: Platform) -> Arc<Self> {
        Arc::new(Self { state: Mutex::default(), work: platform.condvar(), platform })
    }

    /// Queues the errand to run on one of the lane's threads. The errand calls its argument when
    /// the call is over, before it passes the answer on. An errand with a subject that is already
    /// queued or under way is dropped: the first one brings the answer to both.
    pub(in crate::txn) fn run(self: &Arc<Self>, about: About, errand: impl FnOnce(&dyn Fn()) + Send + 'static) {
        let mut state = self.state.lock();
        if state.closed || !state.about.insert(about) {
            return;
        }
        state.queue.push_back((about, Box::new(errand)));
        if state.idle >= state.queue.len() || state.threads.len() == MAX_THREADS {
            self.work.notify_one();
            return;
        }
        let (lane, number) = (Arc::clone(self), state.started);
        state.started += 1;
        // Under the lock, because the thread removes itself from the map when it ends. If no thread
        // can be started and none runs, the errand is dropped, and the message is repeated like any
        // other that gets no answer.
        match self.platform.spawn("ringpact-lane", move || lane.serve(number)) {
            Ok(thread) => drop(state.threads.insert(number, thread)),
            Err(_) if state.threads.is_empty() => {
                let dropped = (mem::take(&mut state.queue), mem::take(&mut state.about));
                drop(state);
                drop(dropped);
            }
            Err(_) => {}
        }
    }

    /// Makes the threads end after their present errand, and returns them, so that the caller can
    /// join them.
    pub(in crate::txn) fn close(&self) -> Vec<Thread> {
        self.stop();
        mem::take(&mut self.state.lock().threads).into_values().collect()
    }

    /// Makes the threads end after their present errand, without waiting for them, and drops the queue.
    pub(in crate::txn) fn stop(&self) {
        let mut state = self.state.lock();
        state.closed = true;
        let dropped = mem::take(&mut state.queue);
        drop(state);
        self.work.notify_all();
        drop(dropped);
    }

    fn serve(&self, number: usize) {
        let mut state = self.state.lock();
        while !state.closed {
            if let Some((about, errand)) = state.queue.pop_front() {
                drop(state);
                let is_over = Cell::new(false);
                let over = || {
                    if !is_over.replace(true) {
                        self.state.lock().about.remove(&about);
                    }
                };
                let _ = catch_unwind(AssertUnwindSafe(|| errand(&over)));
                over();
                state = self.state.lock();
                continue;
            }
            state.idle += 1;
            let woken = self.work.wait_for(&mut state, LINGER);
            state.idle -= 1;
            if woken == Woken::TimedOut && state.queue.is_empty() && !state.closed {
                let own = state.threads.remove(&number);
                drop(state);
                drop(own);
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;
    use crate::id::{Epoch, TxnOrdinal};

    fn about(sequence: u64, verb: Verb) -> About {
        Some((TxnKey::of(TxnOrdinal { epoch: Epoch::new(1), sequence }), 0, Some(verb)))
    }

    #[test]
    fn an_errand_that_is_queued_or_under_way_is_not_queued_again() {
        let lane = Lane::new(Platform::default());
        let (tell, told) = mpsc::channel();
        let (release, held) = mpsc::channel::<()>();
        lane.run(about(1, Verb::Rollback), move |_| _ = held.recv());
        for _ in 0..10 {
            for number in [1, 2] {
                let tell = tell.clone();
                lane.run(about(number, Verb::Rollback), move |_| tell.send(number).expect("the test waits for it"));
            }
        }
        let (first, soon) = (told.recv_timeout(Duration::from_secs(5)), Duration::from_millis(50));
        assert_eq!(first, Ok(2), "the other thread is free");
        drop(release);
        assert!(told.recv_timeout(soon).is_err() || lane.state.lock().started <= MAX_THREADS);
        lane.close().into_iter().for_each(Thread::join);
    }

    #[test]
    fn a_panic_costs_no_thread() {
        let lane = Lane::new(Platform::default());
        let (tell, told) = mpsc::channel();
        for number in 0..=MAX_THREADS as u64 {
            lane.run(about(number, Verb::Commit), |_| panic!("the test wants this to panic"));
        }
        lane.run(about(9, Verb::Commit), move |_| tell.send(()).expect("the test waits for it"));
        told.recv_timeout(Duration::from_secs(5)).expect("errands after them run");
        lane.close().into_iter().for_each(Thread::join);
    }

    /// A bug: the next message to the branch counted as a duplicate of the one whose answer it
    /// followed, and was not sent.
    #[test]
    fn a_finished_errand_is_no_duplicate_of_the_next() {
        let lane = Lane::new(Platform::default());
        let (tell, told) = mpsc::channel();
        let again = Arc::clone(&lane);
        lane.run(about(1, Verb::Commit), move |over| {
            over();
            again.run(about(1, Verb::Commit), move |_| tell.send(()).expect("the test waits for it"));
        });
        told.recv_timeout(Duration::from_secs(5)).expect("it is run");
        lane.close().into_iter().for_each(Thread::join);
    }
}
