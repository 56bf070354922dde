//! How a branch is named in the database: [`Xid`] for `XA` statements, [`MarkerId`] as a row's key.
//!
//! A transaction id of this library needs up to 106 bytes, and each of the two parts of an `XA` id
//! has room for 64. So names go in as hashes of 128 bits:
//!
//! | part | bytes | what is in it |
//! |---|---|---|
//! | `gtrid` | 32 | hash of the coordinator's name, epoch, sequence |
//! | `bqual` | 16 | hash of the participant's name and of its database's, because `XA` ids are those of the whole server |
//! | `formatID` | | [`FORMAT_ID`] |
//!
//! A marker's key holds the same, the participant first. Numbers are big-endian, so that the keys of
//! one coordinator are in the order of its transactions.

use std::{fmt, str::FromStr};

use ringpact::{BranchId, Epoch, Name, TxnId, TxnOrdinal};
use thiserror::Error;
use xxhash_rust::xxh3::xxh3_128;

/// `formatID` of this library's branches: "RPCT" in ASCII.
pub(crate) const FORMAT_ID: i64 = 0x5250_4354;

/// Maximum length of each part of an `XA` id, in bytes.
const MAX_PART: usize = 64;

/// Hash of a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct NameHash([u8; 16]);

impl NameHash {
    pub(crate) fn of(name: &Name) -> Self {
        Self(xxh3_128(name.as_str().as_bytes()).to_be_bytes())
    }

    /// Returns the hash of a participant in a database. A name has no zero byte, so the two texts do
    /// not run into each other.
    pub(crate) fn of_participant(participant: &Name, database: &str) -> Self {
        Self(xxh3_128(format!("{participant}\0{database}").as_bytes()).to_be_bytes())
    }
}

/// Prints the SQL literal.
impl fmt::Display for NameHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        hex_literal(f, &self.0)
    }
}

/// The `XA` id of a branch.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Xid {
    pub(crate) coordinator: NameHash,
    pub(crate) ordinal: TxnOrdinal,
    pub(crate) participant: NameHash,
}

impl Xid {
    /// Returns the id of this participant's branch.
    pub(crate) fn of(branch: &BranchId, participant: NameHash) -> Self {
        let txn = branch.txn();
        Self { coordinator: NameHash::of(txn.coordinator()), ordinal: txn.ordinal(), participant }
    }

    /// Returns the branch at the participant of this name, if this coordinator's name has the hash.
    pub(crate) fn branch_of(&self, coordinator: &Name, participant: &Name) -> Option<BranchId> {
        let is_of = NameHash::of(coordinator) == self.coordinator;
        is_of.then(|| TxnId::new(coordinator.clone(), self.ordinal.epoch, self.ordinal.sequence).branch(participant))
    }

    /// Returns the key of the branch's marker.
    pub(crate) fn marker(&self) -> MarkerId {
        MarkerId::new(self.participant, self.coordinator, self.ordinal)
    }

    /// Returns the SQL literal of the name of the lock that the branch's session holds. Names of locks
    /// have at most 64 characters.
    pub(crate) fn lock(&self) -> String {
        format!("'ringpact:{:032x}'", xxh3_128(self.marker().as_bytes()))
    }

    pub(crate) fn raw(&self) -> RawXid {
        let mut gtrid = Vec::with_capacity(32);
        gtrid.extend_from_slice(&self.coordinator.0);
        gtrid.extend_from_slice(&self.ordinal.epoch.as_u64().to_be_bytes());
        gtrid.extend_from_slice(&self.ordinal.sequence.to_be_bytes());
        RawXid { gtrid, bqual: self.participant.0.to_vec(), format: FORMAT_ID }
    }
}

/// Prints the id as `XA` statements take it.
impl fmt::Display for Xid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.raw().fmt(f)
    }
}

/// Any program's `XA` id, as the database lists it. Prints and parses as `XA` statements take it:
/// `X'..',X'..',format`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RawXid {
    gtrid: Vec<u8>,
    bqual: Vec<u8>,
    format: i64,
}

/// A text is no `XA` id.
#[derive(Debug, Error)]
#[error("\"{0}\" is no id of a prepared transaction; pass one as `orphans` gives it")]
pub(crate) struct NoXid(String);

impl RawXid {
    /// Takes a row of `XA RECOVER`, whose last column joins both parts.
    pub(crate) fn of_row((format, gtrid_length, bqual_length, data): (i64, usize, usize, Vec<u8>)) -> Option<Self> {
        let (gtrid, rest) = data.split_at_checked(gtrid_length)?;
        let (bqual, _) = rest.split_at_checked(bqual_length)?;
        Some(Self { gtrid: gtrid.to_vec(), bqual: bqual.to_vec(), format })
    }

    /// Returns the branch's id, if it is one of this library's.
    pub(crate) fn own(&self) -> Option<Xid> {
        if self.format != FORMAT_ID || self.gtrid.len() != 32 {
            return None;
        }
        let (coordinator, numbers) = self.gtrid.split_first_chunk()?;
        let (epoch, sequence) = numbers.split_first_chunk()?;
        let ordinal = TxnOrdinal {
            epoch: Epoch::new(u64::from_be_bytes(*epoch)),
            sequence: u64::from_be_bytes(sequence.try_into().ok()?),
        };
        let participant = NameHash(self.bqual.as_slice().try_into().ok()?);
        Some(Xid { coordinator: NameHash(*coordinator), ordinal, participant })
    }
}

impl fmt::Display for RawXid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        hex_literal(f, &self.gtrid)?;
        f.write_str(",")?;
        hex_literal(f, &self.bqual)?;
        write!(f, ",{}", self.format)
    }
}

impl FromStr for RawXid {
    type Err = NoXid;

    fn from_str(text: &str) -> Result<Self, NoXid> {
        let parse = || {
            let mut parts = text.split(',');
            let (gtrid, bqual) = (bytes(parts.next()?)?, bytes(parts.next()?)?);
            let format = parts.next()?.parse().ok()?;
            let is_valid = parts.next().is_none() && gtrid.len() <= MAX_PART && bqual.len() <= MAX_PART;
            is_valid.then_some(Self { gtrid, bqual, format })
        };
        parse().ok_or_else(|| NoXid(text.to_owned()))
    }
}

/// The key of a marker. Keys of one participant and coordinator are in the order of transactions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct MarkerId([u8; 48]);

impl MarkerId {
    pub(crate) fn new(participant: NameHash, coordinator: NameHash, ordinal: TxnOrdinal) -> Self {
        let mut key = [0; 48];
        key[..16].copy_from_slice(&participant.0);
        key[16..32].copy_from_slice(&coordinator.0);
        key[32..40].copy_from_slice(&ordinal.epoch.as_u64().to_be_bytes());
        key[40..].copy_from_slice(&ordinal.sequence.to_be_bytes());
        Self(key)
    }

    pub(crate) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// Prints the SQL literal.
impl fmt::Display for MarkerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        hex_literal(f, &self.0)
    }
}

fn hex_literal(f: &mut fmt::Formatter<'_>, bytes: &[u8]) -> fmt::Result {
    f.write_str("X'")?;
    for byte in bytes {
        write!(f, "{byte:02X}")?;
    }
    f.write_str("'")
}

/// Reads what [`hex_literal`] prints.
fn bytes(literal: &str) -> Option<Vec<u8>> {
    let digits = literal.strip_prefix("X'")?.strip_suffix('\'')?;
    if digits.len() % 2 != 0 || !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return None;
    }
    (0..digits.len()).step_by(2).map(|at| u8::from_str_radix(&digits[at..at + 2], 16).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn branch() -> BranchId {
        "shop:7:42:payments".parse().expect("a branch id")
    }

    fn xid() -> Xid {
        Xid::of(&branch(), NameHash::of_participant(&Name::from_static("payments"), "production"))
    }

    #[test]
    fn a_branch_is_found_again_in_a_row_of_xa_recover() {
        let raw = xid().raw();
        let data = [raw.gtrid.clone(), raw.bqual.clone()].concat();
        let listed = RawXid::of_row((raw.format, 32, 16, data)).expect("a valid row");
        let own = listed.own().expect("one of this library's");
        assert_eq!(own, xid());
        let (shop, payments) = (Name::from_static("shop"), Name::from_static("payments"));
        assert_eq!(own.branch_of(&shop, &payments), Some(branch()));
        assert_eq!(own.branch_of(&payments, &payments), None);
    }

    #[test]
    fn an_id_prints_and_parses_and_fits_the_database() {
        let raw = xid().raw();
        assert!(raw.gtrid.len() <= MAX_PART && raw.bqual.len() <= MAX_PART);
        assert_eq!(raw.to_string().parse::<RawXid>().expect("it parses"), raw);
    }

    #[test]
    fn a_text_that_is_no_id_never_becomes_sql() {
        for text in
            ["", "X'00',X'00'", "X'0',X'00',1", "X'00',X'00',1;DROP TABLE t", "X'00'--,X'00',1", "X'+1',X'00',1"]
        {
            assert!(text.parse::<RawXid>().is_err(), "{text}");
        }
    }

    #[test]
    fn ids_of_other_programs_are_not_taken_for_own_ones() {
        let foreign = RawXid::of_row((1, 32, 16, vec![7; 48])).expect("a valid row");
        assert_eq!(foreign.own(), None);
        let short = RawXid::of_row((FORMAT_ID, 3, 16, vec![7; 19])).expect("a valid row");
        assert_eq!(short.own(), None);
        assert_eq!(RawXid::of_row((FORMAT_ID, 40, 40, vec![7; 48])), None);
    }

    #[test]
    fn one_name_in_two_databases_of_a_server_is_two_participants() {
        let payments = Name::from_static("payments");
        let hash = |database| NameHash::of_participant(&payments, database);
        assert_ne!(hash("production"), hash("staging"));
    }

    #[test]
    fn markers_are_in_the_order_of_transactions() {
        let (participant, coordinator) =
            (NameHash::of(&Name::from_static("payments")), NameHash::of(&Name::from_static("shop")));
        let at = |epoch, sequence| {
            let ordinal = TxnOrdinal { epoch: Epoch::new(epoch), sequence };
            MarkerId::new(participant, coordinator, ordinal).0
        };
        assert!(at(1, 255) < at(1, 256) && at(1, u64::MAX) < at(2, 0));
    }
}
