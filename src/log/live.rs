//! Which records still matter: one fold over the log, shared by all implementations.

use std::collections::{BTreeMap, HashMap};

use super::{
    Lsn, Record,
    record::{Effect, Fact},
};
use crate::id::{Name, TxnId};

/// The live records of a log: those that nothing later has ended.
///
/// Implementations of [`TransactionLog`](super::TransactionLog) feed every record through [`apply`](Self::apply), in
/// order, and carry over what is left. Memory and time follow the live records, not the history: `apply` takes
/// O(log n) in the number of live records.
#[derive(Clone, Debug, Default)]
pub struct LiveRecords {
    records: BTreeMap<Lsn, Record>,
    by_txn: HashMap<(Name, TxnId), Vec<Lsn>>,
    epochs: HashMap<Name, Lsn>,
    encoded_bytes: u64,
}

impl LiveRecords {
    /// Takes in the next record. Records come in the order of their numbers.
    pub fn apply(&mut self, lsn: Lsn, record: Record) {
        debug_assert!(self.records.last_key_value().is_none_or(|(last, _)| *last < lsn), "records out of order");
        match record.fact.effect() {
            Effect::ReplacesEpoch => {
                if let Some(old) = self.epochs.insert(record.owner.clone(), lsn) {
                    self.remove(old);
                }
                self.insert(lsn, record);
            }
            Effect::Adds(txn) => {
                self.by_txn.entry((record.owner.clone(), txn.clone())).or_default().push(lsn);
                self.insert(lsn, record);
            }
            Effect::Ends(txn) => {
                for ended in self.by_txn.remove(&(record.owner.clone(), txn.clone())).unwrap_or_default() {
                    self.remove(ended);
                }
            }
        }
    }

    fn insert(&mut self, lsn: Lsn, record: Record) {
        self.encoded_bytes += record.encoded_len() as u64;
        self.records.insert(lsn, record);
    }

    fn remove(&mut self, lsn: Lsn) {
        if let Some(record) = self.records.remove(&lsn) {
            self.encoded_bytes -= record.encoded_len() as u64;
        }
    }

    /// All live records, in order.
    pub fn iter(&self) -> impl Iterator<Item = (Lsn, &Record)> {
        self.records.iter().map(|(lsn, record)| (*lsn, record))
    }

    /// The owner's live records, in order.
    #[must_use]
    pub fn of(&self, owner: &Name) -> Vec<Record> {
        self.records.values().filter(|record| record.owner == *owner).cloned().collect()
    }

    /// What they take in all, in bytes of their encodings: what carrying them over costs.
    #[must_use]
    pub const fn encoded_bytes(&self) -> u64 {
        self.encoded_bytes
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.records.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }
}

impl Fact {
    /// The epoch, of an [`Opened`](Self::Opened) fact.
    #[must_use]
    pub const fn epoch(&self) -> Option<crate::id::Epoch> {
        match self {
            Self::Opened { epoch } => Some(*epoch),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::Epoch;

    fn txn(sequence: u64) -> TxnId {
        TxnId::new(Name::new("c").expect("a valid name"), Epoch::new(1), sequence)
    }

    fn record(owner: &str, fact: Fact) -> Record {
        Record { owner: Name::new(owner).expect("a valid name"), fact }
    }

    #[test]
    fn an_end_ends_its_owners_records_and_nobody_elses() {
        let mut live = LiveRecords::default();
        live.apply(Lsn::new(1), record("goods", Fact::Prepared { txn: txn(1), work: vec![1] }));
        live.apply(Lsn::new(2), record("orders", Fact::Prepared { txn: txn(1), work: vec![2] }));
        live.apply(Lsn::new(3), record("goods", Fact::Prepared { txn: txn(2), work: vec![3] }));
        live.apply(Lsn::new(4), record("goods", Fact::Committed { txn: txn(1), work: None }));
        live.apply(Lsn::new(5), record("goods", Fact::Ended { txn: txn(1) }));
        let left: Vec<_> = live.iter().map(|(lsn, _)| lsn.number()).collect();
        assert_eq!(left, [2, 3]);
        assert_eq!(live.of(&Name::new("goods").expect("a valid name")).len(), 1);
        assert_eq!(live.encoded_bytes(), live.iter().map(|(_, record)| record.encoded_len() as u64).sum());
    }

    #[test]
    fn only_the_last_epoch_of_each_owner_is_live() {
        let mut live = LiveRecords::default();
        for (lsn, owner, epoch) in [(1, "a", 1), (2, "b", 1), (3, "a", 2)] {
            live.apply(Lsn::new(lsn), record(owner, Fact::Opened { epoch: Epoch::new(epoch) }));
        }
        let left: Vec<_> = live.iter().map(|(lsn, record)| (lsn.number(), record.fact.epoch())).collect();
        assert_eq!(left, [(2, Some(Epoch::new(1))), (3, Some(Epoch::new(2)))]);
    }
}
