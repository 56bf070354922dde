//! Numbers of 64 bits in formats that people read, such as JSON.
//!
//! JavaScript, jq and others keep every number of JSON in an `f64`, which silently rounds whole
//! numbers from 2^53 on. So a number that may be that large is written as text. When it is read, a
//! number from 2^53 on that is not text is refused, because it may have been rounded. Binary
//! formats have plain numbers.

use std::fmt;

use serde::{
    Deserialize, Deserializer, Serializer,
    de::{self, Unexpected, Visitor},
};

/// The lowest whole number that an `f64` may have been rounded to.
const FIRST_INEXACT: u64 = 1 << 53;

/// The form of numbers that are spread over all 64 bits: positions, seeds, moduli. In JSON they are
/// always text, so that a reader in another language meets one type.
pub(crate) mod text {
    use super::Serializer;
    pub(crate) use super::deserialize;

    #[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature that serde calls")]
    pub(crate) fn serialize<S: Serializer>(number: &u64, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() { serializer.collect_str(number) } else { serializer.serialize_u64(*number) }
    }
}

/// The form of numbers that count from 1: epochs, transactions, records. In JSON they are numbers
/// below 2^53, and text from there on.
pub(crate) mod counter {
    pub(crate) use super::deserialize;
    use super::{FIRST_INEXACT, Serializer, text};

    #[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature that serde calls")]
    pub(crate) fn serialize<S: Serializer>(number: &u64, serializer: S) -> Result<S::Ok, S::Error> {
        if *number < FIRST_INEXACT { serializer.serialize_u64(*number) } else { text::serialize(number, serializer) }
    }
}

/// Reads text, or a number that no tool rounds.
pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    if deserializer.is_human_readable() { deserializer.deserialize_any(Exact) } else { u64::deserialize(deserializer) }
}

/// Visits what stands for a number in a format that people read.
struct Exact;

impl Visitor<'_> for Exact {
    type Value = u64;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a whole number of 64 bits as text, or as a number below 2^53")
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<u64, E> {
        if number < FIRST_INEXACT {
            return Ok(number);
        }
        Err(E::custom(format_args!(
            "{number} is not below 2^53, so a tool that keeps numbers as doubles may have rounded it: write it as the text \
            \"{number}\" if it is right, otherwise fetch the original"
        )))
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<u64, E> {
        match u64::try_from(number) {
            Ok(number) => self.visit_u64(number),
            Err(_) => Err(E::invalid_value(Unexpected::Signed(number), &self)),
        }
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<u64, E> {
        // Accepts only the form that is written: `+7` and `007` would be other spellings of one
        // number.
        let number = text.parse::<u64>().ok().filter(|number| number.to_string() == text);
        number.ok_or_else(|| E::invalid_value(Unexpected::Str(text), &self))
    }
}
