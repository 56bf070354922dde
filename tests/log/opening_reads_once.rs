//! Opening a log reads its bytes once, whatever they are, and writes little. So it takes about as
//! long as reading them.

use std::{
    fs, io,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use crate::common::{commit, ended, live_numbers, only_segment, prepared};
use ringpact::{
    FileLog, TransactionLog,
    log::{
        Durability,
        options::OPENING_SEGMENT_BYTES,
        storage::{Disk, LockGuard, Storage, StorageFile},
    },
};

/// The disk, with a count of what is read, what is written, and the most that is read at once.
#[derive(Clone, Debug, Default)]
struct Counting {
    read: Arc<AtomicU64>,
    written: Arc<AtomicU64>,
    most_at_once: Arc<AtomicU64>,
}

struct CountedFile(Box<dyn StorageFile>, Counting);

impl Storage for Counting {
    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        Disk.create_dir(dir)
    }
    fn lock(&self, path: &Path) -> io::Result<Option<Box<dyn LockGuard>>> {
        Disk.lock(path)
    }
    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        Disk.list(dir)
    }
    fn open(&self, path: &Path) -> io::Result<Box<dyn StorageFile>> {
        Ok(Box::new(CountedFile(Disk.open(path)?, self.clone())))
    }
    fn create(&self, path: &Path) -> io::Result<Box<dyn StorageFile>> {
        Ok(Box::new(CountedFile(Disk.create(path)?, self.clone())))
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        Disk.rename(from, to)
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        Disk.remove(path)
    }
    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        Disk.sync_dir(dir)
    }
}

impl StorageFile for CountedFile {
    fn length(&mut self) -> io::Result<u64> {
        self.0.length()
    }
    fn read_at(&mut self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.1.read.fetch_add(buffer.len() as u64, Ordering::Relaxed);
        self.1.most_at_once.fetch_max(buffer.len() as u64, Ordering::Relaxed);
        self.0.read_at(offset, buffer)
    }
    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.1.written.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        self.0.write_at(offset, bytes)
    }
    fn sync(&mut self) -> io::Result<()> {
        self.0.sync()
    }
}

const SEGMENT_BYTES: u64 = 24 << 20;
const LIVE: u64 = 1_000;

/// Returns the size of the newest segment; the one before it may still be there.
fn newest_bytes(dir: &Path) -> u64 {
    let paths = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let newest = paths.filter(|path| path.extension().is_some_and(|extension| extension == "log")).max();
    newest.expect("there is always one").metadata().unwrap().len()
}

/// Makes a log of 100,000 records in one segment, all ended but [`LIVE`].
fn long_log(dir: &Path) {
    let log = FileLog::options().segment_bytes(SEGMENT_BYTES).open(dir).unwrap();
    let mut passing = 1_000_000;
    while newest_bytes(dir) < SEGMENT_BYTES {
        passing += 1;
        commit(&log, prepared(passing, 100_000)).unwrap();
        log.append(ended(passing), Durability::Lazy).unwrap();
    }
    for number in 1..=50_000 + LIVE / 2 {
        log.append(prepared(number, 100), Durability::Lazy).unwrap();
        if number > LIVE {
            log.append(ended(number), Durability::Lazy).unwrap();
        }
    }
    log.close().unwrap();
}

#[test]
fn a_long_log_is_read_once_and_little_is_written() {
    let dir = tempfile::tempdir().unwrap();
    long_log(dir.path());
    let length = only_segment(dir.path()).metadata().unwrap().len();
    assert_eq!(length, SEGMENT_BYTES);
    let counting = Counting::default();
    let log = FileLog::options().segment_bytes(0).storage(counting.clone()).open(dir.path()).unwrap();
    let (read, written) = (counting.read.load(Ordering::Relaxed), counting.written.load(Ordering::Relaxed));
    assert!(log.recovery().records >= 100_000, "{:?}", log.recovery());
    assert_eq!(live_numbers(&log), (1..=LIVE).collect::<Vec<_>>());
    // The header's block is looked at before the rest is read, and the file that remembers the log
    // has two blocks.
    assert!(read <= length + 3 * 4096, "{read} bytes read of {length}");
    assert!(written < 2 * OPENING_SEGMENT_BYTES, "{written} bytes written for {} live records", LIVE);
    let most = counting.most_at_once.load(Ordering::Relaxed);
    assert!(most <= 8 << 20, "{most} bytes read at once: opening must not need the segment's size in memory");
}

/// With large segments configured, opening still writes a small one. The large one comes later and
/// in the background.
#[test]
fn large_segments_do_not_make_opening_slow() {
    let dir = tempfile::tempdir().unwrap();
    let log = FileLog::options().segment_bytes(SEGMENT_BYTES).open(dir.path()).unwrap();
    assert_eq!(only_segment(dir.path()).metadata().unwrap().len(), OPENING_SEGMENT_BYTES);
    commit(&log, prepared(1, 10)).unwrap();
    log.close().unwrap();
    assert_eq!(live_numbers(&FileLog::open(dir.path()).unwrap()), [1]);
}
