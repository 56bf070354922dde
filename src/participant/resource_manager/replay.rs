//! What happens at opening: the service is brought to where the log says it is.

use std::collections::{HashMap, HashSet};

use super::{OpenError, branches::Slot};
use crate::{
    id::{BranchId, Name, TxnId},
    log::{Fact, Record},
    participant::{BranchInput, BranchProtocol, Service},
};

/// Brings the service to where the log says it is. Records come in the order in which they were written, and a commit
/// is written before the service is told, so what was possible then is possible now.
pub(super) fn replay<S: Service>(
    name: &Name,
    records: &[Record],
    service: &S,
) -> Result<HashMap<TxnId, Slot<S::Work>>, OpenError> {
    let committed: HashSet<&TxnId> = records
        .iter()
        .filter_map(|record| match &record.fact {
            Fact::Committed { txn, .. } => Some(txn),
            _ => None,
        })
        .collect();
    let mut slots = HashMap::<TxnId, Slot<S::Work>>::new();
    for record in records {
        let Some(txn) = record.fact.txn() else { continue };
        let branch = txn.branch(name);
        let failed = |error| OpenError::Service { branch: branch.clone(), error };
        match &record.fact {
            Fact::Prepared { work, .. } => {
                let works = decode::<S>(&branch, work)?;
                if !committed.contains(txn) {
                    service.restore(&branch, &works).map_err(failed)?;
                }
                slots.insert(txn.clone(), Slot { protocol: BranchProtocol::recovered_prepared(), works });
            }
            Fact::Committed { work, .. } => {
                let works = match (work, slots.get_mut(txn)) {
                    (Some(work), _) => decode::<S>(&branch, work)?,
                    (None, Some(slot)) => std::mem::take(&mut slot.works),
                    (None, None) => return Err(OpenError::Incomplete { branch }),
                };
                let mut protocol = BranchProtocol::recovered_committed();
                service.confirm(&branch, &works).map_err(failed)?;
                protocol.handle(BranchInput::Confirmed);
                slots.insert(txn.clone(), Slot { protocol, works: Vec::new() });
            }
            Fact::Opened { .. } | Fact::Decided { .. } | Fact::Ended { .. } => {}
        }
    }
    Ok(slots)
}

fn decode<S: Service>(branch: &BranchId, work: &[u8]) -> Result<Vec<S::Work>, OpenError> {
    let failed = |error: postcard::Error| OpenError::Work { branch: branch.clone(), error: error.into() };
    match postcard::take_from_bytes(work).map_err(failed)? {
        (works, []) => Ok(works),
        // The decoder stops once it has what it wants. What is left over tells that it read something else.
        _ => Err(failed(postcard::Error::DeserializeBadEncoding)),
    }
}
