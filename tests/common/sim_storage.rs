//! A storage in memory that can refuse, freeze and crash, and that keeps any part of unsynced
//! bytes.
//!
//! It models what `src/docs/media.md` says a medium may do. Of unsynced writes any set of 512-byte
//! sectors survives, or is garbage. Of unsynced directory changes any set of names has its new
//! meaning, each on its own. A sync that fails loses what it was for *for good*, although reading
//! goes on to show it: a later sync that succeeds brings nothing of it to the medium.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard},
};

use ringpact::log::storage::{LockGuard, Storage, StorageFile};

const SECTOR: usize = 512;

/// Too many open files, on every Unix.
const EMFILE: i32 = 24;

/// The file that remembers the log.
const IDENTITY: &str = "log-identity";

/// The operations that change something. Others are neither counted nor refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    Create,
    Write,
    Sync,
    Rename,
    Remove,
    SyncDir,
}

impl Op {
    pub const ALL: [Self; 6] = [Self::Create, Self::Write, Self::Sync, Self::Rename, Self::Remove, Self::SyncDir];
}

/// A sync that does nothing and reports success, as if the code had forgotten to call it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Forgotten {
    /// The sync of a batch, or of a seal.
    Batch,
    /// The sync of the next segment's zeros.
    Fill,
    /// The sync of what is carried over into the next segment.
    Carry,
    /// The sync of the directory after a segment got its name.
    Name,
    /// The sync of the directory after a segment has lost its name, to become the next one.
    Retirement,
    /// The sync of the directory after a file was removed.
    Removal,
    /// The sync of the file that remembers the log.
    Identity,
    /// The sync of the same file once it says that the log was closed.
    End,
}

/// What a crash keeps of what was not synced.
#[derive(Clone, Copy, Debug)]
pub enum Keep {
    Nothing,
    Everything,
    /// Any part, drawn from this seed, and sometimes garbage.
    Some(u64),
    /// Exactly this part: for each thing that there is a choice about, one bit says whether it is
    /// kept. See [`SimStorage::choices`].
    Just(u64),
}

/// Decides for one thing after the other whether it is kept.
struct Chooser {
    keep: Keep,
    random: fastrand::Rng,
    asked: u32,
}

impl Chooser {
    fn new(keep: Keep) -> Self {
        let random = fastrand::Rng::with_seed(if let Keep::Some(seed) = keep { seed } else { 0 });
        Self { keep, random, asked: 0 }
    }

    fn keeps(&mut self) -> bool {
        self.asked += 1;
        match self.keep {
            Keep::Nothing => false,
            Keep::Everything => true,
            Keep::Some(_) => self.random.bool(),
            Keep::Just(these) => these.checked_shr(self.asked - 1).is_some_and(|these| these & 1 == 1),
        }
    }

    /// Whether there is garbage in the place of what is not kept.
    fn garbles(&mut self) -> bool {
        matches!(self.keep, Keep::Some(_)) && self.random.u32(..8) == 0
    }
}

#[derive(Clone, Debug, Default)]
pub struct SimStorage {
    inner: Arc<Mutex<Inner>>,
}

#[derive(Debug, Default)]
struct Inner {
    files: Vec<SimFile>,
    names: BTreeMap<PathBuf, usize>,
    durable_names: BTreeMap<PathBuf, usize>,
    /// Names that get a durable meaning by the next sync of their directory.
    dirty_names: BTreeSet<PathBuf>,
    /// Directories that exist, but with names that no sync has seen.
    unsynced_dirs: BTreeSet<PathBuf>,
    locked: bool,
    ops: u64,
    /// The number of the first operation that no longer happens: the moment of the crash.
    freeze_at: Option<u64>,
    faults: Vec<Fault>,
    /// Number of operations that are still refused because there are no file descriptors.
    starved: u64,
    /// Maximum number of bytes that all files together may have.
    capacity: Option<usize>,
    forgotten: Option<Forgotten>,
    trace: Vec<(Op, PathBuf)>,
}

/// A fault: the nth operation of a kind, on names with this end, fails.
#[derive(Debug)]
struct Fault {
    op: Op,
    suffix: &'static str,
    left: u64,
    kind: io::ErrorKind,
}

#[derive(Clone, Debug, Default)]
struct SimFile {
    durable: Vec<u8>,
    current: Vec<u8>,
    unsynced: Vec<(usize, Vec<u8>)>,
    syncs: u32,
}

impl Inner {
    fn step(&mut self, op: Op, path: &Path) -> io::Result<()> {
        if self.freeze_at.is_some_and(|at| self.ops >= at) {
            return Err(io::Error::other("the machine has crashed"));
        }
        if self.starved > 0 && op != Op::Sync && op != Op::SyncDir {
            self.starved -= 1;
            return Err(io::Error::from_raw_os_error(EMFILE));
        }
        self.ops += 1;
        self.trace.push((op, path.to_owned()));
        let hit =
            |fault: &&mut Fault| fault.op == op && fault.left > 0 && path.to_string_lossy().ends_with(fault.suffix);
        if let Some(fault) = self.faults.iter_mut().find(hit) {
            fault.left -= 1;
            if fault.left == 0 {
                return Err(io::Error::new(fault.kind, "injected"));
            }
        }
        Ok(())
    }

    /// Returns the name that a file has now.
    fn path_of(&self, file: usize) -> Option<PathBuf> {
        self.names.iter().find(|(_, named)| **named == file).map(|(path, _)| path.clone())
    }

    fn used(&self) -> usize {
        self.names.values().map(|file| self.files[*file].current.len()).sum()
    }

    fn name(&mut self, path: &Path, file: Option<usize>) {
        match file {
            Some(file) => self.names.insert(path.to_owned(), file),
            None => self.names.remove(path),
        };
        self.dirty_names.insert(path.to_owned());
    }
}

impl SimStorage {
    pub fn new() -> Self {
        Self::default()
    }

    /// Returns a storage that holds this one file, durably.
    pub fn with_file(path: impl Into<PathBuf>, bytes: Vec<u8>) -> Self {
        Self::with_files([(path.into(), bytes)])
    }

    /// Returns a storage that holds these files, durably.
    pub fn with_files(files: impl IntoIterator<Item = (PathBuf, Vec<u8>)>) -> Self {
        let (names, contents): (Vec<_>, Vec<_>) = files.into_iter().unzip();
        let names: BTreeMap<_, _> = names.into_iter().zip(0..).collect();
        let file = |bytes: Vec<u8>| SimFile { durable: bytes.clone(), current: bytes, unsynced: Vec::new(), syncs: 0 };
        let files = contents.into_iter().map(file).collect();
        let inner = Inner { files, durable_names: names.clone(), names, ..Inner::default() };
        Self { inner: Arc::new(Mutex::new(inner)) }
    }

    /// Returns a storage in which a process has made this directory, and was killed before its name
    /// was durable.
    pub fn with_unsynced_dir(dir: impl Into<PathBuf>) -> Self {
        let inner = Inner { unsynced_dirs: [dir.into()].into(), ..Inner::default() };
        Self { inner: Arc::new(Mutex::new(inner)) }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap()
    }

    /// Returns how many operations there were.
    pub fn ops(&self) -> u64 {
        self.inner().ops
    }

    /// Returns the operations, including those that failed, and the names that they were applied
    /// to.
    pub fn trace(&self) -> Vec<(Op, PathBuf)> {
        self.inner().trace.clone()
    }

    /// Lets nothing happen from the operation with this number on.
    pub fn freeze_at(&self, op: u64) {
        self.inner().freeze_at = Some(op);
    }

    /// Lets the nth operation of this kind from now on fail, and only that one.
    pub fn fail(&self, op: Op, nth: u64, kind: io::ErrorKind) {
        self.fail_on("", op, nth, kind);
    }

    /// Does the same for operations on names with this end.
    pub fn fail_on(&self, suffix: &'static str, op: Op, nth: u64, kind: io::ErrorKind) {
        self.inner().faults.push(Fault { op, suffix, left: nth, kind });
    }

    /// Refuses this number of operations from now on, other than syncs, as if there were no file
    /// descriptors.
    pub fn starve(&self, ops: u64) {
        self.inner().starved = ops;
    }

    /// Returns how many operations are still to be refused so.
    pub fn starved(&self) -> u64 {
        self.inner().starved
    }

    /// Leaves out all syncs of this kind from now on.
    pub fn forget(&self, syncs: Forgotten) {
        self.inner().forgotten = Some(syncs);
    }

    /// Returns how many faults are waiting for their operations.
    pub fn faults_to_come(&self) -> usize {
        self.inner().faults.iter().filter(|fault| fault.left > 0).count()
    }

    /// Drops all faults that are waiting for their operations.
    pub fn heal(&self) {
        self.starve(0);
        self.inner().faults.clear();
    }

    /// Lets all files together have this many bytes at most.
    pub fn limit(&self, bytes: Option<usize>) {
        self.inner().capacity = bytes;
    }

    /// Returns what all files together have now, in bytes.
    pub fn used(&self) -> usize {
        self.inner().used()
    }

    /// Returns the names of the segments that there are now.
    pub fn names(&self) -> Vec<PathBuf> {
        self.inner().names.keys().filter(|path| !is_identity(path)).cloned().collect()
    }

    /// Returns the content of the file that remembers the log in this directory.
    pub fn identity(&self, dir: impl AsRef<Path>) -> Option<Vec<u8>> {
        self.content(dir.as_ref().join(IDENTITY))
    }

    /// Removes a name, as another program may do.
    pub fn take_away(&self, path: impl AsRef<Path>) {
        let mut inner = self.inner();
        inner.names.remove(path.as_ref());
        inner.durable_names.remove(path.as_ref());
    }

    /// Returns what reading the file shows now.
    pub fn content(&self, path: impl AsRef<Path>) -> Option<Vec<u8>> {
        let inner = self.inner();
        inner.names.get(path.as_ref()).map(|file| inner.files[*file].current.clone())
    }

    /// Returns the storage that is found after the machine has crashed and started again.
    pub fn crash(&self, keep: Keep) -> Self {
        self.crash_by(&mut Chooser::new(keep))
    }

    /// Returns the largest number of things that a crash has a choice about: names, and sectors of
    /// the files that then have one.
    pub fn choices(&self) -> u32 {
        let asked = |keep| {
            let mut chooser = Chooser::new(keep);
            self.crash_by(&mut chooser);
            chooser.asked
        };
        asked(Keep::Nothing).max(asked(Keep::Everything))
    }

    fn crash_by(&self, chooser: &mut Chooser) -> Self {
        let inner = self.inner();
        let (mut files, mut names) = (Vec::new(), BTreeMap::new());
        let all: BTreeSet<_> = inner.durable_names.keys().chain(inner.names.keys()).collect();
        let lost_dirs: Vec<_> = inner.unsynced_dirs.iter().filter(|_| !chooser.keeps()).collect();
        let mut moved = BTreeMap::new();
        for name in all {
            let (old, new) = (inner.durable_names.get(name), inner.names.get(name));
            // A change that a failed sync has lost is no longer dirty, and may have reached the
            // medium or not.
            let Some(file) = (if old == new || chooser.keeps() { new } else { old }) else { continue };
            if lost_dirs.iter().any(|dir| name.starts_with(dir)) {
                continue;
            }
            let file = *moved.entry(*file).or_insert_with(|| {
                files.push(inner.files[*file].clone());
                files.len() - 1
            });
            names.insert(name.clone(), file);
        }
        for file in &mut files {
            let mut content = std::mem::take(&mut file.durable);
            for (offset, bytes) in file.unsynced.drain(..) {
                keep_some(&mut content, offset, &bytes, chooser);
            }
            file.durable.clone_from(&content);
            file.current = content;
        }
        let inner = Inner { files, durable_names: names.clone(), names, ..Inner::default() };
        Self { inner: Arc::new(Mutex::new(inner)) }
    }
}

/// Applies some sectors of an unsynced write.
fn keep_some(content: &mut Vec<u8>, offset: usize, bytes: &[u8], chooser: &mut Chooser) {
    let mut at = 0;
    while at < bytes.len() {
        let length = (SECTOR - (offset + at) % SECTOR).min(bytes.len() - at);
        if chooser.keeps() {
            write(content, offset + at, &bytes[at..at + length]);
        } else if chooser.garbles() {
            let garbage: Vec<u8> = (0..length).map(|_| chooser.random.u8(..)).collect();
            write(content, offset + at, &garbage);
        }
        at += length;
    }
}

fn write(content: &mut Vec<u8>, offset: usize, bytes: &[u8]) {
    if content.len() < offset + bytes.len() {
        content.resize(offset + bytes.len(), 0);
    }
    content[offset..offset + bytes.len()].copy_from_slice(bytes);
}

fn is_identity(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(IDENTITY))
}

fn not_found() -> io::Error {
    io::ErrorKind::NotFound.into()
}

impl Storage for SimStorage {
    fn create_dir(&self, _dir: &Path) -> io::Result<()> {
        Ok(()) // durable at once, unless the directory was there before: see `with_unsynced_dir`
    }

    fn lock(&self, _path: &Path) -> io::Result<Option<Box<dyn LockGuard>>> {
        let mut inner = self.inner();
        if std::mem::replace(&mut inner.locked, true) {
            return Ok(None);
        }
        Ok(Some(Box::new(SimLock(self.clone()))))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let inner = self.inner();
        let of_dir = inner.names.keys().filter(|path| path.parent() == Some(dir));
        Ok(of_dir.map(|path| path.file_name().unwrap().to_str().unwrap().to_owned()).collect())
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn StorageFile>> {
        let file = *self.inner().names.get(path).ok_or_else(not_found)?;
        Ok(Box::new(SimHandle { storage: self.clone(), path: path.to_owned(), file }))
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn StorageFile>> {
        let mut inner = self.inner();
        inner.step(Op::Create, path)?;
        inner.files.push(SimFile::default());
        let file = inner.files.len() - 1;
        inner.name(path, Some(file));
        Ok(Box::new(SimHandle { storage: self.clone(), path: path.to_owned(), file }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut inner = self.inner();
        inner.step(Op::Rename, to)?;
        let file = *inner.names.get(from).ok_or_else(not_found)?;
        inner.name(from, None);
        inner.name(to, Some(file));
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut inner = self.inner();
        inner.step(Op::Remove, path)?;
        if !inner.names.contains_key(path) {
            return Err(not_found());
        }
        inner.name(path, None);
        Ok(())
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let mut inner = self.inner();
        let kind = match inner.trace.last() {
            Some((Op::Rename, to)) if to.extension().is_some_and(|new| new == "new") => Some(Forgotten::Retirement),
            Some((Op::Rename, _)) => Some(Forgotten::Name),
            Some((Op::Remove, _)) => Some(Forgotten::Removal),
            _ => None,
        };
        let result = inner.step(Op::SyncDir, dir);
        if kind.is_some() && kind == inner.forgotten {
            return result;
        }
        let frozen = inner.freeze_at.is_some_and(|at| inner.ops >= at);
        if result.is_err() && frozen {
            return result; // a crash loses nothing for good: the write may still have been on its way
        }
        let of_dir: Vec<_> = inner.dirty_names.iter().filter(|name| name.parent() == Some(dir)).cloned().collect();
        for name in of_dir {
            inner.dirty_names.remove(&name);
            if result.is_ok() {
                match inner.names.get(&name).copied() {
                    Some(file) => inner.durable_names.insert(name, file),
                    None => inner.durable_names.remove(&name),
                };
            }
        }
        if result.is_ok() {
            inner.unsynced_dirs.retain(|child| child.parent() != Some(dir));
        }
        result
    }
}

struct SimLock(SimStorage);

impl LockGuard for SimLock {}

impl Drop for SimLock {
    fn drop(&mut self) {
        self.0.inner().locked = false;
    }
}

struct SimHandle {
    storage: SimStorage,
    path: PathBuf,
    file: usize,
}

impl StorageFile for SimHandle {
    fn length(&mut self) -> io::Result<u64> {
        Ok(self.storage.inner().files[self.file].current.len() as u64)
    }

    fn read_at(&mut self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        let inner = self.storage.inner();
        let wanted = inner.files[self.file].current.get(offset as usize..offset as usize + buffer.len());
        buffer.copy_from_slice(wanted.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let mut inner = self.storage.inner();
        let path = inner.path_of(self.file).unwrap_or_else(|| self.path.clone());
        inner.step(Op::Write, &path)?;
        let (file, offset) = (self.file, offset as usize);
        let growth = (offset + bytes.len()).saturating_sub(inner.files[file].current.len());
        if growth > 0 && inner.capacity.is_some_and(|capacity| inner.used() + growth > capacity) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        write(&mut inner.files[file].current, offset, bytes);
        inner.files[file].unsynced.push((offset, bytes.to_vec()));
        Ok(())
    }

    fn is_at(&mut self, path: &Path) -> io::Result<bool> {
        let inner = self.storage.inner();
        inner.names.get(path).map(|file| *file == self.file).ok_or_else(not_found)
    }

    fn is_linked(&mut self) -> io::Result<bool> {
        Ok(self.storage.inner().path_of(self.file).is_some())
    }

    fn sync(&mut self) -> io::Result<()> {
        let mut inner = self.storage.inner();
        let path = inner.path_of(self.file).unwrap_or_else(|| self.path.clone());
        let result = inner.step(Op::Sync, &path);
        let frozen = inner.freeze_at.is_some_and(|at| inner.ops >= at);
        if result.is_err() && frozen {
            return result;
        }
        let kind = match inner.files[self.file].syncs {
            0 if is_identity(&path) => Forgotten::Identity,
            _ if is_identity(&path) => Forgotten::End,
            0 => Forgotten::Fill,
            1 => Forgotten::Carry,
            _ => Forgotten::Batch,
        };
        inner.files[self.file].syncs += 1;
        if inner.forgotten == Some(kind) {
            return result;
        }
        let seed = inner.ops;
        let file = &mut inner.files[self.file];
        // If the sync fails, some of it is lost and some is not; every second time all of it is.
        let keep = match &result {
            Ok(()) => Keep::Everything,
            Err(_) if seed.is_multiple_of(2) => Keep::Nothing,
            Err(_) => Keep::Some(seed),
        };
        let mut chooser = Chooser::new(keep);
        for (offset, bytes) in file.unsynced.drain(..) {
            keep_some(&mut file.durable, offset, &bytes, &mut chooser);
        }
        result
    }
}
