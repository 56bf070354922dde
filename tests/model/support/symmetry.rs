//! Participants are alike: worlds that differ only in the participants' numbers are searched as
//! one.
//!
//! To renumber a world is easy, except for the coordinator's protocol, whose fields are private. So
//! each protocol's history is kept (one way in which it came about), and the renumbered protocol is
//! made by *living through the renumbered history* with the production code. A test shows that this
//! loses nothing: a search up to symmetry adds up how many worlds each of its states stands for,
//! and the sum must be what a search without symmetry counts.

use std::collections::HashMap;

use ringpact::{
    log::Heuristic,
    participant::Decision,
    txn::{Action, CommitProtocol, Input, Remembered},
};

use super::{
    Feed, LastResource, Model, Mutant,
    machine::Id,
    world::{Entry, Log, MAX_PARTICIPANTS, World},
};

/// Whether worlds that differ only in the participants' numbers count as one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Symmetry {
    Used,
    /// For traces, because with symmetry participants get new numbers from state to state.
    Ignored,
}

/// How a protocol came about.
#[derive(Clone, Copy, Debug)]
pub enum History {
    Begun,
    /// Recovered, from what the log said.
    Resumed(Memory),
    /// Recovered, from this participant's report.
    Orphan(usize),
    /// Out of another protocol, by a step, if there was one; an append, if there was one, got
    /// this number or was refused.
    Went {
        before: Id,
        feed: Option<Feed>,
        appended: Option<Input>,
    },
}

/// What a log remembers of the transaction: [`Remembered`], with participants by their numbers.
#[derive(Clone, Copy, Debug)]
pub struct Memory {
    pub decision: Decision,
    pub owed: u8,
    pub heuristics: [Option<Heuristic>; MAX_PARTICIPANTS],
    pub parked: bool,
}

/// The participant with number `n` gets the number `order[n]`.
type Order = [usize; MAX_PARTICIPANTS];

/// What is known of orders and protocols.
#[derive(Default)]
pub struct Renumbering {
    orders: Vec<Order>,
    histories: HashMap<Id, History>,
    renumbered: HashMap<(Id, Order), Id>,
}

impl Renumbering {
    pub fn of(participants: usize) -> Self {
        const ALL: [Order; 6] = [[0, 1, 2], [1, 0, 2], [0, 2, 1], [2, 1, 0], [1, 2, 0], [2, 0, 1]];
        let keeps_others = |order: &&Order| (participants..MAX_PARTICIPANTS).all(|number| order[number] == number);
        Self { orders: ALL.iter().filter(keeps_others).copied().collect(), ..Self::default() }
    }

    /// Notes how a protocol came about, the first time that it came about.
    pub fn note(&mut self, id: Id, history: History) {
        self.histories.entry(id).or_insert(history);
    }
}

impl Model {
    /// The world that stands for all that differ from this one only in the participants' numbers.
    pub(super) fn representative(&mut self, world: World) -> World {
        // Most worlds have only one order in which what is seen of each participant is sorted; with
        // ties all such orders are tried.
        let seen =
            |number: usize| (world.parties[number], world.in_doubt_queries[number], world.orphans[number].is_some());
        let sorts = |order: &Order| {
            let mut sorted = [0; MAX_PARTICIPANTS];
            order.iter().enumerate().for_each(|(number, place)| sorted[*place] = number);
            (1..self.setting.promisers()).all(|place| seen(sorted[place - 1]) <= seen(sorted[place]))
        };
        let orders: Vec<Order> = self.renumbering.orders.iter().copied().filter(sorts).collect();
        let renumbered = orders.into_iter().map(|order| self.renumber(world, order));
        renumbered.min().expect("some order sorts")
    }

    /// Number of worlds that this one stands for.
    pub(super) fn stands_for(&mut self, world: World) -> usize {
        let orders = self.renumbering.orders.clone();
        let mut worlds: Vec<_> = orders.into_iter().map(|order| self.renumber(world, order)).collect();
        worlds.sort_unstable();
        worlds.dedup();
        worlds.len()
    }

    fn renumber(&mut self, world: World, order: Order) -> World {
        if order == [0, 1, 2] {
            return world;
        }
        let mut renumbered = world;
        renumbered.main = world.main.map(|id| self.renumber_protocol(id, order));
        renumbered.log = renumber_log(world.log, order);
        renumbered.deciders = renumber_bits(world.deciders, order);
        renumbered.ended_below_sent = renumber_bits(world.ended_below_sent, order);
        for (number, place) in order.into_iter().enumerate() {
            renumbered.parties[place] = world.parties[number];
            renumbered.in_doubt_queries[place] = world.in_doubt_queries[number];
            renumbered.orphans[place] = world.orphans[number].map(|id| self.renumber_protocol(id, order));
        }
        renumbered
    }

    fn renumber_protocol(&mut self, id: Id, order: Order) -> Id {
        if let Some(known) = self.renumbering.renumbered.get(&(id, order)) {
            return *known;
        }
        let renumbered = match self.renumbering.histories[&id] {
            History::Begun => id,
            History::Resumed(memory) => {
                let mut heuristics = memory.heuristics;
                order.iter().enumerate().for_each(|(number, place)| heuristics[*place] = memory.heuristics[number]);
                self.resumed(Memory { owed: renumber_bits(memory.owed, order), heuristics, ..memory })
            }
            History::Orphan(number) => self.orphan(order[number]),
            History::Went { before, feed, appended } => {
                let protocol = self.renumber_protocol(before, order);
                let feed = feed.map(|feed| match feed {
                    Feed::Input(input) => Feed::Input(self.renumber_input(before, protocol, input, order)),
                    Feed::Withdraw(_) | Feed::Enlist(..) => unreachable!("such a search ignores the symmetry"),
                    Feed::Poll => feed,
                });
                self.live_through(protocol, feed, appended)
            }
        };
        self.renumbering.renumbered.insert((id, order), renumbered);
        renumbered
    }

    fn renumber_input(&self, before: Id, renumbered: Id, input: Input, order: Order) -> Input {
        let index = |index: usize| {
            let name = self.commit.get(before).participant(index)?;
            self.commit.get(renumbered).branch_of(&self.cast.names[order[self.cast.number(name)]])
        };
        let index = |old: usize| index(old).unwrap_or(usize::MAX);
        match input {
            Input::Voted(old, vote) => Input::Voted(index(old), vote),
            Input::Done(old) => Input::Done(index(old)),
            Input::LastResource(old, answer) => Input::LastResource(index(old), answer),
            Input::Decided(old, decision) => Input::Decided(index(old), decision),
            Input::AlreadyCommitted(old) => Input::AlreadyCommitted(index(old)),
            Input::AlreadyRolledBack(old) => Input::AlreadyRolledBack(index(old)),
            Input::Unknown(old) => Input::Unknown(index(old)),
            Input::Failed(old) => Input::Failed(index(old)),
            _ => input,
        }
    }

    /// Does to the protocol what `drive` does, without a world.
    fn live_through(&mut self, mut id: Id, feed: Option<Feed>, appended: Option<Input>) -> Id {
        let history = History::Went { before: id, feed, appended };
        if let Some(feed) = feed {
            self.commit.step(&mut id, feed);
        }
        while let Some(action) = self.commit.step(&mut id, Feed::Poll) {
            match (action, appended) {
                (Action::Append(..), Some(appended)) => self.append_result(&mut id, appended),
                (Action::AskLastResource(branch), _) => self.ask_at_once(&mut id, branch),
                _ => {}
            }
        }
        self.renumbering.note(id, history);
        id
    }

    /// Tells a protocol what came of its append.
    pub(super) fn append_result(&mut self, id: &mut Id, appended: Input) {
        self.commit.step(id, Feed::Input(appended));
        if let Input::Appended(lsn) = appended
            && self.is(Mutant::SendsCommitEarly)
        {
            self.commit.step(id, Feed::Input(Input::Durable(lsn)));
        }
    }

    /// The protocol of a transaction that the log remembers, not yet driven.
    pub(super) fn resumed(&mut self, memory: Memory) -> Id {
        let Memory { decision, owed, heuristics, parked } = memory;
        let heuristics = self.cast.names.iter().cloned().zip(heuristics);
        let heuristics = heuristics.filter_map(|(name, how)| Some((name, how?))).collect();
        let remembered = Remembered { decision, owed: self.cast.named(owed), heuristics, parked };
        let id = self.commit.intern(remembered.resume(self.cast.txn.clone(), self.policy, self.now));
        self.renumbering.note(id, History::Resumed(memory));
        id
    }

    /// The protocol of a branch that only its participant knows of, not yet driven.
    pub(super) fn orphan(&mut self, number: usize) -> Id {
        let (txn, names) = (self.cast.txn.clone(), [self.cast.names[number].clone()]);
        // The last resource keeps its number.
        let asks = self.setting.last_resource == LastResource::Remembers && !self.is(Mutant::PresumesWithoutAsking);
        let last = if asks { &self.cast.names[self.setting.promisers()..] } else { &[] };
        let id = self.commit.intern(CommitProtocol::undecided(txn, &names, last, self.policy, self.now));
        self.renumbering.note(id, History::Orphan(number));
        id
    }
}

fn renumber_bits(bits: u8, order: Order) -> u8 {
    (0..MAX_PARTICIPANTS).filter(|number| bits & (1 << number) != 0).map(|number| 1 << order[number]).sum()
}

fn renumber_log(log: Log, order: Order) -> Log {
    log.map(|entry| match entry {
        Entry::Prepared(number) => Entry::Prepared(order[number]),
        Entry::Committed(number) => Entry::Committed(order[number]),
        Entry::Forgotten(number) => Entry::Forgotten(order[number]),
        Entry::Parked(owed) => Entry::Parked(renumber_bits(owed, order)),
        Entry::Heuristic(number, how) => Entry::Heuristic(order[number], how),
        Entry::Decided | Entry::Ended => entry,
    })
}
