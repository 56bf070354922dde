//! Try, confirm and cancel: each takes effect once, because the branch's row is written in the same transaction.
//!
//! The row's state is *reserved* from the first work on, then *confirmed* or *cancelled*. A cancel that finds no row writes
//! one: it waits there for a try that is still being committed, and a try that comes later finds it.

use std::collections::BTreeSet;

use ringpact::{
    BranchId, Epoch, Name, TxnId, TxnOrdinal,
    participant::{
        tables::{AsyncService, BranchRow, RowState, TableBackend as _},
        xa::{XaError, XaErrorKind},
    },
};
use ringpact_sql::postgres::TextRow;
use serde::{Serialize, de::DeserializeOwned};

use super::{
    PgShard,
    step::{Failure, Keep, ask, literal},
};
use crate::PgTx;

impl<S: AsyncService<PgTx>> PgShard<S> {
    /// Returns the id of the branch's row, whatever name the caller has for the shard.
    fn own(&self, branch: &BranchId) -> BranchId {
        branch.txn().branch(&self.name)
    }

    pub(super) async fn reserve(&self, branch: &BranchId, work: &S::Work) -> Result<(), Failure> {
        let own = self.own(branch);
        self.step(async |tx| {
            let found = self.tables.row(tx, &own).await?;
            let (is_new, mut works) = match found {
                None => (true, Vec::new()),
                Some(row) if row.state == RowState::Reserved => (false, row.works),
                Some(row) => return Err(over(&own, row.state).into()),
            };
            push(&mut works, work)?;
            // The row first: another transaction that has it is waited for before the service works.
            self.write(tx, &own, BranchRow::new(RowState::Reserved, works, 0), is_new).await?;
            self.service.try_reserve(tx, branch, work).await.map_err(|error| self.of_service(error))?;
            Ok(((), Keep::All))
        })
        .await
    }

    pub(super) async fn confirm_once(&self, branch: &BranchId, works: &[S::Work]) -> Result<(), Failure> {
        let own = self.own(branch);
        self.step(async |tx| {
            let found = self.tables.row(tx, &own).await?.map(|row| row.state);
            match found {
                Some(RowState::Confirmed) => return Ok(((), Keep::Nothing)),
                Some(RowState::Cancelled) => return Err(over(&own, RowState::Cancelled).into()),
                Some(_) => {}
                // The database has lost it, as a failover to a standby that was behind does.
                None => self.reserve_all(tx, branch, works).await?,
            }
            self.service.confirm(tx, branch, works).await.map_err(|error| self.of_service(error))?;
            self.write(tx, &own, BranchRow::new(RowState::Confirmed, Vec::new(), 0), found.is_none()).await?;
            Ok(((), Keep::All))
        })
        .await
    }

    pub(super) async fn cancel_once(&self, branch: &BranchId) -> Result<(), Failure> {
        let own = self.own(branch);
        self.step(async |tx| {
            let found = self.tables.row(tx, &own).await?;
            let is_new = found.is_none();
            match found {
                Some(row) if row.state == RowState::Cancelled => return Ok(((), Keep::Nothing)),
                Some(row) if row.state == RowState::Confirmed => return Err(over(&own, row.state).into()),
                Some(row) => {
                    let works = pieces::<S::Work>(&row.works)?;
                    self.service.cancel(tx, branch, &works).await.map_err(|error| self.of_service(error))?;
                }
                None => {}
            }
            self.write(tx, &own, BranchRow::new(RowState::Cancelled, Vec::new(), 0), is_new).await?;
            Ok(((), Keep::All))
        })
        .await
    }

    /// Sees to it that what a promised branch needs is set aside. As a rule it still is.
    pub(super) async fn restore_once(&self, branch: &BranchId, works: &[S::Work]) -> Result<(), Failure> {
        let own = self.own(branch);
        self.step(async |tx| {
            let found = self.tables.row(tx, &own).await?.map(|row| row.state);
            if !matches!(found, None | Some(RowState::Cancelled)) {
                return Ok(((), Keep::Nothing));
            }
            // The log has lost the record of a rollback, and the branch is rolled back once more; or the database has lost
            // the row.
            let mut encoded = Vec::new();
            works.iter().try_for_each(|work| push(&mut encoded, work))?;
            self.write(tx, &own, BranchRow::new(RowState::Reserved, encoded, 0), found.is_none()).await?;
            self.reserve_all(tx, branch, works).await?;
            Ok(((), Keep::All))
        })
        .await
    }

    async fn reserve_all(&self, tx: &mut PgTx, branch: &BranchId, works: &[S::Work]) -> Result<(), Failure> {
        for work in works {
            self.service.try_reserve(tx, branch, work).await.map_err(|error| self.of_service(error))?;
        }
        Ok(())
    }

    async fn write(&self, tx: &mut PgTx, own: &BranchId, row: BranchRow, is_new: bool) -> Result<(), XaError> {
        if is_new { self.tables.insert(tx, own, &row).await } else { self.tables.update(tx, own, &row).await }
    }

    /// Gives back what branches have set aside that had promised nothing before a restart, and tells the service which have.
    pub(super) async fn give_back_void(&self, promised: &[BranchId]) -> Result<(), Failure> {
        let kept: BTreeSet<&TxnId> = promised.iter().map(BranchId::txn).collect();
        let unended = self.unended("true").await?;
        for txn in unended.iter().filter(|txn| !kept.contains(txn)) {
            self.cancel_once(&txn.branch(&self.name)).await?;
        }
        self.step(async |tx| {
            self.service.opened(tx, promised).await.map_err(|error| self.of_service(error))?;
            Ok(((), Keep::All))
        })
        .await
    }

    /// Returns the transactions with a reserved row for which the condition holds.
    async fn unended(&self, condition: &str) -> Result<Vec<TxnId>, Failure> {
        let statement = format!(
            "SELECT coordinator, epoch, sequence FROM {}.branch WHERE participant = {} AND state < {} AND {condition}",
            self.schema,
            literal(self.name.as_str()),
            RowState::Confirmed.number()
        );
        let rows = self.step(async |tx| Ok((ask(tx, &statement).await?, Keep::Nothing))).await?;
        let read = |row: &TextRow| {
            let (epoch, sequence) = (row.get(1)?.parse().ok()?, row.get(2)?.parse().ok()?);
            Some(TxnId::new(Name::new(row.get(0)?).ok()?, Epoch::new(epoch), sequence))
        };
        let malformed = || XaError::new(XaErrorKind::Misconfigured, "a row of table branch can't be read");
        rows.iter().map(|row| read(row).ok_or_else(|| malformed().into())).collect()
    }

    /// Deletes the rows of ended branches.
    pub(super) async fn forget(&self, coordinator: &Name, below: TxnOrdinal) -> Result<(), Failure> {
        let of = literal(coordinator.as_str());
        let (epoch, sequence) = (below.epoch.as_u64(), below.sequence);
        // Work whose commit came so late that its branch had ended. No message will end it any more.
        let late = format!("coordinator = {of} AND (epoch, sequence) < ({epoch}, {sequence})");
        for txn in self.unended(&late).await? {
            self.cancel_once(&txn.branch(&self.name)).await?;
        }
        Ok(self.tables.forget_below(coordinator, below).await?)
    }
}

fn over(branch: &BranchId, state: RowState) -> XaError {
    let what = if state == RowState::Confirmed { "confirmed" } else { "cancelled" };
    XaError::new(XaErrorKind::Refused, format!("branch {branch} was {what} before"))
}

/// Appends a piece of work to those of a row: its length, and then itself.
fn push(works: &mut Vec<u8>, work: &impl Serialize) -> Result<(), Failure> {
    let mut encode = || {
        let encoded = postcard::to_allocvec(work)?;
        works.extend(postcard::to_allocvec(&encoded.len())?);
        works.extend(encoded);
        Ok(())
    };
    encode().map_err(|error: postcard::Error| Failure::Service(error.into()))
}

/// Returns the pieces of work of a row.
fn pieces<W: DeserializeOwned>(mut encoded: &[u8]) -> Result<Vec<W>, Failure> {
    let mut works = Vec::new();
    let mut next = || {
        while !encoded.is_empty() {
            let (length, rest) = postcard::take_from_bytes::<usize>(encoded)?;
            let (work, rest) = rest.split_at_checked(length).ok_or(postcard::Error::DeserializeUnexpectedEnd)?;
            works.push(postcard::from_bytes(work)?);
            encoded = rest;
        }
        Ok(())
    };
    next().map_err(|error: postcard::Error| Failure::Service(error.into()))?;
    Ok(works)
}
