//! What can be looked up: anything that can spell itself as bytes.

/// A key: a value that is, or spells, a sequence of bytes.
///
/// The bytes go to the hash as they are: no length prefix, no terminator, no allocation.
/// [`std::hash::Hash`] is deliberately not used, because what it passes to a hasher isn't
/// specified.
///
/// | type | bytes |
/// |---|---|
/// | `str`, `String` | UTF-8 |
/// | `[u8]`, `[u8; N]`, `Vec<u8>` | themselves |
/// | `u8` to `u128`, `i8` to `i128` | little-endian, as many bytes as the type has |
/// | `usize`, `isize` | as `u64`, `i64`, so that they don't depend on the machine |
/// | `&K` | those of `K` |
///
/// So `"ab"`, `b"ab"` and `String::from("ab")` are one key. `7_u32` and `7_u64` are two keys: give
/// integers a width.
///
/// A key type of your own must spell its bytes without ambiguity:
///
/// ```
/// use ringpact::ring::{HashRing, RingKey};
///
/// struct OrderId(u64);
///
/// impl RingKey for OrderId {
///     type Bytes<'a> = [u8; 8];
///     fn key_bytes(&self) -> [u8; 8] {
///         self.0.to_le_bytes()
///     }
/// }
///
/// let ring = HashRing::new(["a", "b", "c"])?;
/// assert_eq!(ring.owner(OrderId(7)), ring.owner(7_u64));
/// # Ok::<(), ringpact::ring::RingError>(())
/// ```
pub trait RingKey {
    /// The type of the bytes: borrowed from the key, or an array.
    type Bytes<'a>: AsRef<[u8]>
    where
        Self: 'a;

    /// Returns the bytes that stand for this key. Equal keys must always spell equal bytes.
    fn key_bytes(&self) -> Self::Bytes<'_>;
}

impl<K: RingKey + ?Sized> RingKey for &K {
    type Bytes<'a>
        = K::Bytes<'a>
    where
        Self: 'a;

    #[inline]
    fn key_bytes(&self) -> Self::Bytes<'_> {
        (**self).key_bytes()
    }
}

macro_rules! borrowed_bytes {
    ($($key:ty => $bytes:expr),* $(,)?) => { $(
        impl RingKey for $key {
            type Bytes<'a> = &'a [u8];

            #[inline]
            fn key_bytes(&self) -> &[u8] {
                let bytes: fn(&$key) -> &[u8] = $bytes;
                bytes(self)
            }
        }
    )* };
}

borrowed_bytes! {
    str => |key| key.as_bytes(),
    String => |key| key.as_bytes(),
    [u8] => |key| key,
    Vec<u8> => |key| key,
}

impl<const N: usize> RingKey for [u8; N] {
    type Bytes<'a> = &'a [u8];

    #[inline]
    fn key_bytes(&self) -> &[u8] {
        self
    }
}

macro_rules! integer_keys {
    ($($integer:ty as $spelled:ty),* $(,)?) => { $(
        impl RingKey for $integer {
            type Bytes<'a> = [u8; size_of::<$spelled>()];

            #[inline]
            fn key_bytes(&self) -> Self::Bytes<'_> {
                (*self as $spelled).to_le_bytes()
            }
        }
    )* };
}

integer_keys! {
    u8 as u8, u16 as u16, u32 as u32, u64 as u64, u128 as u128, usize as u64,
    i8 as i8, i16 as i16, i32 as i32, i64 as i64, i128 as i128, isize as i64,
}
