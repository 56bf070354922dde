//! Placement is a specified function: these numbers may never change.
//!
//! A separate program computed them from the text of `src/docs/placement.md`, with the reference
//! implementation of XXH3 in C. They do not come from this crate.

use ringpact::ring::{DEFAULT_VIRTUAL_NODES, HashRing, KeyHasher, Modular, Node, Position, Xxh3};

#[test]
fn keys_go_where_xxh3_sends_them() {
    let long = [b'x'; 300];
    let vectors: &[(&[u8], u64, u64)] = &[
        (b"", 0x2d06800538d394c2, 0x913ae0873e9b7eb8),
        (b"a", 0xe6c632b61e964e1f, 0x9ed5888bc5a2a094),
        (b"user:42", 0x9fc1e605fa7174aa, 0xbdc1a8070c93c642),
        (&long, 0xa5d1b4607dc83554, 0x65afa05e0f083a41),
        ("ключ".as_bytes(), 0x9a137c08c1e55ede, 0x4a2d9d3b201cb410),
    ];
    for (key, pinned, seeded) in vectors {
        assert_eq!(Xxh3::default().hash_key(key), Position::new(*pinned));
        assert_eq!(Xxh3::with_seed(7).hash_key(key), Position::new(*seeded));
    }
}

#[test]
fn integer_keys_are_hashed_as_little_endian_bytes() {
    let ring = HashRing::new(["a"]).unwrap();
    assert_eq!(ring.position(42_u32), Position::new(0x2132b64814a1ad5d));
    assert_eq!(ring.position(42_u64), Position::new(0xd5a6f8c838df27c8));
    assert_eq!(ring.position(42_usize), ring.position(42_u64));
    assert_eq!(ring.position(-1_i64), Position::new(0x5111c7e47d784413));
    assert_eq!(ring.position(-1_isize), ring.position(u64::MAX));
    assert_eq!(ring.position(u128::MAX - 1), Position::new(0xfccda5e50c113104));
    assert_eq!(ring.position(-2_i128), ring.position(u128::MAX - 1));
}

#[test]
fn a_small_ring_has_these_tokens_and_owners() {
    let ring = HashRing::builder()
        .virtual_nodes(2)
        .nodes([Node::new("alpha"), Node::new("beta").with_weight(2), Node::new("gamma")])
        .build()
        .unwrap();

    let tokens: Vec<_> = ring.tokens().map(|token| (token.position.as_u64(), token.node.id().as_str())).collect();
    assert_eq!(
        tokens,
        [
            (0x00d376b31594f1d1, "gamma"),
            (0x101f81c668a8c7f7, "gamma"),
            (0x1032d8345d472520, "beta"),
            (0x33642112b2a178d3, "alpha"),
            (0x595817016bb97202, "beta"),
            (0x989f8b6b1e7a7005, "beta"),
            (0xa61895c3ff2f354a, "beta"),
            (0xfbb998c63b377b06, "alpha"),
        ]
    );

    let vectors = [
        ("user:0", 0x81044cdfb11efb2e, ["beta", "alpha", "gamma"]),
        ("user:1", 0x3b577afd7fed9501, ["beta", "alpha", "gamma"]),
        ("user:4", 0x2f1949dbafd6db0a, ["alpha", "beta", "gamma"]),
        ("user:5", 0x11579b35420cdafd, ["alpha", "beta", "gamma"]),
        ("user:7", 0x0067b227f59ee6b4, ["gamma", "beta", "alpha"]),
        ("", 0x2d06800538d394c2, ["alpha", "beta", "gamma"]),
        ("ключ", 0x9a137c08c1e55ede, ["beta", "alpha", "gamma"]),
    ];
    for (key, position, preference) in vectors {
        assert_eq!(ring.position(key), Position::new(position));
        assert_eq!(ring.owner(key).id(), preference[0]);
        assert!(ring.replicas(key).map(|node| node.id().as_str()).eq(preference));
    }
}

#[test]
fn a_position_belongs_to_the_first_token_at_or_after_it() {
    let ring = HashRing::builder().virtual_nodes(1).nodes(["alpha", "beta"]).build().unwrap();
    let tokens: Vec<_> = ring.tokens().collect();
    let [first, second] = tokens[..] else { panic!("two nodes of one token each") };
    let (first_at, second_at) = (first.position.as_u64(), second.position.as_u64());

    assert_eq!(ring.owner_at(Position::MIN), first.node);
    assert_eq!(ring.owner_at(Position::new(first_at)), first.node);
    assert_eq!(ring.owner_at(Position::new(first_at + 1)), second.node);
    assert_eq!(ring.owner_at(Position::new(second_at)), second.node);
    assert_eq!(ring.owner_at(Position::new(second_at + 1)), first.node);
    assert_eq!(ring.owner_at(Position::MAX), first.node);
}

#[test]
fn a_default_ring_of_ten_nodes_owns_these_keys() {
    assert_eq!(DEFAULT_VIRTUAL_NODES, 160);
    let ring = HashRing::new((0..10).map(|n| format!("node-{n}"))).unwrap();
    let (mut keys_of, mut digest) = ([0; 10], 0_u64);
    for key in 0..1_000_u64 {
        let owner: usize = ring.owner(key).id().as_str()["node-".len()..].parse().unwrap();
        keys_of[owner] += 1;
        digest = digest.wrapping_mul(31).wrapping_add(owner as u64);
    }
    assert_eq!(keys_of, [94, 102, 115, 99, 105, 111, 97, 89, 107, 81]);
    assert_eq!(digest, 0x698bd8ab134fb860);
}

#[test]
fn modular_is_x_mod_p_over_p() {
    let two_to_160_and_12345 = {
        let mut bytes = [0; 24];
        bytes[..2].copy_from_slice(&12345_u16.to_le_bytes());
        bytes[20] = 1;
        bytes
    };
    let keys: [&[u8]; 7] = [
        &0_u64.to_le_bytes(),
        &1_u64.to_le_bytes(),
        &6_u32.to_le_bytes(),
        &100_u32.to_le_bytes(),
        &12_345_678_901_234_567_890_u64.to_le_bytes(),
        &u128::MAX.to_le_bytes(),
        &two_to_160_and_12345,
    ];
    let vectors: [(u64, [u64; 7]); 5] = [
        (2, [0, 1 << 63, 0, 0, 0, 1 << 63, 1 << 63]),
        (
            7,
            [
                0,
                0x2492492492492492,
                0xdb6db6db6db6db6d,
                0x4924924924924924,
                0x2492492492492492,
                0x6db6db6db6db6db6,
                0xdb6db6db6db6db6d,
            ],
        ),
        (
            101,
            [0, 0x0288df0cac5b3f5d, 0x0f353a4c0a237c32, 0xfd7720f353a4c0a2, 0, 0xc83cd4e930288df0, 0x16cfd7720f353a4c],
        ),
        ((1 << 61) - 1, [0, 0x8, 0x30, 0x320, 0x5aa54c6758f856ba, 0x1f8, 0x200000181c8]),
        (u64::MAX - 58, [0, 0x1, 0x6, 0x64, 0xab54a98ceb1f0af9, 0xd98, 0xd9900003039]),
    ];
    for (p, positions) in vectors {
        let hasher = Modular::new(p).unwrap();
        for (key, position) in keys.into_iter().zip(positions) {
            assert_eq!(hasher.hash_key(key), Position::new(position), "p = {p}, key = {key:?}");
        }
    }
}

#[test]
fn modular_places_virtual_nodes_as_xxh3_does() {
    let formula = HashRing::builder().hasher(Modular::new(101).unwrap()).nodes(["a", "b"]).build().unwrap();
    let plain = HashRing::new(["a", "b"]).unwrap();
    assert!(formula.tokens().eq(plain.tokens()));
    assert_eq!(formula.position(7_u8), formula.position(7_u64), "the formula reads numbers, not bytes");
}

#[test]
fn fractions_cover_the_circle_and_never_reach_one() {
    assert_eq!(Position::MIN.as_fraction(), 0.0);
    assert_eq!(Position::new(1 << 62).as_fraction(), 0.25);
    assert!(Position::MAX.as_fraction() < 1.0);
    assert!(Position::MAX.as_fraction() > 0.999_999_999_999_999);
}
