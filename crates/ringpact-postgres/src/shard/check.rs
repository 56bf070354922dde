//! What must be true of the runtime, of the shards' own tables and of the service's tables before a shard opens.

use ringpact::participant::{
    tables::{AsyncService, TableBackend as _},
    xa::XaError,
};
use ringpact_sql::postgres::TextRow;
use tokio::runtime::{Handle, RuntimeFlavor};

use super::{
    PgShard, Resolved, ShardTable,
    step::{ask, literal},
};
use crate::{PgTx, error::PgOpenError};

/// Maximum number of tables of a shard: their numbers fit into a byte.
const MAX_TABLES: usize = 256;

/// Returns the runtime, if threads that block can wait for it.
pub(super) fn runtime() -> Result<Handle, PgOpenError> {
    let runtime = Handle::current();
    if runtime.runtime_flavor() == RuntimeFlavor::CurrentThread {
        let problem = "the runtime has one thread, and a shard's callers block until its tasks are done";
        return unsuitable(problem, "Build it with new_multi_thread, or write #[tokio::main] without a flavor");
    }
    Ok(runtime)
}

fn unsuitable<T>(problem: impl Into<String>, change: impl Into<String>) -> Result<T, PgOpenError> {
    Err(PgOpenError::Unsuitable { problem: problem.into(), change: change.into() })
}

impl<S: AsyncService<PgTx>> PgShard<S> {
    /// Checks all tables, and returns the names of the service's as SQL has them.
    pub(super) async fn check(&self, tables: &[ShardTable]) -> Result<Vec<Resolved>, PgOpenError> {
        if tables.is_empty() || tables.len() > MAX_TABLES {
            let problem = format!("the shard has {} tables", tables.len());
            return unsuitable(problem, format!("Open it with 1 to {MAX_TABLES} values of ShardTable"));
        }
        let tx = self.tables.begin().await?;
        let checked = self.check_in(&tx, tables).await;
        self.tables.rollback(tx).await;
        checked
    }

    async fn check_in(&self, tx: &PgTx, tables: &[ShardTable]) -> Result<Vec<Resolved>, PgOpenError> {
        self.check_own(tx).await?;
        let mut resolved = Vec::new();
        for table in tables {
            resolved.push(check_table(tx, table).await?);
        }
        Ok(resolved)
    }

    /// Checks the shards' own tables.
    async fn check_own(&self, tx: &PgTx) -> Result<(), PgOpenError> {
        let schema = &self.schema;
        let own = [format!("{schema}.shard"), format!("{schema}.shard_note")];
        let exist = own.each_ref().map(|table| format!("to_regclass('{table}') IS NOT NULL")).join(" AND ");
        if !holds(tx, &exist).await? {
            let change = "Run PgShard::setup_sql in the database as its owner, or call set_up_shards; for another schema \
                          replace its name in the text";
            return unsuitable(format!("schema {schema} lacks the tables that shards need"), change);
        }
        let rights = own.each_ref().map(|table| may(table, &["SELECT", "INSERT", "UPDATE", "DELETE"])).join(" AND ");
        if !holds(tx, &rights).await? {
            let change =
                format!("As their owner, run GRANT SELECT, INSERT, UPDATE, DELETE ON {} TO the role", own.join(", "));
            return unsuitable(format!("the role may not use the tables {}", own.join(" and ")), change);
        }
        Ok(())
    }
}

/// Checks a table of the service.
async fn check_table(tx: &PgTx, table: &ShardTable) -> Result<Resolved, PgOpenError> {
    let ShardTable { name, position, columns } = table;
    if columns.is_empty() || columns.contains(position) {
        let problem = format!("table {name} has no columns to move, or the position is named among them");
        return unsuitable(problem, "Call ShardTable::columns with the columns that make up a record");
    }
    let found = one_row(tx, &format!("SELECT to_regclass({})::text", literal(name))).await?;
    let Some(found) = found.get(0).map(str::to_owned) else {
        let problem = format!("there is no table {name} in the search path of this role");
        return unsuitable(problem, "Create it, or name it with its schema");
    };
    let oid = format!("{}::regclass", literal(&found));
    let [position_name, name_list] = [std::slice::from_ref(position), columns]
        .map(|names| names.iter().map(|name| literal(name)).collect::<Vec<_>>().join(", "));
    let attribute = format!("pg_attribute WHERE attrelid = {oid} AND attnum > 0 AND NOT attisdropped");
    let is_bigint = format!(
        "EXISTS (SELECT FROM {attribute} AND attname = {position_name} AND atttypid = 'bigint'::regtype AND attnotnull)"
    );
    if !holds(tx, &is_bigint).await? {
        let problem = format!("table {found} has no column {position} of type bigint that is not null");
        let change = format!(
            "Run ALTER TABLE {found} ADD COLUMN {position} bigint, fill it with column_of of each key's position, and run \
             ALTER TABLE {found} ALTER COLUMN {position} SET NOT NULL"
        );
        return unsuitable(problem, change);
    }
    let is_indexed = format!(
        "EXISTS (SELECT FROM pg_index JOIN pg_class ON pg_class.oid = indexrelid JOIN pg_am ON pg_am.oid = relam \
         JOIN pg_attribute ON attrelid = indrelid AND attnum = indkey[0] \
         WHERE indrelid = {oid} AND attname = {position_name} AND amname = 'btree' AND indisvalid AND indpred IS NULL)"
    );
    if !holds(tx, &is_indexed).await? {
        let problem = format!("table {found} has no index that begins with its column {position}");
        return unsuitable(problem, format!("Run CREATE INDEX ON {found} ({position})"));
    }
    let known = format!("SELECT count(*) FROM {attribute} AND attgenerated = '' AND attname IN ({name_list})");
    if one_row(tx, &known).await?.get(0) != Some(&*columns.len().to_string()) {
        let problem =
            format!("table {found} lacks some of the columns {}, or makes them by itself", columns.join(", "));
        return unsuitable(problem, "Call ShardTable::columns with columns of the table, each once");
    }
    let missing = format!(
        "SELECT string_agg(attname, ', ') FROM {attribute} AND attnotnull AND NOT atthasdef AND attidentity = '' \
         AND attname NOT IN ({position_name}, {name_list})"
    );
    if let Some(missing) = one_row(tx, &missing).await?.get(0) {
        let problem = format!("columns {missing} of table {found} do not move, and have no value at a new shard");
        return unsuitable(problem, "Give them a default, or add them to ShardTable::columns");
    }
    if !holds(tx, &may(&found, &["SELECT", "INSERT", "DELETE"])).await? {
        let change = format!("As its owner, run GRANT SELECT, INSERT, UPDATE, DELETE ON {found} TO the role");
        return unsuitable(format!("the role may not use table {found}"), change);
    }
    if holds(tx, &format!("row_security_active({oid})")).await? {
        let problem = format!("row security of table {found} may hide records from the role");
        return unsuitable(problem, "Use a role with BYPASSRLS, or the table's owner without FORCE ROW LEVEL SECURITY");
    }
    let quoted = format!("SELECT quote_ident({position_name}), {}", quoted(columns));
    let row = one_row(tx, &quoted).await?;
    let names: Vec<_> = (0..=columns.len()).filter_map(|index| row.get(index)).collect();
    Ok(Resolved { name: found, position: names[0].to_owned(), columns: names.join(", ") })
}

fn quoted(columns: &[String]) -> String {
    columns.iter().map(|column| format!("quote_ident({})", literal(column))).collect::<Vec<_>>().join(", ")
}

fn may(table: &str, rights: &[&str]) -> String {
    let rights = rights.iter().map(|right| format!("has_table_privilege({}, '{right}')", literal(table)));
    rights.collect::<Vec<_>>().join(" AND ")
}

async fn holds(tx: &PgTx, condition: &str) -> Result<bool, XaError> {
    Ok(one_row(tx, &format!("SELECT {condition}")).await?.get(0) == Some("t"))
}

async fn one_row(tx: &PgTx, statement: &str) -> Result<TextRow, XaError> {
    Ok(ask(tx, statement).await?.pop().unwrap_or_default())
}
