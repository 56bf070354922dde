//! What the ring costs: look-ups compared with the bare hash, changes compared with a rebuild, and
//! the movement between two rings.

use std::hint::black_box;

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use ringpact::ring::{HashRing, KeyHasher, Node, SharedRing, Xxh3};

const SIZES: [usize; 4] = [10, 100, 1_000, 10_000];

fn ring_of(nodes: usize) -> HashRing {
    let nodes = (0..nodes).map(|n| Node::new(format!("node-{n}")).with_zone(format!("zone-{}", n % 3)));
    HashRing::new(nodes).expect("the ids are distinct and valid")
}

/// Returns keys of 16 bytes: enough that the branch predictor can't learn them.
fn keys() -> Vec<[u8; 16]> {
    let mut random = fastrand::Rng::with_seed(7);
    (0..4_096).map(|_| random.u128(..).to_le_bytes()).collect()
}

/// Each iteration looks up all keys, so that look-ups overlap as they do in a program that makes
/// many. Times are for 4,096 keys.
fn look_ups(criterion: &mut Criterion) {
    let keys = keys();
    let mut group = criterion.benchmark_group("lookup");
    group.throughput(Throughput::Elements(keys.len() as u64));
    group.bench_function("bare hash", |bencher| {
        let hasher = Xxh3::default();
        bencher.iter(|| keys.iter().for_each(|key| _ = black_box(hasher.hash_key(key))));
    });
    for nodes in SIZES {
        let ring = ring_of(nodes);
        group.bench_function(BenchmarkId::new("owner", nodes), |bencher| {
            bencher.iter(|| keys.iter().for_each(|key| _ = black_box(ring.owner(key))));
        });
        group.bench_function(BenchmarkId::new("owners", nodes), |bencher| {
            let mut owners = Vec::with_capacity(keys.len());
            bencher.iter(|| {
                owners.clear();
                ring.owners(&keys, &mut owners);
                black_box(&owners);
            });
        });
        group.bench_function(BenchmarkId::new("owner, each key after the one before", nodes), |bencher| {
            bencher.iter(|| {
                keys.iter().fold(0_u8, |last, key| {
                    let mut key = *key;
                    key[0] ^= last;
                    ring.owner(key).id().as_str().len() as u8
                })
            });
        });
        group.bench_function(BenchmarkId::new("3 replicas", nodes), |bencher| {
            bencher
                .iter(|| keys.iter().for_each(|key| ring.replicas(key).take(3).for_each(|node| _ = black_box(node))));
        });
        group.bench_function(BenchmarkId::new("3 replicas across zones", nodes), |bencher| {
            bencher.iter(|| {
                let across = |key| ring.replicas_across_zones(key).take(3);
                keys.iter().for_each(|key| across(key).for_each(|node| _ = black_box(node)));
            });
        });
        group.bench_function(BenchmarkId::new("owner in a shared ring", nodes), |bencher| {
            let mut reader = SharedRing::new(ring.clone()).reader();
            bencher.iter(|| keys.iter().for_each(|key| _ = black_box(reader.current().owner(key))));
        });
    }
}

fn changes(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("change");
    group.sample_size(20);
    for nodes in SIZES {
        let ring = ring_of(nodes);
        let newcomer = Node::new("node-new");
        let mut after = ring.clone();
        after.add(newcomer.clone()).expect("the id is new");
        group.bench_function(BenchmarkId::new("build", nodes), |bencher| bencher.iter(|| ring_of(nodes)));
        group.bench_function(BenchmarkId::new("clone", nodes), |bencher| bencher.iter(|| ring.clone()));
        // To add again, the node has to be removed again. So both are timed together, on one ring.
        group.bench_function(BenchmarkId::new("add and remove", nodes), |bencher| {
            let mut ring = ring.clone();
            bencher.iter(|| {
                ring.add(newcomer.clone()).expect("the id is new");
                ring.remove("node-new").expect("it was added just now")
            });
        });
        group.bench_function(BenchmarkId::new("update of a shared ring", nodes), |bencher| {
            let fresh = || SharedRing::new(ring.clone());
            bencher.iter_batched(fresh, |shared| shared.update(|ring| ring.add("node-new")), BatchSize::LargeInput);
        });
        group.bench_function(BenchmarkId::new("plan a join", nodes), |bencher| {
            bencher.iter(|| ring.plan_join(&newcomer).map(|movement| movement.ranges().len()));
        });
        group.bench_function(BenchmarkId::new("movement", nodes), |bencher| {
            bencher.iter(|| ring.movement(&after).map(|movement| movement.ranges().len()));
        });
        group.bench_function(BenchmarkId::new("movement of 3 replicas", nodes), |bencher| {
            bencher.iter(|| ring.replica_movement(&after, 3).map(|movement| movement.len()));
        });
    }
}

criterion_group!(benches, look_ups, changes);
criterion_main!(benches);
