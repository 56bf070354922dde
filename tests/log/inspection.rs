//! Inspecting a log shows what is in it, finds all that opening would refuse, and changes nothing:
//! neither at rest nor while the log is in use.

use std::{
    collections::BTreeMap,
    fs,
    path::Path,
    process::{Command, Output},
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use crate::common::{SIM_DIR, SimStorage, commit, ended, name, only_segment, open_sim, open_small, prepared};
use ringpact::{
    Epoch, TransactionLog,
    log::{
        Durability, Fact, Record,
        inspect::{BatchKind, Role, inspect, inspect_in},
    },
};

fn contents(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap());
    entries.map(|entry| (entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap())).collect()
}

/// Makes a log with two live transactions, one that has ended, and an epoch.
fn make(dir: &Path) {
    let log = open_small(dir).unwrap();
    commit(&log, Record { owner: name("shop"), fact: Fact::Opened { epoch: Epoch::new(4) } }).unwrap();
    for number in 1..=3 {
        commit(&log, prepared(number, 100)).unwrap();
    }
    commit(&log, ended(2)).unwrap();
    log.close().unwrap();
}

#[test]
fn a_log_at_rest_is_shown_whole_and_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    make(dir.path());
    let before = contents(dir.path());
    let seen = inspect(dir.path()).unwrap();
    assert_eq!(contents(dir.path()), before);
    assert!(seen.is_sound());
    assert_eq!(seen.records(), 5);
    assert_eq!(seen.epochs[&name("shop")], Epoch::new(4));
    assert_eq!(seen.live.iter().map(|live| live.txn.sequence()).collect::<Vec<_>>(), [1, 3]);
    let finished: Vec<_> = seen.finished.iter().map(|txn| (txn.txn.sequence(), txn.facts.join(" "))).collect();
    assert_eq!(finished, [(2, "prepared ended".to_owned())]);
    let [segment] = &seen.segments[..] else { panic!("{seen:?}") };
    assert!(segment.role == Role::Log && segment.sealed && segment.torn_bytes == 0, "{segment:?}");
    let kinds: Vec<_> = segment.batches.iter().map(|batch| batch.kind).collect();
    use BatchKind::{Carry, Records, Seal};
    assert_eq!(kinds, [Carry, Records, Records, Records, Records, Records, Seal]);
    assert_eq!(open_small(dir.path()).unwrap().id().to_string(), seen.log.unwrap());
}

#[test]
fn a_directory_that_is_not_there_is_an_error_and_an_empty_one_is_an_empty_log() {
    let dir = tempfile::tempdir().unwrap();
    assert!(inspect(dir.path().join("nowhere")).is_err());
    assert_eq!(inspect(dir.path()).unwrap().records(), 0);
}

/// Appending, replacing segments and sealing go on. Whatever moment is seen, it is never called
/// damage.
#[test]
fn a_log_in_use_is_shown_as_it_was_a_moment_ago() {
    let dir = tempfile::tempdir().unwrap();
    let log = open_small(dir.path()).unwrap();
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut number = 0;
            while !done.load(Ordering::Relaxed) {
                number += 1;
                commit(&log, prepared(number, 1_000)).unwrap();
                log.append(ended(number), Durability::Lazy).unwrap();
            }
        });
        let mut last = 0;
        for _ in 0..200 {
            let seen = inspect(dir.path()).unwrap();
            assert!(seen.is_sound(), "{seen:#?}");
            let segment = seen.segments.iter().find(|segment| segment.role == Role::Log).unwrap();
            let sequence = segment.batches.last().unwrap().sequence;
            assert!(sequence >= last, "{sequence} after {last}");
            last = sequence;
        }
        done.store(true, Ordering::Relaxed);
    });
    assert!(log.stats().syncs > 0);
}

/// The user that runs the tests may be allowed everything. So what is asked of the storage is
/// looked at, too.
#[test]
fn inspection_only_reads_the_storage() {
    let storage = SimStorage::new();
    let log = open_sim(&storage).unwrap();
    commit(&log, prepared(1, 100)).unwrap();
    for _ in 0..2 {
        // The first time, the owner has the log open and holds its lock.
        let before = storage.trace();
        let seen = inspect_in(&storage, SIM_DIR).unwrap();
        assert_eq!((seen.is_sound(), seen.live.len()), (true, 1));
        assert_eq!(storage.trace(), before);
        log.abandon();
    }
}

#[cfg(unix)]
#[test]
fn a_log_that_can_only_be_read_can_be_inspected() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    make(dir.path());
    let read_only = |mode| fs::set_permissions(dir.path(), fs::Permissions::from_mode(mode)).unwrap();
    read_only(0o500);
    let seen = inspect(dir.path()).unwrap();
    read_only(0o700);
    assert!(seen.is_sound());
}

#[test]
fn damage_is_found_in_every_segment() {
    let dir = tempfile::tempdir().unwrap();
    make(dir.path());
    let path = only_segment(dir.path());
    let whole = fs::read(&path).unwrap();
    drop(open_small(dir.path()).unwrap());
    // The segment that was replaced is there again, as after a crash just before it was removed,
    // and damaged.
    let mut damaged = whole;
    damaged[3 * 4096 + 80] ^= 1;
    fs::write(&path, &damaged).unwrap();
    let seen = inspect(dir.path()).unwrap();
    assert!(!seen.is_sound());
    let roles: Vec<_> = seen.segments.iter().map(|segment| segment.role).collect();
    assert_eq!(roles, [Role::Replaced, Role::Log]);
    assert_eq!(seen.segments[0].damage.as_ref().unwrap().offset, 3 * 4096);
    assert_eq!(seen.segments[0].batches.len(), 2, "what can be read before it");
    assert!(seen.segments[1].damage.is_none());
}

/// Runs `examples/log_inspect`, which `cargo test` has built.
fn run_example(dir: &Path, arguments: &[&str]) -> Output {
    let test = std::env::current_exe().unwrap();
    let example = test.parent().unwrap().with_file_name("examples").join("log_inspect");
    assert!(example.exists(), "cargo build --example log_inspect makes {}", example.display());
    Command::new(example).arg(dir).args(arguments).output().unwrap()
}

#[test]
fn the_example_exits_by_what_it_finds() {
    let dir = tempfile::tempdir().unwrap();
    make(dir.path());
    let text = run_example(dir.path(), &[]);
    assert_eq!(text.status.code(), Some(0));
    let text = String::from_utf8(text.stdout).unwrap();
    for part in ["5 records, 2 live and 1 finished", "shop: epoch 4", "shop:1:3", "prepared, ended", "sealed", "carry"]
    {
        assert!(text.contains(part), "{part} is missing in\n{text}");
    }
    let path = only_segment(dir.path());
    let mut bytes = fs::read(&path).unwrap();
    bytes[2 * 4096 + 80] ^= 1;
    fs::write(&path, &bytes).unwrap();
    let text = run_example(dir.path(), &[]);
    assert_eq!(text.status.code(), Some(1));
    assert!(String::from_utf8(text.stdout).unwrap().contains("DAMAGED: segment-0000000000000001.log at byte 8192"));
    let json = run_example(dir.path(), &["--json"]);
    assert_eq!(json.status.code(), Some(1));
    let json: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!(json["segments"][0]["damage"]["offset"], 8192);
    assert_eq!(fs::read(&path).unwrap(), bytes);
    assert_eq!(run_example(&dir.path().join("nowhere"), &[]).status.code(), Some(2));
}
