//! What is written: [`Record`], and what each record does to the set of *live* records.
//!
//! `encoder.rs` writes records fast; `key.rs` reads of an encoded record what the fold needs. The
//! tests hold both to what postcard, the reference, makes of the same record.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::LogId;
use crate::id::{Epoch, Name, TxnId};

mod encoder;
pub(super) mod key;

/// One entry of a transaction log: its owner, and the fact that it states.
///
/// Several owners can share one log, for example a coordinator and the resource managers of its
/// process. Each reads back only its own records. Exhaustive on purpose: callers construct it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[allow(clippy::exhaustive_structs, reason = "owners construct it")]
pub struct Record {
    /// The owner: it wrote the record, and [`TransactionLog::live`](super::TransactionLog::live)
    /// returns the record to it.
    pub owner: Name,
    /// The fact that the record states.
    pub fact: Fact,
}

/// A fact that a [`Record`] states about its owner.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Fact {
    /// The owner, a coordinator, was opened. The ids that it hands out carry this epoch. The last
    /// [`MAX_OPENINGS`](super::MAX_OPENINGS) of an owner are live, because they say which ids are
    /// its own.
    Opened {
        /// The epoch that begins.
        epoch: Epoch,
    },
    /// The owner, a coordinator, decided to commit. (A decision to roll back is never written:
    /// presumed abort.)
    Decided {
        /// The transaction.
        txn: TxnId,
        /// The participants that voted yes, and so must hear the decision.
        participants: Vec<Name>,
    },
    /// The owner, a participant, promised to commit its branch if told so.
    Prepared {
        /// The transaction whose branch it is.
        txn: TxnId,
        /// What committing means, in the owner's own encoding.
        #[serde(with = "serde_bytes")]
        work: Vec<u8>,
    },
    /// The owner, a participant, learnt that its branch is committed.
    Committed {
        /// The transaction whose branch it is.
        txn: TxnId,
        /// What committing means, if no [`Fact::Prepared`] said so before (one-phase commit).
        #[serde(with = "serde_bytes")]
        work: Option<Vec<u8>>,
    },
    /// The owner needs none of its records about this transaction any more.
    Ended {
        /// The transaction.
        txn: TxnId,
    },
    /// The owner, a coordinator, no longer delivers its decision by itself, or has no participant
    /// left to deliver it to. The transaction waits for an operator.
    Parked {
        /// The transaction.
        txn: TxnId,
        /// The participants that have not acknowledged the decision. All others have, and may have
        /// forgotten the transaction.
        participants: Vec<Name>,
    },
    /// The owner, a coordinator, learnt that a branch ended, or may have ended, otherwise than
    /// decided.
    Heuristic {
        /// The transaction.
        txn: TxnId,
        /// The participant that the branch belongs to.
        participant: Name,
        /// How the branch ended.
        outcome: Heuristic,
    },
    /// The owner, a participant, heard from the coordinator of one of its branches that the
    /// decisions are in this log, which is not the participant's own. So a participant that was
    /// restarted can still tell that log from another one that is opened under the coordinator's
    /// name, and from an older copy of it.
    Heard {
        /// The transaction whose branch it is.
        txn: TxnId,
        /// The id of the coordinator's log.
        log: LogId,
        /// The coordinator's epoch at that time.
        epoch: Epoch,
        /// The number of records of that log that were durable; see
        /// [`Life::position`](crate::participant::Life).
        position: u64,
    },
}

/// How a branch ended that did not wait for its coordinator's decision, or did not follow it.
///
/// The word is the field's (X/Open's XA, and IBM's LU 6.2 before it): a *heuristic* decision is one
/// that a participant, or an operator, has made on a guess. Exhaustive on purpose: X/Open knows no
/// fifth.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[allow(clippy::exhaustive_enums, reason = "X/Open knows no fifth outcome")]
pub enum Heuristic {
    /// The branch committed.
    Committed,
    /// The branch rolled back.
    RolledBack,
    /// Part of the branch committed and part rolled back.
    Mixed,
    /// It is not known how the branch ended: it may be either, or both in part.
    Hazard,
}

impl Heuristic {
    /// Returns the outcome of two branches together: the worse of both, or [`Mixed`](Self::Mixed)
    /// if they differ.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::Hazard, _) | (_, Self::Hazard) => Self::Hazard,
            (one, other) if one == other => one,
            _ => Self::Mixed,
        }
    }
}

impl fmt::Display for Heuristic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Committed => "committed",
            Self::RolledBack => "rolled back",
            Self::Mixed => "mixed",
            Self::Hazard => "hazard",
        })
    }
}

/// What a record does to the live records of its owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Effect {
    /// The record joins the owner's openings, of which the latest are live.
    Opens,
    /// The record joins the live records about its transaction.
    Adds,
    /// The record ends all live records about its transaction, itself included.
    Ends,
}

impl Fact {
    /// Returns the transaction that the fact is about, if it is about one.
    #[must_use]
    pub const fn txn(&self) -> Option<&TxnId> {
        match self {
            Self::Opened { .. } => None,
            Self::Decided { txn, .. }
            | Self::Prepared { txn, .. }
            | Self::Heard { txn, .. }
            | Self::Committed { txn, .. }
            | Self::Ended { txn }
            | Self::Parked { txn, .. }
            | Self::Heuristic { txn, .. } => Some(txn),
        }
    }

    /// Returns the epoch of an [`Opened`](Self::Opened) fact.
    #[must_use]
    pub const fn epoch(&self) -> Option<Epoch> {
        match self {
            Self::Opened { epoch } => Some(*epoch),
            _ => None,
        }
    }

    /// Returns what the record does to the live ones; the key of its encoding must say the same.
    #[cfg(test)]
    pub(super) const fn effect(&self) -> Effect {
        match self {
            Self::Opened { .. } => Effect::Opens,
            Self::Ended { .. } => Effect::Ends,
            _ => Effect::Adds,
        }
    }
}

impl Record {
    /// Appends the record to the buffer, in postcard's encoding.
    pub(crate) fn encode_into(&self, buffer: &mut Vec<u8>) {
        postcard::serialize_with_flavor(self, AppendTo(buffer))
            .expect("serialising into memory can't fail: the buffer grows, and no field refuses or has unknown length");
    }

    /// Does the same, in a fraction of the time if the record is small.
    pub(crate) fn encode_behind(&self, buffer: &mut Vec<u8>) {
        /// Nearly all records take fewer bytes.
        const SMALL: usize = 256;
        let begin = buffer.len();
        buffer.resize(begin + SMALL, 0);
        let encoded = self.encode_to(&mut buffer[begin..]);
        buffer.truncate(begin + encoded.unwrap_or(0));
        if encoded.is_none() {
            self.encode_into(buffer);
        }
    }

    /// Encodes the record at the front of the buffer, and returns its length. Returns `None` if the
    /// buffer may be too small.
    ///
    /// This writes what [`encode_into`](Self::encode_into) writes, in a fraction of the time,
    /// because every append does it. The tests compare both.
    pub(crate) fn encode_to(&self, buffer: &mut [u8]) -> Option<usize> {
        let mut to = encoder::Encoder::new(buffer);
        to.record(self)?;
        Some(to.length())
    }

    /// Returns its encoded length in bytes.
    pub(crate) fn encoded_len(&self) -> usize {
        // Serialising into a counter can't fail: there is no buffer to run out of, and no field
        // refuses to serialise.
        postcard::experimental::serialized_size(self).unwrap_or(usize::MAX)
    }

    /// Returns the record that was encoded as these bytes, or `None` if there is none.
    pub(crate) fn decode(encoded: &[u8]) -> Option<Self> {
        match postcard::take_from_bytes(encoded) {
            Ok((record, [])) => Some(record),
            _ => None,
        }
    }
}

/// Serialises behind the content of a buffer that is used again. So a record needs no allocation,
/// and slices are copied as a whole.
struct AppendTo<'a>(&'a mut Vec<u8>);

impl postcard::ser_flavors::Flavor for AppendTo<'_> {
    type Output = ();

    fn try_push(&mut self, byte: u8) -> postcard::Result<()> {
        self.0.push(byte);
        Ok(())
    }

    fn try_extend(&mut self, bytes: &[u8]) -> postcard::Result<()> {
        self.0.extend_from_slice(bytes);
        Ok(())
    }

    fn finalize(self) -> postcard::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Tries all sizes around the limit up to which the fast way is taken.
    #[test]
    fn a_record_behind_others_is_encoded_as_it_is_alone() {
        let owner = Name::from_static("a");
        for length in 0..600 {
            let txn = TxnId::new(Name::from_static("c"), Epoch::new(1), u64::MAX);
            let record = Record { owner: owner.clone(), fact: Fact::Prepared { txn, work: vec![7; length] } };
            let (mut alone, mut behind) = (vec![1, 2, 3], vec![1, 2, 3]);
            record.encode_into(&mut alone);
            record.encode_behind(&mut behind);
            assert_eq!(alone, behind, "{length} bytes of work");
        }
    }
}
