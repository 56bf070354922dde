//! The log is in the directory that was opened, wherever the process goes and whatever becomes of
//! the paths, and even if the process has no file descriptor left.

use std::{
    env, fs, io,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use crate::common::{Op, SimStorage, commit, ended, live_numbers, only_segment, open_sim, open_small, prepared};
use ringpact::{FileLog, LogError, TransactionLog, error_chain, log::Durability};

/// Set in a child process: the directory that it works in. The working directory and the limits
/// belong to a process.
const CHILD: &str = "RINGPACT_TEST_PATHS";

const WORK_BYTES: usize = 12_000;

/// Runs one of the tests here as a process of its own.
fn run_child(test: &str, dir: &Path, shell: &str) {
    let child = Command::new("sh")
        .args(["-c", &format!("{shell} exec \"$0\" --exact paths::{test} --nocapture")])
        .arg(env::current_exe().unwrap())
        .env(CHILD, dir)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&child.stdout).into_owned() + &String::from_utf8_lossy(&child.stderr);
    assert!(child.status.success(), "{said}");
}

fn child_dir() -> Option<PathBuf> {
    env::var_os(CHILD).map(PathBuf::from)
}

/// Commits and ends transactions until the segments have been replaced some times, or something
/// fails.
fn pass_through(log: &FileLog, numbers: std::ops::Range<u64>) -> Result<(), LogError> {
    for number in numbers {
        commit(log, prepared(number, WORK_BYTES))?;
        log.append(ended(number), Durability::Lazy)?;
    }
    Ok(())
}

/// The next segments used to be made, renamed and removed in the directory that had the relative
/// path then: another log.
#[test]
fn a_log_with_a_relative_path_stays_where_it_was_opened() {
    let dir = tempfile::tempdir().unwrap();
    run_child("child_that_changes_its_directory", dir.path(), "");
}

#[test]
fn child_that_changes_its_directory() {
    let Some(dir) = child_dir() else { return };
    let (here, there) = (dir.join("here"), dir.join("there"));
    fs::create_dir_all(&here).unwrap();
    fs::create_dir_all(&there).unwrap();
    // Another log of that name, which no process has open.
    let other = open_small(there.join("shop.log")).unwrap();
    commit(&other, prepared(7, 10)).unwrap();
    other.close().unwrap();
    let before = content_of(&there.join("shop.log"));

    env::set_current_dir(&here).unwrap();
    let log = open_small("shop.log").unwrap();
    assert_eq!(log.path(), here.join("shop.log"));
    commit(&log, prepared(1, 10)).unwrap();
    env::set_current_dir(&there).unwrap();
    pass_through(&log, 10..40).unwrap();
    log.close().unwrap();
    assert_eq!(content_of(&there.join("shop.log")), before, "the other log is as it was");
    assert_eq!(live_numbers(&open_small(here.join("shop.log")).unwrap()), [1]);
    assert_eq!(live_numbers(&open_small(there.join("shop.log")).unwrap()), [7]);
}

fn content_of(dir: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let paths = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let mut content: Vec<_> = paths.map(|path| (path.clone(), fs::read(path).unwrap())).collect();
    content.sort();
    content
}

#[track_caller]
fn assert_poisoned(result: Result<(), LogError>, because: &str) {
    match result {
        Err(error @ LogError::Poisoned { .. }) => {
            let text = error_chain(&error);
            assert!(text.contains(because), "{text}");
        }
        other => panic!("not poisoned: {other:?}"),
    }
}

/// The directory was moved, and another log was made in its place. Nothing of that one is touched.
#[test]
fn another_log_in_the_place_of_an_open_one_is_not_touched() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("shop.log");
    let log = open_small(&path).unwrap();
    commit(&log, prepared(1, 10)).unwrap();
    fs::rename(&path, dir.path().join("moved.log")).unwrap();
    let other = open_small(&path).unwrap();
    commit(&other, prepared(7, 10)).unwrap();
    other.close().unwrap();
    let before = content_of(&path);
    assert_poisoned(pass_through(&log, 10..40), "moved, removed or replaced");
    drop(log);
    assert_eq!(content_of(&path), before, "the other log is as it was");
    assert_eq!(live_numbers(&open_small(dir.path().join("moved.log")).unwrap())[0], 1);
}

/// Removing the lock's file lets another process open the log, too. The first one notices before it
/// changes a name.
#[test]
fn a_lock_that_was_lifted_is_noticed() {
    let dir = tempfile::tempdir().unwrap();
    let log = open_small(dir.path()).unwrap();
    fs::remove_file(dir.path().join("lock")).unwrap();
    let other = open_small(dir.path()).unwrap();
    commit(&other, prepared(7, 10)).unwrap();
    // The other log has replaced the segment of the first, and what the first writes there is gone
    // with it.
    assert_poisoned(commit(&log, prepared(1, 10)).map(drop), "removed while the log was open");
    pass_through(&other, 10..40).unwrap();
    other.close().unwrap();
    assert_eq!(live_numbers(&open_small(dir.path()).unwrap()), [7]);
}

/// Commits to a file that no reader finds again are no commits.
#[test]
fn a_segment_that_was_removed_takes_no_commits() {
    let dir = tempfile::tempdir().unwrap();
    let log = open_small(dir.path()).unwrap();
    commit(&log, prepared(1, 10)).unwrap();
    fs::remove_file(only_segment(dir.path())).unwrap();
    assert_poisoned(commit(&log, prepared(2, 10)).map(drop), "removed while the log was open");
    assert_poisoned(log.commit(prepared(3, 10)).map(drop), "removed while the log was open");
}

/// It used to open as a new, empty one: all decisions were forgotten, and all epochs were given out
/// once more.
#[test]
fn a_log_whose_only_segment_was_removed_is_not_a_new_one() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("shop.log");
    let log = open_small(&path).unwrap();
    commit(&log, prepared(1, 10)).unwrap();
    log.close().unwrap();
    let segment = only_segment(&path);
    let away = dir.path().join("away");
    fs::rename(&segment, &away).unwrap();
    for _ in 0..2 {
        let error = open_small(&path).unwrap_err();
        assert!(matches!(error, LogError::SegmentsLost { segment: 1, .. }), "{error}");
        assert!(error.to_string().contains("under the same name with `CoordinatorBuilder::replaces_log`"), "{error}");
        assert!(!ringpact::log::inspect::inspect(&path).unwrap().is_sound());
    }
    fs::rename(&away, &segment).unwrap();
    assert_eq!(live_numbers(&open_small(&path).unwrap()), [1]);
    // The explicit way to begin again.
    fs::remove_dir_all(&path).unwrap();
    assert!(live_numbers(&open_small(&path).unwrap()).is_empty());
}

/// A volume that is not mounted used to be an empty log, with no decision in it.
#[test]
fn a_log_that_must_exist_is_not_begun() {
    let dir = tempfile::tempdir().unwrap();
    let mount_point = dir.path().join("volume");
    let path = mount_point.join("shop.log");
    let open = || FileLog::options().must_exist(true).open(&path);
    // Neither the mount point, nor the log's directory, nor anything in it is there.
    let makes: [fn(&Path); 4] = [
        |_| {},
        |path| fs::create_dir(path.parent().unwrap()).unwrap(),
        |path| fs::create_dir(path).unwrap(),
        |path| {
            fs::write(path.join("lock"), b"").unwrap();
        },
    ];
    for make in makes {
        make(&path);
        let before = entries(dir.path());
        let error = open().unwrap_err();
        assert!(matches!(&error, LogError::Missing { path: missing } if *missing == path), "{error}");
        assert!(error.to_string().contains("volume is mounted"), "{error}");
        assert_eq!(entries(dir.path()), before, "nothing was made");
    }
    let log = FileLog::open(&path).unwrap();
    commit(&log, prepared(1, 10)).unwrap();
    log.close().unwrap();
    assert_eq!(live_numbers(&open().unwrap()), [1]);
    // Only the file that remembers the log is left: this is worse than missing.
    fs::remove_file(only_segment(&path)).unwrap();
    assert!(matches!(open().unwrap_err(), LogError::SegmentsLost { segment: 2, .. }));
}

/// Returns all paths below a directory.
fn entries(dir: &Path) -> Vec<PathBuf> {
    let mut all = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            all.extend(entries(&path));
        }
        all.push(path);
    }
    all.sort();
    all
}

/// An older segment alone, or one of another log, is not the log either.
#[test]
fn segments_from_elsewhere_are_not_the_log() {
    let dir = tempfile::tempdir().unwrap();
    let (path, other) = (dir.path().join("shop.log"), dir.path().join("other.log"));
    commit(&open_small(&path).unwrap(), prepared(1, 10)).unwrap();
    commit(&open_small(&other).unwrap(), prepared(7, 10)).unwrap();
    let (old, foreign) = (fs::read(only_segment(&path)).unwrap(), fs::read(only_segment(&other)).unwrap());
    let old_name = only_segment(&path);
    commit(&open_small(&path).unwrap(), prepared(2, 10)).unwrap();
    fs::remove_file(only_segment(&path)).unwrap();
    fs::write(&old_name, old).unwrap();
    let error = open_small(&path).unwrap_err();
    assert!(matches!(error, LogError::SegmentsLost { segment: 2, .. }), "{error}");
    fs::remove_file(&old_name).unwrap();
    fs::write(only_segment(&other).with_file_name("x"), b"").unwrap();
    fs::write(path.join(only_segment(&other).file_name().unwrap()), foreign).unwrap();
    let error = open_small(&path).unwrap_err();
    assert!(matches!(error, LogError::Damaged { offset: 16, .. }), "{error}");
}

/// A restart in the same place is no copy, whatever the process did meanwhile. A copy is reported,
/// and not refused.
#[test]
fn a_copied_directory_is_told_from_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let (path, copy) = (dir.path().join("shop.log"), dir.path().join("copy.log"));
    for _ in 0..3 {
        let log = open_small(&path).unwrap();
        assert!(!log.recovery().copied);
        log.close().unwrap();
    }
    let copied = Command::new("cp").args(["-a".as_ref(), path.as_os_str(), copy.as_os_str()]).status().unwrap();
    assert!(copied.success());
    let (log, other) = (open_small(&path).unwrap(), open_small(&copy).unwrap());
    assert!(!log.recovery().copied);
    assert!(other.recovery().copied);
    assert_eq!(log.id(), other.id());
    assert_ne!(log.incarnation(), other.incarnation());
    drop((log, other));
    assert!(!open_small(&copy).unwrap().recovery().copied, "it is at home there now");
    let moved = dir.path().join("moved.log");
    fs::rename(&path, &moved).unwrap();
    assert!(!open_small(&moved).unwrap().recovery().copied, "moved, not copied");
}

/// For 300 ms no file can be opened. Segments are prepared, replaced, used again and removed
/// meanwhile.
#[test]
fn a_process_without_file_descriptors_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    run_child("child_without_file_descriptors", dir.path(), "ulimit -n 64;");
}

#[test]
fn child_without_file_descriptors() {
    let Some(dir) = child_dir() else { return };
    let log = open_small(dir.join("shop.log")).unwrap();
    commit(&log, prepared(1, 10)).unwrap();
    let mut next = 10;
    for _ in 0..3 {
        let mut taken = Vec::new();
        while let Ok(file) = fs::File::open("/dev/null") {
            taken.push(file);
        }
        assert!((10..64).contains(&taken.len()), "the limit is not in force: {}", taken.len());
        thread::scope(|scope| {
            let passing = scope.spawn(|| pass_through(&log, next..next + 60));
            thread::sleep(Duration::from_millis(300));
            drop(taken);
            passing.join().unwrap().unwrap();
        });
        next += 60;
    }
    assert_eq!(live_numbers(&log), [1]);
    log.close().unwrap();
    // Opening a log takes some file descriptors, and so waits for them.
    let taken: Vec<_> = (0..64).map_while(|_| fs::File::open("/dev/null").ok()).collect();
    thread::scope(|scope| {
        let opened = scope.spawn(|| open_small(dir.join("shop.log")).map(|log| live_numbers(&log)));
        let new = scope.spawn(|| open_small(dir.join("new/deep/shop.log")).map(|log| live_numbers(&log)));
        thread::sleep(Duration::from_millis(300));
        drop(taken);
        assert_eq!(opened.join().unwrap().unwrap(), [1]);
        assert!(new.join().unwrap().unwrap().is_empty());
    });
}

/// The same at each single operation, and for several operations in a row.
#[test]
fn a_shortage_at_any_operation_is_waited_for() {
    for at in 0..24 {
        for ops in [1, 4] {
            let storage = SimStorage::new();
            let log = open_sim(&storage).unwrap();
            for number in 1..30 {
                if number == at {
                    storage.starve(ops);
                }
                commit(&log, prepared(number, WORK_BYTES)).unwrap();
                log.append(ended(number), Durability::Lazy).unwrap();
            }
            commit(&log, prepared(100, 10)).unwrap();
            log.close().unwrap();
            storage.starve(ops);
            assert_eq!(live_numbers(&open_sim(&storage).unwrap()), [100], "{ops} from {at} on");
        }
    }
}

/// A failure that lasts longer is an error to the callers that need the next segment, and to no
/// others; and it passes.
#[test]
fn a_segment_that_can_not_be_prepared_is_not_the_end() {
    for (op, suffix, kind) in [
        (Op::Create, ".log.new", io::ErrorKind::PermissionDenied),
        (Op::Write, ".log.new", io::ErrorKind::Other),
        (Op::Rename, ".log.new", io::ErrorKind::ReadOnlyFilesystem),
        (Op::Remove, ".log", io::ErrorKind::PermissionDenied),
    ] {
        let storage = SimStorage::new();
        let log = open_sim(&storage).unwrap();
        let mut refused = 0;
        let mut refuses = |result: Result<_, LogError>| match result {
            Ok(_) => {}
            Err(LogError::NoSegment { .. }) => {
                refused += 1;
                if refused > 3 {
                    storage.heal();
                }
            }
            Err(other) => panic!("{op:?}: {other}"),
        };
        (0..20).for_each(|_| storage.fail_on(suffix, op, 1, kind));
        for number in 1..60 {
            refuses(commit(&log, prepared(number, WORK_BYTES)));
            refuses(log.append(ended(number), Durability::Lazy));
        }
        assert!(op == Op::Rename || refused > 3, "{op:?}: {refused}");
        storage.heal();
        commit(&log, prepared(100, 10)).unwrap();
        assert!(live_numbers(&log).contains(&100));
        log.close().unwrap();
        assert!(live_numbers(&open_sim(&storage).unwrap()).contains(&100));
    }
}
