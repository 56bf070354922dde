//! What a state consists of. All of it is small and copied; gates and branches are numbers.

use crate::support::machine::Id;

/// Number of chunks that a run can hold.
pub const CHUNKS: usize = 2;
/// Number of clients, each with one transaction.
pub const CLIENTS: usize = 2;
/// Transactions by number: chunks first, then clients.
pub const TXNS: usize = CHUNKS + CLIENTS;

/// The two shards. The position begins at the first.
pub const SHARDS: [usize; 2] = [0, 1];

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct World {
    pub shards: [Shard; 2],
    pub chunks: [Chunk; CHUNKS],
    pub clients: [Client; CLIENTS],
    pub ring: Ring,
    /// The clients, as bits, whose committed work a shard has carried out.
    pub carried_out: u8,
    /// Number of faults left.
    pub faults: u8,
}

/// A shard's memory, and its disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Shard {
    pub gate: Id,
    pub data: Data,
    /// The image that was last saved, as the gate that begins with it.
    pub saved_gate: Id,
    pub saved: Data,
    pub log: Log,
    pub branches: [Id; TXNS],
    /// The undecided transactions, as bits, that began before the shard was opened. Some of their work may
    /// be lost.
    pub older: u8,
}

/// The records of the position.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Data {
    /// Whether there are any.
    pub present: bool,
    /// The clients whose work is in them, in order: two bits each, the first one lowest.
    list: u8,
    /// The clients, as bits, whose branches the service knows to have confirmed here. A discard or an
    /// import forgets them, as they are kept beside the records.
    pub confirmed: u8,
}

impl Data {
    pub const EMPTY: Self = Self { present: true, list: 0, confirmed: 0 };

    /// The same as it arrives elsewhere.
    pub const fn imported(self) -> Self {
        Self { confirmed: 0, ..self }
    }

    /// Confirms a client's work, which is idempotent as long as the service remembers.
    pub fn confirm(&mut self, client: usize) {
        if self.confirmed & (1 << client) == 0 {
            let entry = u8::try_from(client).expect("few clients") + 1;
            let free = (0..4).find(|place| (self.list >> (2 * place)) & 3 == 0).unwrap_or(3);
            self.list |= entry << (2 * free);
            (self.present, self.confirmed) = (true, self.confirmed | (1 << client));
        }
    }

    /// The clients, as bits, whose work is in the records; `None` if some is twice.
    pub fn clients(self) -> Option<u8> {
        let mut found = 0;
        for place in 0..4 {
            let entry = (self.list >> (2 * place)) & 3;
            if entry > 0 {
                if found & (1 << (entry - 1)) != 0 {
                    return None;
                }
                found |= 1 << (entry - 1);
            }
        }
        Some(found)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Entry {
    Prepared(usize),
    Committed(usize),
    Ended(usize),
}

/// A shard's log: at most 12 records of a byte each. The first `durable` of them are durable.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Log {
    records: [u8; 12],
    pub len: u8,
    pub durable: u8,
}

impl Log {
    pub fn append(&mut self, entry: Entry) -> u64 {
        let (kind, txn) = match entry {
            Entry::Prepared(txn) => (1, txn),
            Entry::Committed(txn) => (2, txn),
            Entry::Ended(txn) => (3, txn),
        };
        self.records[usize::from(self.len)] = kind << 4 | u8::try_from(txn).expect("few transactions");
        self.len += 1;
        u64::from(self.len)
    }

    pub fn entries(self) -> impl DoubleEndedIterator<Item = Entry> + Clone {
        self.records.into_iter().take(usize::from(self.len)).map(|code| {
            let txn = usize::from(code & 15);
            match code >> 4 {
                1 => Entry::Prepared(txn),
                2 => Entry::Committed(txn),
                _ => Entry::Ended(txn),
            }
        })
    }

    /// The log with its first records: the live ones among them.
    pub fn cut(self, kept: u8) -> Self {
        let kept = Self { len: kept, ..self };
        let has_ended = |txn| kept.entries().any(|entry| entry == Entry::Ended(txn));
        let mut live = Self::default();
        for entry in kept.entries() {
            let (Entry::Prepared(txn) | Entry::Committed(txn) | Entry::Ended(txn)) = entry;
            if !has_ended(txn) {
                live.append(entry);
            }
        }
        live.durable = live.len;
        live
    }
}

impl World {
    /// The coordinator's outcome of a transaction.
    pub fn outcome(&self, txn: usize) -> Outcome {
        if txn < CHUNKS { self.chunks[txn].outcome } else { self.clients[txn - CHUNKS].outcome }
    }

    /// Forgets what makes no difference any more.
    pub fn tidied(mut self) -> Self {
        let open = (0..TXNS).filter(|txn| self.outcome(*txn) == Outcome::Open).map(|txn| 1 << txn).sum::<u8>();
        for shard in &mut self.shards {
            shard.older &= open;
        }
        self
    }
}

/// What the coordinator knows of a transaction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Outcome {
    #[default]
    NotBegun,
    Open,
    /// The decision is durable.
    Committed,
    /// There is no decision, and there will be none.
    RolledBack,
}

/// A chunk: from the other shard to `to`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Chunk {
    pub outcome: Outcome,
    pub to: usize,
    pub tenure: u64,
    /// The call of `release` that is under way at `from`.
    pub call: ReleaseCall,
    /// The records, once the release has returned them to the mover.
    pub sent: Option<Data>,
    /// Whether `to` has taken them. Then the mover asks for the commit.
    pub taken: bool,
    /// The shards, as bits, that have voted yes.
    pub votes: u8,
    /// Whether the keeper has confirmed its branch.
    pub recorded: bool,
}

impl Chunk {
    pub const fn from(&self) -> usize {
        1 - self.to
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum ReleaseCall {
    #[default]
    None,
    Draining,
    /// All work has stopped, and these records were exported.
    Sealed(Data),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Client {
    pub outcome: Outcome,
    /// What the client knows of the ring: the shard, and the latest hand-over.
    pub view: (usize, u64),
    /// The shard that has let the work in, and the stamp.
    pub admitted: Option<(usize, u64)>,
    /// Whether the work is done under the branch.
    pub worked: bool,
    pub voted: bool,
}

/// What the keeper knows. The ring before the change has the position at the first shard, the ring after
/// it at the second.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Ring {
    /// The shard that has the position, as published, and the latest hand-over.
    pub side: usize,
    pub tenure: u64,
    /// The shard to which the change moves the position.
    pub toward: usize,
    pub ended: bool,
    /// The latest number that was given to a hand-over.
    pub given: u64,
}
