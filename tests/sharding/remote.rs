//! Shards in other processes, which hear of the coordinator only what is sent to them.

use std::sync::Arc;

use ringpact::{
    MemoryLog, Name,
    participant::{Endpoint, Inline, Reply, Request},
    ring::NodeId,
    sharding::{Cluster, Connection, ShardHost, shard_name},
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

/// A new ring is set up in a transaction, for which the shards ask the coordinator before they vote. It was not possible to
/// answer them, because the coordinator was not known before that transaction had ended.
#[test]
fn shards_that_ask_the_coordinator_can_do_so_while_the_cluster_opens() {
    let builder = Cluster::builder(MemoryLog::new()).name("town").first_ring(ring(&["a", "b"]));
    let verdicts = builder.verdicts();
    let (builder, goods) = builder.service("goods", move |node: &NodeId| {
        let name = shard_name("goods", node)?;
        let ledger = Ledger::open(Kind::InMemory, &Arc::default(), &Arc::new(Faults::default()));
        let host = Arc::new(ShardHost::open(name.as_str(), MemoryLog::new(), ledger)?);
        host.set_verdict_endpoint(Name::new("town")?, verdicts.clone());
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
