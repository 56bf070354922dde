//! Preparing the next segment, and making it of the one before, may take any time: writers go on
//! meanwhile. Of all collecting, callers that wait wait only for a sync of their own records, which
//! takes along what is carried over, and for one sync of the directory.

use std::{
    io,
    path::Path,
    sync::{Arc, mpsc},
    thread,
    time::Duration,
};

use crate::common::{Op, SIM_DIR, SimStorage, commit, ended, live_numbers, prepared};
use parking_lot::{Condvar, Mutex};
use ringpact::{
    FileLog, TransactionLog,
    log::{
        Durability,
        storage::{LockGuard, Storage, StorageFile},
    },
};

/// A storage in which one kind of operation takes until it is released.
#[derive(Clone, Debug)]
struct Slow {
    inner: SimStorage,
    gate: Arc<(Mutex<State>, Condvar)>,
}

#[derive(Debug, Default)]
struct State {
    slow: Option<Op>,
    is_held: bool,
    /// The operations of all threads but the keeper's. Some caller waits for each of them.
    waited_for: Vec<Op>,
}

struct SlowFile {
    file: Box<dyn StorageFile>,
    storage: Slow,
}

impl Slow {
    fn new(slow: Option<Op>) -> Self {
        let state = State { slow, ..State::default() };
        Self { inner: SimStorage::new(), gate: Arc::new((Mutex::new(state), Condvar::new())) }
    }

    /// Continues with this operation once it may.
    fn begin(&self, op: Op) {
        if of_keeper() {
            return self.pass(op);
        }
        self.gate.0.lock().waited_for.push(op);
    }

    fn pass(&self, op: Op) {
        let (state, change) = &*self.gate;
        let mut state = state.lock();
        while state.slow == Some(op) {
            state.is_held = true;
            change.notify_all();
            change.wait(&mut state);
        }
    }

    /// Whether a thread is held up. Waits a moment, for a thread that is about to be.
    fn is_held(&self) -> bool {
        let (state, change) = &*self.gate;
        let mut state = state.lock();
        change.wait_while_for(&mut state, |state| !state.is_held, Duration::from_millis(50));
        state.is_held
    }

    fn release(&self) {
        self.gate.0.lock().slow = None;
        self.gate.1.notify_all();
    }
}

fn of_keeper() -> bool {
    thread::current().name() == Some("ringpact-keeper")
}

impl Storage for Slow {
    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        self.inner.create_dir(dir)
    }
    fn lock(&self, path: &Path) -> io::Result<Option<Box<dyn LockGuard>>> {
        self.inner.lock(path)
    }
    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        self.inner.list(dir)
    }
    fn open(&self, path: &Path) -> io::Result<Box<dyn StorageFile>> {
        self.inner.open(path)
    }
    fn create(&self, path: &Path) -> io::Result<Box<dyn StorageFile>> {
        self.begin(Op::Create);
        let file = self.inner.create(path)?;
        Ok(Box::new(SlowFile { file, storage: self.clone() }))
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.begin(Op::Rename);
        self.inner.rename(from, to)
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        self.begin(Op::Remove);
        self.inner.remove(path)
    }
    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.begin(Op::SyncDir);
        self.inner.sync_dir(dir)
    }
}

impl StorageFile for SlowFile {
    fn length(&mut self) -> io::Result<u64> {
        self.file.length()
    }
    fn read_at(&mut self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.file.read_at(offset, buffer)
    }
    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.storage.begin(Op::Write);
        self.file.write_at(offset, bytes)
    }
    fn sync(&mut self) -> io::Result<()> {
        // The keeper syncs the segments that it prepares.
        self.storage.begin(Op::Sync);
        self.file.sync()
    }
}

fn open(storage: &Slow) -> Arc<FileLog> {
    let log = FileLog::options().segment_bytes(0).seal_after(Duration::MAX).storage(storage.clone());
    let log = Arc::new(log.open(SIM_DIR).unwrap());
    commit(&*log, prepared(0, 100)).unwrap(); // it stays live to the end of the test
    log
}

/// A transaction that comes and goes.
fn pass(log: &FileLog, number: u64) {
    commit(log, prepared(number, 100)).unwrap();
    log.append(ended(number), Durability::Lazy).unwrap();
}

#[test]
fn writers_go_on_while_a_segment_is_prepared_and_while_one_is_made_of_the_one_before() {
    for slow in [Op::Sync, Op::Rename] {
        let storage = Slow::new(Some(slow));
        let log = open(&storage);
        let (done, finished) = mpsc::channel();
        let (of_thread, of_storage) = (log.clone(), storage.clone());
        let writer = thread::spawn(move || {
            let until_held = (1..1_000).find(|number| {
                pass(&of_thread, *number);
                of_storage.is_held()
            });
            // Now the keeper is held up, and stays so. There is room for these in the active
            // segment.
            (1_000..1_004).for_each(|number| pass(&of_thread, number));
            done.send(until_held).unwrap();
        });
        let until_held = finished.recv_timeout(Duration::from_secs(20)).expect("writers wait for the keeper");
        assert!(until_held.is_some(), "a segment is prepared, and replaced");
        storage.release();
        writer.join().unwrap();
        for number in 2_000..2_100 {
            pass(&log, number);
        }
        assert_eq!(live_numbers(&*log).first(), Some(&0));
        assert!(storage.inner.names().len() <= 2, "{:?}", storage.inner.names());
    }
}

/// Besides the sync that makes their own records durable, callers that wait while a segment is
/// replaced wait for one sync of the directory, and for nothing else.
#[test]
fn replacing_a_segment_costs_waiting_callers_one_sync_more() {
    let storage = Slow::new(None);
    let log = open(&storage);
    storage.gate.0.lock().waited_for.clear(); // drops the operations of opening, and those right after it
    for number in 1..200 {
        pass(&log, number);
    }
    let waited_for = std::mem::take(&mut storage.gate.0.lock().waited_for);
    let mut replaced = 0;
    for batch in waited_for.split_inclusive(|op| matches!(op, Op::Write)).skip(1) {
        match batch {
            [Op::Sync, Op::Write] | [Op::Sync] => {}
            [Op::Sync, Op::Rename, Op::SyncDir, Op::Write] | [Op::Sync, Op::Rename, Op::SyncDir] => replaced += 1,
            other => panic!("waited for {other:?}"),
        }
    }
    assert!(replaced > 5, "{replaced} segments were replaced");
}
