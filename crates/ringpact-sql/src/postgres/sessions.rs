//! How the sessions of branches are interrupted and ended, by the tag that each carries as its `application_name`.

use std::time::{Duration, Instant};

use ringpact::participant::xa::{XaError, XaErrorKind};
use tokio::time::sleep;

use super::{client::PgClient, error::PgFailure, names::literal};

/// Time within which sessions that were told to end must be gone.
const SESSIONS_END_WITHIN: Duration = Duration::from_secs(10);

/// Shortest and longest pause between looks at the sessions.
const LOOK_AGAIN: (Duration, Duration) = (Duration::from_millis(2), Duration::from_millis(50));

/// Interrupts the statement that the session with this tag carries out.
pub(crate) async fn cancel(client: &impl PgClient, tag: &str) -> Result<(), XaError> {
    let of = sessions(&format!("application_name = {}", literal(tag)));
    client.ask(&format!("SELECT pg_cancel_backend(pid) {of}")).await.map(drop)
}

/// Ends the sessions with this tag, and returns when they are gone.
pub(crate) async fn end_sessions(client: &impl PgClient, tag: &str) -> Result<(), XaError> {
    end_all(client, &format!("application_name = {}", literal(tag))).await
}

/// Ends the sessions with tags that begin so and are lower than this one, and returns when they are gone.
pub(crate) async fn end_sessions_below(client: &impl PgClient, prefix: &str, tag: &str) -> Result<(), XaError> {
    let below = format!(r#"application_name COLLATE "C" < {}"#, literal(tag));
    end_all(client, &format!("starts_with(application_name, {}) AND {below}", literal(prefix))).await
}

async fn end_all(client: &impl PgClient, which: &str) -> Result<(), XaError> {
    let statement = format!("SELECT pg_terminate_backend(pid) {}", sessions(which));
    let (begun, mut pause) = (Instant::now(), LOOK_AGAIN.0);
    loop {
        // A session is gone only when no row has it: its last statement has then had its whole effect, or none.
        let left = client.ask(&statement).await?.len();
        if left == 0 {
            return Ok(());
        }
        if begun.elapsed() > SESSIONS_END_WITHIN {
            let cause = PgFailure::SessionsLeft { sessions: left, waited: SESSIONS_END_WITHIN };
            return Err(XaError::new(XaErrorKind::Unavailable, cause));
        }
        sleep(pause).await;
        pause = (pause * 2).min(LOOK_AGAIN.1);
    }
}

/// Returns the source of the sessions of this database and role for which the condition holds.
fn sessions(which: &str) -> String {
    format!(
        "FROM pg_stat_activity WHERE {which} AND datname = current_database() AND usename = session_user \
         AND pid <> pg_backend_pid()"
    )
}
