//! The wire form of a ring: its settings and members, and its tokens if they don't follow from
//! those.

use std::{fmt, marker::PhantomData};

use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{self, MapAccess, SeqAccess, Visitor, value::MapAccessDeserializer},
};

use super::{HashRing, KeyHasher, Node, Placement, Position, RingError};

/// Version number of the serialised form of a [hashed](Placement::Hashed) ring.
pub const FORMAT_VERSION: u32 = 1;

/// Version number of the serialised form of a [balanced](Placement::Balanced) ring.
pub const BALANCED_FORMAT_VERSION: u32 = 2;

/// Version number of the serialised form of a [hashed](Placement::Hashed) ring with draining nodes.
pub const DRAINING_FORMAT_VERSION: u32 = 3;

/// Version number of the serialised form of a [balanced](Placement::Balanced) ring with draining
/// nodes.
pub const DRAINING_BALANCED_FORMAT_VERSION: u32 = 4;

const FIELDS: &[&str] = &["format", "hasher", "virtual_nodes", "nodes", "tokens"];

/// A ring serialises as its format version, hasher, virtual nodes and members. A balanced ring also
/// has its tokens, clockwise, each a position and the index of its node among the members. If a
/// node is draining, the format has another number. So a reader that doesn't know of such nodes
/// refuses the ring, and all other rings are written as ever.
///
/// Deserialising makes every check of [`RingBuilder::build`](super::RingBuilder::build). So bad
/// input is an error of the format's own type with the message of a [`RingError`], and never a
/// panic. Unknown fields are refused, because one of them might change the placement of keys.
///
/// In JSON, and other formats for people, positions, seeds and moduli are text, because JavaScript,
/// jq and others round numbers from 2^53 on, and a rounded ring is another ring. Numbers below 2^53
/// are read, too; a number from 2^53 on is an error.
///
/// ```
/// use ringpact::ring::{HashRing, Placement};
///
/// let ring = HashRing::new(["a", "b"])?;
/// let json = serde_json::to_string(&ring)?;
/// assert_eq!(
///     json,
///     r#"{"format":1,"hasher":{"xxh3_64":{"seed":"0"}},"virtual_nodes":160,"#.to_owned()
///         + r#""nodes":[{"id":"a","weight":1,"zone":null},{"id":"b","weight":1,"zone":null}]}"#,
/// );
/// assert_eq!(serde_json::from_str::<HashRing>(&json)?, ring);
///
/// let error = serde_json::from_str::<HashRing>(&json.replace(r#""b","weight":1"#, r#""b","weight":0"#));
/// assert!(error.is_err_and(|error| error.to_string().contains("node `b` has weight 0")));
///
/// let balanced = HashRing::builder().placement(Placement::Balanced).virtual_nodes(1).nodes(["a", "b"]).build()?;
/// let json = serde_json::to_string(&balanced)?;
/// assert!(json.starts_with(r#"{"format":2,"#));
/// assert!(json.contains(r#""tokens":[["4340410370284600379","#));
/// assert_eq!(serde_json::from_str::<HashRing>(&json)?, balanced);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
impl<H: Serialize> Serialize for HashRing<H> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let format = Format::of(self);
        let (hasher, virtual_nodes, nodes) = (self.hasher(), self.virtual_nodes(), self.nodes());
        match self.placement() {
            Placement::Hashed => HashedForm { format, hasher, virtual_nodes, nodes }.serialize(serializer),
            Placement::Balanced => {
                let tokens = self.indexed_tokens();
                BalancedForm { format, hasher, virtual_nodes, nodes, tokens }.serialize(serializer)
            }
        }
    }
}

/// What is written of a hashed ring.
#[derive(Serialize)]
#[serde(rename = "HashRing")]
struct HashedForm<'a, H> {
    format: Format,
    hasher: &'a H,
    virtual_nodes: u32,
    nodes: &'a [Node],
}

/// What is written of a balanced ring.
#[derive(Serialize)]
#[serde(rename = "HashRing")]
struct BalancedForm<'a, H> {
    format: Format,
    hasher: &'a H,
    virtual_nodes: u32,
    nodes: &'a [Node],
    tokens: Vec<(Position, u32)>,
}

impl<'de, H: KeyHasher + Deserialize<'de>> Deserialize<'de> for HashRing<H> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_struct("HashRing", FIELDS, RingVisitor(PhantomData))
    }
}

/// Reads any form. In a codec that doesn't spell names, the format says whether tokens follow. In a
/// codec that keeps the order of fields, the format is checked before anything else is read.
struct RingVisitor<H>(PhantomData<H>);

impl<'de, H: KeyHasher + Deserialize<'de>> Visitor<'de> for RingVisitor<H> {
    type Value = HashRing<H>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a hash ring")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut fields: A) -> Result<Self::Value, A::Error> {
        let format: Format = next(&mut fields, 0)?;
        let hasher = next(&mut fields, 1)?;
        let virtual_nodes = next(&mut fields, 2)?;
        let nodes = next(&mut fields, 3)?;
        let tokens = match format.placement {
            Placement::Hashed => None,
            Placement::Balanced => Some(next(&mut fields, 4)?),
        };
        AnyForm { format, hasher, virtual_nodes, nodes, tokens }.check()
    }

    fn visit_map<A: MapAccess<'de>>(self, fields: A) -> Result<Self::Value, A::Error> {
        AnyForm::deserialize(MapAccessDeserializer::new(fields))?.check()
    }
}

fn next<'de, A: SeqAccess<'de>, T: Deserialize<'de>>(fields: &mut A, index: usize) -> Result<T, A::Error> {
    fields.next_element()?.ok_or_else(|| de::Error::invalid_length(index, &"a hash ring's fields"))
}

/// What was read, of any form, not yet checked.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AnyForm<H> {
    format: Format,
    hasher: H,
    virtual_nodes: u32,
    nodes: Vec<Node>,
    #[serde(default = "Option::default")]
    tokens: Option<Vec<(Position, u32)>>,
}

impl<H: KeyHasher> AnyForm<H> {
    fn check<E: de::Error>(self) -> Result<HashRing<H>, E> {
        let Self { format, hasher, virtual_nodes, nodes, tokens } = self;
        if !format.may_drain
            && let Some(node) = nodes.iter().find(|node| node.is_draining())
        {
            return Err(E::custom(RingError::DrainingOutOfFormat { id: node.id().clone() }));
        }
        let ring = match (format.placement, tokens) {
            (Placement::Hashed, None) => HashRing::from_parts(nodes, Placement::Hashed, virtual_nodes, hasher),
            (Placement::Balanced, Some(tokens)) => HashRing::from_tokens(nodes, tokens, virtual_nodes, hasher),
            (Placement::Hashed, Some(_)) => return Err(E::unknown_field("tokens", &FIELDS[..4])),
            (Placement::Balanced, None) => return Err(E::missing_field("tokens")),
        };
        ring.map_err(E::custom)
    }
}

/// The format version: what is written of a ring.
#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(try_from = "u32", into = "u32")]
struct Format {
    placement: Placement,
    /// Whether nodes may be draining.
    may_drain: bool,
}

impl Format {
    fn of<H>(ring: &HashRing<H>) -> Self {
        Self { placement: ring.placement(), may_drain: ring.nodes().iter().any(Node::is_draining) }
    }
}

impl From<Format> for u32 {
    fn from(format: Format) -> Self {
        match (format.placement, format.may_drain) {
            (Placement::Hashed, false) => FORMAT_VERSION,
            (Placement::Balanced, false) => BALANCED_FORMAT_VERSION,
            (Placement::Hashed, true) => DRAINING_FORMAT_VERSION,
            (Placement::Balanced, true) => DRAINING_BALANCED_FORMAT_VERSION,
        }
    }
}

impl TryFrom<u32> for Format {
    type Error = RingError;

    fn try_from(found: u32) -> Result<Self, RingError> {
        let (placement, may_drain) = match found {
            FORMAT_VERSION => (Placement::Hashed, false),
            BALANCED_FORMAT_VERSION => (Placement::Balanced, false),
            DRAINING_FORMAT_VERSION => (Placement::Hashed, true),
            DRAINING_BALANCED_FORMAT_VERSION => (Placement::Balanced, true),
            _ => return Err(RingError::UnsupportedFormat { found }),
        };
        Ok(Self { placement, may_drain })
    }
}
