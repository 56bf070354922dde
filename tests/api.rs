//! What the public types promise by their bounds: which can be shared between threads, and which traits can be objects.
#![cfg(feature = "transactions")]

use ringpact::{
    BranchId, Commit, CommitError, Coordinator, CoordinatorError, Epoch, FileLog, HashRing, LogError, LogId, MemoryLog,
    Name, Node, Participant, ParticipantError, Policy, Registry, ResourceManager, RingFollower, RingKey, Service,
    SharedRing, Transaction, TransactionLog, TxnId,
    participant::{Call, Endpoint, Greeting, LastResource, Reply, Request, Response},
    ring::{BoundedLoads, ReplicaIndex, SharedRing as Shared},
    txn::{CoordinatorBuilder, CoordinatorStatus, Delivered, RunError, VerdictEndpoint},
};

const fn is_shared<T: Send + Sync + 'static>() {}

const fn is_sent<T: Send + 'static>() {}

const fn is_error<T: std::error::Error + Send + Sync + 'static>() {}

#[test]
fn handles_are_shared_between_threads() {
    is_shared::<Coordinator>();
    is_shared::<Transaction>();
    is_shared::<FileLog>();
    is_shared::<MemoryLog>();
    is_shared::<Registry>();
    is_shared::<HashRing>();
    is_shared::<Shared>();
    is_shared::<BoundedLoads>();
    is_shared::<ReplicaIndex<HashRing>>();
    is_shared::<CoordinatorStatus>();
    is_shared::<VerdictEndpoint>();
    is_shared::<Greeting>();
    is_shared::<(Request, Response, Call, Policy, BranchId, TxnId, Name, Epoch, LogId, Node)>();
}

#[test]
fn what_one_thread_or_task_waits_with_can_be_sent_to_another() {
    is_sent::<Commit>();
    is_sent::<Delivered>();
    is_sent::<CoordinatorBuilder>();
    is_sent::<Reply>();
    is_sent::<RingFollower>();
}

#[test]
fn errors_can_be_boxed_and_sent() {
    is_error::<LogError>();
    is_error::<CommitError>();
    is_error::<RunError>();
    is_error::<CoordinatorError>();
    is_error::<ParticipantError>();
}

#[test]
fn traits_that_users_implement_can_be_objects() {
    fn objects(_: &[&dyn TransactionLog], _: &[&dyn Participant], _: &[&dyn Endpoint], _: &[&dyn LastResource]) {}
    fn services<W: 'static, R: 'static>(_: &[&dyn Service<Work = W, Refusal = R>]) {}
    fn keys(_: &[&str]) {}
    objects(&[], &[], &[], &[]);
    services::<u32, std::io::Error>(&[]);
    keys(&[]);
    fn is_a_key<K: RingKey>() {}
    is_a_key::<String>();
    fn is_a_participant<P: Participant>() {}
    fn of_any<S: Service>() {
        is_a_participant::<ResourceManager<S>>();
    }
    let _ = of_any::<Nothing>;
    let _: Option<SharedRing> = None;
}

/// A service that is only a type.
enum Nothing {}

impl Service for Nothing {
    type Work = ();
    type Refusal = std::io::Error;
    fn try_reserve(&self, _: &BranchId, (): &()) -> Result<(), std::io::Error> {
        match *self {}
    }
    fn confirm(&self, _: &BranchId, _: &[()]) -> Result<(), ringpact::ServiceError> {
        match *self {}
    }
    fn cancel(&self, _: &BranchId, _: &[()]) -> Result<(), ringpact::ServiceError> {
        match *self {}
    }
}
