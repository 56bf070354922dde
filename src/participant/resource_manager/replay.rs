//! Opening: brings the service to the state that the log holds.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use super::{BranchTrouble, OpenError, branches::Branches, entry::BranchEntry};
use crate::{
    id::{BranchId, Epoch, Name, TxnId},
    log::{Fact, Record},
    participant::{BranchInput, BranchProtocol, Life, ParticipantError, Service, ServiceError},
};

/// Confirms and restores every branch that the log holds, in the order of their records.
///
/// A commit is written before the service is told, so what was possible then is possible now. If it
/// is not, the branch carries its trouble from then on, and the others are not affected.
pub(super) fn replay<S: Service>(name: &Name, records: &[Record], service: &S) -> HashMap<TxnId, BranchEntry<S::Work>> {
    let committed: HashSet<&TxnId> = records
        .iter()
        .filter_map(|record| match &record.fact {
            Fact::Committed { txn, .. } => Some(txn),
            _ => None,
        })
        .collect();
    let mut entries = HashMap::<TxnId, BranchEntry<S::Work>>::new();
    for record in records {
        let Some(txn) = record.fact.txn() else { continue };
        let branch = txn.branch(name);
        match &record.fact {
            Fact::Prepared { work, .. } => {
                let mut entry = entry(BranchProtocol::recovered_prepared(), decode::<S>(&branch, work));
                if entry.trouble.is_none() && !committed.contains(txn) {
                    entry.trouble = restore(service, &branch, &entry.works);
                }
                entries.insert(txn.clone(), entry);
            }
            Fact::Committed { work, .. } => {
                let works = match (work, entries.remove(txn)) {
                    (Some(work), _) => decode::<S>(&branch, work),
                    (None, Some(entry)) => entry.trouble.map_or(Ok(entry.works), Err),
                    (None, None) => Err(BranchTrouble::Incomplete { branch: branch.clone() }),
                };
                let mut entry = entry(BranchProtocol::recovered_committed(), works);
                if entry.trouble.is_none() {
                    entry.trouble = confirm(service, &branch, &entry.works);
                }
                if entry.trouble.is_none() {
                    entry.protocol.handle(BranchInput::Confirmed);
                    entry.works = Vec::new();
                }
                entries.insert(txn.clone(), entry);
            }
            _ => {}
        }
    }
    entries
}

/// Tells the service for which branches it must still hold something.
pub(super) fn opened<S: Service>(
    name: &Name,
    entries: &HashMap<TxnId, BranchEntry<S::Work>>,
    service: &S,
) -> Result<(), OpenError> {
    let unfinished = entries.iter().filter(|(_, entry)| !entry.protocol.is_finished());
    let mut promised: Vec<_> = unfinished.map(|(txn, _)| txn.branch(name)).collect();
    promised.sort_unstable();
    told(|| service.opened(&promised)).map_err(|error| OpenError::Service(error.into()))
}

/// Takes in what the log says of the coordinators' lives.
pub(super) fn remember_lives<W>(records: &[Record], branches: &mut Branches<W>) {
    for record in records {
        if let Fact::Heard { txn, log, epoch, position } = &record.fact {
            let known = branches.coordinator_mut(txn.coordinator());
            known.lives.remember(Life::new(*log, *epoch, *position));
            if txn.epoch() == Epoch::default() {
                (known.noted, known.notes) = (*epoch, vec![*epoch]);
            }
        }
    }
}

/// Returns the transactions under which the log holds a note of a life that is no longer needed:
/// those of which it holds nothing else, and for each coordinator all lives that it was met in but
/// the last.
pub(super) fn needless_notes(records: &[Record]) -> BTreeSet<TxnId> {
    let is_note = |record: &&Record| matches!(record.fact, Fact::Heard { .. });
    let about = |record: &Record| record.fact.txn().cloned();
    let mut noted: BTreeSet<TxnId> = records.iter().filter(is_note).filter_map(about).collect();
    if noted.is_empty() {
        return noted;
    }
    for txn in records.iter().filter(|record| !is_note(record)).filter_map(about) {
        noted.remove(&txn);
    }
    // In the order in which the lives were met, so that the last one stays in the map.
    let met = records.iter().filter(is_note).filter_map(about).filter(|txn| txn.epoch() == Epoch::default());
    let last: BTreeMap<Name, TxnId> = met.map(|txn| (txn.coordinator().clone(), txn)).collect();
    last.values().for_each(|txn| drop(noted.take(txn)));
    noted
}

fn entry<W>(protocol: BranchProtocol, works: Result<Vec<W>, BranchTrouble>) -> BranchEntry<W> {
    match works {
        Ok(works) => BranchEntry { protocol, works, ..BranchEntry::default() },
        Err(trouble) => BranchEntry { protocol, trouble: Some(trouble), ..BranchEntry::default() },
    }
}

/// Asks the service to set aside again what the branch needs, and returns what prevented it.
pub(super) fn restore<S: Service>(service: &S, branch: &BranchId, works: &[S::Work]) -> Option<BranchTrouble> {
    let error = told(|| service.restore(branch, works)).err()?;
    Some(BranchTrouble::Unrestored { branch: branch.clone(), error: error.into() })
}

fn confirm<S: Service>(service: &S, branch: &BranchId, works: &[S::Work]) -> Option<BranchTrouble> {
    let error = told(|| service.confirm(branch, works)).err()?;
    Some(BranchTrouble::Unconfirmed { branch: branch.clone(), error: error.into() })
}

/// Calls the service. A panic becomes an error, because one branch must not keep the others from
/// opening.
fn told(call: impl FnOnce() -> Result<(), ServiceError>) -> Result<(), ServiceError> {
    catch_unwind(AssertUnwindSafe(call)).unwrap_or_else(|_| Err(ParticipantError::Panicked.into()))
}

fn decode<S: Service>(branch: &BranchId, work: &[u8]) -> Result<Vec<S::Work>, BranchTrouble> {
    let failed = |error: postcard::Error| BranchTrouble::Unreadable { branch: branch.clone(), error: Arc::new(error) };
    // The service's code deserialises, and may panic.
    let decoded = catch_unwind(AssertUnwindSafe(|| postcard::take_from_bytes(work))).map_err(|_| {
        BranchTrouble::Unreadable { branch: branch.clone(), error: Arc::new(ParticipantError::Panicked) }
    })?;
    match decoded.map_err(failed)? {
        (works, []) => Ok(works),
        // The decoder stops at the end of the type. Bytes that are left over show that this is
        // other work.
        _ => Err(failed(postcard::Error::DeserializeBadEncoding)),
    }
}
