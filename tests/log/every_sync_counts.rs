//! If the log forgot one of its syncs, would the crash tests notice? Each kind of sync is left out
//! in turn, and the machine crashes at every operation. Two kinds can be left out without a loss;
//! below is why they are there.

use crate::common::{Forgotten, Keep, SimStorage, commit, live_numbers, open_sim, prepared};

const COMMITS: u64 = 12;
const WORK_BYTES: usize = 6_000;

/// Opens, commits, closes and opens again, until the machine crashes. Returns what was reported
/// durable.
fn work(storage: &SimStorage) -> Vec<u64> {
    let mut durable = Vec::new();
    for half in [1..=COMMITS / 2, COMMITS / 2 + 1..=COMMITS] {
        let Ok(log) = open_sim(storage) else { break };
        durable.extend(half.take_while(|number| commit(&log, prepared(*number, WORK_BYTES)).is_ok()));
    }
    durable
}

/// Returns how many crashes cost a record that was reported durable, or the log as a whole.
fn losses(forgotten: Option<Forgotten>) -> usize {
    let fresh = || {
        let storage = SimStorage::new();
        forgotten.into_iter().for_each(|syncs| storage.forget(syncs));
        storage
    };
    let whole = fresh();
    assert_eq!(work(&whole).len() as u64, COMMITS);
    let crash = |op| {
        let storage = fresh();
        storage.freeze_at(op);
        let durable = work(&storage);
        let lost = |keep: &Keep| match open_sim(&storage.crash(*keep)) {
            Ok(log) => !live_numbers(&log).starts_with(&durable),
            Err(_) => true,
        };
        [Keep::Nothing, Keep::Some(op)].iter().filter(|keep| lost(keep)).count()
    };
    (0..whole.ops()).map(crash).sum()
}

#[test]
fn nothing_forgotten_nothing_lost() {
    assert_eq!(losses(None), 0);
}

#[test]
fn a_forgotten_sync_of_a_batch_is_noticed() {
    assert!(losses(Some(Forgotten::Batch)) > 0);
}

#[test]
fn a_forgotten_sync_of_what_is_carried_over_is_noticed() {
    assert!(losses(Some(Forgotten::Carry)) > 0);
}

#[test]
fn a_forgotten_sync_of_a_new_name_is_noticed() {
    assert!(losses(Some(Forgotten::Name)) > 0);
}

/// The zeros are synced once more together with what is carried over. Their own sync comes ahead of
/// need, so it keeps that one short. And it shows a full disk while no caller depends on the
/// segment yet.
#[test]
fn the_sync_of_the_zeros_is_for_speed_and_for_space() {
    assert_eq!(losses(Some(Forgotten::Fill)), 0);
}

/// A segment that is there again after a crash was replaced by a later one, and is removed again.
/// The sync keeps such segments from piling up on a medium that takes long to make names durable.
#[test]
fn the_sync_of_a_removal_is_for_space() {
    assert_eq!(losses(Some(Forgotten::Removal)), 0);
}

/// If the file that remembers the log is there after a crash, but without its content, the log
/// can't be opened.
#[test]
fn a_forgotten_sync_of_what_remembers_the_log_is_noticed() {
    assert!(losses(Some(Forgotten::Identity)) > 0);
}

/// The note that a log was closed makes a difference only if its segment is damaged, which no crash
/// does.
#[test]
fn the_sync_of_the_end_is_for_damage() {
    assert_eq!(losses(Some(Forgotten::End)), 0);
}
