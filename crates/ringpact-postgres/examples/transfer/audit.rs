//! What the databases have in the end, by SQL alone.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use ringpact_postgres::{
    PgParticipant,
    tokio_postgres::{Client, NoTls, connect},
};

use super::{Arguments, Result, fees};

/// Money in each account at the beginning.
const CENTS: i64 = 10_000;

/// What was found.
pub(crate) struct Found {
    committed: usize,
    rolled_back: usize,
    /// Number of prepared transactions that are left.
    in_doubt: i64,
    /// Number of transfers that are in some of the databases only, or in any although the client was told of a rollback.
    torn: usize,
    /// Number of transfers that are missing although their client was told of a commit.
    lost: usize,
    /// Whether each account has what its transfers add up to, and all money is there.
    are_sums_right: bool,
}

impl Found {
    pub(crate) const fn is_well(&self) -> bool {
        self.in_doubt == 0 && self.torn == 0 && self.lost == 0 && self.are_sums_right
    }
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { committed, rolled_back, in_doubt, torn, lost, .. } = self;
        let (transfers, invariants) = (committed + rolled_back, if self.is_well() { "ok" } else { "BROKEN" });
        write!(
            f,
            "transfer: transfers={transfers} committed={committed} rolled_back={rolled_back} in_doubt={in_doubt} \
             torn={torn} lost={lost} invariants={invariants}"
        )
    }
}

/// Sets the databases up, with new accounts.
pub(crate) async fn prepare(arguments: &Arguments) -> Result<()> {
    for url in [&arguments.from, &arguments.to] {
        let client = client(url).await?;
        PgParticipant::setup(&client).await?;
        let tables = format!(
            "DROP TABLE IF EXISTS moved, account; \
             CREATE TABLE account (id bigint PRIMARY KEY, cents bigint NOT NULL CHECK (cents >= 0)); \
             CREATE TABLE moved (id bigint PRIMARY KEY, account bigint NOT NULL REFERENCES account, cents bigint NOT NULL); \
             INSERT INTO account SELECT id, {CENTS} FROM generate_series(0, {}) AS id",
            arguments.accounts - 1
        );
        client.batch_execute(&tables).await?;
    }
    if let Some(url) = &arguments.mariadb {
        fees::prepare(url).await?;
    }
    Ok(())
}

/// Compares the databases with one another and with what clients were told.
pub(crate) async fn audit(arguments: &Arguments, told: &BTreeMap<u64, bool>) -> Result<Found> {
    let mut moved = Vec::new();
    let (mut in_doubt, mut all_cents, mut are_sums_right) = (0, 0, true);
    for url in [&arguments.from, &arguments.to] {
        let client = client(url).await?;
        let rows = client.query("SELECT id, cents FROM moved", &[]).await?;
        let of_row = |row: &ringpact_postgres::tokio_postgres::Row| (row.get::<_, i64>(0), row.get::<_, i64>(1));
        moved.push(rows.iter().map(of_row).collect::<BTreeMap<_, _>>());
        let prepared = "SELECT count(*) FROM pg_prepared_xacts WHERE database = current_database()";
        in_doubt += client.query_one(prepared, &[]).await?.get::<_, i64>(0);
        let wrong = format!(
            "SELECT count(*) FROM account WHERE cents <> \
             {CENTS} + coalesce((SELECT sum(moved.cents) FROM moved WHERE moved.account = account.id), 0)"
        );
        are_sums_right &= client.query_one(&wrong, &[]).await?.get::<_, i64>(0) == 0;
        all_cents += client.query_one("SELECT sum(cents)::bigint FROM account", &[]).await?.get::<_, i64>(0);
    }
    if let Some(url) = &arguments.mariadb {
        let (collected, prepared) = fees::found(url).await?;
        in_doubt += prepared;
        all_cents += collected.values().sum::<i64>();
        moved.push(collected);
    }
    are_sums_right &= all_cents == 2 * CENTS * i64::try_from(arguments.accounts)?;
    // What one database has paid, the others have got.
    let is_in_all = |id: &i64| {
        let cents: Option<i64> = moved.iter().map(|moved| moved.get(id)).sum();
        cents == Some(0)
    };
    let ids: BTreeSet<i64> = moved.iter().flat_map(BTreeMap::keys).copied().collect();
    let mut torn = ids.iter().filter(|id| !is_in_all(id)).count();
    let (mut lost, mut rolled_back) = (0, 0);
    for (id, is_committed) in told {
        let id = i64::try_from(*id)?;
        lost += usize::from(*is_committed && !ids.contains(&id));
        torn += usize::from(!is_committed && is_in_all(&id));
        rolled_back += usize::from(!is_committed);
    }
    let committed = ids.iter().filter(|id| is_in_all(id)).count();
    Ok(Found { committed, rolled_back, in_doubt, torn, lost, are_sums_right })
}

async fn client(url: &Option<String>) -> Result<Client> {
    let (client, connection) = connect(url.as_deref().unwrap_or_default(), NoTls).await?;
    tokio::spawn(connection);
    Ok(client)
}
