//! Rows that move: many, at one position, and such that are not a shard's own.

use ringpact::{
    MemoryLog, Participant as _,
    ring::{Position, PositionRange, RangeSet},
    sharding::{ShardHost, Tenure},
};
use ringpact_postgres::{PgShard, column_of};

use super::{Ledger, RUNTIME, database};
use crate::support::{Db, call};

/// More than a page of an export and a part of a discard.
const MANY: i64 = 12_000;

struct Site {
    ledger: Ledger,
    host: ShardHost<PgShard<Ledger>>,
}

impl Site {
    fn new(db: &Db, name: &str) -> Self {
        let ledger = RUNTIME.block_on(Ledger::new(&db.admin));
        let shard = RUNTIME.block_on(ledger.open(db.builder_of(name)));
        Self { host: ShardHost::open(name, MemoryLog::new(), shard).expect("a host"), ledger }
    }

    fn count(&self, db: &Db) -> i64 {
        RUNTIME.block_on(db.number(&self.ledger.sql("SELECT count(*) FROM sum_x")))
    }

    fn commit(&self, db: &Db, number: u64) {
        let branch = db.branch_of(self.host.name().as_str(), number);
        self.host.prepare(&branch, &call()).expect("a vote");
        self.host.commit(&branch, &call()).expect("a commit");
    }
}

/// Inserts rows at positions that are spread over the circle, three at each.
fn fill(db: &Db, site: &Site) {
    let fill = site.ledger.sql(&format!(
        "INSERT INTO sum_x SELECT id, ((id / 3) - 2000) * 4500000000000000, id FROM generate_series(0, {}) AS id; \
         ANALYZE sum_x",
        MANY - 1
    ));
    RUNTIME.block_on(db.admin.batch_execute(&fill)).expect("rows");
}

#[test]
fn a_large_shard_moves_chunk_by_chunk_and_reads_by_its_index() {
    let Some(db) = RUNTIME.block_on(database()) else { return };
    let (from, to) = (Site::new(&db, "goods.from"), Site::new(&db, "goods.to"));
    fill(&db, &from);
    from.host.adopt(&db.branch_of("goods.from", 1), &RangeSet::full(), Tenure::FIRST).expect("adopted");
    from.commit(&db, 1);
    let (mut left, mut chunks, mut records) = (RangeSet::full(), 0, 0);
    while !left.is_empty() {
        chunks += 1;
        let number = 1 + chunks;
        let (chunk, measured) = from.host.measure(&left, 64 << 10).expect("a chunk");
        let branch = db.branch_of("goods.from", number);
        let to_node = "to".into();
        let patience = std::time::Duration::ZERO;
        let released = from.host.release(&branch, &chunk, Tenure::new(number), &to_node, patience);
        let (bytes, digest) = released.expect("records");
        assert_eq!((digest.bytes, digest.records), (measured.bytes, measured.records));
        assert_eq!(digest.records % 3, 0, "a position is divided");
        to.host.take(&db.branch_of("goods.to", number), &chunk, Tenure::new(number), bytes, digest).expect("taken");
        to.commit(&db, number);
        from.commit(&db, number);
        records += digest.records as i64;
        assert_eq!((from.count(&db), to.count(&db)), (MANY - records, records));
        chunk.iter().for_each(|range| left.remove(range));
    }
    assert!(chunks > 3, "{chunks} chunks");
    assert_eq!(records, MANY);
    let plan = to.ledger.sql(
        "ANALYZE sum_x; EXPLAIN SELECT id FROM sum_x WHERE position BETWEEN \
                              '-9223372036854775808'::bigint AND '-8990000000000000000'::bigint ORDER BY position \
                              FETCH FIRST 128 ROWS WITH TIES",
    );
    let plan = RUNTIME.block_on(db.admin.simple_query(&plan)).expect("a plan");
    assert!(format!("{plan:?}").contains("Index"), "{plan:?}");
}

#[test]
fn a_discard_of_everything_is_several_short_transactions() {
    use ringpact::sharding::Shard as _;
    let Some(db) = RUNTIME.block_on(database()) else { return };
    let site = Site::new(&db, "goods.from");
    fill(&db, &site);
    let part = PositionRange { start: Position::new(5 << 60), end: Position::new(1 << 40) };
    site.host.shard().discard(part).expect("discarded");
    let column = column_of(Position::new(1 << 40));
    let wrong = site.ledger.sql(&format!(
        "SELECT count(*) FROM sum_x WHERE position > {} OR position <= {column}",
        column_of(Position::new(5 << 60))
    ));
    assert_eq!(RUNTIME.block_on(db.number(&wrong)), 0);
    assert!(site.count(&db) > 0, "what is out of the range stays");
    site.host.shard().discard(PositionRange { start: part.end, end: part.end }).expect("discarded");
    assert_eq!(site.count(&db), 0);
}

/// Rows of two partitions can have one physical place. A discard that looked at that alone would delete rows out of its range.
#[test]
fn a_discard_keeps_to_its_range_in_tables_with_partitions() {
    use ringpact::sharding::Shard as _;
    let Some(db) = RUNTIME.block_on(database()) else { return };
    let ledger = RUNTIME.block_on(Ledger::new(&db.admin));
    let parts = ledger.sql(
        "DROP TABLE line_x, sum_x; \
         CREATE TABLE sum_x (id integer PRIMARY KEY, position bigint NOT NULL, sum bigint NOT NULL) PARTITION BY RANGE (id); \
         CREATE TABLE sum_x_low PARTITION OF sum_x FOR VALUES FROM (0) TO (100); \
         CREATE TABLE sum_x_high PARTITION OF sum_x FOR VALUES FROM (100) TO (200); CREATE INDEX ON sum_x (position); \
         CREATE TABLE line_x (id integer, position bigint NOT NULL, \"What, and why\" text, at timestamptz, \
         ratio double precision, raw bytea); CREATE INDEX ON line_x (position); \
         INSERT INTO sum_x SELECT id, id, id FROM generate_series(0, 199) AS id",
    );
    RUNTIME.block_on(db.admin.batch_execute(&parts)).expect("tables");
    let shard = RUNTIME.block_on(ledger.open(db.builder_of("goods.parts")));
    let [start, end] = [-1_i64, 99].map(ringpact_postgres::position_of);
    shard.discard(PositionRange { start, end }).expect("discarded");
    assert_eq!(RUNTIME.block_on(db.number(&ledger.sql("SELECT count(*) FROM sum_x"))), 100);
    assert_eq!(RUNTIME.block_on(db.number(&ledger.sql("SELECT count(*) FROM sum_x WHERE id < 100"))), 0);
}

/// Each would bring rows to positions that are not the chunk's, or to other tables.
#[test]
fn records_of_another_form_are_refused_and_leave_nothing() {
    let Some(db) = RUNTIME.block_on(database()) else { return };
    let site = Site::new(&db, "goods.to");
    let bad: [&[u8]; 6] = [b"", b"\x02", b"\x00", b"\x001\t2\n99\t5\t5", b"\x001", b"\x00x\t1"];
    for (number, row) in (1..).zip(bad) {
        let mut bytes = 77_u64.to_le_bytes().to_vec();
        bytes.extend_from_slice(&(row.len() as u32).to_le_bytes());
        bytes.extend_from_slice(row);
        let branch = db.branch_of("goods.to", number);
        let taken = site.host.take(
            &branch,
            &RangeSet::full(),
            Tenure::new(number),
            bytes,
            ringpact::sharding::Digest::default(),
        );
        let error = taken.expect_err("it is no row of the shard");
        site.host.rollback(&branch, &call()).expect("a rollback");
        assert_eq!(site.count(&db), 0, "{error}");
    }
}
