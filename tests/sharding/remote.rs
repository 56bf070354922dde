//! Shards in other processes, which hear of the coordinator only what is sent to them.

use std::sync::Arc;

use parking_lot::Mutex;
use ringpact::{
    MemoryLog, Name,
    participant::{Endpoint, Inline, Reply, Request},
    ring::NodeId,
    sharding::{Cluster, Connection, ShardHost, shard_name},
    txn::VerdictEndpoint,
};

use crate::{
    ledger::{Add, Faults, Kind, Ledger},
    town::{SOON, ring},
};

/// The way to a shard of another process: it carries requests, and nothing else.
struct Wire(Arc<ShardHost<Ledger>>);

impl Endpoint for Wire {
    fn send(&self, request: Request, reply: Reply) {
        Inline::new(Arc::clone(&self.0)).send(request, reply);
    }
}

/// The way back. It gives no answer before there is a coordinator.
#[derive(Clone, Default)]
struct Desk(Arc<Mutex<Option<VerdictEndpoint>>>);

impl Endpoint for Desk {
    fn send(&self, request: Request, reply: Reply) {
        let desk = self.0.lock().clone();
        if let Some(desk) = desk {
            desk.send(request, reply);
        }
    }
}

/// A new ring is set up in a transaction, for which the shards ask the coordinator before they vote. It was not possible to
/// answer them, because the coordinator was not known before that transaction had ended.
#[test]
fn shards_that_ask_the_coordinator_can_do_so_while_the_cluster_opens() {
    let desk = Desk::default();
    let opening = desk.clone();
    let (builder, goods) = Cluster::builder(MemoryLog::new())
        .name("town")
        .first_ring(ring(&["a", "b"]))
        .verdicts(move |verdicts| *opening.0.lock() = Some(verdicts))
        .service("goods", move |node: &NodeId| {
            let name = shard_name("goods", node)?;
            let ledger = Ledger::open(Kind::InMemory, &Arc::default(), &Arc::new(Faults::default()));
            let host = Arc::new(ShardHost::open(name.as_str(), MemoryLog::new(), ledger)?);
            host.set_verdict_endpoint(Name::new("town")?, desk.clone());
            Ok(Connection::remote(Arc::new(Wire(host))))
        });
    let cluster = builder.open().unwrap();
    let mut txn = cluster.begin();
    for key in 0..20 {
        goods.execute(&mut txn, Add { key, amount: 1 }).unwrap();
    }
    txn.commit().wait().unwrap();
    assert!(
        cluster.change().unwrap().join("c").plan().unwrap().start(ringpact::sharding::Pace::new()).unwrap().wait(SOON)
    );
}
