//! The checks of shards behind their hosts, which hand ranges over and crash.

use std::{sync::Arc, time::Duration};

use super::{
    Ran, ShardHarness,
    case::{Case, KEYS, named, only},
};
use crate::{
    Coordinator, MemoryLog,
    id::{Name, TxnId},
    log::LogId,
    participant::{Call, Participant, Vote},
    ring::{NodeId, RangeSet},
    sharding::{Digest, Keyed, ShardHost, Tenure},
};

/// A log in which the coordinator that the suite plays decides.
const DECISIONS: LogId = LogId::from_bytes(*b"conformance-move");

/// Time for which a release waits. No transaction is under way in these checks.
const PATIENCE: Duration = Duration::from_millis(1);

/// Time in which a transaction ends whose outcome is known. It is far longer than that takes.
const SETTLED_WITHIN: Duration = Duration::from_secs(10);

/// A shard behind its host, with its log.
struct Site<H: ShardHarness> {
    name: Name,
    log: MemoryLog,
    harness: H,
    host: Option<Arc<ShardHost<H::Shard>>>,
}

impl<H: ShardHarness> Site<H> {
    fn host(&self) -> &Arc<ShardHost<H::Shard>> {
        self.host.as_ref().unwrap_or_else(|| unreachable!("a site has a host between its crashes"))
    }

    /// What a client reads of a key, or `None` if it is not let in.
    fn read(&self, key: u32) -> Option<Option<String>> {
        let position = self.harness.work(key, 1).position();
        let read = self.host().read(position, Tenure::NONE, Duration::ZERO, |shard| self.harness.seen(shard, key));
        read.ok()
    }

    /// What is there of a key, also if no client is let in.
    fn has(&self, key: u32) -> Option<String> {
        self.harness.seen(self.host().shard(), key)
    }
}

/// What a release has returned.
struct Moved {
    records: Vec<u8>,
    digest: Digest,
}

impl<H: ShardHarness> Case<'_, H> {
    fn site(&self, name: &str) -> Site<H> {
        let (name, log, harness) = (named(name), MemoryLog::new(), self.harness());
        let host = ShardHost::open(name.as_str(), log.clone(), harness.open());
        let host = Some(Arc::new(self.ok("open", host)));
        Site { name, log, harness, host }
    }

    fn crash(&self, site: &mut Site<H>) {
        site.host = None;
        site.log = site.log.crash();
        let host = ShardHost::open(site.name.as_str(), site.log.clone(), site.harness.open());
        let host = self.ok("open after a crash", host);
        self.that(host.branches().troubled.is_empty(), || {
            format!("after a crash branches could not be restored: {:?}", host.branches().troubled)
        });
        site.host = Some(Arc::new(host));
    }

    fn prepare(&self, site: &Site<H>, txn: &TxnId) {
        let vote = site.host().prepare(&txn.branch(&site.name), &Call::new(DECISIONS));
        self.same("the vote", &self.ok("prepare", vote), &Vote::Yes);
    }

    fn finish(&self, site: &Site<H>, txn: &TxnId) {
        self.ok("commit", site.host().commit(&txn.branch(&site.name), &Call::new(DECISIONS)));
    }

    fn roll_back(&self, site: &Site<H>, txn: &TxnId) {
        self.ok("rollback", site.host().rollback(&txn.branch(&site.name), &Call::new(DECISIONS)));
    }

    fn adopt(&mut self, site: &Site<H>) {
        let txn = self.txn();
        let adopted = site.host().adopt(&txn.branch(&site.name), &RangeSet::full(), Tenure::FIRST);
        self.ok("adopt", adopted);
        self.prepare(site, &txn);
        self.finish(site, &txn);
    }

    fn client(&mut self, site: &Site<H>, key: u32, value: u32) {
        let (txn, work) = (self.txn(), site.harness.work(key, value));
        let worked = site.host().execute(&txn.branch(&site.name), Tenure::NONE, work, Duration::ZERO);
        self.ok("execute", worked);
        self.prepare(site, &txn);
        self.finish(site, &txn);
    }

    fn release(&self, txn: &TxnId, from: &Site<H>, ranges: &RangeSet, tenure: u64) -> Moved {
        let to = NodeId::from("elsewhere");
        let released = from.host().release(&txn.branch(&from.name), ranges, Tenure::new(tenure), &to, PATIENCE);
        let (records, digest) = self.ok("release", released);
        Moved { records, digest }
    }

    fn take(&self, txn: &TxnId, to: &Site<H>, ranges: &RangeSet, tenure: u64, moved: &Moved) {
        let branch = txn.branch(&to.name);
        let taken = to.host().take(&branch, ranges, Tenure::new(tenure), moved.records.clone(), moved.digest);
        self.ok("take", taken);
    }

    /// Hands the ranges over, up to the votes.
    fn promise(&mut self, from: &Site<H>, to: &Site<H>, ranges: &RangeSet, tenure: u64) -> TxnId {
        let txn = self.txn();
        let moved = self.release(&txn, from, ranges, tenure);
        self.take(&txn, to, ranges, tenure, &moved);
        self.prepare(from, &txn);
        self.prepare(to, &txn);
        txn
    }

    fn hand_over(&mut self, from: &Site<H>, to: &Site<H>, ranges: &RangeSet, tenure: u64) {
        let txn = self.promise(from, to, ranges, tenure);
        self.finish(from, &txn);
        self.finish(to, &txn);
    }

    /// Returns a site with all keys, a new one, and the positions of some of the keys.
    fn two_sites(&mut self) -> (Site<H>, Site<H>, RangeSet) {
        let (from, to) = (self.site("conformance.from"), self.site("conformance.to"));
        self.adopt(&from);
        (0..KEYS).for_each(|key| self.client(&from, key, 1 + key));
        let some = (0..KEYS).step_by(3).map(|key| only(from.harness.work(key, 1).position())).collect();
        (from, to, some)
    }

    /// Checks that the keys of these ranges are at one site and all others at the other, as they were.
    fn is_at(&self, there: &Site<H>, ranges: &RangeSet, others: &Site<H>, content: &[Option<String>]) {
        for key in 0..KEYS {
            let is_in = ranges.contains(there.harness.work(key, 1).position());
            let (has, has_not) = if is_in { (there, others) } else { (others, there) };
            let expected = &content[key as usize];
            self.same(&format!("what a client reads of key {key}"), &has.read(key), &Some(expected.clone()));
            self.same(&format!("what a client reads of key {key} at the other shard"), &has_not.read(key), &None);
            self.same(&format!("what the other shard has of key {key}"), &has_not.has(key), &None);
        }
    }
}

fn content<H: ShardHarness>(site: &Site<H>) -> Vec<Option<String>> {
    (0..KEYS).map(|key| site.has(key)).collect()
}

pub(super) fn moves<H: ShardHarness>(case: &mut Case<'_, H>) -> Ran {
    through_a_coordinator(case, true)
}

pub(super) fn rolls_back<H: ShardHarness>(case: &mut Case<'_, H>) -> Ran {
    through_a_coordinator(case, false)
}

fn through_a_coordinator<H: ShardHarness>(case: &mut Case<'_, H>, commits: bool) -> Ran {
    let (from, to, some) = case.two_sites();
    let content = content(&from);
    let mut builder = Coordinator::builder(MemoryLog::new()).name("conformance-mover");
    for site in [&from, &to] {
        builder = builder.participant(site.name.as_str(), Arc::clone(site.host()));
    }
    let coordinator = case.ok("open the coordinator", builder.open());
    let mut txn = coordinator.begin();
    let branch = case.ok("branch", txn.branch(&from.name)).clone();
    let moved = case.release(branch.txn(), &from, &some, 2);
    let branch = case.ok("branch", txn.branch(&to.name)).clone();
    case.take(branch.txn(), &to, &some, 2, &moved);
    for key in 0..KEYS {
        let is_in = some.contains(from.harness.work(key, 1).position());
        let expected = if is_in { None } else { Some(content[key as usize].clone()) };
        case.same("what a client reads before the commit", &from.read(key), &expected);
        case.same("what a client reads there before the commit", &to.read(key), &None);
    }
    if commits {
        case.ok("commit", txn.commit().wait());
        case.that(coordinator.settle(SETTLED_WITHIN), || "the transaction does not end".to_owned());
        case.is_at(&to, &some, &from, &content);
        case.same("what the shard owns that took", &to.host().owned(), &some);
    } else {
        txn.rollback();
        case.that(coordinator.settle(SETTLED_WITHIN), || "the transaction does not end".to_owned());
        case.is_at(&to, &RangeSet::new(), &from, &content);
    }
    // Clients can go on.
    let key = 0;
    case.client(if commits { &to } else { &from }, key, 90);
    case.client(&from, 1, 90);
    Ran::Passed
}

pub(super) fn wrong_digest<H: ShardHarness>(case: &mut Case<'_, H>) -> Ran {
    let (from, to, some) = case.two_sites();
    let txn = case.txn();
    let moved = case.release(&txn, &from, &some, 2);
    let short = Moved { records: Vec::new(), digest: moved.digest };
    let other = Moved { records: moved.records.clone(), digest: Digest::default() };
    for wrong in [short, other] {
        let txn = case.txn();
        let branch = txn.branch(&to.name);
        let taken = to.host().take(&branch, &some, Tenure::new(2), wrong.records, wrong.digest);
        case.that(taken.is_err(), || "the shard took records with the digest of others".to_owned());
        case.that((0..KEYS).all(|key| to.has(key).is_none()), || "refused records stay behind".to_owned());
        case.roll_back(&to, &txn);
    }
    let txn = case.txn();
    case.take(&txn, &to, &some, 2, &moved);
    Ran::Passed
}

pub(super) fn staged<H: ShardHarness>(case: &mut Case<'_, H>) -> Ran {
    for saves in [false, true] {
        let (mut from, mut to, some) = case.two_sites();
        let content = content(&from);
        let txn = case.txn();
        let moved = case.release(&txn, &from, &some, 2);
        case.take(&txn, &to, &some, 2, &moved);
        if saves {
            case.ok("checkpoint", to.host().checkpoint());
        }
        case.crash(&mut from);
        case.crash(&mut to);
        case.is_at(&to, &RangeSet::new(), &from, &content);
        // And once more, now for good.
        case.hand_over(&from, &to, &some, 3);
        case.is_at(&to, &some, &from, &content);
    }
    Ran::Passed
}

pub(super) fn promised<H: ShardHarness>(case: &mut Case<'_, H>) -> Ran {
    for (commits, saves) in [(true, false), (true, true), (false, false), (false, true)] {
        let (mut from, mut to, some) = case.two_sites();
        let content = content(&from);
        let txn = case.promise(&from, &to, &some, 2);
        for site in [&mut from, &mut to] {
            if saves {
                case.ok("checkpoint", site.host().checkpoint());
            }
            case.crash(site);
        }
        for key in (0..KEYS).filter(|key| some.contains(from.harness.work(*key, 1).position())) {
            case.same("what a client reads of a promised range", &[from.read(key), to.read(key)], &[None, None]);
        }
        for site in [&from, &to] {
            if commits { case.finish(site, &txn) } else { case.roll_back(site, &txn) }
        }
        let there = if commits { some } else { RangeSet::new() };
        case.is_at(&to, &there, &from, &content);
        for site in [&mut from, &mut to] {
            case.crash(site);
        }
        case.is_at(&to, &there, &from, &content);
    }
    Ran::Passed
}

pub(super) fn ghost<H: ShardHarness>(case: &mut Case<'_, H>) -> Ran {
    let (mut x, y) = (case.site("conformance.from"), case.site("conformance.to"));
    case.adopt(&x);
    case.client(&x, 0, 1);
    case.client(&x, 1, 2);
    let moving = RangeSet::from_iter([only(x.harness.work(0, 1).position())]);
    case.hand_over(&x, &y, &moving, 2);
    case.client(&y, 0, 3);
    case.hand_over(&y, &x, &moving, 3);
    let content = content(&x);
    // No transaction is known to have ended, so the log repeats all of them.
    for saves in [true, false, true] {
        if saves {
            case.ok("checkpoint", x.host().checkpoint());
        }
        case.crash(&mut x);
        case.is_at(&y, &RangeSet::new(), &x, &content);
    }
    // The same while the position is away: nothing of it comes back.
    case.hand_over(&x, &y, &moving, 4);
    case.ok("checkpoint", x.host().checkpoint());
    case.crash(&mut x);
    case.is_at(&y, &moving, &x, &content);
    Ran::Passed
}

/// Number of steps of [`run`].
const STEPS: usize = 7;

/// Takes all steps. After one of them both shards save, and after one of them both crash.
fn run<H: ShardHarness>(case: &mut Case<'_, H>, saved_after: usize, crashed_after: usize) -> (Site<H>, Site<H>) {
    let (mut x, mut y) = (case.site("conformance.from"), case.site("conformance.to"));
    let position = |key| only(x.harness.work(key, 1).position());
    let moving = RangeSet::from_iter([position(0), position(1)]);
    for step in 0..STEPS {
        match step {
            0 => case.adopt(&x),
            1 => (0..4).for_each(|key| case.client(&x, key, 1 + key)),
            2 => case.hand_over(&x, &y, &moving, 2),
            3 => case.client(&y, 0, 5),
            4 => case.hand_over(&y, &x, &moving, 3),
            5 => [0, 2].into_iter().for_each(|key| case.client(&x, key, 6)),
            _ => case.hand_over(&x, &y, &moving, 4),
        }
        for site in [&mut x, &mut y] {
            if step == saved_after {
                case.ok("checkpoint", site.host().checkpoint());
            }
            if step == crashed_after {
                case.crash(site);
            }
        }
    }
    (x, y)
}

pub(super) fn crashes<H: ShardHarness>(case: &mut Case<'_, H>) -> Ran {
    let all = |(x, y): (Site<H>, Site<H>)| {
        let owned = (x.host().owned(), y.host().owned());
        (owned, content(&x), content(&y))
    };
    let expected = all(run(case, STEPS, STEPS));
    for crashed_after in 0..STEPS {
        for saved_after in (0..=crashed_after).chain([STEPS]) {
            let found = all(run(case, saved_after, crashed_after));
            case.same(
                &format!("what is there, saved after step {saved_after} and crashed after step {crashed_after},"),
                &found,
                &expected,
            );
        }
    }
    Ran::Passed
}
