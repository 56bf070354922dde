//! [`ByPosition`]: a map that can be exported, imported and discarded by ranges of positions.

use std::{collections::BTreeMap, fmt, ops::RangeInclusive};

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{
    participant::ServiceError,
    ring::{KeyHasher, Position, PositionRange, RingKey, Xxh3},
    sharding::{Export, Records},
};

/// A map from keys to values in the order of the keys' positions on a ring: what a [shard in
/// memory](crate::sharding::Shard) keeps its records in. A plain value, which serialises; a shard
/// keeps it behind a lock.
///
/// A look-up takes O(log n), the methods for ranges take O(log n + k) for k records of the range. Keys
/// with equal positions are different keys.
///
/// ```
/// use ringpact::{ring::{Position, PositionRange}, sharding::ByPosition};
///
/// let mut stock = ByPosition::<String, u64>::new();
/// stock.insert("apple".to_owned(), 3);
/// *stock.get_mut("apple").unwrap() += 1;
/// assert_eq!(stock.get("apple"), Some(&4));
///
/// let at = stock.position("apple");
/// stock.discard(PositionRange { start: Position::new(at.as_u64() - 1), end: at });
/// assert!(stock.is_empty());
/// ```
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(bound(
    serialize = "K: Serialize, V: Serialize, H: Serialize",
    deserialize = "K: Deserialize<'de> + Ord, V: Deserialize<'de>, H: Deserialize<'de>"
))]
pub struct ByPosition<K, V, H = Xxh3> {
    /// The values of all keys of a position. Usually one.
    positions: BTreeMap<u64, BTreeMap<K, V>>,
    hasher: H,
}

impl<K, V> ByPosition<K, V> {
    /// Returns an empty map for rings with the default hasher.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }
}

impl<K, V, H> ByPosition<K, V, H> {
    /// Returns an empty map for rings with this hasher.
    pub const fn with_hasher(hasher: H) -> Self {
        Self { positions: BTreeMap::new(), hasher }
    }

    /// Whether the map has no keys.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.positions.is_empty()
    }

    /// Returns the number of keys. O(n).
    #[must_use]
    pub fn len(&self) -> usize {
        self.positions.values().map(BTreeMap::len).sum()
    }

    /// Returns all keys and values, in the order of positions.
    pub fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.positions.values().flatten()
    }

    /// Deletes all keys of the range: what [`Shard::discard`](crate::sharding::Shard::discard) does.
    pub fn discard(&mut self, range: PositionRange) {
        for segment in range.segments() {
            let inside: Vec<u64> = self.positions.range(segment).map(|(position, _)| *position).collect();
            for position in inside {
                self.positions.remove(&position);
            }
        }
    }
}

impl<K: Ord, V, H: KeyHasher> ByPosition<K, V, H> {
    /// Returns the position of a key.
    pub fn position<Q: RingKey + ?Sized>(&self, key: &Q) -> Position {
        self.hasher.hash_key(key.key_bytes().as_ref())
    }

    /// Returns the value of the key.
    pub fn get<Q>(&self, key: &Q) -> Option<&V>
    where
        K: std::borrow::Borrow<Q>,
        Q: RingKey + Ord + ?Sized,
    {
        self.positions.get(&self.position(key).as_u64())?.get(key)
    }

    /// Returns the value of the key, to change it.
    pub fn get_mut<Q>(&mut self, key: &Q) -> Option<&mut V>
    where
        K: std::borrow::Borrow<Q>,
        Q: RingKey + Ord + ?Sized,
    {
        let position = self.position(key).as_u64();
        self.positions.get_mut(&position)?.get_mut(key)
    }

    /// Gives the key this value, and returns the one that it had.
    pub fn insert(&mut self, key: K, value: V) -> Option<V>
    where
        K: RingKey,
    {
        let position = self.position(&key).as_u64();
        self.positions.entry(position).or_default().insert(key, value)
    }

    /// Returns the value of the key, to change it. A key that is not there gets the value that
    /// `default` returns.
    pub fn get_or_insert_with(&mut self, key: K, default: impl FnOnce() -> V) -> &mut V
    where
        K: RingKey,
    {
        let position = self.position(&key).as_u64();
        self.positions.entry(position).or_default().entry(key).or_insert_with(default)
    }

    /// Takes the key and its value out.
    pub fn remove<Q>(&mut self, key: &Q) -> Option<V>
    where
        K: std::borrow::Borrow<Q>,
        Q: RingKey + Ord + ?Sized,
    {
        let position = self.position(key).as_u64();
        let keys = self.positions.get_mut(&position)?;
        let value = keys.remove(key);
        if keys.is_empty() {
            self.positions.remove(&position);
        }
        value
    }
}

/// The rest of what a [`Shard`](crate::sharding::Shard) needs.
impl<K: Serialize + DeserializeOwned + Ord + RingKey, V: Serialize + DeserializeOwned, H: KeyHasher>
    ByPosition<K, V, H>
{
    /// Passes all records of the range on: what [`Shard::export`](crate::sharding::Shard::export) does.
    ///
    /// # Errors
    ///
    /// A key or value can't be encoded.
    pub fn export(&self, range: PositionRange, into: &mut Export) -> Result<(), ServiceError> {
        let mut encoded = Vec::new();
        for (position, keys) in clockwise(range).flat_map(|part| self.positions.range(part)) {
            for record in keys {
                encoded.clear();
                encoded = postcard::to_extend(&record, encoded)?;
                if into.push(Position::new(*position), &encoded).is_break() {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// Puts the records in place of all keys of the range: what
    /// [`Shard::import`](crate::sharding::Shard::import) does.
    ///
    /// # Errors
    ///
    /// A record can't be decoded, or its key has another position: the two shards have different
    /// types of keys or values, or different hashers. The map is then as it was.
    pub fn import(&mut self, range: PositionRange, records: Records<'_>) -> Result<(), ServiceError> {
        let mut decoded = Vec::new();
        for (position, record) in records {
            let (key, value): (K, V) = postcard::from_bytes(record)?;
            if self.position(&key) != position || !range.contains(position) {
                return Err("a record came with the position of another key; both shards must use one hasher".into());
            }
            decoded.push((position, key, value));
        }
        self.discard(range);
        for (position, key, value) in decoded {
            self.positions.entry(position.as_u64()).or_default().insert(key, value);
        }
        Ok(())
    }
}

/// Returns the numbers of the range's positions, in the order in which they follow its start.
fn clockwise(range: PositionRange) -> impl Iterator<Item = RangeInclusive<u64>> {
    let (start, end) = (range.start.as_u64(), range.end.as_u64());
    let after_start = start.checked_add(1);
    if start < end {
        [after_start.map(|first| first..=end), None].into_iter().flatten()
    } else {
        [after_start.map(|first| first..=u64::MAX), Some(0..=end)].into_iter().flatten()
    }
}

impl<K, V, H: Default> Default for ByPosition<K, V, H> {
    fn default() -> Self {
        Self { positions: BTreeMap::new(), hasher: H::default() }
    }
}

impl<K: fmt::Debug, V: fmt::Debug, H> fmt::Debug for ByPosition<K, V, H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}
