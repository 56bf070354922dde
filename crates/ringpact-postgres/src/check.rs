//! What must be true of a server, a database and a role before a participant opens on them.

use deadpool_postgres::Pool;
use ringpact::participant::xa::{XaError, XaErrorKind};
use tokio_postgres::SimpleQueryRow;

use crate::{
    control::Control,
    error::{During, PgFailure, PgOpenError, failure, no_connection},
    names::literal,
    setup::{PROMISE_ARGUMENTS, VERSION},
};

/// The first version that has `pg_current_xact_id_if_assigned`.
const OLDEST_VERSION: u32 = 130_000;

/// What the options of a participant ask of its server.
pub(crate) struct Wanted<'a> {
    pub(crate) schema: &'a str,
    pub(crate) max_promises: usize,
    pub(crate) may_lose_promises: bool,
}

/// Returns the first thing that is unsuitable, as an error that says what to change.
pub(crate) async fn check(pool: &Pool, control: &Control, wanted: &Wanted<'_>) -> Result<(), PgOpenError> {
    server(control, wanted).await?;
    let role = role(pool, control).await?;
    set_up(control, wanted, &role).await
}

async fn server(control: &Control, wanted: &Wanted<'_>) -> Result<(), PgOpenError> {
    let row = one_row(
        control,
        "SELECT current_setting('server_version_num'), current_setting('max_prepared_transactions'), \
         current_setting('fsync'), pg_is_in_recovery(), current_setting('server_version')",
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
    let (prepared, wants): (usize, usize) = (number(&row, 1)?, wanted.max_promises);
    if prepared < wants {
        let problem =
            format!("max_prepared_transactions is {prepared}, and the participant may hold {wants} promises at once");
        let change = format!(
            "Run ALTER SYSTEM SET max_prepared_transactions = {wants} (more if other participants share the server) and restart \
             the server, or lower the builder's max_promises"
        );
        return unsuitable(problem, &change);
    }
    if text(&row, 2)? != "on" && !wanted.may_lose_promises {
        let problem = "fsync is off, so a crash of the machine loses promises".to_owned();
        let change = "Run ALTER SYSTEM SET fsync = on, or, for tests, call the builder's accept_fsync_off";
        return unsuitable(problem, change);
    }
    Ok(())
}

/// Checks that branches and control have one role: PostgreSQL lets only the role that made a promise end it.
async fn role(pool: &Pool, control: &Control) -> Result<String, PgOpenError> {
    const ROLES: &str = "SELECT current_user, session_user";
    let of_control = one_row(control, ROLES).await?;
    let client = pool.get().await.map_err(no_connection)?;
    let of_branches = client.query_typed_one(ROLES, &[]).await.map_err(|error| failure(error, During::Repeatable))?;
    let [current, session] = [0, 1].map(|index| of_branches.try_get::<_, &str>(index).unwrap_or_default().to_owned());
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

async fn set_up(control: &Control, wanted: &Wanted<'_>, role: &str) -> Result<(), PgOpenError> {
    let schema = wanted.schema;
    let quoted_role = format!("\"{}\"", role.replace('"', "\"\""));
    let run = "Run PgParticipant::SETUP_SQL in the database as its owner, or call PgParticipant::setup";
    let name = literal(schema);
    let row = one_row(
        control,
        &format!(
            "SELECT current_database(), to_regnamespace({name}) IS NULL, \
             CASE WHEN to_regnamespace({name}) IS NOT NULL THEN has_schema_privilege({name}, 'USAGE') END"
        ),
    )
    .await?;
    let database = text(&row, 0)?;
    if text(&row, 1)? == "t" {
        return unsuitable(format!("database {database} has no schema {schema}"), run);
    }
    let grant = format!(
        "As its owner, run GRANT USAGE ON SCHEMA {schema} TO {quoted_role}; GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN \
         SCHEMA {schema} TO {quoted_role}; GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA {schema} TO {quoted_role}"
    );
    let no_rights = || format!("role {role} may not use schema {schema} of database {database}");
    if text(&row, 2)? != "t" {
        return unsuitable(no_rights(), &grant);
    }
    let function = literal(&format!("{schema}.promise({PROMISE_ARGUMENTS})"));
    let exists = format!(
        "SELECT to_regprocedure({function}) IS NOT NULL AND to_regclass('{schema}.marker') IS NOT NULL \
         AND to_regclass('{schema}.life') IS NOT NULL AND to_regprocedure('{schema}.setup_version()') IS NOT NULL"
    );
    if text(&one_row(control, &exists).await?, 0)? != "t" {
        return unsuitable(format!("schema {schema} of database {database} is incomplete"), run);
    }
    let rights = format!(
        "SELECT has_table_privilege('{schema}.marker', 'SELECT') AND has_table_privilege('{schema}.marker', 'INSERT') \
         AND has_table_privilege('{schema}.marker', 'DELETE') AND has_table_privilege('{schema}.life', 'SELECT') \
         AND has_table_privilege('{schema}.life', 'INSERT') AND has_table_privilege('{schema}.life', 'UPDATE') \
         AND has_function_privilege({function}, 'EXECUTE') AND has_function_privilege('{schema}.setup_version()', 'EXECUTE')"
    );
    if text(&one_row(control, &rights).await?, 0)? != "t" {
        return unsuitable(no_rights(), &grant);
    }
    let found: u32 = number(&one_row(control, &format!("SELECT {schema}.setup_version()")).await?, 0)?;
    if found != VERSION {
        let problem = format!("schema {schema} has version {found}, and this program needs version {VERSION}");
        return unsuitable(problem, run);
    }
    Ok(())
}

pub(crate) fn unsuitable<T>(problem: String, change: &str) -> Result<T, PgOpenError> {
    Err(PgOpenError::Unsuitable { problem, change: change.to_owned() })
}

pub(crate) async fn one_row(control: &Control, statement: &str) -> Result<SimpleQueryRow, PgOpenError> {
    Ok(control.ask(statement).await?.pop().ok_or_else(|| malformed(statement))?)
}

pub(crate) fn text(row: &SimpleQueryRow, index: usize) -> Result<&str, PgOpenError> {
    Ok(row.try_get(index).ok().flatten().ok_or_else(|| malformed("a value is missing"))?)
}

fn number<T: std::str::FromStr>(row: &SimpleQueryRow, index: usize) -> Result<T, PgOpenError> {
    let text = text(row, index)?;
    Ok(text.parse().map_err(|_| malformed(text))?)
}

fn malformed(what: &str) -> XaError {
    XaError::new(XaErrorKind::Misconfigured, PgFailure::Malformed(what.to_owned()))
}
