//! A ring with pins.

use serde::{Deserialize, Deserializer, Serialize, Serializer, de, ser::SerializeStruct};

use super::{Pins, only};
use crate::ring::{
    HashRing, HeldRing, KeyHasher, Node, NodeId, Position, PositionRange, RangeSet, RingError, RingKey,
    replicas::rounds_from,
};

/// A ring of which some positions are [pinned](Pins) to a node. All others are owned as on the ring,
/// which itself stays as it is.
///
/// Each pin is to a member. So a pinned node can't leave: [`remove`](Self::remove) and
/// [`new`](Self::new) refuse that, until its pins are [released](Self::release) or set to another
/// node. No pin is dropped silently, because its keys would silently go elsewhere.
///
/// It owns its ring, or [holds](HeldRing) one that others use, such as a version of a
/// [`SharedRing`](crate::ring::SharedRing). With P pinned ranges, a look-up takes O(log P) more than
/// on the ring. It serialises as its ring and its pins, each with a format of its own.
///
/// ```
/// use ringpact::ring::{HashRing, PinnedRing, Pins, RingError};
///
/// let mut ring = PinnedRing::new(HashRing::new(["small", "large"])?, Pins::new())?;
/// ring.pin("celebrity", "large")?;
/// assert_eq!(ring.owner("celebrity").id(), "large");
/// assert_eq!(ring.owner("user:42"), ring.ring().owner("user:42"));
///
/// assert_eq!(ring.pin("celebrity", "huge"), Err(RingError::UnknownNode { id: "huge".into() }));
/// assert_eq!(ring.remove("large"), Err(RingError::PinnedNode { id: "large".into() }));
/// ring.release("large");
/// ring.remove("large")?;
/// assert_eq!(ring.owner("celebrity").id(), "small");
/// # Ok::<(), RingError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PinnedRing<R> {
    held: R,
    /// Only to members of the ring.
    pins: Pins,
}

impl<R: HeldRing> PinnedRing<R> {
    /// Returns the ring with these pins. O(P log N).
    ///
    /// # Errors
    ///
    /// [`RingError::PinnedNode`] if a pin is to a node that is not a member. To go over to a ring
    /// without that node, [release](Pins::release) its pins first.
    pub fn new(ring: R, pins: Pins) -> Result<Self, RingError> {
        pins.check(ring.ring())?;
        Ok(Self { held: ring, pins })
    }

    /// Returns the ring and the pins.
    #[must_use]
    pub fn into_parts(self) -> (R, Pins) {
        (self.held, self.pins)
    }

    /// Returns the ring without its pins.
    #[must_use]
    pub fn ring(&self) -> &HashRing<R::Hasher> {
        self.held.ring()
    }

    /// Returns the holder of the ring.
    #[must_use]
    pub fn held(&self) -> &R {
        &self.held
    }

    /// Returns the pins.
    #[must_use]
    pub fn pins(&self) -> &Pins {
        &self.pins
    }

    /// Returns the node that `position` is held on, or else the node that owns it on the ring.
    /// O(log P), and O(log N) if there is a pin.
    #[must_use]
    pub fn owner_at(&self, position: Position) -> &Node {
        self.pinned_at(position).unwrap_or_else(|| self.ring().owner_at(position))
    }

    /// Returns the node that `position` is held on, or `None` if it has no pin.
    #[must_use]
    pub fn pinned_at(&self, position: Position) -> Option<&Node> {
        self.pins.get(position).and_then(|id| self.ring().node(id))
    }

    /// Returns the nodes that `position` belongs to, in order of preference: the node that it is
    /// held on, and then those of the [ring](HashRing::replicas_at).
    pub fn replicas_at(&self, position: Position) -> impl Iterator<Item = &Node> + Clone {
        let pinned = self.pinned_at(position);
        let others =
            self.ring().replicas_at(position).filter(move |node| pinned.is_none_or(|pinned| pinned.id() != node.id()));
        pinned.into_iter().chain(others)
    }

    /// Returns the nodes that `position` belongs to, spread evenly over the zones: the node that it
    /// is held on, and then the others in [rounds](crate::ring::ZoneReplicas), as if a walk came to
    /// that node first.
    pub fn replicas_across_zones_at(&self, position: Position) -> impl Iterator<Item = &Node> + Clone {
        let (members, table) = self.ring().parts();
        let pinned = self.pins.get(position).and_then(|id| members.index_of(id.as_str()).ok());
        let pinned = pinned.map(|index| rounds_from(members, table.walk(position), members.slot(index)));
        let unpinned = pinned.is_none().then(|| self.ring().replicas_across_zones_at(position));
        pinned.into_iter().flatten().chain(unpinned.into_iter().flatten())
    }

    /// Returns the node that a new key at `position` goes to: the first of
    /// [`replicas_at`](Self::replicas_at) that isn't draining, or `None` if all are.
    #[must_use]
    pub fn owner_for_new_at(&self, position: Position) -> Option<&Node> {
        self.replicas_at(position).find(|node| !node.is_draining())
    }

    /// Holds a range on the member with this id, in place of the pins that it has.
    ///
    /// # Errors
    ///
    /// [`RingError::UnknownNode`] if there is no such member. The pins are then unchanged.
    pub fn pin_range(&mut self, range: PositionRange, id: impl Into<NodeId>) -> Result<(), RingError> {
        let id = id.into();
        if self.ring().node(&id).is_none() {
            return Err(RingError::UnknownNode { id });
        }
        self.pins.pin_range(range, id);
        Ok(())
    }

    /// Removes the pins of a range, and leaves what reaches beyond it.
    pub fn unpin_range(&mut self, range: PositionRange) {
        self.pins.unpin_range(range);
    }

    /// Removes all pins to the node with this id, and returns what they held. O(P log P).
    pub fn release(&mut self, id: impl AsRef<str>) -> RangeSet {
        self.pins.release(id)
    }
}

impl<R: HeldRing<Hasher: KeyHasher>> PinnedRing<R> {
    /// Returns the node that `key` is held on, or else the node that owns it on the ring.
    #[must_use]
    pub fn owner<K: RingKey>(&self, key: K) -> &Node {
        self.owner_at(self.ring().position(key))
    }

    /// Returns the nodes that `key` belongs to, in order of preference: the node that it is held on,
    /// and then those of the ring.
    pub fn replicas<K: RingKey>(&self, key: K) -> impl Iterator<Item = &Node> + Clone + use<'_, R, K> {
        self.replicas_at(self.ring().position(key))
    }

    /// Returns the nodes that `key` belongs to, spread evenly over the zones; see
    /// [`replicas_across_zones_at`](Self::replicas_across_zones_at).
    pub fn replicas_across_zones<K: RingKey>(&self, key: K) -> impl Iterator<Item = &Node> + Clone + use<'_, R, K> {
        self.replicas_across_zones_at(self.ring().position(key))
    }

    /// Returns the node that `key` goes to if it is new; see
    /// [`owner_for_new_at`](Self::owner_for_new_at).
    #[must_use]
    pub fn owner_for_new<K: RingKey>(&self, key: K) -> Option<&Node> {
        self.owner_for_new_at(self.ring().position(key))
    }

    /// Holds a key on the member with this id, in place of the pin that it has. It is a pin of the
    /// key's position: if the hasher sends another key to the same position, it is held, too.
    ///
    /// # Errors
    ///
    /// [`RingError::UnknownNode`] if there is no such member. The pins are then unchanged.
    pub fn pin<K: RingKey>(&mut self, key: K, id: impl Into<NodeId>) -> Result<(), RingError> {
        self.pin_range(only(self.ring().position(key)), id)
    }

    /// Removes the pin of a key.
    pub fn unpin<K: RingKey>(&mut self, key: K) {
        self.pins.unpin_position(self.ring().position(key));
    }
}

/// Changes of a ring of its own.
impl<H: KeyHasher> PinnedRing<HashRing<H>> {
    /// Adds a node; see [`HashRing::add`]. What is pinned stays where it is.
    ///
    /// # Errors
    ///
    /// The errors of [`HashRing::add`].
    pub fn add(&mut self, node: impl Into<Node>) -> Result<(), RingError> {
        self.held.add(node)
    }

    /// Removes a node, and returns it; see [`HashRing::remove`]. O(P) more than that.
    ///
    /// # Errors
    ///
    /// [`RingError::PinnedNode`] if positions are held on the node: [release](Self::release) them, or
    /// pin them to another node. The errors of [`HashRing::remove`].
    pub fn remove(&mut self, id: impl AsRef<str>) -> Result<Node, RingError> {
        let id = id.as_ref();
        if self.pins.iter().any(|(_, pinned)| pinned.as_str() == id) {
            return Err(RingError::PinnedNode { id: id.into() });
        }
        self.held.remove(id)
    }

    /// Changes the weight, zone or draining mark of a member; see [`HashRing::replace`]. What is
    /// pinned stays where it is.
    ///
    /// # Errors
    ///
    /// The errors of [`HashRing::replace`].
    pub fn replace(&mut self, node: impl Into<Node>) -> Result<Node, RingError> {
        self.held.replace(node)
    }
}

impl<R: HeldRing<Hasher: Serialize>> Serialize for PinnedRing<R> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut fields = serializer.serialize_struct("PinnedRing", 2)?;
        fields.serialize_field("ring", self.ring())?;
        fields.serialize_field("pins", &self.pins)?;
        fields.end()
    }
}

/// Checks what [`PinnedRing::new`] checks.
impl<'de, H: KeyHasher + Deserialize<'de>> Deserialize<'de> for PinnedRing<HashRing<H>> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(rename = "PinnedRing", deny_unknown_fields, bound = "H: KeyHasher + Deserialize<'de>")]
        struct Form<H> {
            ring: HashRing<H>,
            pins: Pins,
        }
        let Form { ring, pins } = Form::deserialize(deserializer)?;
        Self::new(ring, pins).map_err(de::Error::custom)
    }
}
