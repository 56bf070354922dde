//! A log that version 1 of the format has written, kept in `tests/golden/log-v1`: every later version must read it. Its
//! files are never made again; [`make`] is how they were made, and what it makes today must look the same.

mod common;

use std::{fs, path::Path};

use common::{commit, name, open_small};
use ringpact::{
    Durability, Epoch, Fact, FileLog, LogId, Record, TransactionLog, TxnId,
    log::inspect::{BatchKind, inspect},
};

fn golden_dir() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/log-v1"))
}

fn txn(sequence: u64) -> TxnId {
    TxnId::new(name("shop"), Epoch::new(2), sequence)
}

fn record(owner: &str, fact: Fact) -> Record {
    Record { owner: name(owner), fact }
}

/// Two lives of a log: what the first leaves is carried over by the second. Each kind of record is live at the end.
fn make(dir: &Path) {
    let log = open_small(dir).unwrap();
    commit(&log, record("shop", Fact::Opened { epoch: Epoch::new(1) })).unwrap();
    commit(&log, record("shop", Fact::Opened { epoch: Epoch::new(2) })).unwrap();
    log.append(record("goods", Fact::Prepared { txn: txn(1), work: b"two apples".to_vec() }), Durability::Lazy)
        .unwrap();
    log.append(record("orders", Fact::Prepared { txn: txn(1), work: vec![] }), Durability::Lazy).unwrap();
    let participants = vec![name("goods"), name("orders")];
    commit(&log, record("shop", Fact::Decided { txn: txn(1), participants })).unwrap();
    log.append(record("goods", Fact::Committed { txn: txn(1), work: None }), Durability::Lazy).unwrap();
    log.close().unwrap();

    let log = open_small(dir).unwrap();
    let work = (0..5_000_u32).map(|byte| byte as u8).collect(); // a batch of two blocks
    commit(&log, record("payments", Fact::Committed { txn: txn(300), work: Some(work) })).unwrap();
    log.append(record("orders", Fact::Prepared { txn: txn(301), work: vec![0xff] }), Durability::Lazy).unwrap();
    log.append(record("orders", Fact::Ended { txn: txn(1) }), Durability::Lazy).unwrap();
    commit(&log, record("orders", Fact::Ended { txn: txn(301) })).unwrap();
    log.close().unwrap();
}

#[test]
fn every_version_reads_what_version_1_has_written() {
    let dir = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(golden_dir()).unwrap().map(Result::unwrap) {
        fs::copy(entry.path(), dir.path().join(entry.file_name())).unwrap();
    }
    let log = FileLog::open(dir.path()).unwrap();
    assert_eq!(log.id(), LogId::from_bytes(GOLDEN_ID));
    assert_eq!(log.durable().number(), 10);
    assert_eq!((log.recovery().records, log.recovery().live, log.recovery().torn_bytes), (9, 5, 0));
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

#[test]
fn what_is_written_today_is_laid_out_as_then() {
    let dir = tempfile::tempdir().unwrap();
    make(dir.path());
    let [golden, today] = [golden_dir(), dir.path()].map(|dir| inspect(dir).unwrap());
    assert!(golden.is_sound() && today.is_sound());
    assert_eq!((golden.live, golden.finished), (today.live, today.finished));
    let rows = |segments: &[ringpact::log::inspect::SegmentReport]| -> Vec<_> {
        let batches = segments.iter().flat_map(|segment| &segment.batches);
        batches.map(|it| (it.offset, it.bytes, it.sequence, it.kind, it.records, it.last.number())).collect()
    };
    let expected = [
        (4096, 4096, 7, BatchKind::Carry, 5, 6),
        (8192, 8192, 8, BatchKind::Records, 1, 7),
        (16384, 4096, 9, BatchKind::Records, 3, 10),
        (20480, 4096, 10, BatchKind::Seal, 0, 10),
    ];
    assert_eq!(rows(&golden.segments), expected);
    assert_eq!(rows(&today.segments), expected);
    // All bytes but the log's random id, and the checksums, which are salted with it, are the same.
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
