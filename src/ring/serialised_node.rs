//! The wire form of a node: its id, weight and zone, and its mark if it is draining.

use std::fmt;

use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{self, MapAccess, SeqAccess, Visitor, value::MapAccessDeserializer},
    ser::SerializeStruct,
};

use super::{Node, NodeId, Zone, node::UNIT_WEIGHT};

const FIELDS: &[&str] = &["id", "weight", "zone", "draining_weight", "draining"];

/// The weight of a draining node in codecs for machines. No ring accepts it.
const SEE_BEHIND: u32 = 0;

/// A node serialises as its id, weight and zone. If it is draining, in JSON and other formats for
/// people, `"draining":true` follows. In formats for machines, its weight follows as
/// `draining_weight`, and `weight` is 0. Some of these formats don't spell names: there, all other
/// nodes are written as if there were no mark, and a reader that doesn't know the mark gets a node
/// that no ring accepts.
///
/// If names are spelled, only the id has to be there: the weight is then 1, and there is no zone.
/// Unknown fields are refused. What is read is checked when the node enters a ring.
///
/// ```
/// use ringpact::ring::Node;
///
/// let node = Node::new("a").with_zone("eu-1");
/// assert_eq!(serde_json::to_string(&node)?, r#"{"id":"a","weight":1,"zone":"eu-1"}"#);
/// let draining = node.with_draining(true);
/// let json = r#"{"id":"a","weight":1,"zone":"eu-1","draining":true}"#;
/// assert_eq!(serde_json::to_string(&draining)?, json);
/// assert_eq!(serde_json::from_str::<Node>(json)?, draining);
/// # Ok::<(), serde_json::Error>(())
/// ```
impl Serialize for Node {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let named = serializer.is_human_readable();
        let is_behind = !named && (self.is_draining() || self.weight() == SEE_BEHIND);
        let fields = 3 + usize::from(is_behind || (named && self.is_draining()));
        let mut node = serializer.serialize_struct("Node", fields)?;
        node.serialize_field("id", self.id())?;
        node.serialize_field("weight", &if is_behind { SEE_BEHIND } else { self.weight() })?;
        node.serialize_field("zone", &self.zone())?;
        if is_behind {
            // A weight of 0 is a mistake of the caller, and stays one.
            node.serialize_field("draining_weight", &self.weight())?;
        } else if self.is_draining() {
            node.serialize_field("draining", &true)?;
        }
        node.end()
    }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_struct("Node", FIELDS, NodeVisitor)
    }
}

struct NodeVisitor;

impl<'de> Visitor<'de> for NodeVisitor {
    type Value = Node;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a node of a ring")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut fields: A) -> Result<Node, A::Error> {
        let id = fields.next_element()?.ok_or_else(|| de::Error::invalid_length(0, &"a node's fields"))?;
        let weight = fields.next_element()?.unwrap_or(UNIT_WEIGHT);
        let zone = fields.next_element()?.unwrap_or(None);
        let draining_weight = if weight == SEE_BEHIND { fields.next_element()? } else { None };
        Form { id, weight, zone, draining_weight, draining: false }.into_node()
    }

    fn visit_map<A: MapAccess<'de>>(self, fields: A) -> Result<Node, A::Error> {
        Form::deserialize(MapAccessDeserializer::new(fields))?.into_node()
    }
}

/// What was read.
#[derive(Deserialize)]
#[serde(rename = "Node", deny_unknown_fields)]
struct Form {
    id: NodeId,
    #[serde(default = "unit_weight")]
    weight: u32,
    #[serde(default)]
    zone: Option<Zone>,
    #[serde(default)]
    draining_weight: Option<u32>,
    #[serde(default)]
    draining: bool,
}

impl Form {
    fn into_node<E: de::Error>(self) -> Result<Node, E> {
        let Self { id, weight, zone, draining_weight, draining } = self;
        if weight != SEE_BEHIND && draining_weight.is_some() {
            return Err(E::custom(format_args!(
                "node `{id}` has a weight and a draining_weight: leave the second out, or make the first 0"
            )));
        }
        let is_draining = draining || draining_weight.is_some_and(|weight| weight != SEE_BEHIND);
        let node = Node::new(id).with_weight(draining_weight.unwrap_or(weight)).with_draining(is_draining);
        Ok(match zone {
            Some(zone) => node.with_zone(zone),
            None => node,
        })
    }
}

fn unit_weight() -> u32 {
    UNIT_WEIGHT
}
