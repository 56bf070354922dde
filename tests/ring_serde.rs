//! A ring survives serialisation, and nothing that isn't a ring is taken for one.

mod ring_support;

use proptest::prelude::*;
use ring_support::{assert_same_ring, build, members};
use ringpact::ring::{HashRing, Modular, Node, Xxh3};
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
        // Whether these are rings doesn't matter, only that no panic comes of it.
        let _ = serde_json::from_slice::<HashRing>(&bytes);
        let _ = postcard::from_bytes::<HashRing>(&bytes);
        let _ = postcard::from_bytes::<HashRing<Modular>>(&bytes);
    }
}

/// JSON with a ring's fields and now and then a wrong value in one of them.
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
    let node = (or_odd(json!("a")), number, or_odd(json!("zone")))
        .prop_map(|(id, weight, zone)| json!({"id": id, "weight": weight, "zone": zone}));
    let nodes = prop::collection::vec(
        prop_oneof![3 => node, 3 => "[a-z]{0,3}".prop_map(|id| json!({"id": id})), 1 => or_odd(json!("x"))],
        0..4,
    );
    (or_odd(json!(1)), or_odd(json!({"xxh3_64": {"seed": 3}})), or_odd(json!(8)), nodes).prop_map(
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

#[test]
fn weight_and_zone_may_be_left_out() {
    let ring: HashRing = serde_json::from_value(valid()).unwrap();
    let expected = HashRing::new([Node::new("a"), Node::new("b").with_weight(2).with_zone("z")]).unwrap();
    assert_same_ring(&ring, &expected);
}

#[test]
fn every_field_is_checked_and_the_error_says_what_is_wrong() {
    let cases = [
        ("/format", json!(3), "format 3, this version reads formats 1 and 2"),
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
    assert_eq!(json["hasher"], json!({"modular": {"p": 101}}));
    assert_same_ring(&serde_json::from_value::<HashRing<Modular>>(json.clone()).unwrap(), &ring);

    let bytes = postcard::to_stdvec(&ring).unwrap();
    assert!(postcard::from_bytes::<HashRing>(&bytes).is_err(), "not even without names is it another's");

    json["hasher"] = json!({"modular": {"p": 1}});
    let error = serde_json::from_value::<HashRing<Modular>>(json).unwrap_err().to_string();
    assert!(error.contains("the modulus is 1"), "{error}");
}
