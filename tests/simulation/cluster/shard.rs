//! What both services are made of: keys, each with the tokens of the transactions that have written there. In memory with saves to
//! the disk, or durable at once. Along the way it tells the oracle of each piece of work that its gate has let in.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use parking_lot::Mutex;
use ringpact::{
    BranchId, Service, ServiceError,
    participant::Effort,
    ring::{NodeId, Position, PositionRange, RangeSet},
    sharding::{ByPosition, Export, GateImage, GateNote, Keyed, Records, Shard, Tenure},
};
use serde::{Deserialize, Serialize};

use super::{
    host::Life,
    mutants::Mutant,
    plan::{KEYS, Kind, Places, position},
};
use crate::MS;

/// Adds a token to a key. Token 0 looks at the key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Put {
    pub key: u32,
    pub token: u32,
}

impl Keyed for Put {
    fn position(&self) -> Position {
        position(self.key)
    }
}

/// All that a shard has.
#[derive(Clone, Debug, Default)]
pub struct Saved {
    pub records: ByPosition<u32, Vec<u32>, Places>,
    /// The branches that were confirmed at each position, so that none is confirmed twice. They stay where they are when the
    /// records move.
    marks: BTreeMap<u64, BTreeSet<BranchId>>,
    image: GateImage,
    /// A mutant's note that is not on the disk yet.
    unwritten: Vec<GateNote>,
}

impl Saved {
    /// What a service has whose keys are at `node` from the beginning.
    pub fn first(is_here: impl Fn(Position) -> bool) -> Self {
        let mut first = Self::default();
        for key in (0..KEYS).filter(|key| is_here(position(*key))) {
            first.records.insert(key, Vec::new());
        }
        first
    }

    fn wipe(&mut self, range: PositionRange) {
        self.records.discard(range);
        self.marks.retain(|at, _| !range.contains(Position::new(*at)));
    }

    pub fn apply(&mut self, branch: &BranchId, works: &[Put]) {
        for put in works.iter().filter(|put| put.token > 0) {
            let at = put.position().as_u64();
            if !self.marks.get(&at).is_some_and(|marks| marks.contains(branch)) {
                self.records.get_or_insert_with(put.key, Vec::new).push(put.token);
            }
        }
        for put in works.iter().filter(|put| put.token > 0) {
            self.marks.entry(put.position().as_u64()).or_default().insert(branch.clone());
        }
    }
}

/// A shard's disk.
pub type Book = Arc<Mutex<Saved>>;

pub struct Ledger {
    pub life: Arc<Life>,
    pub service: usize,
    kind: Kind,
    live: Book,
    disk: Book,
    held: Mutex<BTreeMap<BranchId, Vec<Put>>>,
    /// The image as the notes make it: what the oracle knows of the gate.
    seen: Mutex<GateImage>,
    /// What this life has begun to take, and has neither taken nor discarded.
    staged: Mutex<RangeSet>,
    /// Work that a mutant has let in past the gate.
    pub ungated: Mutex<BTreeMap<BranchId, Vec<Put>>>,
    /// Work that a mutant loses, because it was let in under the tenure itself.
    lost: Mutex<BTreeSet<(BranchId, u32)>>,
}

#[derive(Debug, thiserror::Error)]
#[error("the key does not exist")]
pub struct Absent;

impl Ledger {
    pub fn open(life: &Arc<Life>, service: usize, disk: &Book) -> Self {
        let kind = life.world.plan.kinds[service];
        let live = match kind {
            Kind::InMemory => Arc::new(Mutex::new(disk.lock().clone())),
            Kind::AtOnce => Arc::clone(disk),
        };
        let seen = Mutex::new(disk.lock().image.clone());
        let (held, staged, ungated, lost) = Default::default();
        Self { life: Arc::clone(life), service, kind, live, disk: Arc::clone(disk), held, seen, staged, ungated, lost }
    }

    pub fn get(&self, key: u32) -> Option<Vec<u32>> {
        self.live.lock().records.get(&key).cloned()
    }

    /// All keys, and their tokens.
    pub fn all(&self) -> Vec<(u32, Vec<u32>)> {
        self.live.lock().records.iter().map(|(key, tokens)| (*key, tokens.clone())).collect()
    }

    /// Since when the shard has the position.
    pub fn tenure(&self, position: Position) -> Option<Tenure> {
        self.seen.lock().tenure(position)
    }

    /// Whether this life could not discard what it had begun to take there. The gate keeps it unseen until the shard is opened again.
    pub fn is_abandoned(&self, position: Position) -> bool {
        self.staged.lock().contains(position)
    }

    /// Whether an unfinished branch has changes at the position.
    pub fn holds(&self, position: Position) -> bool {
        self.held.lock().values().flatten().any(|put| put.token > 0 && put.position() == position)
    }

    pub fn held(&self) -> usize {
        self.held.lock().len()
    }

    /// What a mutant does past the gate.
    pub fn write_ungated(&self, branch: &BranchId) -> bool {
        let works = self.ungated.lock().remove(branch);
        let Some(works) = works else { return false };
        self.live.lock().apply(branch, &works);
        true
    }

    fn is(&self, mutant: Mutant) -> bool {
        self.life.world.is_mutated(mutant)
    }

    /// Time passes, and something fails now and then: before it has happened, or after.
    fn around<T>(&self, mut does: impl FnMut(&mut Saved) -> Result<T, ServiceError>) -> Result<T, ServiceError> {
        let (world, off) = (&self.life.world, || ServiceError::from("the machine is off"));
        let bad = || ServiceError::from("the shard has a bad moment");
        if self.kind == Kind::AtOnce {
            world.clock.sleep((MS / 5).mul_f64(world.clock.draw(fastrand::Rng::f64)));
        }
        if !self.life.is_alive() {
            return Err(off());
        }
        let fails = world.faulty() && world.clock.once_in(world.plan.shard_fails);
        if fails && world.clock.draw(fastrand::Rng::bool) {
            return Err(bad());
        }
        let done = does(&mut self.live.lock());
        if fails { Err(bad()) } else { done }
    }

    /// A range as a mutant has it.
    fn mutated(&self, range: PositionRange, is_discard: bool) -> Vec<PositionRange> {
        let (start, end) = (range.start, range.end);
        let before = |position: Position| Position::new(position.as_u64().wrapping_sub(1));
        if self.is(Mutant::StartInclusive) && is_discard && before(start) != end {
            return vec![PositionRange { start: before(start), end }];
        }
        if self.is(Mutant::EndExclusive) && !is_discard {
            return if before(end) == start { Vec::new() } else { vec![PositionRange { start, end: before(end) }] };
        }
        if self.is(Mutant::WrapIgnored) && start > end && !is_discard {
            return Vec::new();
        }
        vec![range]
    }
}

impl Service for Ledger {
    type Work = Put;
    type Refusal = Absent;

    fn effort(&self, put: &Put) -> Effort {
        if put.token == 0 { Effort::ReadOnly } else { Effort::Update }
    }

    fn try_reserve(&self, branch: &BranchId, put: &Put) -> Result<(), Absent> {
        if !self.life.is_alive() {
            return Err(Absent);
        }
        self.life.world.admits(self, put.key);
        if put.token == 0 && self.kind == Kind::AtOnce {
            let clock = &self.life.world.clock;
            clock.sleep(MS.mul_f64(clock.draw(fastrand::Rng::f64)));
        }
        if self.get(put.key).is_none() {
            // The position may leave while a read is under way. A change keeps it here.
            if put.token > 0 {
                self.life.world.is_wrong(format_args!("{}: key {} is absent for {branch}", self.life, put.key));
            }
            return Err(Absent);
        }
        if put.token > 0 {
            if self.is(Mutant::TenureItselfIsTooLate) {
                let seen = self.seen.lock();
                if seen.tenure(put.position()) == Some(seen.latest()) && seen.latest() > Tenure::FIRST {
                    self.lost.lock().insert((branch.clone(), put.key));
                }
            }
            self.held.lock().entry(branch.clone()).or_default().push(*put);
        }
        Ok(())
    }

    fn confirm(&self, branch: &BranchId, works: &[Put]) -> Result<(), ServiceError> {
        let lost = self.lost.lock().clone();
        let works: Vec<_> = works.iter().filter(|put| !lost.contains(&(branch.clone(), put.key))).copied().collect();
        self.around(|saved| {
            saved.apply(branch, &works);
            Ok(())
        })?;
        self.held.lock().remove(branch);
        Ok(())
    }

    fn cancel(&self, branch: &BranchId, _: &[Put]) -> Result<(), ServiceError> {
        self.around(|_| Ok(()))?;
        self.held.lock().remove(branch);
        Ok(())
    }

    fn restore(&self, branch: &BranchId, works: &[Put]) -> Result<(), ServiceError> {
        self.held.lock().insert(branch.clone(), works.iter().filter(|put| put.token > 0).copied().collect());
        Ok(())
    }
}

impl Shard for Ledger {
    fn export(&self, range: PositionRange, into: &mut Export) -> Result<(), ServiceError> {
        let live = self.live.lock();
        self.mutated(range, false).into_iter().try_for_each(|range| live.records.export(range, into))
    }

    fn import(&self, range: PositionRange, records: Records<'_>) -> Result<(), ServiceError> {
        let world = &self.life.world;
        if self.life.is_alive() && !world.oracle.lock().may_import(range) {
            world.is_wrong(format_args!("{} imports {range:?}, which no change was to move", self.life));
        }
        self.around(|saved| {
            saved.wipe(range);
            saved.records.import(range, records.clone())
        })
    }

    fn discard(&self, range: PositionRange) -> Result<(), ServiceError> {
        self.around(|saved| {
            self.mutated(range, true).into_iter().for_each(|range| saved.wipe(range));
            Ok(())
        })
    }

    fn load(&self) -> Result<GateImage, ServiceError> {
        let mut image = self.disk.lock().image.clone();
        if self.is(Mutant::TenureNotChecked) {
            // From now on all work is let in under a stamp that no later tenure is above.
            let (ranges, tenure, to) = (RangeSet::new(), Tenure::new(u64::MAX), NodeId::from("nowhere"));
            image.apply(&GateNote::Released { ranges, tenure, to });
        }
        Ok(image)
    }

    fn save(&self, image: &mut dyn FnMut() -> GateImage) -> Result<(), ServiceError> {
        if self.kind == Kind::AtOnce {
            return Ok(());
        }
        let (world, clock) = (&self.life.world, &self.life.world.clock);
        let saved = {
            let live = self.live.lock();
            Saved { image: image(), ..live.clone() }
        };
        clock.sleep(MS.mul_f64(clock.draw(fastrand::Rng::f64)));
        if world.faulty() && clock.once_in(world.plan.crash_at_io) {
            if clock.draw(fastrand::Rng::bool) && self.life.is_alive() {
                self.disk.lock().clone_from(&saved);
            }
            self.life.crash("at a save");
        }
        if !self.life.is_alive() {
            return Err("the machine is off".into());
        }
        if self.is(Mutant::TenuresSavedApart) {
            let former = self.disk.lock().image.clone();
            *self.disk.lock() = Saved { image: former, ..saved.clone() };
            clock.sleep(MS * 3);
            if !self.life.is_alive() {
                return Err("the machine is off".into());
            }
        }
        let fails = world.faulty() && clock.once_in(world.plan.shard_fails);
        if !fails || clock.draw(fastrand::Rng::bool) {
            *self.disk.lock() = saved;
        }
        if fails { Err("the shard does not know whether it has saved".into()) } else { Ok(()) }
    }

    fn note(&self, note: &GateNote) -> Result<(), ServiceError> {
        if self.kind == Kind::AtOnce {
            let is_late = self.is(Mutant::TenuresSavedApart);
            self.around(|saved| {
                if is_late {
                    let unwritten = std::mem::replace(&mut saved.unwritten, vec![note.clone()]);
                    unwritten.iter().for_each(|note| saved.image.apply(note));
                } else {
                    saved.image.apply(note);
                }
                Ok(())
            })?;
        }
        self.seen.lock().apply(note);
        match note {
            GateNote::Staged { ranges } => self.staged.lock().extend(ranges.iter()),
            GateNote::Dropped { ranges } | GateNote::Owned { ranges, .. } => {
                ranges.iter().for_each(|range| self.staged.lock().remove(range));
            }
            _ => {}
        }
        self.life.world.clock.note(format_args!("{}, {}: {note:?}", self.life, self.service));
        Ok(())
    }
}
