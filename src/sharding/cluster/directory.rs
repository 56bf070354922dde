//! [`Directory`]: which shards there are, and which of them has a key. The keeper's process has one, and
//! each process that follows the keeper.

use std::{
    collections::BTreeSet,
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

use parking_lot::Mutex;

use super::{ClusterError, routes::AnyRoutes};
use crate::{
    Coordinator,
    id::Name,
    participant::{Endpoint, ParticipantError, Reply, Request, Response},
    platform::{Condvar, Platform},
    ring::{NodeId, RingEpoch},
    sharding::{
        AssignmentUpdate, ShardMoves, SharedAssignment,
        link::Reach,
        remote::{answered, decode, encode, exchange},
    },
    txn::RetireError,
};

/// Maximum time for which a client waits for news of the assignment before it asks the shard again.
const WAIT_FOR_NEWS: Duration = Duration::from_millis(5);

/// Time that the keeper has for an answer.
const KEEPER_ANSWERS_WITHIN: Duration = Duration::from_secs(2);

pub(in crate::sharding) struct Directory {
    pub(in crate::sharding) coordinator: Coordinator,
    pub(super) assignment: Arc<SharedAssignment>,
    pub(super) services: Vec<Arc<dyn AnyRoutes>>,
    pub(in crate::sharding) platform: Platform,
    /// Number of times that a shard's gate refused a client's work.
    pub(super) refused: AtomicU64,
    /// Where the keeper is, if it is in another process.
    keeper: Option<Arc<dyn Endpoint>>,
    /// Nodes that a thread is connecting to, so that each is connected once.
    joining: Mutex<BTreeSet<NodeId>>,
    joined: Condvar,
}

/// A shard, with its name as a participant.
pub(in crate::sharding) type NamedShard = (Name, Arc<dyn ShardMoves>);

impl Directory {
    pub(super) fn new(
        coordinator: Coordinator,
        assignment: Arc<SharedAssignment>,
        services: Vec<Arc<dyn AnyRoutes>>,
        platform: Platform,
        keeper: Option<Arc<dyn Endpoint>>,
    ) -> Self {
        let (refused, joining, joined) = (AtomicU64::new(0), Mutex::default(), platform.condvar());
        Self { coordinator, assignment, services, platform, refused, keeper, joining, joined }
    }

    /// Learns what has changed since this epoch: asks the keeper, or waits a moment if the keeper is in
    /// this process and tells it by itself. Blocks for that.
    pub(super) fn refresh(&self, epoch: RingEpoch) {
        let Some(keeper) = &self.keeper else {
            return self.assignment.wait_past(epoch, WAIT_FOR_NEWS);
        };
        match ask(&self.platform, &**keeper, self.assignment.load().epoch()) {
            Ok((asked, update)) => self.learn(asked, update),
            // The client asks again, until its patience is over.
            Err(_) => self.assignment.wait_past(epoch, WAIT_FOR_NEWS),
        }
        if self.assignment.load().epoch() <= epoch {
            // The keeper knows no more yet than this process.
            self.assignment.wait_past(epoch, WAIT_FOR_NEWS);
        }
    }

    /// Takes in what the keeper answered, and lets go of nodes that have left.
    pub(super) fn learn(&self, asked: RingEpoch, update: AssignmentUpdate) {
        self.assignment.update(asked, update);
        let assignment = self.assignment.load();
        let rings = [Some(assignment.ring()), assignment.after()];
        let has_left = |node: &NodeId| rings.iter().flatten().all(|ring| ring.node(node.as_str()).is_none());
        for node in self.nodes().iter().filter(|node| has_left(node)) {
            // If a transaction still names it, it goes at a later look: a node that retires can't come back.
            if !self.is_named(node) {
                self.part(node);
            }
        }
    }

    /// Returns where the keeper is, if it is in another process, and the time that it has for an answer.
    pub(super) const fn keeper(&self) -> Option<(&Arc<dyn Endpoint>, Duration)> {
        match &self.keeper {
            Some(keeper) => Some((keeper, KEEPER_ANSWERS_WITHIN)),
            None => None,
        }
    }

    /// Asks the keeper what has changed, and passes its answer on; `None` if it has none. Does not block.
    pub(super) fn ask_then(
        &self,
        keeper: &dyn Endpoint,
        then: impl FnOnce(Option<(RingEpoch, AssignmentUpdate)>) + Send + 'static,
    ) {
        let since = self.assignment.load().epoch();
        let Ok(body) = encode(&since) else { return then(None) };
        let reply = Reply::new(move |result| {
            let update = answered(result).ok().and_then(|body| decode(&body).ok());
            then(update.map(|update| (since, update)));
        });
        keeper.send(Request::Message { body }, reply);
    }

    /// Connects to the shards of all services on the node, and registers them with the coordinator.
    pub(in crate::sharding) fn join(&self, node: &NodeId) -> Result<(), ClusterError> {
        let mut joining = self.joining.lock();
        while !joining.insert(node.clone()) {
            self.joined.wait(&mut joining);
        }
        drop(joining);
        // Also if it panics, because it calls code of others.
        let _joining = Joining { directory: self, node };
        self.connect(node)
    }

    fn connect(&self, node: &NodeId) -> Result<(), ClusterError> {
        for service in &self.services {
            if service.moves(node).is_some() {
                continue;
            }
            let failed = |error| ClusterError::connect(&**service, node, error);
            let (name, reach) = service.connect(node).map_err(failed)?;
            let added = match reach {
                Reach::AtOnce(participant) => self.coordinator.add_participant(name.as_str(), participant),
                Reach::Slow(participant, threads) => {
                    self.coordinator.add_slow_participant(name.as_str(), participant, threads)
                }
                Reach::Endpoint(endpoint) => self.coordinator.add_endpoint(name.as_str(), endpoint),
            };
            if let Err(error) = added {
                // So that the next try connects again.
                service.disconnect(node);
                return Err(failed(error.into()));
            }
        }
        Ok(())
    }

    /// Returns the nodes that there are connections to.
    pub(in crate::sharding) fn nodes(&self) -> BTreeSet<NodeId> {
        self.services.iter().flat_map(|service| service.nodes()).collect()
    }

    /// Takes the node's shards out of the coordinator, because it has no keys. Returns whether that is
    /// done: no unended transaction names them. One that has ended there alone counts, because after a
    /// restart the coordinator tells all participants of it again.
    pub(in crate::sharding) fn part(&self, node: &NodeId) -> bool {
        let unanswered = self.coordinator.status().unanswered_by;
        let mut is_gone = true;
        for service in &self.services {
            let Some((name, _)) = service.moves(node) else { continue };
            // After a restart only the shard knows of transactions that have been rolled back and name it. A
            // coordinator without the shard would never hear of them, and the shard would keep its promises.
            if unanswered.contains_key(&name) {
                is_gone = false;
                continue;
            }
            // The first call has it retire, and drops it at once if no transaction names it.
            let is_out = || matches!(self.coordinator.retire(name.as_str()), Err(RetireError::Unknown { .. }));
            if is_out() || is_out() {
                service.disconnect(node);
            } else {
                is_gone = false;
            }
        }
        is_gone && !self.is_named(node)
    }

    fn is_named(&self, node: &NodeId) -> bool {
        let open = self.coordinator.status().transactions;
        let mut branches = open.iter().flat_map(|open| &open.branches);
        branches.any(|branch| node_of(&self.services, &branch.participant).as_ref() == Some(node))
    }

    /// Returns the shards on the node, service by service, with their names.
    pub(in crate::sharding) fn shards(&self, node: &NodeId) -> Result<Vec<NamedShard>, ClusterError> {
        shards(&self.services, node)
    }
}

/// Returns the services' shards on the node, with their names.
pub(super) fn shards(services: &[Arc<dyn AnyRoutes>], node: &NodeId) -> Result<Vec<NamedShard>, ClusterError> {
    let missing = || ClusterError::NoShard { node: node.clone() };
    services.iter().map(|service| service.moves(node).ok_or_else(missing)).collect()
}

/// A node that a thread is connecting to.
struct Joining<'a> {
    directory: &'a Directory,
    node: &'a NodeId,
}

impl Drop for Joining<'_> {
    fn drop(&mut self) {
        self.directory.joining.lock().remove(self.node);
        self.directory.joined.notify_all();
    }
}

/// Returns the node of a shard with this name.
pub(super) fn node_of(services: &[Arc<dyn AnyRoutes>], participant: &Name) -> Option<NodeId> {
    let of = |service: &Arc<dyn AnyRoutes>| participant.as_str().strip_prefix(service.service())?.strip_prefix('.');
    services.iter().find_map(of).map(NodeId::from)
}

/// Asks the keeper for what has changed since this epoch.
pub(super) fn ask(
    platform: &Platform,
    keeper: &dyn Endpoint,
    since: RingEpoch,
) -> Result<(RingEpoch, AssignmentUpdate), Arc<dyn std::error::Error + Send + Sync>> {
    fn shared(error: impl std::error::Error + Send + Sync + 'static) -> Arc<dyn std::error::Error + Send + Sync> {
        Arc::new(error)
    }
    let body = encode(&since).map_err(shared)?;
    let body = exchange(platform, keeper, body, KEEPER_ANSWERS_WITHIN).map_err(shared)?;
    Ok((since, decode(&body).map_err(shared)?))
}

/// Answers processes that follow the keeper. It is an [`Endpoint`], so every
/// transport for participants carries its messages. A clone is another handle.
#[derive(Clone)]
pub struct AssignmentFeed(pub(super) Arc<SharedAssignment>);

impl Endpoint for AssignmentFeed {
    fn send(&self, request: Request, reply: Reply) {
        let answer = match request {
            Request::Message { body } => decode(&body)
                .and_then(|since: RingEpoch| encode(&self.0.since(since)))
                .map(|body| Response::Message { body }),
            _ => Err(ParticipantError::Misdirected),
        };
        reply.send(answer);
    }

    fn sends_at_once(&self) -> bool {
        true
    }
}

impl std::fmt::Debug for AssignmentFeed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("AssignmentFeed").field(&self.0).finish()
    }
}
