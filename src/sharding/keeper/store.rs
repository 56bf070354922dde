//! Where the keeper keeps what is too large for a log record: rings, and its own state.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
    sync::Arc,
};

use parking_lot::Mutex;
use serde::{Serialize, de::DeserializeOwned};
use xxhash_rust::xxh3::xxh3_64;

/// Version number of the form in which things are kept.
const FORMAT: u8 = 1;

/// Number of bytes before what is kept: the format's version number, and a checksum.
const HEAD_BYTES: usize = 1 + 8;

/// Keeps things by name, for the keeper of a ring: its state, and the rings of changes. Beside the
/// coordinator's log, and as durable as the log. Shared by [`Arc`], which is a store itself.
///
/// [`FileRingStore`] keeps them as files of a directory. [`MemoryRingStore`] goes with a log in memory.
pub trait RingStore: Send + Sync + 'static {
    /// Returns what was last written under the name, or `None` if there is nothing.
    ///
    /// # Errors
    ///
    /// Of the medium.
    fn read(&self, name: &str) -> io::Result<Option<Vec<u8>>>;

    /// Replaces what is kept under the name, in one atomic step. It is durable when this returns.
    ///
    /// # Errors
    ///
    /// Of the medium. What was there before is still there.
    fn write(&self, name: &str, bytes: &[u8]) -> io::Result<()>;

    /// Deletes what is kept under the name, if there is something.
    ///
    /// # Errors
    ///
    /// Of the medium.
    fn remove(&self, name: &str) -> io::Result<()>;
}

impl<T: RingStore + ?Sized> RingStore for Arc<T> {
    fn read(&self, name: &str) -> io::Result<Option<Vec<u8>>> {
        (**self).read(name)
    }
    fn write(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        (**self).write(name, bytes)
    }
    fn remove(&self, name: &str) -> io::Result<()> {
        (**self).remove(name)
    }
}

/// A [`RingStore`] in memory. Shared by [`Arc`].
#[derive(Debug, Default)]
pub struct MemoryRingStore {
    kept: Mutex<BTreeMap<String, Vec<u8>>>,
}

impl MemoryRingStore {
    /// Returns an empty store.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }
}

impl RingStore for MemoryRingStore {
    fn read(&self, name: &str) -> io::Result<Option<Vec<u8>>> {
        Ok(self.kept.lock().get(name).cloned())
    }
    fn write(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        self.kept.lock().insert(name.to_owned(), bytes.to_vec());
        Ok(())
    }
    fn remove(&self, name: &str) -> io::Result<()> {
        self.kept.lock().remove(name);
        Ok(())
    }
}

/// A [`RingStore`] that keeps each thing as a file of a directory. Shared by [`Arc`].
///
/// Each write makes a new file, syncs it, and renames it. All calls block.
#[derive(Debug)]
pub struct FileRingStore {
    directory: PathBuf,
    /// Held while a file is replaced, so that two writers don't share a temporary file.
    writing: Mutex<()>,
}

impl FileRingStore {
    /// Opens the store in this directory, and makes the directory if it is missing.
    ///
    /// # Errors
    ///
    /// The directory can't be made.
    pub fn open(directory: impl Into<PathBuf>) -> io::Result<Self> {
        let directory = directory.into();
        fs::create_dir_all(&directory)?;
        Ok(Self { directory, writing: Mutex::new(()) })
    }

    /// Opens the store beside the directory of a log, with `.ring` after its name.
    pub(crate) fn beside(log: &Path) -> io::Result<Self> {
        let mut name = log.file_name().unwrap_or_default().to_owned();
        name.push(".ring");
        Self::open(log.with_file_name(name))
    }

    fn sync_directory(&self) -> io::Result<()> {
        // Other systems can't open a directory as a file, and need not sync it.
        if cfg!(unix) { File::open(&self.directory)?.sync_all() } else { Ok(()) }
    }
}

impl RingStore for FileRingStore {
    fn read(&self, name: &str) -> io::Result<Option<Vec<u8>>> {
        match fs::read(self.directory.join(name)) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(with_path(&error, &self.directory.join(name))),
        }
    }

    fn write(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let _one_at_a_time = self.writing.lock();
        let (path, unfinished) = (self.directory.join(name), self.directory.join(format!("{name}.tmp")));
        let write = || {
            let mut file = File::create(&unfinished)?;
            file.write_all(bytes)?;
            file.sync_all()?;
            fs::rename(&unfinished, &path)?;
            self.sync_directory()
        };
        write().map_err(|error| with_path(&error, &path))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        match fs::remove_file(self.directory.join(name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}

fn with_path(error: &io::Error, path: &Path) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

/// Writes a value under the name.
pub(super) fn put<T: Serialize>(store: &dyn RingStore, name: &str, value: &T) -> io::Result<()> {
    let encoded = postcard::to_stdvec(value).map_err(io::Error::other)?;
    let mut bytes = Vec::with_capacity(HEAD_BYTES + encoded.len());
    bytes.push(FORMAT);
    bytes.extend_from_slice(&xxh3_64(&encoded).to_le_bytes());
    bytes.extend_from_slice(&encoded);
    store.write(name, &bytes)
}

/// Reads the value under the name, and checks it.
pub(super) fn get<T: DeserializeOwned>(store: &dyn RingStore, name: &str) -> io::Result<Option<T>> {
    let Some(bytes) = store.read(name)? else { return Ok(None) };
    let damaged = |why: &str| io::Error::new(io::ErrorKind::InvalidData, format!("the ring store's `{name}` {why}"));
    let (head, encoded) = bytes.split_at_checked(HEAD_BYTES).ok_or_else(|| damaged("is cut off; restore it"))?;
    if head[0] != FORMAT {
        return Err(damaged("was written by another version; open it with that version"));
    }
    if head[1..] != xxh3_64(encoded).to_le_bytes() {
        return Err(damaged("is damaged; restore it together with the coordinator's log"));
    }
    postcard::from_bytes(encoded)
        .map(Some)
        .map_err(|_| damaged("can't be read; open it with the version that wrote it"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_keep_what_was_written_and_damage_is_found() {
        let directory = tempfile::tempdir().unwrap();
        let store = FileRingStore::open(directory.path().join("ring")).unwrap();
        assert_eq!(get::<u64>(&store, "state").unwrap(), None);
        put(&store, "state", &7_u64).unwrap();
        put(&store, "state", &300_u64).unwrap();
        let store = FileRingStore::open(directory.path().join("ring")).unwrap();
        assert_eq!(get::<u64>(&store, "state").unwrap(), Some(300));
        let good = store.read("state").unwrap().unwrap();
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 1;
            store.write("state", &bad).unwrap();
            assert!(get::<u64>(&store, "state").is_err(), "byte {at}");
            store.write("state", &good[..at]).unwrap();
            assert!(get::<u64>(&store, "state").is_err(), "cut at {at}");
        }
        store.remove("state").unwrap();
        store.remove("state").unwrap();
        assert_eq!(get::<u64>(&store, "state").unwrap(), None);
    }
}
