//! Random lives of a participant on a database that can prepare.

use fastrand::Rng;
use ringpact::{
    BranchId, Name, ParticipantError, TxnId,
    participant::{
        AsyncLastResource, AsyncParticipant, Call, LastResourceAnswer,
        xa::{XaBackend, XaOptions, XaOutcome, XaParticipant},
    },
};

use super::{
    Goods,
    database::{Database, Defect},
};
use crate::lives::{Subject, every_branch_ends_as_decided, is_found, pause};

/// More than a life has transactions.
const MAX_PROMISES: usize = 20;

impl Subject for Database {
    type Goods = Goods;
    const IS_LAST_RESOURCE: bool = true;

    async fn open(&self) -> Option<Goods> {
        let options = XaOptions::default().max_promises(MAX_PROMISES);
        XaParticipant::open("goods", self.clone(), options).await.ok()
    }
    async fn work(goods: &Goods, branch: &BranchId, steps: u32) {
        let Ok(work) = goods.work(branch).await else { return };
        work.session().expect("it has begun").change(1);
        pause(steps).await;
    }
    async fn committed(goods: &Goods, branch: &BranchId) -> Result<LastResourceAnswer, ParticipantError> {
        if goods.backend().has(Defect::AnswersWithoutAFence) {
            let outcome = goods.backend().outcome(branch).await.map_err(ParticipantError::resource)?;
            let is_committed = outcome == XaOutcome::Committed;
            return Ok(if is_committed { LastResourceAnswer::Committed } else { LastResourceAnswer::NotCommitted });
        }
        goods.committed(branch).await
    }
    fn chance(&self, chance: Option<Rng>) {
        Self::chance(self, chance);
    }
    fn restart(&self) {
        Self::restart(self);
    }
    fn time_passes(&self) {
        Self::time_passes(self);
    }
    fn applied(&self, branch: &BranchId) -> u32 {
        Self::applied(self, branch)
    }
    fn is_held(&self, branch: &BranchId) -> bool {
        self.is_promised(branch) || self.is_worked_on(branch)
    }
    /// Promises of branches that have ended count no longer, and each of the others counts once.
    async fn look_back(&self, goods: Goods, call: Call, txn: impl Fn(u64) -> TxnId) -> Option<String> {
        let mut made = 0;
        for sequence in 100.. {
            let branch = txn(sequence).branch(&Name::from_static("goods"));
            let Ok(work) = goods.work(&branch).await else { break };
            work.session().expect("it has begun").change(1);
            drop(work);
            goods.prepare(&branch, &call).await.expect("nothing is lost any more");
            made += 1;
        }
        (made != MAX_PROMISES).then(|| format!("{made} promises are made, and the limit is {MAX_PROMISES}"))
    }
}

#[test]
fn every_branch_ends_as_decided_and_leaves_nothing_behind() {
    every_branch_ends_as_decided(Database::default);
}

#[test]
fn what_is_wrong_with_a_database_is_found() {
    for defect in [
        Defect::FencesNothing,
        Defect::LetsEarlierLivesGoOn,
        Defect::LeavesNoMarker,
        Defect::TakesLostForRefused,
        Defect::NotesBlindly,
        Defect::AnswersWithoutAFence,
    ] {
        println!("{defect:?}: {}", is_found(|| Database::default().with_defect(defect)));
    }
}
