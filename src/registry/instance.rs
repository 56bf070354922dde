//! What registers: one running copy of a service.

use std::sync::Arc;

use super::RegistryError;
use crate::ring::{Node, NodeId, Zone};

/// The longest address, in bytes.
pub const MAX_ADDRESS_BYTES: usize = 4096;

/// One running copy of a service: a [`Node`] for the ring, and how to reach it.
///
/// The address is yours: a host and port, a URL, or some JSON; the registry only hands it on. It has at most
/// [`MAX_ADDRESS_BYTES`] bytes and may be empty. Id, weight and zone are those of a node, with the same limits. All are
/// checked when the instance registers. Cloning is cheap (shared strings).
///
/// ```
/// use ringpact::registry::Instance;
///
/// let instance = Instance::new("goods-1", "10.0.0.7:80").with_weight(2).with_zone("eu-1");
/// assert_eq!(instance.node().weight(), 2);
/// assert_eq!(instance.address(), "10.0.0.7:80");
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Instance {
    node: Node,
    address: Arc<str>,
}

impl Instance {
    /// An instance of weight 1, in no known zone.
    pub fn new(id: impl Into<NodeId>, address: impl Into<Arc<str>>) -> Self {
        Self { node: Node::new(id), address: address.into() }
    }

    /// The same instance with another weight, which has to be at least 1.
    pub fn with_weight(self, weight: u32) -> Self {
        Self { node: self.node.with_weight(weight), ..self }
    }

    /// The same instance in this zone.
    pub fn with_zone(self, zone: impl Into<Zone>) -> Self {
        Self { node: self.node.with_zone(zone), ..self }
    }

    /// Unique among the live instances of a service.
    pub fn id(&self) -> &NodeId {
        self.node.id()
    }

    /// How to reach the instance.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// The instance's capacity, in units of your choice.
    pub fn weight(&self) -> u32 {
        self.node.weight()
    }

    /// The failure domain the instance runs in, if it is known.
    pub fn zone(&self) -> Option<&Zone> {
        self.node.zone()
    }

    /// The instance as a member of a ring.
    pub fn node(&self) -> &Node {
        &self.node
    }

    pub(super) fn check(&self) -> Result<(), RegistryError> {
        self.node.check().map_err(RegistryError::InvalidInstance)?;
        match self.address.len() {
            0..=MAX_ADDRESS_BYTES => Ok(()),
            length => Err(RegistryError::AddressTooLong { length }),
        }
    }
}
