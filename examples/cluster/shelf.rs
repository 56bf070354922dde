//! A shard in memory, which saves itself as one file: what both services of this example are made of.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    fs::{self, File},
    io::Write,
    path::PathBuf,
};

use parking_lot::Mutex;
use ringpact::{
    BranchId, Service, ServiceError,
    ring::{HashRing, PositionRange},
    sharding::{ByPosition, Export, GateImage, Keyed, Records, Shard},
};
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// One order takes from one record: pieces of goods, or cents of an account.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Take {
    pub order: u64,
    pub key: u64,
    pub amount: u64,
}

impl Keyed for Take {
    fn position(&self) -> ringpact::ring::Position {
        position(self.key)
    }
}

/// Returns the position of a key on every ring of this example.
pub fn position(key: u64) -> ringpact::ring::Position {
    use ringpact::ring::{KeyHasher, Xxh3};
    Xxh3::default().hash_key(&key.to_le_bytes())
}

/// What is there of one key, and which orders have taken of it. The orders make a confirm that is
/// repeated change nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    pub left: u64,
    pub orders: BTreeMap<u64, u64>,
}

/// Why an order is refused.
#[derive(Debug, Error)]
pub enum Refused {
    #[error("there is no record of key {0}")]
    Absent(u64),
    #[error("{left} left of key {key}, and {wanted} wanted")]
    TooFew { key: u64, left: u64, wanted: u64 },
}

/// The records of one service on one node.
pub struct Shelf {
    path: PathBuf,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    records: ByPosition<u64, Record>,
    /// What unfinished branches have set aside. The resource manager restores it after a restart.
    held: BTreeMap<BranchId, Vec<Take>>,
}

#[derive(Serialize, Deserialize)]
struct Saved {
    image: GateImage,
    records: ByPosition<u64, Record>,
}

impl Shelf {
    /// Opens the shelf. A new one gets those of `first` that `ring` gives to `node`.
    pub fn open(path: PathBuf, first: &[(u64, u64)], ring: &HashRing, node: &str) -> Result<Self, ServiceError> {
        let mut records = ByPosition::new();
        match fs::read(&path) {
            Ok(bytes) => records = postcard::from_bytes::<Saved>(&bytes)?.records,
            Err(_) => {
                for (key, left) in first.iter().filter(|(key, _)| ring.owner(*key).id() == node) {
                    records.insert(*key, Record { left: *left, orders: BTreeMap::new() });
                }
            }
        }
        let shelf = Self { path, state: Mutex::new(State { records, held: BTreeMap::new() }) };
        if !shelf.path.exists() {
            shelf.save(&mut GateImage::new)?;
        }
        Ok(shelf)
    }

    /// Returns a copy of the record of the key.
    pub fn record(&self, key: u64) -> Option<Record> {
        self.state.lock().records.get(&key).cloned()
    }

    /// Returns all records.
    pub fn all(&self) -> Vec<(u64, Record)> {
        self.state.lock().records.iter().map(|(key, record)| (*key, record.clone())).collect()
    }
}

impl Service for Shelf {
    type Work = Take;
    type Refusal = Refused;

    fn try_reserve(&self, branch: &BranchId, take: &Take) -> Result<(), Refused> {
        let mut state = self.state.lock();
        let record = state.records.get(&take.key).ok_or(Refused::Absent(take.key))?;
        let held: u64 = state.held.values().flatten().filter(|held| held.key == take.key).map(|held| held.amount).sum();
        let left = record.left - held;
        if left < take.amount {
            return Err(Refused::TooFew { key: take.key, left, wanted: take.amount });
        }
        state.held.entry(branch.clone()).or_default().push(take.clone());
        Ok(())
    }

    fn confirm(&self, branch: &BranchId, takes: &[Take]) -> Result<(), ServiceError> {
        let mut state = self.state.lock();
        state.held.remove(branch);
        for take in takes {
            let record = state.records.get_mut(&take.key).ok_or("a record that was promised is gone")?;
            // An order takes once, however often its branch is confirmed.
            if let Entry::Vacant(place) = record.orders.entry(take.order) {
                record.left = record.left.checked_sub(take.amount).ok_or("more was promised than there is")?;
                place.insert(take.amount);
            }
        }
        Ok(())
    }

    fn cancel(&self, branch: &BranchId, _: &[Take]) -> Result<(), ServiceError> {
        self.state.lock().held.remove(branch);
        Ok(())
    }
}

impl Shard for Shelf {
    fn export(&self, range: PositionRange, into: &mut Export) -> Result<(), ServiceError> {
        self.state.lock().records.export(range, into)
    }

    fn import(&self, range: PositionRange, records: Records<'_>) -> Result<(), ServiceError> {
        self.state.lock().records.import(range, records)
    }

    fn discard(&self, range: PositionRange) -> Result<(), ServiceError> {
        self.state.lock().records.discard(range);
        Ok(())
    }

    fn load(&self) -> Result<GateImage, ServiceError> {
        Ok(postcard::from_bytes::<Saved>(&fs::read(&self.path)?)?.image)
    }

    fn save(&self, image: &mut dyn FnMut() -> GateImage) -> Result<(), ServiceError> {
        // The image is taken under the lock that confirm takes, so it fits the records.
        let saved = {
            let state = self.state.lock();
            Saved { image: image(), records: state.records.clone() }
        };
        let unfinished = self.path.with_extension("tmp");
        let mut file = File::create(&unfinished)?;
        file.write_all(&postcard::to_stdvec(&saved)?)?;
        file.sync_all()?;
        fs::rename(&unfinished, &self.path)?;
        Ok(File::open(self.path.parent().expect("a file in a directory"))?.sync_all()?)
    }
}
