//! Reads of an encoded record what the fold needs, and decodes nothing: its owner, its transaction,
//! what it does to the live records, and whether the bytes are a record at all.
//!
//! The log folds every record it takes, at a million a second, and reads millions when it is
//! opened. To decode each into a [`Record`](super::Record) would allocate two names and the work,
//! only to drop them. What the fold needs is at the front of the encoding, so it is read there. The
//! tests compare this with what postcard makes of the same bytes.

use super::Effect;
use crate::id::{MAX_NAME_BYTES, may_be_in_name};

/// Where in an encoded record its key lies. The key is the owner's name and, behind the one byte
/// for the kind, the transaction. Records with equal keys have the same owner and are about the
/// same transaction, or are both of the kind that is about none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::log) struct RecordKey {
    pub(in crate::log) effect: Effect,
    /// Offset of the byte for the kind. The owner's name, with its length, lies before it.
    tag: u8,
    /// Offset at which the transaction's id ends.
    end: u8,
}

// A name's length takes one byte, a number at most ten.
const _: () = assert!(MAX_NAME_BYTES < 0x80 && 2 * (1 + MAX_NAME_BYTES) + 1 + 2 * LONGEST_VARINT <= u8::MAX as usize);

const LONGEST_VARINT: usize = 10;

const LOG_ID_BYTES: usize = 16;

impl RecordKey {
    /// Returns the two parts of the key: the owner, and the transaction.
    pub(in crate::log) fn parts(self, encoded: &[u8]) -> (&[u8], &[u8]) {
        (&encoded[..self.tag.into()], &encoded[usize::from(self.tag) + 1..self.end.into()])
    }
}

/// Reads the key of a record. Returns `None` if the bytes encode no record, or not in the one way
/// in which this crate encodes it.
pub(in crate::log) fn read(encoded: &[u8]) -> Option<RecordKey> {
    let mut rest = encoded;
    let key = key::<true>(encoded, &mut rest)?;
    match encoded[usize::from(key.tag)] {
        1 | 5 => {
            for _ in 0..number(&mut rest)? {
                name::<true>(&mut rest)?;
            }
        }
        2 => work(&mut rest)?,
        7 => {
            rest = rest.split_at_checked(LOG_ID_BYTES)?.1;
            number(&mut rest)?;
            number(&mut rest)?;
        }
        3 => match byte(&mut rest)? {
            0 => {}
            1 => work(&mut rest)?,
            _ => return None,
        },
        6 => {
            name::<true>(&mut rest)?;
            let outcomes = 0..4;
            outcomes.contains(&byte(&mut rest)?).then_some(())?;
        }
        _ => {}
    }
    rest.is_empty().then_some(key)
}

/// Reads the key of a record that this process has encoded. Nothing needs to be checked, nor looked
/// at behind the key.
pub(in crate::log) fn read_own(encoded: &[u8]) -> Option<RecordKey> {
    key::<false>(encoded, &mut &*encoded)
}

#[inline]
fn key<const CHECK: bool>(encoded: &[u8], rest: &mut &[u8]) -> Option<RecordKey> {
    name::<CHECK>(rest)?;
    let tag = encoded.len() - rest.len();
    let effect = match byte(rest)? {
        0 => Effect::Opens,
        1..=3 | 5..=7 => Effect::Adds,
        4 => Effect::Ends,
        _ => return None,
    };
    if effect == Effect::Opens {
        number(rest)?;
        // The epoch is not part of the key: all openings of an owner are counted together.
        return Some(RecordKey { effect, tag: tag as u8, end: tag as u8 + 1 });
    }
    name::<CHECK>(rest)?;
    skip_number::<CHECK>(rest)?;
    skip_number::<CHECK>(rest)?;
    Some(RecordKey { effect, tag: tag as u8, end: (encoded.len() - rest.len()) as u8 })
}

#[inline]
fn byte(rest: &mut &[u8]) -> Option<u8> {
    let (first, behind) = rest.split_first()?;
    *rest = behind;
    Some(*first)
}

#[inline]
fn name<const CHECK: bool>(rest: &mut &[u8]) -> Option<()> {
    /// Which bytes a name may hold. It is a table because it is asked some ten times for each
    /// record.
    const ALLOWED: [bool; 256] = {
        let (mut allowed, mut byte) = ([false; 256], 0);
        while byte < allowed.len() {
            allowed[byte] = may_be_in_name(byte as u8);
            byte += 1;
        }
        allowed
    };
    let length = usize::from(byte(rest)?);
    if length == 0 || length > MAX_NAME_BYTES {
        return None;
    }
    let (name, behind) = rest.split_at_checked(length)?;
    *rest = behind;
    (!CHECK || name.iter().fold(true, |all, byte| all & ALLOWED[usize::from(*byte)])).then_some(())
}

/// Reads a number in postcard's encoding: seven bits in each byte, lowest first, as few bytes as
/// possible.
#[inline]
fn number(rest: &mut &[u8]) -> Option<u64> {
    match rest.split_first() {
        Some((&first, behind)) if first < 0x80 => {
            *rest = behind;
            Some(u64::from(first))
        }
        _ => long_number(rest),
    }
}

/// Skips a number. For one that this process has encoded, it is enough to find its end.
#[inline]
fn skip_number<const CHECK: bool>(rest: &mut &[u8]) -> Option<()> {
    if CHECK {
        return number(rest).map(drop);
    }
    let last = rest.iter().position(|byte| *byte < 0x80)?;
    *rest = &rest[last + 1..];
    Some(())
}

fn long_number(rest: &mut &[u8]) -> Option<u64> {
    let mut number = 0;
    for (at, &byte) in rest.iter().enumerate().take(LONGEST_VARINT) {
        if at == LONGEST_VARINT - 1 && byte > 1 {
            return None; // more than 64 bits
        }
        number |= u64::from(byte & 0x7f) << (7 * at);
        if byte < 0x80 {
            *rest = &rest[at + 1..];
            return (byte != 0 || at == 0).then_some(number);
        }
    }
    None
}

#[inline]
fn work(rest: &mut &[u8]) -> Option<()> {
    let length = usize::try_from(number(rest)?).ok()?;
    *rest = rest.split_at_checked(length)?.1;
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        id::{Epoch, Name, TxnId},
        log::{Fact, Heuristic, LogId, Record},
    };

    fn random_name(random: &mut fastrand::Rng) -> Name {
        let length = if random.u8(..10) == 0 { MAX_NAME_BYTES } else { random.usize(1..12) };
        Name::new(&(0..length).map(|_| random.alphanumeric()).collect::<String>()).expect("a valid name")
    }

    fn random_number(random: &mut fastrand::Rng) -> u64 {
        random.u64(..) >> random.u32(..64)
    }

    fn random_record(random: &mut fastrand::Rng) -> Record {
        let owner = random_name(random);
        let txn = TxnId::new(random_name(random), Epoch::new(random_number(random)), random_number(random));
        let work: Vec<u8> = (0..random.usize(..300)).map(|_| random.u8(..)).collect();
        let names = |random: &mut fastrand::Rng| (0..random.usize(..200)).map(|_| random_name(random)).collect();
        let outcomes = [Heuristic::Committed, Heuristic::RolledBack, Heuristic::Mixed, Heuristic::Hazard];
        let (log, position) = (LogId::from_bytes(random.u128(..).to_le_bytes()), random_number(random));
        let fact = match random.u8(..9) {
            0 => Fact::Opened { epoch: Epoch::new(random_number(random)) },
            1 => Fact::Decided { txn, participants: names(random) },
            2 => Fact::Prepared { txn, work },
            3 => Fact::Committed { txn, work: Some(work) },
            4 => Fact::Committed { txn, work: None },
            5 => Fact::Parked { txn, participants: names(random) },
            6 => {
                let outcome = outcomes[random.usize(..outcomes.len())];
                Fact::Heuristic { txn, participant: random_name(random), outcome }
            }
            7 => Fact::Heard { epoch: txn.epoch(), txn, log, position },
            _ => Fact::Ended { txn },
        };
        // A new kind must be added here, and in `read`.
        match fact {
            Fact::Opened { .. } | Fact::Decided { .. } | Fact::Prepared { .. } | Fact::Committed { .. } => {}
            Fact::Ended { .. } | Fact::Parked { .. } | Fact::Heuristic { .. } | Fact::Heard { .. } => {}
        }
        Record { owner, fact }
    }

    fn encode(record: &Record) -> Vec<u8> {
        let mut encoded = Vec::new();
        record.encode_into(&mut encoded);
        encoded
    }

    fn check(record: &Record, key: RecordKey, encoded: &[u8]) {
        let (owner, txn) = key.parts(encoded);
        assert_eq!(owner[1..], *record.owner.as_str().as_bytes());
        let about = record.fact.txn().map(|txn| postcard::to_allocvec(txn).expect("it can be encoded"));
        assert_eq!((key.effect, txn), (record.fact.effect(), &*about.unwrap_or_default()), "{record:?}");
    }

    /// Compares the encoder that appends use with postcard.
    #[test]
    fn both_ways_to_encode_a_record_give_the_same_bytes() {
        let mut random = fastrand::Rng::with_seed(3);
        let (mut buffer, mut refused) = (vec![0; 8 << 10], 0);
        for _ in 0..20_000 {
            let record = random_record(&mut random);
            let encoded = encode(&record);
            assert_eq!(encoded.len(), record.encoded_len());
            assert_eq!(record.encode_to(&mut buffer).map(|length| &buffer[..length]), Some(&*encoded), "{record:?}");
            // When there is hardly any room, the encoder may refuse, but must not write something
            // else.
            let room = random.usize(encoded.len().saturating_sub(LONGEST_VARINT)..encoded.len() + LONGEST_VARINT);
            match record.encode_to(&mut buffer[..room]) {
                Some(length) => assert_eq!(&buffer[..length], &*encoded, "{record:?}"),
                None => refused += 1,
            }
            assert!(record.encode_to(&mut buffer[..encoded.len() - 1]).is_none());
        }
        assert!((1..20_000).contains(&refused));
    }

    #[test]
    fn the_key_of_every_record_is_found() {
        let mut random = fastrand::Rng::with_seed(1);
        for _ in 0..5_000 {
            let record = random_record(&mut random);
            let encoded = encode(&record);
            assert_eq!(Record::decode(&encoded).as_ref(), Some(&record));
            check(&record, read(&encoded).expect("a record"), &encoded);
            assert_eq!(read_own(&encoded), read(&encoded));
        }
    }

    /// All that is taken for a record is one. The only records refused are those written in another
    /// way.
    #[test]
    fn damaged_records_are_judged_as_decoding_would() {
        let mut random = fastrand::Rng::with_seed(2);
        for _ in 0..20_000 {
            let mut encoded = encode(&random_record(&mut random));
            match random.u8(..4) {
                0 => encoded.truncate(random.usize(..encoded.len())),
                1 => encoded.insert(random.usize(..=encoded.len()), random.u8(..)),
                _ => {
                    let at = random.usize(..encoded.len().min(40));
                    encoded[at] ^= 1 << random.u8(..8);
                }
            }
            match (read(&encoded), Record::decode(&encoded)) {
                (Some(key), Some(record)) => check(&record, key, &encoded),
                (None, Some(record)) => assert_ne!(encode(&record), encoded, "{record:?}"),
                (Some(_), None) => panic!("no record: {encoded:?}"),
                (None, None) => {}
            }
        }
    }
}
