//! Participants come and go while the coordinator is open.
//!
//! One that comes has met the coordinator. Its name is found only once `ended_below` is held back for it
//! and the question what it holds is in the table, so no message tells it too much. Then the
//! transactions that name it, and could not be delivered because it was not there, are tried again.
//!
//! One that retires gets no new branches from one moment on. The open transactions with a branch of it
//! are looked for once, after that moment: a branch is enlisted under the lock of its transaction, so
//! either this search sees the branch, or the enlisting thread sees that the participant retires. From
//! then on each transaction that ends, or is handed to an operator, is struck off. When none is left,
//! the participant is dropped. Its number is never given out again.

use std::{
    collections::BTreeSet,
    sync::{Arc, Weak},
};

use super::{CoordinatorCore, Runnable, Runner, Table, TxnKey, TxnOrdinal};
use crate::{
    foreign,
    id::Name,
    txn::{
        engine::{
            members::{JoiningName, MemberStanding, Slot},
            transaction_driver::TransactionDriver,
        },
        operator::status::RetiringStatus,
        recovery::InDoubtQuery,
    },
};

/// What a participant that retires waits for.
#[derive(Default)]
pub(in crate::txn) struct Retirement {
    /// Open transactions with a branch of it that has not ended there.
    waits_for: BTreeSet<TxnKey>,
    /// Whether all of these were looked for.
    is_counted: bool,
}

impl CoordinatorCore {
    /// Adds a participant that has met the coordinator, and the query that asks what it holds. Returns
    /// the query, to be run; `None` if the coordinator is gone.
    pub(in crate::txn) fn joins(
        self: &Arc<Self>,
        name: JoiningName<'_>,
        slot: Slot,
        query: impl FnOnce(usize, &Slot) -> Arc<InDoubtQuery>,
    ) -> Option<Arc<InDoubtQuery>> {
        let mut table = self.table.lock();
        if table.abandoned {
            drop(table);
            foreign::drop_value(slot);
            return None;
        }
        let mut asks = None;
        name.join(slot, |number, slot| {
            slot.held.set(Some(TxnOrdinal::default()));
            let query = query(number, slot);
            table.in_doubt_queries.insert(slot.name.clone(), Arc::clone(&query));
            asks = Some(query);
        });
        self.hold_back_last_resources(&mut table);
        asks
    }

    /// Tries again the transactions that name the participant, because it is there now. O(n) in the
    /// open transactions.
    pub(in crate::txn) fn retry_at(self: &Arc<Self>, participant: &Name) {
        for driver in self.drivers().into_iter().filter(|driver| driver.concerns(participant)) {
            self.retry_now(&driver);
        }
    }

    /// Has the participant get no new branches, and drops it once no open transaction needs it. Returns
    /// its standing, as an error, if it does not take part. O(n) in the open transactions.
    pub(in crate::txn) fn retire(self: &Arc<Self>, name: &Name) -> Result<(), Option<MemberStanding>> {
        let number = self.members.retires(name)?;
        self.table.lock().retiring.insert(number, Retirement::default());
        let concerned: Vec<_> = self.drivers().into_iter().filter(|driver| driver.concerns(name)).collect();
        let mut table = self.table.lock();
        let keys: Vec<TxnKey> = concerned.iter().map(|driver| driver.key()).collect();
        // One that has ended meanwhile was not on the list, so nothing would strike it off.
        let open: Vec<TxnKey> = keys.into_iter().filter(|key| table.is_open(*key)).collect();
        if let Some(retirement) = table.retiring.get_mut(&number) {
            retirement.waits_for.extend(open);
            retirement.is_counted = true;
        }
        drop(table);
        // The same for one that needs it no longer.
        concerned.iter().for_each(|driver| self.may_let_go(driver));
        self.release_if_unneeded(number, Runner::Caller);
        Ok(())
    }

    /// Strikes the transaction off the lists of those participants that it no longer needs. The caller
    /// holds no lock.
    pub(in crate::txn) fn may_let_go(self: &Arc<Self>, driver: &TransactionDriver) {
        let key = driver.key();
        let listed: Vec<usize> = {
            let table = self.table.lock();
            let lists = table.retiring.iter().filter(|(_, retirement)| retirement.waits_for.contains(&key));
            lists.map(|(number, _)| *number).collect()
        };
        for number in listed {
            if !driver.concerns(&self.members[number].name) {
                let mut table = self.table.lock();
                if let Some(retirement) = table.retiring.get_mut(&number) {
                    retirement.waits_for.remove(&key);
                }
                self.have_released(&table, number);
            }
        }
    }

    /// Looks again at the transactions for which participants that retire wait: a participant may have
    /// acknowledged one that is still open because of others.
    pub(super) fn look_at_retiring(self: &Arc<Self>) {
        let awaited: Vec<TxnKey> = {
            let table = self.table.lock();
            table.retiring.values().flat_map(|retirement| retirement.waits_for.iter().copied()).collect()
        };
        for key in awaited {
            let drivers = self.drivers_of(key.ordinal);
            drivers.iter().filter(|driver| driver.key() == key).for_each(|driver| self.may_let_go(driver));
        }
    }

    /// Has a worker drop the participant, if no open transaction needs it any more.
    pub(super) fn have_released(self: &Arc<Self>, table: &Table, number: usize) {
        if table.is_unneeded(number, &self.members[number].name) {
            self.scheduler.enqueue(Arc::new(Releasing { core: Arc::downgrade(self), number }) as Arc<dyn Runnable>);
        }
    }

    /// Drops the participant, if it retires and no open transaction needs it any more.
    fn release_if_unneeded(self: &Arc<Self>, number: usize, by: Runner) {
        let slot = &self.members[number];
        let mut table = self.table.lock();
        if table.abandoned || !table.is_unneeded(number, &slot.name) {
            return;
        }
        table.retiring.remove(&number);
        let is_its = |query: &Arc<InDoubtQuery>| query.number() == number;
        let unanswered = table.in_doubt_queries.get(&slot.name).is_some_and(is_its);
        let query = if unanswered { table.in_doubt_queries.remove(&slot.name) } else { None };
        // It may hold branches that a last resource has to be asked about one day.
        table.left_unreported |= query.is_some();
        self.members.leaves(number);
        self.hold_back_last_resources(&mut table);
        self.wake_settling(&table);
        drop(table);
        let member = slot.take_member();
        let drops = move || foreign::drop_value((query, member));
        match by {
            Runner::Caller => drops(),
            // Where it was called: its drop may wait.
            Runner::Worker => {
                let about = Some((TxnKey::of(TxnOrdinal::default()), number, None));
                slot.lane.run(about, move |_| drops());
            }
        }
    }

    /// Returns the participants that retire, in the order of their names, for the status.
    pub(in crate::txn) fn retiring(&self) -> Vec<RetiringStatus> {
        let table = self.table.lock();
        let of = |(number, retirement): (&usize, &Retirement)| RetiringStatus {
            participant: self.members[*number].name.clone(),
            transactions: retirement.waits_for.len(),
        };
        let mut all: Vec<_> = table.retiring.iter().map(of).collect();
        drop(table);
        all.sort_by(|one, other| one.participant.cmp(&other.participant));
        all
    }
}

impl Table {
    /// Whether the transaction has not ended.
    fn is_open(&self, key: TxnKey) -> bool {
        let mut open = self.transactions.of(key.ordinal).chain(self.parked.of(key.ordinal));
        open.any(|driver| driver.key() == key)
    }

    /// Whether the participant retires, and nothing needs it any more. A report that waits for those of
    /// other participants will be acted upon; a question without an answer may never get one.
    fn is_unneeded(&self, number: usize, name: &Name) -> bool {
        let is_reported =
            self.in_doubt_queries.get(name).is_some_and(|query| query.number() == number && query.is_answered());
        let waits = |retirement: &Retirement| !retirement.is_counted || !retirement.waits_for.is_empty();
        !is_reported && self.retiring.get(&number).is_some_and(|retirement| !waits(retirement))
    }

    /// Notes that a transaction that these participants must remember has entered the table.
    pub(in crate::txn) fn are_needed_by(&mut self, core: &CoordinatorCore, key: TxnKey, participants: &[Name]) {
        for (number, retirement) in &mut self.retiring {
            if participants.contains(&core.members[*number].name) {
                retirement.waits_for.insert(key);
            }
        }
    }

    /// Notes that a transaction has ended. Returns the participants that retire and waited for it.
    pub(super) fn are_left_by(&mut self, key: TxnKey) -> Vec<usize> {
        let waited = self.retiring.iter_mut().filter_map(|(number, retirement)| {
            let waited = retirement.waits_for.remove(&key);
            waited.then_some(*number)
        });
        waited.collect()
    }
}

/// Drops a participant on a worker.
struct Releasing {
    core: Weak<CoordinatorCore>,
    number: usize,
}

impl Runnable for Releasing {
    fn run(self: Arc<Self>, by: Runner) {
        if let Some(core) = self.core.upgrade() {
            core.release_if_unneeded(self.number, by);
        }
    }
}
