//! The work: how each figure is taken, in the same way for all.

use std::{
    cell::RefCell,
    collections::HashMap,
    hint::black_box,
    rc::Rc,
    time::{Duration, Instant},
};

use stats_alloc::Region;

use super::peer::{Key, Member, Part, Peer, What, members};
use crate::{
    ALLOCATOR,
    report::{Contender, Contest, Report},
};

/// Number of keys: enough that the branch predictor cannot learn them, few enough to stay in the
/// cache.
const KEYS: usize = 32_768;
/// Number of members that join and leave in turn: enough that the branch predictor does not know
/// them. In a real program no member joins a thousand times over.
const NEWCOMERS: usize = 64;
/// Number of keys counted for each node if a peer's balance cannot be computed. They add about
/// sqrt(2 ln N / this) of noise.
const COUNTED_A_NODE: usize = 10_000;
/// Number of nodes beyond which counting takes too many keys.
const COUNTABLE: usize = 1_000;

/// How long to measure.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Pace {
    /// Long enough for figures that repeat.
    Full,
    /// Just long enough to see that it works.
    Quick,
}

impl Pace {
    /// Returns about how long one turn of a contender lasts.
    fn turn(self) -> Duration {
        match self {
            Self::Full => Duration::from_millis(4),
            Self::Quick => Duration::from_micros(200),
        }
    }
}

/// All contests at one number of nodes.
pub struct Course {
    nodes: usize,
    pace: Pace,
    members: Rc<[Member]>,
    /// The members that join and leave, one after the other.
    newcomers: Rc<[Member]>,
    /// The members, with a tenth of them replaced by others.
    changed: Rc<[Member]>,
    keys: Rc<[Key]>,
    contests: Vec<(What, Contest)>,
}

impl Course {
    /// Returns contests without contenders. Only what has `only` in its name is measured.
    pub fn new(nodes: usize, pace: Pace, only: Option<&str>) -> Self {
        let all = members(nodes + nodes.div_ceil(10).max(NEWCOMERS));
        let mut random = fastrand::Rng::with_seed(7);
        let contests = What::ALL
            .into_iter()
            .filter(|what| only.is_none_or(|part| what.name().contains(part)))
            .map(|what| (what, Contest { what: what.name(), nodes, unit: what.unit(), contenders: Vec::new() }))
            .collect();
        Self {
            nodes,
            pace,
            members: all[..nodes].into(),
            newcomers: all[nodes..nodes + NEWCOMERS].into(),
            changed: all[nodes.div_ceil(10)..][..nodes].into(),
            keys: (0..KEYS).map(|_| Key::new(random.u128(..))).collect(),
            contests,
        }
    }

    /// Enters a peer for every contest in which it takes part.
    pub fn enter<P: Peer>(&mut self, report: &mut Report) {
        // Built once and shared; a peer that changes gets a ring of its own.
        let mut ring: Option<Rc<P>> = None;
        for index in 0..self.contests.len() {
            let what = self.contests[index].0;
            match P::part(what, self.nodes) {
                Part::Lacks => {}
                Part::Spared(reason) => report.skip(format!("Not measured: {reason}.")),
                Part::Takes => {
                    let ring = ring.get_or_insert_with(|| Rc::new(P::build(&self.members)));
                    if what == What::MaxOverMean && self.nodes > COUNTABLE && ring.max_over_mean().is_none() {
                        report.skip(format!(
                            "Not measured: balance above {COUNTABLE} nodes of those that don't show their tokens: the \
                             noise of counting would hide it."
                        ));
                        continue;
                    }
                    let run = self.work(what, ring);
                    self.contests[index].1.contenders.push(Contender { implementation: P::NAME, run });
                }
            }
        }
    }

    /// Returns the contests to run. Contests without contenders are left out.
    pub fn into_contests(self) -> Vec<Contest> {
        self.contests.into_iter().map(|(_, contest)| contest).filter(|contest| !contest.contenders.is_empty()).collect()
    }

    fn work<P: Peer>(&self, what: What, ring: &Rc<P>) -> Box<dyn FnMut() -> f64> {
        let ring = Rc::clone(ring);
        match what {
            What::Lookup => self.each_key(move |keys| of_each(&*ring, keys, P::owner)),
            What::LookupBatch => self.each_key(move |keys| ring.owners(keys)),
            // A bit of the previous owner goes into the next key, so that look-ups cannot overlap.
            What::LookupDependent => self.each_key(move |keys| {
                keys.iter().fold(0, |owner, key| ring.owner(&Key::new(key.number() ^ ((owner as u128 >> 4) & 1))))
            }),
            What::Replicas3 => self.each_key(move |keys| of_each(&*ring, keys, P::replicas3)),
            What::Replicas3Zones => self.each_key(move |keys| of_each(&*ring, keys, P::replicas3_zones)),
            What::SharedLookup => self.each_key(move |keys| ring.shared_owners(keys)),
            What::Build => {
                let members = Rc::clone(&self.members);
                // Freeing the ring is not part of building it.
                self.repeated(move || {
                    let (time, built) = timed(|| P::build(black_box(&members)));
                    drop(built);
                    time
                })
            }
            What::AddNode | What::RemoveNode => {
                let (members, newcomers) = (Rc::clone(&self.members), Rc::clone(&self.newcomers));
                let own: RefCell<Option<P>> = RefCell::new(None);
                let mut turn = 0;
                self.repeated(move || {
                    let mut own = own.borrow_mut();
                    let ring = own.get_or_insert_with(|| P::build(&members));
                    let newcomer = newcomers[turn % NEWCOMERS];
                    turn += 1;
                    let (adding, ()) = timed(|| ring.add(black_box(newcomer)));
                    let (removing, ()) = timed(|| ring.remove(black_box(newcomer)));
                    if what == What::AddNode { adding } else { removing }
                })
            }
            What::PlanJoin => {
                let joined: Vec<_> = self.members.iter().copied().chain([self.newcomers[0]]).collect();
                let (after, newcomer) = (P::build(&joined), self.newcomers[0]);
                self.repeated(move || timed(|| black_box(ring.plan_join(black_box(&after), newcomer))).0)
            }
            What::PlanFull => {
                let after = ring.changed(&self.changed);
                self.repeated(move || timed(|| black_box(ring.plan(black_box(&after)))).0)
            }
            What::BytesPerToken => {
                let region = Region::new(ALLOCATOR);
                let built = P::build(&self.members);
                let change = region.change();
                let bytes = change.bytes_allocated as f64 - change.bytes_deallocated as f64;
                let figure = bytes / built.tokens() as f64;
                Box::new(move || figure)
            }
            What::MaxOverMean => {
                let figure = ring.max_over_mean().unwrap_or_else(|| counted(&*ring, self.nodes));
                Box::new(move || figure)
            }
        }
    }

    /// Returns nanoseconds a key, for work over all keys: the median of as many laps as fit into a
    /// turn. (A lap is far shorter than a time slice, so on a busy machine most laps pass
    /// undisturbed.)
    fn each_key(&self, work: impl Fn(&[Key]) -> usize + 'static) -> Box<dyn FnMut() -> f64> {
        let (keys, turn) = (Rc::clone(&self.keys), self.pace.turn());
        Box::new(move || {
            // Brings the ring back into the cache before the clock starts.
            black_box(work(black_box(&keys)));
            let (mut laps, start) = (Vec::new(), Instant::now());
            while laps.len() < 3 || start.elapsed() < turn {
                laps.push(timed(|| black_box(work(black_box(&keys)))).0.as_nanos());
            }
            laps.sort_unstable();
            laps[laps.len() / 2] as f64 / KEYS as f64
        })
    }

    /// Returns nanoseconds of one piece of work, which takes its own time: the median of as many as
    /// fit
    /// into a turn.
    fn repeated(&self, mut work: impl FnMut() -> Duration + 'static) -> Box<dyn FnMut() -> f64> {
        let turn = self.pace.turn();
        Box::new(move || {
            let (mut times, mut spent) = (Vec::new(), Duration::ZERO);
            while times.len() < 3 || (spent < turn && times.len() < 1_000) {
                let (all, time) = timed(&mut work);
                times.push(time.as_nanos());
                spent += all;
                if spent > 50 * turn {
                    break;
                }
            }
            times.sort_unstable();
            times[times.len() / 2] as f64
        })
    }
}

/// Asks about each key, as a service does that holds its ring by reference: what is read of the
/// ring itself can stay in registers from one key to the next.
#[inline(never)]
fn of_each<P: Peer>(ring: &P, keys: &[Key], ask: impl Fn(&P, &Key) -> usize) -> usize {
    keys.iter().map(|key| ask(ring, key)).fold(0, wrap)
}

fn wrap(sum: usize, owner: usize) -> usize {
    sum.wrapping_add(owner)
}

fn timed<T>(work: impl FnOnce() -> T) -> (Duration, T) {
    let start = Instant::now();
    let result = work();
    (start.elapsed(), result)
}

/// Returns the largest share over the mean, by counting keys.
fn counted<P: Peer>(ring: &P, nodes: usize) -> f64 {
    let mut random = fastrand::Rng::with_seed(11);
    let keys = nodes * COUNTED_A_NODE;
    let mut counts: HashMap<usize, u64, super::peer::FastHash> = HashMap::default();
    for _ in 0..keys {
        *counts.entry(ring.owner(&Key::new(random.u128(..)))).or_default() += 1;
    }
    let most = counts.values().copied().max().unwrap_or(0);
    most as f64 * nodes as f64 / keys as f64
}
