//! The suite that every participant must pass, on PostgreSQL.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use ringpact::{
    BranchId, Name,
    participant::conformance::{AsyncHarness, Effect, Worked, check_async},
};
use tokio::runtime::Builder;

use crate::support::{Db, PgParticipant, attempt, server};

/// One participant of many in one database.
struct PgHarness {
    db: Arc<Db>,
    name: Name,
    participant: Option<PgParticipant>,
}

impl PgHarness {
    async fn open(&mut self) {
        self.participant = Some(self.db.builder_of(self.name.as_str()).open().await.expect("a participant"));
    }

    fn now(&self) -> &PgParticipant {
        self.participant.as_ref().expect("an open participant")
    }

    async fn execute(&self, branch: &BranchId, sql: &str) -> Worked {
        match self.now().work(branch).await {
            Ok(mut work) => {
                drop(attempt(&mut work, sql).await);
                Worked::Done
            }
            Err(_) => Worked::Refused,
        }
    }
}

impl AsyncHarness for PgHarness {
    type Participant = PgParticipant;

    fn name(&self) -> Name {
        self.name.clone()
    }
    fn participant(&self) -> Arc<PgParticipant> {
        Arc::new(self.now().clone())
    }
    async fn work(&self, branch: &BranchId) -> Worked {
        self.execute(branch, &format!("INSERT INTO effect VALUES ('{branch}')")).await
    }
    async fn refused_work(&self, branch: &BranchId) {
        self.execute(branch, "UPDATE stock SET free = -1").await;
    }
    async fn read_only_work(&self, branch: &BranchId) -> Option<Worked> {
        Some(self.execute(branch, "SELECT free FROM stock").await)
    }
    async fn effect(&self, branch: &BranchId) -> Effect {
        let rows = self.db.number(&format!("SELECT count(*) FROM effect WHERE branch = '{branch}'")).await;
        let like = format!("SELECT count(*) FROM pg_prepared_xacts WHERE starts_with(gid, '{branch}@')");
        match (usize::try_from(rows).expect("a count"), self.db.number(&like).await) {
            (0, 0) => Effect::Absent,
            (0, _) => Effect::Reserved,
            (times, _) => Effect::Applied { times },
        }
    }
    async fn crash(&mut self) {
        self.participant = None;
        self.open().await;
    }
}

#[test]
fn a_database_of_postgresql_conforms() {
    if server().is_none() {
        return;
    }
    let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    let db = Arc::new(runtime.block_on(Db::new()).expect("a server"));
    runtime.block_on(db.admin.batch_execute("CREATE TABLE effect (branch text)")).expect("a table");
    let made = AtomicUsize::new(0);
    let report = check_async(runtime.handle(), || {
        let name = format!("p{}", made.fetch_add(1, Ordering::SeqCst));
        let name = Name::new(&name).expect("a name");
        let mut harness = PgHarness { db: Arc::clone(&db), name, participant: None };
        runtime.block_on(harness.open());
        harness
    });
    assert!(report.skipped.is_empty(), "skipped: {:?}", report.skipped);
}
