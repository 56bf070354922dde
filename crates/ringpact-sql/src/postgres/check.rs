//! What must be true of a server, a database and a role before a participant opens on them.

use std::time::Duration;

use ringpact::participant::xa::{XaError, XaErrorKind};

use super::{
    client::{PgClient, PgLink, TextRow},
    error::{During, PgFailure, failure},
    names::literal,
    setup::{FUNCTIONS, VERSION},
};
use crate::UnsuitableError;

/// The first version that has `pg_current_xact_id_if_assigned`.
const OLDEST_VERSION: u32 = 130_000;

const RUN_SETUP: &str = "Run the participant's SETUP_SQL in the database as its owner, or call its function `setup`";

/// What the options of a participant ask of its server.
#[derive(Clone, Copy, Debug)]
#[expect(clippy::exhaustive_structs, reason = "a check that is not known to the builder would not be made")]
pub struct Wanted<'a> {
    /// Name of the schema.
    pub schema: &'a str,
    /// Maximum number of prepared transactions of this process; 0 for a service with tables.
    pub max_promises: usize,
    /// Whether the participant makes no promises.
    pub is_last_resource: bool,
    /// Whether a server that does not sync is accepted.
    pub may_lose_promises: bool,
    /// Maximum time for which a connection of the pool is waited for.
    pub connection: Duration,
}

/// Checks the server, the database and the role.
///
/// # Errors
///
/// The first thing that is unsuitable, as an error that says what to change.
pub async fn check(client: &impl PgClient, wanted: &Wanted<'_>) -> Result<(), UnsuitableError> {
    server(client, wanted).await?;
    let role = role(client, wanted.connection).await?;
    set_up(client, wanted, &role).await
}

/// Like [`check()`], for a service with tables: checks the table of branches, too.
///
/// # Errors
///
/// As for [`check()`].
pub async fn check_for_tables(client: &impl PgClient, wanted: &Wanted<'_>) -> Result<(), UnsuitableError> {
    check(client, wanted).await?;
    let schema = wanted.schema;
    let exists = format!("SELECT to_regclass('{schema}.branch') IS NOT NULL, current_user");
    let row = one_row(client, &exists).await?;
    if text(&row, 0)? != "t" {
        return unsuitable(format!("schema {schema} lacks the table that services with tables need"), RUN_SETUP);
    }
    let rights = format!(
        "SELECT has_table_privilege('{schema}.branch', 'SELECT') AND has_table_privilege('{schema}.branch', 'INSERT') \
         AND has_table_privilege('{schema}.branch', 'UPDATE') AND has_table_privilege('{schema}.branch', 'DELETE')"
    );
    if text(&one_row(client, &rights).await?, 0)? != "t" {
        let role = text(&row, 1)?;
        let grant =
            format!("As its owner, run GRANT SELECT, INSERT, UPDATE, DELETE ON {schema}.branch TO {}", quoted(role));
        return unsuitable(format!("role {role} may not use table {schema}.branch"), &grant);
    }
    Ok(())
}

async fn server(client: &impl PgClient, wanted: &Wanted<'_>) -> Result<(), UnsuitableError> {
    let row = one_row(
        client,
        "SELECT current_setting('server_version_num'), current_setting('max_prepared_transactions'), \
         current_setting('fsync'), pg_is_in_recovery(), current_setting('server_version'), \
         current_setting('synchronous_commit'), current_setting('default_transaction_read_only')",
    )
    .await?;
    let version: u32 = number(&row, 0)?;
    if version < OLDEST_VERSION {
        let problem = format!("the server is PostgreSQL {}", text(&row, 4)?);
        return unsuitable(
            problem,
            "Use PostgreSQL 13 or later, which can tell whether a transaction has changed something",
        );
    }
    if text(&row, 3)? == "t" {
        let problem = "the server is in recovery, so it is a standby and takes no writes".to_owned();
        return unsuitable(problem, "Connect to the primary, for example with target_session_attrs=read-write");
    }
    // Branches say READ WRITE, but the participant's own notes do not.
    if text(&row, 6)? == "on" {
        let problem = "default_transaction_read_only is on for the role, the database or the server".to_owned();
        let change = "Run ALTER ROLE .. RESET default_transaction_read_only (or ALTER DATABASE, or ALTER SYSTEM and \
                      pg_reload_conf()), leave it out of the connection's options, and connect again";
        return unsuitable(problem, change);
    }
    let (prepared, wants): (usize, usize) = (number(&row, 1)?, wanted.max_promises);
    if prepared < wants && !wanted.is_last_resource {
        let problem =
            format!("max_prepared_transactions is {prepared}, and the participant may hold {wants} promises at once");
        let change = format!(
            "Run ALTER SYSTEM SET max_prepared_transactions = {wants} (more if other participants share the server) and restart \
             the server, or lower the builder's max_promises. Without prepared transactions the database takes part as a last \
             resource: see the builder's last_resource"
        );
        return unsuitable(problem, &change);
    }
    if text(&row, 2)? != "on" && !wanted.may_lose_promises {
        let problem = "fsync is off, so a crash of the machine loses promises".to_owned();
        let change = "Run ALTER SYSTEM SET fsync = on, or, for tests, call the builder's accept_fsync_off";
        return unsuitable(problem, change);
    }
    // PREPARE TRANSACTION and COMMIT PREPARED sync all the same, but the COMMIT of a branch alone does not.
    if text(&row, 5)? == "off" && !wanted.may_lose_promises {
        let problem = "synchronous_commit is off, so a crash of the server loses commits".to_owned();
        let change = "Run ALTER ROLE .. SET synchronous_commit = on (or ALTER DATABASE, or ALTER SYSTEM and pg_reload_conf()), \
                      leave it out of the connection's options, and connect again";
        return unsuitable(problem, change);
    }
    Ok(())
}

/// Checks that branches and control have one role: PostgreSQL lets only the role that made a promise end it.
async fn role(client: &impl PgClient, within: Duration) -> Result<String, UnsuitableError> {
    const ROLES: &str = "SELECT current_user, session_user";
    let of_control = one_row(client, ROLES).await?;
    let mut link = client.connect(within).await?;
    let of_branches = link.ask(ROLES).await.map_err(|error| failure(error, During::Repeatable))?;
    link.give_back();
    let of_branches = of_branches.into_iter().next().unwrap_or_default();
    let [current, session] = [0, 1].map(|index| of_branches.get(index).unwrap_or_default().to_owned());
    let own = [text(&of_control, 0)?, text(&of_control, 1)?];
    if [current.as_str(), session.as_str()] != own || current != session {
        let problem = format!(
            "the pool's connections work as role {current} after they logged in as {session}, and new ones as {} and {}",
            own[0], own[1]
        );
        return unsuitable(
            problem,
            "Log in as the role that does the work, and leave SET ROLE out of the pool's hooks",
        );
    }
    Ok(current)
}

async fn set_up(client: &impl PgClient, wanted: &Wanted<'_>, role: &str) -> Result<(), UnsuitableError> {
    let schema = wanted.schema;
    let quoted_role = quoted(role);
    let name = literal(schema);
    let row = one_row(
        client,
        &format!(
            "SELECT current_database(), to_regnamespace({name}) IS NULL, \
             CASE WHEN to_regnamespace({name}) IS NOT NULL THEN has_schema_privilege({name}, 'USAGE') END"
        ),
    )
    .await?;
    let database = text(&row, 0)?;
    if text(&row, 1)? == "t" {
        return unsuitable(format!("database {database} has no schema {schema}"), RUN_SETUP);
    }
    let grant = format!(
        "As its owner, run GRANT USAGE ON SCHEMA {schema} TO {quoted_role}; GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN \
         SCHEMA {schema} TO {quoted_role}; GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA {schema} TO {quoted_role}"
    );
    let no_rights = || format!("role {role} may not use schema {schema} of database {database}");
    if text(&row, 2)? != "t" {
        return unsuitable(no_rights(), &grant);
    }
    let of_functions = |condition: &dyn Fn(&str) -> String| {
        FUNCTIONS.map(|name| condition(&format!("'{schema}.{name}'"))).join(" AND ")
    };
    let functions = of_functions(&|function| format!("to_regprocedure({function}) IS NOT NULL"));
    let exists = format!(
        "SELECT {functions} AND to_regclass('{schema}.marker') IS NOT NULL AND to_regclass('{schema}.life') IS NOT NULL"
    );
    if text(&one_row(client, &exists).await?, 0)? != "t" {
        return unsuitable(format!("schema {schema} of database {database} is incomplete"), RUN_SETUP);
    }
    let functions = of_functions(&|function| format!("has_function_privilege({function}, 'EXECUTE')"));
    let rights = format!(
        "SELECT has_table_privilege('{schema}.marker', 'SELECT') AND has_table_privilege('{schema}.marker', 'INSERT') \
         AND has_table_privilege('{schema}.marker', 'DELETE') AND has_table_privilege('{schema}.life', 'SELECT') \
         AND has_table_privilege('{schema}.life', 'INSERT') AND has_table_privilege('{schema}.life', 'UPDATE') \
         AND {functions}"
    );
    if text(&one_row(client, &rights).await?, 0)? != "t" {
        return unsuitable(no_rights(), &grant);
    }
    let found: u32 = number(&one_row(client, &format!("SELECT {schema}.setup_version()")).await?, 0)?;
    if found != VERSION {
        let problem = format!("schema {schema} has version {found}, and this program needs version {VERSION}");
        return unsuitable(problem, RUN_SETUP);
    }
    Ok(())
}

fn quoted(role: &str) -> String {
    format!("\"{}\"", role.replace('"', "\"\""))
}

fn unsuitable<T>(problem: String, change: &str) -> Result<T, UnsuitableError> {
    UnsuitableError::of(problem, change)
}

async fn one_row(client: &impl PgClient, statement: &str) -> Result<TextRow, UnsuitableError> {
    Ok(client.ask(statement).await?.pop().ok_or_else(|| malformed(statement))?)
}

fn text(row: &TextRow, index: usize) -> Result<&str, UnsuitableError> {
    Ok(row.get(index).ok_or_else(|| malformed("a value is missing"))?)
}

fn number<T: std::str::FromStr>(row: &TextRow, index: usize) -> Result<T, UnsuitableError> {
    let text = text(row, index)?;
    Ok(text.parse().map_err(|_| malformed(text))?)
}

fn malformed(what: &str) -> XaError {
    XaError::new(XaErrorKind::Misconfigured, PgFailure::Malformed(what.to_owned()))
}
