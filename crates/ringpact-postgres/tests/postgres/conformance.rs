//! The suite that every participant must pass, on PostgreSQL.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use ringpact::{
    BranchId, Name,
    participant::conformance::{AsyncHarness, Effect, Report, Worked, check_async, check_async_last_resource},
};
use ringpact_servers::postgres::Postgres;
use tokio::runtime::{Builder, Runtime};

use crate::support::{Db, PgParticipant, attempt, server, unprepared};

/// One participant of many in one database.
struct PgHarness {
    db: Arc<Db>,
    name: Name,
    is_last_resource: bool,
    participant: Option<PgParticipant>,
}

impl PgHarness {
    async fn open(&mut self) {
        let builder = self.db.builder_of(self.name.as_str());
        let builder = if self.is_last_resource { builder.last_resource() } else { builder };
        self.participant = Some(builder.open().await.expect("a participant"));
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

/// Runs a suite with harnesses of one database.
fn conforms(server: Option<&Postgres>, check: impl FnOnce(&Runtime, &dyn Fn() -> PgHarness) -> Report) {
    let Some(server) = server else { return };
    let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    let db = Arc::new(runtime.block_on(Db::on(server)));
    let is_last_resource = server.prepares() == 0;
    runtime.block_on(db.admin.batch_execute("CREATE TABLE effect (branch text)")).expect("a table");
    let made = AtomicUsize::new(0);
    let report = check(&runtime, &|| {
        let name = format!("p{}", made.fetch_add(1, Ordering::SeqCst));
        let name = Name::new(&name).expect("a name");
        let mut harness = PgHarness { db: Arc::clone(&db), name, is_last_resource, participant: None };
        runtime.block_on(harness.open());
        harness
    });
    assert!(report.skipped.is_empty(), "skipped: {:?}", report.skipped);
}

#[test]
fn a_database_of_postgresql_conforms() {
    conforms(server(), |runtime, make| check_async(runtime.handle(), make));
}

#[test]
fn a_database_that_cannot_prepare_conforms_as_a_last_resource() {
    conforms(unprepared(), |runtime, make| check_async_last_resource(runtime.handle(), make));
}
