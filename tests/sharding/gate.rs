//! What a gate answers, in each state of a position: the table in its documentation.

use ringpact::{
    TxnId,
    participant::Effort::{self, ReadOnly, Update},
    ring::{NodeId, RangeSet},
    sharding::{Gate, GateImage, GateNote, GateRefusal, Tenure},
};

use crate::ledger::{only, position, txn};

const KEY: u32 = 5;

fn owner(tenure: u64) -> Gate {
    let mut image = GateImage::new();
    image.apply(&GateNote::Owned { ranges: RangeSet::full(), tenure: Tenure::new(tenure) });
    Gate::new(image)
}

fn admit(gate: &Gate, of: &TxnId, effort: Effort, known: u64) -> Result<u64, GateRefusal> {
    gate.admit(position(KEY), Tenure::new(known), of, effort).map(Tenure::as_u64)
}

fn not_owner(since: u64) -> Result<u64, GateRefusal> {
    Err(GateRefusal::NotOwner { since: Tenure::new(since), owner: NodeId::from("other") })
}

#[test]
fn each_state_has_its_answer() {
    let (holder, chunk, new) = (txn(1), txn(2), txn(3));
    let (moving, not_yet) = (Err(GateRefusal::Moving), Err(GateRefusal::NotYet));
    let mut gate = owner(3);
    for known in [0, 3, 9] {
        assert_eq!(admit(&gate, &new, Update, known), Ok(3), "owned, whatever the client knows");
        assert_eq!(admit(&gate, &new, ReadOnly, known), Ok(3));
    }
    assert_eq!(gate.enter(position(KEY), Tenure::new(3), &holder, Update), Ok(true));
    assert_eq!(gate.enter(position(KEY), Tenure::new(3), &holder, Update), Ok(false), "it has a hold already");
    assert_eq!(gate.enter(position(KEY), Tenure::new(3), &new, ReadOnly), Ok(false), "a read holds nothing");

    gate.freeze(&chunk, &only(KEY), Tenure::new(4)).unwrap();
    assert_eq!(admit(&gate, &holder, Update, 0), Ok(3), "frozen");
    assert_eq!(admit(&gate, &new, Update, 0), moving);
    assert_eq!(admit(&gate, &new, ReadOnly, 0), Ok(3));
    assert!(!gate.seal(&chunk));
    assert_eq!(gate.holders(&chunk), std::slice::from_ref(&holder));
    assert!(gate.drop_hold(position(KEY), &holder), "a hand-over waits for it");

    assert!(gate.seal(&chunk));
    for of in [&holder, &new] {
        assert_eq!(admit(&gate, of, Update, 0), moving, "sealed");
        assert_eq!(admit(&gate, of, ReadOnly, 0), moving);
    }
    assert!(gate.register(&chunk, &only(KEY)));
    gate.give_back(&chunk);
    assert!(gate.is_sealed(&chunk, &only(KEY)), "only the end of the branch lets work in");

    gate.release(&chunk, &only(KEY), Tenure::new(4), &NodeId::from("other"));
    for effort in [Update, ReadOnly] {
        for known in [0, 3, 4] {
            assert_eq!(admit(&gate, &new, effort, known), not_owner(4), "given away");
        }
        assert_eq!(admit(&gate, &new, effort, 5), not_yet, "on its way back");
    }

    let back = txn(4);
    gate.stage(&back, &only(KEY), Tenure::new(5), false).unwrap();
    assert!(!gate.is_staged(&back, &only(KEY)), "the records are not complete");
    gate.staged(&back);
    for effort in [Update, ReadOnly] {
        for known in [0, 9] {
            assert_eq!(admit(&gate, &new, effort, known), not_yet, "arriving");
        }
    }
    gate.open(&back, &only(KEY), Tenure::new(5));
    assert_eq!(admit(&gate, &new, Update, 0), Ok(5));
    assert_eq!(
        gate.enter(position(KEY), Tenure::new(3), &new, Update),
        Err(GateRefusal::Moving),
        "let in before it left"
    );
    assert!(!gate.is_current(position(KEY), Tenure::new(4)) && gate.is_current(position(KEY), Tenure::new(5)));
    let tenures = [KEY, KEY + 1].map(|key| gate.image().tenure(position(key)).map(Tenure::as_u64));
    assert_eq!(tenures, [Some(5), Some(3)]);
}

#[test]
fn a_shard_that_never_had_a_position_asks_for_patience() {
    let gate = Gate::new(GateImage::new());
    for effort in [Update, ReadOnly] {
        assert_eq!(admit(&gate, &txn(1), effort, 0), Err(GateRefusal::NotYet));
    }
}

#[test]
fn hand_overs_that_do_not_fit_are_refused() {
    let (one, two) = (txn(1), txn(2));
    let mut gate = owner(3);
    let both = RangeSet::from_iter(only(KEY).iter().chain(only(KEY + 1).iter()));
    assert_eq!(gate.freeze(&one, &RangeSet::new(), Tenure::new(4)), Err(GateRefusal::NotAllOwned));
    assert_eq!(gate.freeze(&one, &only(KEY), Tenure::new(3)), Err(GateRefusal::Outdated));
    assert_eq!(gate.stage(&one, &only(KEY), Tenure::new(4), false), Err(GateRefusal::Owned));
    gate.freeze(&one, &only(KEY), Tenure::new(4)).unwrap();
    assert_eq!(gate.freeze(&two, &both, Tenure::new(5)), Err(GateRefusal::Overlaps));
    assert_eq!(
        gate.freeze(&one, &only(KEY + 1), Tenure::new(4)),
        Err(GateRefusal::Overlaps),
        "one for each transaction"
    );
    gate.give_back(&one);
    gate.freeze(&two, &both, Tenure::new(5)).unwrap();
    assert!(!gate.register(&two, &both), "not sealed");
    assert!(gate.seal(&two) && gate.register(&two, &both) && !gate.register(&two, &only(KEY)));
    gate.release(&two, &both, Tenure::new(5), &NodeId::from("other"));
    assert_eq!(gate.freeze(&one, &both, Tenure::new(6)), Err(GateRefusal::NotAllOwned));
    assert_eq!(gate.stage(&one, &only(KEY), Tenure::new(5), false), Err(GateRefusal::Outdated));
    gate.stage(&one, &only(KEY), Tenure::new(6), false).unwrap();
    assert_eq!(gate.stage(&two, &both, Tenure::new(7), false), Err(GateRefusal::Overlaps));
    gate.unstage(&one, &only(KEY));
    assert!(gate.left_over().is_empty());
    gate.stage(&two, &both, Tenure::new(7), false).unwrap();
    gate.abandon(&two, &both);
    assert_eq!((gate.left_over(), gate.hand_overs()), (both, (0, 0)));
}

/// What a restart knows is the image.
#[test]
fn an_image_keeps_what_is_owned_given_away_and_staged() {
    let mut gate = owner(1);
    gate.freeze(&txn(1), &only(KEY), Tenure::new(2)).unwrap();
    assert!(gate.seal(&txn(1)));
    gate.release(&txn(1), &only(KEY), Tenure::new(2), &NodeId::from("other"));
    gate.stage(&txn(2), &only(KEY), Tenure::new(3), false).unwrap();
    let encoded = postcard::to_stdvec(gate.image()).unwrap();
    let mut again = Gate::new(postcard::from_bytes(&encoded).unwrap());
    assert_eq!(again.image(), gate.image());
    assert_eq!((again.left_over(), gate.left_over()), (only(KEY), RangeSet::new()));
    assert_eq!(admit(&again, &txn(3), Update, 2), not_owner(2));
    again.restore_sealed(&txn(1), &only(KEY));
    assert_eq!(again.left_over(), only(KEY), "what leaves, or has left, is not staged");
    again.dropped(&only(KEY));
    assert!(again.left_over().is_empty() && again.is_released(&only(KEY), Tenure::new(2)));
}
