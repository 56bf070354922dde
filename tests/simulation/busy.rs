//! Which branches a process's resource managers are busy with. Production would have a thread wait for a branch's mutex, of which the
//! scheduler knows nothing; so threads wait here.

use std::collections::BTreeMap;

use parking_lot::Mutex;
use ringpact::{BranchId, platform::Simulator};

use super::host::Life;

/// Branches that a resource manager is busy with.
#[derive(Default)]
pub struct Busy(Mutex<Branches>);

#[derive(Default)]
struct Branches {
    /// With how many each.
    branches: BTreeMap<BranchId, usize>,
    /// With all of them at once.
    all: bool,
}

impl Busy {
    /// The branches, if there are any; none by name if it is all of them.
    pub fn with_what(&self) -> Option<BTreeMap<BranchId, usize>> {
        let busy = self.0.lock();
        (busy.all || !busy.branches.is_empty()).then(|| busy.branches.clone())
    }
}

impl Life {
    /// Has a client's work done under a branch, alone: production would have it wait on the branch's mutex.
    pub fn with_branch<T>(&self, branch: &BranchId, serve: impl FnOnce() -> T) -> T {
        self.enter(|busy| {
            let enters = !busy.all && !busy.branches.contains_key(branch);
            if enters {
                busy.branches.insert(branch.clone(), 1);
            }
            enters
        });
        let served = serve();
        self.leave(branch);
        served
    }

    fn leave(&self, branch: &BranchId) {
        let mut busy = self.busy.0.lock();
        if let Some(count) = busy.branches.get_mut(branch) {
            *count -= 1;
            if *count == 0 {
                busy.branches.remove(branch);
            }
        }
        drop(busy);
        self.world.clock.notify_all(self.busy_place());
    }

    /// The same for a message: if another call is at the branch, the message is answered at once, and does not wait.
    pub fn tell_branch<T>(&self, branch: &BranchId, serve: impl FnOnce() -> T) -> T {
        self.enter(|busy| {
            if !busy.all {
                *busy.branches.entry(branch.clone()).or_default() += 1;
            }
            !busy.all
        });
        let served = serve();
        self.leave(branch);
        served
    }

    /// Has `serve` do something about all branches.
    pub fn with_all<T>(&self, serve: impl FnOnce() -> T) -> T {
        self.enter(|busy| busy.branches.is_empty() && !std::mem::replace(&mut busy.all, true));
        let served = serve();
        self.busy.0.lock().all = false;
        self.world.clock.notify_all(self.busy_place());
        served
    }

    fn enter(&self, mut enter: impl FnMut(&mut Branches) -> bool) {
        loop {
            if enter(&mut self.busy.0.lock()) {
                return;
            }
            self.world.clock.wait(self.busy_place(), None);
        }
    }

    fn busy_place(&self) -> usize {
        std::ptr::from_ref(&self.busy).addr()
    }
}
