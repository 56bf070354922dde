//! [`ShardRequest`]: what a mover asks of a shard, as one value, so that whatever carries it has one method.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{
    id::{BranchId, TxnId},
    ring::{NodeId, RangeSet},
    sharding::{Digest, GivenUp, Shard, ShardError, ShardHost, ShardStatus, Tenure},
};

/// What a mover asks of a shard. [`ShardHost`] has a method of the same name for each, which says what it does.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
#[allow(missing_docs, reason = "the fields are the parameters of the methods")]
pub enum ShardRequest {
    /// See [`ShardHost::measure`].
    Measure { ranges: RangeSet, budget: u64 },
    /// See [`ShardHost::has_room`].
    HasRoom { bytes: u64 },
    /// See [`ShardHost::release`].
    Release { branch: BranchId, ranges: RangeSet, tenure: Tenure, to: NodeId, patience: Duration },
    /// See [`ShardHost::take`].
    Take {
        branch: BranchId,
        ranges: RangeSet,
        tenure: Tenure,
        #[serde(with = "serde_bytes")]
        records: Vec<u8>,
        digest: Digest,
    },
    /// See [`ShardHost::adopt`].
    Adopt { branch: BranchId, ranges: RangeSet, tenure: Tenure },
    /// See [`ShardHost::give_up`].
    GiveUp { txn: TxnId },
    /// See [`ShardHost::status`].
    Status,
    /// See [`ShardHost::owned`].
    Owned,
}

impl ShardRequest {
    /// Returns the time for which the shard may wait before it answers, on purpose.
    #[must_use]
    pub const fn patience(&self) -> Duration {
        match self {
            Self::Release { patience, .. } => *patience,
            _ => Duration::ZERO,
        }
    }
}

/// A shard's answer to a [`ShardRequest`]: what the method returns.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum ShardResponse {
    /// It is done; or there is room.
    Done,
    /// The ranges that fit, and what they have.
    Measured(RangeSet, Digest),
    /// The records as they travel, and what they are.
    Released(#[serde(with = "serde_bytes")] Vec<u8>, Digest),
    /// What was found of the branch.
    GivenUp(GivenUp),
    /// The shard's state.
    Status(ShardStatus),
    /// The ranges that it owns.
    Owned(RangeSet),
}

/// A shard as a mover reaches it. [`ShardHost`] is one; [`RemoteShard`](super::RemoteShard) is one in another
/// process.
///
/// A call that gets no answer returns [`ShardError::Unreachable`]; what it asked for may have been done. The
/// provided methods ask for one thing each.
pub trait ShardMoves: Send + Sync + 'static {
    /// Has the shard do what the request says. Blocks until it answers.
    ///
    /// # Errors
    ///
    /// Those of the method of [`ShardHost`]; [`ShardError::Unreachable`].
    fn ask(&self, request: ShardRequest) -> Result<ShardResponse, ShardError>;

    /// See [`ShardHost::measure`].
    ///
    /// # Errors
    ///
    /// As there, and [`ShardError::Unreachable`].
    fn measure(&self, ranges: &RangeSet, budget: u64) -> Result<(RangeSet, Digest), ShardError> {
        match self.ask(ShardRequest::Measure { ranges: ranges.clone(), budget })? {
            ShardResponse::Measured(fitting, digest) => Ok((fitting, digest)),
            _ => Err(ShardError::Unreachable),
        }
    }

    /// See [`ShardHost::has_room`].
    ///
    /// # Errors
    ///
    /// As there, and [`ShardError::Unreachable`].
    fn has_room(&self, bytes: u64) -> Result<(), ShardError> {
        self.ask(ShardRequest::HasRoom { bytes }).map(drop)
    }

    /// See [`ShardHost::release`].
    ///
    /// # Errors
    ///
    /// As there, and [`ShardError::Unreachable`].
    fn release(
        &self,
        branch: &BranchId,
        ranges: &RangeSet,
        tenure: Tenure,
        to: &NodeId,
        patience: Duration,
    ) -> Result<(Vec<u8>, Digest), ShardError> {
        let (branch, ranges, to) = (branch.clone(), ranges.clone(), to.clone());
        match self.ask(ShardRequest::Release { branch, ranges, tenure, to, patience })? {
            ShardResponse::Released(records, digest) => Ok((records, digest)),
            _ => Err(ShardError::Unreachable),
        }
    }

    /// See [`ShardHost::take`].
    ///
    /// # Errors
    ///
    /// As there, and [`ShardError::Unreachable`].
    fn take(
        &self,
        branch: &BranchId,
        ranges: &RangeSet,
        tenure: Tenure,
        records: Vec<u8>,
        digest: Digest,
    ) -> Result<(), ShardError> {
        let (branch, ranges) = (branch.clone(), ranges.clone());
        self.ask(ShardRequest::Take { branch, ranges, tenure, records, digest }).map(drop)
    }

    /// See [`ShardHost::adopt`].
    ///
    /// # Errors
    ///
    /// As there, and [`ShardError::Unreachable`].
    fn adopt(&self, branch: &BranchId, ranges: &RangeSet, tenure: Tenure) -> Result<(), ShardError> {
        self.ask(ShardRequest::Adopt { branch: branch.clone(), ranges: ranges.clone(), tenure }).map(drop)
    }

    /// See [`ShardHost::give_up`].
    ///
    /// # Errors
    ///
    /// [`ShardError::Unreachable`].
    fn give_up(&self, txn: &TxnId) -> Result<GivenUp, ShardError> {
        match self.ask(ShardRequest::GiveUp { txn: txn.clone() })? {
            ShardResponse::GivenUp(given_up) => Ok(given_up),
            _ => Err(ShardError::Unreachable),
        }
    }

    /// See [`ShardHost::status`].
    ///
    /// # Errors
    ///
    /// [`ShardError::Unreachable`].
    fn status(&self) -> Result<ShardStatus, ShardError> {
        match self.ask(ShardRequest::Status)? {
            ShardResponse::Status(status) => Ok(status),
            _ => Err(ShardError::Unreachable),
        }
    }

    /// See [`ShardHost::owned`].
    ///
    /// # Errors
    ///
    /// [`ShardError::Unreachable`].
    fn owned(&self) -> Result<RangeSet, ShardError> {
        match self.ask(ShardRequest::Owned)? {
            ShardResponse::Owned(ranges) => Ok(ranges),
            _ => Err(ShardError::Unreachable),
        }
    }
}

impl<S: Shard> ShardMoves for ShardHost<S> {
    fn ask(&self, request: ShardRequest) -> Result<ShardResponse, ShardError> {
        Ok(match request {
            ShardRequest::Measure { ranges, budget } => {
                let (fitting, digest) = self.measure(&ranges, budget)?;
                ShardResponse::Measured(fitting, digest)
            }
            ShardRequest::HasRoom { bytes } => done(self.has_room(bytes))?,
            ShardRequest::Release { branch, ranges, tenure, to, patience } => {
                let (records, digest) = self.release(&branch, &ranges, tenure, &to, patience)?;
                ShardResponse::Released(records, digest)
            }
            ShardRequest::Take { branch, ranges, tenure, records, digest } => {
                done(self.take(&branch, &ranges, tenure, records, digest))?
            }
            ShardRequest::Adopt { branch, ranges, tenure } => done(self.adopt(&branch, &ranges, tenure))?,
            ShardRequest::GiveUp { txn } => ShardResponse::GivenUp(self.give_up(&txn)),
            ShardRequest::Status => ShardResponse::Status(self.status()),
            ShardRequest::Owned => ShardResponse::Owned(self.owned()),
        })
    }
}

fn done(result: Result<(), ShardError>) -> Result<ShardResponse, ShardError> {
    result.map(|()| ShardResponse::Done)
}
