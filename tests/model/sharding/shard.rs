//! What a shard does: `participant/resource_manager` and `sharding/sharded.rs`, written again around the
//! production code that decides.

use ringpact::{
    log::Lsn,
    participant::{BranchAction, BranchInput, BranchPhase, BranchProtocol, BranchReply, Effort, Vote},
    sharding::{Gate, Tenure},
};

use super::{
    Kind, Model, Mutant,
    world::{CHUNKS, Data, Entry, Outcome, TXNS, World},
};

impl Model {
    pub(super) fn gate(&self, world: &World, at: usize) -> &Gate {
        self.gates.get(world.shards[at].gate)
    }

    pub(super) fn change<R>(&mut self, world: &mut World, at: usize, change: impl FnOnce(&mut Gate) -> R) -> R {
        let mut gate = self.gate(world, at).clone();
        let result = change(&mut gate);
        world.shards[at].gate = self.gates.intern(gate);
        result
    }

    pub(super) fn phase(&self, world: &World, at: usize, txn: usize) -> BranchPhase {
        self.branches.get(world.shards[at].branches[txn]).phase()
    }

    pub(super) fn accepts_work(&self, world: &World, at: usize, txn: usize) -> bool {
        self.branches.get(world.shards[at].branches[txn]).accepts_work()
    }

    pub(super) fn worked(&mut self, world: &mut World, at: usize, txn: usize) {
        self.branches.step(&mut world.shards[at].branches[txn], BranchInput::Worked(Effort::Update));
    }

    /// Feeds a message to the branch, and carries out what follows, up to the reply or to a wait for
    /// the log.
    pub(super) fn exchange(&mut self, world: &mut World, at: usize, txn: usize, message: BranchInput) {
        let mut input = message;
        while let Some(action) = self.branches.step(&mut world.shards[at].branches[txn], input) {
            input = match action {
                BranchAction::Reply(reply) => return Self::reply(world, at, txn, reply),
                BranchAction::AwaitDurable(_) => return,
                BranchAction::Confirm => {
                    self.confirm(world, at, txn);
                    BranchInput::Confirmed
                }
                BranchAction::Cancel => {
                    self.cancel(world, at, txn);
                    BranchInput::Cancelled
                }
                BranchAction::AppendPrepared(_) => {
                    self.plant_at_promise(world, at, txn);
                    appended(world, at, Entry::Prepared(txn))
                }
                BranchAction::AppendCommitted { .. } => appended(world, at, Entry::Committed(txn)),
                BranchAction::AppendEnded(_) => appended(world, at, Entry::Ended(txn)),
            };
        }
    }

    /// Everything in the log becomes durable.
    pub(super) fn sync(&mut self, world: &mut World, at: usize) {
        let len = world.shards[at].log.len;
        world.shards[at].log.durable = len;
        for txn in 0..world.shards[at].branches.len() {
            self.exchange(world, at, txn, BranchInput::Durable(Lsn::new(u64::from(len))));
        }
        // Nothing waits for a record by its number now, so what has ended can go.
        let log = world.shards[at].log;
        if log.len == log.durable {
            world.shards[at].log = log.cut(log.len);
        }
    }

    fn reply(world: &mut World, at: usize, txn: usize, reply: BranchReply) {
        if reply != BranchReply::Voted(Vote::Yes) {
            return;
        }
        if txn < CHUNKS {
            world.chunks[txn].votes |= 1 << at;
        } else {
            world.clients[txn - CHUNKS].voted = true;
        }
    }

    fn plant_at_promise(&mut self, world: &mut World, at: usize, txn: usize) {
        if txn >= CHUNKS {
            return;
        }
        let chunk = world.chunks[txn];
        if self.is(Mutant::DiscardsBeforeTheDecision) && at == chunk.from() {
            world.shards[at].data = Data::default();
        }
        if self.is(Mutant::OpensAtThePromise) && at == chunk.to {
            self.opens(world, at, txn);
        }
    }

    /// A client's work is still about these records.
    fn is_current(&self, world: &World, at: usize, stamp: u64) -> bool {
        let (gate, stamp) = (self.gate(world, at), Tenure::new(stamp));
        match self.mutant {
            Some(Mutant::DoesNotCheckTenures) => true,
            Some(Mutant::ComparesTenuresStrictly) => {
                gate.image().tenure(self.position).is_some_and(|tenure| tenure < stamp)
            }
            Some(Mutant::ChecksOnlyOwnership) => gate.image().tenure(self.position).is_some(),
            _ => gate.is_current(self.position, stamp),
        }
    }

    pub(super) fn confirm(&mut self, world: &mut World, at: usize, txn: usize) {
        if txn >= CHUNKS {
            let client = txn - CHUNKS;
            let (_, stamp) = world.clients[client].admitted.expect("it has worked");
            if self.is_current(world, at, stamp) {
                world.shards[at].data.confirm(client);
                world.carried_out |= 1 << client;
            }
            self.drop_hold(world, at, txn);
            return;
        }
        let chunk = world.chunks[txn];
        if at == chunk.from() { self.releases(world, at, txn) } else { self.opens(world, at, txn) }
    }

    fn drop_hold(&mut self, world: &mut World, at: usize, txn: usize) {
        let (position, id) = (self.position, self.txns[txn].clone());
        self.change(world, at, |gate| gate.drop_hold(position, &id));
    }

    fn releases(&mut self, world: &mut World, at: usize, txn: usize) {
        let (chunk, id, ranges, to) =
            (world.chunks[txn], self.txns[txn].clone(), self.ranges.clone(), self.node.clone());
        let tenure = Tenure::new(chunk.tenure);
        let is_past = self.change(world, at, |gate| {
            let is_past = gate.is_released(&ranges, tenure);
            if is_past {
                gate.thaw(&id);
            } else {
                gate.restore_sealed(&id, &ranges);
            }
            is_past
        });
        if !is_past {
            world.shards[at].data = Data::default();
            self.change(world, at, |gate| gate.release(&id, &ranges, tenure, &to));
        }
    }

    fn opens(&mut self, world: &mut World, at: usize, txn: usize) {
        let (chunk, id, ranges) = (world.chunks[txn], self.txns[txn].clone(), self.ranges.clone());
        let tenure = Tenure::new(chunk.tenure);
        let gate = self.gate(world, at);
        let (is_staged, is_past) = (gate.is_staged(&id, &ranges), gate.is_opened(&ranges, tenure));
        if is_past {
            return;
        }
        if !is_staged {
            self.stages(world, at, txn);
        }
        self.change(world, at, |gate| gate.open(&id, &ranges, tenure));
    }

    /// Makes room, and imports. Returns whether that was possible.
    pub(super) fn stages(&mut self, world: &mut World, at: usize, txn: usize) -> bool {
        let (chunk, id, ranges) = (world.chunks[txn], self.txns[txn].clone(), self.ranges.clone());
        if self.gate(world, at).is_staged(&id, &ranges) {
            return true;
        }
        let Some(sent) = chunk.sent else { return false };
        let tenure = Tenure::new(chunk.tenure);
        if self.change(world, at, |gate| gate.stage(&id, &ranges, tenure, false)).is_err() {
            return false;
        }
        world.shards[at].data = sent.imported();
        self.change(world, at, |gate| gate.staged(&id));
        true
    }

    fn cancel(&mut self, world: &mut World, at: usize, txn: usize) {
        if txn >= CHUNKS {
            return self.drop_hold(world, at, txn);
        }
        let (chunk, id, ranges) = (world.chunks[txn], self.txns[txn].clone(), self.ranges.clone());
        if at == chunk.from() {
            self.change(world, at, |gate| gate.thaw(&id));
        } else if self.gate(world, at).is_arriving(&id, &ranges) {
            world.shards[at].data = Data::default();
            self.change(world, at, |gate| gate.unstage(&id, &ranges));
        }
    }

    /// The shard crashes, with these records of its log, and opens again. If its service fails, it
    /// confirms no client's work again.
    pub(super) fn restart(&mut self, world: &mut World, at: usize, kept: u8, fails: bool) {
        let shard = &mut world.shards[at];
        shard.log = shard.log.cut(kept);
        match self.kind {
            Kind::InMemory => (shard.gate, shard.data) = (shard.saved_gate, shard.saved),
            Kind::AtOnce => {
                let image = self.gates.get(shard.gate).image().clone();
                shard.gate = self.gates.intern(Gate::new(image));
            }
        }
        let log = shard.log;
        shard.branches = [self.branches.intern(BranchProtocol::new()); _];
        for chunk in world.chunks.iter_mut().filter(|chunk| chunk.outcome != Outcome::NotBegun && chunk.from() == at) {
            // The call of `release` ends with the process.
            chunk.call = super::world::ReleaseCall::None;
        }
        world.shards[at].older = (0..TXNS).filter(|txn| world.outcome(*txn) == Outcome::Open).map(|txn| 1 << txn).sum();
        for client in &mut world.clients {
            if !client.worked && client.admitted.is_some_and(|(shard, _)| shard == at) {
                client.admitted = None;
            }
        }
        for entry in log.entries() {
            match entry {
                Entry::Prepared(txn) => {
                    if !log.entries().any(|entry| entry == Entry::Committed(txn)) {
                        self.restore(world, at, txn);
                    }
                    world.shards[at].branches[txn] = self.branches.intern(BranchProtocol::recovered_prepared());
                }
                Entry::Committed(txn) => {
                    let mut protocol = BranchProtocol::recovered_committed();
                    if fails && txn >= CHUNKS {
                        self.fails_to_confirm(world, at, txn);
                    } else {
                        self.confirm(world, at, txn);
                        protocol.handle(BranchInput::Confirmed);
                    }
                    world.shards[at].branches[txn] = self.branches.intern(protocol);
                }
                Entry::Ended(_) => {}
            }
        }
        let left_over = self.gate(world, at).left_over();
        if !left_over.is_empty() {
            world.shards[at].data = Data::default();
            self.change(world, at, |gate| gate.dropped(&left_over));
        }
    }

    fn fails_to_confirm(&mut self, world: &mut World, at: usize, txn: usize) {
        let client = txn - CHUNKS;
        let (_, stamp) = world.clients[client].admitted.expect("it has worked");
        if self.is_current(world, at, stamp) {
            if world.shards[at].data.confirmed & (1 << client) == 0 {
                world.carried_out &= !(1 << client);
            }
            if !self.is(Mutant::FailedConfirmHasNoPin) {
                let (position, id) = (self.position, self.txns[txn].clone());
                self.change(world, at, |gate| gate.hold(position, &id));
            }
        }
    }

    fn restore(&mut self, world: &mut World, at: usize, txn: usize) {
        let (position, id, ranges) = (self.position, self.txns[txn].clone(), self.ranges.clone());
        if txn >= CHUNKS {
            if !self.is(Mutant::RestoresNoPins) {
                self.change(world, at, |gate| gate.hold(position, &id));
            }
            return;
        }
        let chunk = world.chunks[txn];
        if at == chunk.from() {
            if !self.is(Mutant::DoesNotRestoreFreezes) {
                self.change(world, at, |gate| gate.restore_sealed(&id, &ranges));
            }
        } else {
            self.restore_arrival(world, at, txn);
        }
    }

    /// Returns whether what has arrived can be opened.
    fn restore_arrival(&mut self, world: &mut World, at: usize, txn: usize) -> bool {
        let is_opened = self.gate(world, at).is_opened(&self.ranges, Tenure::new(world.chunks[txn].tenure));
        (is_opened && !self.is(Mutant::RestoresWhatIsOpen)) || self.stages(world, at, txn)
    }

    /// Whether the branch can be committed: if it has promised an arrival, the records are there, or can
    /// be staged again.
    pub(super) fn is_restored(&mut self, world: &mut World, at: usize, txn: usize) -> bool {
        let waits = self.phase(world, at, txn) == BranchPhase::Prepared;
        let arrives = txn < CHUNKS && at == world.chunks[txn].to;
        !(waits && arrives) || self.restore_arrival(world, at, txn)
    }
}

fn appended(world: &mut World, at: usize, entry: Entry) -> BranchInput {
    BranchInput::Appended(Lsn::new(world.shards[at].log.append(entry)))
}
