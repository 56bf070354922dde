//! Random lives of a log with crashes, crashes while it recovers from crashes, failing operations and full disks, all
//! held against a plain model: whatever was reported durable is there, and what is there is a prefix.

mod common;

use common::log_model::{Seen, live_through};

#[test]
fn whatever_a_log_lives_through_it_keeps_its_promises() {
    let lives = if common::long_form() { 100_000 } else { 100 };
    let mut all = Seen::default();
    for seed in 0..lives {
        println!("life {seed}"); // shown where it fails
        let seen = live_through(&mut fastrand::Rng::with_seed(seed), 60);
        all.appended += seen.appended;
        all.reopened += seen.reopened;
        all.crashes_while_opening += seen.crashes_while_opening;
        all.poisoned += seen.poisoned;
        all.full += seen.full;
    }
    println!("{lives} lives: {all:?}");
    assert!(all.appended > 10 * lives && all.reopened > 2 * lives && all.crashes_while_opening > lives / 4, "{all:?}");
    assert!(all.poisoned > lives / 20 && all.full > lives / 20, "{all:?}");
}
