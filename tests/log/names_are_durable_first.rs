//! Names are as easily lost as bytes: what is needed has a durable name before what it replaces is
//! removed.

use std::{io, path::Path};

use crate::common::{Keep, Op, SIM_DIR, SimStorage, commit, live_numbers, open_sim, prepared};

/// A new segment gets its name, and the sync of the directory fails. That change may be lost for
/// good, although a listing shows it. Opening used to remove the older segment at once, and synced
/// the directory with success. If the power had failed then, neither of the two would have been
/// there, and the log would have been opened as a new, empty one.
#[test]
fn a_segment_whose_name_may_be_lost_is_not_taken_for_the_only_copy() {
    for crash_after in 0..12 {
        let storage = SimStorage::new();
        let log = open_sim(&storage).unwrap();
        storage.fail(Op::SyncDir, 1, io::ErrorKind::Other);
        let mut durable = Vec::new();
        let failed = (1..100).find(|number| {
            let result = commit(&log, prepared(*number, 8_000));
            durable.extend(result.is_ok().then_some(*number));
            result.is_err()
        });
        assert!(failed.is_some(), "a segment is begun, and the directory synced for it");
        drop(log);
        storage.freeze_at(storage.ops() + crash_after);
        drop(open_sim(&storage));
        let found = live_numbers(&open_sim(&storage.crash(Keep::Nothing)).unwrap());
        assert!(found.starts_with(&durable), "a crash after {crash_after} operations of opening left {found:?}");
    }
}

/// The log's directory was made, but its maker was killed before it could sync the directory above.
/// The next process that opens the log must do that, or a power failure takes the whole log with
/// it.
#[test]
fn a_directory_that_another_process_made_is_durable_before_the_first_record_is() {
    let storage = SimStorage::with_unsynced_dir(SIM_DIR);
    let log = open_sim(&storage).unwrap();
    commit(&log, prepared(1, 10)).unwrap();
    assert_eq!(live_numbers(&open_sim(&storage.crash(Keep::Nothing)).unwrap()), [1]);
}

/// Reading back and rewriting: before a log serves, all live records are, synced, in a synced
/// segment with a synced name. Only then what was there before is removed.
#[test]
fn opening_writes_a_fresh_segment_before_it_removes_the_old_one() {
    let storage = SimStorage::new();
    let log = open_sim(&storage).unwrap();
    commit(&log, prepared(1, 10)).unwrap();
    log.abandon();
    let before = storage.trace().len();
    let reopened = open_sim(&storage).unwrap();
    let named = |number: u64, suffix: &str| Path::new(SIM_DIR).join(format!("segment-{number:016x}.log{suffix}"));
    let (fresh, dir) = (named(2, ".new"), Path::new(SIM_DIR).to_owned());
    let identity = |suffix: &str| Path::new(SIM_DIR).join(format!("log-identity{suffix}"));
    let expected = [
        (Op::Create, fresh.clone()),
        (Op::Write, fresh.clone()), // its header
        (Op::Write, fresh.clone()), // zeros
        (Op::Sync, fresh.clone()),
        (Op::Write, fresh.clone()), // what is live
        (Op::Sync, fresh),
        (Op::Rename, named(2, "")),
        (Op::SyncDir, dir.clone()),
        (Op::Create, identity(".new")), // the file that remembers the log, never ahead of its segments
        (Op::Write, identity(".new")),
        (Op::Sync, identity(".new")),
        (Op::Rename, identity("")),
        (Op::Remove, named(1, "")),
        (Op::SyncDir, dir),
    ];
    assert_eq!(storage.trace()[before..], expected);
    assert_eq!(live_numbers(&reopened), [1]);
}

/// If the removal of a segment is lost by a failed sync, the segment is there again after a crash,
/// however many others came and went since. The newest is complete in itself, so that is no damage.
#[test]
fn a_segment_that_comes_back_is_no_damage() {
    let storage = SimStorage::new();
    commit(&open_sim(&storage).unwrap(), prepared(1, 10)).unwrap();
    storage.fail(Op::SyncDir, 2, io::ErrorKind::Other); // the first is for the name of the next segment
    assert!(open_sim(&storage).is_err());
    for number in 2..5 {
        commit(&open_sim(&storage).unwrap(), prepared(number, 10)).unwrap();
    }
    let crashed = storage.crash(Keep::Nothing);
    assert_eq!(crashed.names().len(), 2, "{:?}", crashed.names());
    assert_eq!(live_numbers(&open_sim(&crashed).unwrap()), [1, 2, 3, 4]);
    assert_eq!(crashed.names().len(), 1);
}
