//! What a state of the modelled world is made of. Everything is small and `Copy`.

use super::machine::Id;
use ringpact::{
    Name, TxnId,
    log::{Fact, Heuristic, LiveRecords, Lsn, Record},
    participant::{BranchReply, Decision, Verb, Vote},
};

/// Maximum number of participants.
pub const MAX_PARTICIPANTS: usize = 3;

/// Everything there is: the coordinator, the participants, what travels between them, and what a
/// client was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct World {
    /// Number of faults that may still happen; [`UNBOUNDED`] never runs out.
    pub faults: u8,
    /// How often the coordinator was opened: once, or more than once.
    pub life: Life,
    /// The transaction's own protocol; after a restart, that of a decision found in the log.
    pub main: Option<Id>,
    /// For each participant: what became of the question for branches in doubt, after a restart.
    pub in_doubt_queries: [InDoubtQuery; MAX_PARTICIPANTS],
    /// For each participant: the protocol of a branch that it reported and that the log does not
    /// know.
    pub orphans: [Option<Id>; MAX_PARTICIPANTS],
    /// The coordinator's log, or the one that all share.
    pub log: Log,
    /// The participants, as bits, that the decision's record names.
    pub deciders: u8,
    pub parties: [Party; MAX_PARTICIPANTS],
    /// The protocol of the coordinator whose log was taken over, which lives on and may not know it.
    pub old: Option<Id>,
    /// Whether the record that this protocol waits for is in the log that was taken over.
    pub old_is_durable: bool,
    /// The participants, as bits, that have met the new holder, and refuse the old coordinator.
    pub met: u8,
    /// What the client was told.
    pub told: Told,
    /// Whether the decision has been durable at some time.
    pub decided: bool,
    /// The participants, as bits, to which a message may carry an `ended_below` above this
    /// transaction.
    pub ended_below_sent: u8,
    /// Whether an operator has settled a branch by hand, otherwise than decided.
    pub overruled: bool,
    /// Whether an operator has seen that branches ended otherwise than decided, and acknowledged
    /// it.
    pub seen: bool,
    /// The participants, as bits, that the client has withdrawn.
    pub withdrawn: u8,
}

/// A number of faults that never runs out.
pub const UNBOUNDED: u8 = u8::MAX;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Life {
    First,
    Later,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum InDoubtQuery {
    /// The participant is to be asked, or asked again.
    Open,
    /// The participant has looked. Its report, whether the branch is unfinished, is on its way.
    Reported(bool),
    /// The participant has answered, or is never asked.
    Over,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Told {
    Nothing,
    Committed,
    RolledBack,
    Indeterminate,
    /// Two different things.
    Contradiction,
}

/// One participant: its branch, its log, and the messages between it and the coordinator.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Party {
    pub branch: Id,
    /// Its own log; always empty if it shares the coordinator's.
    pub log: Log,
    pub fate: Fate,
    /// Whether it knows that the coordinator has ended the transaction.
    pub learnt: bool,
    pub requests: Requests,
    pub replies: Replies,
}

/// What became of the work done under a branch, seen from outside, not from the protocol's state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Fate {
    /// No work that changes anything.
    NoWork,
    /// The work may still go either way.
    Open,
    /// The service has carried the work out.
    Applied,
    /// The service has given the work up, or a crash took the last trace of it.
    Undone,
    /// More than one of these: a contradiction.
    Torn,
}

impl Fate {
    pub fn apply(&mut self) {
        *self = if matches!(self, Self::Open | Self::Applied) { Self::Applied } else { Self::Torn };
    }

    pub fn undo(&mut self) {
        *self = if matches!(self, Self::Open | Self::Undone) { Self::Undone } else { Self::Torn };
    }
}

/// A request to a participant. [`Message::Work`] comes from the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Message {
    Prepare,
    Commit,
    Rollback,
    CommitOnePhase,
    Work,
}

impl Message {
    pub const ALL: [Self; 5] = [Self::Prepare, Self::Commit, Self::Rollback, Self::CommitOnePhase, Self::Work];

    pub const fn of(verb: Verb) -> Self {
        match verb {
            Verb::Prepare => Self::Prepare,
            Verb::Commit => Self::Commit,
            Verb::Rollback => Self::Rollback,
            Verb::CommitOnePhase => Self::CommitOnePhase,
            _ => panic!("a verb that is not modelled"),
        }
    }
}

/// Where the requests of each kind to one participant are.
///
/// A request that was delivered or lost becomes a *ghost*: a copy of it may turn up any number of
/// times, at any later time. So each kind has only three places, and still loss, duplication and
/// delay need no bound.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Requests(u16);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    Nowhere = 0,
    /// The network will deliver it, unless it is lost.
    OnItsWay = 1,
    Ghost = 2,
}

impl Requests {
    pub const NONE: Self = Self(0);

    pub const fn get(self, message: Message) -> Place {
        match (self.0 >> (2 * message as u16)) & 3 {
            0 => Place::Nowhere,
            1 => Place::OnItsWay,
            _ => Place::Ghost,
        }
    }

    pub const fn put(&mut self, message: Message, place: Place) {
        let shift = 2 * message as u16;
        self.0 = (self.0 & !(3 << shift)) | ((place as u16) << shift);
    }

    /// Whether anything was ever sent.
    pub const fn any(self) -> bool {
        self.0 != 0
    }

    /// Drops ghosts, because ghosts that can never turn up again make no difference.
    pub fn forget_ghosts(&mut self) {
        for message in Message::ALL {
            if self.get(message) == Place::Ghost {
                self.put(message, Place::Nowhere);
            }
        }
    }
}

/// The answers on their way to the coordinator, each kind at most once. Failures do not travel: the
/// coordinator may hear of one at any time, whether there was one or not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Replies(u16);

impl Replies {
    pub const NONE: Self = Self(0);
    pub const ALL: [BranchReply; 9] = [
        BranchReply::Voted(Vote::Yes),
        BranchReply::Voted(Vote::No),
        BranchReply::Voted(Vote::ReadOnly),
        BranchReply::Done,
        BranchReply::Decided(Decision::Commit),
        BranchReply::Decided(Decision::Rollback),
        BranchReply::AlreadyCommitted,
        BranchReply::AlreadyRolledBack,
        BranchReply::UnknownBranch,
    ];

    fn bit(reply: BranchReply) -> u16 {
        Self::ALL.iter().position(|known| *known == reply).map_or(0, |number| 1 << number)
    }

    pub fn has(self, reply: BranchReply) -> bool {
        self.0 & Self::bit(reply) != 0
    }

    pub fn add(&mut self, reply: BranchReply) {
        self.0 |= Self::bit(reply);
    }

    pub fn remove(&mut self, reply: BranchReply) {
        self.0 &= !Self::bit(reply);
    }
}

/// What a record says; its owner is the coordinator, or the participant with that number. In a log
/// of its own each participant has number 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    Decided,
    /// The participants, as bits, that have not acknowledged.
    Parked(u8),
    /// The participant has ended otherwise than decided.
    Heuristic(usize, Heuristic),
    Ended,
    Prepared(usize),
    Committed(usize),
    Forgotten(usize),
}

/// The code of the first participant's first kind of record.
const FIRST_OF_PARTICIPANTS: u8 = 20;

/// A log: at most 16 records of a byte each. The first `durable` of them are durable.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Log {
    records: [u8; 16],
    pub len: u8,
    pub durable: u8,
    /// Whether it has failed: it takes no more records, and makes none durable, until it is opened
    /// again.
    pub poisoned: bool,
}

impl Log {
    /// Appends a record, and returns its number.
    pub fn append(&mut self, entry: Entry) -> Lsn {
        self.push(Self::code(entry));
        Lsn::new(u64::from(self.len))
    }

    fn push(&mut self, code: u8) {
        self.records[usize::from(self.len)] = code;
        self.len += 1;
    }

    /// Participants' records have the last codes, and an owner's end comes after its other records.
    fn code(entry: Entry) -> u8 {
        let of = |party: usize| 3 * u8::try_from(party).expect("few participants");
        match entry {
            Entry::Decided => 1,
            Entry::Parked(owed) => 2 + owed,
            Entry::Heuristic(party, Heuristic::Committed) => 10 + of(party),
            Entry::Heuristic(party, Heuristic::RolledBack) => 11 + of(party),
            Entry::Heuristic(party, _) => 12 + of(party),
            Entry::Ended => 19,
            Entry::Prepared(party) => FIRST_OF_PARTICIPANTS + of(party),
            Entry::Committed(party) => FIRST_OF_PARTICIPANTS + 1 + of(party),
            Entry::Forgotten(party) => FIRST_OF_PARTICIPANTS + 2 + of(party),
        }
    }

    fn entry(self, index: u8) -> Entry {
        let code = self.records[usize::from(index)];
        let (party, kind) = (|first: u8| usize::from((code - first) / 3), |first: u8| (code - first) % 3);
        match code {
            1 => Entry::Decided,
            2..10 => Entry::Parked(code - 2),
            10..19 => {
                let how = [Heuristic::Committed, Heuristic::RolledBack, Heuristic::Hazard][usize::from(kind(10))];
                Entry::Heuristic(party(10), how)
            }
            19 => Entry::Ended,
            _ => match kind(FIRST_OF_PARTICIPANTS) {
                0 => Entry::Prepared(party(FIRST_OF_PARTICIPANTS)),
                1 => Entry::Committed(party(FIRST_OF_PARTICIPANTS)),
                _ => Entry::Forgotten(party(FIRST_OF_PARTICIPANTS)),
            },
        }
    }

    /// All its records.
    pub fn entries(self) -> impl Iterator<Item = Entry> {
        (0..self.len).map(move |index| self.entry(index))
    }

    /// The log as it is found after its first `kept` records survived: the live ones among them, by
    /// production's own [`LiveRecords`].
    pub fn reopened(self, kept: u8, cast: &Cast) -> Self {
        let mut live = LiveRecords::default();
        for index in 0..kept {
            live.apply(Lsn::new(u64::from(index) + 1), &cast.record(self.entry(index), 0));
        }
        let mut reopened = Self::default();
        live.iter().for_each(|(_, record)| reopened.push(Self::code(cast.entry(&record))));
        reopened.make_durable(reopened.len);
        reopened
    }

    /// Makes its first `up_to` records durable. From then on the order of different owners' records
    /// makes no difference, nor does that of one participant's records (its end comes last in the
    /// order of codes, too). So all are put in one order.
    pub fn make_durable(&mut self, up_to: u8) {
        self.durable = up_to;
        let mut entries: Vec<Entry> = self.entries().collect();
        if up_to == self.len {
            // No protocol waits for a record by its number, so records that later ones replaced can
            // go.
            entries = without_replaced(entries);
            self.durable = u8::try_from(entries.len()).expect("a log has few records");
        }
        let durable = &mut entries[..usize::from(self.durable)];
        durable.sort_by_key(|entry| Self::code(*entry).checked_sub(FIRST_OF_PARTICIPANTS).map_or(0, |code| code + 1));
        self.write(entries.into_iter().map(Self::code).collect());
    }

    fn write(&mut self, codes: Vec<u8>) {
        (self.records, self.len) = ([0; 16], 0);
        codes.into_iter().for_each(|code| self.push(code));
    }

    /// Number of records, of those about owed or differing participants, that are not durable.
    pub fn behind(self) -> usize {
        let late = self.entries().skip(usize::from(self.durable));
        late.filter(|entry| matches!(entry, Entry::Parked(_) | Entry::Heuristic(..))).count()
    }

    /// The same log with other records.
    pub fn map(mut self, change: impl Fn(Entry) -> Entry) -> Self {
        self.write(self.entries().map(change).map(Self::code).collect());
        self.make_durable(self.durable);
        self
    }

    /// The records that are durable.
    pub fn durable_entries(self) -> impl Iterator<Item = Entry> {
        self.entries().take(usize::from(self.durable))
    }
}

/// The records without those that later ones of the coordinator replace: which participants are
/// owed, and which have not followed.
fn without_replaced(mut entries: Vec<Entry>) -> Vec<Entry> {
    let mut heuristics: Vec<(usize, Heuristic)> = Vec::new();
    let mut parked = None;
    entries.retain(|entry| {
        match *entry {
            Entry::Parked(owed) => {
                heuristics.retain(|(party, _)| owed & (1 << party) == 0);
                parked = Some(owed);
            }
            Entry::Heuristic(party, how) => {
                heuristics.retain(|(other, _)| *other != party);
                heuristics.push((party, how));
            }
            _ => return true,
        }
        false
    });
    heuristics.sort_unstable_by_key(|(party, _)| *party);
    let heuristics = heuristics.into_iter().map(|(party, how)| Entry::Heuristic(party, how));
    let decided = usize::from(entries.contains(&Entry::Decided));
    entries.sort_by_key(|entry| *entry != Entry::Decided);
    entries.splice(decided..decided, parked.map(Entry::Parked).into_iter().chain(heuristics));
    entries
}

/// The names in the model, and their numbers.
pub struct Cast {
    pub txn: TxnId,
    pub names: Vec<Name>,
}

impl Cast {
    /// The participant's number.
    pub fn number(&self, name: &Name) -> usize {
        self.names.iter().position(|known| known == name).expect("the protocol names only its own participants")
    }

    /// The participants that these bits name.
    pub fn named(&self, bits: u8) -> Vec<Name> {
        self.names
            .iter()
            .enumerate()
            .filter(|(number, _)| bits & (1 << number) != 0)
            .map(|(_, name)| name.clone())
            .collect()
    }

    /// These participants as bits.
    pub fn bits(&self, names: &[Name]) -> u8 {
        names.iter().map(|name| 1 << self.number(name)).sum()
    }

    /// The record; a decision names these participants.
    pub fn record(&self, entry: Entry, deciders: u8) -> Record {
        let txn = self.txn.clone();
        let coordinator = self.txn.coordinator().clone();
        let (owner, fact) = match entry {
            Entry::Decided => (coordinator, Fact::Decided { txn, participants: self.named(deciders) }),
            Entry::Heuristic(party, outcome) => {
                (coordinator, Fact::Heuristic { txn, participant: self.names[party].clone(), outcome })
            }
            Entry::Parked(owed) => (coordinator, Fact::Parked { txn, participants: self.named(owed) }),
            Entry::Ended => (coordinator, Fact::Ended { txn }),
            Entry::Prepared(party) => (self.names[party].clone(), Fact::Prepared { txn, work: Vec::new() }),
            Entry::Committed(party) => (self.names[party].clone(), Fact::Committed { txn, work: None }),
            Entry::Forgotten(party) => (self.names[party].clone(), Fact::Ended { txn }),
        };
        Record { owner, fact }
    }

    fn entry(&self, record: &Record) -> Entry {
        match &record.fact {
            Fact::Prepared { .. } => Entry::Prepared(self.number(&record.owner)),
            Fact::Committed { .. } => Entry::Committed(self.number(&record.owner)),
            Fact::Decided { .. } => Entry::Decided,
            Fact::Parked { participants, .. } => Entry::Parked(self.bits(participants)),
            Fact::Heuristic { participant, outcome, .. } => Entry::Heuristic(self.number(participant), *outcome),
            fact => unreachable!("no live record: {fact:?}"),
        }
    }
}
