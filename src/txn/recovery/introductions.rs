//! Holds back the participants' reports until all participants have met this life of the
//! coordinator.
//!
//! A log that was restored from an older copy lacks decisions. The participant that holds a promise
//! need not be the one that has heard of the decision. So a rollback as soon as the promise is
//! reported could tear the transaction apart, a moment before another participant says that the
//! copy is old. So the coordinator acts on reports only when every participant has accepted it, or
//! when it has waited long enough for one that does not answer. While one refuses, it acts on none.
//! One that does not answer is asked several times meanwhile: a single lost message must not make it
//! an absent one, because its refusal may have been in that message.

use std::{
    collections::BTreeSet,
    mem,
    sync::{Arc, Weak},
    time::Duration,
};

use parking_lot::Mutex;

use crate::{
    id::Name,
    platform::{Platform, ThreadId},
    txn::{
        engine::{
            coordinator_core::CoordinatorCore,
            scheduler::{Runnable, Runner},
        },
        policy::after,
        recovery::InDoubtReport,
    },
};

/// Number of times that a participant is asked before the coordinator no longer waits for it.
const ASKED_BEFORE_ABSENT: u32 = 4;

pub(in crate::txn) struct Introductions {
    state: Mutex<Reports>,
    platform: Platform,
}

struct Reports {
    /// Number of participants that have not answered.
    unanswered: usize,
    refused_by: BTreeSet<Name>,
    /// Whether the coordinator has waited long enough for those that have not answered.
    is_late: bool,
    /// Whether the coordinator is gone. Then nothing more is taken in.
    is_over: bool,
    held: Vec<InDoubtReport>,
    /// The threads that open the coordinator, or add a participant. What is settled on one of them is
    /// settled when its call returns.
    callers: Vec<ThreadId>,
}

impl Reports {
    /// Takes out the reports that the coordinator may act on now.
    fn release(&mut self) -> Vec<InDoubtReport> {
        let may_settle = self.refused_by.is_empty() && (self.unanswered == 0 || self.is_late);
        if may_settle { mem::take(&mut self.held) } else { Vec::new() }
    }
}

impl Introductions {
    pub(in crate::txn) fn new(participants: usize, platform: &Platform) -> Arc<Self> {
        let state = Mutex::new(Reports {
            unanswered: participants,
            refused_by: BTreeSet::new(),
            is_late: false,
            is_over: false,
            held: Vec::new(),
            callers: vec![platform.current()],
        });
        Arc::new(Self { state, platform: platform.clone() })
    }

    /// Notes that this thread adds a participant, which is asked what it holds.
    pub(in crate::txn) fn one_more(&self) {
        let mut state = self.state.lock();
        state.unanswered += 1;
        state.callers.push(self.platform.current());
    }

    /// Notes that this thread has added a participant, whether it has answered or not.
    pub(in crate::txn) fn one_more_is_added(&self) {
        let (mut state, own) = (self.state.lock(), self.platform.current());
        if let Some(place) = state.callers.iter().rposition(|caller| *caller == own) {
            state.callers.remove(place);
        }
    }

    fn settle(&self, answers: Vec<InDoubtReport>) {
        if answers.is_empty() {
            return;
        }
        let is_caller = self.state.lock().callers.contains(&self.platform.current());
        let by = if is_caller { Runner::Caller } else { Runner::Worker };
        answers.into_iter().for_each(|answer| answer.settle(by));
    }

    /// Sets the time after which the coordinator no longer waits for a participant that does not
    /// answer. It is the time after which a message counts as lost.
    pub(in crate::txn) fn wait_no_longer_than(self: &Arc<Self>, core: &CoordinatorCore) {
        let weak = Arc::downgrade(self);
        let this: Weak<dyn Runnable> = weak;
        core.scheduler.enqueue_at(after(core.platform.now(), core.policy.delivery_timeout), this);
    }

    /// Returns the time after which a question without an answer is asked again.
    pub(in crate::txn) fn asks_again_after(&self, delivery_timeout: Duration) -> Duration {
        if self.state.lock().is_late { delivery_timeout } else { delivery_timeout / ASKED_BEFORE_ABSENT }
    }

    pub(in crate::txn) fn refused(&self, participant: &Name) {
        self.state.lock().refused_by.insert(participant.clone());
    }

    /// Drops the reports, because the coordinator is gone. They hold the coordinator, which holds
    /// this value: this breaks the circle of references.
    pub(in crate::txn) fn give_up(&self) {
        let held = {
            let mut state = self.state.lock();
            state.is_over = true;
            mem::take(&mut state.held)
        };
        drop(held);
    }

    pub(in crate::txn) fn accepted(&self, answer: InDoubtReport) {
        let released = {
            let mut state = self.state.lock();
            state.unanswered = state.unanswered.saturating_sub(1);
            state.refused_by.remove(answer.participant());
            if state.is_over {
                return;
            }
            // An empty report leaves nothing to presume.
            if answer.is_empty() && state.refused_by.is_empty() {
                let mut released = state.release();
                released.push(answer);
                released
            } else {
                state.held.push(answer);
                state.release()
            }
        };
        self.settle(released);
    }
}

impl Runnable for Introductions {
    fn run(self: Arc<Self>, _: Runner) {
        let released = {
            let mut state = self.state.lock();
            state.is_late = true;
            state.release()
        };
        self.settle(released);
    }
}
