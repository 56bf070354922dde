//! Which ranges the shard owns: an image, and the notes since. And the fence: what an earlier process of the shard has sent has
//! its effect before the shard is opened again, or never.

use ringpact::{
    Name,
    participant::{
        tables::{AsyncService, TableBackend as _},
        xa::{XaError, XaErrorKind},
    },
    sharding::{GateImage, GateNote},
};
use ringpact_sql::postgres::TextRow;

use super::{
    PgShard,
    step::{Failure, Keep, ask, bytes, literal, read, written},
};
use crate::PgTx;

/// Number of times that an opening waits for transactions of an earlier process, each time for the time-out of a lock.
const WAITS: u32 = 5;

/// Returns the key of the shard's lock.
fn lock(name: &Name) -> String {
    format!("hashtextextended({}, 0)", literal(&format!("ringpact shard {name}")))
}

/// Returns the first statements of each transaction. An opening takes the lock alone, so each transaction is over by then, or
/// finds a later opening. At a higher isolation level it would find what was there before it waited.
pub(super) fn fence(name: &Name, schema: &str) -> String {
    format!(
        "SET TRANSACTION ISOLATION LEVEL READ COMMITTED; SELECT pg_advisory_xact_lock_shared({}); \
         SELECT opening FROM {schema}.shard WHERE shard = {}",
        lock(name),
        literal(name.as_str())
    )
}

impl<S: AsyncService<PgTx>> PgShard<S> {
    /// Waits for the transactions of an earlier process, and returns the number of this opening.
    pub(super) async fn begin_opening(&self) -> Result<String, XaError> {
        let (schema, name) = (&self.schema, literal(self.name.as_str()));
        let statement = format!(
            "SELECT pg_advisory_xact_lock({}); INSERT INTO {schema}.shard AS known (shard, opening) VALUES ({name}, 1) \
             ON CONFLICT (shard) DO UPDATE SET opening = known.opening + 1 RETURNING opening",
            lock(&self.name)
        );
        let mut waits = 1;
        loop {
            let tx = self.tables.begin().await?;
            match ask(&tx, &statement).await {
                Ok(rows) => {
                    self.tables.commit(tx).await?;
                    let number = rows.get(1).and_then(|row| row.get(0)).map(str::to_owned);
                    return number
                        .ok_or_else(|| XaError::new(XaErrorKind::Misconfigured, "the row of the shard is not there"));
                }
                Err(error) => {
                    self.tables.rollback(tx).await;
                    if error.kind() != XaErrorKind::Transient {
                        return Err(error);
                    }
                    if waits == WAITS {
                        let text = format!(
                            "transactions of an earlier process of shard {} are still at work ({error}); end that process, or \
                             its sessions with pg_terminate_backend, and open again",
                            self.name
                        );
                        return Err(XaError::new(XaErrorKind::Transient, text));
                    }
                    waits += 1;
                }
            }
        }
    }

    pub(super) async fn image(&self) -> Result<GateImage, Failure> {
        let (schema, name) = (&self.schema, literal(self.name.as_str()));
        let notes = format!("SELECT encode(note, 'hex') FROM {schema}.shard_note WHERE shard = {name} ORDER BY number");
        self.step(async |tx| {
            let mut image = self.saved(tx).await?;
            apply(&mut image, ask(tx, &notes).await?.iter().map(|row| row.get(0)))?;
            Ok((image, Keep::Nothing))
        })
        .await
    }

    async fn saved(&self, tx: &PgTx) -> Result<GateImage, XaError> {
        let name = literal(self.name.as_str());
        let statement =
            format!("SELECT encode(image, 'hex') FROM {}.shard WHERE shard = {name} FOR UPDATE", self.schema);
        match ask(tx, &statement).await?.first().and_then(|row| row.get(0)) {
            Some("") => Ok(GateImage::new()),
            image => read(image),
        }
    }

    pub(super) async fn append_note(&self, note: &GateNote) -> Result<(), Failure> {
        let statement = format!(
            "INSERT INTO {}.shard_note (shard, note) VALUES ({}, {})",
            self.schema,
            literal(self.name.as_str()),
            bytes(&written(note)?)
        );
        self.step(async |tx| {
            ask(tx, &statement).await?;
            Ok(((), Keep::All))
        })
        .await
    }

    /// Takes the notes into the image.
    pub(super) async fn fold_notes(&self) -> Result<(), Failure> {
        let (schema, name) = (&self.schema, literal(self.name.as_str()));
        // Exactly those that are deleted, whatever is appended meanwhile.
        let take = format!(
            "WITH taken AS (DELETE FROM {schema}.shard_note WHERE shard = {name} RETURNING number, note) \
             SELECT encode(note, 'hex') FROM taken ORDER BY number"
        );
        self.step(async |tx| {
            let mut image = self.saved(tx).await?;
            let notes: Vec<TextRow> = ask(tx, &take).await?;
            if notes.is_empty() {
                return Ok(((), Keep::Nothing));
            }
            apply(&mut image, notes.iter().map(|row| row.get(0)))?;
            let image = bytes(&written(&image)?);
            ask(tx, &format!("UPDATE {schema}.shard SET image = {image} WHERE shard = {name}")).await?;
            Ok(((), Keep::All))
        })
        .await
    }
}

fn apply<'a>(image: &mut GateImage, notes: impl Iterator<Item = Option<&'a str>>) -> Result<(), XaError> {
    for note in notes {
        image.apply(&read::<GateNote>(note)?);
    }
    Ok(())
}
