//! The keeper's ring store, on its simulated disk.

use std::{collections::BTreeMap, io, sync::Arc};

use parking_lot::Mutex;
use ringpact::sharding::RingStore;

use super::host::Life;
use crate::disk::Machine;

/// What is on the disk: each write is there or not.
pub type Kept = Arc<Mutex<BTreeMap<String, Vec<u8>>>>;

pub struct RingFiles {
    pub life: Arc<Life>,
    pub kept: Kept,
}

impl RingFiles {
    /// Changes what is kept. The machine may crash before that, or after; and the change may fail, before or after.
    fn change(&self, what: &str, change: impl Fn(&mut BTreeMap<String, Vec<u8>>)) -> io::Result<()> {
        let (world, clock) = (&self.life.world, &self.life.world.clock);
        clock.note(format_args!("{} {what} in its ring store", self.life));
        let off = || io::Error::other("the machine is off");
        clock.sleep((world.plan.disk.sync * 3).mul_f64(clock.draw(fastrand::Rng::f64)));
        let crashes = world.faulty() && clock.once_in(world.plan.crash_at_io);
        let fails = world.faulty() && clock.once_in(world.plan.disk.fails);
        let happens = !(crashes || fails) || clock.draw(fastrand::Rng::bool);
        if !self.life.is_alive() {
            return Err(off());
        }
        if happens {
            change(&mut self.kept.lock());
        }
        if crashes {
            self.life.crash("at its ring store");
            return Err(off());
        }
        if fails {
            self.life.has_failed_io();
            return Err(io::Error::other("the ring store has failed"));
        }
        Ok(())
    }
}

impl RingStore for RingFiles {
    fn read(&self, name: &str) -> io::Result<Option<Vec<u8>>> {
        Ok(self.kept.lock().get(name).cloned())
    }

    fn write(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        self.change(&format!("writes {name}"), |kept| drop(kept.insert(name.to_owned(), bytes.to_vec())))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.change(&format!("removes {name}"), |kept| drop(kept.remove(name)))
    }
}
