//! How long opening a log takes, beside one sequential read of the same bytes with one checksum
//! pass over them.

use std::{
    collections::VecDeque,
    fs::{self, File},
    io::{self, Read},
    path::{Path, PathBuf},
    time::Instant,
};

use ringpact::{
    Epoch, FileLog, Name, TransactionLog, TxnId,
    log::{Durability, Fact, Lsn, Record},
};
use xxhash_rust::xxh3::Xxh3;

use super::{RECORD_BYTES, failed, fresh_dir};
use crate::report::Report;

/// Number of transactions that have not ended.
const LIVE: u64 = 1_000;
/// Number of other transactions that are under way at a time.
const AT_A_TIME: usize = 256;
const CHUNK: usize = 1 << 20;

/// Bytes that two records, a promise and its end, take with their frames, rounded up.
const PAIR_BYTES: u64 = 192;

/// Measures logs of this number of records. All transactions have ended, except for [`LIVE`].
pub fn measure(report: &mut Report, rounds: usize, records: u64) -> io::Result<()> {
    let made = fresh_dir()?;
    let segment = make(&made.path().join("log"), records)?;
    for (open_ms, open_ratio, cache) in
        [("open_ms", "open_ratio", Cache::Cold), ("open_cached_ms", "open_cached_ratio", Cache::Warm)]
    {
        let (mut reads, mut opens) = (Vec::new(), Vec::new());
        for _ in 0..rounds {
            let copy = fresh_dir()?;
            let segment_copy = copy.path().join(segment.file_name().unwrap_or_default());
            fs::copy(&segment, &segment_copy)?;
            cache.prepare(&segment_copy)?;
            reads.push(read(&segment_copy)?);
            cache.prepare(&segment_copy)?;
            let begun = Instant::now();
            let log = FileLog::open(copy.path()).map_err(failed)?;
            opens.push(begun.elapsed().as_secs_f64() * 1e3);
            assert!(log.recovery().records >= records && log.recovery().live as u64 == LIVE, "{:?}", log.recovery());
        }
        let ratios = opens.iter().zip(&reads).map(|(open, read)| open / read).collect();
        let size = records as usize;
        report.add((open_ms, size, "one read and checksum"), "ms", false, reads);
        report.add((open_ms, size, "ringpact"), "ms", false, opens);
        report.add((open_ratio, size, "ringpact"), "ratio", false, ratios);
    }
    Ok(())
}

/// Where the bytes are before they are read.
#[derive(Clone, Copy)]
enum Cache {
    /// On the disk, as after a crash of the machine. (Only Linux is asked to drop its cache.)
    Cold,
    /// In the system's cache, as after a crash of the process.
    Warm,
}

impl Cache {
    fn prepare(self, path: &Path) -> io::Result<()> {
        let file = File::open(path)?;
        file.sync_all()?;
        match self {
            #[cfg(target_os = "linux")]
            Self::Cold => Ok(rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed)?),
            _ => Ok(()),
        }
    }
}

/// Makes a log with all these records in one segment, and returns that segment.
fn make(dir: &Path, records: u64) -> io::Result<PathBuf> {
    let log = FileLog::options().segment_bytes(records / 2 * PAIR_BYTES + (8 << 20)).open(dir).map_err(failed)?;
    let owner = Name::new("goods").map_err(failed)?;
    let append = |fact| log.append(Record { owner: owner.clone(), fact }, Durability::Lazy).map_err(failed);
    let promise = |number| {
        let txn = TxnId::new(owner.clone(), Epoch::new(1), number);
        (txn.clone(), Fact::Prepared { txn, work: vec![7; RECORD_BYTES - super::ringpact::AROUND_WORK] })
    };
    let end = |under_way: &mut VecDeque<u64>| {
        under_way.pop_front().map_or(Ok(Lsn::NONE), |number| append(Fact::Ended { txn: promise(number).0 }))
    };
    // The first segment after opening may be small: fill it, so that all that counts is in the next
    // one.
    let mut passing = records * 2;
    while newest(dir)?.metadata()?.len() < records / 2 * PAIR_BYTES {
        passing += 1;
        let (txn, promised) = promise(passing);
        append(promised)?;
        log.wait(append(Fact::Ended { txn })?).map_err(failed)?;
    }
    // Transactions overlap, as in real programs, and some of them are stuck.
    let transactions = (records + LIVE) / 2;
    let mut under_way = VecDeque::new();
    for number in 1..=transactions {
        append(promise(number).1)?;
        if number % (transactions / LIVE) != 0 || number / (transactions / LIVE) > LIVE {
            under_way.push_back(number);
        }
        if under_way.len() > AT_A_TIME {
            end(&mut under_way)?;
        }
    }
    while !under_way.is_empty() {
        end(&mut under_way)?;
    }
    log.close().map_err(failed)?;
    newest(dir)
}

fn newest(dir: &Path) -> io::Result<PathBuf> {
    let paths = fs::read_dir(dir)?.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<_>>>()?;
    let segments = paths.into_iter().filter(|path| path.extension().is_some_and(|extension| extension == "log"));
    segments.max().ok_or_else(|| io::Error::other("no segment"))
}

/// Returns the milliseconds of one sequential read with one checksum pass.
fn read(path: &Path) -> io::Result<f64> {
    let begun = Instant::now();
    let (mut file, mut buffer, mut checksum) = (File::open(path)?, vec![0; CHUNK], Xxh3::new());
    loop {
        let length = file.read(&mut buffer)?;
        if length == 0 {
            break;
        }
        checksum.update(&buffer[..length]);
    }
    std::hint::black_box(checksum.digest());
    Ok(begun.elapsed().as_secs_f64() * 1e3)
}
