//! The search of any state space: breadth first over all states, then backwards over the fair
//! moves.

use std::{
    collections::HashMap,
    fmt::Debug,
    hash::{BuildHasherDefault, Hash, Hasher},
};

/// A state space: where it begins, what can happen, what must not be, and where a run may rest.
pub trait Space {
    type State: Copy + Eq + Hash;
    type Move: Copy + Debug;

    fn initial(&self) -> Vec<Self::State>;

    /// Adds to `out` each move that can be made, and where it leads.
    fn successors(&mut self, from: Self::State, out: &mut Vec<Successor<Self::State, Self::Move>>);

    /// Number of states of the whole space that this one stands for, if the search is up to a
    /// symmetry.
    fn stands_for(&mut self, state: Self::State) -> usize;

    /// The name of an invariant that the state breaks, if it breaks one.
    fn broken(&self, state: &Self::State) -> Option<&'static str>;

    /// Whether everything is over in this state.
    fn settled(&self, state: &Self::State) -> bool;
}

/// One move and where it leads.
pub struct Successor<S, M> {
    pub what: M,
    pub luck: Luck,
    pub to: S,
}

/// Whether a move is sure to be made at some time, if it stays possible.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Luck {
    /// It is sure: code makes the move, and nothing has to break for it.
    Fair,
    /// It may never come: a fault, or a chance that a run may not count on.
    Chance,
}

/// What a search has found.
pub struct Report<M> {
    pub states: usize,
    /// Number of states that the searched states stand for.
    pub stood_for: usize,
    pub moves: usize,
    /// Number of moves from the initial states to the state that is furthest from them.
    pub depth: usize,
    pub verdict: Result<(), Counterexample<M>>,
}

/// A run that should not be.
#[derive(Debug)]
pub struct Counterexample<M> {
    /// The invariant's name, or [`NEVER_ENDS`].
    pub breaks: &'static str,
    /// The number of the initial state it begins in.
    pub initial: usize,
    /// A shortest way to the first state that is wrong.
    pub trace: Vec<M>,
}

/// Name of the liveness check: from some state no sequence of fair moves leads to a settled one.
///
/// In a finite space this decides whether runs end. If fair moves lead from *every* state to a
/// settled one, then a run that suffers no more faults, and is not unfair forever, reaches a
/// settled state.
pub const NEVER_ENDS: &str = "never ends";

/// Visits every state, and stops at the first one that breaks an invariant. Time and memory are
/// linear in the number of states and moves.
pub fn search<P: Space>(space: &mut P) -> Report<P::Move> {
    let mut graph = Graph::default();
    let mut frontier = Vec::new();
    let mut found = None;
    for (number, state) in space.initial().into_iter().enumerate() {
        graph.visit(space, state, Origin::Initial(number), &mut frontier, &mut found);
    }
    let (mut out, mut next, mut moves, mut depth) = (Vec::new(), Vec::new(), 0, 0);
    while found.is_none() && !frontier.is_empty() {
        for (from, state) in frontier.drain(..) {
            space.successors(state, &mut out);
            moves += out.len();
            for successor in out.drain(..) {
                let origin = Origin::Move(from, successor.what);
                let to = graph.visit(space, successor.to, origin, &mut next, &mut found);
                if successor.luck == Luck::Fair && to != from {
                    graph.fair.push((to, from));
                }
            }
        }
        std::mem::swap(&mut frontier, &mut next);
        depth += usize::from(!frontier.is_empty());
    }
    let wrong = found.or_else(|| Some((NEVER_ENDS, graph.first_stranded()?)));
    let verdict = wrong.map_or(Ok(()), |(breaks, state)| Err(graph.explain(breaks, state)));
    Report { states: graph.origins.len(), stood_for: graph.stood_for, moves, depth, verdict }
}

/// How a state was first reached.
enum Origin<M> {
    Initial(usize),
    Move(u32, M),
}

struct Graph<S, M> {
    seen: HashMap<S, u32, BuildHasherDefault<Mixer>>,
    origins: Vec<Origin<M>>,
    settled: Vec<bool>,
    stood_for: usize,
    /// Fair moves backwards: to, from.
    fair: Vec<(u32, u32)>,
}

impl<S, M> Default for Graph<S, M> {
    fn default() -> Self {
        Self { seen: HashMap::default(), origins: Vec::new(), settled: Vec::new(), stood_for: 0, fair: Vec::new() }
    }
}

impl<S: Copy + Eq + Hash, M: Copy> Graph<S, M> {
    fn visit(
        &mut self,
        space: &mut impl Space<State = S>,
        state: S,
        origin: Origin<M>,
        new: &mut Vec<(u32, S)>,
        found: &mut Option<(&'static str, u32)>,
    ) -> u32 {
        let number = u32::try_from(self.origins.len()).expect("fewer than 2^32 states fit into memory");
        let known = *self.seen.entry(state).or_insert(number);
        if known == number {
            self.origins.push(origin);
            self.settled.push(space.settled(&state));
            self.stood_for += space.stands_for(state);
            new.push((number, state));
            if found.is_none() {
                *found = space.broken(&state).map(|name| (name, number));
            }
        }
        known
    }

    /// The first state from which no fair moves lead to a settled one.
    fn first_stranded(&self) -> Option<u32> {
        let all = 0..u32::try_from(self.settled.len()).expect("states are numbered by u32");
        // Moves by their targets: `begins[to]..begins[to + 1]` are the places in `froms` of the
        // moves to `to`.
        let mut begins = vec![0_u32; self.settled.len() + 2];
        for (to, _) in &self.fair {
            begins[*to as usize + 2] += 1;
        }
        for index in 1..begins.len() {
            begins[index] += begins[index - 1];
        }
        let mut froms = vec![0_u32; self.fair.len()];
        for (to, from) in &self.fair {
            let place = &mut begins[*to as usize + 1];
            froms[*place as usize] = *from;
            *place += 1;
        }
        let mut ends = self.settled.clone();
        let mut open: Vec<u32> = all.clone().filter(|state| ends[*state as usize]).collect();
        while let Some(to) = open.pop() {
            let (begin, end) = (begins[to as usize] as usize, begins[to as usize + 1] as usize);
            for from in &froms[begin..end] {
                if !std::mem::replace(&mut ends[*from as usize], true) {
                    open.push(*from);
                }
            }
        }
        all.into_iter().find(|state| !ends[*state as usize])
    }

    fn explain(&self, breaks: &'static str, mut state: u32) -> Counterexample<M> {
        let mut trace = Vec::new();
        loop {
            match self.origins[state as usize] {
                Origin::Initial(initial) => {
                    trace.reverse();
                    return Counterexample { breaks, initial, trace };
                }
                Origin::Move(from, what) => {
                    trace.push(what);
                    state = from;
                }
            }
        }
    }
}

/// A quick hash for small states that hash as a few integers. The map compares whole states, so
/// collisions only cost time.
#[derive(Default)]
pub struct Mixer(u64);

impl Hasher for Mixer {
    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.write_u64(u64::from_le_bytes(word));
        }
    }
    fn write_u8(&mut self, n: u8) {
        self.write_u64(u64::from(n));
    }
    fn write_u16(&mut self, n: u16) {
        self.write_u64(u64::from(n));
    }
    fn write_u32(&mut self, n: u32) {
        self.write_u64(u64::from(n));
    }
    fn write_u64(&mut self, n: u64) {
        self.0 = (self.0.rotate_left(5) ^ n).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    }
    fn write_usize(&mut self, n: usize) {
        self.write_u64(n as u64);
    }
    fn finish(&self) -> u64 {
        self.0 ^ (self.0 >> 32)
    }
}
