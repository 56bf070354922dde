//! A ring survives serialisation, and input that is not a ring is refused.

use crate::support::{assert_same_ring, build, members};
use proptest::prelude::*;
use ringpact::ring::{HashRing, Modular, Node, Placement, RingEpoch, Xxh3};
use ringpact::{Epoch, TxnOrdinal, log::Lsn};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};

proptest! {
    #[test]
    fn a_ring_comes_back_as_it_went(nodes in members(), virtual_nodes in 1..20_u32, seed: u64) {
        let ring = build(&nodes, virtual_nodes, Xxh3::with_seed(seed));
        let json = serde_json::to_string(&ring).unwrap();
        assert_same_ring(&serde_json::from_str::<HashRing>(&json).unwrap(), &ring);
        let bytes = postcard::to_stdvec(&ring).unwrap();
        assert_same_ring(&postcard::from_bytes::<HashRing>(&bytes).unwrap(), &ring);
    }

    #[test]
    fn arbitrary_input_is_an_error_or_a_sound_ring(value in nearly_a_ring(), bytes: Vec<u8>) {
        if let Ok(ring) = serde_json::from_value::<HashRing>(value) {
            prop_assert_eq!(ring.owner("key"), ring.replicas("key").next().unwrap());
        }
        // It doesn't matter whether these bytes are a ring, only that reading them does not panic.
        let _ = serde_json::from_slice::<HashRing>(&bytes);
        let _ = postcard::from_bytes::<HashRing>(&bytes);
        let _ = postcard::from_bytes::<HashRing<Modular>>(&bytes);
    }
}

/// JSON with the fields of a ring. Some have a wrong value.
fn nearly_a_ring() -> impl Strategy<Value = Value> {
    let number =
        prop_oneof![Just(json!(0)), Just(json!(1)), Just(json!(-1)), Just(json!(4294967295_u32)), Just(json!(1.5))];
    let odd = prop_oneof![
        number.clone(),
        Just(Value::Null),
        Just(json!("")),
        Just(json!([])),
        Just(json!({})),
        "[a-z]{0,3}".prop_map(Value::from)
    ];
    let or_odd = move |usual: Value| prop_oneof![4 => Just(usual), 1 => odd.clone()];
    let node = (or_odd(json!("a")), number, or_odd(json!("zone")), or_odd(json!(true))).prop_map(
        |(id, weight, zone, draining)| json!({"id": id, "weight": weight, "zone": zone, "draining": draining}),
    );
    let nodes = prop::collection::vec(
        prop_oneof![3 => node, 3 => "[a-z]{0,3}".prop_map(|id| json!({"id": id})), 1 => or_odd(json!("x"))],
        0..4,
    );
    (prop_oneof![or_odd(json!(1)), or_odd(json!(3))], or_odd(json!({"xxh3_64": {"seed": 3}})), or_odd(json!(8)), nodes).prop_map(
        |(format, hasher, virtual_nodes, nodes)| {
            json!({"format": format, "hasher": hasher, "virtual_nodes": virtual_nodes, "nodes": nodes})
        },
    )
}

fn valid() -> Value {
    json!({
        "format": 1,
        "hasher": {"xxh3_64": {"seed": 0}},
        "virtual_nodes": 160,
        "nodes": [{"id": "a"}, {"id": "b", "weight": 2, "zone": "z"}],
    })
}

/// Does to JSON what JavaScript, jq and others do: every number becomes a double, and is written
/// with as many digits as it takes.
fn through_doubles(json: &mut Value) {
    match json {
        Value::Number(number) => {
            let digits = number.as_f64().unwrap().to_string();
            *json = serde_json::from_str(&digits).unwrap();
        }
        Value::Array(values) => values.iter_mut().for_each(through_doubles),
        Value::Object(fields) => fields.values_mut().for_each(through_doubles),
        _ => {}
    }
}

#[test]
fn a_ring_survives_tools_that_keep_numbers_as_doubles() {
    let seeded = build(&[Node::new("a"), Node::new("b")], 4, Xxh3::with_seed(u64::MAX - 1));
    let balanced = HashRing::builder().placement(Placement::Balanced).nodes(["a", "b", "c"]).build().unwrap();
    for ring in [seeded, balanced] {
        let mut json = serde_json::to_value(&ring).unwrap();
        through_doubles(&mut json);
        let text = serde_json::to_string(&json).unwrap();
        assert_same_ring(&serde_json::from_str::<HashRing>(&text).unwrap(), &ring);
    }
    let modular = HashRing::builder().hasher(Modular::new((1 << 61) - 1).unwrap()).node("a").build().unwrap();
    let mut json = serde_json::to_value(&modular).unwrap();
    through_doubles(&mut json);
    assert_same_ring(&serde_json::from_value::<HashRing<Modular>>(json).unwrap(), &modular);
}

#[test]
fn numbers_that_may_have_been_rounded_are_refused() {
    let read = |seed: Value| {
        let mut ring = valid();
        ring["hasher"]["xxh3_64"]["seed"] = seed;
        serde_json::from_str::<HashRing>(&ring.to_string()).map(|ring| ring.hasher().seed())
    };
    let exact = (1_u64 << 53) - 1;
    assert_eq!(read(json!(exact)).unwrap(), exact, "what was written by hand is read");
    assert_eq!(read(json!("18446744073709551615")).unwrap(), u64::MAX);
    for rounded in [1_u64 << 53, 4_340_410_370_284_600_000, u64::MAX] {
        let error = read(json!(rounded)).unwrap_err().to_string();
        assert!(error.contains(&format!("write it as the text \"{rounded}\" if it is right")), "{error}");
    }
    for wrong in [
        json!(1.0),
        json!(-1),
        json!(1e19),
        json!(""),
        json!("007"),
        json!("+7"),
        json!("1e3"),
        json!("18446744073709551616"),
    ] {
        let error = read(wrong.clone()).unwrap_err().to_string();
        assert!(error.contains("a whole number of 64 bits"), "{wrong}: {error}");
    }
    let rounded = json!({
        "format": 2, "hasher": {"xxh3_64": {"seed": "0"}}, "virtual_nodes": 1, "nodes": [{"id": "a"}],
        "tokens": [[4_340_410_370_284_600_000_u64, 0]],
    });
    assert!(serde_json::from_value::<HashRing>(rounded).is_err());
}

/// Epochs, transactions and records count from 1: in JSON they stay numbers for as long as those
/// are exact.
#[test]
fn counters_are_numbers_while_those_are_exact() {
    fn check<T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug>(make: impl Fn(u64) -> T, path: &str) {
        for (number, shown) in [
            (0, json!(0)),
            ((1 << 53) - 1, json!(9_007_199_254_740_991_u64)),
            (1 << 53, json!("9007199254740992")),
            (u64::MAX, json!("18446744073709551615")),
        ] {
            let mut json = serde_json::to_value(make(number)).unwrap();
            assert_eq!(json.pointer(path).unwrap(), &shown);
            through_doubles(&mut json);
            assert_eq!(serde_json::from_value::<T>(json).unwrap(), make(number));
            let bytes = postcard::to_stdvec(&make(number)).unwrap();
            assert_eq!(postcard::from_bytes::<T>(&bytes).unwrap(), make(number));
            assert!(bytes.ends_with(&postcard::to_stdvec(&number).unwrap()), "bytes are those of the number");
        }
    }
    check(RingEpoch::new, "");
    check(Epoch::new, "");
    check(Lsn::new, "");
    check(|sequence| TxnOrdinal { epoch: Epoch::new(1), sequence }, "/sequence");
}

#[test]
fn weight_and_zone_may_be_left_out() {
    let ring: HashRing = serde_json::from_value(valid()).unwrap();
    let expected = HashRing::new([Node::new("a"), Node::new("b").with_weight(2).with_zone("z")]).unwrap();
    assert_same_ring(&ring, &expected);
}

#[test]
fn every_field_is_checked_and_the_error_says_what_is_wrong() {
    let cases = [
        ("/format", json!(5), "format 5, this version reads formats 1 to 4"),
        ("/format", json!(4), "missing field `tokens`"),
        (
            "/nodes/1",
            json!({"id": "b", "draining": true}),
            "node `b` is draining, which its format can't say: write format 3",
        ),
        ("/format", json!(2), "missing field `tokens`"),
        ("/nodes", json!([]), "at least one node"),
        ("/nodes/0/id", json!("b"), "has a node `b` already"),
        ("/nodes/0/id", json!(""), "1 to 255 bytes, this one has 0"),
        ("/nodes/1/zone", json!(""), "that of node `b` has 0"),
        ("/nodes/1/weight", json!(0), "node `b` has weight 0"),
        ("/nodes/1/weight", json!(4294967295_u32), "over the limit of 4194304"),
        ("/nodes/1/weight", json!(-1), "invalid value"),
        ("/nodes/1", json!({"id": "b", "colour": "red"}), "unknown field `colour`"),
        ("/virtual_nodes", json!(0), "at least 1 virtual node"),
        ("/virtual_nodes", json!(4294967295_u32), "over the limit of 4194304"),
        ("/hasher", json!({"modular": {"p": 7}}), "doesn't hash keys with xxh3_64"),
        ("/hasher", json!({"md5": {}}), "unknown variant `md5`"),
    ];
    for (field, wrong, message) in cases {
        let mut ring = valid();
        *ring.pointer_mut(field).unwrap() = wrong;
        let error = serde_json::from_value::<HashRing>(ring).unwrap_err().to_string();
        assert!(error.contains(message), "{field}: {error}");
    }
    for field in ["format", "hasher", "virtual_nodes", "nodes"] {
        let mut ring = valid();
        ring.as_object_mut().unwrap().remove(field);
        let error = serde_json::from_value::<HashRing>(ring).unwrap_err().to_string();
        assert!(error.contains(&format!("missing field `{field}`")), "{error}");
    }
}

#[test]
fn a_modular_ring_keeps_its_modulus() {
    let ring = HashRing::builder().hasher(Modular::new(101).unwrap()).node("a").build().unwrap();
    let mut json = serde_json::to_value(&ring).unwrap();
    assert_eq!(json["hasher"], json!({"modular": {"p": "101"}}));
    assert_same_ring(&serde_json::from_value::<HashRing<Modular>>(json.clone()).unwrap(), &ring);

    let bytes = postcard::to_stdvec(&ring).unwrap();
    assert!(
        postcard::from_bytes::<HashRing>(&bytes).is_err(),
        "nor is it read as another ring by a codec without names"
    );

    json["hasher"] = json!({"modular": {"p": 1}});
    let error = serde_json::from_value::<HashRing<Modular>>(json).unwrap_err().to_string();
    assert!(error.contains("the modulus is 1"), "{error}");
}
