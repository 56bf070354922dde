//! Random lives of a log with crashes, crashes while it recovers from crashes, failing operations
//! and full disks, all compared with a plain model: what was reported durable is there, and what is
//! there is a prefix.

use std::{
    num::NonZero,
    panic::resume_unwind,
    sync::atomic::{AtomicU64, Ordering},
    thread,
};

use crate::common::{
    log_model::{Seen, live_through},
    long_form,
};

#[test]
fn whatever_a_log_lives_through_it_keeps_its_promises() {
    let lives = if long_form() { 100_000 } else { 100 };
    let next = AtomicU64::new(0);
    let some_lives = || {
        let mut all = Seen::default();
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= lives {
                return all;
            }
            println!("life {seed}"); // shown if the test fails
            all += live_through(&mut fastrand::Rng::with_seed(seed), 60);
        }
    };
    let all = thread::scope(|scope| {
        let processors = thread::available_parallelism().map_or(1, NonZero::get);
        let threads: Vec<_> = (0..processors).map(|_| scope.spawn(some_lives)).collect();
        threads.into_iter().fold(Seen::default(), |mut all, thread| {
            all += thread.join().unwrap_or_else(|panic| resume_unwind(panic));
            all
        })
    });
    println!("{lives} lives: {all:?}");
    assert!(all.appended > 10 * lives && all.reopened > 2 * lives && all.crashes_while_opening > lives / 4, "{all:?}");
    assert!(all.poisoned > lives / 20 && all.full > lives / 20, "{all:?}");
}
