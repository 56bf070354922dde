//! Which records are still needed: one fold over the log, shared by all implementations.

use std::{
    collections::HashSet,
    fmt,
    hash::{BuildHasher, Hasher, RandomState},
    mem,
};

use foldhash::{SharedSeed, fast::SeedableRandomState};
use hashbrown::HashTable;

use super::{
    Lsn, MAX_OPENINGS, Record,
    record::{
        Effect,
        key::{self, RecordKey},
    },
};
use crate::id::{Epoch, Name};

/// Stands for "no entry".
const NONE: u32 = u32::MAX;

/// Ended entries are swept out when there are more of them than of live ones, and also more than
/// this number of entries or bytes.
const SWEEP_ENTRIES: usize = 1 << 10;
const SWEEP_BYTES: u64 = 256 << 10;

/// The live records of a log: those that no later record has ended.
///
/// Implementations of [`TransactionLog`](super::TransactionLog) pass every record to
/// [`apply`](Self::apply), in order, and carry over the records that are left. A clone is a copy.
///
/// Records are kept encoded, one after the other. So taking one in allocates nothing, and carrying
/// all of them over is a copy. Records that have ended are swept out when they outweigh the live
/// ones. So the time is constant for each record, amortised, and the memory is a small constant
/// times the live records, never their history.
#[derive(Clone)]
pub struct LiveRecords {
    /// The encodings of all entries, in the order of the entries.
    bytes: Vec<u8>,
    /// All entries, in the order of their numbers; the ended ones until they are swept out.
    entries: Vec<Entry>,
    /// The index of the last live entry of each key.
    last_of_key: HashTable<u32>,
    live: usize,
    live_bytes: u64,
    /// Keys come from outside. A caller that does not know the seed can't choose keys that collide.
    hasher: SeedableRandomState,
}

#[derive(Clone, Copy)]
struct Entry {
    lsn: Lsn,
    at: usize,
    length: u32,
    /// Index of the live entry before this one that has the same key, or `NONE`.
    before: u32,
    hash: u64,
    key: RecordKey,
    is_ended: bool,
}

impl Default for LiveRecords {
    fn default() -> Self {
        Self {
            bytes: Vec::new(),
            entries: Vec::new(),
            last_of_key: HashTable::new(),
            live: 0,
            live_bytes: 0,
            hasher: SeedableRandomState::with_seed(
                RandomState::new().build_hasher().finish(),
                SharedSeed::global_random(),
            ),
        }
    }
}

impl LiveRecords {
    /// Takes in the next record. Records must come in the order of their numbers. O(1), amortised.
    pub fn apply(&mut self, lsn: Lsn, record: &Record) {
        let mut encoded = Vec::new();
        record.encode_into(&mut encoded);
        self.apply_own(lsn, &encoded);
    }

    /// Takes in the next record, which this process has encoded.
    pub(crate) fn apply_own(&mut self, lsn: Lsn, encoded: &[u8]) {
        let key = key::read_own(encoded).expect("what was encoded is a record");
        self.take(lsn, encoded, key);
    }

    /// Takes in the next record as it was read. Returns `false` if these bytes are no record.
    pub(crate) fn apply_encoded(&mut self, lsn: Lsn, encoded: &[u8]) -> bool {
        key::read(encoded).map(|key| self.take(lsn, encoded, key)).is_some()
    }

    fn take(&mut self, lsn: Lsn, encoded: &[u8], key: RecordKey) {
        debug_assert!(self.entries.last().is_none_or(|last| last.lsn < lsn), "records out of order");
        let (owner, about) = key.parts(encoded);
        let hash = {
            let mut hasher = self.hasher.build_hasher();
            hasher.write(owner);
            hasher.write(about);
            hasher.finish()
        };
        // The last live entry of the same key.
        let found = self.last_of_key.find_entry(hash, |entry| {
            let entry = &self.entries[*entry as usize];
            entry.hash == hash && entry.key.parts(&self.bytes[entry.at..]) == (owner, about)
        });
        let number = self.entries.len() as u32;
        match (found, key.effect) {
            (Ok(found), Effect::Ends) => {
                let (mut ended, _) = found.remove();
                while ended != NONE {
                    ended = self.end_entry(ended);
                }
            }
            (Err(_), Effect::Ends) => {}
            (Ok(mut found), effect) => {
                let before = mem::replace(found.get_mut(), number);
                self.push(lsn, encoded, before, hash, key);
                if effect == Effect::Opens {
                    self.forget_openings_before(number);
                }
            }
            (Err(_), _) => {
                self.push(lsn, encoded, NONE, hash, key);
                let entries = &self.entries;
                self.last_of_key.insert_unique(hash, number, |entry| entries[*entry as usize].hash);
            }
        }
        self.sweep_if_worth_it();
    }

    fn push(&mut self, lsn: Lsn, encoded: &[u8], before: u32, hash: u64, key: RecordKey) {
        let (at, length) = (self.bytes.len(), encoded.len() as u32); // a record has at most MAX_RECORD_BYTES
        self.bytes.extend_from_slice(encoded);
        self.entries.push(Entry { lsn, at, length, before, hash, key, is_ended: false });
        self.live += 1;
        self.live_bytes += u64::from(length);
    }

    /// Ends the openings of the owner that are too old. O(`MAX_OPENINGS`), once for each opening.
    fn forget_openings_before(&mut self, last: u32) {
        let mut oldest = last;
        for _ in 1..MAX_OPENINGS {
            oldest = match self.entries[oldest as usize].before {
                NONE => return,
                before => before,
            };
        }
        let mut too_old = mem::replace(&mut self.entries[oldest as usize].before, NONE);
        while too_old != NONE {
            too_old = self.end_entry(too_old);
        }
    }

    /// Marks the entry as ended. Returns the live entry of the same key before it, or `NONE`.
    fn end_entry(&mut self, number: u32) -> u32 {
        let entry = &mut self.entries[number as usize];
        entry.is_ended = true;
        self.live -= 1;
        self.live_bytes -= u64::from(entry.length);
        entry.before
    }

    fn sweep_if_worth_it(&mut self) {
        let (ended, ended_bytes) = (self.entries.len() - self.live, self.bytes.len() as u64 - self.live_bytes);
        if ended > self.live + SWEEP_ENTRIES || ended_bytes > self.live_bytes + SWEEP_BYTES {
            self.sweep();
        }
    }

    /// Removes the ended entries, and moves the live ones together.
    fn sweep(&mut self) {
        let (mut kept, mut end) = (0_u32, 0);
        let mut moved_to = vec![NONE; self.entries.len()];
        for number in 0..self.entries.len() {
            let mut entry = self.entries[number];
            if entry.is_ended {
                continue;
            }
            self.bytes.copy_within(entry.at..entry.at + entry.length as usize, end);
            entry.at = end;
            end += entry.length as usize;
            if entry.before != NONE {
                entry.before = moved_to[entry.before as usize];
            }
            moved_to[number] = kept;
            self.entries[kept as usize] = entry;
            kept += 1;
        }
        self.bytes.truncate(end);
        self.entries.truncate(kept as usize);
        self.last_of_key.iter_mut().for_each(|number| *number = moved_to[*number as usize]);
        // After a time with many live records, this gives most of their memory back, but keeps what
        // is about to be needed again.
        self.bytes.shrink_to((4 * end).max(4 * SWEEP_BYTES as usize));
        self.entries.shrink_to(4 * (self.live + SWEEP_ENTRIES));
        let entries = &self.entries;
        self.last_of_key.shrink_to(4 * (self.live + SWEEP_ENTRIES), |entry| entries[*entry as usize].hash);
    }

    /// Returns the number of transactions that the live records are about, each counted once. O(n)
    /// for n live records.
    #[must_use]
    pub fn transactions(&self) -> usize {
        let about = self.live_entries().filter(|(entry, _)| entry.key.effect != Effect::Opens);
        about.map(|(entry, encoded)| entry.key.parts(encoded).1).collect::<HashSet<_>>().len()
    }

    /// Iterates over all live records, in order.
    pub fn iter(&self) -> impl Iterator<Item = (Lsn, Record)> {
        self.encoded().map(|(lsn, encoded)| (lsn, decode(encoded)))
    }

    /// Iterates over the encodings of all live records, in order.
    pub(crate) fn encoded(&self) -> impl Iterator<Item = (Lsn, &[u8])> {
        self.live_entries().map(|(entry, encoded)| (entry.lsn, encoded))
    }

    fn live_entries(&self) -> impl Iterator<Item = (&Entry, &[u8])> {
        let live = self.entries.iter().filter(|entry| !entry.is_ended);
        live.map(|entry| (entry, &self.bytes[entry.at..entry.at + entry.length as usize]))
    }

    /// Returns the owner's live records, in order. O(n) for n live records of all owners.
    #[must_use]
    pub fn of(&self, owner: &Name) -> Vec<Record> {
        let owner = owner.as_str().as_bytes();
        let owned = self.live_entries().filter(|(entry, encoded)| &entry.key.parts(encoded).0[1..] == owner);
        owned.map(|(_, encoded)| decode(encoded)).collect()
    }

    /// Returns the owner's live openings, in order, each with the number of its record.
    #[must_use]
    pub fn openings_of(&self, owner: &Name) -> Vec<(Epoch, Lsn)> {
        let owner = owner.as_str().as_bytes();
        let opens = |entry: &Entry, encoded: &[u8]| {
            entry.key.effect == Effect::Opens && &entry.key.parts(encoded).0[1..] == owner
        };
        let opened = self.live_entries().filter(|(entry, encoded)| opens(entry, encoded));
        opened.filter_map(|(entry, encoded)| Some((decode(encoded).fact.epoch()?, entry.lsn))).collect()
    }

    /// Returns the size of all live records, in bytes of their encodings: the cost of carrying them
    /// over.
    #[must_use]
    pub const fn encoded_bytes(&self) -> u64 {
        self.live_bytes
    }

    /// Returns the number of live records.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.live
    }

    /// Whether there are no live records.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.live == 0
    }

    /// Returns the memory allocated for the records, in bytes, used or not.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        self.bytes.capacity() + self.entries.capacity() * mem::size_of::<Entry>() + self.last_of_key.allocation_size()
    }
}

fn decode(encoded: &[u8]) -> Record {
    Record::decode(encoded).expect("it was scanned when it was taken in, which takes nothing that can't be decoded")
}

impl fmt::Debug for LiveRecords {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::{
        id::{Epoch, TxnId},
        log::Fact,
    };

    fn name(text: &str) -> Name {
        Name::new(text).expect("a valid name")
    }

    fn txn(sequence: u64) -> TxnId {
        TxnId::new(name("c"), Epoch::new(1), sequence)
    }

    fn record(owner: &str, fact: Fact) -> Record {
        Record { owner: name(owner), fact }
    }

    #[test]
    fn an_end_ends_records_of_its_owner_only() {
        let mut live = LiveRecords::default();
        live.apply(Lsn::new(1), &record("goods", Fact::Prepared { txn: txn(1), work: vec![1] }));
        live.apply(Lsn::new(2), &record("orders", Fact::Prepared { txn: txn(1), work: vec![2] }));
        live.apply(Lsn::new(3), &record("goods", Fact::Prepared { txn: txn(2), work: vec![3] }));
        live.apply(Lsn::new(4), &record("goods", Fact::Committed { txn: txn(1), work: None }));
        live.apply(Lsn::new(5), &record("goods", Fact::Ended { txn: txn(1) }));
        let left: Vec<_> = live.iter().map(|(lsn, _)| lsn.as_u64()).collect();
        assert_eq!(left, [2, 3]);
        assert_eq!(live.of(&name("goods")).len(), 1);
        assert_eq!(live.encoded_bytes(), live.encoded().map(|(_, encoded)| encoded.len() as u64).sum());
    }

    #[test]
    fn the_latest_openings_of_each_owner_are_live() {
        let mut live = LiveRecords::default();
        let most = MAX_OPENINGS as u64;
        live.apply(Lsn::new(1), &record("b", Fact::Opened { epoch: Epoch::new(7) }));
        for number in 2..3 * most {
            live.apply(Lsn::new(number), &record("a", Fact::Opened { epoch: Epoch::new(number) }));
            assert!(live.len() <= 1 + MAX_OPENINGS);
        }
        let of = |owner| -> Vec<_> {
            live.of(&name(owner)).iter().filter_map(|record| record.fact.epoch()).map(Epoch::as_u64).collect()
        };
        assert_eq!(of("a"), (2 * most..3 * most).collect::<Vec<_>>());
        assert_eq!(of("b"), [7], "one owner's openings end none of another owner's");
    }

    /// Compares with the plainest model there is. There are few keys, so that they meet often, and
    /// enough records that some are swept out.
    #[test]
    fn it_does_what_a_plain_map_does() {
        for seed in 0..20 {
            let mut random = fastrand::Rng::with_seed(seed);
            let (mut live, mut model) = (LiveRecords::default(), BTreeMap::<Lsn, Record>::new());
            let keys = [3, 50, 2_000][seed as usize % 3];
            for number in 1..=8_000 {
                let owner = ["a", "bb"][random.usize(..2)];
                let txn = txn(random.u64(..keys));
                let record = record(
                    owner,
                    match random.u8(..5) {
                        0 => Fact::Opened { epoch: Epoch::new(number) },
                        1 => Fact::Committed { txn, work: None },
                        2 => Fact::Prepared { txn, work: vec![7; random.usize(..400)] },
                        _ => Fact::Ended { txn },
                    },
                );
                match record.fact.effect() {
                    Effect::Opens => {
                        let of_owner = |other: &&Record| other.owner == record.owner && other.fact.epoch().is_some();
                        if model.values().filter(of_owner).count() == MAX_OPENINGS {
                            let oldest = model.iter().find(|(_, other)| of_owner(other)).map(|(lsn, _)| *lsn);
                            oldest.map(|lsn| model.remove(&lsn));
                        }
                    }
                    Effect::Adds => {}
                    Effect::Ends => {
                        model.retain(|_, other| other.owner != record.owner || other.fact.txn() != record.fact.txn());
                    }
                }
                live.apply(Lsn::new(number), &record);
                if !matches!(record.fact, Fact::Ended { .. }) {
                    model.insert(Lsn::new(number), record);
                }
                assert_eq!(live.len(), model.len());
                if number % 500 == 0 {
                    assert!(live.iter().eq(model.iter().map(|(lsn, record)| (*lsn, record.clone()))), "seed {seed}");
                }
            }
        }
    }

    #[test]
    fn memory_follows_what_lives_and_not_what_has_passed() {
        let mut live = LiveRecords::default();
        let mut number = 0;
        let mut apply = |live: &mut LiveRecords, fact| {
            number += 1;
            live.apply(Lsn::new(number), &record("goods", fact));
        };
        apply(&mut live, Fact::Prepared { txn: txn(0), work: vec![1; 100] });
        for passing in 1..100_000 {
            apply(&mut live, Fact::Prepared { txn: txn(passing), work: vec![1; 100] });
            apply(&mut live, Fact::Ended { txn: txn(passing) });
        }
        assert_eq!(live.len(), 1);
        assert!(live.memory_bytes() < 2 << 20, "{} bytes for one record", live.memory_bytes());
        // A burst of live records leaves no memory behind either.
        for passing in 1..100_000 {
            apply(&mut live, Fact::Prepared { txn: txn(passing), work: vec![1; 100] });
        }
        assert!(live.memory_bytes() as u64 > live.encoded_bytes());
        assert!((live.memory_bytes() as u64) < 6 * live.encoded_bytes(), "{} bytes", live.memory_bytes());
        for passing in 1..100_000 {
            apply(&mut live, Fact::Ended { txn: txn(passing) });
        }
        assert_eq!(live.len(), 1);
        assert!(live.memory_bytes() < 4 << 20, "{} bytes for one record", live.memory_bytes());
    }
}
