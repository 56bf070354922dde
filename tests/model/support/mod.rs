//! The model: production state machines in a world that loses, repeats, delays and crashes.
//!
//! What decides here is the production code: [`CommitProtocol`] at the coordinator,
//! [`BranchProtocol`] at each participant, [`LiveRecords`](ringpact::log::LiveRecords) over the
//! logs. The drivers that carry out are written again, after `txn/run`, `txn/recovery` and
//! `participant/resource_manager`, as moves on one small [`World`]:
//!
//! | actor | its moves |
//! |---|---|
//! | the client | withdraws a branch under which nothing was done, and may enlist it again and work; commits, or rolls back |
//! | the network | delivers any request or reply that is on its way; loses it; delivers again what it has delivered or lost; reports a failure where there was one or none |
//! | a clock | ticks whenever a protocol has a deadline |
//! | a log | makes any prefix durable; refuses a record; fails for good |
//! | a service | fails to confirm or to cancel |
//! | a process that crashes | loses its memory, and of its log any part that was not durable, from the end; opens again |
//! | another process | takes the coordinator's log over, with any part of what was not durable, and opens the coordinator there |
//! | the coordinator that was | goes on, as one that was paused: sends what it has to send, hears answers, lets its time-outs come; hears from its log whether its decision is durable; learns of the takeover |
//! | a coordinator that has opened again | delivers what its log says is decided, asks what participants hold in doubt, rolls back what they report |
//! | an operator | has what is parked delivered again; settles it by hand, as decided or otherwise, and says so; sees what has ended otherwise, and lets that be |
//! | a last resource | does what it is told first, commit or roll back, and answers ever after that it has; says whether it has committed, if it remembers, and commits nothing after a No |
//! | a participant that has not heard the decision | asks for it |
//! | `ended_below` | tells a participant that the transaction has ended; the participant forgets it |
//!
//! A move runs a machine until the machine waits for something. A crash in the middle of a move is
//! no state of its own: what such a move has sent may be lost, and what it has appended may be cut
//! off, and then nothing is left of it.
//!
//! Being down is no state either: to be down for a while is to crash, to open again, and to have
//! messages delayed.
//!
//! # The files, in reading order
//!
//! | file | what is in it |
//! |---|---|
//! | `world.rs` | what a state consists of |
//! | `moves.rs` | which moves can be made in a state |
//! | `taken_over.rs` | the coordinator whose log was taken over |
//! | `coordinator.rs`, `participant.rs`, `logs.rs` | what a move does at the coordinator, at a participant, at a log |
//! | `checks.rs` | what must never be true, and when a run is over |
//! | `machine.rs` | production's state machines, each step of each state taken once |
//! | `symmetry.rs` | which states count as one, because participants are alike |
//! | `search.rs` | the search, of any state space |

mod checks;
mod coordinator;
mod logs;
pub mod machine;
mod moves;
mod participant;
pub mod search;
mod symmetry;
mod taken_over;
mod world;

use std::time::{Duration, Instant};

use machine::Machine;
use ringpact::{
    Epoch, Name, Policy, TxnId,
    participant::{BranchAction, BranchInput, BranchProtocol, Decision, Effort, LogSharing},
    txn::{Action, CommitProtocol, Input},
};
use symmetry::{History, Renumbering};
use world::{
    Cast, Fate, InDoubtQuery, Life, Log, MAX_PARTICIPANTS, Message, Party, Place, Replies, Requests, Told, World,
};

pub use checks::names;
pub use symmetry::Symmetry;
pub use world::UNBOUNDED;

/// What is searched: the participants, their surroundings, and how much may go wrong.
#[derive(Clone, Copy, Debug)]
pub struct Setting {
    pub sharing: LogSharing,
    /// Each participant has one of these roles; every choice is an initial state.
    pub roles: &'static [Role],
    pub participants: usize,
    pub crashes: Crashes,
    /// Number of faults that a run may hold: crashes, losses, duplicates and troubles together.
    /// [`UNBOUNDED`] is any number.
    pub faults: u8,
    pub symmetry: Symmetry,
    /// Whether a decision is parked at the first failure to deliver it, for an operator to retry.
    pub parks: bool,
    /// Whether participants ask what became of their branches.
    pub asks: bool,
    /// Whether another process may take the coordinator's log over while the coordinator lives on.
    pub taken_over: bool,
    /// Whether an operator also settles by hand what is parked, as decided or otherwise, and
    /// reports it.
    pub by_hand: bool,
    /// The participant, if any, that cannot promise.
    pub last_resource: LastResource,
    /// The defect in the code around the machines, if one is planted.
    pub mutant: Option<Mutant>,
    /// An invariant that is not checked, to see what damage follows once it is broken.
    pub overlooked: Option<&'static str>,
}

impl Setting {
    fn promisers(&self) -> usize {
        self.participants - usize::from(self.last_resource != LastResource::None)
    }
}

/// What a participant was asked to do before the client ended the transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// It has changed something, and will vote yes.
    Updates,
    /// It has only looked.
    Looks,
    /// It has refused some of the work, and will vote no.
    Refuses,
    /// It has refused the only piece of work without a trace. The client may withdraw it.
    Declines,
    /// The work is still on its way to it.
    HearsLate,
}

/// Whether there is a last resource: a participant that commits or rolls back when it is told to,
/// and loses nothing by crashes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LastResource {
    None,
    /// The participant with the highest number. Asked whether it has committed, it does not know.
    Forgets,
    /// The same participant, which knows. If it has not committed, it never will once it was asked.
    Remembers,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Crashes {
    Possible,
    Impossible,
}

/// A defect that is planted in the surroundings, and that the search has to find.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mutant {
    /// The coordinator's driver reports its decision durable when it is only appended.
    SendsCommitEarly,
    /// The logs report records durable that a crash takes away.
    LogLies,
    /// The participants' drivers report their promise durable when it is only appended.
    VotesEarly,
    /// The coordinator ends a committed transaction at the first acknowledgement.
    ForgetsEarly,
    /// A rollback of an unknown branch leaves no trace of it.
    LeavesNoTombstone,
    /// A participant's rollback of a promise is acknowledged before it is durable.
    AcknowledgesRollbackEarly,
    /// `ended_below` passes a transaction whose end is not durable.
    EndedBelowRunsAhead,
    /// The coordinator assumes that a last resource that did not answer has committed.
    TrustsTheLastResource,
    /// A last resource that is asked whether it has committed does not remember.
    ForgetsItsCommit,
    /// A last resource that says that it has not committed commits later all the same.
    CommitsLater,
    /// Participants do not force their promises on the coordinator's log, as if there were no last
    /// resource.
    PromisesLazily,
    /// A coordinator that opens rolls back what is in doubt, and does not ask the last resource.
    PresumesWithoutAsking,
    /// A participant that asks is told of a rollback before the last resource was asked.
    AnswersWithoutAsking,
    /// The coordinator takes an operator's word for the decision, whatever the word is.
    BelievesOperators,
    /// The coordinator's protocol goes on with a branch that was withdrawn.
    KeepsWithdrawn,
    /// A log that was taken over still takes the old handle's decision, and calls it durable: no compare
    /// in the write.
    WritesAfterTakeover,
    /// A log that was taken over denies a record that the new holder has.
    DeniesWhatIsDurable,
    /// A participant keeps only in memory which life of the coordinator it has met last.
    ForgetsTheEpoch,
    /// A participant does not refuse messages of an earlier life.
    ListensToAll,
}

/// A move. Numbers name participants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Move {
    ClientCommits,
    ClientRollsBack,
    /// The client withdraws the participant's branch, under which nothing was done.
    ClientWithdraws(usize),
    /// The client enlists that participant again, and works there.
    ClientComesBack(usize),
    Deliver(usize, Message, Trouble),
    DeliverAgain(usize, Message),
    Lose(usize, Message),
    Reply(usize, ringpact::participant::BranchReply, Trouble),
    LoseReply(usize, ringpact::participant::BranchReply),
    ReportFailure(usize),
    Tick(CommitRun),
    Sync(LogOf, u8),
    FailLog(LogOf),
    CrashCoordinator {
        kept: u8,
    },
    CrashParticipant {
        participant: usize,
        kept: u8,
    },
    CrashAll {
        kept: u8,
    },
    /// The coordinator is dropped and opened again, on a log and with participants that live on.
    ReopenCoordinator,
    /// Another process takes the coordinator's log over. The coordinator lives on.
    TakeOver {
        kept: u8,
    },
    /// The old coordinator hears whether its decision is durable.
    OldHearsLog,
    /// The old coordinator learns that its log was taken over.
    OldLearns,
    /// An answer reaches the old coordinator.
    OldHears(usize, ringpact::participant::BranchReply),
    /// The old coordinator hears of a failure, true or not.
    OldHearsFailure(usize),
    AnswerInDoubtQuery(usize),
    HearAnswer(usize),
    Forget(usize),
    /// An operator wants what is parked delivered again.
    Retry(CommitRun),
    /// An operator makes the participant do this, without the coordinator.
    SettleByHand(usize, Decision),
    /// An operator says how the branches that are parked have ended.
    Force(CommitRun, Decision),
    /// An operator has seen which branches ended otherwise than decided, and acknowledges it.
    LetBe(CommitRun),
    /// A participant asks what became of its branch.
    Ask(usize),
    /// The last resource answers whether it has committed.
    LastResourceAnswers(CommitRun),
    /// The question, or the answer, gets lost.
    QuestionFails(CommitRun),
}

/// What goes wrong while a message is handled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    None,
    ServiceFails,
    LogFull,
}

/// One run of the commit protocol at the coordinator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CommitRun {
    /// That of the transaction.
    Main,
    /// That of the transaction at the coordinator whose log was taken over.
    Old,
    /// That of a branch which only this participant knows.
    Orphan(usize),
}

/// Whose log it is. A shared log is the coordinator's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogOf {
    Coordinator,
    Participant(usize),
}

/// A setting with the machines that run in it.
pub struct Model {
    pub setting: Setting,
    cast: Cast,
    policy: Policy,
    now: Instant,
    commit: Machine<CommitProtocol, Feed, Action>,
    branch: Machine<BranchProtocol, BranchInput, BranchAction>,
    initial: Vec<World>,
    renumbering: Renumbering,
}

impl Model {
    pub fn new(setting: Setting) -> Self {
        let name = |text: &str| Name::new(text).expect("a valid name");
        let names: Vec<Name> = (0..setting.participants).map(participant).collect();
        let txn = TxnId::new(name("c"), Epoch::new(1), 1);
        // The clock stands still, and every time-out is zero: whatever can be due is due, and `Tick` is a move that
        // can be made, or not, whenever there is a deadline.
        let policy = Policy::default()
            .prepare_timeout(Duration::ZERO)
            .delivery_timeout(Duration::ZERO)
            .first_backoff(Duration::ZERO)
            .longest_backoff(Duration::ZERO)
            .transaction_timeout(Duration::MAX)
            .park_after(Duration::MAX)
            .park_after_attempts(if setting.parks { 1 } else { u32::MAX });
        let now = Instant::now();
        NOW.with(|cell| cell.set(Some(now)));
        let mut model = Self {
            setting,
            cast: Cast { txn, names },
            policy,
            now,
            commit: Machine::new(step_commit),
            branch: Machine::new(BranchProtocol::handle),
            initial: Vec::new(),
            renumbering: Renumbering::of(setting.promisers()),
        };
        for roles in model.choices() {
            let begin = model.begin(&roles);
            let begin = if setting.symmetry == Symmetry::Used { model.representative(begin) } else { begin };
            model.initial.push(begin);
        }
        model
    }

    /// Every choice of roles.
    pub fn choices(&self) -> Vec<Vec<Role>> {
        let mut choices = vec![Vec::new()];
        for number in self.participants() {
            let declines = self.setting.roles.contains(&Role::Declines);
            let roles = match self.is_last_resource(number) {
                true if declines => &[Role::Updates, Role::Declines][..],
                true => &[Role::Updates, Role::Refuses],
                false => self.setting.roles,
            };
            let longer = choices
                .iter()
                .flat_map(|choice: &Vec<Role>| roles.iter().map(|role| [choice.as_slice(), &[*role]].concat()));
            choices = longer.collect();
        }
        choices
    }

    /// The world just before the client ends the transaction.
    fn begin(&mut self, roles: &[Role]) -> World {
        let mut protocol = CommitProtocol::new(self.cast.txn.clone(), self.policy);
        let unused = Party {
            branch: self.branch.intern(BranchProtocol::new()),
            log: Log::default(),
            fate: Fate::NoWork,
            learnt: false,
            requests: Requests::NONE,
            replies: Replies::NONE,
        };
        let mut parties = [unused; MAX_PARTICIPANTS];
        for (number, role) in roles.iter().enumerate() {
            let (name, party) = (self.cast.names[number].clone(), &mut parties[number]);
            if self.is_last_resource(number) {
                enlist(&mut protocol, name, self.enlisted(number));
                party.fate = match role {
                    // A last resource that refuses gives its work up right away.
                    Role::Refuses => Fate::Undone,
                    Role::Declines => Fate::NoWork,
                    _ => Fate::Open,
                };
                continue;
            }
            protocol.enlist(name);
            let works: &[_] = match role {
                Role::Updates => &[BranchInput::Worked(Effort::Update)],
                Role::Looks => &[BranchInput::Worked(Effort::ReadOnly)],
                Role::Refuses => &[BranchInput::Worked(Effort::Update), BranchInput::Refused],
                Role::Declines | Role::HearsLate => &[],
            };
            for work in works {
                self.branch.step(&mut party.branch, *work);
            }
            match role {
                Role::Updates | Role::Refuses => party.fate = Fate::Open,
                Role::Looks | Role::Declines => {}
                Role::HearsLate => party.requests.put(Message::Work, Place::OnItsWay),
            }
        }
        let main = self.commit.intern(protocol);
        self.renumbering.note(main, History::Begun);
        World {
            faults: self.setting.faults,
            life: Life::First,
            main: Some(main),
            in_doubt_queries: [InDoubtQuery::Over; MAX_PARTICIPANTS],
            orphans: [None; MAX_PARTICIPANTS],
            log: Log::default(),
            deciders: 0,
            parties,
            old: None,
            old_is_durable: false,
            met: 0,
            told: Told::Nothing,
            decided: false,
            ended_below_sent: 0,
            overruled: false,
            seen: false,
            withdrawn: 0,
        }
    }

    fn is(&self, mutant: Mutant) -> bool {
        self.setting.mutant == Some(mutant)
    }

    /// The numbers of the participants.
    fn participants(&self) -> std::ops::Range<usize> {
        0..self.setting.participants
    }

    /// The numbers of the participants that can promise.
    fn promisers(&self) -> std::ops::Range<usize> {
        0..self.setting.promisers()
    }

    /// How the participant is enlisted.
    fn enlisted(&self, number: usize) -> Enlisted {
        match self.setting.last_resource {
            _ if !self.is_last_resource(number) => Enlisted::Voter,
            LastResource::Remembers => Enlisted::RememberingLast,
            _ => Enlisted::Last,
        }
    }

    fn is_last_resource(&self, number: usize) -> bool {
        !self.promisers().contains(&number)
    }
}

thread_local! {
    /// The time at which all models of this thread stand still. A machine's step is a plain
    /// function, and reads the time here.
    static NOW: std::cell::Cell<Option<Instant>> = const { std::cell::Cell::new(None) };
}

/// A step of the commit protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Feed {
    /// What happened.
    Input(Input),
    /// The question what to do.
    Poll,
    /// The client withdraws the branch with this index.
    Withdraw(usize),
    /// The client enlists the participant with this number.
    Enlist(usize, Enlisted),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Enlisted {
    Voter,
    Last,
    RememberingLast,
}

fn step_commit(protocol: &mut CommitProtocol, feed: Feed) -> Option<Action> {
    let now = NOW.with(std::cell::Cell::get).expect("a model was made on this thread");
    match feed {
        Feed::Input(input) => protocol.handle(now, input),
        Feed::Poll => return protocol.poll(now),
        Feed::Withdraw(branch) => assert!(protocol.withdraw(branch), "the client still works"),
        Feed::Enlist(number, how) => enlist(protocol, participant(number), how),
    }
    None
}

fn enlist(protocol: &mut CommitProtocol, name: Name, how: Enlisted) {
    let index = match how {
        Enlisted::Voter => Some(protocol.enlist(name)),
        Enlisted::Last => protocol.enlist_last_resource(name),
        Enlisted::RememberingLast => protocol.enlist_remembering_last_resource(name),
    };
    assert!(index.is_some(), "there is one last resource");
}

/// The name of the participant with this number.
fn participant(number: usize) -> Name {
    Name::new(&format!("p{number}")).expect("a valid name")
}
