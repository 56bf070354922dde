//! Segments put together from the page on the format (`src/docs/media.md`), with checksums that are
//! right whatever they cover; and what opening must make of any segment.

use std::path::Path;

use ringpact::{
    FileLog, LogError,
    log::{
        MAX_OPENINGS,
        inspect::{Role, inspect_in},
    },
};
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use super::{SIM_DIR, SimStorage, open_sim};

pub const BLOCK: usize = 4096;
const ID: [u8; 16] = *b"0123456789abcdef";
const NUMBER: u64 = 1;

/// A batch, as the writer would state it.
pub struct Forged {
    pub kind: u32,
    pub sequence: u64,
    /// The checksum of the batch before it.
    pub previous: u64,
    pub last: u64,
    pub count: u32,
    pub payload: Vec<u8>,
}

impl Forged {
    /// Returns the batch as a whole number of blocks, and its checksum.
    pub fn bytes(&self) -> (Vec<u8>, u64) {
        let salt = xxh3_64(&[&ID[..], &NUMBER.to_le_bytes()].concat());
        let mut covered = xxh3_64_with_seed(&self.payload, salt).to_le_bytes().to_vec();
        for number in [NUMBER, self.sequence, self.previous, self.last, self.payload.len() as u64] {
            covered.extend(number.to_le_bytes());
        }
        covered.extend(self.count.to_le_bytes());
        covered.extend(self.kind.to_le_bytes());
        let checksum = xxh3_64_with_seed(&covered, salt);
        let mut batch = b"rp-batch".to_vec();
        batch.extend(checksum.to_le_bytes());
        batch.extend(covered);
        batch.extend(&self.payload);
        batch.resize(batch.len().next_multiple_of(BLOCK), 0);
        (batch, checksum)
    }
}

/// Returns the frame of a record.
pub fn frame(number: u64, encoded: &[u8]) -> Vec<u8> {
    let mut frame = (encoded.len() as u32).to_le_bytes().to_vec();
    frame.extend(number.to_le_bytes());
    frame.extend(encoded);
    frame
}

/// Returns a segment of these blocks, with a header that is right.
pub fn segment(mut body: Vec<u8>) -> Vec<u8> {
    body.resize(body.len().next_multiple_of(BLOCK).max(BLOCK), 0);
    let mut header = b"ringpact".to_vec();
    header.extend(1_u32.to_le_bytes());
    header.extend((BLOCK as u32).to_le_bytes());
    header.extend(ID);
    header.extend(NUMBER.to_le_bytes());
    header.extend(((body.len() + BLOCK) as u64).to_le_bytes());
    header.extend(xxh3_64(&header).to_le_bytes());
    header.resize(BLOCK, 0);
    header.extend(body);
    header
}

/// Opens a log that has these bytes as its only segment, whatever they are. Either it is opened,
/// and opening it again finds the same. Or it is refused because of damage, with an offset within
/// the file, and nothing was changed. Inspecting it says the same as opening it.
///
/// # Panics
///
/// If that is not so.
pub fn open_whatever(bytes: Vec<u8>) -> Option<FileLog> {
    let length = bytes.len() as u64;
    let path = Path::new(SIM_DIR).join("segment-0000000000000001.log");
    let storage = SimStorage::with_file(path, bytes);
    let inspected = inspect_in(&storage, SIM_DIR).expect("the storage works");
    let seen = inspected.segments.iter().find(|segment| segment.role == Role::Log).expect("there is one");
    let log = match open_sim(&storage) {
        Ok(log) => log,
        Err(LogError::Damaged { offset, .. }) => {
            assert_eq!(Some(offset), seen.damage.as_ref().map(|damage| damage.offset));
            assert!(offset <= length && storage.ops() == 0, "{offset} of {length}, {} operations", storage.ops());
            return None;
        }
        Err(LogError::UnknownVersion { .. }) => {
            assert!(!inspected.is_sound());
            return None;
        }
        Err(other) => panic!("{other}"),
    };
    assert!(inspected.is_sound(), "{inspected:#?}");
    assert_eq!(log.recovery().records, inspected.records());
    assert_eq!(log.recovery().torn_bytes, seen.torn_bytes);
    // Besides the transactions, only the last openings of each owner are live.
    let facts: usize = inspected.live.iter().map(|live| live.facts.len()).sum();
    assert!(log.recovery().live <= facts + inspected.epochs.len() * MAX_OPENINGS);
    let found = log.recovery().live;
    drop(log);
    let log = open_sim(&storage).expect("what was opened once can be opened again");
    assert_eq!((log.recovery().live, log.recovery().torn_bytes), (found, 0));
    Some(log)
}
