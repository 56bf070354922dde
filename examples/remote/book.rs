//! A service's book: its state, written to a file as a whole now and then. What came after the last
//! writing is in the transaction log, and the resource manager confirms it again from there.

use std::{
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
};

use serde::{Serialize, de::DeserializeOwned};

#[derive(Debug)]
pub struct Book {
    path: PathBuf,
}

impl Book {
    pub fn new(directory: &Path, name: &str) -> Self {
        Self { path: directory.join(format!("{name}.book")) }
    }

    /// Returns what was written last; `None` if nothing was.
    pub fn read<T: DeserializeOwned>(&self) -> io::Result<Option<T>> {
        match fs::read(&self.path) {
            Ok(bytes) => serde_json::from_slice(&bytes).map(Some).map_err(|error| {
                io::Error::new(io::ErrorKind::InvalidData, format!("{}: {error}", self.path.display()))
            }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Writes the state and syncs it. After a crash the file has all of it, or what was there
    /// before.
    pub fn write<T: Serialize>(&self, state: &T) -> io::Result<()> {
        let new = self.path.with_extension("new");
        let mut file = File::create(&new)?;
        file.write_all(&serde_json::to_vec(state)?)?;
        file.sync_all()?;
        fs::rename(&new, &self.path)?;
        File::open(self.path.parent().unwrap_or(Path::new(".")))?.sync_all()
    }
}
