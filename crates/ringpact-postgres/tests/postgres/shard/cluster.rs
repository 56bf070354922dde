//! A cluster moves ranges between three databases on two servers while clients write. One server is killed and comes back.

use std::{
    collections::BTreeMap,
    num::NonZeroUsize,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use ringpact::{
    HashRing, MemoryLog, Policy,
    ring::NodeId,
    sharding::{Cluster, Connection, MemoryRingStore, Moving, Pace, ServiceClient, ShardHost, shard_name},
};
use ringpact_postgres::{PgShard, column_of, set_up_shards, tokio_postgres::Client};
use ringpact_servers::postgres::{Options, Postgres};

use super::{Add, Ledger, RUNTIME, position};
use crate::support::{Db, client, server};

const KEYS: u32 = 300;

/// What each key has at first.
const EACH: i64 = 1_000;

const CLIENTS: u32 = 4;

/// Maximum time of a change, with a server that is killed in the middle.
const SOON: Duration = Duration::from_secs(120);

/// Time that the killed server stays away.
const AWAY: Duration = Duration::from_millis(300);

/// Servers come back soon here, so messages are repeated soon.
const POLICY: Policy = Policy::DEFAULT.longest_backoff(Duration::from_millis(200));

/// A database with the tables of a shard.
struct Place {
    db: Db,
    ledger: Ledger,
}

impl Place {
    async fn new(server: &Postgres) -> Self {
        let db = Db::on(server).await;
        set_up_shards(&db.admin).await.expect("the set-up");
        let ledger = Ledger::new(&db.admin).await;
        Self { db, ledger }
    }

    /// Opens the shard of this name, in a new life of its process.
    fn host(&self, name: &str, log: &MemoryLog) -> Arc<ShardHost<PgShard<Ledger>>> {
        let shard = RUNTIME.block_on(self.ledger.open(self.db.builder_of(name).connections(8)));
        Arc::new(ShardHost::open(name, log.clone(), shard).expect("a host"))
    }
}

struct Town {
    places: BTreeMap<String, Place>,
    hosts: BTreeMap<String, Arc<ShardHost<PgShard<Ledger>>>>,
    cluster: Cluster,
    goods: ServiceClient<Add>,
}

fn ring(nodes: &[&str]) -> HashRing {
    HashRing::builder().virtual_nodes(8).nodes(nodes.iter().copied()).build().expect("a ring")
}

/// Small chunks, so that there are some when a server dies.
fn slowly() -> Pace {
    Pace::new().chunk_bytes(150)
}

impl Town {
    /// Opens the shards of all nodes, with the first keys spread over two of them.
    fn open(places: Vec<(&str, Place)>) -> Self {
        let places: BTreeMap<_, _> = places.into_iter().map(|(node, place)| (node.to_owned(), place)).collect();
        let first = ring(&["a", "b"]);
        for key in 0..KEYS {
            let place = &places[first.owner_at(position(key)).id().as_str()];
            let insert = place.ledger.sql("INSERT INTO sum_x (id, position, sum) VALUES ($1, $2, $3)");
            let (id, at) = (key as i32, column_of(position(key)));
            RUNTIME.block_on(place.db.admin.execute(&insert, &[&id, &at, &EACH])).expect("a row");
        }
        let of = |node: &str, place: &Place| {
            let name = shard_name("goods", &NodeId::from(node)).expect("a name");
            place.host(name.as_str(), &MemoryLog::new())
        };
        let hosts: BTreeMap<_, _> = places.iter().map(|(node, place)| (node.clone(), of(node, place))).collect();
        let known = hosts.clone();
        let builder = Cluster::builder(MemoryLog::new()).store(MemoryRingStore::new()).first_ring(first).policy(POLICY);
        let (builder, goods) = builder.service("goods", move |node: &NodeId| {
            Ok(Connection::slow(Arc::clone(&known[node.as_str()]), NonZeroUsize::new(8).expect("more than none")))
        });
        Self { places, hosts, cluster: builder.open().expect("a cluster"), goods }
    }

    /// Takes from one key and gives to another, until it is told to stop.
    fn trade(&self, seed: u32, stop: &AtomicBool, traded: &AtomicI64) {
        let mut key = seed;
        while !stop.load(Ordering::Relaxed) {
            key = key.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let (from, to) = (key % KEYS, (key >> 8) % KEYS);
            if from == to {
                continue;
            }
            let mut txn = self.cluster.begin_within(Duration::from_secs(10));
            let taken = self.goods.execute(&mut txn, Add { key: from, amount: -1 });
            let given = taken.and_then(|()| self.goods.execute(&mut txn, Add { key: to, amount: 1 }));
            if given.is_ok() && txn.commit().wait().is_ok() {
                traded.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    fn wait(&self, moving: &Moving) {
        assert!(moving.wait(SOON), "{:?}\n{}", moving.progress(), self.cluster.coordinator().status());
    }

    /// Counts by SQL, in connections of its own.
    fn audit(&self, traded: i64) {
        assert!(self.cluster.coordinator().settle(SOON), "{}", self.cluster.coordinator().status());
        let ring = self.cluster.assignment().load().ring().clone();
        let (mut found, mut lines) = (BTreeMap::new(), 0);
        for (node, place) in &self.places {
            let admin = RUNTIME.block_on(client(&place.db.url));
            assert_eq!(RUNTIME.block_on(place.ledger.held(&admin)), 0, "{node}");
            for (key, column, sum) in RUNTIME.block_on(sums(&place.ledger, &admin)) {
                assert_eq!(column, column_of(position(key)));
                assert_eq!(ring.owner_at(position(key)).id().as_str(), node, "key {key}");
                assert_eq!(found.insert(key, sum), None, "key {key} is twice");
            }
            let count = place.ledger.sql("SELECT count(*) FROM line_x");
            lines += RUNTIME.block_on(admin.query_one(&count, &[])).expect("a number").get::<_, i64>(0);
        }
        assert_eq!(found.len(), KEYS as usize, "keys are absent");
        assert_eq!(found.values().sum::<i64>(), i64::from(KEYS) * EACH);
        // A transaction whose answer did not come may be committed as well.
        assert!(lines >= 2 * traded && lines % 2 == 0, "{lines} lines of {traded} transactions");
    }
}

async fn sums(ledger: &Ledger, admin: &Client) -> Vec<(u32, i64, i64)> {
    let rows = admin.query(&ledger.sql("SELECT id, position, sum FROM sum_x"), &[]).await.expect("rows");
    rows.iter().map(|row| (row.get::<_, i32>(0) as u32, row.get(1), row.get(2))).collect()
}

#[test]
fn ranges_move_between_three_databases_under_load_while_a_server_dies() {
    let Some(shared) = RUNTIME.block_on(async { server() }) else { return };
    let Some(own) = Postgres::start(Options::default()) else { return };
    let places = RUNTIME.block_on(async {
        vec![("a", Place::new(shared).await), ("b", Place::new(&own).await), ("c", Place::new(shared).await)]
    });
    let town = Town::open(places);
    let (stop, traded) = (AtomicBool::new(false), AtomicI64::new(0));
    thread::scope(|scope| {
        let _stops = Stops(&stop);
        for client in 0..CLIENTS {
            let (town, stop, traded) = (&town, &stop, &traded);
            scope.spawn(move || town.trade(client, stop, traded));
        }
        // The server dies once while it gives, and once while it takes.
        for (round, joins) in [(0, true), (1, false)] {
            let change = town.cluster.change().expect("no other change");
            let change = if joins { change.join("c") } else { change.leave("c") };
            let moving = change.plan().expect("a plan").start(slowly()).expect("a change");
            let begun = Instant::now();
            while moving.progress().chunks < 3 && !moving.progress().is_over && begun.elapsed() < SOON {
                thread::sleep(Duration::from_millis(5));
            }
            assert!(!moving.progress().is_over, "the change of round {round} ends before the server dies");
            own.stop_immediately().expect("a stopped server");
            thread::sleep(AWAY);
            own.start_again().expect("a server");
            town.wait(&moving);
            let progress = moving.progress();
            assert!(progress.chunks > 3, "{progress:?}");
            println!("round {round}: {progress:?}");
        }
    });
    let traded = traded.into_inner();
    assert!(traded > 0);
    town.audit(traded);
    assert!(town.hosts["c"].owned().is_empty());
    // Rows of ended branches do not stay.
    for (node, host) in &town.hosts {
        host.checkpoint().unwrap_or_else(|error| panic!("{node}: {error}"));
    }
    town.audit(traded);
}

/// Stops the clients, also if the test fails.
struct Stops<'a>(&'a AtomicBool);

impl Drop for Stops<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
