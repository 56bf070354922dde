//! One log, one owner: a second opening is refused at once, by the same process or another one, and
//! a holder that is gone leaves no lock behind. On an open log, a name has one owner.

use std::{env, io::BufRead, process, sync::Arc};

use crate::common::{commit, live_numbers, open_small, prepared};
use ringpact::{
    BranchId, Coordinator, FileLog, LogError, MemoryLog, ResourceManager, Service, ServiceError, TransactionLog,
    participant::OpenError, txn::CoordinatorError,
};

/// Set in the child process: the directory that it must hold.
const HOLD: &str = "RINGPACT_TEST_HOLD";

#[test]
fn a_second_opening_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let log = open_small(dir.path()).unwrap();
    let error = FileLog::open(dir.path()).unwrap_err();
    assert!(matches!(&error, LogError::Locked { path } if path == dir.path()), "{error}");
    commit(&log, prepared(1, 10)).unwrap();
    drop(log);
    assert_eq!(live_numbers(&FileLog::open(dir.path()).unwrap()), [1]);
}

/// Not a test of its own: what the child process does.
#[test]
fn child_holds_a_log() {
    let Some(dir) = env::var_os(HOLD) else { return };
    let log = open_small(dir).unwrap();
    commit(&log, prepared(1, 10)).unwrap();
    println!("\nholding");
    std::thread::sleep(std::time::Duration::from_secs(60));
    unreachable!("killed long before");
}

#[test]
fn another_process_is_refused_until_the_first_is_killed() {
    let dir = tempfile::tempdir().unwrap();
    let mut child = process::Command::new(env::current_exe().unwrap())
        .args(["--exact", "has_one_owner::child_holds_a_log", "--nocapture"])
        .env(HOLD, dir.path())
        .stdout(process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = io_lines(&mut child);
    assert!(lines.any(|line| line == "holding"), "the child does not get so far");
    let refused = FileLog::open(dir.path());
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(matches!(refused, Err(LogError::Locked { .. })), "{refused:?}");
    assert_eq!(live_numbers(&FileLog::open(dir.path()).unwrap()), [1]);
}

fn io_lines(child: &mut process::Child) -> impl Iterator<Item = String> + use<> {
    std::io::BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok)
}

struct Nothing;

impl Service for Nothing {
    type Work = ();
    type Refusal = std::convert::Infallible;
    fn try_reserve(&self, _: &BranchId, (): &()) -> Result<(), Self::Refusal> {
        Ok(())
    }
    fn confirm(&self, _: &BranchId, _: &[()]) -> Result<(), ServiceError> {
        Ok(())
    }
    fn cancel(&self, _: &BranchId, _: &[()]) -> Result<(), ServiceError> {
        Ok(())
    }
}

/// The second owner would take the first for one that has crashed, and roll back what the first is
/// about to commit.
fn a_name_has_one_owner(log: &Arc<impl TransactionLog>) {
    let open = |name: &str| Coordinator::builder(Arc::clone(log)).name(name).open();
    let manage = |name: &str| ResourceManager::open(name, Arc::clone(log), Nothing);
    let (shop, goods) = (open("shop").unwrap(), manage("goods").unwrap());
    for name in ["shop", "goods"] {
        let error = open(name).unwrap_err();
        let is_claimed = matches!(&error, CoordinatorError::Log(LogError::Claimed { owner }) if owner.as_str() == name);
        assert!(is_claimed, "{error}");
        let error = manage(name).map(drop).unwrap_err();
        assert!(matches!(&error, OpenError::Log(LogError::Claimed { owner }) if owner.as_str() == name), "{error}");
    }
    assert_eq!(shop.status().transactions.len(), 0, "the first one goes on");
    drop((open("another-shop").unwrap(), manage("orders").unwrap()));
    drop(shop);
    let shop = open("shop").expect("the first one is gone");
    drop(goods);
    drop((shop, manage("goods").expect("the first one is gone")));
}

#[test]
fn on_an_open_log_a_name_has_one_owner() {
    let dir = tempfile::tempdir().unwrap();
    a_name_has_one_owner(&Arc::new(open_small(dir.path()).unwrap()));
    a_name_has_one_owner(&Arc::new(MemoryLog::new()));
}
