//! The names of coordinators, participants, transactions and branches: [`Name`], [`Epoch`],
//! [`TxnId`], [`TxnOrdinal`], [`BranchId`].
//!
//! A branch id prints and parses, so a header can carry it from one service to the next. In JSON
//! and other formats that people read, ids of transactions and branches are that text, and can be
//! the keys of a map:
//!
//! ```
//! use ringpact::BranchId;
//!
//! let branch: BranchId = "shop:7:42:goods-3".parse()?;
//! assert_eq!(branch.participant().as_str(), "goods-3");
//! assert_eq!(branch.txn().sequence(), 42);
//! assert_eq!(branch.to_string(), "shop:7:42:goods-3");
//! # Ok::<(), ringpact::IdError>(())
//! ```

#![warn(clippy::exhaustive_enums, clippy::exhaustive_structs, missing_debug_implementations)]

use std::{borrow::Borrow, fmt, marker::PhantomData, str::FromStr};

use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{self, Visitor},
};
use smol_str::SmolStr;
use thiserror::Error;

use crate::exact;

/// Maximum length of a name, in bytes. A branch id holds two names and two numbers; at this length
/// its printed form stays below the 200 bytes that PostgreSQL allows for a prepared transaction's
/// identifier.
pub const MAX_NAME_BYTES: usize = 64;

/// A coordinator's or participant's name: 1 to [`MAX_NAME_BYTES`] characters out of
/// `A-Z a-z 0-9 . _ -`.
///
/// Names must be *stable*. A participant or coordinator that comes back under another name is
/// another one, and what the old one promised would wait forever.
///
/// Cloning is cheap: up to 23 bytes are copied, a longer name is shared. Keep names that short if
/// transactions are many, because threads that share a name contend on its reference count.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(SmolStr);

impl Name {
    /// Checks a text and makes a name of it.
    ///
    /// # Errors
    ///
    /// [`IdError::NameLength`] and [`IdError::NameCharacter`] say which rule it breaks.
    pub fn new(name: &str) -> Result<Self, IdError> {
        if name.is_empty() || name.len() > MAX_NAME_BYTES {
            return Err(IdError::NameLength { length: name.len() });
        }
        match name.chars().find(|c| !u8::try_from(*c).is_ok_and(may_be_in_name)) {
            Some(character) => Err(IdError::NameCharacter { name: name.to_owned(), character }),
            None => Ok(Self(name.into())),
        }
    }

    /// Makes a name of a text in the program. Cloning it costs the same at any length.
    ///
    /// ```
    /// use ringpact::Name;
    ///
    /// const GOODS: Name = Name::from_static("goods");
    /// assert_eq!(Name::new("goods")?, GOODS);
    /// # Ok::<(), ringpact::IdError>(())
    /// ```
    ///
    /// # Panics
    ///
    /// If [`Name::new`] would refuse the text: for a constant, when the program is compiled.
    #[must_use]
    pub const fn from_static(name: &'static str) -> Self {
        let bytes = name.as_bytes();
        assert!(!bytes.is_empty() && bytes.len() <= MAX_NAME_BYTES, "a name has 1 to 64 bytes");
        let mut index = 0;
        while index < bytes.len() {
            assert!(may_be_in_name(bytes[index]), "a name has no characters but A-Z a-z 0-9 . _ -");
            index += 1;
        }
        Self(SmolStr::new_static(name))
    }

    /// Returns the name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Whether a name may hold this byte; of a character beyond ASCII no byte is allowed.
pub(crate) const fn may_be_in_name(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-')
}

impl Serialize for Name {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(Parsed { expected: "a name", of: PhantomData })
    }
}

/// Reads a text that parses as `T`.
struct Parsed<T> {
    expected: &'static str,
    of: PhantomData<T>,
}

impl<T: FromStr<Err = IdError>> Visitor<'_> for Parsed<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.expected)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<T, E> {
        text.parse().map_err(E::custom)
    }
}

impl AsRef<str> for Name {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

/// Maps find names by their text.
impl Borrow<str> for Name {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.as_str())
    }
}

impl FromStr for Name {
    type Err = IdError;
    fn from_str(text: &str) -> Result<Self, IdError> {
        Self::new(text)
    }
}

impl TryFrom<&str> for Name {
    type Error = IdError;
    fn try_from(text: &str) -> Result<Self, IdError> {
        Self::new(text)
    }
}

impl TryFrom<String> for Name {
    type Error = IdError;
    fn try_from(text: String) -> Result<Self, IdError> {
        Self::new(&text)
    }
}

impl PartialEq<str> for Name {
    fn eq(&self, text: &str) -> bool {
        self.as_str() == text
    }
}

impl PartialEq<&str> for Name {
    fn eq(&self, text: &&str) -> bool {
        self.as_str() == *text
    }
}

impl From<Name> for String {
    fn from(name: Name) -> Self {
        name.as_str().to_owned()
    }
}

/// The number of one opening of a coordinator on its log.
///
/// It grows with every opening by a random step that comes from the opening of the log, and is
/// durable before the first id is given out. So no two openings share it: not on one log, not on
/// copies of one, not on a log that replaced another. A late message of an earlier life can never
/// reach a later transaction, and no two lives give out the same id. (Two openings that know
/// nothing of each other have the same epoch with a chance of 1 in 2^36.)
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct Epoch(#[serde(with = "exact::counter")] u64);

impl Epoch {
    /// Returns the epoch with this number. Only a coordinator begins new epochs; this is for
    /// reading one back.
    #[must_use]
    pub const fn new(number: u64) -> Self {
        Self(number)
    }

    /// Returns the number. 0 stands for no epoch.
    #[must_use]
    pub const fn as_u64(self) -> u64 {
        self.0
    }

    /// Returns the smallest later epoch.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }

    /// Returns the epoch of the next opening, later by a step made from the random number. `None`
    /// if none is left, which takes a hundred million openings, or a log that another program has
    /// written.
    pub(crate) const fn draw_next(self, random: u64) -> Option<Self> {
        /// Maximum step. Large enough that copies of a log do not draw the same step by chance;
        /// small enough that epochs stay below 2^53, up to which JavaScript counts exactly, for a
        /// hundred thousand openings.
        const LARGEST_STEP: u64 = 1 << 36;
        match self.0.checked_add(1 + random % LARGEST_STEP) {
            Some(number) => Some(Self(number)),
            None => None,
        }
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The id of a transaction: the coordinator that decides it, that coordinator's epoch, and a number
/// within the epoch.
///
/// No two transactions ever share an id. Ids of one coordinator are ordered by their beginning.
/// Prints and parses as `coordinator:epoch:sequence`; that text is also its form in JSON and other
/// formats that people read. Clones are copies.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TxnId {
    coordinator: Name,
    epoch: Epoch,
    sequence: u64,
}

impl TxnId {
    /// Makes an id of its parts.
    #[must_use]
    pub const fn new(coordinator: Name, epoch: Epoch, sequence: u64) -> Self {
        Self { coordinator, epoch, sequence }
    }

    /// Returns the name of the coordinator that decides the transaction.
    #[must_use]
    pub const fn coordinator(&self) -> &Name {
        &self.coordinator
    }

    /// Returns the coordinator's epoch in which the transaction began.
    #[must_use]
    pub const fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// Returns the number within the epoch.
    #[must_use]
    pub const fn sequence(&self) -> u64 {
        self.sequence
    }

    /// Returns its position in the order of its coordinator's transactions.
    #[must_use]
    pub const fn ordinal(&self) -> TxnOrdinal {
        TxnOrdinal { epoch: self.epoch, sequence: self.sequence }
    }

    /// Returns the id of the branch of this transaction at `participant`.
    #[must_use]
    pub fn branch(&self, participant: &Name) -> BranchId {
        BranchId { txn: self.clone(), participant: participant.clone() }
    }
}

/// A [`TxnId`] in binary formats.
#[derive(Serialize, Deserialize)]
#[serde(rename = "TxnId")]
struct TxnIdFields<N> {
    coordinator: N,
    epoch: Epoch,
    #[serde(with = "exact::counter")]
    sequence: u64,
}

impl Serialize for TxnId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            return serializer.collect_str(self);
        }
        let fields = TxnIdFields { coordinator: &self.coordinator, epoch: self.epoch, sequence: self.sequence };
        fields.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for TxnId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if deserializer.is_human_readable() {
            return deserializer.deserialize_str(Parsed { expected: "a transaction id", of: PhantomData });
        }
        let TxnIdFields { coordinator, epoch, sequence } = TxnIdFields::deserialize(deserializer)?;
        Ok(Self { coordinator, epoch, sequence })
    }
}

impl fmt::Display for TxnId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.coordinator, self.epoch, self.sequence)
    }
}

impl fmt::Debug for TxnId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TxnId({self})")
    }
}

impl FromStr for TxnId {
    type Err = IdError;
    fn from_str(text: &str) -> Result<Self, IdError> {
        let malformed = || IdError::Malformed { text: text.to_owned(), form: "coordinator:epoch:sequence" };
        let mut parts = text.split(':');
        let (Some(coordinator), Some(epoch), Some(sequence), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(malformed());
        };
        Ok(Self {
            coordinator: Name::new(coordinator)?,
            epoch: Epoch(parse_number(epoch).ok_or_else(malformed)?),
            sequence: parse_number(sequence).ok_or_else(malformed)?,
        })
    }
}

/// Parses only the form that `Display` prints, because `+7` and `007` would be second texts of one
/// id.
fn parse_number(text: &str) -> Option<u64> {
    let number: u64 = text.parse().ok()?;
    (number.to_string() == text).then_some(number)
}

/// A position in the order of one coordinator's transactions: first by epoch, then by sequence. A
/// plain value.
///
/// Exhaustive on purpose: there is nothing else to order by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[expect(clippy::exhaustive_structs, reason = "there is nothing else to order by")]
pub struct TxnOrdinal {
    /// The coordinator's epoch.
    pub epoch: Epoch,
    /// The transaction's number within the epoch.
    #[serde(with = "exact::counter")]
    pub sequence: u64,
}

/// The id of one participant's part in one transaction.
///
/// Prints and parses as `coordinator:epoch:sequence:participant`; that text is also its form in
/// JSON and other formats that people read. Clones are copies.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BranchId {
    txn: TxnId,
    participant: Name,
}

impl BranchId {
    /// Returns the id of the transaction.
    #[must_use]
    pub const fn txn(&self) -> &TxnId {
        &self.txn
    }

    /// Returns the name of the participant.
    #[must_use]
    pub const fn participant(&self) -> &Name {
        &self.participant
    }
}

/// A [`BranchId`] in binary formats.
#[derive(Serialize, Deserialize)]
#[serde(rename = "BranchId")]
struct BranchIdFields<T, N> {
    txn: T,
    participant: N,
}

impl Serialize for BranchId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            return serializer.collect_str(self);
        }
        BranchIdFields { txn: &self.txn, participant: &self.participant }.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for BranchId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if deserializer.is_human_readable() {
            return deserializer.deserialize_str(Parsed { expected: "a branch id", of: PhantomData });
        }
        let BranchIdFields { txn, participant } = BranchIdFields::deserialize(deserializer)?;
        Ok(Self { txn, participant })
    }
}

impl fmt::Display for BranchId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.txn, self.participant)
    }
}

impl fmt::Debug for BranchId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BranchId({self})")
    }
}

impl FromStr for BranchId {
    type Err = IdError;
    fn from_str(text: &str) -> Result<Self, IdError> {
        let (txn, participant) = text.rsplit_once(':').ok_or_else(|| IdError::Malformed {
            text: text.to_owned(),
            form: "coordinator:epoch:sequence:participant",
        })?;
        Ok(Self { txn: txn.parse()?, participant: Name::new(participant)? })
    }
}

/// Why a text is no name or id.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum IdError {
    /// The name is empty or too long.
    #[error("a name has 1 to {MAX_NAME_BYTES} bytes, this one has {length}")]
    NameLength {
        /// The length of the text, in bytes.
        length: usize,
    },
    /// The name holds a character that would not survive in an id or a file name.
    #[error("name {name:?} holds {character:?}; use only letters A-Z a-z, digits, '.', '_' and '-'")]
    NameCharacter {
        /// The name as given.
        name: String,
        /// The first character that is not allowed.
        character: char,
    },
    /// The text does not have the form of an id.
    #[error("{text:?} is not an id of the form {form}")]
    Malformed {
        /// The text as given.
        text: String,
        /// The form that was expected.
        form: &'static str,
    },
}
