//! A ring on the wire: what it is made of, not its tokens.

use serde::{Deserialize, Serialize, Serializer};

use super::{HashRing, KeyHasher, Node, RingError};

/// The version of the serialised form that is written, and the only one that is read.
pub const FORMAT_VERSION: u32 = 1;

/// A ring serialises as its format version, hasher, virtual nodes and members.
///
/// Deserialising goes through every check of [`RingBuilder::build`](super::RingBuilder::build), so bad input is an
/// error of the format's own type that carries the message of a [`RingError`], and never a panic. Fields that aren't
/// known are refused: one of them might change where keys go.
///
/// ```
/// use ringpact::ring::HashRing;
///
/// let ring = HashRing::new(["a", "b"])?;
/// let json = serde_json::to_string(&ring)?;
/// assert_eq!(
///     json,
///     r#"{"format":1,"hasher":{"xxh3_64":{"seed":0}},"virtual_nodes":160,"#.to_owned()
///         + r#""nodes":[{"id":"a","weight":1,"zone":null},{"id":"b","weight":1,"zone":null}]}"#,
/// );
/// assert_eq!(serde_json::from_str::<HashRing>(&json)?, ring);
///
/// let error = serde_json::from_str::<HashRing>(&json.replace(r#""b","weight":1"#, r#""b","weight":0"#));
/// assert!(error.is_err_and(|error| error.to_string().contains("node `b` has weight 0")));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
impl<H: Serialize> Serialize for HashRing<H> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        SerialisedRing {
            format: Format(FORMAT_VERSION),
            hasher: self.hasher(),
            virtual_nodes: self.virtual_nodes(),
            nodes: self.nodes(),
        }
        .serialize(serializer)
    }
}

/// The format comes first, so that in a codec that keeps the order it is checked before anything else is made of the
/// input.
#[derive(Serialize, Deserialize)]
#[serde(rename = "HashRing", deny_unknown_fields)]
pub(super) struct SerialisedRing<H, N = Vec<Node>> {
    format: Format,
    hasher: H,
    virtual_nodes: u32,
    nodes: N,
}

impl<H: KeyHasher> TryFrom<SerialisedRing<H>> for HashRing<H> {
    type Error = RingError;

    fn try_from(ring: SerialisedRing<H>) -> Result<Self, RingError> {
        Self::from_parts(ring.nodes, ring.virtual_nodes, ring.hasher)
    }
}

/// Always [`FORMAT_VERSION`].
#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(try_from = "u32")]
struct Format(u32);

impl TryFrom<u32> for Format {
    type Error = RingError;

    fn try_from(found: u32) -> Result<Self, RingError> {
        if found == FORMAT_VERSION { Ok(Self(found)) } else { Err(RingError::UnsupportedFormat { found }) }
    }
}
