//! The suite that every participant passes. A crash closes the participant's connections, as the end
//! of its process would.

use std::sync::Arc;

use ringpact::{
    BranchId, Name,
    participant::conformance::{self, AsyncHarness, Effect, Report, Worked},
};
use ringpact_mysql::MySqlParticipant;
use tokio::runtime::Runtime;

use crate::support::{Database, runtime, server};

struct Payments {
    database: Database,
    participant: Option<Arc<MySqlParticipant>>,
}

impl Payments {
    async fn new(database: Database) -> Self {
        database.sql("CREATE TABLE effect (branch VARCHAR(200) NOT NULL) ENGINE = InnoDB").await;
        let participant = Some(Arc::new(database.open().await));
        Self { database, participant }
    }

    async fn does(&self, branch: &BranchId, statement: &str) -> Worked {
        let participant = self.participant.as_ref().expect("it is open");
        let Ok(mut work) = participant.work(branch).await else { return Worked::Refused };
        match work.query_drop(statement).await {
            Ok(()) => Worked::Done,
            Err(_) => Worked::Refused,
        }
    }
}

impl AsyncHarness for Payments {
    type Participant = MySqlParticipant;

    fn name(&self) -> Name {
        Name::from_static("payments")
    }
    fn participant(&self) -> Arc<MySqlParticipant> {
        Arc::clone(self.participant.as_ref().expect("it is open"))
    }
    async fn work(&self, branch: &BranchId) -> Worked {
        self.does(branch, &format!("INSERT INTO effect VALUES ('{branch}')")).await
    }
    async fn refused_work(&self, branch: &BranchId) {
        assert_eq!(self.does(branch, "INSERT INTO effect VALUES (NULL)").await, Worked::Refused);
    }
    async fn read_only_work(&self, branch: &BranchId) -> Option<Worked> {
        Some(self.does(branch, "SELECT COUNT(*) FROM effect").await)
    }
    async fn effect(&self, branch: &BranchId) -> Effect {
        let count = format!("SELECT COUNT(*) FROM effect WHERE branch = '{branch}'");
        let times: u64 = self.database.value(&count).await.expect("a count");
        if times > 0 {
            return Effect::Applied { times: usize::try_from(times).expect("a few") };
        }
        let mut conn = self.database.conn().await;
        let dirty: Option<u64> = {
            use mysql_async::prelude::Queryable as _;
            conn.query_drop("SET SESSION TRANSACTION ISOLATION LEVEL READ UNCOMMITTED").await.expect("it is set");
            conn.query_first(count).await.expect("a count")
        };
        conn.disconnect().await.expect("it is closed");
        if dirty == Some(0) { Effect::Absent } else { Effect::Reserved }
    }
    async fn crash(&mut self) {
        drop(self.participant.take());
        self.database.kill_connections().await;
        self.participant = Some(Arc::new(self.database.open().await));
    }
}

/// Runs a suite with harnesses of the shared server.
fn conforms(check: impl FnOnce(&Runtime, &dyn Fn() -> Payments) -> Report) {
    let Some(server) = server() else { return };
    let runtime = runtime();
    let make = || runtime.block_on(async { Payments::new(Database::make(&server.socket()).await).await });
    let report = check(&runtime, &make);
    assert_eq!(report.skipped, Vec::<&str>::new());
}

#[test]
fn the_participant_conforms() {
    conforms(|runtime, make| conformance::check_async(runtime.handle(), make));
}

#[test]
fn it_conforms_as_a_last_resource() {
    conforms(|runtime, make| conformance::check_async_last_resource(runtime.handle(), make));
}
