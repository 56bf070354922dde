//! Lost, copied and restored logs, in every order of events; see `identity_model.rs`.

use crate::{
    common::long_form,
    identity_model::{Bounds, Mutant, search},
};

/// Searches every order of copying, losing, restoring and opening logs, and of messages between
/// them; with `RINGPACT_LONG=1` of restarts of participants, too (1.2 million states, minutes), and for the
/// defects that need restarts or a third life.
#[test]
fn in_no_order_of_events_does_one_log_end_what_another_has_begun() {
    let bounds = Bounds { logs: 2, lives: 2, transactions: 1, restarts: 0 };
    let found = search(&Bounds { restarts: u8::from(long_form()), ..bounds }, None);
    assert_eq!(found.torn, None, "{}", found.torn.as_deref().unwrap_or_default());
    println!("{} states, {} with unclaimed branches, {} refused", found.states, found.unclaimed, found.refused);
    assert!(found.unclaimed > 0 && found.refused > 0, "it has seen too little");
    let mut mutants =
        vec![(Mutant::HearsAnybody, bounds), (Mutant::PresumesByOrder, bounds), (Mutant::SettlesAtOnce, bounds)];
    if long_form() {
        let restarts = [Mutant::ForgetsLives, Mutant::ForgetsPositions, Mutant::TrustsRestored];
        mutants.extend(restarts.map(|mutant| (mutant, Bounds { restarts: 1, ..bounds })));
        mutants.push((Mutant::ComparesLengthsNow, Bounds { lives: 3, ..bounds })); // 2 million states
    }
    for (mutant, bounds) in mutants {
        let found = search(&bounds, Some(mutant));
        assert!(found.torn.is_some(), "{mutant:?} tears nothing in {} states", found.states);
    }
}
