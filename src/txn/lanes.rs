//! A participant's lane: where the coordinator calls it by itself, on no client's thread.
//!
//! A participant that hangs holds up its own lane and nothing else: no time-out, and no other participant.

use std::{
    cell::Cell,
    collections::{BTreeMap, HashSet, VecDeque},
    mem,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;

use super::shared::Key;
use crate::{
    participant::Verb,
    platform::{Condvar, Platform, Thread, Woken},
};

/// Threads of a lane at the most: one that hangs over one branch leaves another one for the rest.
const THREADS: usize = 2;

/// A thread that has had nothing to do for so long ends.
const LINGERS: Duration = Duration::from_secs(5);

/// What an errand is about: a branch of an open transaction and what it is told; or nothing of it, for the query what is in doubt.
pub(super) type About = Option<(Key, usize, Verb)>;

/// Has to say when it is over, before anybody hears of the answer: who does may have the next one to run.
type Errand = Box<dyn FnOnce(&dyn Fn()) + Send>;

pub(super) struct Lane {
    platform: Platform,
    state: Mutex<State>,
    work: Condvar,
}

#[derive(Default)]
struct State {
    queue: VecDeque<(About, Errand)>,
    /// What is queued or under way. There is nothing of which it holds two, so a lane's queue is no longer than what is open.
    about: HashSet<About>,
    threads: BTreeMap<usize, Thread>,
    started: usize,
    idle: usize,
    closed: bool,
}

impl Lane {
    pub(super) fn new(platform: Platform) -> Arc<Self> {
        Arc::new(Self { state: Mutex::default(), work: platform.condvar(), platform })
    }

    /// Has the errand run on one of the lane's threads. It calls what it is given once it is over, and before it tells. One about what is queued or under way already is dropped: the first
    /// one brings the answer to both.
    pub(super) fn run(self: &Arc<Self>, about: About, errand: impl FnOnce(&dyn Fn()) + Send + 'static) {
        let mut state = self.state.lock();
        if state.closed || !state.about.insert(about) {
            return;
        }
        state.queue.push_back((about, Box::new(errand)));
        if state.idle >= state.queue.len() || state.threads.len() == THREADS {
            self.work.notify_one();
            return;
        }
        let (lane, number) = (Arc::clone(self), state.started);
        state.started += 1;
        // Under the lock: the thread takes itself out of the map when it ends. Where there is none to be had, and none is at
        // work, the errand is dropped, and the message is repeated like any other that gets no answer.
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

    /// Ends the threads once they come back from what they are at, and gives them to be waited for.
    pub(super) fn close(&self) -> Vec<Thread> {
        let mut state = self.state.lock();
        state.closed = true;
        let dropped = mem::take(&mut state.queue);
        let threads = mem::take(&mut state.threads);
        drop(state);
        self.work.notify_all();
        drop(dropped);
        threads.into_values().collect()
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
            let woken = self.work.wait_for(&mut state, LINGERS);
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
        Some((Key::of(TxnOrdinal { epoch: Epoch::new(1), sequence }), 0, verb))
    }

    #[test]
    fn what_is_queued_or_under_way_is_not_queued_again() {
        let lane = Lane::new(Platform::default());
        let (tell, told) = mpsc::channel();
        let (let_go, held) = mpsc::channel::<()>();
        lane.run(about(1, Verb::Rollback), move |_| _ = held.recv());
        for _ in 0..10 {
            for number in [1, 2] {
                let tell = tell.clone();
                lane.run(about(number, Verb::Rollback), move |_| tell.send(number).expect("the test waits for it"));
            }
        }
        let (first, soon) = (told.recv_timeout(Duration::from_secs(5)), Duration::from_millis(50));
        assert_eq!(first, Ok(2), "the other thread is free");
        drop(let_go);
        assert!(told.recv_timeout(soon).is_err() || lane.state.lock().started <= THREADS);
        lane.close().into_iter().for_each(Thread::join);
    }

    #[test]
    fn a_panic_costs_no_thread() {
        let lane = Lane::new(Platform::default());
        let (tell, told) = mpsc::channel();
        for number in 0..=THREADS as u64 {
            lane.run(about(number, Verb::Commit), |_| panic!("the test wants this to panic"));
        }
        lane.run(about(9, Verb::Commit), move |_| tell.send(()).expect("the test waits for it"));
        told.recv_timeout(Duration::from_secs(5)).expect("what comes after them is run");
        lane.close().into_iter().for_each(Thread::join);
    }

    /// The next message to the branch was taken for a repeat of the one whose answer it followed, and was not sent.
    #[test]
    fn one_that_is_over_is_no_twin_of_the_next() {
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
