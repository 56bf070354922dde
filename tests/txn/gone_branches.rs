//! A coordinator that is dropped leaves branches in its circuits that belong to no transaction any
//! more.

use std::{sync::Arc, time::Duration};

use crate::support::{eventually, scripted::Scripted};
use parking_lot::Mutex;
use ringpact::{
    Coordinator, MemoryLog, Policy,
    participant::{Endpoint, Reply, Request, Response, Verb},
    txn::CircuitState,
};

const MS: Duration = Duration::from_millis(1);

/// Votes at once, and keeps the replies to decisions.
#[derive(Clone, Default)]
struct Keeps(Arc<Mutex<Vec<Reply>>>);

impl Endpoint for Keeps {
    fn send(&self, request: Request, reply: Reply) {
        match request {
            Request::Branch { verb: Verb::Prepare, .. } => reply.send(Ok(Response::Voted(ringpact::Vote::Yes))),
            Request::Branch { .. } => self.0.lock().push(reply),
            _ => reply.send(Ok(Response::InDoubt(Vec::new()))),
        }
    }
}

/// A bug: each branch that was gone released the next one by a call within the call. Ten thousand
/// of them overflowed the stack of the participant's thread.
#[test]
fn an_answer_after_ten_thousand_kept_back_decisions_does_not_overflow_the_stack() {
    const TRANSACTIONS: usize = 10_000;
    let policy = Policy::default()
        .prepare_timeout(60_000 * MS)
        .delivery_timeout(50 * MS)
        .first_backoff(5 * MS)
        .longest_backoff(50 * MS);
    let keeps = Keeps::default();
    let builder = Coordinator::builder(MemoryLog::new()).policy(policy).participant("good", Scripted::new());
    let coordinator = builder.endpoint("keeps", keeps.clone()).open().unwrap();
    for _ in 0..TRANSACTIONS {
        let mut txn = coordinator.begin();
        txn.branch("good").unwrap();
        txn.branch("keeps").unwrap();
        txn.commit().wait().unwrap();
    }
    let circuit = || {
        let circuits = coordinator.status().circuits;
        circuits.into_iter().find(|circuit| circuit.participant.as_str() == "keeps").unwrap()
    };
    eventually("all of them are kept back", Duration::from_secs(60), || {
        keeps.0.lock().drain(..).for_each(drop); // A dropped reply is a failure, so the circuit opens.
        let seen = circuit();
        seen.state == CircuitState::Open && seen.kept_back >= TRANSACTIONS - 10
    });
    let last = std::iter::repeat_with(|| {
        std::thread::sleep(MS);
        keeps.0.lock().pop()
    });
    let probe = last.take(5_000).flatten().next().expect("the circuit probes");
    drop(coordinator);
    probe.send(Ok(Response::Done));
}
