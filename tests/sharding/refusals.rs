//! What a client learns of work that was not done: whether the service refused it, the key moves or the shard does not
//! answer; and which of these `run` tries again. For shards of this process and for those of others.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use ringpact::{
    MemoryLog, ParticipantError, causes,
    participant::{Endpoint, Greeting, Inline, Reply, Request},
    ring::NodeId,
    sharding::{Cluster, Connection, GateRefusal, RemoteWorkError, RouteError, ServiceClient, ShardHost, shard_name},
    txn::{RunError, WorkError},
};

use crate::{
    ledger::{Add, Faults, Full, Kind, Ledger, Saved},
    town::ring,
};

/// A shard in another process, which drops requests and is restarted as the test wants.
#[derive(Clone)]
struct Remote(Arc<Process>);

struct Process {
    log: Mutex<MemoryLog>,
    disk: Arc<Mutex<Saved>>,
    host: Mutex<Arc<ShardHost<Ledger>>>,
    /// Number of coming messages that get lost.
    lost: AtomicU32,
    verdicts: Mutex<Option<Arc<dyn Endpoint>>>,
}

impl Remote {
    fn start(node: &NodeId) -> Self {
        let (log, disk) = (MemoryLog::new(), Arc::default());
        let host = Mutex::new(open(node, &log, &disk));
        let (lost, verdicts) = (AtomicU32::new(0), Mutex::default());
        Self(Arc::new(Process { log: Mutex::new(log), disk, host, lost, verdicts }))
    }

    fn host(&self) -> Arc<ShardHost<Ledger>> {
        Arc::clone(&self.0.host.lock())
    }

    fn restart(&self, node: &NodeId) {
        let (mut log, mut host) = (self.0.log.lock(), self.0.host.lock());
        *log = log.crash();
        *host = open(node, &log, &self.0.disk);
        if let Some(verdicts) = &*self.0.verdicts.lock() {
            host.set_verdict_endpoint("town".parse().unwrap(), Arc::clone(verdicts));
        }
    }
}

fn open(node: &NodeId, log: &MemoryLog, disk: &Arc<Mutex<Saved>>) -> Arc<ShardHost<Ledger>> {
    let ledger = Ledger::open(Kind::InMemory, disk, &Arc::new(Faults::default()));
    Arc::new(ShardHost::open(shard_name("goods", node).unwrap().as_str(), log.clone(), ledger).unwrap())
}

impl Endpoint for Remote {
    /// All goes through its wire form, as over a network.
    fn send(&self, request: Request, reply: Reply) {
        let is_message = matches!(request, Request::Message { .. });
        let lost = self.0.lost.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |lost| {
            lost.checked_sub(u32::from(is_message)).filter(|_| is_message)
        });
        if lost.is_ok() {
            return;
        }
        let request = postcard::from_bytes(&postcard::to_stdvec(&request).unwrap()).unwrap();
        let back = Reply::new(move |answer| {
            reply.send(postcard::from_bytes(&postcard::to_stdvec(&answer).unwrap()).unwrap());
        });
        Inline::new(self.host()).send(request, back);
    }
    fn greet(&self, greeting: &Greeting) {
        *self.0.verdicts.lock() = Some(Arc::clone(&greeting.verdicts));
        self.host().set_verdict_endpoint(greeting.coordinator.clone(), Arc::clone(&greeting.verdicts));
    }
}

fn far() -> (Cluster, ServiceClient<Add>, Remote, NodeId) {
    let node = NodeId::from("a");
    let remote = Remote::start(&node);
    let way = remote.clone();
    let builder = Cluster::builder(MemoryLog::new()).name("town").first_ring(ring(&["a"]));
    let (builder, goods) = builder.service("goods", move |_: &NodeId| Ok(Connection::remote(Arc::new(way.clone()))));
    (builder.open().unwrap(), goods, remote, node)
}

fn near() -> (Cluster, ServiceClient<Add>, Arc<ShardHost<Ledger>>) {
    let host = open(&NodeId::from("a"), &MemoryLog::new(), &Arc::default());
    let shard = Arc::clone(&host);
    let builder = Cluster::builder(MemoryLog::new()).name("town").first_ring(ring(&["a"]));
    let (builder, goods) = builder.service("goods", move |_: &NodeId| Ok(Connection::local(Arc::clone(&shard))));
    (builder.open().unwrap(), goods, host)
}

const TOO_MUCH: Add = Add { key: 1, amount: i64::MAX };
const SOME: Add = Add { key: 1, amount: 1 };

/// Counts the attempts of `work` with one piece of work each.
fn attempts(
    cluster: &Cluster,
    mut work: impl FnMut(u32) -> Result<Add, WorkError>,
    goods: &ServiceClient<Add>,
) -> (u32, Result<(), RunError>) {
    let mut attempts = 0;
    let result = cluster.coordinator().run_blocking(|txn| {
        attempts += 1;
        goods.execute(txn, SOME)?;
        let add = work(attempts)?;
        goods.execute(txn, add)?;
        Ok::<_, WorkError>(())
    });
    (attempts, result)
}

#[test]
fn a_refusal_of_the_service_is_told_from_all_else() {
    let (cluster, goods, _host) = near();
    let refused = goods.execute(&mut cluster.begin(), TOO_MUCH).unwrap_err();
    assert!(refused.is_refusal() && !refused.is_moving() && !refused.is_unreachable());
    assert!(refused.refusal().unwrap().is::<Full>());
    assert_eq!(
        ringpact::error_chain(&refused),
        "the shard did not do the work: the service refused the work: no more may be added"
    );
    let (tried, result) = attempts(&cluster, |_| Ok(TOO_MUCH), &goods);
    let error = result.unwrap_err();
    assert!(tried == 1 && causes(&error).any(|cause| cause.is::<Full>()), "{error:?}");

    let (cluster, goods, remote, _) = far();
    let refused = goods.execute(&mut cluster.begin(), TOO_MUCH).unwrap_err();
    assert!(refused.is_refusal() && !refused.is_unreachable());
    let far = refused.refusal().unwrap().downcast_ref::<RemoteWorkError>().unwrap();
    assert!(far.to_string() == "no more may be added" && !far.is_transient());
    assert_eq!(attempts(&cluster, |_| Ok(TOO_MUCH), &goods).0, 1);

    remote.0.lost.store(1, Ordering::SeqCst);
    let lost = goods.execute(&mut cluster.begin(), SOME).unwrap_err();
    assert!(lost.is_unreachable() && !lost.is_refusal() && lost.refusal().is_none(), "{lost:?}");
}

#[test]
fn a_key_on_its_way_is_no_refusal_of_the_service() {
    let (cluster, goods, _host) = near();
    let moving = RouteError::Refused { node: NodeId::from("a"), refusal: GateRefusal::Moving };
    assert!(moving.is_moving() && !moving.is_refusal() && moving.refusal().is_none());
    // It is tried again, as a new transaction.
    let mut errors = vec![moving];
    let (tried, result) = attempts(&cluster, |_| errors.pop().map_or(Ok(SOME), |error| Err(error.into())), &goods);
    result.unwrap();
    assert_eq!(tried, 2);
}

/// A message got lost, or the shard was away for a moment. Nothing was promised yet.
#[test]
fn a_shard_that_does_not_answer_is_tried_again() {
    let (cluster, goods, remote, _) = far();
    let (tried, result) = attempts(
        &cluster,
        |attempt| {
            remote.0.lost.store(u32::from(attempt < 3), Ordering::SeqCst);
            Ok(SOME)
        },
        &goods,
    );
    result.unwrap();
    assert_eq!((tried, remote.host().shard().sum(1)), (3, Some(2)), "done once");
}

/// The shard votes No, because it does not know the work, or not all of it. Its reason comes over a wire.
#[test]
fn work_that_a_restart_has_lost_is_tried_again() {
    let (cluster, goods, remote, node) = far();
    for works_after in [false, true] {
        let before = remote.host().shard().sum(1).unwrap_or_default();
        let mut tried = 0;
        let result = cluster.coordinator().run_blocking(|txn| {
            tried += 1;
            goods.execute(txn, SOME)?;
            if tried == 1 {
                remote.restart(&node);
                if works_after {
                    goods.execute(txn, SOME)?;
                }
            }
            Ok::<_, WorkError>(())
        });
        result.unwrap();
        assert!(cluster.coordinator().settle(Duration::from_secs(10)));
        assert_eq!((tried, remote.host().shard().sum(1)), (2, Some(before + 1)), "{works_after}");
    }
}

/// The branch was in the way of a hand-over.
#[test]
fn a_branch_that_a_far_shard_has_given_up_is_tried_again() {
    let (cluster, goods, remote, _) = far();
    let mut tried = 0;
    let result = cluster.coordinator().run_blocking(|txn| {
        tried += 1;
        goods.execute(txn, SOME)?;
        if tried == 1 {
            remote.host().give_up(txn.id());
        }
        Ok::<_, WorkError>(())
    });
    result.unwrap();
    assert_eq!(tried, 2);
}

/// A No that may pass stays one on its way through programs that don't know its reason.
#[test]
fn a_no_that_may_pass_goes_through_two_wires() {
    let through = |error: &ParticipantError| -> ParticipantError {
        postcard::from_bytes(&postcard::to_stdvec(error).unwrap()).unwrap()
    };
    let reason = |refusal| ParticipantError::refused(refusal);
    let brief = through(&through(&reason(ringpact::participant::BranchRefusal::Moving)));
    let lasting = through(&through(&reason(ringpact::participant::BranchRefusal::Panicked)));
    let json = |error: &ParticipantError| serde_json::to_string(error).unwrap();
    assert!(json(&brief).starts_with(r#"{"RefusedForNow":"the branch was rolled back because"#), "{}", json(&brief));
    assert!(json(&lasting).starts_with(r#"{"Refused":"#), "{}", json(&lasting));
}
