//! The longest names, the highest numbers, the largest work.

use ringpact::{Epoch, Name, TxnId, Vote, error_chain, participant::AsyncParticipant as _};
use ringpact_servers::{mariadb::MariaDb, missing};

use super::{named, promise, stock, take, with_stock};
use crate::support::{Database, TableWorkError, branch, runtime};

#[test]
fn the_longest_names_and_the_highest_numbers_are_kept_apart() {
    with_stock(async |database| {
        let name = |end: &str| Name::new(&format!("{}{end}", "A-b_c.0".repeat(9))).expect("63 bytes, and one");
        let open = async |end: &str| stock(database.tables(name(end).as_str())).await;
        let goods = open("P").await;
        let call = || {
            let mut call = named();
            (call.epoch, call.position) = (Epoch::new(u64::MAX), u64::MAX);
            call
        };
        let branch = |coordinator: &str, sequence| {
            TxnId::new(name(coordinator), Epoch::new(u64::MAX), sequence).branch(&name("P"))
        };
        // Names that differ in case alone, and numbers that a double would round.
        let branches = [branch("c", u64::MAX), branch("C", u64::MAX), branch("c", u64::MAX - 1)];
        for branch in &branches {
            goods.execute_under(branch, &take(1, 1)).await.expect("there are enough");
            assert_eq!(goods.prepare(branch, &call()).await.expect("a vote"), Vote::Yes);
        }
        let (goods, lower) = (open("P").await, open("p").await);
        assert_eq!(goods.in_doubt(&name("c")).await.expect("a list"), [branches[2].clone(), branches[0].clone()]);
        assert_eq!(goods.in_doubt(&name("C")).await.expect("a list"), [branches[1].clone()]);
        assert_eq!(lower.in_doubt(&name("c")).await.expect("a list"), []);
        goods.commit(&branches[0], &call()).await.expect("it is promised");
        goods.rollback(&branches[1], &call()).await.expect("it is promised");
        assert_eq!(goods.in_doubt(&name("c")).await.expect("a list"), [branches[2].clone()]);
        assert!(database.is_sold(&branches[0]).await && !database.is_sold(&branches[1]).await);
        assert_eq!(database.audit(100).await, 1);
    });
}

#[test]
fn work_up_to_the_limit_is_kept() {
    with_stock(async |database| {
        let goods = database.stock().await;
        let large = |bytes: usize| ("x".repeat(bytes), 1, 1);
        promise(&goods, &branch(1), large(900_000)).await;
        let error = goods.execute_under(&branch(2), &large(2_000_000)).await.expect_err("too much");
        assert!(matches!(error, TableWorkError::TooMuchWork { .. }), "{error}");
        goods.commit(&branch(1), &named()).await.expect("it is promised");
        let longest = "SELECT MAX(LENGTH(works)) FROM ringpact_branch";
        assert_eq!(database.value::<u64>(longest).await, Some(0), "ended branches keep none");
        assert_eq!(database.audit(100).await, 0);
    });
}

#[test]
fn a_server_that_takes_no_long_statements_is_named() {
    let Some(server) = MariaDb::start(&["--max-allowed-packet=1M"]) else {
        return missing("MariaDB", "mariadbd is not installed");
    };
    runtime().block_on(async {
        let database = Database::make(&server.socket()).await;
        database.make_stock(100).await;
        let goods = database.stock().await;
        let large = ("x".repeat(700_000), 1, 1);
        let error = goods.execute_under(&branch(1), &large).await.expect_err("the statement is too long");
        let text = error_chain(&error).to_string();
        assert!(text.contains("max_allowed_packet is 1048576") && text.contains("= 2097152"), "{text}");
        goods.prepare(&branch(1), &named()).await.expect_err("a piece of work is missing");
        promise(&goods, &branch(2), take(1, 1)).await;
        assert_eq!(database.audit(100).await, 1);
    });
}
