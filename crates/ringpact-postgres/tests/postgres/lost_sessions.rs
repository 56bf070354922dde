//! Sessions whose connection is lost go on in the server. A promise that they make after the coordinator was told that there is
//! none would hold its locks forever.

use std::time::Duration;

use ringpact::{
    BranchId, Epoch, LogId, ParticipantError, Vote, error_chain,
    participant::{AsyncParticipant, Decision, Life},
};
use tokio::{spawn, time::sleep};

use crate::support::{BranchTimeouts, Client, Db, PgParticipant, TAKE, attempt, call, no, work};

/// A deferred trigger, so that a promise waits for an advisory lock.
const GATE: &str = "CREATE FUNCTION pass() RETURNS trigger LANGUAGE plpgsql AS \
     'BEGIN PERFORM pg_advisory_xact_lock_shared(1); RETURN NULL; END'; \
     CREATE CONSTRAINT TRIGGER gate AFTER UPDATE ON stock DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION pass()";

pub(crate) const AT_THE_GATE: &str =
    "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event = 'advisory'";

/// A database at whose gate promises and commits wait.
pub(crate) struct Gated {
    pub(crate) db: Db,
    gate: Client,
}

impl Gated {
    async fn new() -> Option<Self> {
        Some(Self::on(Db::new().await?).await)
    }

    pub(crate) async fn on(db: Db) -> Self {
        db.admin.batch_execute(GATE).await.expect("a gate");
        let gate = db.client().await;
        let gated = Self { db, gate };
        gated.close().await;
        gated
    }

    async fn goods(&self) -> PgParticipant {
        let timeouts = BranchTimeouts::default().lock(Duration::from_secs(8));
        self.db.builder().timeouts(timeouts).open().await.expect("a participant")
    }

    pub(crate) async fn close(&self) {
        self.gate.batch_execute("SELECT pg_advisory_lock(1)").await.expect("a closed gate");
    }

    pub(crate) async fn open(&self) {
        self.gate.batch_execute("SELECT pg_advisory_unlock(1)").await.expect("an open gate");
    }

    /// Has the branch promise, or commit alone, and loses the connection while it does.
    async fn lose(&self, goods: &PgParticipant, branch: &BranchId, alone: bool) {
        work(goods, branch, TAKE).await;
        let (participant, of) = (goods.clone(), branch.clone());
        let lost = spawn(async move {
            let _ = if alone {
                participant.commit_one_phase(&of, &call()).await.map(drop)
            } else {
                participant.prepare(&of, &call()).await.map(drop)
            };
        });
        self.db.until(AT_THE_GATE, 1).await;
        lost.abort();
        assert!(lost.await.is_err());
    }

    /// Opens the gate, and checks that nothing comes through.
    async fn nothing_comes(&self) {
        self.open().await;
        sleep(Duration::from_millis(200)).await;
        assert_eq!((self.db.prepared().await, self.db.free(0).await), (0, 100));
        let row_is_free = format!("BEGIN; SET LOCAL lock_timeout = 1000; {TAKE}; ROLLBACK");
        self.db.admin.batch_execute(&row_is_free).await.expect("the row is free");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_promise_comes_after_a_rollback_was_acknowledged() {
    let Some(gated) = Gated::new().await else { return };
    let (goods, branch) = (gated.goods().await, gated.db.branch(1));
    gated.lose(&goods, &branch, false).await;
    assert_eq!(goods.status().lost, 1);
    goods.rollback(&branch, &call()).await.expect("a rollback");
    gated.nothing_comes().await;
    assert_eq!((goods.status().lost, goods.status().promised), (0, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_promise_that_came_although_its_answer_was_lost_is_rolled_back() {
    let Some(gated) = Gated::new().await else { return };
    let (goods, branch) = (gated.goods().await, gated.db.branch(1));
    gated.lose(&goods, &branch, false).await;
    gated.open().await;
    gated.db.until("SELECT count(*) FROM pg_prepared_xacts WHERE database = current_database()", 1).await;
    goods.rollback(&branch, &call()).await.expect("a rollback");
    assert_eq!((gated.db.prepared().await, gated.db.free(0).await, gated.db.markers().await), (0, 100, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rollback_that_races_with_the_promise_leaves_nothing() {
    let Some(gated) = Gated::new().await else { return };
    let goods = gated.goods().await;
    for sequence in 1..=10 {
        gated.lose(&goods, &gated.db.branch(sequence), false).await;
        let rolled_back = async {
            sleep(Duration::from_micros(sequence * 300)).await;
            goods.rollback(&gated.db.branch(sequence), &call()).await.expect("a rollback");
        };
        tokio::join!(gated.open(), rolled_back);
        assert_eq!((gated.db.prepared().await, gated.db.free(0).await), (0, 100));
        gated.close().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_that_begins_again_ends_the_sessions_of_the_one_before() {
    let Some(gated) = Gated::new().await else { return };
    for (sequence, verb) in [(1, "prepare"), (2, "rollback"), (3, "one-phase")] {
        let branch = gated.db.branch(sequence);
        gated.lose(&gated.goods().await, &branch, false).await;
        let goods = gated.goods().await;
        match verb {
            "prepare" => drop(no(&goods, &branch).await),
            "rollback" => goods.rollback(&branch, &call()).await.expect("a rollback"),
            _ => match goods.commit_one_phase(&branch, &call()).await {
                Err(ParticipantError::Refused(_)) => {}
                answer => panic!("a rollback was expected, and {answer:?} came"),
            },
        }
        assert_eq!(gated.db.number(AT_THE_GATE).await, 0, "{verb}");
    }
    gated.nothing_comes().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_list_of_doubt_is_final_for_earlier_epochs() {
    let Some(gated) = Gated::new().await else { return };
    gated.lose(&gated.goods().await, &gated.db.branch(1), false).await;
    let goods = gated.goods().await;
    let (log, shop) = (LogId::from_bytes([7; 16]), gated.db.branch(1).txn().coordinator().clone());
    goods.meet(&shop, &Life::new(log, Epoch::new(2), 5)).await.expect("an introduction");
    assert_eq!(goods.in_doubt(&shop).await.expect("a list"), []);
    gated.nothing_comes().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_in_one_phase_whose_answer_was_lost_is_looked_up() {
    let Some(gated) = Gated::new().await else { return };
    let goods = gated.goods().await;
    // The session is ended before it commits.
    gated.lose(&goods, &gated.db.branch(1), true).await;
    let answer = goods.commit_one_phase(&gated.db.branch(1), &call()).await;
    assert!(matches!(answer, Err(ParticipantError::Refused(_))), "{answer:?}");
    // It has committed before that.
    gated.lose(&goods, &gated.db.branch(2), true).await;
    gated.open().await;
    gated.db.until("SELECT free FROM stock WHERE id = 0", 99).await;
    for goods in [&goods, &gated.goods().await] {
        let decision = goods.commit_one_phase(&gated.db.branch(2), &call()).await.expect("a decision");
        assert_eq!((decision, gated.db.free(0).await), (Decision::Commit, 99));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_that_was_ended_at_work_promises_nothing() {
    let Some(db) = Db::new().await else { return };
    let (goods, branch) = (db.goods().await, db.branch(1));
    work(&goods, &branch, TAKE).await;
    let end = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name LIKE 'ringpact %' \
               AND datname = current_database()";
    assert_eq!(db.number(end).await, 1);
    let answer = goods.prepare(&branch, &call()).await;
    assert!(!matches!(answer, Ok(Vote::Yes | Vote::ReadOnly)), "{answer:?}");
    goods.rollback(&branch, &call()).await.expect("a rollback");
    assert_eq!((db.prepared().await, db.free(0).await), (0, 100));
    work(&goods, &db.branch(2), TAKE).await;
}

/// It was undone, so a new attempt is safe: `Coordinator::run` makes one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_connection_is_an_error_that_may_pass() {
    let Some(db) = Db::new().await else { return };
    let (goods, branch) = (db.goods().await, db.branch(1));
    work(&goods, &branch, TAKE).await;
    let sessions = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
                    WHERE datname = current_database() AND application_name LIKE 'ringpact%' AND pid <> pg_backend_pid()";
    db.admin.batch_execute(sessions).await.expect("they end");
    let mut at_work = goods.work(&branch).await.expect("nothing is known yet");
    let error = attempt(&mut at_work, TAKE).await.expect_err("the session is gone");
    assert!(PgParticipant::is_transient(&error), "{}", error_chain(&error));
    drop(at_work);
    let error = goods.prepare(&branch, &call()).await.expect_err("a No");
    assert!(PgParticipant::is_transient(&error), "{}", error_chain(&error));
    assert_eq!(db.free(0).await, 100);
}
