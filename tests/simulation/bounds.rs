//! The oracle's other half: what logs may hold of what has ended, and take on their disks.

use std::{
    collections::BTreeSet,
    sync::atomic::{AtomicBool, Ordering},
};

use parking_lot::Mutex;
use ringpact::{
    Epoch, Name, TransactionLog,
    log::{Fact, Record},
};

use super::{
    OVERGROWN,
    host::{Host, Life},
    marks::check_undelivered,
    world::World,
};

/// What a log may hold of each owner in the end: its epoch, and what the next transactions will let it forget.
const MOST_LIVE: usize = 12;

/// Notes of which lives of a coordinator were met: that of the present one, and those of the lives that were met while a slow
/// sync was under way. They end when it is over.
const MOST_NOTES: usize = 8;

/// Maximum number of ended transactions with an end that the coordinator has not written yet.
const MOST_UNWRITTEN: usize = 8;

/// A segment is not smaller than this.
const SEGMENT_BYTES: usize = 1 << 16;

/// Maximum bytes of the file that remembers the log, while it is written again.
const IDENTITY_BYTES: usize = 2 * (2 << 12);

/// What a segment holds besides records, and the most that a record of the shop's takes.
const BLOCKS_BYTES: usize = 3 << 12;
const RECORD_BYTES: usize = 192;

/// Maximum bytes on disk of a log that had this number of records to carry over: two segments, each four times as large as that.
const fn most_bytes(live: usize) -> usize {
    let carries = 4 * (BLOCKS_BYTES + live * RECORD_BYTES);
    IDENTITY_BYTES + 2 * if carries > SEGMENT_BYTES { carries } else { SEGMENT_BYTES }
}

/// What must hold whenever a process is up. It is all looked at in one turn, in which nothing else happens.
pub fn check_now(world: &World) {
    for life in world.hosts.iter().filter_map(Host::life).filter(|life| life.is_up()) {
        if let Some(coordinator) = life.coordinator() {
            let recovered = coordinator.recovered();
            check_undelivered(&life, &coordinator.status(), recovered.committed + recovered.rolled_back);
        }
        let plan = &world.hosts[life.host].plan;
        let owners: Vec<_> = plan.managers.iter().chain(&plan.coordinator).collect();
        let mut live = vec![0; plan.logs];
        for (owner, log) in owners {
            let owner = owner.parse().expect("a valid name");
            // One that is poisoned says nothing any more.
            let Ok(records) = life.logs()[*log].live(&owner) else { continue };
            live[*log] += records.len();
            check_owner(&life, &owner, &records);
        }
        let most_live = life.growth.grown_to(&live);
        for (number, (bytes, live)) in life.disk_bytes().into_iter().zip(most_live).enumerate() {
            if bytes > most_bytes(live) {
                world.is_wrong(format_args!("{life}: log {number} {OVERGROWN}, {bytes} bytes for {live} live records"));
            }
        }
    }
}

/// Once all has ended, and the services have written down what they did.
pub fn check_in_the_end(world: &World) {
    for life in world.hosts.iter().filter_map(Host::life) {
        let logs = life.disk_bytes().into_iter().zip(life.growth.grown_to(&[]));
        for (bytes, live) in logs.filter(|(bytes, live)| *bytes > most_bytes(*live)) {
            world.is_wrong(format_args!("{life}: a log takes {bytes} bytes on disk, and has had {live} live records"));
        }
        let plan = &world.hosts[life.host].plan;
        let owners = plan.managers.iter().chain(&plan.coordinator);
        for (owner, log) in owners {
            // Openings stay, up to a limit; and what was heard goes with the branch that it was heard about.
            let counts = |record: &&Record| !matches!(record.fact, Fact::Opened { .. } | Fact::Heard { .. });
            let live = life.logs()[*log].live(&owner.parse().expect("a valid name"));
            let live = live.map(|live| live.iter().filter(counts).count());
            if !live.as_ref().is_ok_and(|live| *live <= MOST_LIVE) {
                world.is_wrong(format_args!("{life}: {owner} still has {live:?} live records"));
            }
        }
    }
}

/// The log holds only records of transactions that have not ended for all their parties.
fn check_owner(life: &Life, owner: &Name, records: &[Record]) {
    let mut live: BTreeSet<_> = records.iter().filter_map(|record| record.fact.txn()).collect();
    let coordinators = life.world.hosts.iter().filter(|host| host.plan.coordinator.is_some()).count();
    let all = live.len();
    live.retain(|txn| txn.epoch() != Epoch::default());
    if all - live.len() > MOST_NOTES * coordinators {
        life.world.is_wrong(format_args!("{life}: the log of {owner} {OVERGROWN}, with {} notes", all - live.len()));
    }
    let most = if let Some(manager) = life.manager(owner) {
        let status = manager.status();
        status.active + status.prepared + status.settling + status.finished
    } else {
        let Some(coordinator) = life.coordinator().filter(|_| !life.growth.has_refused_an_end()) else { return };
        let open = coordinator.status().transactions;
        live.retain(|txn| open.iter().all(|open| open.txn != **txn));
        MOST_UNWRITTEN
    };
    if live.len() > most {
        life.world.is_wrong(format_args!("{life}: the log of {owner} {OVERGROWN}, with {live:?}"));
    }
}

/// What there is to know of a process's logs to tell what they may have grown to.
#[derive(Default)]
pub struct Growth {
    /// How many records of each log were live at once.
    most_live: Mutex<Vec<usize>>,
    /// One that a log has had no room for: its decision stays until it is opened again.
    refused_an_end: AtomicBool,
}

impl Growth {
    /// A log was opened with this number of live records. They may have ended before anything looks at them, and the segment that
    /// was made for them stays until the next one is needed.
    pub fn begins(&self, log: usize, live: usize) {
        let mut most = self.most_live.lock();
        most.resize(log + 1, 0);
        most[log] = live;
    }

    /// How many records of each log were live at once, and of these now.
    fn grown_to(&self, live: &[usize]) -> Vec<usize> {
        let mut most = self.most_live.lock();
        most.iter_mut().zip(live).for_each(|(most, live)| *most = (*most).max(*live));
        most.clone()
    }

    pub fn refuses_an_end(&self) {
        self.refused_an_end.store(true, Ordering::Relaxed);
    }

    fn has_refused_an_end(&self) -> bool {
        self.refused_an_end.load(Ordering::Relaxed)
    }
}
