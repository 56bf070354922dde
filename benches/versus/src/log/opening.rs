//! How long opening a log takes, beside one sequential read of the same bytes with one checksum pass over them.

use std::{
    fs::{self, File},
    io::{self, Read},
    path::{Path, PathBuf},
    time::Instant,
};

use ringpact::{Durability, Epoch, Fact, FileLog, Name, Record, TransactionLog, TxnId};
use xxhash_rust::xxh3::Xxh3;

use super::{RECORD_BYTES, failed, fresh_dir};
use crate::report::Report;

/// What the transactions that have not ended are.
const LIVE: u64 = 1_000;
const CHUNK: usize = 1 << 20;

/// What two records, a promise and its end, take with their frames; a little more than that.
const PAIR_BYTES: u64 = 192;

/// Measures logs of so many records, all of transactions that have ended but for [`LIVE`].
pub fn measure(report: &mut Report, rounds: usize, records: u64) -> io::Result<()> {
    let made = fresh_dir()?;
    let segment = make(&made.path().join("log"), records)?;
    let (mut reads, mut opens) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        let copy = fresh_dir()?;
        let segment_copy = copy.path().join(segment.file_name().unwrap_or_default());
        fs::copy(&segment, &segment_copy)?;
        File::open(&segment_copy)?.sync_all()?;
        reads.push(read(&segment_copy)?);
        let begun = Instant::now();
        let log = FileLog::open(copy.path()).map_err(failed)?;
        opens.push(begun.elapsed().as_secs_f64() * 1e3);
        assert!(log.recovery().records >= records && log.recovery().live as u64 == LIVE, "{:?}", log.recovery());
    }
    let ratios = opens.iter().zip(&reads).map(|(open, read)| open / read).collect();
    let size = records as usize;
    report.add(("open_ms", size, "one read and checksum"), "ms", false, reads);
    report.add(("open_ms", size, "ringpact"), "ms", false, opens);
    report.add(("open_ratio", size, "ringpact"), "ratio", false, ratios);
    Ok(())
}

/// Makes a log with all these records in one segment, and gives that.
fn make(dir: &Path, records: u64) -> io::Result<PathBuf> {
    let log = FileLog::options().segment_bytes(records / 2 * PAIR_BYTES + (8 << 20)).open(dir).map_err(failed)?;
    let owner = Name::new("goods").map_err(failed)?;
    let append = |fact| log.append(Record { owner: owner.clone(), fact }, Durability::Lazy).map_err(failed);
    let promise = |number| {
        let txn = TxnId::new(owner.clone(), Epoch::new(1), number);
        (txn.clone(), Fact::Prepared { txn, work: vec![7; RECORD_BYTES - super::ringpact::AROUND_WORK] })
    };
    // The first segment after opening may be a small one: fill it, so that all that counts is in the next.
    let mut passing = records * 2;
    while newest(dir)?.metadata()?.len() < records / 2 * PAIR_BYTES {
        passing += 1;
        let (txn, promised) = promise(passing);
        append(promised)?;
        log.wait(append(Fact::Ended { txn })?).map_err(failed)?;
    }
    for number in 1..=(records + LIVE) / 2 {
        append(promise(number).1)?;
    }
    for number in LIVE + 1..=(records + LIVE) / 2 {
        append(Fact::Ended { txn: promise(number).0 })?;
    }
    log.close().map_err(failed)?;
    newest(dir)
}

fn newest(dir: &Path) -> io::Result<PathBuf> {
    let paths = fs::read_dir(dir)?.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<_>>>()?;
    let segments = paths.into_iter().filter(|path| path.extension().is_some_and(|extension| extension == "log"));
    segments.max().ok_or_else(|| io::Error::other("no segment"))
}

/// Milliseconds of one sequential read with one checksum pass.
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
