//! The suite of shards, on a real server.

use std::sync::Arc;

use ringpact::sharding::conformance::{self, ShardHarness};
use ringpact_postgres::PgShard;

use super::{Add, EQUAL, Ledger, RUNTIME, database};
use crate::support::Db;

struct Rows {
    db: Arc<Db>,
    ledger: Ledger,
    name: String,
}

impl ShardHarness for Rows {
    type Shard = PgShard<Ledger>;

    fn open(&self) -> PgShard<Ledger> {
        RUNTIME.block_on(self.ledger.open(self.db.builder_of(&self.name).connections(4)))
    }

    fn work(&self, key: u32, value: u32) -> Add {
        Add { key, amount: i64::from(value) }
    }

    fn seen(&self, _: &PgShard<Ledger>, key: u32) -> Option<String> {
        RUNTIME.block_on(self.ledger.seen(&self.db.admin, key))
    }

    fn equal_positions(&self) -> Option<[u32; 2]> {
        Some(EQUAL)
    }
}

#[test]
fn a_shard_in_a_database_keeps_all_rules_of_shards() {
    let Some(db) = RUNTIME.block_on(database()).map(Arc::new) else { return };
    let report = conformance::check(|| {
        let ledger = RUNTIME.block_on(Ledger::new(&db.admin));
        let name = format!("goods.node-{}", ledger.tables);
        Rows { db: Arc::clone(&db), ledger, name }
    });
    assert_eq!(report.skipped, [""; 0]);
}
