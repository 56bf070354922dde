//! The suite that every participant must pass.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use ringpact::{
    BranchId, Name,
    participant::conformance::{AsyncHarness, Effect, Worked, check_async},
};
use tokio::runtime::Builder;

use super::{Goods, stock, take};
use crate::support::{Db, server};

/// One participant of many in one database.
struct Harness {
    db: Arc<Db>,
    name: Name,
    goods: Option<Arc<Goods>>,
}

impl Harness {
    async fn open(&mut self) {
        self.goods = Some(Arc::new(stock(self.db.builder_of(self.name.as_str())).await));
    }
}

impl AsyncHarness for Harness {
    type Participant = Goods;

    fn name(&self) -> Name {
        self.name.clone()
    }
    fn participant(&self) -> Arc<Goods> {
        Arc::clone(self.goods.as_ref().expect("an open participant"))
    }
    async fn work(&self, branch: &BranchId) -> Worked {
        match self.participant().execute_under(branch, &take(1, 1)).await {
            Ok(()) => Worked::Done,
            Err(_) => Worked::Refused,
        }
    }
    async fn refused_work(&self, branch: &BranchId) {
        self.participant().execute_under(branch, &take(1, i64::MAX)).await.expect_err("too many");
    }
    async fn effect(&self, branch: &BranchId) -> Effect {
        let count = |table: &str| format!("SELECT count(*) FROM {table} WHERE branch = '{branch}'");
        match self.db.number(&count("sold")).await {
            0 if self.db.number(&count("reserved")).await == 0 => Effect::Absent,
            0 => Effect::Reserved,
            times => Effect::Applied { times: usize::try_from(times).expect("a count") },
        }
    }
    fn keeps_work(&self) -> bool {
        true
    }
    async fn crash(&mut self) {
        self.goods = None;
        self.open().await;
    }
}

#[test]
fn a_service_with_tables_conforms() {
    if server().is_none() {
        return;
    }
    let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    let db = Arc::new(runtime.block_on(Db::with_stock()).expect("a server"));
    runtime.block_on(db.admin.batch_execute("UPDATE stock SET free = 1000000")).expect("plenty");
    let made = AtomicUsize::new(0);
    let report = check_async(runtime.handle(), || {
        let name = Name::new(&format!("p{}", made.fetch_add(1, Ordering::SeqCst))).expect("a name");
        let mut harness = Harness { db: Arc::clone(&db), name, goods: None };
        runtime.block_on(harness.open());
        harness
    });
    assert!(report.skipped.iter().all(|check| check.contains("read")), "{:?}", report.skipped);
}
