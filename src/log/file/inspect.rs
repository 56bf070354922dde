//! Looks at a log's directory from outside: lists and verifies everything, changes nothing, needs
//! no lock.
//!
//! [`inspect`] reads with the code that opening reads with. So it finds exactly the damage that
//! opening would refuse, and also damage in segments that opening no longer reads.
//!
//! A log that a process has open can be inspected too. The result is a state that the log was in a
//! moment ago. A batch that is being written shows as [`SegmentReport::torn_bytes`] at the end, and
//! a segment that is being prepared as [`Role::Unfinished`]. Neither is damage. What looks like
//! damage is read again before it is reported, because the owner may have written behind what had
//! been read already.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, io,
    path::{Path, PathBuf},
};

use serde::Serialize;

use super::{
    contents, directory,
    format::{BATCH_HEADER, BatchHeader, Kind, SegmentHeader, padded},
    identity::IdentityFile,
    io_failure::io_error,
    recover::{Recovered, Visitor, recover},
    storage::{Disk, Storage},
};
use crate::{
    exact,
    id::{Epoch, Name, TxnId},
    log::{Fact, LogError, Lsn, Record},
};

/// Maximum number of times that a directory is read again because its owner has changed it
/// meanwhile. The owner replaces segments far less often than this reads them.
const MAX_ATTEMPTS: u32 = 16;

/// The content of a log's directory, verified.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct Inspection {
    /// The directory that was inspected.
    pub dir: PathBuf,
    /// The log's id in hexadecimal digits, if there is a segment that has it.
    pub log: Option<String>,
    /// What is wrong with the file that remembers the log, or with the newest segment according to
    /// that file.
    pub remembered: Option<DamageReport>,
    /// All segments, in the order of their numbers. The last one that is not [`Role::Unfinished`]
    /// is the log.
    pub segments: Vec<SegmentReport>,
    /// The owners that were opened, each with its last epoch.
    pub epochs: BTreeMap<Name, Epoch>,
    /// The live transactions: those with records that no end has followed, in the order of the
    /// first of these records.
    pub live: Vec<TransactionReport>,
    /// The finished transactions of which the log still has a record.
    pub finished: Vec<TransactionReport>,
}

/// One segment.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct SegmentReport {
    /// The name of the segment's file.
    pub file: String,
    /// The segment's number.
    #[serde(serialize_with = "exact::counter::serialize")]
    pub number: u64,
    /// The length of the file in bytes.
    pub bytes: u64,
    /// What the segment is for.
    pub role: Role,
    /// The segment's batches, as far as they can be read.
    pub batches: Vec<BatchReport>,
    /// Number of bytes of a torn write behind the last batch. While an owner has the log open, it
    /// may be a write that is under way.
    pub torn_bytes: u64,
    /// Whether something in the segment shows that its last batch with records was durable. If not,
    /// damage to this one batch could not be told from a torn write.
    pub sealed: bool,
    /// What is wrong with the segment, if anything is.
    pub damage: Option<DamageReport>,
}

/// What a segment is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Role {
    /// The segment is the log.
    Log,
    /// A newer segment has taken its place; the next opening removes it.
    Replaced,
    /// The segment is being prepared, or was when its owner ended.
    Unfinished,
}

/// One batch: the records that one sync made durable.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct BatchReport {
    /// The offset in the file at which the batch begins.
    pub offset: u64,
    /// The length of the batch in bytes, padding included.
    pub bytes: u64,
    /// The batch's sequence number.
    #[serde(serialize_with = "exact::counter::serialize")]
    pub sequence: u64,
    /// What the batch is for.
    pub kind: BatchKind,
    /// Number of records in the batch.
    pub records: u32,
    /// The number of the last record that the log had with this batch.
    pub last: Lsn,
}

/// What a batch is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum BatchKind {
    /// Records as they were appended.
    Records,
    /// The first batch of a segment: the records that were live then.
    Carry,
    /// No records: it shows that the batch before it was durable.
    Seal,
}

/// What one owner's records say about a transaction.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct TransactionReport {
    /// The owner of the records.
    pub owner: Name,
    /// The transaction that they are about.
    #[serde(serialize_with = "as_text")]
    pub txn: TxnId,
    /// What the records say, in order: `decided`, `prepared`, `heard`, `committed`, `parked`,
    /// `heuristic`, `ended`.
    pub facts: Vec<&'static str>,
    /// The number of the first of these records.
    pub first: Lsn,
    /// The number of the last of these records.
    pub last: Lsn,
}

/// What is wrong, and where.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct DamageReport {
    /// The offset from the beginning of the file, in bytes.
    pub offset: u64,
    /// What is wrong there.
    pub what: String,
}

impl Inspection {
    /// Whether everything is as it was written.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        self.remembered.is_none() && self.segments.iter().all(|segment| segment.damage.is_none())
    }

    /// Returns the number of records in the segment that is the log.
    #[must_use]
    pub fn records(&self) -> u64 {
        let log = self.segments.iter().filter(|segment| segment.role == Role::Log);
        log.flat_map(|segment| &segment.batches).map(|batch| u64::from(batch.records)).sum()
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Log => "log",
            Self::Replaced => "replaced",
            Self::Unfinished => "unfinished",
        })
    }
}

impl fmt::Display for BatchKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Records => "records",
            Self::Carry => "carry",
            Self::Seal => "seal",
        })
    }
}

/// Inspects the log in this directory; blocks while it reads all of it. The [module](self) says
/// what it shows of a log that is in use.
///
/// Damage is part of the answer, not an error. A directory without segments is an empty log.
///
/// # Errors
///
/// [`LogError::Io`] if the directory or a file can't be read, or changes all the time.
pub fn inspect(dir: impl AsRef<Path>) -> Result<Inspection, LogError> {
    inspect_in(&Disk, dir)
}

/// Does the same in another storage.
///
/// # Errors
///
/// Those of [`inspect`].
pub fn inspect_in(storage: &dyn Storage, dir: impl AsRef<Path>) -> Result<Inspection, LogError> {
    let dir = dir.as_ref();
    for _ in 0..MAX_ATTEMPTS {
        if let Some(inspection) = attempt(storage, dir)? {
            return Ok(inspection);
        }
    }
    Err(io_error(dir, "inspect", io::Error::other("the log's owner replaces its segments all the time")))
}

/// Reads everything once. Returns `None` if a file has gone meanwhile.
fn attempt(storage: &dyn Storage, dir: &Path) -> Result<Option<Inspection>, LogError> {
    // The identity file is read first, because its owner writes it last: what it remembers was in
    // the segments before.
    let list = || storage.list(dir).map_err(|error| io_error(dir, "list", error));
    let known = match IdentityFile::read(storage, dir, &list()?) {
        Err(LogError::Io { error, .. }) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error @ LogError::Io { .. }) => return Err(error),
        other => other,
    };
    // Which segments there are, and which of them is the log.
    let names = list()?;
    let mut files = Vec::new();
    for name in names {
        if let Some(number) = directory::number_of(&name) {
            files.push((number, Role::Replaced, name));
        } else if let Some(number) = directory::number_of_unfinished(&name) {
            files.push((number, Role::Unfinished, name));
        }
    }
    files.sort_by(|one, other| (one.0, &one.2).cmp(&(other.0, &other.2)));
    if let Some((_, role, _)) = files.iter_mut().rfind(|(_, role, _)| *role == Role::Replaced) {
        *role = Role::Log;
    }
    let mut inspection = Inspection {
        dir: dir.to_owned(),
        log: None,
        remembered: None,
        segments: Vec::new(),
        epochs: BTreeMap::new(),
        live: Vec::new(),
        finished: Vec::new(),
    };
    // Read them all; the records of the log say which transactions there are.
    for (number, role, file) in files {
        let Some((segment, seen)) = read(storage, dir, number, role, file)? else { return Ok(None) };
        if role == Role::Log {
            if let (Ok(Some(known)), Some((header, recovered))) = (&known, &seen.found) {
                inspection.remembered = known.check(Some((dir, header, recovered))).err().map(report);
            }
            inspection.log.clone_from(&seen.log);
            (inspection.epochs, inspection.live, inspection.finished) = seen.transactions();
        }
        inspection.segments.push(segment);
    }
    // What the identity file says, if there is no segment to compare it with.
    match known {
        Err(error) => inspection.remembered = Some(report(error)),
        Ok(Some(known)) if !inspection.segments.iter().any(|segment| segment.role == Role::Log) => {
            inspection.remembered = known.check(None).err().map(report);
        }
        Ok(_) => {}
    }
    Ok(Some(inspection))
}

fn report(error: LogError) -> DamageReport {
    match error {
        LogError::Damaged { offset, what, .. } => DamageReport { offset, what: what.to_owned() },
        other => DamageReport { offset: 0, what: other.to_string() },
    }
}

/// Reads a segment until it is sound, or until the same damage was found twice: the first time may
/// have been a race.
fn read(
    storage: &dyn Storage,
    dir: &Path,
    number: u64,
    role: Role,
    file: String,
) -> Result<Option<(SegmentReport, SegmentContents)>, LogError> {
    let mut known: Option<DamageReport> = None;
    for _ in 0..MAX_ATTEMPTS {
        let mut segment = SegmentReport {
            file: file.clone(),
            number,
            bytes: 0,
            role,
            batches: Vec::new(),
            torn_bytes: 0,
            sealed: false,
            damage: None,
        };
        let mut seen = SegmentContents::default();
        let path = dir.join(&file);
        match read_once(storage, &path, &mut segment, &mut seen) {
            Ok(()) => {}
            Err(LogError::Io { error, .. }) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(LogError::Damaged { offset, what, .. }) => {
                segment.damage = Some(DamageReport { offset, what: what.to_owned() });
            }
            Err(error @ LogError::UnknownVersion { .. }) => {
                segment.damage = Some(DamageReport { offset: 8, what: error.to_string() });
            }
            Err(error) => return Err(error),
        }
        if segment.damage.is_none() || segment.damage == known {
            return Ok(Some((segment, seen)));
        }
        known = segment.damage;
    }
    Ok(None)
}

fn read_once(
    storage: &dyn Storage,
    path: &Path,
    segment: &mut SegmentReport,
    seen: &mut SegmentContents,
) -> Result<(), LogError> {
    let mut file = storage.open(path).map_err(|error| io_error(path, "open", error))?;
    segment.bytes = file.length().map_err(|error| io_error(path, "read", error))?;
    if segment.role == Role::Unfinished {
        return Ok(()); // an unfinished segment means nothing, whatever is in it
    }
    let (header, mut file) = contents::open_segment(storage, path, segment.number)?;
    seen.log = Some(header.log.to_string());
    let result = recover(&mut file, &header, seen);
    segment.batches = std::mem::take(&mut seen.batches);
    let with_records = segment.batches.iter().rposition(|batch| batch.kind == BatchKind::Records);
    segment.sealed = with_records.is_none_or(|last| last + 1 < segment.batches.len());
    match result {
        Ok(recovered) => {
            segment.torn_bytes = recovered.torn_bytes;
            seen.found = Some((header, recovered));
        }
        Err(unreadable) => return Err(contents::unreadable_at(path, unreadable)),
    }
    Ok(())
}

fn as_text<S: serde::Serializer>(txn: &TxnId, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(txn)
}

const fn fact_name(fact: &Fact) -> &'static str {
    match fact {
        Fact::Opened { .. } => "opened",
        Fact::Decided { .. } => "decided",
        Fact::Prepared { .. } => "prepared",
        Fact::Heard { .. } => "heard",
        Fact::Committed { .. } => "committed",
        Fact::Ended { .. } => "ended",
        Fact::Parked { .. } => "parked",
        Fact::Heuristic { .. } => "heuristic",
    }
}

/// What a segment's records say.
#[derive(Debug, Default)]
struct SegmentContents {
    log: Option<String>,
    found: Option<(SegmentHeader, Recovered)>,
    batches: Vec<BatchReport>,
    epochs: BTreeMap<Name, Epoch>,
    transactions: BTreeMap<(Name, TxnId), TransactionReport>,
    ended: BTreeSet<(Name, TxnId)>,
}

impl Visitor for SegmentContents {
    fn record(&mut self, lsn: Lsn, encoded: &[u8]) {
        let Some(record) = Record::decode(encoded) else { return };
        if let Some(epoch) = record.fact.epoch() {
            self.epochs.insert(record.owner.clone(), epoch);
        }
        let Some(txn) = record.fact.txn() else { return };
        let key = (record.owner.clone(), txn.clone());
        let ends = matches!(record.fact, Fact::Ended { .. });
        // Records after an end are about the transaction once more, and live.
        if ends {
            self.ended.insert(key.clone())
        } else {
            self.ended.remove(&key)
        };
        let report = self.transactions.entry(key).or_insert_with(|| TransactionReport {
            owner: record.owner.clone(),
            txn: txn.clone(),
            facts: Vec::new(),
            first: lsn,
            last: lsn,
        });
        report.facts.push(fact_name(&record.fact));
        report.last = lsn;
    }

    fn batch(&mut self, offset: u64, header: &BatchHeader) {
        self.batches.push(BatchReport {
            offset,
            bytes: padded(BATCH_HEADER as u64 + header.payload),
            sequence: header.sequence,
            kind: match header.kind {
                Kind::Records => BatchKind::Records,
                Kind::Carry => BatchKind::Carry,
                Kind::Seal => BatchKind::Seal,
            },
            records: header.count,
            last: header.last,
        });
    }
}

impl SegmentContents {
    fn transactions(self) -> (BTreeMap<Name, Epoch>, Vec<TransactionReport>, Vec<TransactionReport>) {
        let Self { epochs, transactions, ended, .. } = self;
        let (finished, live): (Vec<_>, Vec<_>) = transactions.into_iter().partition(|(key, _)| ended.contains(key));
        let sorted = |reports: Vec<(_, TransactionReport)>| {
            let mut reports: Vec<_> = reports.into_iter().map(|(_, report)| report).collect();
            reports.sort_by_key(|report| report.first);
            reports
        };
        (epochs, sorted(live), sorted(finished))
    }
}
