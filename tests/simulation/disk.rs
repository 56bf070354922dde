//! A host's disk as its logs see it: it takes its time, fails, and is gone when the host is.

use std::{fmt, io, path::Path, sync::Arc, time::Duration};

use ringpact::log::storage::{LockGuard, Storage, StorageFile};

use super::{
    plan,
    scheduler::Scheduler,
    sim_storage::{Op, SimStorage},
};

/// The process whose disk it is.
pub trait Machine: fmt::Display + Send + Sync + 'static {
    fn clock(&self) -> &Arc<Scheduler>;
    fn is_alive(&self) -> bool;
    /// Whether things go wrong now.
    fn is_faulty(&self) -> bool;
    /// How bad its disk is, and in which number of operations it crashes at one.
    fn disk(&self) -> (plan::Disk, u32);
    fn crash_at_io(self: &Arc<Self>);
    fn has_failed_io(&self);
    fn repair_soon(self: &Arc<Self>);
    /// A sync; what a mutant makes of it.
    fn mutate_sync(&self, sync: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        sync()
    }
    /// Whether a mutant keeps segments that were replaced.
    fn keeps_replaced(&self) -> bool {
        false
    }
}

/// How long an operation other than a sync takes at the most.
const LONGEST_OP: Duration = Duration::from_micros(100);

const SLOW_SYNC: Duration = Duration::from_secs(1);

pub struct Disk<M> {
    pub life: Arc<M>,
    pub storage: SimStorage,
}

impl<M> Clone for Disk<M> {
    fn clone(&self) -> Self {
        Self { life: Arc::clone(&self.life), storage: self.storage.clone() }
    }
}

impl<M: Machine> Disk<M> {
    fn off() -> io::Error {
        io::Error::other("the machine is off")
    }

    /// Time passes, and things go wrong.
    fn begin(&self, op: Op, path: &Path) -> io::Result<()> {
        let clock = self.life.clock();
        if !self.life.is_alive() {
            return Err(Self::off());
        }
        let (plan, crash_at_io) = self.life.disk();
        clock.note(format_args!("{} {op:?} {}", self.life, path.display()));
        if self.life.is_faulty() && clock.once_in(crash_at_io) {
            self.life.crash_at_io();
            return Err(Self::off());
        }
        let longest = if matches!(op, Op::Sync | Op::SyncDir) { plan.sync } else { LONGEST_OP };
        let slow = matches!(op, Op::Sync) && self.life.is_faulty() && clock.once_in(plan.slow);
        clock.sleep(if slow { SLOW_SYNC } else { longest.mul_f64(clock.draw(fastrand::Rng::f64)) });
        if !self.life.is_alive() {
            return Err(Self::off());
        }
        if self.life.is_faulty() && matches!(op, Op::Create | Op::Write) && clock.once_in(plan.full) {
            clock.note(format_args!("{} has no room", self.life));
            self.storage.fail(op, 1, io::ErrorKind::StorageFull);
            self.life.repair_soon();
        } else if self.life.is_faulty() && clock.once_in(plan.fails) {
            clock.note(format_args!("{} fails {op:?}", self.life));
            self.life.has_failed_io();
            self.storage.fail(op, 1, io::ErrorKind::Other);
            self.life.repair_soon();
        }
        Ok(())
    }
}

impl<M: Machine> fmt::Debug for Disk<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Disk({})", self.life)
    }
}

impl<M: Machine> Storage for Disk<M> {
    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        self.storage.create_dir(dir)
    }

    fn lock(&self, path: &Path) -> io::Result<Option<Box<dyn LockGuard>>> {
        self.storage.lock(path)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        self.storage.list(dir)
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn StorageFile>> {
        Ok(Box::new(File { disk: self.clone(), path: path.into(), file: self.storage.open(path)? }))
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn StorageFile>> {
        self.begin(Op::Create, path)?;
        Ok(Box::new(File { disk: self.clone(), path: path.into(), file: self.storage.create(path)? }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.begin(Op::Rename, to)?;
        let replaced = self.life.keeps_replaced().then(|| self.storage.content(from)).flatten();
        self.storage.rename(from, to)?;
        // One that is used again, rather than one that gets its name.
        let Some(content) = replaced.filter(|_| from.extension().is_some_and(|log| log == "log")) else {
            return Ok(());
        };
        let mut kept = self.storage.create(from)?;
        kept.write_at(0, &content).and_then(|()| kept.sync())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.begin(Op::Remove, path)?;
        if self.life.keeps_replaced() { Ok(()) } else { self.storage.remove(path) }
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.begin(Op::SyncDir, dir)?;
        self.storage.sync_dir(dir)
    }
}

struct File<M> {
    disk: Disk<M>,
    path: Box<Path>,
    file: Box<dyn StorageFile>,
}

impl<M: Machine> StorageFile for File<M> {
    fn length(&mut self) -> io::Result<u64> {
        self.file.length()
    }

    fn read_at(&mut self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.file.read_at(offset, buffer)
    }

    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.disk.begin(Op::Write, &self.path)?;
        self.file.write_at(offset, bytes)
    }

    fn is_at(&mut self, path: &Path) -> io::Result<bool> {
        self.file.is_at(path)
    }

    fn is_linked(&mut self) -> io::Result<bool> {
        self.file.is_linked()
    }

    fn sync(&mut self) -> io::Result<()> {
        self.disk.begin(Op::Sync, &self.path)?;
        self.disk.life.mutate_sync(|| self.file.sync())
    }
}
