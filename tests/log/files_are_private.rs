//! The content of a log belongs to its services: only the owner of the files can read them.

use std::{fs, os::unix::fs::PermissionsExt};

use crate::common::{commit, open_small, prepared};

#[test]
fn files_are_for_their_owner_alone() {
    let parent = tempfile::tempdir().unwrap();
    let dir = parent.path().join("deeper").join("log");
    let log = open_small(&dir).unwrap();
    for number in 1..=30 {
        commit(&log, prepared(number, 2_000)).unwrap(); // enough that a segment is being prepared, or was replaced
    }
    let mode = |path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(dir.parent().unwrap().to_owned()), 0o700);
    assert_eq!(mode(dir.clone()), 0o700);
    let files: Vec<_> = fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(files.len() >= 2, "{files:?}");
    for file in files {
        assert_eq!(mode(file.clone()), 0o600, "{file:?}");
    }
}
