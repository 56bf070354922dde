//! Postcard's encoding of a record, written by hand.
//!
//! Through serde, each field is a call or two of its own, and a number is copied as a slice right
//! after it was put together byte by byte, which makes the processor wait. Every append encodes, so
//! this is worth its lines.

use super::{Fact, Heuristic, Record};
use crate::id::{MAX_NAME_BYTES, Name, TxnId};

/// Maximum length of an encoded number, in bytes.
const NUMBER_BYTES: usize = 10;

/// Encodes into a buffer of a fixed size. The methods return `None` if the buffer may be too small.
pub(super) struct Encoder<'a> {
    buffer: &'a mut [u8],
    length: usize,
}

impl<'a> Encoder<'a> {
    pub(super) const fn new(buffer: &'a mut [u8]) -> Self {
        Self { buffer, length: 0 }
    }

    /// Returns the number of bytes encoded so far.
    pub(super) const fn length(&self) -> usize {
        self.length
    }

    #[inline]
    pub(super) fn record(&mut self, record: &Record) -> Option<()> {
        self.name(&record.owner)?;
        match &record.fact {
            Fact::Opened { epoch } => {
                self.byte(0)?;
                self.number(epoch.as_u64())
            }
            Fact::Decided { txn, participants } => {
                self.about(1, txn)?;
                self.names(participants)
            }
            Fact::Prepared { txn, work } => {
                self.about(2, txn)?;
                self.bytes(work)
            }
            Fact::Committed { txn, work } => {
                self.about(3, txn)?;
                match work {
                    None => self.byte(0),
                    Some(work) => {
                        self.byte(1)?;
                        self.bytes(work)
                    }
                }
            }
            Fact::Heard { txn, log, epoch, position } => {
                self.about(7, txn)?;
                self.put(&log.to_bytes())?;
                self.number(epoch.as_u64())?;
                self.number(*position)
            }
            Fact::Ended { txn } => self.about(4, txn),
            Fact::Parked { txn, participants } => {
                self.about(5, txn)?;
                self.names(participants)
            }
            Fact::Heuristic { txn, participant, outcome } => {
                self.about(6, txn)?;
                self.name(participant)?;
                self.byte(match outcome {
                    Heuristic::Committed => 0,
                    Heuristic::RolledBack => 1,
                    Heuristic::Mixed => 2,
                    Heuristic::Hazard => 3,
                })
            }
        }
    }

    #[inline]
    fn about(&mut self, tag: u8, txn: &TxnId) -> Option<()> {
        self.byte(tag)?;
        self.name(txn.coordinator())?;
        self.number(txn.epoch().as_u64())?;
        self.number(txn.sequence())
    }

    fn names(&mut self, names: &[Name]) -> Option<()> {
        self.number(names.len() as u64)?;
        names.iter().try_for_each(|name| self.name(name))
    }

    #[inline]
    fn name(&mut self, name: &Name) -> Option<()> {
        const { assert!(MAX_NAME_BYTES < 0x80, "its length takes one byte") };
        let name = name.as_str().as_bytes();
        self.byte(name.len() as u8)?;
        self.put(name)
    }

    #[inline]
    fn bytes(&mut self, bytes: &[u8]) -> Option<()> {
        self.number(bytes.len() as u64)?;
        self.put(bytes)
    }

    #[inline]
    fn put(&mut self, bytes: &[u8]) -> Option<()> {
        let room = self.buffer.get_mut(self.length..)?.get_mut(..bytes.len())?;
        room.copy_from_slice(bytes);
        self.length += bytes.len();
        Some(())
    }

    #[inline]
    fn byte(&mut self, byte: u8) -> Option<()> {
        *self.buffer.get_mut(self.length)? = byte;
        self.length += 1;
        Some(())
    }

    /// Writes seven bits in each byte, lowest first, in as few bytes as possible.
    #[inline]
    fn number(&mut self, mut number: u64) -> Option<()> {
        let room = self.buffer.get_mut(self.length..)?.first_chunk_mut::<NUMBER_BYTES>()?;
        let mut length = 1;
        for byte in room {
            *byte = number as u8 & 0x7f;
            number >>= 7;
            if number == 0 {
                break;
            }
            *byte |= 0x80;
            length += 1;
        }
        self.length += length;
        Some(())
    }
}
