//! What a ring takes from the allocator: nothing for a look-up, and at most 16 bytes for each
//! token.
//!
//! The allocator below serves the whole test binary. It counts for each thread separately, so tests
//! on other threads do not disturb the counts.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
};

use ringpact::ring::{HashRing, Node, SharedRing};

struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<usize> = const { Cell::new(0) };
    static LIVE: Cell<isize> = const { Cell::new(0) };
}

fn count(allocations: usize, bytes: isize) {
    ALLOCATIONS.with(|counter| counter.set(counter.get() + allocations));
    LIVE.with(|counter| counter.set(counter.get() + bytes));
}

// SAFETY: passes each call to the system's allocator, and counts without allocating.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(1, layout.size() as isize);
        // SAFETY: as the caller promised.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count(0, -(layout.size() as isize));
        // SAFETY: as the caller promised.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

fn ring_of(nodes: usize) -> HashRing {
    HashRing::new((0..nodes).map(|n| Node::new(format!("node-{n}")).with_zone(format!("zone-{}", n % 5)))).unwrap()
}

fn allocations(work: impl FnOnce()) -> usize {
    let before = ALLOCATIONS.get();
    work();
    ALLOCATIONS.get() - before
}

#[test]
fn look_ups_and_replicas_allocate_nothing() {
    let ring = ring_of(1_000);
    let shared = SharedRing::new(ring.clone());
    let mut reader = shared.reader();
    let (index, across) = (ring.replica_index(3), ring.replica_index_across_zones(3));
    let mut found = 0;
    let made = allocations(|| {
        for key in 0..20_000_u64 {
            found += usize::from(ring.owner(key).weight() == 1);
            found += ring.replicas(key).take(16).count();
            found += ring.replicas_across_zones(key).take(16).count();
            found += usize::from(reader.current().owner(key).weight() == 1);
            found += index.replicas(key).count() + across.replicas(key).count();
        }
    });
    assert_eq!((made, found), (0, 20_000 * 40));
}

#[test]
fn a_batch_allocates_nothing_once_there_is_room() {
    let ring = ring_of(100);
    let keys: Vec<u64> = (0..1_000).collect();
    let mut owners = Vec::with_capacity(keys.len());
    assert_eq!(allocations(|| ring.owners(&keys, &mut owners)), 0);
    assert_eq!(owners.len(), keys.len());
}

#[test]
fn all_replicas_of_a_large_ring_take_one_allocation() {
    let ring = ring_of(1_000);
    assert_eq!(allocations(|| assert_eq!(ring.replicas(7_u64).count(), 1_000)), 1);
}

/// Counts everything: tokens, index, nodes, ids and zones.
#[test]
fn a_token_costs_at_most_sixteen_bytes() {
    for nodes in [100, 1_000, 4_000] {
        let before = LIVE.get();
        let ring = ring_of(nodes);
        let bytes = (LIVE.get() - before) as f64 / ring.token_count() as f64;
        assert!(bytes <= 16.0, "{bytes} bytes a token at {nodes} nodes");
    }
}

/// However many changes were made, a ring takes what a fresh ring of the same members takes, and
/// the slack between two rebuilds.
#[test]
fn a_ring_that_changed_a_lot_stays_small() {
    let before = LIVE.get();
    let mut ring = ring_of(200);
    for round in 0..600 {
        ring.add(format!("later-{round}")).unwrap();
        if round >= 100 {
            ring.remove(format!("later-{}", round - 100)).unwrap();
        }
    }
    let bytes = (LIVE.get() - before) as f64 / ring.token_count() as f64;
    assert!(bytes <= 24.0, "{bytes} bytes a token");
}
