//! The names of transactions and of the parties to them: [`Name`], [`Epoch`],
//! [`TxnId`], [`BranchId`].
//!
//! A branch id prints and parses, so that it can travel in a header from one service to the next:
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

use std::{borrow::Borrow, fmt, str::FromStr};

use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{self, Visitor},
};
use smol_str::SmolStr;
use thiserror::Error;

use crate::exact;

/// Maximum length of a name, in bytes. A branch id has two names and two numbers. At this length,
/// its printed form stays under the 200 bytes that PostgreSQL allows for the identifier of a
/// prepared transaction.
pub const MAX_NAME_BYTES: usize = 64;

/// A coordinator's or participant's name: 1 to [`MAX_NAME_BYTES`] characters out of `A-Z a-z 0-9 .
/// _ -`.
///
/// Names must be *stable*: a participant or coordinator that comes back under another name is
/// another one, and what the old one promised would wait forever. Cloning is cheap: up to 23 bytes
/// are copied, a longer name is shared. Keep names that short if transactions are many, because
/// threads that share a name contend on its reference count.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(SmolStr);

impl Name {
    /// Returns the name, if it follows the rules.
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

    /// Returns a name that is a constant of the program, like those of most coordinators and
    /// participants. Cloning it costs the same at any length.
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
    /// If [`Name::new`] would refuse it. For a constant, that is when the program is compiled.
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

/// Whether a name may have this byte. No byte of a character beyond ASCII is allowed.
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
        struct Text;
        impl Visitor<'_> for Text {
            type Value = Name;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a name")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Name, E> {
                Name::new(text).map_err(E::custom)
            }
        }
        deserializer.deserialize_str(Text)
    }
}

impl AsRef<str> for Name {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

/// A map with names as keys is searched by text.
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

impl TryFrom<String> for Name {
    type Error = IdError;
    fn try_from(text: String) -> Result<Self, IdError> {
        Self::new(&text)
    }
}

impl From<Name> for String {
    fn from(name: Name) -> Self {
        name.as_str().to_owned()
    }
}

/// The number of one opening of a coordinator on its log.
///
/// It grows with every opening, by a random step that comes from the opening of the log, and it is
/// durable before the first id is given out. So no two openings share it, be it on one log, on
/// copies of one log, or on a log that took the place of another one. A delayed message of an
/// earlier life can never reach a later transaction, and no two lives give out the same id. (Two
/// openings that know nothing of each other draw the same number with a chance of 1 in 2^36.)
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Epoch(#[serde(with = "exact::counter")] u64);

impl Epoch {
    /// Returns the epoch with this number. Only a coordinator gives out new epochs; this function
    /// is for reading one back.
    #[must_use]
    pub const fn new(number: u64) -> Self {
        Self(number)
    }

    /// Returns the number of the epoch. 0 stands for no epoch.
    #[must_use]
    pub const fn as_u64(self) -> u64 {
        self.0
    }

    /// Returns the lowest epoch that is later.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }

    /// Returns the epoch of the next opening, which is later by a step that follows from the random
    /// number. `None` if no epoch is left, which takes a hundred million openings, or a log that
    /// another program has written.
    pub(crate) const fn draw_next(self, random: u64) -> Option<Self> {
        /// Maximum step. It is large enough that copies of a log do not draw the same step by
        /// chance. It is small enough that epochs stay below 2^53 for a hundred thousand openings;
        /// JavaScript counts no further.
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

/// A transaction: the coordinator that decides it, that coordinator's epoch, and a number within
/// the epoch.
///
/// No two transactions ever share an id. Ids of one coordinator are in the order in which the
/// transactions began. Prints and parses as `coordinator:epoch:sequence`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TxnId {
    coordinator: Name,
    epoch: Epoch,
    #[serde(with = "exact::counter")]
    sequence: u64,
}

impl TxnId {
    /// Returns the id with these parts.
    #[must_use]
    pub const fn new(coordinator: Name, epoch: Epoch, sequence: u64) -> Self {
        Self { coordinator, epoch, sequence }
    }

    /// Returns the name of the coordinator that decides this transaction.
    #[must_use]
    pub const fn coordinator(&self) -> &Name {
        &self.coordinator
    }

    /// Returns the coordinator's epoch in which the transaction began.
    #[must_use]
    pub const fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// Returns the transaction's number within the epoch.
    #[must_use]
    pub const fn sequence(&self) -> u64 {
        self.sequence
    }

    /// Returns the transaction's place among those of its coordinator.
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

/// Reads only the form that `Display` prints: `+7` and `007` would be second names of one id.
fn parse_number(text: &str) -> Option<u64> {
    let number: u64 = text.parse().ok()?;
    (number.to_string() == text).then_some(number)
}

/// A place in the order of one coordinator's transactions: first by epoch, then by sequence.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TxnOrdinal {
    /// The coordinator's epoch.
    pub epoch: Epoch,
    /// The number within the epoch.
    #[serde(with = "exact::counter")]
    pub sequence: u64,
}

/// The id of one participant's part in one transaction. Prints and parses as
/// `coordinator:epoch:sequence:participant`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct BranchId {
    txn: TxnId,
    participant: Name,
}

impl BranchId {
    /// Returns the id of the transaction that this is a branch of.
    #[must_use]
    pub const fn txn(&self) -> &TxnId {
        &self.txn
    }

    /// Returns the name of the participant that the branch is at.
    #[must_use]
    pub const fn participant(&self) -> &Name {
        &self.participant
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

/// Why a text is not a name or an id.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum IdError {
    /// The name is empty or too long.
    #[error("a name has 1 to {MAX_NAME_BYTES} bytes, this one has {length}")]
    NameLength {
        /// The length of the name in bytes.
        length: usize,
    },
    /// The name has a character that would not survive in an id or a file name.
    #[error("name {name:?} holds {character:?}; use only letters A-Z a-z, digits, '.', '_' and '-'")]
    NameCharacter {
        /// The name as given.
        name: String,
        /// The first character that is not allowed.
        character: char,
    },
    /// The text does not have an id's form.
    #[error("{text:?} is not an id of the form {form}")]
    Malformed {
        /// The text as given.
        text: String,
        /// The form that was expected.
        form: &'static str,
    },
}
