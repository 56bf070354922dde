//! The format is what `src/docs/media.md` says, and stays so. A segment put together here from that
//! page alone, without the library's code, is read; and what the library writes is, byte for byte,
//! what the page says.

use std::fs;

use crate::common::{commit, dir_with_segment, live_numbers, name, only_segment, open_small, prepared};
use ringpact::{
    Epoch, LogError, LogId, TransactionLog, TxnId,
    log::{Fact, Heuristic, Record},
};
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

const BLOCK: usize = 4096;
const SEGMENT: usize = 65536;
const ID: [u8; 16] = *b"0123456789abcdef";
const NAME: &str = "segment-0000000000000005.log";

fn header(version: u32) -> Vec<u8> {
    let mut block = b"ringpact".to_vec();
    block.extend(version.to_le_bytes());
    block.extend(4096_u32.to_le_bytes());
    block.extend(ID);
    block.extend(5_u64.to_le_bytes());
    block.extend((SEGMENT as u64).to_le_bytes());
    block.extend(xxh3_64(&block).to_le_bytes());
    block.resize(BLOCK, 0);
    block
}

fn batch(kind: u32, sequence: u64, previous: &[u8], last: u64, records: &[(u64, &[u8])]) -> Vec<u8> {
    let salt = xxh3_64(&[&ID[..], &5_u64.to_le_bytes()].concat());
    let mut payload = Vec::new();
    for (number, record) in records {
        payload.extend((record.len() as u32).to_le_bytes());
        payload.extend(number.to_le_bytes());
        payload.extend(*record);
    }
    let mut covered = xxh3_64_with_seed(&payload, salt).to_le_bytes().to_vec();
    covered.extend(5_u64.to_le_bytes());
    covered.extend(sequence.to_le_bytes());
    covered.extend(previous);
    covered.extend(last.to_le_bytes());
    covered.extend((payload.len() as u64).to_le_bytes());
    covered.extend((records.len() as u32).to_le_bytes());
    covered.extend(kind.to_le_bytes());
    let mut batch = b"rp-batch".to_vec();
    batch.extend(xxh3_64_with_seed(&covered, salt).to_le_bytes());
    batch.extend(covered);
    batch.extend(payload);
    batch.resize(batch.len().next_multiple_of(BLOCK), 0);
    batch
}

/// One record of each kind: its bytes, and what they mean.
fn golden() -> Vec<(&'static [u8], Record)> {
    let record = |owner, fact| Record { owner: name(owner), fact };
    let txn = |sequence| TxnId::new(name("shop"), Epoch::new(3), sequence);
    vec![
        (b"\x04shop\x00\x03", record("shop", Fact::Opened { epoch: Epoch::new(3) })),
        (
            b"\x04shop\x01\x04shop\x03\x07\x02\x05goods\x06orders",
            record("shop", Fact::Decided { txn: txn(7), participants: vec![name("goods"), name("orders")] }),
        ),
        (
            b"\x05goods\x02\x04shop\x03\x07\x02\xaa\xbb",
            record("goods", Fact::Prepared { txn: txn(7), work: vec![0xaa, 0xbb] }),
        ),
        (b"\x05goods\x03\x04shop\x03\x07\x00", record("goods", Fact::Committed { txn: txn(7), work: None })),
        (
            b"\x05goods\x03\x04shop\x03\x08\x01\x01\xcc",
            record("goods", Fact::Committed { txn: txn(8), work: Some(vec![0xcc]) }),
        ),
        (b"\x06orders\x02\x04shop\x03\xac\x02\x00", record("orders", Fact::Prepared { txn: txn(300), work: vec![] })),
        (b"\x06orders\x04\x04shop\x03\xac\x02", record("orders", Fact::Ended { txn: txn(300) })),
        (
            b"\x04shop\x05\x04shop\x03\x07\x01\x06orders",
            record("shop", Fact::Parked { txn: txn(7), participants: vec![name("orders")] }),
        ),
        (
            b"\x04shop\x06\x04shop\x03\x07\x05goods\x03",
            record("shop", Fact::Heuristic { txn: txn(7), participant: name("goods"), outcome: Heuristic::Hazard }),
        ),
        (
            b"\x05goods\x07\x04shop\x03\x09ABCDEFGHIJKLMNOP\x05\xac\x02",
            record(
                "goods",
                Fact::Heard {
                    txn: txn(9),
                    log: LogId::from_bytes(*b"ABCDEFGHIJKLMNOP"),
                    epoch: Epoch::new(5),
                    position: 300,
                },
            ),
        ),
    ]
}

fn golden_segment() -> Vec<u8> {
    let golden = golden();
    let encoded: Vec<&[u8]> = golden.iter().map(|(bytes, _)| *bytes).collect();
    let carry = batch(2, 40, &[0; 8], 90, &[(17, encoded[0]), (80, encoded[1])]);
    let numbered: Vec<_> = (91..).zip(encoded[2..].iter().copied()).collect();
    let records = batch(1, 41, &carry[8..16], 98, &numbered);
    let seal = batch(3, 42, &records[8..16], 98, &[]);
    let mut segment = [header(1), carry, records, seal].concat();
    segment.resize(SEGMENT, 0);
    segment
}

#[test]
fn a_segment_made_by_the_page_is_read() {
    let dir = dir_with_segment(NAME.as_ref(), &golden_segment());
    let log = open_small(dir.path()).unwrap();
    assert_eq!(log.id(), LogId::from_bytes(ID));
    let of = |owner| -> Vec<Record> {
        golden().into_iter().map(|(_, record)| record).filter(|r| r.owner == name(owner)).collect()
    };
    assert_eq!(log.live(&name("shop")).unwrap(), of("shop"));
    assert_eq!(log.live(&name("goods")).unwrap(), of("goods"));
    assert_eq!(log.live(&name("orders")).unwrap(), []);
    assert_eq!(log.durable().as_u64(), 98);
    assert_eq!(log.recovery().records, 10);
    assert_eq!(commit(&log, prepared(1, 1)).unwrap().as_u64(), 99);
}

#[test]
fn what_is_written_is_what_the_page_says() {
    let dir = dir_with_segment(NAME.as_ref(), &golden_segment());
    let log = open_small(dir.path()).unwrap();
    log.close().unwrap();
    // Opening continued with segment 6. Its carried records are the golden ones that are live.
    let written = fs::read(only_segment(dir.path())).unwrap();
    assert_eq!(written.len(), SEGMENT);
    assert_eq!(written[..8], *b"ringpact");
    assert_eq!(written[32..40], 6_u64.to_le_bytes());
    let batch = &written[BLOCK..2 * BLOCK];
    assert_eq!(batch[..8], *b"rp-batch");
    assert_eq!(batch[32..40], 43_u64.to_le_bytes(), "sequence");
    assert_eq!(batch[48..56], 98_u64.to_le_bytes(), "last record");
    assert_eq!(batch[64..72], [8, 0, 0, 0, 2, 0, 0, 0], "count and kind");
    let mut expected = Vec::new();
    let live = golden().into_iter().filter(|(_, record)| record.owner != name("orders"));
    for (number, (bytes, _)) in [17_u64, 80, 91, 92, 93, 96, 97, 98].into_iter().zip(live) {
        expected.extend((bytes.len() as u32).to_le_bytes());
        expected.extend(number.to_le_bytes());
        expected.extend(bytes);
    }
    assert_eq!(batch[72..72 + expected.len()], expected);
    assert!(written[2 * BLOCK..].iter().all(|byte| *byte == 0), "sealed by being the first batch");
}

#[test]
fn an_unknown_version_is_refused_by_its_name() {
    let mut segment = golden_segment();
    segment[..BLOCK].copy_from_slice(&header(2));
    let dir = dir_with_segment(NAME.as_ref(), &segment);
    let error = open_small(dir.path()).unwrap_err();
    assert!(matches!(error, LogError::UnknownVersion { version: 2, supported: 1, .. }), "{error}");
}

/// Bytes that are made up, but consistent in themselves, lead to an error, not a panic.
#[test]
fn batches_that_do_not_fit_together_are_refused() {
    let record = golden()[2].0;
    let carry = batch(2, 40, &[0; 8], 90, &[(17, record)]);
    let next = |kind, sequence, last, records: &[(u64, &[u8])]| batch(kind, sequence, &carry[8..16], last, records);
    let huge: &[u8] = b"\x05goods\x02\x04shop\x03\x07\xff\xff\xff\xff\x0f"; // it states 4 GiB of work
    for (what, second) in [
        ("a sequence number left out", next(1, 42, 91, &[(91, record)])),
        ("another batch before it", batch(1, 41, &[1; 8], 91, &[(91, record)])),
        ("a record's number left out", next(1, 41, 92, &[(92, record)])),
        ("a record too few", next(1, 41, 92, &[(91, record)])),
        ("a second carry", next(2, 41, 90, &[(17, record)])),
        ("a seal with records", next(3, 41, 91, &[(91, record)])),
        ("a record that is none", next(1, 41, 91, &[(91, b"\xff\xff")])),
        ("a record with bytes after it", next(1, 41, 91, &[(91, b"\x04shop\x00\x03\x00")])),
        ("a record of stated size only", next(1, 41, 91, &[(91, huge)])),
    ] {
        let mut segment = [header(1), carry.clone(), second].concat();
        segment.resize(SEGMENT, 0);
        let dir = dir_with_segment(NAME.as_ref(), &segment);
        let opened = open_small(dir.path());
        assert!(matches!(opened, Err(LogError::Damaged { offset: 8192, .. })), "{what}: {opened:?}");
    }
    let dir = dir_with_segment(NAME.as_ref(), &[header(1), carry].concat());
    assert!(matches!(open_small(dir.path()), Err(LogError::Damaged { .. })));
    assert!(live_numbers(&open_small(tempfile::tempdir().unwrap().path()).unwrap()).is_empty());
}

/// The file that remembers the log, put together from the page alone.
fn identity(log: [u8; 16], segment: u64, place: u64, end: Option<[u64; 3]>) -> Vec<u8> {
    let mut file = b"rp-ident".to_vec();
    file.extend(1_u32.to_le_bytes());
    file.extend([0; 4]);
    file.extend(log);
    file.extend(segment.to_le_bytes());
    file.extend(place.to_le_bytes());
    file.extend(xxh3_64(&file).to_le_bytes());
    file.resize(BLOCK, 0);
    if let Some(numbers) = end {
        let mut block = b"rp-close".to_vec();
        numbers.iter().for_each(|number| block.extend(number.to_le_bytes()));
        block.extend(xxh3_64_with_seed(&block, xxh3_64(&log)).to_le_bytes());
        file.extend(block);
    }
    file.resize(2 * BLOCK, 0);
    file
}

#[test]
#[cfg(unix)]
fn what_remembers_the_log_is_as_the_page_says() {
    use std::os::unix::fs::MetadataExt;
    let dir = tempfile::tempdir().unwrap();
    let read = || fs::read(dir.path().join("log-identity")).unwrap();
    open_small(dir.path()).unwrap().close().unwrap();
    let log = open_small(dir.path()).unwrap();
    let (id, place) = (log.id().to_bytes(), fs::metadata(dir.path().join("lock")).unwrap().ino());
    assert_eq!(read(), identity(id, 2, place, None));
    commit(&log, prepared(1, 10)).unwrap();
    log.close().unwrap();
    // Two batches that carry nothing, one batch of one record, and its seal.
    assert_eq!(read(), identity(id, 2, place, Some([2, 4, 1])));
    // A file system that numbers nothing is as good.
    fs::write(dir.path().join("log-identity"), identity(id, 2, 0, Some([2, 4, 1]))).unwrap();
    let log = open_small(dir.path()).unwrap();
    assert!(!log.recovery().copied);
    assert_eq!(live_numbers(&log), [1]);
    log.close().unwrap();
    // A note that says that there was more is believed.
    fs::write(dir.path().join("log-identity"), identity(id, 3, 0, Some([3, 6, 2]))).unwrap();
    let error = open_small(dir.path()).unwrap_err();
    assert!(matches!(error, LogError::Damaged { .. }) && error.to_string().contains("closed"), "{error}");
    fs::write(dir.path().join("log-identity"), identity(id, 9, 0, None)).unwrap();
    let error = open_small(dir.path()).unwrap_err();
    assert!(matches!(error, LogError::SegmentsLost { segment: 9, .. }), "{error}");
}
