//! [`LifeNotes`]: which lives of coordinators a participant has noted in its database.

use std::{collections::BTreeMap, future::Future};

use ::tokio::sync::Mutex as AsyncMutex;

use super::{KnownLife, Life, ParticipantError, xa::XaError};
use crate::id::Name;

/// The last life of each coordinator that is noted in the database.
///
/// Its lock orders the statements that note one. A statement whose connection was lost may still be
/// carried out, after a later one; and other processes of the same participant note lives, too. So
/// each statement says what it takes the place of, and has no effect if that is gone.
#[derive(Default)]
pub(super) struct LifeNotes(AsyncMutex<BTreeMap<Name, Life>>);

impl LifeNotes {
    /// The notes that the database had at opening.
    pub(super) fn found(lives: impl IntoIterator<Item = (Name, Life)>) -> Self {
        Self(AsyncMutex::new(lives.into_iter().collect()))
    }

    /// Notes this life of the coordinator durably, unless it is noted. `write` has the database replace
    /// the second life, or nothing, by the first one, and says whether the first one is there now.
    /// `read` asks for what is there.
    ///
    /// # Errors
    ///
    /// [`OtherLog`](ParticipantError::OtherLog) and [`Superseded`](ParticipantError::Superseded) if the
    /// life does not continue what another process has noted; and errors of the database.
    pub(super) async fn note<W, R>(
        &self,
        coordinator: &Name,
        life: Life,
        write: impl Fn(Life, Option<Life>) -> W,
        read: impl Fn() -> R,
    ) -> Result<(), ParticipantError>
    where
        W: Future<Output = Result<bool, XaError>>,
        R: Future<Output = Result<Vec<(Name, Life)>, XaError>>,
    {
        /// Number of times that another process may come first.
        const MAX_TRIES: usize = 3;
        let is_it = |noted: &Life| (noted.log, noted.epoch) == (life.log, life.epoch);
        let mut notes = self.0.lock().await;
        for _ in 0..MAX_TRIES {
            let before = notes.get(coordinator).copied();
            if before.as_ref().is_some_and(is_it) {
                return Ok(());
            }
            if write(life, before).await.map_err(ParticipantError::resource)? {
                notes.insert(coordinator.clone(), life);
                return Ok(());
            }
            // The answer to an earlier statement was lost, or another process has met a life.
            let found = read().await.map_err(ParticipantError::resource)?;
            let Some((_, found)) = found.into_iter().find(|(name, _)| name == coordinator) else {
                notes.remove(coordinator);
                continue;
            };
            let mut known = KnownLife::new();
            known.remember(found);
            let _introduced = known.meet(coordinator, &life)?;
            notes.insert(coordinator.clone(), found);
        }
        Err(ParticipantError::Busy)
    }
}
