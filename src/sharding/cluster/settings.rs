//! [`Settings`]: what the process that keeps a ring and those that follow it are opened with alike.

use std::{
    collections::BTreeSet,
    sync::{Arc, OnceLock, Weak},
};

use super::{
    ClusterError,
    directory::{Directory, node_of},
    routes::{AnyRoutes, Connect, Routes, ServiceClient},
};
use crate::{
    Coordinator,
    log::{LogId, TransactionLog},
    platform::Platform,
    ring::NodeId,
    sharding::link::Reach,
    txn::{CoordinatorBuilder, Limits, Policy},
};

pub(super) struct Settings {
    pub(super) log: Arc<dyn TransactionLog>,
    pub(super) name: Option<String>,
    pub(super) policy: Policy,
    pub(super) limits: Limits,
    /// The log that this one replaces, for an operator.
    pub(super) replaces: LogId,
    pub(super) services: Vec<Arc<dyn AnyRoutes>>,
    /// Where the services' clients find the shards, once it is open.
    pub(super) directory: Arc<OnceLock<Weak<Directory>>>,
    pub(super) platform: Platform,
}

impl Settings {
    pub(super) fn new(log: impl TransactionLog) -> Self {
        Self {
            log: Arc::new(log),
            name: None,
            policy: Policy::DEFAULT,
            limits: Limits::default(),
            replaces: LogId::NONE,
            services: Vec::new(),
            directory: Arc::default(),
            platform: Platform::default(),
        }
    }

    /// Adds a service. Returns what its clients use.
    pub(super) fn service<W: 'static>(&mut self, name: &str, connect: Connect<W>) -> ServiceClient<W> {
        let routes = Arc::new(Routes::new(name, connect));
        self.services.push(Arc::clone(&routes) as Arc<dyn AnyRoutes>);
        ServiceClient { directory: Arc::clone(&self.directory), routes }
    }

    /// Checks that the name of a shard tells its service and its node.
    pub(super) fn check(&self) -> Result<(), ClusterError> {
        for (index, service) in self.services.iter().enumerate() {
            for other in &self.services[..index] {
                let (one, two) = (service.service(), other.service());
                if one == two {
                    return Err(ClusterError::DuplicateService { service: one.to_owned() });
                }
                let (short, long) = if one.len() < two.len() { (one, two) } else { (two, one) };
                if long.strip_prefix(short).is_some_and(|rest| rest.starts_with('.')) {
                    let (service, other) = (short.to_owned(), long.to_owned());
                    return Err(ClusterError::AmbiguousService { service, other });
                }
            }
        }
        Ok(())
    }

    /// Opens the coordinator, with the shards on these nodes and what `with_more` adds.
    ///
    /// A transaction that was decided may still have to be told to nodes that have left since. They are
    /// connected to as well, if they are still there. If not, the coordinator's status shows what it owes
    /// them.
    pub(super) fn coordinator(
        &self,
        nodes: &BTreeSet<NodeId>,
        with_more: impl FnOnce(CoordinatorBuilder) -> CoordinatorBuilder,
    ) -> Result<Coordinator, ClusterError> {
        let failed = |error| ClusterError::Coordinator(Arc::new(error));
        let builder = Coordinator::builder(Arc::clone(&self.log)).policy(self.policy).limits(self.limits);
        let builder = builder.replaces_log(self.replaces).platform(self.platform.clone());
        let mut builder = with_more(builder);
        if let Some(name) = &self.name {
            builder = builder.name(name);
        }
        for node in nodes {
            builder = self.register(builder, node)?;
        }
        let named = builder.named_in_log().map_err(failed)?;
        let left: BTreeSet<_> = named.iter().filter_map(|participant| node_of(&self.services, participant)).collect();
        for node in left.difference(nodes) {
            for service in &self.services {
                if let Ok((name, reach)) = service.connect(node) {
                    builder = reach.register(builder, name.as_str());
                }
            }
        }
        builder.open().map_err(failed)
    }

    fn register(&self, mut builder: CoordinatorBuilder, node: &NodeId) -> Result<CoordinatorBuilder, ClusterError> {
        for service in &self.services {
            let failed = |error| ClusterError::connect(&**service, node, error);
            let (name, reach) = service.connect(node).map_err(failed)?;
            builder = reach.register(builder, name.as_str());
        }
        Ok(builder)
    }
}

impl Reach {
    fn register(self, builder: CoordinatorBuilder, name: &str) -> CoordinatorBuilder {
        match self {
            Self::AtOnce(participant) => builder.participant(name, participant),
            Self::Slow(participant, threads) => builder.slow_participant(name, participant, threads),
            Self::Endpoint(endpoint) => builder.endpoint(name, endpoint),
        }
    }
}
