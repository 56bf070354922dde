//! A key is its bytes, however it is held.

use ringpact::ring::{HashRing, KeyHasher, Position, RingKey};

/// Panics unless its input is exactly the bytes `ab`.
struct OnlyAb;

impl KeyHasher for OnlyAb {
    fn hash_key(&self, key: &[u8]) -> Position {
        assert_eq!(key, b"ab");
        Position::MIN
    }

    fn hash_token(&self, _encoded: &[u8]) -> Position {
        Position::MIN
    }
}

#[test]
fn strings_and_bytes_go_to_the_hash_as_they_are() {
    let ring = HashRing::builder().hasher(OnlyAb).node("n").build().unwrap();
    let (owned_text, owned_bytes) = ("ab".to_owned(), b"ab".to_vec());
    assert_eq!(ring.owner("ab").id(), "n");
    assert_eq!(ring.owner(&owned_text).id(), "n");
    assert_eq!(ring.owner(owned_text).id(), "n");
    assert_eq!(ring.owner(b"ab").id(), "n");
    assert_eq!(ring.owner(*b"ab").id(), "n");
    assert_eq!(ring.owner(&b"ab"[..]).id(), "n");
    assert_eq!(ring.owner(&owned_bytes).id(), "n");
    assert_eq!(ring.owner(owned_bytes).id(), "n");
    assert_eq!(ring.owner(u16::from_le_bytes(*b"ab")).id(), "n");
}

#[test]
fn integers_have_their_own_width_and_machine_words_have_eight_bytes() {
    assert_eq!(1_u8.key_bytes().len(), 1);
    assert_eq!((-1_i16).key_bytes(), [0xff, 0xff]);
    assert_eq!(0x0102_0304_u32.key_bytes(), [4, 3, 2, 1]);
    assert_eq!(1_u128.key_bytes().len(), 16);
    assert_eq!(1_usize.key_bytes(), 1_u64.to_le_bytes());
    assert_eq!((-1_isize).key_bytes(), [0xff; 8]);
}
