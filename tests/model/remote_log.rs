//! Every order of what two holders of one log, and the network, can do: writes that arrive twice or late, answers that
//! are lost, takeovers, and batches that are collected.

use std::{
    collections::{BTreeSet, HashSet, VecDeque},
    time::{Duration, Instant},
};

use ringpact::log::remote::{RemoteAnswer as Answer, RemoteEnd as End, RemoteStep as Step, RemoteWriter as Writer};

/// Number of holders, one after the other.
const HOLDERS: u8 = 2;
/// Number of batches that each would like to write.
const BATCHES: u64 = 2;

/// Copies of one write that may be under way at once.
const COPIES: usize = 2;

/// Number of times that no answer comes in time, for each batch.
const SILENCES: u8 = 2;

/// What is wrong with the engine, or with what a writer makes of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mutant {
    /// The engine does not compare the fence.
    FenceNotCompared,
    /// The engine looks whether the batch is there, and not whether the tail is the one before it.
    AbsenceCompared,
    /// A takeover does not note the tail.
    TakenNotNoted,
    /// A lost answer counts as "not written", and the number is used again for the next batch.
    LostAnswerIsNo,
    /// A lost answer counts as "written".
    LostAnswerIsYes,
}

/// A batch: the holder that wrote it, and which of its batches it is.
type Batch = (u8, u64);

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Engine {
    fence: u8,
    tail: u64,
    /// The tail at which each holder was taken over.
    taken: Vec<Option<u64>>,
    /// All batches ever written, by number, as the log's readers have seen them; and those that were not collected.
    written: Vec<(u64, Batch)>,
    collected: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Holder {
    writer: Writer,
    /// What it has heard of its batches: durable, or surely not.
    durable: BTreeSet<u64>,
    never: BTreeSet<u64>,
    next: u64,
    /// The number of the batch in flight, and which it is.
    flight: Option<(u64, u64)>,
    /// How often it was sent without an answer.
    silences: u8,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct State {
    engine: Engine,
    holders: Vec<Holder>,
    /// Writes under way: the holder, the number, and which batch it is.
    net: Vec<(u8, u64, u64)>,
}

impl Engine {
    fn write(&mut self, by: u8, number: u64, batch: u64, mutant: Option<Mutant>) -> Answer {
        if self.fence != by && mutant != Some(Mutant::FenceNotCompared) {
            let tail = self.taken[usize::from(by)].unwrap_or(u64::MAX);
            return Answer::Taken { tail };
        }
        let is_next = match mutant {
            Some(Mutant::AbsenceCompared) => {
                let is_there = |(known, _): &(u64, Batch)| *known == number && number > self.collected;
                !self.written.iter().any(is_there)
            }
            _ => self.tail + 1 == number,
        };
        if is_next {
            self.written.push((number, (by, batch)));
            self.tail = self.tail.max(number);
        }
        Answer::Written
    }
}

struct Search {
    mutant: Option<Mutant>,
    now: Instant,
}

impl Search {
    fn first(&self) -> State {
        let taken = vec![None; usize::from(HOLDERS)];
        let engine = Engine { fence: 0, tail: 0, taken, written: Vec::new(), collected: 0 };
        State { engine, holders: vec![self.holder(0)], net: Vec::new() }
    }

    fn holder(&self, tail: u64) -> Holder {
        let writer = Writer::new(tail, Duration::from_secs(1));
        Holder { writer, durable: BTreeSet::new(), never: BTreeSet::new(), next: 1, flight: None, silences: 0 }
    }

    /// What the writer makes of an answer.
    fn answer(&self, state: &mut State, by: u8, answer: Answer, now: Instant) {
        let holder = &mut state.holders[usize::from(by)];
        let Some((number, batch)) = holder.flight else { return };
        let answer = match (answer, self.mutant) {
            (Answer::Unknown, Some(Mutant::LostAnswerIsYes)) => Answer::Written,
            (Answer::Unknown, Some(Mutant::LostAnswerIsNo)) => {
                holder.never.insert(batch);
                holder.flight = Some((number, holder.next));
                holder.next += 1;
                return;
            }
            (answer, _) => answer,
        };
        match holder.writer.answered(answer, now).unwrap() {
            Step::Durable => _ = holder.durable.insert(batch),
            Step::Fenced { is_durable: true } => _ = holder.durable.insert(batch),
            Step::Fenced { is_durable: false } => _ = holder.never.insert(batch),
            Step::Again(_) => {
                if state.net.iter().filter(|copy| **copy == (by, number, batch)).count() < COPIES {
                    state.net.push((by, number, batch));
                    state.net.sort_unstable();
                }
                return;
            }
            Step::GiveUp => {}
        }
        holder.flight = None;
    }

    fn moves(&self, state: &State) -> Vec<State> {
        let mut found = Vec::new();
        // A holder sends its next batch.
        for by in 0..state.holders.len() {
            let mut next = state.clone();
            let holder = &mut next.holders[by];
            if holder.next <= BATCHES
                && let Some(number) = holder.writer.begin(self.now)
            {
                (holder.flight, holder.silences) = (Some((number, holder.next)), 0);
                next.net.push((by as u8, number, holder.next));
                next.net.sort_unstable();
                holder.next += 1;
                found.push(next);
            }
        }
        // A write arrives, once or with a copy behind it; its answer comes back, or not.
        for at in 0..state.net.len() {
            let (by, number, batch) = state.net[at];
            let mut arrived = state.clone();
            arrived.net.remove(at);
            let answer = arrived.engine.write(by, number, batch, self.mutant);
            found.push(arrived.clone());
            if arrived.holders[usize::from(by)].flight == Some((number, batch)) {
                self.answer(&mut arrived, by, answer, self.now);
                found.push(arrived);
            }
        }
        // No answer has come in time; or for too long.
        for by in 0..state.holders.len() {
            if state.holders[by].flight.is_some() {
                let is_first = state.holders[by].silences < SILENCES;
                for late in [self.now, self.now + Duration::from_secs(2)] {
                    if late == self.now && !is_first {
                        continue;
                    }
                    let mut next = state.clone();
                    next.holders[by].silences += 1;
                    self.answer(&mut next, by as u8, Answer::Unknown, late);
                    found.push(next);
                }
            }
        }
        // Another holder takes the log over.
        if state.holders.len() < usize::from(HOLDERS) {
            let mut next = state.clone();
            let engine = &mut next.engine;
            if self.mutant != Some(Mutant::TakenNotNoted) {
                engine.taken[usize::from(engine.fence)] = Some(engine.tail);
            }
            engine.fence += 1;
            next.holders.push(self.holder(state.engine.tail));
            found.push(next);
        }
        // The holder collects all batches.
        if state.engine.collected < state.engine.tail {
            let mut next = state.clone();
            next.engine.collected = state.engine.tail;
            found.push(next);
        }
        found
    }

    fn check(&self, state: &State) -> Result<(), String> {
        let written = &state.engine.written;
        if !written.iter().map(|(number, _)| *number).eq(1..=written.len() as u64) {
            return Err("the numbers are not a row".into());
        }
        let mut last = (0, 0);
        for (_, batch) in written {
            if *batch <= last {
                return Err("a batch is out of order, twice, or of a holder that was taken over".into());
            }
            last = *batch;
        }
        for (by, holder) in state.holders.iter().enumerate() {
            let is_written = |batch: &u64| written.iter().any(|(_, known)| *known == (by as u8, *batch));
            if !holder.durable.iter().all(is_written) {
                return Err("a batch that was called durable is not there".into());
            }
            if holder.never.iter().any(is_written) {
                return Err("a batch that was called lost is there".into());
            }
            if holder.writer.end() == Some(End::Taken) && state.engine.fence == by as u8 {
                return Err("a holder believes that it was taken over, and was not".into());
            }
        }
        Ok(())
    }

    fn run(&self) -> Result<usize, String> {
        let first = self.first();
        let (mut seen, mut queue) = (HashSet::from([first.clone()]), VecDeque::from([first]));
        while let Some(state) = queue.pop_front() {
            self.check(&state).map_err(|what| format!("{what}: {state:?}"))?;
            for next in self.moves(&state) {
                if seen.insert(next.clone()) {
                    queue.push_back(next);
                }
            }
        }
        Ok(seen.len())
    }
}

#[test]
fn every_lost_answer_is_decided_and_nothing_is_written_after_a_takeover() {
    let search = Search { mutant: None, now: Instant::now() };
    // Counted, so that a move that gets lost is noticed.
    assert_eq!(search.run(), Ok(30_815));
}

#[test]
fn every_mutant_is_found() {
    for mutant in [
        Mutant::FenceNotCompared,
        Mutant::AbsenceCompared,
        Mutant::TakenNotNoted,
        Mutant::LostAnswerIsNo,
        Mutant::LostAnswerIsYes,
    ] {
        let found = Search { mutant: Some(mutant), now: Instant::now() }.run();
        assert!(found.is_err(), "{mutant:?}");
    }
}
