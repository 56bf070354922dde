//! What a coordinator's log remembers about a transaction, and how the transaction goes on from
//! there.

use std::{collections::BTreeMap, time::Instant};

use super::{BranchProgress, Branches, CommitProtocol, OnRecord, Phase, Role, Step};
use crate::{
    id::{Name, TxnId},
    log::{Fact, Heuristic, Record},
    participant::Decision,
    txn::Policy,
};

/// What a coordinator's log remembers about a transaction that has not ended. Exhaustive on
/// purpose: models build it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(clippy::exhaustive_structs, reason = "models build it")]
pub struct Remembered {
    /// The decision. A rollback is remembered only if a branch did not follow it.
    pub decision: Decision,
    /// Participants that may not have heard of it, or have not acknowledged it.
    pub owed: Vec<Name>,
    /// Participants that have ended otherwise, each with its outcome.
    pub heuristics: Vec<(Name, Heuristic)>,
    /// Whether it waited for an operator.
    pub parked: bool,
}

impl Remembered {
    /// Returns a decision about which nothing more is known.
    #[must_use]
    pub const fn of(decision: Decision) -> Self {
        Self { decision, owed: Vec::new(), heuristics: Vec::new(), parked: false }
    }

    /// Returns what the coordinator's live records say about each transaction. The records must be
    /// in their order. O(n log n).
    #[must_use]
    pub fn all(records: &[Record]) -> BTreeMap<TxnId, Self> {
        let mut all = BTreeMap::new();
        for record in records {
            let Some(txn) = record.fact.txn() else { continue };
            let of = || Self::of(Decision::Rollback);
            match &record.fact {
                Fact::Decided { participants, .. } => {
                    let memory: &mut Self = all.entry(txn.clone()).or_insert_with(of);
                    memory.decision = Decision::Commit;
                    memory.owed.clone_from(participants);
                }
                Fact::Parked { participants, .. } => {
                    let memory = all.entry(txn.clone()).or_insert_with(of);
                    memory.owed.clone_from(participants);
                    memory.parked = true;
                    // A hazard that was retried, and parked.
                    memory.heuristics.retain(|(known, _)| !participants.contains(known));
                }
                Fact::Heuristic { participant, outcome, .. } => {
                    let memory = all.entry(txn.clone()).or_insert_with(of);
                    memory.owed.retain(|owed| owed != participant);
                    // A participant that was told again may have given another outcome.
                    memory.heuristics.retain(|(known, _)| known != participant);
                    memory.heuristics.push((participant.clone(), *outcome));
                }
                _ => {}
            }
        }
        all
    }

    /// Returns the transaction's protocol, which the driver goes on with.
    #[must_use]
    pub fn resume(&self, txn: TxnId, policy: Policy, now: Instant) -> CommitProtocol {
        let branch = |participant: &Name, step, on_record| BranchProgress {
            on_record,
            ..BranchProgress::new(participant.clone(), Role::Voter, step)
        };
        let on_record = if self.parked { OnRecord::Owed } else { OnRecord::Nothing };
        let owed = self.owed.iter().map(|name| branch(name, Step::Due(now), on_record));
        let heuristic = |(name, outcome): &(Name, Heuristic)| {
            branch(name, Step::Heuristic(*outcome), OnRecord::Heuristic(*outcome))
        };
        let mut protocol = CommitProtocol::new(txn, policy);
        protocol.branches = Branches::of(owed.chain(self.heuristics.iter().map(heuristic)));
        protocol.phase = match self.decision {
            Decision::Commit => Phase::Committing { since: now },
            Decision::Rollback => Phase::RollingBack { since: now },
        };
        protocol.has_client = false;
        protocol.logged = self.decision == Decision::Commit || !self.heuristics.is_empty();
        protocol.parked_on_record = self.parked;
        protocol.told_once_more = self.parked;
        protocol.end_if_all_out();
        protocol
    }
}
