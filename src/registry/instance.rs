//! One running copy of a service, which registers.

use std::sync::Arc;

use super::RegistryError;
use crate::ring::{Node, NodeId, Zone};

/// Maximum length of an address, in bytes.
pub const MAX_ADDRESS_BYTES: usize = 4096;

/// One running copy of a service: a [`Node`] for the ring, and its address. It is plain data; a
/// clone is cheap, because it shares the texts.
///
/// The address can be any text: a host and port, a URL, or some JSON. The registry only passes it
/// on. It has at most [`MAX_ADDRESS_BYTES`] bytes and may be empty. Id, weight, zone and draining
/// mark are those of a node, with the same limits. All are checked when the instance registers. To
/// change one of them, the instance registers again.
///
/// ```
/// use ringpact::registry::Instance;
///
/// let instance = Instance::new("goods-1", "10.0.0.7:80").with_weight(2).with_zone("eu-1");
/// assert_eq!(instance.node().weight(), 2);
/// assert_eq!(instance.address(), "10.0.0.7:80");
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Instance {
    node: Node,
    address: Arc<str>,
}

impl Instance {
    /// Returns an instance of weight 1, in no known zone, that is not draining.
    #[must_use]
    pub fn new(id: impl Into<NodeId>, address: impl Into<Arc<str>>) -> Self {
        Self { node: Node::new(id), address: address.into() }
    }

    /// Returns the same instance with another weight, which has to be at least 1.
    #[must_use]
    pub fn with_weight(self, weight: u32) -> Self {
        Self { node: self.node.with_weight(weight), ..self }
    }

    /// Returns the same instance in this zone.
    #[must_use]
    pub fn with_zone(self, zone: impl Into<Zone>) -> Self {
        Self { node: self.node.with_zone(zone), ..self }
    }

    /// Returns the same instance, marked as draining or not. A draining instance stays in the ring of
    /// a [follower](super::RingFollower), where it keeps what it owns and [takes no new
    /// keys](crate::ring::HashRing::owner_for_new).
    #[must_use]
    pub fn with_draining(self, draining: bool) -> Self {
        Self { node: self.node.with_draining(draining), ..self }
    }

    /// Returns the id, which is unique among the live instances of a service.
    #[must_use]
    pub fn id(&self) -> &NodeId {
        self.node.id()
    }

    /// Returns the address of the instance.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Returns the instance's capacity, in units of your choice.
    #[must_use]
    pub fn weight(&self) -> u32 {
        self.node.weight()
    }

    /// Returns the failure domain that the instance runs in, if it is known.
    #[must_use]
    pub fn zone(&self) -> Option<&Zone> {
        self.node.zone()
    }

    /// Whether the instance keeps what it owns, but takes no new keys.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.node.is_draining()
    }

    /// Returns the instance as a member of a ring.
    #[must_use]
    pub fn node(&self) -> &Node {
        &self.node
    }

    /// Checks id, zone, weight and address.
    pub(super) fn check(&self) -> Result<(), RegistryError> {
        self.node.check().map_err(RegistryError::InvalidInstance)?;
        match self.address.len() {
            0..=MAX_ADDRESS_BYTES => Ok(()),
            length => Err(RegistryError::AddressTooLong { length }),
        }
    }
}
