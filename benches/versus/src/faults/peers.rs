//! The logs that are tried, each behind the same small interface. All write the same records, each
//! durable when its commit returns, with the settings that their users would have.

use std::{
    fmt::Display,
    path::Path,
    sync::{Arc, Mutex},
};

use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode, Readable};
use okaywal::{Configuration, EntryId, LogManager, SegmentReader, WriteAheadLog};
use raft_engine::{Config, Engine, LogBatch};
use redb::{ReadableDatabase, ReadableTable, TableDefinition};
use ringpact::{
    Epoch, FileLog, Name, TransactionLog, TxnId,
    log::{Durability, Fact, Record},
};
use rusqlite::Connection;
use wal_db::Wal;

/// A log of numbered records.
pub trait Log: Send + Sync {
    /// Returns once the record is durable, or with the reason why it is not.
    fn commit(&self, number: u64) -> Result<(), String>;

    /// Returns the contents of all records in the log.
    fn read(&self) -> Result<Vec<Vec<u8>>, String>;
}

/// A log to try: its name, and the function that opens it in a directory.
pub struct Peer {
    pub name: &'static str,
    pub open: fn(&Path) -> Result<Box<dyn Log>, String>,
}

pub const PEERS: [Peer; 7] = [
    Peer { name: "raft-engine", open: RaftEngine::open },
    Peer { name: "wal-db", open: WalDb::open },
    Peer { name: "okaywal", open: OkayWal::open },
    Peer { name: "sqlite", open: Sqlite::open },
    Peer { name: "fjall", open: Fjall::open },
    Peer { name: "redb", open: Redb::open },
    Peer { name: "ringpact", open: Ringpact::open },
];

/// The content of a record with this number: text that can be found again in any file.
pub fn content(number: u64) -> Vec<u8> {
    mark(number).repeat(8)
}

/// Text that stands in no other record.
pub fn mark(number: u64) -> Vec<u8> {
    format!("record-{number:08};").into_bytes()
}

fn said(error: impl Display) -> String {
    error.to_string()
}

struct Ringpact {
    log: FileLog,
    owner: Name,
}

impl Ringpact {
    fn open(dir: &Path) -> Result<Box<dyn Log>, String> {
        let log = FileLog::open(dir.join("log")).map_err(said)?;
        Ok(Box::new(Self { log, owner: Name::new("faults").map_err(said)? }))
    }
}

impl Log for Ringpact {
    fn commit(&self, number: u64) -> Result<(), String> {
        let txn = TxnId::new(self.owner.clone(), Epoch::new(1), number);
        let fact = Fact::Prepared { txn, work: content(number) };
        let lsn = self.log.append(Record { owner: self.owner.clone(), fact }, Durability::Forced).map_err(said)?;
        self.log.wait(lsn).map_err(said)
    }

    fn read(&self) -> Result<Vec<Vec<u8>>, String> {
        let live = self.log.live(&self.owner).map_err(said)?;
        let work = |record: Record| if let Fact::Prepared { work, .. } = record.fact { Some(work) } else { None };
        Ok(live.into_iter().filter_map(work).collect())
    }
}

struct RaftEngine(Engine);

impl RaftEngine {
    fn open(dir: &Path) -> Result<Box<dyn Log>, String> {
        let config = Config { dir: dir.join("raft-engine").to_string_lossy().into_owned(), ..Config::default() };
        Ok(Box::new(Self(Engine::open(config).map_err(said)?)))
    }
}

impl Log for RaftEngine {
    fn commit(&self, number: u64) -> Result<(), String> {
        let mut batch = LogBatch::default();
        batch.put(number, b"record".to_vec(), content(number)).map_err(said)?;
        self.0.write(&mut batch, true).map(drop).map_err(said)
    }

    fn read(&self) -> Result<Vec<Vec<u8>>, String> {
        Ok((1..=super::RECORDS).filter_map(|number| self.0.get(number, b"record")).collect())
    }
}

struct WalDb(Wal);

impl WalDb {
    fn open(dir: &Path) -> Result<Box<dyn Log>, String> {
        Ok(Box::new(Self(Wal::open(dir.join("wal-db")).map_err(said)?)))
    }
}

impl Log for WalDb {
    fn commit(&self, number: u64) -> Result<(), String> {
        self.0.append_and_sync(&content(number)).map(drop).map_err(said)
    }

    fn read(&self) -> Result<Vec<Vec<u8>>, String> {
        self.0.iter().map_err(said)?.map(|entry| Ok(entry.map_err(said)?.data().to_vec())).collect()
    }
}

struct OkayWal {
    log: WriteAheadLog,
    recovered: Recovered,
}

/// The chunks that okaywal returns when it is opened.
#[derive(Clone, Debug, Default)]
struct Recovered(Arc<Mutex<Vec<Vec<u8>>>>);

impl LogManager for Recovered {
    fn recover(&mut self, entry: &mut okaywal::Entry<'_>) -> std::io::Result<()> {
        if let Some(chunks) = entry.read_all_chunks()? {
            self.0.lock().expect("no thread panics with the lock").extend(chunks);
        }
        Ok(())
    }

    fn checkpoint_to(&mut self, _: EntryId, _: &mut SegmentReader, _: &WriteAheadLog) -> std::io::Result<()> {
        Ok(())
    }
}

impl OkayWal {
    fn open(dir: &Path) -> Result<Box<dyn Log>, String> {
        let recovered = Recovered::default();
        // No checkpoint, because it would remove the records.
        let configuration = Configuration::default_for(dir.join("okaywal")).checkpoint_after_bytes(1 << 40);
        let log = configuration.open(recovered.clone()).map_err(said)?;
        Ok(Box::new(Self { log, recovered }))
    }
}

impl Log for OkayWal {
    fn commit(&self, number: u64) -> Result<(), String> {
        let mut entry = self.log.begin_entry().map_err(said)?;
        entry.write_chunk(&content(number)).map_err(said)?;
        entry.commit().map(drop).map_err(said)
    }

    fn read(&self) -> Result<Vec<Vec<u8>>, String> {
        Ok(self.recovered.0.lock().map_err(said)?.clone())
    }
}

struct Sqlite(Mutex<Connection>);

impl Sqlite {
    fn open(dir: &Path) -> Result<Box<dyn Log>, String> {
        let connection = Connection::open(dir.join("sqlite")).map_err(said)?;
        connection
            .execute_batch(
                "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL;
                 CREATE TABLE IF NOT EXISTS records (number INTEGER PRIMARY KEY, record BLOB);",
            )
            .map_err(said)?;
        Ok(Box::new(Self(Mutex::new(connection))))
    }
}

impl Log for Sqlite {
    fn commit(&self, number: u64) -> Result<(), String> {
        let connection = self.0.lock().map_err(said)?;
        let inserted = connection.execute("INSERT INTO records VALUES (?1, ?2)", (number as i64, content(number)));
        inserted.map(drop).map_err(said)
    }

    fn read(&self) -> Result<Vec<Vec<u8>>, String> {
        let connection = self.0.lock().map_err(said)?;
        let mut statement = connection.prepare("SELECT record FROM records").map_err(said)?;
        let rows = statement.query_map([], |row| row.get(0)).map_err(said)?;
        rows.map(|row| row.map_err(said)).collect()
    }
}

struct Fjall {
    database: Database,
    records: Keyspace,
}

impl Fjall {
    fn open(dir: &Path) -> Result<Box<dyn Log>, String> {
        let database = Database::builder(dir.join("fjall")).open().map_err(said)?;
        let records = database.keyspace("records", KeyspaceCreateOptions::default).map_err(said)?;
        Ok(Box::new(Self { database, records }))
    }
}

impl Log for Fjall {
    fn commit(&self, number: u64) -> Result<(), String> {
        self.records.insert(number.to_be_bytes(), content(number)).map_err(said)?;
        self.database.persist(PersistMode::SyncAll).map_err(said)
    }

    fn read(&self) -> Result<Vec<Vec<u8>>, String> {
        let snapshot = self.database.snapshot();
        snapshot.iter(&self.records).map(|item| item.value().map(|value| value.to_vec()).map_err(said)).collect()
    }
}

const TABLE: TableDefinition<u64, &[u8]> = TableDefinition::new("records");

struct Redb(redb::Database);

impl Redb {
    fn open(dir: &Path) -> Result<Box<dyn Log>, String> {
        Ok(Box::new(Self(redb::Database::create(dir.join("redb")).map_err(said)?)))
    }

    fn put(&self, number: u64) -> Result<(), redb::Error> {
        let transaction = self.0.begin_write()?;
        transaction.open_table(TABLE)?.insert(number, content(number).as_slice())?;
        Ok(transaction.commit()?)
    }

    fn all(&self) -> Result<Vec<Vec<u8>>, redb::Error> {
        let table = self.0.begin_read()?.open_table(TABLE)?;
        let records = table.iter()?.map(|row| Ok(row?.1.value().to_vec()));
        records.collect()
    }
}

impl Log for Redb {
    fn commit(&self, number: u64) -> Result<(), String> {
        self.put(number).map_err(said)
    }

    fn read(&self) -> Result<Vec<Vec<u8>>, String> {
        self.all().map_err(said)
    }
}
