//! Runs the production state machines, each step of each state once.

use std::{
    collections::HashMap,
    hash::{BuildHasherDefault, Hash},
};

use super::search::Mixer;

/// The number that a machine's state has in its [`Machine`].
pub type Id = u16;

/// A production state machine, with every state met so far under a number and every step taken so
/// far remembered.
///
/// The machines are pure, so a step that was taken once is known forever. That keeps the world's
/// states small and the search quick. Still only the production code decides what a step does.
pub struct Machine<S, I, A> {
    step: fn(&mut S, I) -> Option<A>,
    states: Vec<S>,
    ids: HashMap<S, Id>,
    steps: Steps<I, A>,
}

/// From a state by an input to a state and an action.
type Steps<I, A> = HashMap<(Id, I), (Id, Option<A>), BuildHasherDefault<Mixer>>;

impl<S: Clone + Eq + Hash, I: Copy + Eq + Hash, A: Clone> Machine<S, I, A> {
    pub fn new(step: fn(&mut S, I) -> Option<A>) -> Self {
        Self { step, states: Vec::new(), ids: HashMap::new(), steps: HashMap::default() }
    }

    /// Returns the state's number, and gives it one if it has none.
    pub fn intern(&mut self, state: S) -> Id {
        if let Some(id) = self.ids.get(&state) {
            return *id;
        }
        let id = Id::try_from(self.states.len()).expect("a machine has fewer than 2^16 states");
        self.states.push(state.clone());
        self.ids.insert(state, id);
        id
    }

    /// The state behind a number.
    pub fn get(&self, id: Id) -> &S {
        &self.states[usize::from(id)]
    }

    /// Takes a step: returns what the machine says to do, and leaves its next state in `id`.
    pub fn step(&mut self, id: &mut Id, input: I) -> Option<A> {
        if let Some((next, action)) = self.steps.get(&(*id, input)) {
            *id = *next;
            return action.clone();
        }
        let mut state = self.get(*id).clone();
        let action = (self.step)(&mut state, input);
        let next = self.intern(state);
        self.steps.insert((*id, input), (next, action.clone()));
        *id = next;
        action
    }
}
