//! How long a keeper takes to open when a change of many nodes is pending.

use std::{collections::BTreeMap, io, sync::Arc, time::Instant};

use parking_lot::Mutex;
use ringpact::{
    BranchId, FileLog, HashRing, MemoryLog, Node, Service, ServiceError,
    ring::{NodeId, Position, PositionRange},
    sharding::{
        Cluster, Connection, Export, FileRingStore, GateImage, Keyed, Pace, Records, ServiceClient, Shard, ShardHost,
    },
};
use serde::{Deserialize, Serialize};

use super::{Figures, Options};
use crate::log::{failed, fresh_dir};

/// Number of nodes before and after.
const NODES: [usize; 2] = [500, 1_000];

#[derive(Clone, Serialize, Deserialize)]
struct Nothing;

impl Keyed for Nothing {
    fn position(&self) -> Position {
        Position::new(0)
    }
}

/// A shard without records.
struct Empty;

impl Service for Empty {
    type Work = Nothing;
    type Refusal = std::convert::Infallible;
    fn try_reserve(&self, _: &BranchId, _: &Nothing) -> Result<(), Self::Refusal> {
        Ok(())
    }
    fn confirm(&self, _: &BranchId, _: &[Nothing]) -> Result<(), ServiceError> {
        Ok(())
    }
    fn cancel(&self, _: &BranchId, _: &[Nothing]) -> Result<(), ServiceError> {
        Ok(())
    }
}

impl Shard for Empty {
    fn export(&self, _: PositionRange, _: &mut Export) -> Result<(), ServiceError> {
        Ok(())
    }
    fn import(&self, _: PositionRange, _: Records<'_>) -> Result<(), ServiceError> {
        Ok(())
    }
    fn discard(&self, _: PositionRange) -> Result<(), ServiceError> {
        Ok(())
    }
    fn load(&self) -> Result<GateImage, ServiceError> {
        Ok(GateImage::new())
    }
    fn save(&self, _: &mut dyn FnMut() -> GateImage) -> Result<(), ServiceError> {
        Ok(())
    }
}

type Hosts = Arc<Mutex<BTreeMap<NodeId, Arc<ShardHost<Empty>>>>>;

/// Opens a keeper of a ring in the middle of a change that joins hundreds of nodes.
pub fn restart(options: &Options, figures: &mut Figures) -> io::Result<()> {
    let [few, many] = if options.quick { [10, 20] } else { NODES };
    let (dir, hosts) = (fresh_dir()?, Hosts::default());
    let open = || -> io::Result<(Cluster, ServiceClient<Nothing>, f64)> {
        let begun = Instant::now();
        let hosts = Arc::clone(&hosts);
        let ring = HashRing::new((0..few).map(|number| Node::new(format!("n{number}")))).map_err(failed)?;
        let (builder, client) = Cluster::builder(FileLog::open(dir.path().join("log")).map_err(failed)?)
            .store(FileRingStore::open(dir.path().join("ring"))?)
            .first_ring(ring)
            .service("goods", move |id: &NodeId| {
                let mut hosts = hosts.lock();
                if let Some(host) = hosts.get(id) {
                    return Ok(Connection::local(Arc::clone(host)));
                }
                let host = Arc::new(ShardHost::open(&format!("goods.{id}"), MemoryLog::new(), Empty)?);
                hosts.insert(id.clone(), Arc::clone(&host));
                Ok(Connection::local(host))
            });
        let cluster = builder.open().map_err(|error| failed(ringpact::error_chain(&error)))?;
        Ok((cluster, client, begun.elapsed().as_secs_f64() * 1e3))
    };
    let (cluster, client, _) = open()?;
    let change = (few..many)
        .fold(cluster.change().map_err(failed)?, |change, number| change.join(Node::new(format!("n{number}"))));
    let begun = Instant::now();
    let moving = change.plan().and_then(|plan| plan.start(Pace::new())).map_err(failed)?;
    figures.add("keeper_start", many, "change", "ms", begun.elapsed().as_secs_f64() * 1e3);
    // Some chunks move, so that the keeper has something to read.
    let begun = Instant::now();
    let _ = moving.wait(options.time() * 5);
    let progress = moving.progress();
    figures.add(
        "keeper_chunks_per_s",
        many,
        "change",
        "chunks/s",
        progress.chunks as f64 / begun.elapsed().as_secs_f64(),
    );
    figures.add("keeper_moved", many, "change", "share", progress.fraction);
    if !progress.is_over {
        moving.pause().map_err(failed)?;
    }
    drop((moving, client, cluster));
    for _ in 0..options.rounds() {
        let (cluster, client, milliseconds) = open()?;
        figures.add("keeper_open", many, "pending", "ms", milliseconds);
        drop((client, cluster));
    }
    Ok(())
}
