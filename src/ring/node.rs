//! A ring's members.

use std::{borrow::Borrow, fmt, sync::Arc};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::RingError;

/// Maximum length of a node id or a zone, in bytes. It is enough for any host name (253) and for a
/// UUID, and short enough that an id can stand in an error message.
pub const MAX_NAME_BYTES: usize = 255;

/// The weight of a node if none is given.
pub(super) const UNIT_WEIGHT: u32 = 1;

/// Defines a name type that is cheap to clone (a clone shares the text) and prints, compares and
/// serialises as its string.
macro_rules! name {
    ($(#[$docs:meta])* $name:ident) => {
        $(#[$docs])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Arc<str>);

        impl $name {
            /// Returns the name as a string.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl From<&str> for $name {
            fn from(name: &str) -> Self {
                Self(name.into())
            }
        }

        impl From<String> for $name {
            fn from(name: String) -> Self {
                Self(name.into())
            }
        }

        impl From<&$name> for $name {
            fn from(name: &$name) -> Self {
                name.clone()
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl PartialEq<str> for $name {
            fn eq(&self, other: &str) -> bool {
                &*self.0 == other
            }
        }

        impl PartialEq<&str> for $name {
            fn eq(&self, other: &&str) -> bool {
                &*self.0 == *other
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&self.0, f)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer).map(Self::from)
            }
        }
    };
}

name! {
    /// A node's id, which alone places the node. Ids are ordered by their bytes. A clone shares the
    /// text.
    ///
    /// Choose a name that stays with the node's *data*: if a machine is replaced and its data
    /// restored, the new one takes over the id, and nothing moves. An id is checked when it enters
    /// a ring: there it has 1 to [`MAX_NAME_BYTES`] bytes.
    NodeId
}

name! {
    /// A failure domain: a rack, a data centre, an availability zone. It has no influence on
    /// placement. A clone shares the text.
    ///
    /// A zone is checked when its node enters a ring: there it has 1 to [`MAX_NAME_BYTES`] bytes.
    Zone
}

/// A member of a ring: an id, a weight, the zone it stands in, if it is known, and whether it is
/// draining. It is plain data: a clone is a copy that shares the texts.
///
/// The weight is absolute: a node has weight times [virtual
/// nodes](super::RingBuilder::virtual_nodes) tokens, whatever other nodes are in the ring. So
/// adding or removing a node, or changing its weight, never moves a token of another node. A node
/// of weight 2 owns twice the share of one of weight 1, on average.
///
/// A *draining* node keeps its tokens and all that it owns, but takes no new keys; see
/// [`HashRing::owner_for_new`](super::HashRing::owner_for_new).
///
/// Ids, weights and zones are checked when the node enters a ring.
///
/// ```
/// use ringpact::ring::Node;
///
/// let node = Node::new("cache-1").with_weight(2).with_zone("eu-1");
/// assert_eq!((node.id().as_str(), node.weight()), ("cache-1", 2));
/// assert_eq!(node, Node::new("cache-1").with_weight(2).with_zone("eu-1"));
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Node {
    id: NodeId,
    weight: u32,
    zone: Option<Zone>,
    draining: bool,
}

impl Node {
    /// Returns a node of weight 1, in no known zone, that is not draining.
    #[must_use]
    pub fn new(id: impl Into<NodeId>) -> Self {
        Self { id: id.into(), weight: UNIT_WEIGHT, zone: None, draining: false }
    }

    /// Returns the same node with another weight, which has to be at least 1.
    #[must_use]
    pub fn with_weight(self, weight: u32) -> Self {
        Self { weight, ..self }
    }

    /// Returns the same node in this zone.
    #[must_use]
    pub fn with_zone(self, zone: impl Into<Zone>) -> Self {
        Self { zone: Some(zone.into()), ..self }
    }

    /// Returns the same node, marked as draining or not.
    #[must_use]
    pub fn with_draining(self, draining: bool) -> Self {
        Self { draining, ..self }
    }

    /// Returns the id, which alone places the node.
    #[must_use]
    pub fn id(&self) -> &NodeId {
        &self.id
    }

    /// Returns the node's capacity in units of your choice. It is at least 1 in a ring.
    #[must_use]
    pub fn weight(&self) -> u32 {
        self.weight
    }

    /// Returns the failure domain that the node stands in, if it is known.
    #[must_use]
    pub fn zone(&self) -> Option<&Zone> {
        self.zone.as_ref()
    }

    /// Whether the node keeps what it owns, but takes no new keys.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.draining
    }

    /// Checks what a ring demands of every single node.
    pub(crate) fn check(&self) -> Result<(), RingError> {
        let valid = 1..=MAX_NAME_BYTES;
        let length = self.id.as_str().len();
        if !valid.contains(&length) {
            return Err(RingError::InvalidNodeId { length });
        }
        if let Some(length) = self.zone.as_ref().map(|zone| zone.as_str().len())
            && !valid.contains(&length)
        {
            return Err(RingError::InvalidZone { id: self.id.clone(), length });
        }
        if self.weight == 0 {
            return Err(RingError::ZeroWeight { id: self.id.clone() });
        }
        Ok(())
    }
}

/// Where a node is expected, an id stands for a node of weight 1.
impl<I: Into<NodeId>> From<I> for Node {
    fn from(id: I) -> Self {
        Self::new(id)
    }
}
