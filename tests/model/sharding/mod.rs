//! A position that moves between two shards, searched exhaustively with the production code.
//!
//! What decides here is the production code: [`Gate`] and
//! [`BranchProtocol`](ringpact::participant::BranchProtocol) at both shards. Around them are their drivers,
//! written again, and small honest stand-ins for the rest: a coordinator that decides (whose own protocol
//! `state_space.rs` searches), a keeper that records, a mover, and clients.
//!
//! | actor | its moves |
//! |---|---|
//! | the mover | begins a chunk; freezes, seals, registers, gives back; has the other shard take the records |
//! | the coordinator | asks for votes; decides; rolls back at any time; delivers what is decided, again and again; crashes, and presumes abort |
//! | the keeper | records a chunk; turns the change round, at any time; ends it |
//! | a client | reads the ring, or uses what it knows from before; is let in, later works, is asked to promise, committed or rolled back |
//! | a shard | makes its log durable; saves, at any time; crashes, loses what is not durable, replays; its service may fail to confirm |
//! | the network | loses any message; delivers a call or a prepare late or once more |
//!
//! There are two chunks (there and back, or a second try) and two clients. Late messages, crashes and
//! failing services are faults, whose number is bounded. Everything else is not.
//!
//! These statements hold in every state (`checks.rs`): at most one shard lets work in; a read is let in
//! only where all is that was carried out; the ring never says what is not decided. And once everything is
//! over, which it always can be: the gates agree with the ring, and the records are what was committed,
//! each once.

mod checks;
mod moves;
mod shard;
mod world;

use std::{cell::Cell, time::Instant};

use checks::names;
use moves::Moves;
use ringpact::{
    Epoch, Name, TxnId,
    participant::{
        BranchAction, BranchInput, BranchProtocol,
        LogSharing::{self, OwnLog, SharedLog},
    },
    ring::{NodeId, Position, PositionRange, RangeSet},
    sharding::{Gate, GateImage, GateNote, Tenure},
};
use world::{CHUNKS, CLIENTS, Chunk, Client, Data, Log, Outcome, Ring, Shard, TXNS, World};

use crate::common;
use crate::support::{
    machine::Machine,
    search::{self, Counterexample, Report, Space, Successor},
};

/// When what a shard does becomes durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// When the shard saves.
    InMemory,
    /// At once, with its notes.
    AtOnce,
}

/// A defect that is planted, and that the search has to find.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mutant {
    /// Work is done at a shard that the gate refuses.
    WorksWithoutTheGate,
    /// A read is answered by the shard that the ring names.
    ReadsWithoutTheGate,
    /// `from` discards when it promises.
    DiscardsBeforeTheDecision,
    /// `to` opens when it promises.
    OpensAtThePromise,
    /// A restart seals nothing of what was promised.
    DoesNotRestoreFreezes,
    /// A restart holds nothing of what was promised.
    RestoresNoPins,
    /// A confirm does not look whether the position has left meanwhile.
    DoesNotCheckTenures,
    /// A confirm does not look since when the shard has the position.
    ChecksOnlyOwnership,
    /// `<` for `<=`: work of a position's first tenure is taken for older work.
    ComparesTenuresStrictly,
    /// The keeper publishes when the votes are in.
    RecordsBeforeTheDecision,
    /// A cancelled change ends while a chunk is in flight.
    CancelForgetsChunks,
    /// `from` lets work in again when its promise is old.
    ThawsByTimeOut,
    /// `to` opens when its promise is old.
    OpensByTimeOut,
    /// A release that comes again after the vote lets work in.
    RepeatedReleaseThaws,
    /// A range is exported while a transaction has changes in it.
    SealsOverPins,
    /// A confirm that fails after a restart holds nothing in place.
    FailedConfirmHasNoPin,
    /// A shard that has crashed promises work of a transaction that began before, of which it may have lost a
    /// part.
    PromisesWhatMayBeLost,
    /// An arrival that was saved, and whose commit a crash has taken from the log, is staged again.
    RestoresWhatIsOpen,
    /// A save has the tenures, and not the data.
    SavesTenuresApart,
}

/// A move. Numbers name chunks, clients, shards, or transactions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Move {
    Begin(usize),
    Freeze(usize),
    Seal(usize),
    Register(usize),
    GiveBack(usize),
    ReleaseAgain(usize),
    Take(usize),
    Prepare(usize, usize),
    Decide(usize),
    RollBack(usize),
    Deliver(usize, usize),
    Record(usize),
    Turn,
    End,
    Refresh(usize),
    Admit(usize),
    Enter(usize),
    GiveUp(usize),
    Sync(usize),
    Save(usize),
    Crash { at: usize, kept: u8, fails: bool },
    CrashAll { kept: [u8; 2], fails: bool },
    CrashCoordinator,
    TimesOut(usize),
}

/// What is searched, and how much may go wrong.
#[derive(Clone, Copy, Debug)]
struct Setting {
    sharing: LogSharing,
    kind: Kind,
    /// Number of clients.
    clients: usize,
    /// Maximum number of faults.
    faults: u8,
    mutant: Option<Mutant>,
}

const fn setting(sharing: LogSharing, kind: Kind, clients: usize, faults: u8) -> Setting {
    Setting { sharing, kind, clients, faults, mutant: None }
}

struct Model {
    sharing: LogSharing,
    kind: Kind,
    clients: usize,
    mutant: Option<Mutant>,
    position: Position,
    ranges: RangeSet,
    node: NodeId,
    txns: [TxnId; TXNS],
    reader: TxnId,
    gates: Machine<Gate, (), ()>,
    branches: Machine<BranchProtocol, BranchInput, BranchAction>,
    initial: Option<World>,
    ends: Cell<Ends>,
}

/// Number of states in which everything is over, by where the position is.
#[derive(Clone, Copy, Debug, Default)]
struct Ends {
    stayed: usize,
    went: usize,
    came_back: usize,
}

impl Model {
    fn new(Setting { sharing, kind, clients, faults, mutant }: Setting) -> Self {
        let txn = |number| TxnId::new(Name::from_static("c"), Epoch::new(1), number);
        let position = Position::new(7);
        let ranges = RangeSet::from_iter([PositionRange { start: Position::new(6), end: position }]);
        let mut gates = Machine::new(|_: &mut Gate, ()| None);
        let mut branches = Machine::new(BranchProtocol::handle);
        let mut image = GateImage::new();
        let empty = gates.intern(Gate::new(image.clone()));
        image.apply(&GateNote::Owned { ranges: ranges.clone(), tenure: Tenure::FIRST });
        let owner = gates.intern(Gate::new(image));
        let unknown = branches.intern(BranchProtocol::new());
        let shard = |gate, data| Shard {
            gate,
            data,
            saved_gate: gate,
            saved: data,
            log: Log::default(),
            branches: [unknown; TXNS],
            older: 0,
        };
        let first = Tenure::FIRST.as_u64();
        let client =
            Client { outcome: Outcome::NotBegun, view: (0, first), admitted: None, worked: false, voted: false };
        let initial = World {
            shards: [shard(owner, Data::EMPTY), shard(empty, Data::default())],
            chunks: [Chunk::default(); CHUNKS],
            clients: [client; CLIENTS],
            ring: Ring { side: 0, tenure: first, toward: 1, ended: false, given: first },
            carried_out: 0,
            faults,
        };
        Self {
            sharing,
            kind,
            clients,
            mutant,
            position,
            ranges,
            node: NodeId::from("other"),
            txns: [0, 1, 2, 3].map(txn),
            reader: checks::reader(txn),
            gates,
            branches,
            initial: Some(initial),
            ends: Cell::default(),
        }
    }

    fn is(&self, mutant: Mutant) -> bool {
        self.mutant == Some(mutant)
    }
}

impl Space for Model {
    type State = World;
    type Move = Move;

    fn initial(&self) -> Vec<World> {
        self.initial.into_iter().collect()
    }

    fn successors(&mut self, from: World, out: &mut Vec<Successor<World, Move>>) {
        self.moves(&mut Moves { from, out });
    }

    fn stands_for(&mut self, _: World) -> usize {
        1
    }

    fn broken(&self, state: &World) -> Option<&'static str> {
        self.broken_by(state)
    }

    fn settled(&self, state: &World) -> bool {
        let is_over = self.is_over(state);
        if is_over {
            let mut ends = self.ends.get();
            *match (state.ring.side, state.ring.tenure) {
                (0, 1) => &mut ends.stayed,
                (0, _) => &mut ends.came_back,
                _ => &mut ends.went,
            } += 1;
            self.ends.set(ends);
        }
        is_over
    }
}

/// Searches, and prints one line about the search.
fn run(setting: Setting) -> (Report<Move>, Ends) {
    let begun = Instant::now();
    let mut model = Model::new(setting);
    let report = search::search(&mut model);
    let ends = model.ends.get();
    println!(
        "{setting:?}: {} states, {} moves, depth {}, {ends:?}, {:.1?}",
        report.states,
        report.moves,
        report.depth,
        begun.elapsed(),
    );
    if let Err(Counterexample { breaks, trace, .. }) = &report.verdict {
        println!("  {breaks}");
        trace.iter().for_each(|what| println!("    {what:?}"));
    }
    (report, ends)
}

/// Asserts that the search finds nothing wrong, in exactly this many states. A count that changes says that
/// the gate, the protocol or the model changed. Find out why before you write down the new count.
fn holds(setting: Setting, states: usize) {
    let (report, Ends { stayed, went, came_back }) = run(setting);
    if let Err(counterexample) = report.verdict {
        panic!("{counterexample:#?}");
    }
    assert_eq!(report.states, states);
    assert!(stayed > 0 && went > 0 && came_back > 0, "it has seen too little");
}

/// Asserts that the search finds the mutant, by this check.
fn caught(mutant: Mutant, by: &str, setting: Setting) {
    let (report, _) = run(Setting { mutant: Some(mutant), ..setting });
    assert_eq!(report.verdict.expect_err("the mutant is caught").breaks, by, "{mutant:?}");
}

/// Chunks alone, with their own logs or on the coordinator's, with two faults.
#[test]
fn chunks_that_go_there_and_back() {
    holds(setting(OwnLog, Kind::AtOnce, 0, 2), 157_643);
    holds(setting(OwnLog, Kind::InMemory, 0, 2), 320_566);
    holds(setting(SharedLog, Kind::AtOnce, 0, 2), 105_371);
    holds(setting(SharedLog, Kind::InMemory, 0, 2), 231_492);
    if common::long_form() {
        holds(setting(OwnLog, Kind::AtOnce, 0, 4), 766_293);
        holds(setting(SharedLog, Kind::AtOnce, 0, 4), 373_578);
    }
}

/// A client that writes meanwhile, with what it knows of the ring or knew before.
#[test]
fn chunks_beside_a_client() {
    holds(setting(OwnLog, Kind::AtOnce, 1, 1), 771_030);
    holds(setting(OwnLog, Kind::InMemory, 1, 1), 1_845_795);
    holds(setting(SharedLog, Kind::AtOnce, 1, 1), 627_020);
    holds(setting(SharedLog, Kind::InMemory, 1, 1), 1_810_450);
    if common::long_form() {
        holds(setting(OwnLog, Kind::AtOnce, 1, 2), 3_399_153);
        holds(setting(SharedLog, Kind::AtOnce, 1, 2), 2_071_850);
        holds(setting(OwnLog, Kind::AtOnce, 2, 0), 1_820_470);
        holds(setting(SharedLog, Kind::AtOnce, 2, 0), 1_944_997);
    }
}

/// Mutants that need no fault, or one.
#[test]
fn every_mutant_is_found() {
    let quiet = |clients| setting(OwnLog, Kind::AtOnce, clients, 0);
    let crash = |clients| setting(OwnLog, Kind::AtOnce, clients, 1);
    let memory = setting(OwnLog, Kind::InMemory, 1, 1);
    let shared = |kind| setting(SharedLog, kind, 0, 1);
    for (mutant, by, setting) in [
        (Mutant::WorksWithoutTheGate, names::OLD_READ, quiet(1)),
        (Mutant::ReadsWithoutTheGate, names::OLD_READ, quiet(0)),
        (Mutant::DiscardsBeforeTheDecision, names::OLD_READ, quiet(0)),
        (Mutant::OpensAtThePromise, names::TWO_OWNERS, crash(0)),
        (Mutant::DoesNotRestoreFreezes, names::TWO_OWNERS, crash(0)),
        (Mutant::RestoresNoPins, names::OLD_READ, crash(1)),
        (Mutant::DoesNotCheckTenures, names::DISAGREEMENT, crash(1)),
        (Mutant::ChecksOnlyOwnership, names::DOUBLED, crash(1)),
        (Mutant::ComparesTenuresStrictly, names::LOST, quiet(1)),
        (Mutant::RecordsBeforeTheDecision, names::EARLY_RECORD, quiet(0)),
        (Mutant::CancelForgetsChunks, names::DISAGREEMENT, quiet(0)),
        (Mutant::ThawsByTimeOut, names::TWO_OWNERS, quiet(0)),
        (Mutant::OpensByTimeOut, names::TWO_OWNERS, quiet(0)),
        (Mutant::RepeatedReleaseThaws, names::TWO_OWNERS, crash(0)),
        (Mutant::SealsOverPins, names::OLD_READ, quiet(1)),
        (Mutant::FailedConfirmHasNoPin, names::OLD_READ, memory),
        (Mutant::RestoresWhatIsOpen, search::NEVER_ENDS, shared(Kind::AtOnce)),
        (Mutant::RestoresWhatIsOpen, search::NEVER_ENDS, shared(Kind::InMemory)),
        (Mutant::SavesTenuresApart, names::OLD_READ, memory),
        (Mutant::PromisesWhatMayBeLost, names::OLD_READ, setting(OwnLog, Kind::AtOnce, 1, 2)),
    ] {
        caught(mutant, by, setting);
    }
}
