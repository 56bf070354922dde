//! An exhaustive search: can lost, copied and restored logs break two participants?
//!
//! Production code decides: [`KnownLife`] at the participants, [`Openings`] at the coordinators.
//! Around it is the smallest world in which one coordinator can take the promises of another for
//! its own:
//!
//! | actor | moves |
//! |---|---|
//! | an operator | copies a log, open or not; begins an empty one; opens a coordinator of the one name on any of them, and states the truth: that a log is gone for good, or that this is an older copy |
//! | a life of a coordinator | introduces itself to a participant; begins a transaction; prepares it; decides; delivers; rolls back; settles reported branches as production does; stops |
//! | a participant | is restarted, and knows what its log has kept |
//!
//! Messages arrive at once, but a life can pause between any two of them for any number of other
//! moves.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    fmt,
    hash::{Hash, Hasher},
};

use ringpact::{
    Epoch, LogId, Name, TxnOrdinal,
    log::{Fact, Lsn, Record},
    participant::{Call, EndedOpening, KnownLife, Life, ParticipantError},
    txn::{Openings, Standing},
};
use xxhash_rust::xxh3::{xxh3_64, xxh3_128};

const SHOP: Name = Name::from_static("shop");
const PARTICIPANTS: usize = 2;

/// Planted defects of the code around the machines; the search has to find each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mutant {
    /// Participants do not compare lives.
    HearsAnybody,
    /// A coordinator takes all branches of earlier epochs for its own, as it did before it kept its
    /// openings.
    PresumesByOrder,
    /// A coordinator settles what one participant reported before the other participants have met
    /// the coordinator.
    SettlesAtOnce,
    /// A restarted participant has forgotten which life it has met.
    ForgetsLives,
    /// A restarted participant has forgotten how far the coordinator's log had come when it
    /// promised and committed.
    ForgetsPositions,
    /// A restored log is treated as a complete one.
    TrustsRestored,
    /// Participants accept a later opening if the log is longer now than they have heard. A copy grows
    /// with each opening that is refused.
    ComparesLengthsNow,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Log {
    /// Copies have the id of their original.
    id: u8,
    /// The openings, each with the number of its record.
    epochs: Vec<(Epoch, Lsn)>,
    position: u64,
    decided: BTreeSet<TxnOrdinal>,
    gone: bool,
}

impl Log {
    fn id(&self) -> LogId {
        LogId::from_bytes([self.id; 16])
    }

    fn records(&self) -> Vec<Record> {
        let opened = |(epoch, _): &(Epoch, Lsn)| Record { owner: SHOP, fact: Fact::Opened { epoch: *epoch } };
        self.epochs.iter().map(opened).collect()
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Met {
    Not,
    Accepted,
    Refused,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Coordinator {
    log: usize,
    life: Life,
    openings: Openings,
    met: [Met; PARTICIPANTS],
    /// What each participant has reported, as far as it is not acted on yet.
    reported: [BTreeSet<TxnOrdinal>; PARTICIPANTS],
    next: u64,
    /// Promises that it has heard of, by the transaction of its own epoch.
    promised: BTreeMap<TxnOrdinal, BTreeSet<usize>>,
    stopped: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Branch {
    Prepared,
    Committed,
    RolledBack,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct Participant {
    known: KnownLife,
    /// The last life that it has met, in its log.
    noted: Life,
    /// Each branch, and what the participant had heard of its coordinator when it last wrote a
    /// record about it.
    branches: BTreeMap<TxnOrdinal, (Branch, Life)>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct World {
    logs: Vec<Log>,
    lives: Vec<Coordinator>,
    participants: [Participant; PARTICIPANTS],
    restarts: u8,
}

/// A move, and the state after it.
type Step = (Move, World);

/// A move in words, with their numbers. It becomes text only if it is printed, because few of many
/// are.
#[derive(Clone, Copy)]
struct Move(&'static str, usize, usize);

impl fmt::Display for Move {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut numbers = [self.1, self.2].into_iter();
        for (place, words) in self.0.split("{}").enumerate() {
            if place > 0 {
                write!(f, "{}", numbers.next().unwrap_or_default())?;
            }
            f.write_str(words)?;
        }
        Ok(())
    }
}

/// Key of a state: 128 bits of its hash, which two of the states share with a chance of 1 in 10^26.
#[derive(Default)]
struct Fingerprint(Vec<u8>);

impl Hasher for Fingerprint {
    fn write(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    fn finish(&self) -> u64 {
        xxh3_64(&self.0)
    }
}

impl Fingerprint {
    fn of(&mut self, world: &World) -> u128 {
        self.0.clear();
        world.hash(self);
        xxh3_128(&self.0)
    }
}

/// Maximum number of each.
#[derive(Clone, Copy)]
pub struct Bounds {
    pub logs: usize,
    pub lives: usize,
    pub transactions: usize,
    pub restarts: u8,
}

/// Result of a search.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Found {
    pub states: usize,
    /// The first state in which a transaction is torn, or an id is given out twice.
    pub torn: Option<String>,
    /// States in which a branch waits for an operator.
    pub unclaimed: usize,
    /// States in which a participant has refused a coordinator.
    pub refused: usize,
}

impl Participant {
    /// Returns the life as this participant takes it: as one that continues what is known, if the log
    /// is longer now.
    fn by_length(&self, life: Life) -> Life {
        let known = self.known.life();
        let ended = EndedOpening { epoch: known.epoch, position: known.position };
        life.continuing(if life.position > known.position { ended } else { EndedOpening::default() })
    }

    /// Makes durable which life the participant has met, before it does anything for that life.
    fn notes(&mut self, mutant: Option<Mutant>) {
        let life = self.known.life();
        if self.noted.epoch != life.epoch && mutant != Some(Mutant::ForgetsLives) {
            self.noted = life;
        }
    }
}

impl World {
    fn call(&self, life: usize) -> Call {
        let coordinator = &self.lives[life];
        let mut call = Call::new(LogId::NONE);
        (call.identity, call.epoch) = (coordinator.life.log, coordinator.life.epoch);
        (call.position, call.after) = (self.logs[coordinator.log].position, coordinator.life.after);
        call
    }

    /// Whether the participant accepts the life's message.
    fn hears(&mut self, at: usize, life: usize, mutant: Option<Mutant>) -> bool {
        let mut call = self.call(life);
        let participant = &mut self.participants[at];
        if mutant == Some(Mutant::ComparesLengthsNow) {
            let life = Life::new(call.identity, call.epoch, call.position);
            call.after = participant.by_length(life).after;
        }
        let hears = mutant == Some(Mutant::HearsAnybody) || participant.known.hear(&SHOP, &call).is_ok();
        if hears {
            participant.notes(mutant);
        }
        hears
    }

    fn write(&mut self, at: usize, ordinal: TxnOrdinal, branch: Branch) {
        let heard = self.participants[at].known.life();
        self.participants[at].branches.insert(ordinal, (branch, heard));
    }

    fn is_torn(&self) -> bool {
        let ends = |at: usize, end| {
            let of = self.participants[at].branches.iter();
            of.filter(move |(_, (branch, _))| *branch == end).map(|(ordinal, _)| *ordinal).collect::<BTreeSet<_>>()
        };
        (0..PARTICIPANTS).any(|at| !ends(at, Branch::Committed).is_disjoint(&ends(1 - at, Branch::RolledBack)))
    }

    fn open(&self, log: usize, replaces: LogId, mutant: Option<Mutant>) -> Self {
        let mut next = self.clone();
        // Each opening draws another step; that two copies draw the same one has a chance of 1 in
        // 2^36.
        let incarnation = 1 + next.lives.len() as u64;
        let openings = Openings::begin(&next.logs[log].records(), incarnation).expect("there are epochs left");
        let written = &mut next.logs[log];
        written.position += 1;
        written.epochs.push((openings.current(), Lsn::new(written.position)));
        let openings = openings.numbered(&written.epochs);
        let mut life = Life::new(written.id(), openings.current(), written.position).continuing(openings.before());
        life.replaces = replaces;
        let told = if mutant == Some(Mutant::TrustsRestored) { openings } else { openings.told(&life) };
        next.lives.push(Coordinator {
            log,
            life,
            openings: told,
            met: [Met::Not; PARTICIPANTS],
            reported: Default::default(),
            next: 1,
            promised: BTreeMap::new(),
            stopped: false,
        });
        next
    }

    /// Whether another life of this log, or of a copy of it, is open.
    fn is_open(&self, id: u8) -> bool {
        self.lives.iter().any(|life| !life.stopped && self.logs[life.log].id == id)
    }

    fn operator(&self, bounds: &Bounds, mutant: Option<Mutant>, next: &mut Vec<Step>) {
        if self.logs.len() < bounds.logs {
            for log in 0..self.logs.len() {
                let mut world = self.clone();
                world.logs.push(Log { gone: false, ..self.logs[log].clone() });
                next.push((Move("log {} is copied", log, 0), world));
            }
            let mut world = self.clone();
            world.logs.push(Log { id: 1 + self.logs.len() as u8, position: 0, ..empty() });
            next.push((Move("an empty log is made", 0, 0), world));
        }
        for log in 0..self.logs.len() {
            let locked = self.lives.iter().any(|life| !life.stopped && life.log == log);
            if !locked && !self.logs[log].gone {
                let mut world = self.clone();
                world.logs[log].gone = true;
                next.push((Move("log {} is lost", log, 0), world));
            }
            // An operator's statement about a log holds for one opening, and no other is open
            // beside it.
            let of_log = |life: &Coordinator| self.logs[life.log].id == self.logs[log].id;
            let told = |life: &Coordinator| !life.stopped && life.life.replaces != LogId::NONE && of_log(life);
            if locked || self.logs[log].gone || self.lives.len() == bounds.lives || self.lives.iter().any(told) {
                continue;
            }
            next.push((Move("a coordinator opens on log {}", log, 0), self.open(log, LogId::NONE, mutant)));
            // The operator's statement is true: a log that is replaced is gone, and nothing is open
            // on it.
            let id = self.logs[log].id;
            let is_gone = |of: u8, but: usize| {
                self.logs.iter().enumerate().all(|(place, log)| place == but || log.id != of || log.gone)
                    && !self.is_open(of)
            };
            if is_gone(id, log) {
                next.push((
                    Move("one opens on log {}, which is said to be restored", log, 0),
                    self.open(log, self.logs[log].id(), mutant),
                ));
            }
            for lost in self.logs.iter().filter(|lost| lost.id != id && is_gone(lost.id, usize::MAX)) {
                next.push((
                    Move("one opens on log {}, which replaces log {}", log, lost.id.into()),
                    self.open(log, lost.id(), mutant),
                ));
            }
        }
    }

    fn of_life(&self, life: usize, bounds: &Bounds, mutant: Option<Mutant>, next: &mut Vec<Step>) {
        let coordinator = &self.lives[life];
        if coordinator.stopped {
            return;
        }
        let mut world = self.clone();
        world.lives[life].stopped = true;
        next.push((Move("life {} stops", life, 0), world));
        for at in 0..PARTICIPANTS {
            self.introduces(life, at, mutant, next);
            self.settles(life, at, mutant, next);
        }
        let begun: u64 = self.lives.iter().map(|life| life.next - 1).sum();
        if begun < bounds.transactions as u64 {
            let mut world = self.clone();
            let ordinal = TxnOrdinal { epoch: coordinator.life.epoch, sequence: coordinator.next };
            world.lives[life].next += 1;
            world.lives[life].promised.insert(ordinal, BTreeSet::new());
            next.push((Move("life {} begins transaction {}", life, ordinal.sequence as usize), world));
        }
        for (ordinal, promised) in &coordinator.promised {
            let decided = self.logs[coordinator.log].decided.contains(ordinal);
            if promised.len() == PARTICIPANTS && !decided {
                let mut world = self.clone();
                world.logs[coordinator.log].decided.insert(*ordinal);
                world.logs[coordinator.log].position += 1;
                next.push((Move("life {} decides transaction {}", life, ordinal.sequence as usize), world));
            }
            for at in 0..PARTICIPANTS {
                let mut world = self.clone();
                if !world.hears(at, life, mutant) {
                    continue;
                }
                match world.participants[at].branches.get(ordinal).map(|(branch, _)| *branch) {
                    None if !decided => {
                        world.write(at, *ordinal, Branch::Prepared);
                        world.lives[life].promised.entry(*ordinal).or_default().insert(at);
                        next.push((Move("life {} prepares at {}", life, at), world));
                    }
                    // Its own client has given up; once all have promised, the outcome may still be
                    // either.
                    Some(Branch::Prepared) if !decided => {
                        world.write(at, *ordinal, Branch::RolledBack);
                        world.lives[life].promised.remove(ordinal);
                        next.push((Move("life {} gives up at {}", life, at), world));
                    }
                    _ => {}
                }
            }
        }
        // Decisions in its log are delivered, in this life and in later ones.
        for ordinal in &self.logs[coordinator.log].decided {
            for at in 0..PARTICIPANTS {
                let mut world = self.clone();
                let prepared = matches!(world.participants[at].branches.get(ordinal), Some((Branch::Prepared, _)));
                if prepared && world.hears(at, life, mutant) {
                    world.write(at, *ordinal, Branch::Committed);
                    next.push((Move("life {} delivers at {}", life, at), world));
                }
            }
        }
    }

    fn introduces(&self, life: usize, at: usize, mutant: Option<Mutant>, next: &mut Vec<Step>) {
        let mut world = self.clone();
        let coordinator = &mut world.lives[life];
        if coordinator.met[at] == Met::Accepted {
            return;
        }
        let participant = &mut world.participants[at];
        let said = match mutant {
            Some(Mutant::ComparesLengthsNow) => participant.by_length(coordinator.life),
            _ => coordinator.life,
        };
        let accepted = mutant == Some(Mutant::HearsAnybody)
            || match participant.known.meet(&SHOP, &said) {
                Ok(_) => true,
                Err(ParticipantError::Superseded(_)) if mutant == Some(Mutant::ComparesLengthsNow) => false,
                // It has missed the opening before; the coordinator's recovery does the same.
                Err(ParticipantError::Superseded(mismatch)) => {
                    let openings = coordinator.openings.clone().told(&coordinator.life);
                    let again = openings.continuing(&coordinator.life, &mismatch.known);
                    again.is_some_and(|life| participant.known.meet(&SHOP, &life).is_ok())
                }
                Err(ParticipantError::OtherLog(_)) => false,
                Err(error) => panic!("{error}"),
            };
        coordinator.met[at] = if accepted { Met::Accepted } else { Met::Refused };
        if accepted {
            participant.notes(mutant);
            let prepared = participant.branches.iter().filter(|(_, (branch, _))| *branch == Branch::Prepared);
            coordinator.reported[at] = prepared.map(|(ordinal, _)| *ordinal).collect();
        }
        next.push((Move("life {} meets {}", life, at), world));
    }

    /// Settles what a participant reported, as the coordinator's recovery does.
    fn settles(&self, life: usize, at: usize, mutant: Option<Mutant>, next: &mut Vec<Step>) {
        let coordinator = &self.lives[life];
        let all_have_met = coordinator.met.iter().all(|met| *met == Met::Accepted);
        if !all_have_met && mutant != Some(Mutant::SettlesAtOnce) {
            return;
        }
        for ordinal in &coordinator.reported[at] {
            let standing = match mutant {
                Some(Mutant::PresumesByOrder) if ordinal.epoch < coordinator.life.epoch => Standing::PresumedAborted,
                _ => coordinator.openings.standing_of(*ordinal, coordinator.next),
            };
            let decided = self.logs[coordinator.log].decided.contains(ordinal);
            if standing != Standing::PresumedAborted || decided {
                continue;
            }
            let mut world = self.clone();
            world.lives[life].reported[at].remove(ordinal);
            let prepared = matches!(world.participants[at].branches.get(ordinal), Some((Branch::Prepared, _)));
            if prepared && world.hears(at, life, mutant) {
                world.write(at, *ordinal, Branch::RolledBack);
            }
            next.push((Move("life {} presumes abort at {}", life, at), world));
        }
    }

    fn restarts(&self, at: usize, bounds: &Bounds, mutant: Option<Mutant>, next: &mut Vec<Step>) {
        if self.restarts == bounds.restarts {
            return;
        }
        let mut world = self.clone();
        world.restarts += 1;
        let participant = &mut world.participants[at];
        participant.known = KnownLife::new();
        if participant.noted.log != LogId::NONE {
            participant.known.remember(participant.noted);
            for (branch, heard) in participant.branches.values() {
                if *branch != Branch::RolledBack && mutant != Some(Mutant::ForgetsPositions) {
                    participant.known.remember(*heard);
                }
            }
        }
        next.push((Move("participant {} is restarted", at, 0), world));
    }

    fn has_unclaimed(&self) -> bool {
        let is_unclaimed = |life: &Coordinator, ordinal: &TxnOrdinal| {
            life.openings.standing_of(*ordinal, life.next) == Standing::Unclaimed
                && !self.logs[life.log].decided.contains(ordinal)
        };
        self.lives.iter().any(|life| life.reported.iter().flatten().any(|ordinal| is_unclaimed(life, ordinal)))
    }
}

const fn empty() -> Log {
    Log { id: 0, epochs: Vec::new(), position: 0, decided: BTreeSet::new(), gone: false }
}

/// Searches all states within the bounds, the nearest first. Stops at the first torn one, and
/// returns the moves that led to it.
pub fn search(bounds: &Bounds, mutant: Option<Mutant>) -> Found {
    let first = World {
        logs: vec![Log { id: 1, ..empty() }],
        lives: Vec::new(),
        participants: Default::default(),
        restarts: 0,
    };
    let (mut fingerprint, mut found) = (Fingerprint::default(), Found::default());
    let mut seen = HashSet::from([fingerprint.of(&first)]);
    // Each state that was not visited yet, with its predecessor and the move between them.
    let mut states = vec![(Some(first), 0, Move("", 0, 0))];
    while found.states < states.len() {
        let at = found.states;
        let Some(world) = states[at].0.take() else { unreachable!("each is looked at once") };
        found.states += 1;
        found.unclaimed += usize::from(world.has_unclaimed());
        found.refused += usize::from(world.lives.iter().any(|life| life.met.contains(&Met::Refused)));
        let epochs: BTreeSet<_> = world.lives.iter().map(|life| life.life.epoch).collect();
        if world.is_torn() || epochs.len() < world.lives.len() {
            let mut steps = Vec::new();
            let mut state = at;
            while state != 0 {
                steps.push(states[state].2.to_string());
                state = states[state].1;
            }
            steps.reverse();
            found.torn = Some(steps.join("\n"));
            return found;
        }
        let mut next = Vec::new();
        world.operator(bounds, mutant, &mut next);
        (0..world.lives.len()).for_each(|life| world.of_life(life, bounds, mutant, &mut next));
        (0..PARTICIPANTS).for_each(|at| world.restarts(at, bounds, mutant, &mut next));
        for (step, world) in next {
            if seen.insert(fingerprint.of(&world)) {
                states.push((Some(world), at, step));
            }
        }
    }
    found
}
