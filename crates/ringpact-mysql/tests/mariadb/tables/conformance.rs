//! The suite that every participant passes.

use std::sync::Arc;

use ringpact::{
    BranchId, Name,
    participant::conformance::{AsyncHarness, Effect, Worked, check_async},
};

use super::{Goods, take};
use crate::support::{Database, runtime, server};

struct Harness {
    database: Database,
    goods: Option<Arc<Goods>>,
}

impl AsyncHarness for Harness {
    type Participant = Goods;

    fn name(&self) -> Name {
        Name::from_static("payments")
    }
    fn participant(&self) -> Arc<Goods> {
        Arc::clone(self.goods.as_ref().expect("it is open"))
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
        let count = async |table: &str| -> u64 {
            let sql = format!("SELECT COUNT(*) FROM {table} WHERE branch = '{branch}'");
            self.database.value(&sql).await.expect("a count")
        };
        match count("sold").await {
            0 if count("reserved").await == 0 => Effect::Absent,
            0 => Effect::Reserved,
            times => Effect::Applied { times: usize::try_from(times).expect("a count") },
        }
    }
    fn keeps_work(&self) -> bool {
        true
    }
    async fn crash(&mut self) {
        drop(self.goods.take());
        self.database.kill_connections().await;
        self.goods = Some(Arc::new(self.database.stock().await));
    }
}

#[test]
fn a_service_with_tables_conforms() {
    let Some(server) = server() else { return };
    let runtime = runtime();
    let make = || {
        runtime.block_on(async {
            let database = Database::make(&server.socket()).await;
            database.make_stock(1_000_000).await;
            let goods = Some(Arc::new(database.stock().await));
            Harness { database, goods }
        })
    };
    let report = check_async(runtime.handle(), make);
    assert!(report.skipped.iter().all(|check| check.contains("read")), "{:?}", report.skipped);
}
