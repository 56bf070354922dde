//! The door to the log, which closes when the coordinator goes.

use std::{
    array,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
};

use parking_lot::{RwLock, RwLockReadGuard};

/// So many threads go through without meeting at one place in memory.
const DOORS: usize = 16;

/// What is left of a coordinator's transactions in the hands of clients must not write beside the coordinator that has
/// been opened since: the next life decides by what it finds in the log.
///
/// To append is to hold a door open. Every thread has its own, as far as there are enough, because one for all would be
/// what all of them wait for: two appends a transaction, each of which took that place in memory from the other processor
/// twice. Whoever closes has to close all of them.
#[derive(Debug)]
pub(super) struct Appending {
    is_over: AtomicBool,
    doors: [Door; DOORS],
}

/// Alone in its place in memory; processors fetch those in pairs.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Door(RwLock<()>);

thread_local! {
    static OWN_DOOR: usize = {
        static THREADS: AtomicUsize = AtomicUsize::new(0);
        THREADS.fetch_add(1, Ordering::Relaxed) % DOORS
    };
}

impl Appending {
    pub(super) fn new() -> Self {
        Self { is_over: AtomicBool::new(false), doors: array::from_fn(|_| Door::default()) }
    }

    /// Nothing is over before what is given here is dropped. `None`: it is over. Waits for nobody but who closes.
    pub(super) fn enter(&self) -> Option<RwLockReadGuard<'_, ()>> {
        // A thread that is ending, and has put its own away already, goes through the first.
        let own = OWN_DOOR.try_with(|own| *own).unwrap_or_default();
        let not_meanwhile = self.doors[own].0.read();
        (!self.is_over()).then_some(not_meanwhile)
    }

    pub(super) fn is_over(&self) -> bool {
        self.is_over.load(Ordering::SeqCst)
    }

    /// Nobody is inside once this returns, nor ever will be.
    pub(super) fn close(&self) {
        self.is_over.store(true, Ordering::SeqCst);
        for door in &self.doors {
            // Whoever was in before has left once this is had, and whoever comes after it finds that it is over.
            drop(door.0.write());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::mpsc, thread};

    use super::*;

    #[test]
    fn it_is_not_over_while_somebody_on_another_thread_is_inside() {
        let appending = Appending::new();
        let (inside, is_inside) = mpsc::channel();
        let (leave, may_leave) = mpsc::channel::<()>();
        thread::scope(|scope| {
            // More threads than there are doors, all of them inside.
            for _ in 0..2 * DOORS {
                let (appending, inside) = (&appending, inside.clone());
                scope.spawn(move || {
                    let held = appending.enter();
                    inside.send(held.is_some()).expect("somebody listens");
                });
            }
            (0..2 * DOORS).for_each(|_| assert!(is_inside.recv().expect("all of them say so")));
            let (appending, held) = (&appending, inside);
            scope.spawn(move || {
                let guard = appending.enter();
                held.send(guard.is_some()).expect("somebody listens");
                may_leave.recv().expect("it is told to");
            });
            assert!(is_inside.recv().expect("it says so"));
            let closer = scope.spawn(|| appending.close());
            while !appending.is_over() {
                thread::yield_now();
            }
            assert!(!closer.is_finished(), "somebody is inside");
            leave.send(()).expect("somebody listens");
            closer.join().expect("it closes");
            assert!(appending.enter().is_none());
        });
    }
}
