//! Random lives of a participant on a database that loses connections in the middle of statements,
//! carries lost statements out late, and restarts. After all of it, each branch has ended as it was
//! decided, once, and nothing is left behind.
//!
//! Everything runs on one thread, in an order drawn from the seed, so a failure can be repeated.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    future::{Future, poll_fn},
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, Waker},
};

use fastrand::Rng;
use ringpact::{
    BranchId, Epoch, LogId, Name, ParticipantError, TxnId, Vote,
    participant::{AsyncParticipant, Call, Decision, EndedOpening, LastResourceAnswer, Life, Verb},
};

const SHOP: Name = Name::from_static("shop");
const GOODS: Name = Name::from_static("goods");
const LOG: LogId = LogId::from_bytes([7; 16]);

/// A participant and the database that it keeps its data in. Clones share the database.
pub trait Subject: Clone + 'static {
    type Goods: AsyncParticipant + Clone;

    /// Whether some transactions have it as their last resource.
    const IS_LAST_RESOURCE: bool = false;

    /// Opens the participant `goods`; `None` if the database does not answer.
    async fn open(&self) -> Option<Self::Goods>;
    /// Does work that changes something, and keeps the branch for some steps.
    async fn work(goods: &Self::Goods, branch: &BranchId, steps: u32);
    /// Asks the participant, as a last resource, whether it has committed.
    async fn committed(goods: &Self::Goods, branch: &BranchId) -> Result<LastResourceAnswer, ParticipantError> {
        let _ = (goods, branch);
        Ok(LastResourceAnswer::Unknown)
    }
    /// Lets chance decide what becomes of statements from here on; never with `None`.
    fn chance(&self, chance: Option<Rng>);
    /// The server is stopped at once and started again.
    fn restart(&self);
    /// All that servers do late is done now.
    fn time_passes(&self);
    /// How often the branch's work was applied.
    fn applied(&self, branch: &BranchId) -> u32;
    /// Whether something is still set aside for the branch.
    fn is_held(&self, branch: &BranchId) -> bool;
    /// Looks for what a life has left behind; `txn` gives transactions that were not used.
    async fn look_back(&self, goods: Self::Goods, call: Call, txn: impl Fn(u64) -> TxnId) -> Option<String>;
}

type Task = Pin<Box<dyn Future<Output = ()>>>;

/// What the coordinators know, and what went wrong.
#[derive(Default)]
struct Ledger {
    /// The decisions that are in the coordinator's log, or that a client was told.
    decisions: BTreeMap<BranchId, Decision>,
    delivered: BTreeSet<BranchId>,
    begun: BTreeSet<BranchId>,
    /// The branches of a last resource. It decides them, and the log may not have heard how.
    of_last_resource: BTreeSet<BranchId>,
    wrong: Option<String>,
    last_error: String,
}

struct World<S: Subject> {
    ledger: Rc<RefCell<Ledger>>,
    rng: Rc<RefCell<Rng>>,
    service: Rc<RefCell<Service<S::Goods>>>,
    life: Life,
}

impl<S: Subject> Clone for World<S> {
    fn clone(&self) -> Self {
        let (ledger, rng, service) = (Rc::clone(&self.ledger), Rc::clone(&self.rng), Rc::clone(&self.service));
        Self { ledger, rng, service, life: self.life }
    }
}

/// The process that has the participant. It may be restarted while its coordinators live on.
struct Service<G> {
    /// `None` while it is down.
    goods: Option<G>,
    life: u32,
}

impl<S: Subject> World<S> {
    fn once_in(&self, times: u32) -> bool {
        self.rng.borrow_mut().u32(..times) == 0
    }

    /// Returns what a call says now: the coordinator's log grows.
    fn call(&self) -> Call {
        let mut call = Call::new(LogId::NONE);
        let position = self.life.position + self.ledger.borrow().begun.len() as u64;
        (call.identity, call.epoch, call.position, call.after) =
            (self.life.log, self.life.epoch, position, self.life.after);
        call
    }

    /// Calls the participant. A call that is under way when the service is restarted is lost.
    async fn ask<T, F>(&self, what: impl FnOnce(S::Goods) -> F) -> Option<T>
    where
        F: Future<Output = T>,
    {
        let (goods, life) = {
            let service = self.service.borrow();
            (service.goods.clone()?, service.life)
        };
        let mut call = Box::pin(what(goods));
        poll_fn(|context| {
            if self.service.borrow().life != life {
                return Poll::Ready(None);
            }
            call.as_mut().poll(context).map(Some)
        })
        .await
    }

    async fn about(&self, verb: Verb, branch: &BranchId) -> Result<Option<Decision>, ParticipantError> {
        let (call, branch) = (self.call(), branch.clone());
        let answer = self.ask(|goods| async move {
            match verb {
                Verb::Prepare => Ok(match goods.prepare(&branch, &call).await? {
                    Vote::Yes => Some(Decision::Commit),
                    _ => Some(Decision::Rollback),
                }),
                Verb::Commit => goods.commit(&branch, &call).await.map(|()| None),
                Verb::Rollback => goods.rollback(&branch, &call).await.map(|()| None),
                _ => goods.commit_one_phase(&branch, &call).await.map(Some),
            }
        });
        answer.await.unwrap_or(Err(ParticipantError::Unreachable))
    }

    fn is_wrong(&self, what: String) {
        self.ledger.borrow_mut().wrong.get_or_insert(what);
    }

    fn decide(&self, branch: &BranchId, decision: Decision) {
        self.ledger.borrow_mut().decisions.insert(branch.clone(), decision);
    }

    /// Remembers the last error of a branch, for what is said of tasks that have no end.
    fn note(&self, branch: &BranchId, error: &ParticipantError) {
        let text = format!("{branch}: {}", ringpact::error_chain(error));
        self.ledger.borrow_mut().last_error = text;
    }

    async fn transaction(self, branch: BranchId) {
        self.ledger.borrow_mut().begun.insert(branch.clone());
        let (at_work, steps) = (branch.clone(), if self.once_in(3) { 3 } else { 0 });
        let works = self.ask(|goods| async move { S::work(&goods, &at_work, steps).await });
        let _lost = works.await;
        if self.once_in(4) {
            return self.alone(branch).await;
        }
        if S::IS_LAST_RESOURCE && self.once_in(5) {
            return self.last(branch).await;
        }
        let mut vote = self.about(Verb::Prepare, &branch).await;
        if self.once_in(6) {
            vote = self.about(Verb::Prepare, &branch).await; // the message comes twice
        }
        let decision = match vote {
            Ok(Some(Decision::Commit)) if !self.once_in(3) => Decision::Commit,
            _ => Decision::Rollback,
        };
        self.decide(&branch, decision);
        if self.once_in(5) {
            // The message comes twice, and the first one is still under way.
            let other = self.clone().deliver(branch.clone(), decision);
            both(self.deliver(branch, decision), other).await;
        } else {
            self.deliver(branch, decision).await;
        }
    }

    async fn alone(self, branch: BranchId) {
        loop {
            match self.about(Verb::CommitOnePhase, &branch).await {
                Ok(decision) => {
                    let decision = decision.unwrap_or(Decision::Rollback);
                    self.ledger.borrow_mut().delivered.insert(branch.clone());
                    return self.decide(&branch, decision);
                }
                Err(ParticipantError::Refused(_)) => return self.decide(&branch, Decision::Rollback),
                Err(ParticipantError::Stale) => return self.is_wrong(format!("{branch} has no answer")),
                Err(error) => {
                    self.note(&branch, &error);
                    pause(2).await;
                }
            }
        }
    }

    /// The participant decides, as the last resource. The coordinator asks it when no answer comes.
    async fn last(self, branch: BranchId) {
        self.ledger.borrow_mut().of_last_resource.insert(branch.clone());
        let attempts = self.rng.borrow_mut().u32(..3);
        for _ in 0..attempts {
            if let Some(decision) = self.commits_last(&branch).await {
                return self.has_decided(&branch, decision);
            }
            pause(2).await;
        }
        let mut late = None;
        if self.once_in(2) {
            // A commit is under way while the coordinator asks.
            let commit = async { late = self.commits_last(&branch).await };
            both(self.clone().asks_last(branch.clone()), commit).await;
        } else {
            self.clone().asks_last(branch.clone()).await;
            late = self.commits_last(&branch).await;
        }
        if let Some(decision) = late {
            self.has_decided(&branch, decision);
        }
    }

    async fn commits_last(&self, branch: &BranchId) -> Option<Decision> {
        match self.about(Verb::CommitOnePhase, branch).await {
            Ok(decision) => decision,
            Err(ParticipantError::Refused(_)) => Some(Decision::Rollback),
            Err(error) => {
                self.note(branch, &error);
                None
            }
        }
    }

    async fn asks_last(self, branch: BranchId) {
        let decision = loop {
            let asked = branch.clone();
            match self.ask(|goods| async move { S::committed(&goods, &asked).await }).await {
                Some(Ok(LastResourceAnswer::Committed)) => break Decision::Commit,
                Some(Ok(LastResourceAnswer::NotCommitted)) => break Decision::Rollback,
                Some(Ok(LastResourceAnswer::Unknown)) => return self.is_wrong(format!("{branch} is forgotten")),
                Some(Err(error)) => self.note(&branch, &error),
                None => {}
            }
            pause(2).await;
        };
        self.has_decided(&branch, decision);
    }

    /// Takes in what the last resource has said. It never says anything else.
    fn has_decided(&self, branch: &BranchId, decision: Decision) {
        let mut ledger = self.ledger.borrow_mut();
        ledger.delivered.insert(branch.clone());
        let before = ledger.decisions.insert(branch.clone(), decision);
        if before.is_some_and(|before| before != decision) {
            ledger.wrong.get_or_insert(format!("{branch} was decided {before:?}, and then {decision:?}"));
        }
    }

    async fn deliver(self, branch: BranchId, decision: Decision) {
        loop {
            let verb = if decision == Decision::Commit { Verb::Commit } else { Verb::Rollback };
            match (self.about(verb, &branch).await, decision) {
                (Ok(_), _) | (Err(ParticipantError::UnknownBranch), Decision::Rollback) => break,
                (
                    Err(
                        error @ (ParticipantError::UnknownBranch
                        | ParticipantError::AlreadyCommitted
                        | ParticipantError::AlreadyRolledBack
                        | ParticipantError::Heuristic(_)
                        | ParticipantError::OtherLog(_)
                        | ParticipantError::Superseded(_)),
                    ),
                    _,
                ) => return self.is_wrong(format!("{branch} was to end by {decision:?}: {error}")),
                (Err(error), _) => {
                    self.note(&branch, &error);
                    pause(2).await;
                }
            }
        }
        self.ledger.borrow_mut().delivered.insert(branch);
    }

    /// Introduces the coordinator, as one that continues what the participant knows: it may have
    /// missed the opening before.
    async fn introduced(mut self) -> Self {
        loop {
            let life = self.life;
            match self.ask(|goods| async move { goods.meet(&SHOP, &life).await }).await {
                Some(Ok(())) => return self,
                Some(Err(ParticipantError::Superseded(mismatch))) => {
                    let EndedOpening { epoch, position } = self.life.after;
                    assert!(mismatch.known.epoch < epoch && mismatch.known.position <= position, "{mismatch:?}");
                    let known = EndedOpening { epoch: mismatch.known.epoch, position };
                    self.life = self.life.continuing(known);
                }
                _ => pause(2).await,
            }
        }
    }

    /// What a coordinator does when it is opened and introduced: it settles what is left.
    async fn recover(self) {
        let listed = loop {
            match self.ask(|goods| async move { goods.in_doubt(&SHOP).await }).await {
                Some(Ok(listed)) => break listed,
                _ => pause(2).await,
            }
        };
        let mut open: BTreeMap<_, _> = listed.into_iter().map(|branch| (branch, Decision::Rollback)).collect();
        open.retain(|branch, _| branch.txn().epoch() < self.life.epoch);
        // No log has what the last resource did, so it is asked, also about branches that it does not list.
        let unknown: Vec<_> = {
            let ledger = self.ledger.borrow();
            open.retain(|branch, _| !ledger.of_last_resource.contains(branch));
            let unknown = ledger.of_last_resource.iter().filter(|branch| !ledger.decisions.contains_key(*branch));
            unknown.filter(|branch| branch.txn().epoch() < self.life.epoch).cloned().collect()
        };
        for branch in unknown {
            self.clone().asks_last(branch).await;
        }
        {
            let ledger = self.ledger.borrow();
            let owed = ledger
                .decisions
                .iter()
                .filter(|(branch, decision)| **decision == Decision::Commit && !ledger.delivered.contains(branch));
            open.extend(owed.map(|(branch, _)| (branch.clone(), Decision::Commit)));
        }
        for (branch, decision) in open {
            self.decide(&branch, decision);
            self.clone().deliver(branch, decision).await;
        }
    }
}

pub async fn pause(times: u32) {
    for _ in 0..times {
        let mut has_paused = false;
        poll_fn(|_| if std::mem::replace(&mut has_paused, true) { Poll::Ready(()) } else { Poll::Pending }).await;
    }
}

async fn both(one: impl Future<Output = ()>, other: impl Future<Output = ()>) {
    let (mut one, mut other) = (Box::pin(one), Box::pin(other));
    let (mut is_one_done, mut is_other_done) = (false, false);
    poll_fn(|context| {
        is_one_done = is_one_done || one.as_mut().poll(context).is_ready();
        is_other_done = is_other_done || other.as_mut().poll(context).is_ready();
        if is_one_done && is_other_done { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
}

/// Polls the tasks in random order, this many times or until all are done.
fn poll_some(tasks: &mut Vec<Task>, rng: &Rc<RefCell<Rng>>, most: usize) {
    let mut context = Context::from_waker(Waker::noop());
    for _ in 0..most {
        if tasks.is_empty() {
            return;
        }
        let chosen = rng.borrow_mut().usize(..tasks.len());
        if tasks[chosen].as_mut().poll(&mut context).is_ready() {
            drop(tasks.swap_remove(chosen));
        }
    }
}

fn run_to_end<T: 'static>(rng: &Rc<RefCell<Rng>>, task: impl Future<Output = T> + 'static) -> T {
    let result = Rc::new(RefCell::new(None));
    let told = Rc::clone(&result);
    let mut tasks: Vec<Task> = vec![Box::pin(async move { *told.borrow_mut() = Some(task.await) })];
    poll_some(&mut tasks, rng, 1_000_000);
    result.take().expect("it ends")
}

async fn open<S: Subject>(subject: S) -> S::Goods {
    loop {
        if let Some(goods) = subject.open().await {
            return goods;
        }
    }
}

/// Returns what went wrong, if something did.
pub fn live<S: Subject>(seed: u64, database: S) -> Option<String> {
    let rng = Rc::new(RefCell::new(Rng::with_seed(seed)));
    let chance = rng.borrow_mut().fork();
    database.chance(Some(chance));
    let ledger = Rc::new(RefCell::new(Ledger::default()));
    let (mut last, mut position, mut earlier) = (EndedOpening::default(), 1, None::<Life>);
    let lives = rng.borrow_mut().u64(1..5);
    for number in 1..=lives {
        let epoch = Epoch::new(number * 10);
        let goods = run_to_end(&rng, open(database.clone()));
        let service = Rc::new(RefCell::new(Service { goods: Some(goods), life: 0 }));
        let life = Life::new(LOG, epoch, position).continuing(last);
        let world = World::<S> { ledger: Rc::clone(&ledger), rng: Rc::clone(&rng), service: Rc::clone(&service), life };
        let world = run_to_end(&rng, world.introduced());
        let mut tasks: Vec<Task> = vec![Box::pin(world.clone().recover())];
        for sequence in 1..=rng.borrow_mut().u64(1..8) {
            let branch = TxnId::new(SHOP, epoch, sequence).branch(&GOODS);
            tasks.push(Box::pin(world.clone().transaction(branch)));
        }
        if rng.borrow_mut().u32(..4) == 0 {
            let most = rng.borrow_mut().usize(..60);
            poll_some(&mut tasks, &rng, most);
            database.restart();
        }
        if rng.borrow_mut().u32(..3) == 0 {
            let most = rng.borrow_mut().usize(..60);
            poll_some(&mut tasks, &rng, most);
            // What the old process had under way is dropped first, with its locks.
            let life = service.borrow().life + 1;
            *service.borrow_mut() = Service { goods: None, life };
            tasks.retain_mut(|task| task.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
            if rng.borrow_mut().bool() {
                database.time_passes();
            }
            service.borrow_mut().goods = Some(run_to_end(&rng, open(database.clone())));
            // The coordinator's earlier life may still be alive. The participant has listened to this one.
            if let Some(earlier) = earlier {
                let goods = service.borrow().goods.clone().expect("it is up");
                let heard = async move { goods.meet(&SHOP, &earlier).await.is_ok() };
                if run_to_end(&rng, heard) {
                    return Some(format!("it listens to {earlier} after {}", world.life));
                }
            }
        }
        let is_last = number == lives;
        if is_last {
            poll_some(&mut tasks, &rng, 200);
            database.chance(None);
        }
        let most = if is_last { 100_000 } else { rng.borrow_mut().usize(..120) };
        poll_some(&mut tasks, &rng, most);
        if is_last && !tasks.is_empty() {
            return Some(format!("{} tasks have no end; last error: {}", tasks.len(), ledger.borrow().last_error));
        }
        if is_last {
            let goods = service.borrow().goods.clone().expect("it is up");
            let (call, subject) = (world.call(), database.clone());
            let unused = move |sequence| TxnId::new(SHOP, epoch, sequence);
            let looked = async move { subject.look_back(goods, call, unused).await };
            if let Some(wrong) = run_to_end(&rng, looked) {
                return Some(wrong);
            }
        }
        earlier = Some(life);
        position += 100; // more than the transactions of all lives
        last = EndedOpening { epoch, position: position - 1 };
    }
    database.time_passes();
    let ledger = ledger.borrow();
    if ledger.wrong.is_some() {
        return ledger.wrong.clone();
    }
    for branch in &ledger.begun {
        let (applied, decision) = (database.applied(branch), ledger.decisions.get(branch));
        let fits = match decision {
            Some(Decision::Commit) => applied == 1,
            Some(Decision::Rollback) => applied == 0,
            None => applied <= 1, // it committed alone, and no client was told
        };
        if !fits {
            return Some(format!("{branch} was decided {decision:?} and is applied {applied} times"));
        }
        if database.is_held(branch) {
            return Some(format!("{branch} was decided {decision:?} and is still held"));
        }
    }
    None
}

/// Number of seeds that tests run.
pub fn seeds() -> u64 {
    if std::env::var_os("RINGPACT_LONG").is_some() { 200_000 } else { 4_000 }
}

/// Runs all seeds.
pub fn every_branch_ends_as_decided<S: Subject>(make: impl Fn() -> S) {
    for seed in 0..seeds() {
        if let Some(wrong) = live(seed, make()) {
            panic!("seed {seed}: {wrong}");
        }
    }
}

/// Runs seeds until one finds what is wrong with the subject.
pub fn is_found<S: Subject>(make: impl Fn() -> S) -> String {
    let found = (0..16_000).find_map(|seed| Some((seed, live(seed, make())?)));
    let (seed, wrong) = found.expect("some seed finds it");
    format!("seed {seed}: {wrong}")
}
