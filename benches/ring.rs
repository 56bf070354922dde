//! What the ring costs: look-ups beside the bare hash, changes beside a rebuild, and the movement between two rings.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use ringpact::ring::{HashRing, KeyHasher, Node, Xxh3};

const SIZES: [usize; 3] = [10, 100, 1_000];

fn ring_of(nodes: usize) -> HashRing {
    HashRing::new((0..nodes).map(|n| Node::new(format!("node-{n}")))).expect("the ids are distinct and valid")
}

/// Enough keys of 16 bytes that the branch predictor can't learn them.
fn keys() -> Vec<[u8; 16]> {
    let mut random = fastrand::Rng::with_seed(7);
    (0..4_096).map(|_| random.u128(..).to_le_bytes()).collect()
}

fn look_ups(criterion: &mut Criterion) {
    let keys = keys();
    let mut next_key = keys.iter().cycle();
    let mut group = criterion.benchmark_group("lookup");
    group.bench_function("bare hash", |bencher| {
        bencher.iter(|| next_key.next().map(|key| Xxh3::default().hash_key(black_box(key))));
    });
    for nodes in SIZES {
        let ring = ring_of(nodes);
        group.bench_function(BenchmarkId::new("owner", nodes), |bencher| {
            bencher.iter(|| next_key.next().map(|key| ring.owner(black_box(key))));
        });
        group.bench_function(BenchmarkId::new("3 replicas", nodes), |bencher| {
            bencher.iter(|| {
                next_key.next().map(|key| ring.replicas(black_box(key)).take(3).for_each(|n| _ = black_box(n)))
            });
        });
    }
    group.bench_function("all replicas/1000", |bencher| {
        let ring = ring_of(1_000);
        bencher.iter(|| next_key.next().map(|key| ring.replicas(black_box(key)).for_each(|n| _ = black_box(n))));
    });
}

fn changes(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("change");
    group.sample_size(20);
    for nodes in SIZES {
        let ring = ring_of(nodes);
        group.bench_function(BenchmarkId::new("build", nodes), |bencher| bencher.iter(|| ring_of(nodes)));
        group.bench_function(BenchmarkId::new("clone", nodes), |bencher| bencher.iter(|| ring.clone()));
        // The one can't be done again without the other, so the ring is kept and both are timed together.
        group.bench_function(BenchmarkId::new("add and remove", nodes), |bencher| {
            let mut ring = ring.clone();
            bencher.iter(|| {
                ring.add("node-new").expect("the id is new");
                ring.remove("node-new").expect("it was added just now")
            });
        });
        group.bench_function(BenchmarkId::new("movement", nodes), |bencher| {
            let mut after = ring.clone();
            after.add("node-new").expect("the id is new");
            bencher.iter(|| ring.movement(&after).map(|movement| movement.ranges().len()));
        });
    }
}

criterion_group!(benches, look_ups, changes);
criterion_main!(benches);
