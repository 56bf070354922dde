//! The suite that every participant passes. A crash closes the participant's connections, as the end
//! of its process would.

use std::sync::Arc;

use ringpact::{
    BranchId, Name,
    participant::conformance::{self, AsyncHarness, Effect, Report, Worked},
};
use tokio::runtime::Runtime;

use crate::support::{Database, MySqlParticipant, SEES_STATEMENTS, attempt, carry_out, runtime, server, strings};

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
        match attempt(&mut work, statement).await {
            Ok(()) => Worked::Done,
            Err(error) => {
                // Over sqlx that is the caller's part.
                work.doom(error);
                Worked::Refused
            }
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
        if SEES_STATEMENTS { Some(self.does(branch, "SELECT COUNT(*) FROM effect").await) } else { None }
    }
    async fn effect(&self, branch: &BranchId) -> Effect {
        let count = format!("SELECT COUNT(*) FROM effect WHERE branch = '{branch}'");
        let times: u64 = self.database.value(&count).await.expect("a count");
        if times > 0 {
            return Effect::Applied { times: usize::try_from(times).expect("a few") };
        }
        let mut conn = self.database.conn().await;
        let dirty = "SET SESSION TRANSACTION ISOLATION LEVEL READ UNCOMMITTED";
        carry_out(&mut conn, dirty).await.expect("it is set");
        let found = strings(&mut conn, &count).await;
        conn.disconnect().await.expect("it is closed");
        if found == ["0"] { Effect::Absent } else { Effect::Reserved }
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
    assert_eq!(report.skipped.is_empty(), SEES_STATEMENTS, "{:?}", report.skipped);
}

#[test]
fn the_participant_conforms() {
    conforms(|runtime, make| conformance::check_async(runtime.handle(), make));
}

#[test]
fn it_conforms_as_a_last_resource() {
    conforms(|runtime, make| conformance::check_async_last_resource(runtime.handle(), make));
}
