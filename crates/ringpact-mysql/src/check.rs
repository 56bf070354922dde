//! What a database must be like, checked when a participant opens.

use mysql_async::{Conn, Error, prelude::Queryable as _};

use crate::{
    CONTROL_CONNECTIONS,
    error::{MySqlOpenError, server_code},
};

/// A table that [`SETUP_SQL`](crate::MySqlParticipant::SETUP_SQL) makes, with its columns.
type Table = (&'static str, &'static str);

const COORDINATOR: Table =
    ("ringpact_coordinator", "participant, name, log, epoch, position, replaces, after_epoch, after_position");

/// The tables of participants that prepare.
const TABLES: [Table; 3] = [
    ("ringpact_marker", "id, position"),
    ("ringpact_session", "id, participant, coordinator, epoch, fenced"),
    COORDINATOR,
];

/// The tables of participants whose service has its reservations in tables.
const TABLES_OF_SERVICES: [Table; 2] =
    [("ringpact_branch", "participant, coordinator, epoch, sequence, state, position, works, refusal"), COORDINATOR];

/// Oldest versions in which a prepared transaction survives the loss of its connection.
const OLDEST_MARIADB: (u32, u32, u32) = (10, 5, 0);
const OLDEST_MYSQL: (u32, u32, u32) = (8, 0, 29);

/// What the builder asks for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Demands {
    /// Maximum number of connections for branches.
    pub(crate) pool: usize,
    pub(crate) way: Way,
    /// Whether promises may be lost in a crash of the server.
    pub(crate) accepts_loss: bool,
}

/// In which way a participant takes part.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Way {
    /// By transactions that are prepared. Each promise holds a connection.
    Prepares { max_promises: usize },
    /// By rows.
    Tables,
}

/// What the checks found.
#[derive(Debug)]
pub(crate) struct Found {
    /// The database's name.
    pub(crate) database: String,
    pub(crate) is_mariadb: bool,
    /// Maximum length of a message, in bytes.
    pub(crate) max_packet: u64,
}

type Checked<T = ()> = Result<T, MySqlOpenError>;

fn misconfigured<T>(problem: impl Into<String>, remedy: impl Into<String>) -> Checked<T> {
    Err(MySqlOpenError::Misconfigured { problem: problem.into(), remedy: remedy.into() })
}

/// Runs all checks, the cheapest first.
pub(crate) async fn check(conn: &mut Conn, demands: Demands) -> Checked<Found> {
    if let Way::Prepares { max_promises } = demands.way {
        check_pool(demands.pool, max_promises)?;
    }
    let version: String = value(conn, "VERSION()").await?.unwrap_or_default();
    let is_mariadb = check_version(&version, demands.way)?;
    let Some(database) = value::<String>(conn, "DATABASE()").await? else {
        return misconfigured("the connection has no default database", "Name one in the URL: mysql://host/database");
    };
    check_settings(conn, is_mariadb, demands).await?;
    check_connections(conn, demands).await?;
    match demands.way {
        Way::Prepares { .. } => {
            check_tables(conn, &TABLES).await?;
            check_privileges(conn, &quoted(&database)).await?;
        }
        Way::Tables => {
            check_tables(conn, &TABLES_OF_SERVICES).await?;
            check_privileges_for_tables(conn, &quoted(&database)).await?;
        }
    }
    let max_packet = value(conn, "@@max_allowed_packet").await?.unwrap_or(u64::MAX);
    Ok(Found { database, is_mariadb, max_packet })
}

/// Returns the name as statements take it.
pub(crate) fn quoted(name: &str) -> String {
    format!("`{}`", name.replace('`', "``"))
}

fn check_pool(pool: usize, max_promises: usize) -> Checked {
    if max_promises < pool {
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
        Way::Prepares { .. } => "which loses promises when their connection is lost",
        Way::Tables => "which is older than what this crate supports",
    };
    misconfigured(format!("the server is {version}, {why}"), format!("Use {product} {major}.{minor}.{patch} or later"))
}

async fn check_settings(conn: &mut Conn, is_mariadb: bool, demands: Demands) -> Checked {
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
        let problem = match demands.way {
            Way::Prepares { .. } => "wsrep_on is on, and a Galera cluster has no XA transactions",
            Way::Tables => "wsrep_on is on, and the servers of a Galera cluster do not wait for each other's locks",
        };
        return misconfigured(problem, "Use a server that is not part of a Galera cluster");
    }
    Ok(())
}

async fn check_connections(conn: &mut Conn, demands: Demands) -> Checked {
    let needed = demands.pool + CONTROL_CONNECTIONS;
    for variable in ["max_connections", "max_user_connections"] {
        let limit: u64 = value(conn, &format!("@@GLOBAL.{variable}")).await?.unwrap_or(0);
        // Zero means that there is no limit.
        let is_too_low = limit != 0 && usize::try_from(limit).is_ok_and(|limit| limit < needed);
        if is_too_low {
            return misconfigured(
                format!(
                    "{variable} is {limit}, and this participant may take {needed} connections: {} for branches and \
                     {CONTROL_CONNECTIONS} to end them",
                    demands.pool
                ),
                format!("SET GLOBAL {variable} = {} or more, or allow the pool fewer connections", needed + 10),
            );
        }
    }
    Ok(())
}

async fn check_tables(conn: &mut Conn, tables: &[Table]) -> Checked {
    for (table, columns) in tables {
        let engine: Option<String> = conn
            .exec_first(
                "SELECT engine FROM information_schema.tables WHERE table_schema = DATABASE() AND table_name = ?",
                (table,),
            )
            .await?;
        let Some(engine) = engine else {
            return misconfigured(
                format!("table {table} is missing in the participant's database, or the user may not see it"),
                "Carry out SETUP_SQL of this crate once in that database, or call `setup`",
            );
        };
        if !engine.eq_ignore_ascii_case("InnoDB") {
            return misconfigured(
                format!("table {table} has the engine {engine}, which keeps no promises"),
                format!("ALTER TABLE {table} ENGINE = InnoDB"),
            );
        }
        if let Err(error) = conn.query_drop(format!("SELECT {columns} FROM {table} LIMIT 0")).await {
            const UNKNOWN_COLUMN: u16 = 1054;
            if server_code(&error) == Some(UNKNOWN_COLUMN) {
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

async fn check_privileges(conn: &mut Conn, database: &str) -> Checked {
    for (table, columns) in TABLES {
        let rights = [
            ("INSERT", format!("INSERT INTO {table} ({columns}) SELECT {columns} FROM {table} WHERE 1 = 0")),
            ("DELETE", format!("DELETE FROM {table} WHERE 1 = 0")),
        ];
        for (right, statement) in rights {
            if let Err(error) = conn.query_drop(statement).await {
                let grant = format!("GRANT {right} ON {database}.{table} TO the participant's user");
                return denied(error, &format!("{right} in {table}"), &grant);
            }
        }
    }
    if let Err(error) = conn.query_drop("UPDATE ringpact_session SET fenced = 1 WHERE 1 = 0").await {
        let grant = format!("GRANT UPDATE ON {database}.ringpact_session TO the participant's user");
        return denied(error, "UPDATE in ringpact_session", &grant);
    }
    if let Err(error) = conn.query_drop("XA RECOVER").await {
        return denied(error, "list prepared transactions", "GRANT XA_RECOVER_ADMIN ON *.* TO the participant's user");
    }
    Ok(())
}

async fn check_privileges_for_tables(conn: &mut Conn, database: &str) -> Checked {
    let rights = [
        ("ringpact_branch", "INSERT"),
        ("ringpact_branch", "UPDATE"),
        ("ringpact_branch", "DELETE"),
        ("ringpact_coordinator", "INSERT"),
        ("ringpact_coordinator", "UPDATE"),
    ];
    for (table, right) in rights {
        let statement = match right {
            "INSERT" => format!("INSERT INTO {table} SELECT * FROM {table} WHERE 1 = 0"),
            "UPDATE" => format!("UPDATE {table} SET position = 0 WHERE 1 = 0"),
            _ => format!("DELETE FROM {table} WHERE 1 = 0"),
        };
        if let Err(error) = conn.query_drop(statement).await {
            let grant = format!("GRANT {right} ON {database}.{table} TO the participant's user");
            return denied(error, &format!("{right} in {table}"), &grant);
        }
    }
    Ok(())
}

/// Tells a missing privilege from a failure of the connection.
fn denied(error: Error, action: &str, remedy: &str) -> Checked {
    match &error {
        Error::Server(refusal) => misconfigured(format!("the participant's user can't {action}: {refusal}"), remedy),
        _ => Err(error.into()),
    }
}

/// Returns the value of an expression.
async fn value<T>(conn: &mut Conn, expression: &str) -> Checked<Option<T>>
where
    T: mysql_async::prelude::FromValue + Send + 'static,
{
    Ok(conn.query_first::<Option<T>, _>(format!("SELECT {expression}")).await?.flatten())
}

#[cfg(test)]
mod tests {
    use super::*;

    const PREPARES: Way = Way::Prepares { max_promises: 64 };

    #[test]
    fn versions_that_lose_promises_are_refused() {
        for (version, is_mariadb) in [
            ("10.11.14-MariaDB-0+deb12u2", true),
            ("5.5.5-10.5.1-MariaDB", true),
            ("8.0.29", false),
            ("8.4.0-log", false),
        ] {
            assert_eq!(check_version(version, PREPARES).expect("accepted"), is_mariadb, "{version}");
        }
        for version in ["10.4.30-MariaDB", "8.0.28", "5.7.44-log", ""] {
            assert!(matches!(check_version(version, PREPARES), Err(MySqlOpenError::Misconfigured { .. })), "{version}");
        }
    }

    #[test]
    fn a_pool_must_be_larger_than_the_number_of_promises() {
        check_pool(65, 64).expect("one is left for work");
        let error = check_pool(64, 64).expect_err("none is left for work").to_string();
        assert!(error.contains("64 promises") && error.contains("65 connections"), "{error}");
    }
}
