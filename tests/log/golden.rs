//! Logs that version 1 of the format has written, kept in `tests/golden/log-v1` and
//! `log-v1-reused`. Every later version must read them. Their files are never made again. [`make`]
//! is how the first was made, and what it makes today must look the same. The second was made by
//! [`make_reused`], on a disk and by threads that influence where its segments end.

use std::{fs, path::Path};

use crate::common::{commit, name, only_segment, open_small};
use ringpact::{
    Epoch, FileLog, LogId, TransactionLog, TxnId,
    log::{
        Durability, Fact, Heuristic, Record,
        inspect::{BatchKind, inspect},
    },
};

fn golden_dir() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/golden/log-v1"))
}

fn reused_dir() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/golden/log-v1-reused"))
}

/// Returns a copy of a golden directory, because opening a log writes to its directory.
fn copy_of(golden: &Path) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(golden).unwrap().map(Result::unwrap) {
        fs::copy(entry.path(), dir.path().join(entry.file_name())).unwrap();
    }
    dir
}

fn txn(sequence: u64) -> TxnId {
    TxnId::new(name("shop"), Epoch::new(2), sequence)
}

fn record(owner: &str, fact: Fact) -> Record {
    Record { owner: name(owner), fact }
}

/// Two lives of a log: what the first leaves is carried over by the second.
fn make(dir: &Path) {
    let log = open_small(dir).unwrap();
    // At the time this was an opening, which the next one replaced. Openings stay now, so this is a
    // record that does not stay.
    commit(&log, record("shop", Fact::Ended { txn: txn(99) })).unwrap();
    commit(&log, record("shop", Fact::Opened { epoch: Epoch::new(2) })).unwrap();
    log.append(record("goods", Fact::Prepared { txn: txn(1), work: b"two apples".to_vec() }), Durability::Lazy)
        .unwrap();
    log.append(record("orders", Fact::Prepared { txn: txn(1), work: vec![] }), Durability::Lazy).unwrap();
    let participants = vec![name("goods"), name("orders")];
    commit(&log, record("shop", Fact::Decided { txn: txn(1), participants })).unwrap();
    log.append(record("goods", Fact::Committed { txn: txn(1), work: None }), Durability::Lazy).unwrap();
    log.close().unwrap();

    let log = open_small(dir).unwrap();
    let work = (0..5_000_u32).map(|byte| byte as u8).collect(); // it makes a batch of two blocks
    commit(&log, record("payments", Fact::Committed { txn: txn(300), work: Some(work) })).unwrap();
    log.append(record("orders", Fact::Prepared { txn: txn(301), work: vec![0xff] }), Durability::Lazy).unwrap();
    log.append(record("orders", Fact::Ended { txn: txn(1) }), Durability::Lazy).unwrap();
    commit(&log, record("orders", Fact::Ended { txn: txn(301) })).unwrap();
    log.close().unwrap();
}

#[test]
fn every_version_reads_what_version_1_has_written() {
    let dir = copy_of(golden_dir());
    let log = FileLog::open(dir.path()).unwrap();
    assert_eq!(log.id(), LogId::from_bytes(GOLDEN_ID));
    assert_eq!(log.durable().as_u64(), 10);
    let recovery = log.recovery();
    assert_eq!((recovery.records, recovery.live, recovery.live_transactions, recovery.torn_bytes), (9, 5, 2, 0));
    let participants = vec![name("goods"), name("orders")];
    assert_eq!(
        log.live(&name("shop")).unwrap(),
        [
            record("shop", Fact::Opened { epoch: Epoch::new(2) }),
            record("shop", Fact::Decided { txn: txn(1), participants })
        ]
    );
    assert_eq!(
        log.live(&name("goods")).unwrap(),
        [
            record("goods", Fact::Prepared { txn: txn(1), work: b"two apples".to_vec() }),
            record("goods", Fact::Committed { txn: txn(1), work: None }),
        ]
    );
    let work = (0..5_000_u32).map(|byte| byte as u8).collect();
    let paid = record("payments", Fact::Committed { txn: txn(300), work: Some(work) });
    assert_eq!(log.live(&name("payments")).unwrap(), [paid]);
    assert_eq!(log.live(&name("orders")).unwrap(), []);
}

/// What is live at the end of [`make_reused`]: each kind of record that can be.
fn stuck() -> Vec<Record> {
    vec![
        record("shop", Fact::Opened { epoch: Epoch::new(2) }),
        record("goods", Fact::Prepared { txn: txn(1), work: b"two apples".to_vec() }),
        record("orders", Fact::Prepared { txn: txn(1), work: vec![] }),
        record("shop", Fact::Decided { txn: txn(1), participants: vec![name("goods"), name("orders")] }),
        record("goods", Fact::Committed { txn: txn(1), work: None }),
        record("payments", Fact::Committed { txn: txn(2), work: Some(vec![0xff; 3]) }),
        record("shop", Fact::Parked { txn: txn(1), participants: vec![name("orders")] }),
        record("shop", Fact::Heuristic { txn: txn(1), participant: name("orders"), outcome: Heuristic::RolledBack }),
    ]
}

/// Passes transactions through the log beside one that is stuck, until it continues in segments
/// that were others before.
fn make_reused(dir: &Path) {
    let log = open_small(dir).unwrap();
    for record in stuck() {
        commit(&log, record).unwrap();
    }
    for sequence in 3..300 {
        commit(&log, record("goods", Fact::Prepared { txn: txn(sequence), work: vec![sequence as u8; 1_500] }))
            .unwrap();
        log.append(record("goods", Fact::Ended { txn: txn(sequence) }), Durability::Lazy).unwrap();
    }
    log.close().unwrap();
}

#[test]
#[ignore = "it made the golden log, and would make another"]
fn make_the_golden_log_of_reused_segments() {
    fs::create_dir(reused_dir()).unwrap();
    make_reused(reused_dir());
}

/// Bytes 56 to 63 of a segment's header say whether leftovers of another segment may follow its
/// batches.
fn has_leftovers(dir: &Path) -> bool {
    fs::read(only_segment(dir)).unwrap()[56..64] != [0; 8]
}

#[test]
fn every_version_reads_segments_that_version_1_has_used_again() {
    assert!(has_leftovers(reused_dir()));
    let dir = copy_of(reused_dir());
    let log = FileLog::open(dir.path()).unwrap();
    assert_eq!((log.recovery().live, log.recovery().live_transactions, log.recovery().torn_bytes), (8, 2, 0));
    for owner in ["shop", "goods", "orders", "payments"].map(name) {
        let expected: Vec<_> = stuck().into_iter().filter(|record| record.owner == owner).collect();
        assert_eq!(log.live(&owner).unwrap(), expected);
    }
    // A log that is made today looks the same.
    let today = tempfile::tempdir().unwrap();
    make_reused(today.path());
    assert!(has_leftovers(today.path()) && inspect(today.path()).unwrap().is_sound());
    assert_eq!(inspect(today.path()).unwrap().live, inspect(reused_dir()).unwrap().live);
}

#[test]
fn what_is_written_today_is_laid_out_as_then() {
    let dir = tempfile::tempdir().unwrap();
    make(dir.path());
    let [golden, today] = [golden_dir(), dir.path()].map(|dir| inspect(dir).unwrap());
    assert!(golden.is_sound() && today.is_sound());
    assert_eq!((golden.live, golden.finished), (today.live, today.finished));
    let rows = |segments: &[ringpact::log::inspect::SegmentReport]| -> Vec<_> {
        let batches = segments.iter().flat_map(|segment| &segment.batches);
        batches.map(|it| (it.offset, it.bytes, it.sequence, it.kind, it.records, it.last.as_u64())).collect()
    };
    let expected = [
        (4096, 4096, 7, BatchKind::Carry, 5, 6),
        (8192, 8192, 8, BatchKind::Records, 1, 7),
        (16384, 4096, 9, BatchKind::Records, 3, 10),
        (20480, 4096, 10, BatchKind::Seal, 0, 10),
    ];
    assert_eq!(rows(&golden.segments), expected);
    assert_eq!(rows(&today.segments), expected);
    // All bytes are the same but the log's random id and the checksums, which are salted with it.
    let file = "segment-0000000000000002.log";
    let [golden, today] = [golden_dir(), dir.path()].map(|dir| fs::read(dir.join(file)).unwrap());
    assert_eq!(golden.len(), today.len());
    let differ: Vec<usize> = (0..golden.len()).filter(|at| golden[*at] != today[*at]).collect();
    for at in differ {
        let in_block = at % 4096;
        let random = if at < 4096 {
            (16..32).contains(&in_block) || (48..56).contains(&in_block)
        } else {
            (8..24).contains(&in_block) || (40..48).contains(&in_block)
        };
        assert!(random, "byte {at} was {:#04x} in version 1 and is {:#04x} now", golden[at], today[at]);
    }
}

/// Drawn when the golden log was made.
const GOLDEN_ID: [u8; 16] =
    [0x8e, 0x04, 0x06, 0x20, 0xcf, 0xef, 0x79, 0xe3, 0xc1, 0xdb, 0x3d, 0x97, 0x81, 0x45, 0xd4, 0x7b];
