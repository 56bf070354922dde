//! What a database must be like, checked when a participant opens.

use std::{str::FromStr, time::Duration};

use super::{
    client::{ByteRow, MySqlLink},
    error::{StatementFailure, unavailable},
};
use crate::UnsuitableError;

/// Time for one statement.
const ANSWER_WITHIN: Duration = Duration::from_secs(15);

/// A table that [`SETUP_SQL`](super::SETUP_SQL) makes.
struct Table {
    name: &'static str,
    columns: &'static str,
    /// What its rows are given by an `UPDATE`, as an assignment. `None` if they are not changed.
    updated: Option<&'static str>,
    is_deleted_from: bool,
}

const COORDINATOR: Table = Table {
    name: "ringpact_coordinator",
    columns: "participant, name, log, epoch, position, replaces, after_epoch, after_position",
    updated: Some("position = 0"),
    is_deleted_from: false,
};

/// The tables of participants that prepare.
const TABLES: [Table; 3] = [
    Table { name: "ringpact_marker", columns: "id, position", updated: None, is_deleted_from: true },
    Table {
        name: "ringpact_session",
        columns: "id, participant, coordinator, epoch, fenced",
        updated: Some("fenced = 1"),
        is_deleted_from: true,
    },
    COORDINATOR,
];

/// The tables of participants whose service has its reservations in tables.
const TABLES_OF_SERVICES: [Table; 2] = [
    Table {
        name: "ringpact_branch",
        columns: "participant, coordinator, epoch, sequence, state, position, works, refusal",
        updated: Some("position = 0"),
        is_deleted_from: true,
    },
    COORDINATOR,
];

/// Oldest versions in which a prepared transaction survives the loss of its connection.
const OLDEST_MARIADB: (u32, u32, u32) = (10, 5, 0);
const OLDEST_MYSQL: (u32, u32, u32) = (8, 0, 29);

/// What the builder asks for.
#[derive(Clone, Copy, Debug)]
#[expect(clippy::exhaustive_structs, reason = "a check that is not known to the builder would not be made")]
pub struct Demands {
    /// Maximum number of connections for branches.
    pub pool: usize,
    /// Maximum number of connections beside them.
    pub control: usize,
    /// Maximum number of promises of this process that hold a connection; nothing to a service with tables.
    pub max_promises: usize,
    /// Whether the participant makes no promises.
    pub is_last_resource: bool,
    /// Whether promises may be lost in a crash of the server.
    pub accepts_loss: bool,
}

/// What the checks found.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Found {
    /// The database's name.
    pub database: String,
    /// Whether the server is MariaDB.
    pub is_mariadb: bool,
    /// Maximum length of a message to the server, in bytes.
    pub max_packet: u64,
    /// Whether the user may list the server's prepared transactions.
    pub lists_promises: bool,
}

type Checked<T = ()> = Result<T, UnsuitableError>;

fn misconfigured<T>(problem: impl Into<String>, remedy: impl Into<String>) -> Checked<T> {
    UnsuitableError::of(problem, remedy)
}

/// Runs all checks, the cheapest first, on a connection of the pool.
///
/// # Errors
///
/// The first thing that is unsuitable, as an error that says what to change.
pub async fn check(conn: &mut impl MySqlLink, demands: Demands) -> Checked<Found> {
    check_pool(demands)?;
    let mut found = check_server(conn, demands, Way::Prepares).await?;
    check_tables(conn, &TABLES).await?;
    check_privileges(conn, &TABLES, &quoted(&found.database)).await?;
    found.lists_promises = check_list(conn, demands).await?;
    Ok(found)
}

/// Like [`check()`], for a service with tables, which needs other tables and no right to see prepared transactions.
///
/// # Errors
///
/// As for [`check()`].
pub async fn check_for_tables(conn: &mut impl MySqlLink, demands: Demands) -> Checked<Found> {
    let found = check_server(conn, demands, Way::Tables).await?;
    check_tables(conn, &TABLES_OF_SERVICES).await?;
    check_privileges(conn, &TABLES_OF_SERVICES, &quoted(&found.database)).await?;
    Ok(found)
}

/// In which way a participant takes part.
#[derive(Clone, Copy)]
enum Way {
    /// By transactions that are prepared. Each promise holds a connection.
    Prepares,
    /// By rows.
    Tables,
}

async fn check_server(conn: &mut impl MySqlLink, demands: Demands, way: Way) -> Checked<Found> {
    let version: String = value(conn, "VERSION()").await?.unwrap_or_default();
    let is_mariadb = check_version(&version, way)?;
    let Some(database) = value::<String>(conn, "DATABASE()").await? else {
        return misconfigured("the connection has no default database", "Name one in the URL: mysql://host/database");
    };
    check_settings(conn, is_mariadb, demands, way).await?;
    check_connections(conn, demands).await?;
    let max_packet = value(conn, "@@max_allowed_packet").await?.unwrap_or(u64::MAX);
    Ok(Found { database, is_mariadb, max_packet, lists_promises: false })
}

/// Returns the name as statements take it.
pub(crate) fn quoted(name: &str) -> String {
    format!("`{}`", name.replace('`', "``"))
}

fn check_pool(Demands { pool, max_promises, is_last_resource, .. }: Demands) -> Checked {
    if max_promises < pool || is_last_resource {
        return Ok(());
    }
    misconfigured(
        format!(
            "{max_promises} promises may wait for their decision, and each holds a connection, but the pool has only {pool}"
        ),
        format!(
            "Allow the pool at least {} connections (PoolConstraints), or at most {} promises (max_promises)",
            max_promises + 1,
            pool.saturating_sub(1)
        ),
    )
}

/// Returns whether the server is MariaDB.
fn check_version(version: &str, way: Way) -> Checked<bool> {
    let is_mariadb = version.to_ascii_lowercase().contains("mariadb");
    // Some proxies put this before MariaDB's version.
    let numbers = version.strip_prefix("5.5.5-").unwrap_or(version);
    let mut numbers = numbers.split(|c: char| !c.is_ascii_digit()).map_while(|number| number.parse::<u32>().ok());
    let mut next = || numbers.next().unwrap_or(0);
    let found = (next(), next(), next());
    let (product, oldest) = if is_mariadb { ("MariaDB", OLDEST_MARIADB) } else { ("MySQL", OLDEST_MYSQL) };
    if found >= oldest {
        return Ok(is_mariadb);
    }
    let (major, minor, patch) = oldest;
    let why = match way {
        Way::Prepares => "which loses promises when their connection is lost",
        Way::Tables => "which is older than what this crate supports",
    };
    misconfigured(format!("the server is {version}, {why}"), format!("Use {product} {major}.{minor}.{patch} or later"))
}

async fn check_settings(conn: &mut impl MySqlLink, is_mariadb: bool, demands: Demands, way: Way) -> Checked {
    if !demands.accepts_loss {
        let flush: u64 = value(conn, "@@GLOBAL.innodb_flush_log_at_trx_commit").await?.unwrap_or(0);
        if flush != 1 {
            return misconfigured(
                format!(
                    "innodb_flush_log_at_trx_commit is {flush}, so a crash of the server may lose promises and commits"
                ),
                "SET GLOBAL innodb_flush_log_at_trx_commit = 1, also in the server's configuration file",
            );
        }
    }
    if value::<u64>(conn, "@@GLOBAL.log_bin").await?.unwrap_or(0) != 0 {
        let sync: u64 = value(conn, "@@GLOBAL.sync_binlog").await?.unwrap_or(0);
        if sync != 1 && !demands.accepts_loss {
            return misconfigured(
                format!("sync_binlog is {sync}, so a crash of the server may lose promises and commits"),
                "SET GLOBAL sync_binlog = 1, also in the server's configuration file",
            );
        }
        // A server without this variable has no other format than ROW.
        let format: String = value(conn, "@@GLOBAL.binlog_format").await.ok().flatten().unwrap_or_default();
        if format.eq_ignore_ascii_case("STATEMENT") {
            return misconfigured(
                "binlog_format is STATEMENT, which can't log the statements of this crate",
                "SET GLOBAL binlog_format = MIXED (or ROW), also in the server's configuration file",
            );
        }
    }
    for variable in ["read_only", "innodb_read_only"] {
        let is_on = value::<String>(conn, &format!("CAST(@@GLOBAL.{variable} AS CHAR)")).await?;
        if is_on.is_some_and(|on| !matches!(on.to_ascii_uppercase().as_str(), "0" | "OFF")) {
            return misconfigured(
                format!("{variable} is on: the server is a replica, or an operator has set it so"),
                "Connect to the primary server, or SET GLOBAL read_only = 0",
            );
        }
    }
    if is_mariadb && value::<u64>(conn, "@@GLOBAL.wsrep_on").await.ok().flatten().unwrap_or(0) != 0 {
        let problem = match way {
            Way::Prepares => "wsrep_on is on, and a Galera cluster has no XA transactions",
            Way::Tables => "wsrep_on is on, and the servers of a Galera cluster do not wait for each other's locks",
        };
        return misconfigured(problem, "Use a server that is not part of a Galera cluster");
    }
    Ok(())
}

async fn check_connections(conn: &mut impl MySqlLink, demands: Demands) -> Checked {
    let needed = demands.pool + demands.control;
    for variable in ["max_connections", "max_user_connections"] {
        let limit: u64 = value(conn, &format!("@@GLOBAL.{variable}")).await?.unwrap_or(0);
        // Zero means that there is no limit.
        let is_too_low = limit != 0 && usize::try_from(limit).is_ok_and(|limit| limit < needed);
        if is_too_low {
            return misconfigured(
                format!(
                    "{variable} is {limit}, and this participant may take {needed} connections: {} for branches and \
                     {} to end them",
                    demands.pool, demands.control
                ),
                format!("SET GLOBAL {variable} = {} or more, or allow the pool fewer connections", needed + 10),
            );
        }
    }
    Ok(())
}

async fn check_tables(conn: &mut impl MySqlLink, tables: &[Table]) -> Checked {
    for Table { name: table, columns, .. } in tables {
        let sql = format!(
            "SELECT engine FROM information_schema.tables WHERE table_schema = DATABASE() AND table_name = '{table}'"
        );
        let found = rows(conn, sql).await?;
        let Some(engine) = found.first().and_then(|row| row.text(0)) else {
            return misconfigured(
                format!("table {table} is missing in the participant's database, or the user may not see it"),
                "Carry out the participant's SETUP_SQL once in that database, or call `setup`",
            );
        };
        if !engine.eq_ignore_ascii_case("InnoDB") {
            return misconfigured(
                format!("table {table} has the engine {engine}, which keeps no promises"),
                format!("ALTER TABLE {table} ENGINE = InnoDB"),
            );
        }
        if let Err(error) = run(conn, format!("SELECT {columns} FROM {table} LIMIT 0")).await {
            const UNKNOWN_COLUMN: u16 = 1054;
            if error.code == Some(UNKNOWN_COLUMN) {
                return misconfigured(
                    format!("table {table} has other columns than {columns}"),
                    format!("DROP TABLE {table} while no branch is promised, then carry out SETUP_SQL again"),
                );
            }
            return denied(
                error,
                &format!("read {table}"),
                &format!("GRANT SELECT ON {table} TO the participant's user"),
            );
        }
    }
    Ok(())
}

async fn check_privileges(conn: &mut impl MySqlLink, tables: &[Table], database: &str) -> Checked {
    for Table { name: table, columns, updated, is_deleted_from } in tables {
        let insert = format!("INSERT INTO {table} ({columns}) SELECT {columns} FROM {table} WHERE 1 = 0");
        let update = updated.map(|updated| format!("UPDATE {table} SET {updated} WHERE 1 = 0"));
        let delete = is_deleted_from.then(|| format!("DELETE FROM {table} WHERE 1 = 0"));
        for (right, statement) in [("INSERT", Some(insert)), ("UPDATE", update), ("DELETE", delete)] {
            let Some(statement) = statement else { continue };
            if let Err(error) = run(conn, statement).await {
                let grant = format!("GRANT {right} ON {database}.{table} TO the participant's user");
                return denied(error, &format!("{right} in {table}"), &grant);
            }
        }
    }
    Ok(())
}

/// Returns whether the user may list the server's prepared transactions. Only a last resource need not.
async fn check_list(conn: &mut impl MySqlLink, demands: Demands) -> Checked<bool> {
    let Err(error) = run(conn, "XA RECOVER").await else { return Ok(true) };
    if demands.is_last_resource && error.code.is_some() {
        return Ok(false);
    }
    let grant = "GRANT XA_RECOVER_ADMIN ON *.* TO the participant's user, or open it as a last resource";
    denied(error, "list prepared transactions", grant).map(|()| false)
}

/// Tells a missing privilege from a failure of the connection.
fn denied(error: StatementFailure, action: &str, remedy: &str) -> Checked {
    match error.code {
        Some(_) => misconfigured(format!("the participant's user can't {action}: {}", error.source), remedy),
        None => Err(unavailable(error).into()),
    }
}

/// Returns the value of an expression.
async fn value<T: FromStr>(conn: &mut impl MySqlLink, expression: &str) -> Checked<Option<T>> {
    let rows = rows(conn, format!("SELECT {expression}")).await?;
    Ok(rows.first().and_then(|row| row.number(0)))
}

async fn rows(conn: &mut impl MySqlLink, sql: String) -> Checked<Vec<ByteRow>> {
    Ok(conn.rows(ANSWER_WITHIN, sql).await.map_err(unavailable)?)
}

async fn run(conn: &mut impl MySqlLink, sql: impl Into<String>) -> Result<(), StatementFailure> {
    conn.run(ANSWER_WITHIN, sql.into()).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_that_lose_promises_are_refused() {
        for (version, is_mariadb) in [
            ("10.11.14-MariaDB-0+deb12u2", true),
            ("5.5.5-10.5.1-MariaDB", true),
            ("8.0.29", false),
            ("8.4.0-log", false),
        ] {
            assert_eq!(check_version(version, Way::Prepares).expect("accepted"), is_mariadb, "{version}");
        }
        for version in ["10.4.30-MariaDB", "8.0.28", "5.7.44-log", ""] {
            assert!(matches!(check_version(version, Way::Prepares), Err(UnsuitableError::SetUp { .. })), "{version}");
        }
    }

    #[test]
    fn a_pool_must_be_larger_than_the_number_of_promises() {
        let demands = |pool, max_promises| Demands {
            pool,
            control: 4,
            max_promises,
            is_last_resource: false,
            accepts_loss: false,
        };
        check_pool(demands(65, 64)).expect("one is left for work");
        let error = check_pool(demands(64, 64)).expect_err("none is left for work").to_string();
        assert!(error.contains("64 promises") && error.contains("65 connections"), "{error}");
        check_pool(Demands { is_last_resource: true, ..demands(1, 64) }).expect("a last resource makes no promises");
    }
}
