//! A storage in memory that can refuse, freeze and crash, and that keeps of unsynced bytes only what it likes.
//!
//! What it models is what `src/docs/media.md` says a medium may do: of unsynced writes any set of 512-byte sectors
//! survives; of unsynced directory changes any set of names has its new meaning, each on its own.

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard},
};

use ringpact::log::storage::{LockGuard, Storage, StorageFile};

const SECTOR: usize = 512;

/// The operations that change something; others are neither counted nor refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    Create,
    Write,
    Sync,
    Rename,
    Remove,
    SyncDir,
}

/// What a crash keeps of what was not synced.
#[derive(Clone, Copy, Debug)]
pub enum Keep {
    Nothing,
    Everything,
    /// Any part, drawn from this seed.
    Some(u64),
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
    locked: bool,
    ops: u64,
    /// From this operation on nothing happens any more: the moment of the crash.
    freeze_at: Option<u64>,
    /// The nth operation of a kind fails.
    faults: Vec<(Op, u64, io::ErrorKind)>,
    /// Bytes that all files together may have.
    capacity: Option<usize>,
    log: Vec<Op>,
}

#[derive(Clone, Debug, Default)]
struct SimFile {
    durable: Vec<u8>,
    current: Vec<u8>,
    unsynced: Vec<(usize, Vec<u8>)>,
}

impl Inner {
    fn step(&mut self, op: Op) -> io::Result<()> {
        if self.freeze_at.is_some_and(|at| self.ops >= at) {
            return Err(io::Error::other("the machine has crashed"));
        }
        self.ops += 1;
        self.log.push(op);
        if let Some(fault) = self.faults.iter_mut().find(|(kind, left, _)| *kind == op && *left > 0) {
            fault.1 -= 1;
            if fault.1 == 0 {
                return Err(io::Error::new(fault.2, "injected"));
            }
        }
        Ok(())
    }

    fn used(&self) -> usize {
        self.names.values().map(|file| self.files[*file].current.len()).sum()
    }
}

impl SimStorage {
    pub fn new() -> Self {
        Self::default()
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap()
    }

    /// How many operations there were.
    pub fn ops(&self) -> u64 {
        self.inner().ops
    }

    /// The operations themselves.
    pub fn history(&self) -> Vec<Op> {
        self.inner().log.clone()
    }

    /// Lets nothing happen any more from the operation with this number on.
    pub fn freeze_at(&self, op: u64) {
        self.inner().freeze_at = Some(op);
    }

    /// Lets the nth operation of this kind from now on fail, and only that one.
    pub fn fail(&self, op: Op, nth: u64, kind: io::ErrorKind) {
        self.inner().faults.push((op, nth, kind));
    }

    /// Lets all files together have this many bytes at the most.
    pub fn limit(&self, bytes: Option<usize>) {
        self.inner().capacity = bytes;
    }

    /// What all files together have now, in bytes.
    pub fn used(&self) -> usize {
        self.inner().used()
    }

    /// The names there are now.
    pub fn names(&self) -> Vec<PathBuf> {
        self.inner().names.keys().cloned().collect()
    }

    /// What is found after the machine has crashed and started again.
    pub fn crash(&self, keep: Keep) -> Self {
        let inner = self.inner();
        let mut random = fastrand::Rng::with_seed(if let Keep::Some(seed) = keep { seed } else { 0 });
        let mut keeps = || match keep {
            Keep::Nothing => false,
            Keep::Everything => true,
            Keep::Some(_) => random.bool(),
        };
        let mut files = inner.files.clone();
        let named = |file: &usize| inner.names.values().chain(inner.durable_names.values()).any(|other| other == file);
        for (_, file) in files.iter_mut().enumerate().filter(|(number, _)| named(number)) {
            let mut content = std::mem::take(&mut file.durable);
            for (offset, bytes) in file.unsynced.drain(..) {
                let mut at = 0;
                while at < bytes.len() {
                    let length = (SECTOR - (offset + at) % SECTOR).min(bytes.len() - at);
                    if keeps() {
                        write(&mut content, offset + at, &bytes[at..at + length]);
                    }
                    at += length;
                }
            }
            file.durable.clone_from(&content);
            file.current = content;
        }
        let mut names = BTreeMap::new();
        let mut all: Vec<_> = inner.durable_names.keys().chain(inner.names.keys()).collect();
        all.sort_unstable();
        all.dedup();
        for name in all {
            let (old, new) = (inner.durable_names.get(name), inner.names.get(name));
            if let Some(file) = if old == new || keeps() { new } else { old } {
                names.insert(name.clone(), *file);
            }
        }
        let inner = Inner { files, durable_names: names.clone(), names, ..Inner::default() };
        Self { inner: Arc::new(Mutex::new(inner)) }
    }
}

fn write(content: &mut Vec<u8>, offset: usize, bytes: &[u8]) {
    if content.len() < offset + bytes.len() {
        content.resize(offset + bytes.len(), 0);
    }
    content[offset..offset + bytes.len()].copy_from_slice(bytes);
}

fn not_found() -> io::Error {
    io::ErrorKind::NotFound.into()
}

impl Storage for SimStorage {
    fn create_dir(&self, _dir: &Path) -> io::Result<()> {
        Ok(())
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
        Ok(Box::new(SimHandle { storage: self.clone(), file }))
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn StorageFile>> {
        let mut inner = self.inner();
        inner.step(Op::Create)?;
        inner.files.push(SimFile::default());
        let file = inner.files.len() - 1;
        inner.names.insert(path.to_owned(), file);
        Ok(Box::new(SimHandle { storage: self.clone(), file }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut inner = self.inner();
        inner.step(Op::Rename)?;
        let file = inner.names.remove(from).ok_or_else(not_found)?;
        inner.names.insert(to.to_owned(), file);
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut inner = self.inner();
        inner.step(Op::Remove)?;
        inner.names.remove(path).map(drop).ok_or_else(not_found)
    }

    fn sync_dir(&self, _dir: &Path) -> io::Result<()> {
        let mut inner = self.inner();
        inner.step(Op::SyncDir)?;
        inner.durable_names = inner.names.clone();
        Ok(())
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
        inner.step(Op::Write)?;
        let (file, offset) = (self.file, offset as usize);
        let growth = (offset + bytes.len()).saturating_sub(inner.files[file].current.len());
        if growth > 0 && inner.capacity.is_some_and(|capacity| inner.used() + growth > capacity) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        write(&mut inner.files[file].current, offset, bytes);
        inner.files[file].unsynced.push((offset, bytes.to_vec()));
        Ok(())
    }

    fn sync(&mut self) -> io::Result<()> {
        let mut inner = self.storage.inner();
        inner.step(Op::Sync)?;
        let file = &mut inner.files[self.file];
        for (offset, bytes) in file.unsynced.drain(..) {
            write(&mut file.durable, offset, &bytes);
        }
        Ok(())
    }
}
