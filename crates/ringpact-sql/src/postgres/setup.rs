//! What a database needs before it takes part: a schema with three tables and three functions.

use thiserror::Error;

/// Version of what [`SETUP_SQL`] sets up. It grows when an older set-up no longer does.
pub(crate) const VERSION: u32 = 3;

/// Name of the schema, if nothing else is said.
pub const DEFAULT_SCHEMA: &str = "ringpact";

/// The functions of the schema, with their arguments, to look them up by.
pub(crate) const FUNCTIONS: [&str; 3] = ["promise(text,boolean)", "mark(text)", "setup_version()"];

/// SQLSTATE of a promise whose transaction is not the branch's any more.
pub(crate) const OTHER_TRANSACTION: &str = "RP001";

/// SQLSTATE of a promise that is not needed, because the transaction has changed nothing.
pub(crate) const CHANGED_NOTHING: &str = "RP002";

/// SQLSTATE of a promise that can't be made: a serializable transaction that may not write the marker.
pub(crate) const SERIALIZABLE_READ_ONLY: &str = "RP003";

/// SQLSTATE of a one-phase commit whose coordinator was opened again since.
pub(crate) const LATER_LIFE: &str = "RP004";

/// SQLSTATE of a promise whose work has made the session writable outside of branches.
pub(crate) const WRITABLE_SESSION: &str = "RP005";

/// Maximum length of a schema's name, in bytes (PostgreSQL's `NAMEDATALEN` less the terminator).
const MAX_SCHEMA_BYTES: usize = 63;

/// The statements that prepare a database, for the schema [`DEFAULT_SCHEMA`]. They may be run again at any time.
pub const SETUP_SQL: &str = include_str!("setup.sql");

/// The schema's name would need quotes.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error(
    "{name:?} can't be the name of the schema: use 1 to 63 characters out of a-z, 0-9 and _, not a digit first, and not pg_ \
     in front"
)]
#[non_exhaustive]
pub struct SchemaNameError {
    /// The name as given.
    pub name: String,
}

/// Returns [`SETUP_SQL`] for a schema of this name.
///
/// # Errors
///
/// The name would need quotes.
pub fn setup_sql(schema: &str) -> Result<String, SchemaNameError> {
    check_schema(schema)?;
    Ok(SETUP_SQL.replace("ringpact.", &format!("{schema}.")).replace("EXISTS ringpact;", &format!("EXISTS {schema};")))
}

/// Checks that a schema's name needs no quotes.
///
/// # Errors
///
/// The name would need them.
pub fn check_schema(schema: &str) -> Result<(), SchemaNameError> {
    let begins_well = schema.starts_with(|c: char| c.is_ascii_lowercase() || c == '_');
    let is_plain = schema.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
    let is_reserved = schema.starts_with("pg_");
    if begins_well && is_plain && !is_reserved && schema.len() <= MAX_SCHEMA_BYTES {
        return Ok(());
    }
    Err(SchemaNameError { name: schema.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_schema_is_used_throughout() {
        let sql = setup_sql("acid_2").expect("a plain name");
        assert!(sql.contains("CREATE SCHEMA IF NOT EXISTS acid_2;") && sql.contains("INSERT INTO acid_2.marker"));
        assert!(!sql.contains("ringpact."), "{sql}");
    }

    #[test]
    fn a_name_that_needs_quotes_is_refused() {
        for name in ["", "Upper", "with space", "a\"b", "1a", "pg_x", &"a".repeat(64), "a;b"] {
            assert!(setup_sql(name).is_err(), "{name}");
        }
    }
}
