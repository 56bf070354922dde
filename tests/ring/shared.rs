//! Readers of a shared ring see whole versions, none older than what they saw before. No update is
//! lost.

use std::{
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
};

use ringpact::ring::{HashRing, KeyHasher, Position, RingEpoch, RingError, SharedRing, Xxh3};

fn three() -> HashRing {
    HashRing::builder().virtual_nodes(20).nodes(["a", "b", "c"]).build().unwrap()
}

#[test]
fn each_version_has_the_next_epoch() {
    let shared = SharedRing::new(three());
    assert_eq!(shared.load().epoch(), RingEpoch::FIRST);
    let change = shared.update(|ring| ring.add("d")).unwrap();
    assert_eq!((change.before.epoch().as_u64(), change.after.epoch().as_u64()), (1, 2));
    let change = shared.publish(three()).unwrap();
    assert_eq!(change.after.epoch().to_string(), "3");
    assert_eq!(SharedRing::starting_at(three(), RingEpoch::new(70)).load().epoch(), RingEpoch::new(70));
}

/// Otherwise the number would start again at 0, and each later version would look like an older
/// one.
#[test]
fn the_last_epoch_has_none_after_it() {
    let last = RingEpoch::new(u64::MAX);
    let shared = SharedRing::starting_at(three(), last);
    assert_eq!(shared.update(|ring| ring.add("d")).unwrap_err(), RingError::LastEpoch { epoch: last });
    assert_eq!(shared.publish(three()).unwrap_err(), RingError::LastEpoch { epoch: last });
    assert_eq!((shared.load().epoch(), shared.load().nodes().len()), (last, 3));
}

#[test]
fn the_old_and_the_new_version_are_held_together() {
    let shared = SharedRing::new(three());
    let change = shared.update(|ring| ring.remove("b").map(drop)).unwrap();
    assert_eq!(change.before.nodes().len(), 3);
    assert_eq!(change.after.nodes().len(), 2);
    assert_eq!(change.movement(), change.before.movement(&change.after).unwrap());
    assert!(!change.movement().is_empty());
}

#[test]
fn a_change_that_fails_or_panics_makes_no_version() {
    let shared = SharedRing::new(three());
    assert!(matches!(shared.update(|ring| ring.add("a")), Err(RingError::DuplicateNode { .. })));
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        shared.update::<RingError>(|ring| {
            ring.add("d")?;
            panic!("half way");
        })
    }));
    assert!(panicked.is_err());
    assert_eq!(shared.load().epoch(), RingEpoch::FIRST);
    assert_eq!(shared.load().ring(), &three());
    assert!(shared.update(|ring| ring.add("d")).is_ok(), "the next writer isn't locked out");
}

/// On one thread the inner change would wait for the outer one, which waits for the inner one.
#[test]
fn a_change_inside_an_update_is_refused_and_the_outer_one_goes_on() {
    let (shared, other) = (SharedRing::new(three()), SharedRing::new(three()));
    let change = shared
        .update(|ring| {
            let refused = shared.update(|ring| ring.add("lost")).unwrap_err();
            assert_eq!(refused, RingError::UpdateInUpdate);
            assert_eq!(shared.publish(three()).unwrap_err(), RingError::UpdateInUpdate);
            assert!(refused.to_string().contains("after `update` has returned"), "{refused}");
            other.update(|ring| ring.add("e"))?;
            assert_eq!(shared.load().nodes().len(), 3, "it can be read");
            ring.add("d")
        })
        .unwrap();
    assert_eq!(change.after.epoch(), RingEpoch::new(2));
    assert_eq!(shared.load().nodes().len(), 4);
    assert!(shared.update(|ring| ring.add("e")).is_ok());
}

/// A hasher whose clone, drop and hash try to change the ring that it belongs to.
struct Meddler(Weak<SharedRing<Meddler>>, Arc<AtomicU64>);

impl Meddler {
    fn meddle(&self) {
        if let Some(shared) = self.0.upgrade() {
            let refused = shared.update(|ring| ring.add("meddled"));
            self.1.fetch_add(u64::from(matches!(refused, Err(RingError::UpdateInUpdate))), Ordering::Relaxed);
        }
    }
}

impl Clone for Meddler {
    fn clone(&self) -> Self {
        self.meddle();
        Self(self.0.clone(), self.1.clone())
    }
}

impl Drop for Meddler {
    fn drop(&mut self) {
        self.meddle();
    }
}

impl KeyHasher for Meddler {
    fn hash_key(&self, key: &[u8]) -> Position {
        self.meddle();
        Xxh3::default().hash_key(key)
    }
}

#[test]
fn a_hasher_that_changes_its_own_ring_is_refused_wherever_it_runs() {
    let refused = Arc::new(AtomicU64::new(0));
    let shared = Arc::new_cyclic(|weak| {
        let hasher = Meddler(weak.clone(), Arc::clone(&refused));
        SharedRing::new(HashRing::builder().virtual_nodes(1).hasher(hasher).node("a").build().unwrap())
    });
    let change = shared.update(|ring| ring.add("b")).unwrap();
    assert_eq!(refused.swap(0, Ordering::Relaxed), 2, "cloned once, one token hashed");
    assert!(shared.update(|ring| ring.add("b")).is_err());
    assert_eq!(refused.load(Ordering::Relaxed), 2, "cloned once, and dropped with the ring of the failed update");
    assert_eq!(shared.load().nodes().len(), 2);
    // In this order, because otherwise the old version's hasher could change the ring.
    drop(shared);
    drop(change);
}

#[test]
fn a_reader_outlives_the_shared_ring_and_clones() {
    let shared = SharedRing::new(three());
    let mut reader = shared.reader();
    shared.update(|ring| ring.add("d")).unwrap();
    drop(shared);
    assert_eq!(reader.clone().current().epoch(), RingEpoch::new(2));
    assert_eq!(reader.current().nodes().len(), 4);
}

/// Two writers and two readers. The members of every version follow from its epoch, so the test
/// sees at once if a version is torn, lost or out of order.
#[test]
fn readers_and_writers_at_once() {
    // Miri interprets the threads in turns: there, a few updates are enough to meet every
    // interleaving of interest.
    const UPDATES: u64 = if cfg!(miri) { 3 } else { 150 };
    let shared = Arc::new(SharedRing::new(HashRing::builder().virtual_nodes(3).node("1").build().unwrap()));
    let (published, done) = (Arc::new(AtomicU64::new(1)), Arc::new(AtomicBool::new(false)));

    let readers: Vec<_> = (0..2)
        .map(|_| {
            let (mut reader, published, done) = (shared.reader(), Arc::clone(&published), Arc::clone(&done));
            let shared = Arc::clone(&shared);
            thread::spawn(move || {
                let mut last = RingEpoch::new(0);
                let mut key = 0_u64;
                while !done.load(Ordering::Acquire) {
                    let at_least = published.load(Ordering::Acquire);
                    let version = reader.current();
                    assert!(version.epoch() >= last && version.epoch().as_u64() >= at_least, "out of date");
                    assert_eq!(version.nodes().len() as u64, version.epoch().as_u64());
                    last = version.epoch();
                    let owner = version.owner(key);
                    assert!(version.nodes().contains(owner));
                    key += 1;
                    assert!(shared.load().epoch() >= last);
                }
                key
            })
        })
        .collect();
    let writers: Vec<_> = (0..2)
        .map(|writer| {
            let (shared, published) = (Arc::clone(&shared), Arc::clone(&published));
            thread::spawn(move || {
                for update in 0..UPDATES {
                    let change = shared.update(|ring| ring.add(format!("{writer}-{update}"))).unwrap();
                    published.fetch_max(change.after.epoch().as_u64(), Ordering::Release);
                }
            })
        })
        .collect();
    writers.into_iter().for_each(|writer| writer.join().unwrap());
    done.store(true, Ordering::Release);
    for reader in readers {
        assert!(reader.join().unwrap() > 0);
    }
    assert_eq!(shared.load().nodes().len() as u64, 1 + 2 * UPDATES);
}
