//! redb: one write transaction a commit, of immediate durability. Each client has one key.

use std::{io, path::Path};

use redb::{Database, TableDefinition};

use super::{RECORD_BYTES, failed, load::Blocking};

const TABLE: TableDefinition<u64, &[u8]> = TableDefinition::new("records");

pub struct Peer(Database);

impl Peer {
    pub fn open(dir: &Path) -> io::Result<Self> {
        Database::create(dir.join("redb")).map(Self).map_err(failed)
    }

    fn put(&self, client: usize) -> Result<(), redb::Error> {
        let transaction = self.0.begin_write()?;
        transaction.open_table(TABLE)?.insert(client as u64, [7; RECORD_BYTES].as_slice())?;
        Ok(transaction.commit()?)
    }
}

impl Blocking for Peer {
    fn commit(&self, client: usize, _number: u64) {
        self.put(client).expect("the disk works");
    }
}
