//! The server stops and starts again.

use ringpact::{Vote, participant::AsyncParticipant};
use ringpact_servers::postgres::{Options, Postgres};

use crate::support::{Db, GOODS, TAKE, call, work};
use ringpact_postgres::PgParticipant;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn promises_survive_an_immediate_stop_and_what_was_not_promised_does_not() {
    let options = Options { fsync: true, ..Options::default() };
    let Some(server) = Postgres::start(options) else { return };
    let db = Db::on(&server).await;
    let builder = PgParticipant::builder(GOODS).config(db.url.parse().expect("a configuration"));
    let goods = builder.open().await.expect("a participant: fsync is on");
    let kept = db.promised(&goods, 1).await;
    let lost = db.branch(2);
    work(&goods, &lost, "UPDATE stock SET free = 0 WHERE id = 1").await;
    server.stop_immediately().expect("a stopped server");
    assert!(goods.commit(&kept, &call()).await.is_err());
    assert!(goods.work(&db.branch(3)).await.is_err());
    server.start_again().expect("a server");
    let answer = goods.prepare(&lost, &call()).await;
    assert!(!matches!(answer, Ok(Vote::Yes | Vote::ReadOnly)), "{answer:?}");
    goods.rollback(&lost, &call()).await.expect("a rollback");
    goods.commit(&kept, &call()).await.expect("a commit");
    goods.commit(&kept, &call()).await.expect("a repeated commit");
    // Branches find new connections at once.
    let next = db.branch(4);
    work(&goods, &next, TAKE).await;
    assert_eq!(goods.prepare(&next, &call()).await.expect("a vote"), Vote::Yes);
    goods.rollback(&next, &call()).await.expect("a rollback");
    let db = Db { admin: crate::support::client(&db.url).await, ..db };
    assert_eq!((db.free(0).await, db.free(1).await, db.prepared().await), (99, 100, 0));
}
