//! [`Sharded`]: a shard and its gate, as a service. The resource manager of a
//! [`ShardHost`](super::ShardHost) owns it.

use std::{slice, time::Instant};

use parking_lot::{Mutex, MutexGuard};
use thiserror::Error;

use crate::{
    id::{BranchId, Name, TxnId, TxnOrdinal},
    log::LogId,
    participant::{Effort, Service, ServiceError},
    platform::{Condvar, Platform, Woken},
    ring::{Position, PositionRange, RangeSet},
    sharding::{
        Digest, GateImage, GateNote, GateRefusal, Keyed, Shard, Tenure,
        gate::Gate,
        records,
        turns::Turns,
        work::{Arrival, ClientWork, Content, Departure, ShardWork},
    },
};

/// A shard behind its gate. Clients' work passes the gate, and hand-overs move it.
pub(super) struct Sharded<S> {
    name: Name,
    log: LogId,
    shard: S,
    gate: Mutex<Gate>,
    /// Notified when the gate lets more in than before, or a hand-over can go on.
    changed: Condvar,
    /// What has failed at the opening, and must be done again before all else at its positions.
    turns: Turns,
    platform: Platform,
}

/// Why a shard refused a piece of work.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ShardRefusal<R> {
    /// The service refused it.
    #[error(transparent)]
    Service(R),
    /// The gate did not let it in. The branch is as it was.
    #[error(transparent)]
    Gate(GateRefusal),
    /// Records could not be taken.
    #[error("the shard could not take the records")]
    Records(#[source] ServiceError),
}

/// The records that arrived are not those that were sent.
#[derive(Debug, Error)]
#[error(
    "the shard was sent {sent:?} and has {found:?} after its import; `Shard::import` must keep each record, and \
     `Shard::export` return each"
)]
struct WrongDigest {
    sent: Digest,
    found: Digest,
}

/// The data is that of another shard.
#[derive(Debug, Error)]
#[error("the data is that of shard {of}, and this is shard {name}; open each shard with its own data")]
struct ForeignImage {
    of: Name,
    name: Name,
}

/// The log is not the one that continues the data.
#[derive(Debug, Error)]
#[error(
    "the data belongs to log {of}, which has what was committed since the last checkpoint, and this is log {log}; open \
     the shard on its own log, or, if that is lost for good, with `ShardHost::open_after_loss`"
)]
struct ForeignLog {
    of: LogId,
    log: LogId,
}

impl<S: Shard> Sharded<S> {
    /// Reads the shard's image, which must be of the shard of this name, and of this log unless that is lost.
    pub(super) fn new(
        name: Name,
        log: LogId,
        is_log_lost: bool,
        shard: S,
        platform: Platform,
    ) -> Result<Self, ServiceError> {
        let image = shard.load()?;
        match image.shard() {
            Some(of) if *of != name => return Err(ForeignImage { of: of.clone(), name }.into()),
            _ => {}
        }
        if !is_log_lost && let Some(of) = image.log().filter(|of| *of != log) {
            return Err(ForeignLog { of, log }.into());
        }
        let gate = Gate::new(image);
        Ok(Self {
            name,
            log,
            shard,
            gate: Mutex::new(gate),
            changed: platform.condvar(),
            turns: Turns::default(),
            platform,
        })
    }

    pub(super) const fn shard(&self) -> &S {
        &self.shard
    }

    pub(super) fn gate(&self) -> MutexGuard<'_, Gate> {
        self.gate.lock()
    }

    /// Blocks until the gate has changed, at most until the given time. Returns whether there is
    /// time left.
    pub(super) fn wait(&self, gate: &mut MutexGuard<'_, Gate>, until: Instant) -> bool {
        self.changed.wait_until(gate, until) == Woken::Notified || self.platform.now() < until
    }

    pub(super) fn now(&self) -> Instant {
        self.platform.now()
    }

    /// Changes the gate, and wakes what waits for that.
    fn change<R>(&self, change: impl FnOnce(&mut Gate) -> R) -> R {
        let result = change(&mut self.gate.lock());
        self.changed.notify_all();
        result
    }

    /// Lets work in again that a hand-over has stopped.
    fn thaw(&self, txn: &TxnId) {
        self.change(|gate| gate.thaw(txn));
    }

    /// Returns the records of the ranges as they travel.
    pub(super) fn collect(&self, ranges: &RangeSet) -> Result<(Vec<u8>, Digest), ServiceError> {
        records::collect(ranges, |range, into| self.shard.export(range, into))
    }

    /// Returns the first of these ranges whose records fit into the budget, and what they have.
    pub(super) fn measure(&self, ranges: &RangeSet, budget: u64) -> Result<(RangeSet, Digest), ServiceError> {
        records::measure(ranges, budget, |range, into| self.shard.export(range, into))
    }

    /// Lets a client's work in, if the gate allows it, and has the service try it.
    fn try_client(&self, branch: &BranchId, client: &ClientWork<S::Work>) -> Result<(), ShardRefusal<S::Refusal>> {
        let (txn, position) = (branch.txn(), client.work.position());
        let effort = self.shard.effort(&client.work);
        let is_new = self.gate.lock().enter(position, client.stamp, txn, effort).map_err(ShardRefusal::Gate)?;
        // If this panics, the hold stays: the resource manager cancels the work later.
        let tried = self.shard.try_reserve(branch, &client.work);
        match (tried, effort) {
            (Ok(()), Effort::Update) => Ok(()),
            // Nothing held the records in place meanwhile. Were they still here at the end?
            (Ok(()), Effort::ReadOnly) => self.still_here(position, client.stamp, txn).map_err(ShardRefusal::Gate),
            (Err(refusal), Effort::Update) => {
                if is_new {
                    self.drop_holds([position], txn);
                }
                Err(ShardRefusal::Service(refusal))
            }
            // The service may not have found what had left.
            (Err(refusal), Effort::ReadOnly) => match self.still_here(position, client.stamp, txn) {
                Ok(()) => Err(ShardRefusal::Service(refusal)),
                Err(left) => Err(ShardRefusal::Gate(left)),
            },
        }
    }

    /// Whether a read at this position that began under the stamp is valid: the records were here
    /// all the time.
    pub(super) fn still_here(&self, position: Position, stamp: Tenure, txn: &TxnId) -> Result<(), GateRefusal> {
        self.gate.lock().admit_under(position, stamp, txn, Effort::ReadOnly)
    }

    fn drop_holds(&self, positions: impl IntoIterator<Item = Position>, txn: &TxnId) {
        let mut gate = self.gate.lock();
        let mut is_awaited = false;
        for position in positions {
            is_awaited |= gate.drop_hold(position, txn);
        }
        drop(gate);
        if is_awaited {
            self.changed.notify_all();
        }
    }

    /// Calls `then` with the clients' work of the branch that is still about this shard's records. If
    /// there is none, it does not call it.
    fn with_current(
        &self,
        works: &[ShardWork<S::Work>],
        is_current: impl Fn(&ClientWork<S::Work>) -> bool,
        then: impl FnOnce(&[S::Work]) -> Result<(), ServiceError>,
    ) -> Result<(), ServiceError> {
        // Most branches have one piece of work, which need not be copied.
        if let [ShardWork::Client(client)] = works {
            return if is_current(client) { then(slice::from_ref(&client.work)) } else { Ok(()) };
        }
        let current: Vec<_> =
            clients(works).filter(|client| is_current(client)).map(|client| client.work.clone()).collect();
        if current.is_empty() { Ok(()) } else { then(&current) }
    }

    /// Imports what arrives, and compares it with what was sent.
    fn import(&self, ranges: &RangeSet, bytes: &[u8], sent: &Digest) -> Result<(), ServiceError> {
        for (range, records) in records::by_range(ranges, bytes)? {
            self.shard.import(range, records)?;
        }
        let found = records::digest(ranges, |range, into| self.shard.export(range, into))?;
        if found == *sent { Ok(()) } else { Err(WrongDigest { sent: *sent, found }.into()) }
    }

    fn discard(&self, ranges: &RangeSet) -> Result<(), ServiceError> {
        ranges.iter().try_for_each(|range| self.shard.discard(range))
    }

    /// Makes room, and puts the records there.
    fn stage(&self, txn: &TxnId, arrival: &Arrival) -> Result<(), ShardRefusal<S::Refusal>> {
        if self.gate.lock().is_staged(txn, &arrival.ranges) {
            return Ok(());
        }
        let Arrival { ranges, tenure, content } = arrival;
        let Content::Sent { records, digest } = content else {
            return self.change(|gate| gate.stage(txn, ranges, *tenure, true)).map_err(ShardRefusal::Gate);
        };
        self.change(|gate| gate.stage(txn, ranges, *tenure, false)).map_err(ShardRefusal::Gate)?;
        // If this panics, the range stays held: the resource manager cancels the work later, or, after
        // a restart, has it restored again.
        let imported = self
            .shard
            .note(&GateNote::Staged { ranges: ranges.clone() })
            .and_then(|()| self.import(ranges, records, digest));
        if let Err(error) = imported {
            // No other call comes for work that was refused. So if the records can't be discarded
            // either, they stay behind.
            if self.unstage(txn, arrival).is_err() {
                self.change(|gate| gate.abandon(txn, ranges));
            }
            return Err(ShardRefusal::Records(error));
        }
        self.gate.lock().staged(txn);
        Ok(())
    }

    /// Takes an arrival back.
    fn unstage(&self, txn: &TxnId, arrival: &Arrival) -> Result<(), ServiceError> {
        if !self.gate.lock().is_arriving(txn, &arrival.ranges) {
            return Ok(());
        }
        if matches!(arrival.content, Content::Sent { .. }) {
            self.discard(&arrival.ranges)?;
            self.shard.note(&GateNote::Dropped { ranges: arrival.ranges.clone() })?;
        }
        self.change(|gate| gate.unstage(txn, &arrival.ranges));
        Ok(())
    }

    /// Owns what has arrived.
    fn open(&self, txn: &TxnId, arrival: &Arrival) -> Result<(), ServiceError> {
        let Arrival { ranges, tenure, .. } = arrival;
        let (is_staged, is_past) = {
            let gate = self.gate.lock();
            (gate.is_staged(txn, ranges), gate.is_opened(ranges, *tenure))
        };
        if is_past {
            // A repetition after a restart. What the shard has is newer.
            return Ok(());
        }
        if !is_staged {
            self.stage(txn, arrival)?;
        }
        self.shard.note(&GateNote::Owned { ranges: ranges.clone(), tenure: *tenure })?;
        self.change(|gate| gate.open(txn, ranges, *tenure));
        Ok(())
    }

    /// Gives away what is sealed.
    fn release(&self, txn: &TxnId, departure: &Departure) -> Result<(), ServiceError> {
        let Departure { ranges, tenure, to } = departure;
        let is_past = self.change(|gate| {
            let is_past = gate.is_released(ranges, *tenure);
            if is_past {
                gate.thaw(txn);
            } else {
                // After a restart nothing has sealed it yet, and the discard may fail.
                gate.restore_sealed(txn, ranges);
            }
            is_past
        });
        if is_past {
            return Ok(());
        }
        self.discard(ranges)?;
        self.shard.note(&GateNote::Released { ranges: ranges.clone(), tenure: *tenure, to: to.clone() })?;
        self.change(|gate| gate.release(txn, ranges, *tenure, to));
        Ok(())
    }
}

fn clients<W>(works: &[ShardWork<W>]) -> impl Iterator<Item = &ClientWork<W>> {
    works.iter().filter_map(|work| match work {
        ShardWork::Client(client) => Some(client),
        ShardWork::Release(_) | ShardWork::Take(_) => None,
    })
}

/// The positions of the clients' work.
fn positions<W: Keyed>(works: &[ShardWork<W>]) -> impl Iterator<Item = Position> {
    clients(works).map(|client| client.work.position())
}

/// The positions that the works of a branch touch.
fn touched<W: Keyed>(works: &[ShardWork<W>]) -> RangeSet {
    let mut touched = RangeSet::new();
    for work in works {
        match work {
            ShardWork::Client(client) => {
                let end = client.work.position();
                touched.insert(PositionRange { start: Position::new(end.as_u64().wrapping_sub(1)), end });
            }
            ShardWork::Release(departure) => touched.extend(departure.ranges.iter()),
            ShardWork::Take(arrival) => touched.extend(arrival.ranges.iter()),
        }
    }
    touched
}

impl<S: Shard> Service for Sharded<S> {
    type Work = ShardWork<S::Work>;
    type Refusal = ShardRefusal<S::Refusal>;

    fn effort(&self, work: &Self::Work) -> Effort {
        match work {
            ShardWork::Client(client) => self.shard.effort(&client.work),
            ShardWork::Release(_) | ShardWork::Take(_) => Effort::Update,
        }
    }

    fn try_reserve(&self, branch: &BranchId, work: &Self::Work) -> Result<(), Self::Refusal> {
        match work {
            ShardWork::Client(client) => self.try_client(branch, client),
            ShardWork::Release(departure) if self.gate.lock().register(branch.txn(), &departure.ranges) => Ok(()),
            ShardWork::Release(_) => Err(ShardRefusal::Gate(GateRefusal::NotSealed)),
            ShardWork::Take(arrival) => self.stage(branch.txn(), arrival),
        }
    }

    fn confirm(&self, branch: &BranchId, works: &[Self::Work]) -> Result<(), ServiceError> {
        let confirmed = self.in_turn(branch.txn(), works, || self.carry_out(branch, works));
        if confirmed.is_err() {
            // Nothing may leave before it is done.
            self.hold_changes(branch.txn(), works);
        }
        confirmed
    }

    fn cancel(&self, branch: &BranchId, works: &[Self::Work]) -> Result<(), ServiceError> {
        let txn = branch.txn();
        self.with_current(works, |_| true, |works| self.shard.cancel(branch, works))?;
        self.drop_holds(positions(works), txn);
        if self.turns.late().is_some() {
            self.turns.drop_out(txn);
            self.hold_back();
        }
        works.iter().try_for_each(|work| match work {
            ShardWork::Client(_) => Ok(()),
            ShardWork::Release(_) => {
                self.thaw(txn);
                Ok(())
            }
            ShardWork::Take(arrival) => self.unstage(txn, arrival),
        })
    }

    fn is_transient(&self, refusal: &Self::Refusal) -> bool {
        match refusal {
            ShardRefusal::Service(refusal) => self.shard.is_transient(refusal),
            ShardRefusal::Gate(_) => true,
            ShardRefusal::Records(_) => false,
        }
    }

    fn dooms(&self, refusal: &Self::Refusal) -> bool {
        match refusal {
            ShardRefusal::Service(refusal) => self.shard.dooms(refusal),
            ShardRefusal::Gate(_) => false,
            ShardRefusal::Records(_) => true,
        }
    }

    fn restore(&self, branch: &BranchId, works: &[Self::Work]) -> Result<(), ServiceError> {
        let txn = branch.txn();
        // First of all, and whatever fails below: no other work may come to these positions.
        self.hold_changes(txn, works);
        self.in_turn(txn, works, || self.take_back(branch, works))
    }

    fn opened(&self, promised: &[BranchId]) -> Result<(), ServiceError> {
        let (left_over, of_clients) = {
            let gate = self.gate.lock();
            let is_of_client = |branch: &&BranchId| !gate.hands_over(branch.txn());
            (gate.left_over(), promised.iter().filter(is_of_client).cloned().collect::<Vec<_>>())
        };
        if !left_over.is_empty() {
            self.discard(&left_over)?;
            self.shard.note(&GateNote::Dropped { ranges: left_over.clone() })?;
            self.change(|gate| gate.dropped(&left_over));
        }
        self.shard.opened(&of_clients)?;
        self.turns.opened();
        self.hold_back();
        Ok(())
    }

    fn checkpoint(&self) -> Result<(), ServiceError> {
        self.shard.save(&mut || self.image())
    }

    fn forget_below(&self, coordinator: &Name, below: TxnOrdinal) {
        self.shard.forget_below(coordinator, below);
    }
}

impl<S: Shard> Sharded<S> {
    /// Calls `then`, unless a branch that has failed at the opening comes first.
    fn in_turn(
        &self,
        txn: &TxnId,
        works: &[ShardWork<S::Work>],
        then: impl FnOnce() -> Result<(), ServiceError>,
    ) -> Result<(), ServiceError> {
        let was_settled = self.turns.late().is_none();
        let result = self.turns.take(txn, || touched(works), then);
        if !was_settled {
            self.hold_back();
        }
        result
    }

    /// Has the gate let nothing in where the log's work was not done again yet: a read would miss it.
    fn hold_back(&self) {
        let late = self.turns.late().unwrap_or_default();
        self.change(|gate| gate.set_late(late));
    }

    /// Holds the positions of clients' changes.
    fn hold_changes(&self, txn: &TxnId, works: &[ShardWork<S::Work>]) {
        let changes = clients(works).filter(|client| self.shard.effort(&client.work) == Effort::Update);
        let held: Vec<_> = changes.map(|client| client.work.position()).collect();
        let mut gate = self.gate.lock();
        for position in held {
            gate.hold(position, txn);
        }
    }

    /// Carries out what was committed.
    fn carry_out(&self, branch: &BranchId, works: &[ShardWork<S::Work>]) -> Result<(), ServiceError> {
        let txn = branch.txn();
        // While a branch is under way its holds keep its positions here. But the log may have it
        // confirmed again after a restart, when its positions have left, or have left and come back.
        // After a restart there are no holds for it yet. It needs them until the service has succeeded.
        let is_current = |client: &ClientWork<S::Work>| {
            let position = client.work.position();
            let mut gate = self.gate.lock();
            let is_current = gate.is_current(position, client.stamp);
            if is_current {
                gate.hold(position, txn);
            }
            is_current
        };
        self.with_current(works, is_current, |works| self.shard.confirm(branch, works))?;
        self.drop_holds(positions(works), txn);
        works.iter().try_for_each(|work| match work {
            ShardWork::Client(_) => Ok(()),
            ShardWork::Release(departure) => self.release(txn, departure),
            ShardWork::Take(arrival) => self.open(txn, arrival),
        })
    }

    /// Sets aside again what a branch has promised.
    fn take_back(&self, branch: &BranchId, works: &[ShardWork<S::Work>]) -> Result<(), ServiceError> {
        self.with_current(works, |_| true, |works| self.shard.restore(branch, works))?;
        works.iter().try_for_each(|work| match work {
            // The shard has saved what followed the commit, and the log has lost the commit. It comes
            // again.
            ShardWork::Take(arrival) if self.gate.lock().is_opened(&arrival.ranges, arrival.tenure) => Ok(()),
            ShardWork::Take(arrival) => Ok(self.stage(branch.txn(), arrival)?),
            // Not before its turn: what comes first may still have to bring these ranges. Nothing is let in
            // there until then.
            ShardWork::Release(departure) => {
                self.change(|gate| gate.restore_sealed(branch.txn(), &departure.ranges));
                Ok(())
            }
            ShardWork::Client(_) => Ok(()),
        })
    }

    fn image(&self) -> GateImage {
        self.gate.lock().image().clone().of(&self.name, self.log)
    }
}

/// The records of a hand-over are let go when this is dropped, unless its release is work of its
/// branch by then.
pub(super) struct Frozen<'a, S: Shard> {
    pub(super) sharded: &'a Sharded<S>,
    pub(super) txn: &'a TxnId,
}

impl<S: Shard> Drop for Frozen<'_, S> {
    fn drop(&mut self) {
        self.sharded.change(|gate| gate.give_back(self.txn));
    }
}
