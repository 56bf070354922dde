//! [`Ledger`]: a shard of sums, in memory or durable at once, and [`Site`], a host of one that
//! crashes.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use parking_lot::{Mutex, RwLock};
use ringpact::{
    BranchId, Call, Coordinator, Epoch, LogId, MemoryLog, Name, Participant, ParticipantError, Service, ServiceError,
    TxnId, Vote,
    participant::{Decision, Effort, Greeting, Life},
    ring::{KeyHasher, NodeId, Position, PositionRange, RangeSet},
    sharding::{
        ByPosition, Digest, Export, GateImage, GateNote, Keyed, Query, ReadShard, Records, Shard, ShardError,
        ShardHost, Tenure,
    },
    txn::VerdictEndpoint,
};
use serde::{Deserialize, Serialize};

/// Positions at which mistakes show: around 0, around the middle, and, for the last two keys, equal
/// ones. Other keys are spread.
const PLACES: [u64; 14] = [
    0,
    u64::MAX,
    1,
    u64::MAX - 1,
    1 << 62,
    1 << 63,
    (1 << 63) + 1,
    (1 << 63) - 1,
    9 << 60,
    11 << 60,
    1 << 40,
    3 << 60,
    7 << 61,
    7 << 61,
];

/// The last two of [`PLACES`].
pub const EQUAL: [u32; 2] = [12, 13];

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Places;

impl KeyHasher for Places {
    fn hash_key(&self, key: &[u8]) -> Position {
        let key = u32::from_le_bytes(key.try_into().expect("a key of 4 bytes"));
        let spread = u64::from(key).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        Position::new(PLACES.get(key as usize).copied().unwrap_or(spread))
    }
}

pub fn position(key: u32) -> Position {
    Places.hash_key(&key.to_le_bytes())
}

/// The range whose only position is the key's.
pub fn only(key: u32) -> RangeSet {
    let end = position(key);
    RangeSet::from_iter([PositionRange { start: Position::new(end.as_u64().wrapping_sub(1)), end }])
}

/// Adds to the sum of a key. An amount of 0 reads.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Add {
    pub key: u32,
    pub amount: i64,
}

impl Keyed for Add {
    fn position(&self) -> Position {
        position(self.key)
    }
}

/// What a ledger's disk has.
#[derive(Clone, Debug, Default)]
pub struct Saved {
    pub sums: ByPosition<u32, i64, Places>,
    pub applied: BTreeSet<BranchId>,
    pub image: GateImage,
    /// Number of openings. A process that a later one has taken the place of writes nothing more.
    pub openings: u64,
}

/// When what a ledger does becomes durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// At each save, as a copy of the memory.
    InMemory,
    /// At once, as in a database.
    AtOnce,
}

/// Number of coming calls that fail, or panic.
#[derive(Debug, Default)]
pub struct Faults {
    pub imports: AtomicU32,
    pub imports_panic: AtomicU32,
    pub discards: AtomicU32,
    pub confirms: AtomicU32,
}

fn fails(counter: &AtomicU32) -> bool {
    counter.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok()
}

fn failure(counter: &AtomicU32) -> Result<(), ServiceError> {
    if fails(counter) { Err("the disk is busy".into()) } else { Ok(()) }
}

#[derive(Debug)]
pub struct Ledger {
    kind: Kind,
    live: Arc<Mutex<Saved>>,
    disk: Arc<Mutex<Saved>>,
    held: Mutex<BTreeMap<BranchId, Vec<Add>>>,
    faults: Arc<Faults>,
    opening: u64,
}

impl Ledger {
    pub fn open(kind: Kind, disk: &Arc<Mutex<Saved>>, faults: &Arc<Faults>) -> Self {
        let opening = {
            let mut disk = disk.lock();
            disk.openings += 1;
            disk.openings
        };
        let live = match kind {
            Kind::InMemory => Arc::new(Mutex::new(disk.lock().clone())),
            Kind::AtOnce => Arc::clone(disk),
        };
        Self { kind, live, disk: Arc::clone(disk), held: Mutex::default(), faults: Arc::clone(faults), opening }
    }

    pub fn sum(&self, key: u32) -> Option<i64> {
        self.live.lock().sums.get(&key).copied()
    }

    /// All keys, and their sums.
    pub fn sums(&self) -> Vec<(u32, i64)> {
        self.live.lock().sums.iter().map(|(key, sum)| (*key, *sum)).collect()
    }

    /// The work of branches under way.
    pub fn held(&self) -> Vec<Add> {
        self.held.lock().values().flatten().cloned().collect()
    }

    pub fn live(&self) -> &Mutex<Saved> {
        &self.live
    }

    pub fn disk(&self) -> &Mutex<Saved> {
        &self.disk
    }
}

#[derive(Debug, thiserror::Error)]
#[error("no more may be added")]
pub struct Full;

/// More than this is refused.
pub const TOO_MUCH: i64 = 1 << 40;

impl Service for Ledger {
    type Work = Add;
    type Refusal = Full;

    fn effort(&self, work: &Add) -> Effort {
        if work.amount == 0 { Effort::ReadOnly } else { Effort::Update }
    }

    fn try_reserve(&self, branch: &BranchId, work: &Add) -> Result<(), Full> {
        if work.amount > TOO_MUCH {
            return Err(Full);
        }
        if work.amount != 0 {
            self.held.lock().entry(branch.clone()).or_default().push(work.clone());
        }
        Ok(())
    }

    fn confirm(&self, branch: &BranchId, works: &[Add]) -> Result<(), ServiceError> {
        failure(&self.faults.confirms)?;
        let mut live = self.live.lock();
        if live.applied.insert(branch.clone()) {
            for work in works {
                *live.sums.get_or_insert_with(work.key, || 0) += work.amount;
            }
        }
        drop(live);
        self.held.lock().remove(branch);
        Ok(())
    }

    fn cancel(&self, branch: &BranchId, _: &[Add]) -> Result<(), ServiceError> {
        self.held.lock().remove(branch);
        Ok(())
    }
}

impl Shard for Ledger {
    fn export(&self, range: PositionRange, into: &mut Export) -> Result<(), ServiceError> {
        self.live.lock().sums.export(range, into)
    }

    fn import(&self, range: PositionRange, records: Records<'_>) -> Result<(), ServiceError> {
        if fails(&self.faults.imports_panic) {
            // With a part of the records in place, as a real one would have.
            self.live.lock().sums.import(range, records)?;
            let first = self.live.lock().sums.iter().map(|(key, _)| *key).find(|key| range.contains(position(*key)));
            first.map(|key| self.live.lock().sums.remove(&key));
            panic!("planted");
        }
        failure(&self.faults.imports)?;
        self.live.lock().sums.import(range, records)
    }

    fn discard(&self, range: PositionRange) -> Result<(), ServiceError> {
        failure(&self.faults.discards)?;
        self.live.lock().sums.discard(range);
        Ok(())
    }

    fn load(&self) -> Result<GateImage, ServiceError> {
        Ok(self.disk.lock().image.clone())
    }

    fn save(&self, image: &mut dyn FnMut() -> GateImage) -> Result<(), ServiceError> {
        if self.kind == Kind::InMemory {
            let live = self.live.lock();
            let image = image();
            let mut disk = self.disk.lock();
            if disk.openings != self.opening {
                return Err("another process has opened the disk".into());
            }
            *disk = Saved { image, ..live.clone() };
        }
        Ok(())
    }

    fn note(&self, note: &GateNote) -> Result<(), ServiceError> {
        if self.kind == Kind::AtOnce {
            self.live.lock().image.apply(note);
        }
        Ok(())
    }
}

/// Asks for the sum of a key.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Sum {
    pub key: u32,
}

/// A key that no ledger can read.
pub const UNREADABLE: u32 = u32::MAX;

impl Keyed for Sum {
    fn position(&self) -> Position {
        position(self.key)
    }
}

impl Query for Sum {
    type Answer = Option<i64>;
}

impl ReadShard for Ledger {
    type Query = Sum;

    fn answer(&self, query: &Sum) -> Result<Option<i64>, ServiceError> {
        if query.key == UNREADABLE { Err("the page is damaged".into()) } else { Ok(self.sum(query.key)) }
    }
}

pub fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

/// A transaction of a coordinator that the test plays itself.
pub fn txn(number: u64) -> TxnId {
    TxnId::new(name("test"), Epoch::new(1), number)
}

/// Time that a test waits for what must not come.
pub const MOMENT: Duration = Duration::from_millis(1);

/// A host of a ledger, with its log and its disk.
pub struct Site {
    pub name: &'static str,
    pub kind: Kind,
    pub log: MemoryLog,
    pub disk: Arc<Mutex<Saved>>,
    pub faults: Arc<Faults>,
    pub host: Arc<ShardHost<Ledger>>,
    /// Whether the coordinator decides in this site's log.
    pub is_shared: bool,
}

impl Site {
    pub fn new(name: &'static str, kind: Kind) -> Self {
        let (log, disk, faults) = (MemoryLog::new(), Arc::default(), Arc::default());
        let host = Arc::new(ShardHost::open(name, log.clone(), Ledger::open(kind, &disk, &faults)).unwrap());
        Self { name, kind, log, disk, faults, host, is_shared: false }
    }

    /// Returns a site that has all positions since the first hand-over.
    pub fn owner(name: &'static str, kind: Kind) -> Self {
        let site = Self::new(name, kind);
        let branch = site.branch(0);
        site.host.adopt(&branch, &RangeSet::full(), Tenure::FIRST).unwrap();
        site.commit(0);
        site
    }

    pub fn crash(&mut self) {
        self.log = self.log.crash();
        let ledger = Ledger::open(self.kind, &self.disk, &self.faults);
        self.host = Arc::new(ShardHost::open(self.name, self.log.clone(), ledger).unwrap());
    }

    pub fn branch(&self, number: u64) -> BranchId {
        txn(number).branch(self.host.name())
    }

    fn call(&self) -> Call {
        use ringpact::TransactionLog;
        Call::new(if self.is_shared { self.log.opening() } else { LogId::from_bytes([7; 16]) })
    }

    pub fn prepare(&self, number: u64) -> Vote {
        match self.host.prepare(&self.branch(number), &self.call()) {
            Ok(vote) => vote,
            Err(ringpact::ParticipantError::Refused(_)) => Vote::No,
            Err(error) => panic!("{error}"),
        }
    }

    /// The second phase.
    pub fn finish(&self, number: u64) {
        self.host.commit(&self.branch(number), &self.call()).unwrap();
    }

    pub fn commit(&self, number: u64) {
        assert_eq!(self.prepare(number), Vote::Yes);
        self.finish(number);
    }

    pub fn rollback(&self, number: u64) {
        self.host.rollback(&self.branch(number), &self.call()).unwrap();
    }

    /// Adds under a transaction, which stays open.
    pub fn work(&self, number: u64, key: u32, amount: i64) -> Result<(), ShardError> {
        self.host.execute(&self.branch(number), Tenure::NONE, Add { key, amount }, MOMENT)
    }

    /// Adds, and commits.
    pub fn add(&self, number: u64, key: u32, amount: i64) {
        self.work(number, key, amount).unwrap();
        self.commit(number);
    }

    pub fn release(&self, number: u64, ranges: &RangeSet, tenure: u64) -> Result<(Vec<u8>, Digest), ShardError> {
        let to = NodeId::from("elsewhere");
        self.host.release(&self.branch(number), ranges, Tenure::new(tenure), &to, MOMENT)
    }

    pub fn take(
        &self,
        number: u64,
        ranges: &RangeSet,
        tenure: u64,
        (records, digest): &(Vec<u8>, Digest),
    ) -> Result<(), ShardError> {
        self.host.take(&self.branch(number), ranges, Tenure::new(tenure), records.clone(), *digest)
    }

    /// What a client reads, or `None` if it is not let in.
    pub fn read(&self, key: u32) -> Option<Option<i64>> {
        self.host.read(position(key), Tenure::NONE, Duration::ZERO, |ledger| ledger.sum(key)).ok()
    }
}

/// A site whose host is opened again while others use it.
pub struct Shared {
    site: RwLock<Site>,
    /// The coordinator of which the site is a participant.
    coordinator: Mutex<Option<(Name, VerdictEndpoint)>>,
}

impl Shared {
    pub fn new(site: Site) -> Self {
        Self { site: RwLock::new(site), coordinator: Mutex::default() }
    }

    pub fn host(&self) -> Arc<ShardHost<Ledger>> {
        Arc::clone(&self.site.read().host)
    }

    /// Has the host ask this coordinator what began before the host was opened, from now on.
    pub fn ask(&self, coordinator: &Coordinator) {
        *self.coordinator.lock() = Some((coordinator.name().clone(), coordinator.verdict_endpoint()));
        self.introduce(&self.host());
    }

    fn introduce(&self, host: &ShardHost<Ledger>) {
        if let Some((name, endpoint)) = &*self.coordinator.lock() {
            host.set_verdict_endpoint(name.clone(), endpoint.clone());
        }
    }

    pub fn crash(&self) {
        let mut site = self.site.write();
        site.crash();
        self.introduce(&site.host);
    }
}

impl Participant for Shared {
    fn prepare(&self, branch: &BranchId, call: &Call) -> Result<Vote, ParticipantError> {
        self.host().prepare(branch, call)
    }
    fn commit(&self, branch: &BranchId, call: &Call) -> Result<(), ParticipantError> {
        self.host().commit(branch, call)
    }
    fn rollback(&self, branch: &BranchId, call: &Call) -> Result<(), ParticipantError> {
        self.host().rollback(branch, call)
    }
    fn commit_one_phase(&self, branch: &BranchId, call: &Call) -> Result<Decision, ParticipantError> {
        self.host().commit_one_phase(branch, call)
    }
    fn in_doubt(&self, coordinator: &Name) -> Result<Vec<BranchId>, ParticipantError> {
        self.host().in_doubt(coordinator)
    }
    fn meet(&self, coordinator: &Name, life: &Life) -> Result<(), ParticipantError> {
        self.host().meet(coordinator, life)
    }
    fn own_name(&self) -> Option<Name> {
        self.host().own_name()
    }
    fn greet(&self, greeting: &Greeting) {
        self.host().greet(greeting);
    }
}
