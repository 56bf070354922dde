//! Names and ids print and parse, each in exactly one form.

use proptest::prelude::*;
use ringpact::{BranchId, Epoch, IdError, Name, TxnId, id::MAX_NAME_BYTES};

fn names() -> impl Strategy<Value = Name> {
    "[A-Za-z0-9._-]{1,64}".prop_map(|text| Name::new(&text).expect("a valid name"))
}

fn txns() -> impl Strategy<Value = TxnId> {
    (names(), any::<u64>(), any::<u64>()).prop_map(|(name, epoch, n)| TxnId::new(name, Epoch::new(epoch), n))
}

proptest! {
    #[test]
    fn names_round_trip(name in names()) {
        prop_assert_eq!(name.to_string().parse::<Name>().unwrap(), name.clone());
        let encoded = postcard::to_stdvec(&name).unwrap();
        prop_assert_eq!(postcard::from_bytes::<Name>(&encoded).unwrap(), name);
    }

    #[test]
    fn ids_round_trip_and_fit_where_a_database_takes_them(txn in txns(), participant in names()) {
        let branch = txn.branch(&participant);
        prop_assert_eq!(txn.to_string().parse::<TxnId>().unwrap(), txn.clone());
        prop_assert_eq!(branch.to_string().parse::<BranchId>().unwrap(), branch.clone());
        prop_assert_eq!((branch.txn(), branch.participant()), (&txn, &participant));
        prop_assert!(branch.to_string().len() < 200, "PostgreSQL's limit for a prepared transaction");
    }

    /// A text that parses prints as it was given, so no id has two texts.
    #[test]
    fn any_text_is_the_one_form_of_an_id_or_none(text in "[a-c0-9+:. -]{0,12}|\\PC{0,24}") {
        if let Ok(name) = text.parse::<Name>() {
            prop_assert_eq!(name.to_string(), text.clone());
        }
        if let Ok(txn) = text.parse::<TxnId>() {
            prop_assert_eq!(txn.to_string(), text.clone());
        }
        if let Ok(branch) = text.parse::<BranchId>() {
            prop_assert_eq!(branch.to_string(), text.clone());
        }
    }

    /// With one character changed, removed or doubled, an id becomes another one or none, never the
    /// same.
    #[test]
    fn a_mistyped_id_is_another_or_none(branch in txns().prop_map(|txn| txn.branch(&Name::new("goods-3").unwrap())),
                                        at in any::<prop::sample::Index>(), with in "\\PC?") {
        let text = branch.to_string();
        let at = at.index(text.len()); // ids are ASCII, so every byte is a character
        let mistyped = format!("{}{with}{}", &text[..at], &text[at + 1..]);
        if mistyped != text {
            prop_assert_ne!(mistyped.parse::<BranchId>().ok(), Some(branch));
        }
    }

    #[test]
    fn ids_of_one_coordinator_are_ordered_by_their_beginning(a in any::<(u64, u64)>(), b in any::<(u64, u64)>()) {
        let id = |(epoch, n)| TxnId::new(Name::new("c").unwrap(), Epoch::new(epoch), n);
        prop_assert_eq!(id(a).cmp(&id(b)), a.cmp(&b));
        prop_assert_eq!(id(a).ordinal().cmp(&id(b).ordinal()), a.cmp(&b));
    }
}

#[test]
fn malformed_ids_are_refused() {
    let malformed = [
        "",
        ":",
        "::",
        ":::",
        "a",
        "a:1",
        "a:1:",
        "a::1",
        ":1:1",
        "a:1:1:",
        "a:1:1:b:c",
        "a:-1:1",
        "a:+1:1",
        "a:01:1",
        "a:1:00",
        "a: 1:1",
        "a:1:1 ",
        "a:0x1:1",
        "a:1:18446744073709551616",
        "a:1:1:b c",
        "a b:1:1",
        "ä:1:1",
        "a:1:1:ä",
    ];
    for text in malformed {
        assert!(text.parse::<TxnId>().is_err(), "{text:?} is taken for a transaction");
        assert!(text.parse::<BranchId>().is_err(), "{text:?} is taken for a branch");
    }
    assert!("a:1:18446744073709551615".parse::<TxnId>().is_ok());
    assert!(matches!("a:1".parse::<TxnId>(), Err(IdError::Malformed { form: "coordinator:epoch:sequence", .. })));
    assert!(matches!("a".parse::<BranchId>(), Err(IdError::Malformed { .. })));
}

#[test]
fn names_out_of_bounds_are_refused_and_say_why() {
    assert_eq!(Name::new(""), Err(IdError::NameLength { length: 0 }));
    let longest = "x".repeat(MAX_NAME_BYTES);
    assert_eq!(Name::new(&longest).unwrap().as_str(), longest);
    assert_eq!(Name::new(&format!("{longest}x")), Err(IdError::NameLength { length: MAX_NAME_BYTES + 1 }));
    let refused = Name::new("a/b").unwrap_err();
    assert_eq!(refused.to_string(), "name \"a/b\" holds '/'; use only letters A-Z a-z, digits, '.', '_' and '-'");
    // A name from an untrusted encoding is checked like any other.
    let encoded = postcard::to_stdvec("a/b").unwrap();
    assert!(postcard::from_bytes::<Name>(&encoded).is_err());
}

#[test]
fn names_are_compared_with_texts_and_made_of_them() {
    let name = Name::try_from("goods").unwrap();
    assert_eq!(name, "goods");
    assert_eq!(name, *"goods");
    assert_ne!(name, "Goods");
    assert_eq!(Name::try_from("a b"), Name::new("a b"));
    assert_eq!(Name::try_from("goods".to_owned()).unwrap(), name);
}

#[test]
fn names_of_the_program_are_held_to_the_same_rules() {
    let longest: &str = "x".repeat(MAX_NAME_BYTES).leak();
    assert_eq!(Name::from_static(longest), Name::new(longest).unwrap());
    let too_long = "x".repeat(MAX_NAME_BYTES + 1).leak();
    for refused in ["", "a/b", "\u{e4}", too_long] {
        assert!(Name::new(refused).is_err());
        assert!(std::panic::catch_unwind(|| Name::from_static(refused)).is_err(), "{refused:?} is taken for a name");
    }
}
