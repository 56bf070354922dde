//! fjall: an insert, then the journal is synced (its data, not its metadata). Each client has one
//! key.

use std::{io, path::Path};

use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode};

use super::{RECORD_BYTES, failed, load::Blocking};

pub struct Peer {
    database: Database,
    records: Keyspace,
}

impl Peer {
    pub fn open(dir: &Path) -> io::Result<Self> {
        let database = Database::builder(dir.join("fjall")).open().map_err(failed)?;
        let records = database.keyspace("records", KeyspaceCreateOptions::default).map_err(failed)?;
        Ok(Self { database, records })
    }
}

impl Blocking for Peer {
    fn commit(&self, client: usize, _number: u64) {
        self.records.insert((client as u64).to_be_bytes(), [7; RECORD_BYTES]).expect("the disk works");
        self.database.persist(PersistMode::SyncData).expect("the disk works");
    }
}
