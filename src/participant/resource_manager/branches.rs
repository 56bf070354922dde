//! What a resource manager remembers of its branches, and for how long.

use std::{
    mem,
    ops::Deref,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
};

use parking_lot::Mutex;

use super::{BranchRefusal, BranchTrouble, ordinal_map::OrdinalMap};
use crate::{
    id::{Epoch, Name, TxnId, TxnOrdinal},
    log::LogId,
    participant::{
        BranchInput, BranchPhase, BranchProtocol, Call, Endpoint, Greeting, Introduction, KnownLife, Life, LogSharing,
        ParticipantError,
    },
};

/// How many outcomes are remembered at the most for coordinators that don't say they have ended: commits in all, and for each
/// coordinator up to twice as many that left nothing to do. Past it the oldest are forgotten. A commit that is re-delivered
/// for one of them is answered by [`UnknownBranch`](crate::ParticipantError::UnknownBranch), and work that comes late for one
/// that was rolled back is taken for new. It bounds memory and log under a transaction that never ends.
pub const MAX_REMEMBERED_OUTCOMES: usize = 1 << 16;

/// How many places are kept for new branches: those of a few checkpoints, as often as these are taken by themselves.
const MAX_SPARE: usize = 1 << 12;

/// All branches that are remembered. Its lock is never held while the service or the log is called.
pub(super) struct Branches<W> {
    /// In the order of their names.
    coordinators: Vec<(Name, Acquaintance<W>)>,
    /// Those that could not be taken back in full at opening, as far as that has not been made good.
    troubled: Vec<TxnId>,
    /// How many slots there are, and how many were left after the last sweep; the next one comes when there are twice as
    /// many.
    slots: usize,
    swept_to: usize,
    /// Places of branches that were forgotten, to be used for new ones. Else each is allocated by the thread that works
    /// under it and freed by the one that takes a checkpoint, which is the dearest way to use an allocator.
    spare: Vec<Shared<W>>,
    pub(super) last_checkpoint_error: Option<Arc<str>>,
}

/// What is known of a coordinator, and the branches of its transactions.
pub(super) struct Acquaintance<W> {
    /// All of its transactions before this have ended.
    ended_below: TxnOrdinal,
    /// Which of its lives was heard of last.
    pub(super) known: KnownLife,
    /// The epoch of the life that this participant's log says, durably, it has met.
    pub(super) noted: Epoch,
    /// The epochs of all lives that the log has such a note of.
    pub(super) notes: Vec<Epoch>,
    /// Transactions from here on began after this resource manager was opened.
    pub(super) begins_at: Arc<OnceLock<TxnOrdinal>>,
    /// Where it is asked for verdicts.
    pub(super) verdicts: Option<Arc<dyn Endpoint>>,
    /// In the order of their transactions: what has ended comes first, and what is new goes to the end.
    slots: OrdinalMap<Shared<W>>,
}

pub(super) type Shared<W> = Arc<Place<W>>;

/// A branch's place.
pub(super) struct Place<W> {
    slot: Mutex<Slot<W>>,
    /// A rollback has met somebody at the branch. It can be told so without the lock.
    doomed: AtomicBool,
}

impl<W> Place<W> {
    const fn new(slot: Slot<W>) -> Self {
        Self { slot: Mutex::new(slot), doomed: AtomicBool::new(false) }
    }

    /// The branch is to be rolled back by whoever is at it, or when that is asked for again.
    pub(super) fn doom(&self) {
        self.doomed.store(true, Ordering::SeqCst);
    }

    pub(super) fn is_doomed(&self) -> bool {
        self.doomed.load(Ordering::SeqCst)
    }
}

impl<W> Default for Place<W> {
    fn default() -> Self {
        Self::new(Slot::default())
    }
}

impl<W> Deref for Place<W> {
    type Target = Mutex<Slot<W>>;

    fn deref(&self) -> &Mutex<Slot<W>> {
        &self.slot
    }
}

/// One branch. Its lock is held while the service and the log are called for this branch. Pieces of work wait for it, on
/// their clients' threads; messages of coordinators don't: they are [`Busy`](crate::ParticipantError::Busy).
pub(super) struct Slot<W> {
    pub(super) protocol: BranchProtocol,
    pub(super) works: Vec<W>,
    /// Encoded length of the works together, in bytes.
    pub(super) work_bytes: usize,
    /// The generation in which it was last worked under.
    pub(super) worked_in: u32,
    /// What went wrong when the branch was taken back at opening, until it is made good.
    pub(super) trouble: Option<BranchTrouble>,
    /// Why it can only vote no, if that is so and known.
    pub(super) refusal: Option<Arc<BranchRefusal>>,
}

/// Whether a branch may be worked under or talked about.
pub(super) enum Admission<W> {
    /// This is its place, made anew where there was none.
    Open(Shared<W>),
    /// Its transaction is known to have ended.
    Ended,
    /// Its coordinator has been opened again since, and it has made no promise: it is as good as rolled back.
    EarlierLife,
    /// Its coordinator is in another epoch, and has not said that there is this one.
    UnknownLife {
        /// The epoch that the coordinator is in.
        known: Epoch,
    },
}

impl<W> Default for Slot<W> {
    fn default() -> Self {
        Self {
            protocol: BranchProtocol::new(),
            works: Vec::new(),
            work_bytes: 0,
            worked_in: 0,
            trouble: None,
            refusal: None,
        }
    }
}

impl<W> Default for Acquaintance<W> {
    fn default() -> Self {
        Self {
            ended_below: TxnOrdinal::default(),
            known: KnownLife::new(),
            noted: Epoch::default(),
            notes: Vec::new(),
            begins_at: Arc::default(),
            verdicts: None,
            slots: OrdinalMap::default(),
        }
    }
}

impl<W> Acquaintance<W> {
    /// Whether it is yet to be noted that the present life was met.
    fn is_unnoted(&self) -> bool {
        let life = self.known.life();
        life.log != LogId::NONE && life.epoch != self.noted
    }
}

impl<W> Branches<W> {
    /// What was found in the log at opening.
    pub(super) fn found(slots: impl IntoIterator<Item = (TxnId, Slot<W>)>) -> Self {
        let (coordinators, troubled) = (Vec::new(), Vec::new());
        let mut branches =
            Self { coordinators, troubled, slots: 0, swept_to: 0, spare: Vec::new(), last_checkpoint_error: None };
        for (txn, slot) in slots {
            if slot.trouble.is_some() {
                branches.troubled.push(txn.clone());
            }
            branches.acquaintance(txn.coordinator()).slots.insert(txn.ordinal(), Arc::new(Place::new(slot)));
            branches.slots += 1;
        }
        branches.troubled.sort_unstable();
        branches.swept_to = branches.slots;
        branches
    }

    pub(super) fn known(&self, coordinator: &Name) -> Option<&Acquaintance<W>> {
        self.place(coordinator).ok().map(|place| &self.coordinators[place].1)
    }

    pub(super) fn acquaintance(&mut self, coordinator: &Name) -> &mut Acquaintance<W> {
        let place = self.place_of_acquaintance(coordinator);
        &mut self.coordinators[place].1
    }

    fn place_of_acquaintance(&mut self, coordinator: &Name) -> usize {
        self.place(coordinator).unwrap_or_else(|place| {
            self.coordinators.insert(place, (coordinator.clone(), Acquaintance::default()));
            place
        })
    }

    /// Where the coordinator is among those that are known, or would be.
    fn place(&self, coordinator: &Name) -> Result<usize, usize> {
        self.coordinators.binary_search_by(|(known, _)| known.cmp(coordinator))
    }

    /// Takes in what a call says of its coordinator, and finds the branch that it is about. With it comes from where on
    /// transactions surely began after this opening, if that is known, and whether the life is yet to be noted. An error: it is not that coordinator's message.
    pub(super) fn called(
        &mut self,
        txn: &TxnId,
        call: &Call,
    ) -> Result<(Admission<W>, Option<TxnOrdinal>, bool), ParticipantError> {
        let known = self.acquaintance(txn.coordinator());
        known.known.hear(txn.coordinator(), call)?;
        known.ended_below = known.ended_below.max(call.ended_below);
        let (begins_at, is_unnoted) = (known.begins_at.get().copied(), known.is_unnoted());
        let admission = match known.slots.get(txn.ordinal()) {
            Some(slot) => Admission::Open(Arc::clone(slot)),
            None => self.admit(txn),
        };
        Ok((admission, begins_at, is_unnoted))
    }

    /// Takes in how a coordinator introduces itself.
    pub(super) fn meet(&mut self, coordinator: &Name, life: &Life) -> Result<(), ParticipantError> {
        let known = self.acquaintance(coordinator);
        if known.known.meet(coordinator, life)? == Introduction::Replaces {
            // What the other log's coordinator has said does not apply to this one; its promises stay.
            (known.ended_below, known.begins_at, known.verdicts) = (TxnOrdinal::default(), Arc::default(), None);
        }
        Ok(())
    }

    /// As [`meet`](Self::meet), of a coordinator of the same process. One that is refused is told so when it asks.
    pub(super) fn greet(&mut self, greeting: &Greeting) {
        if self.meet(&greeting.coordinator, &greeting.life).is_ok() {
            let known = self.acquaintance(&greeting.coordinator);
            known.begins_at.get_or_init(|| TxnOrdinal { epoch: greeting.life.epoch, sequence: 0 });
            known.verdicts = Some(Arc::clone(&greeting.verdicts));
        }
    }

    /// The coordinator's life, if it has said which it is: what a promise to it is to remember.
    pub(super) fn life_of(&self, coordinator: &Name) -> Option<Life> {
        Some(self.known(coordinator)?.known.life()).filter(|life| life.log != LogId::NONE)
    }

    /// The coordinator's present life, if it is not yet noted that it was met; it is about to be.
    pub(super) fn unnoted_life_of(&mut self, coordinator: &Name, own_log: LogId) -> Option<Life> {
        let known = self.acquaintance(coordinator);
        let life = known.known.life();
        if !known.is_unnoted() {
            return None;
        }
        if life.log == own_log {
            // Known by the log that both write to: there is nothing to note.
            known.noted = life.epoch;
            return None;
        }
        if !known.notes.contains(&life.epoch) {
            known.notes.push(life.epoch);
        }
        Some(life)
    }

    /// That the life of this epoch was met is noted durably. Gives the notes that are of no use any more: those of all others, if
    /// it is still the present life. If it is not, its own will be among them, once the present one's is durable.
    pub(super) fn noted(&mut self, coordinator: &Name, epoch: Epoch) -> Vec<Epoch> {
        let known = self.acquaintance(coordinator);
        if known.known.life().epoch != epoch {
            return Vec::new();
        }
        known.noted = epoch;
        mem::replace(&mut known.notes, vec![epoch])
    }

    /// O(log n) in the coordinator's branches at the most; amortised O(1) for those of transactions that are new.
    pub(super) fn admit(&mut self, txn: &TxnId) -> Admission<W> {
        let place = self.place_of_acquaintance(txn.coordinator());
        let known = &mut self.coordinators[place].1;
        if let Some(slot) = known.slots.get(txn.ordinal()) {
            return Admission::Open(Arc::clone(slot));
        }
        if txn.ordinal() < known.ended_below {
            return Admission::Ended;
        }
        // Where no promise is held, a transaction of an earlier life can only be rolled back.
        let life = known.known.life();
        if txn.epoch() < life.epoch {
            return Admission::EarlierLife;
        }
        if txn.epoch() > life.epoch && known.known.is_heard() {
            return Admission::UnknownLife { known: life.epoch };
        }
        let slot = self.spare.pop().unwrap_or_default();
        known.slots.insert(txn.ordinal(), Arc::clone(&slot));
        self.slots += 1;
        self.sweep();
        Admission::Open(slot)
    }

    /// Work was refused under a branch that nothing is known of. A tombstone sees to it that nothing else is promised there:
    /// its client may commit all the same.
    pub(super) fn refuse(&mut self, txn: &TxnId) {
        let mut slot = Slot::default();
        slot.protocol.handle(BranchInput::Rollback(LogSharing::OwnLog));
        self.acquaintance(txn.coordinator()).slots.insert(txn.ordinal(), Arc::new(Place::new(slot)));
        self.slots += 1;
        self.sweep();
    }

    /// Drops the tombstones that the coordinator's mark makes needless, and the oldest of the others where they are too many:
    /// while a transaction stays open, or a participant is not there, the mark does not move. Amortised O(1) for each new
    /// branch.
    fn sweep(&mut self) {
        const SMALLEST: usize = 1024;
        const END: TxnOrdinal = TxnOrdinal { epoch: Epoch::new(u64::MAX), sequence: u64::MAX };
        if self.slots < SMALLEST.max(2 * self.swept_to) {
            return;
        }
        for (_, known) in &mut self.coordinators {
            let is_tombstone =
                |slot: &_| matches!(state_of(slot), Some(BranchPhase::RolledBack | BranchPhase::ReadOnly));
            drop(known.slots.take_below(known.ended_below, |_, slot| is_tombstone(slot)));
            if known.slots.len() > MAX_REMEMBERED_OUTCOMES {
                let tombstones = known.slots.iter().filter(|(_, slot)| is_tombstone(slot)).count();
                let mut surplus = tombstones.saturating_sub(MAX_REMEMBERED_OUTCOMES);
                let is_surplus = |_, slot: &_| {
                    let goes = surplus > 0 && is_tombstone(slot);
                    surplus -= usize::from(goes);
                    goes
                };
                drop(known.slots.take_below(END, is_surplus));
            }
        }
        self.slots = self.coordinators.iter().map(|(_, known)| known.slots.len()).sum();
        self.swept_to = self.slots;
    }

    /// A commit for a branch that nobody knows made an empty slot; it goes again unless somebody has come to use it.
    pub(super) fn discard_unknown(&mut self, txn: &TxnId, slot: &Shared<W>) {
        // Two hands hold an unused slot: this map and the caller. No third can come while this map is locked.
        if Arc::strong_count(slot) == 2 && state_of(slot) == Some(BranchPhase::Unknown) {
            self.forget([txn]);
        }
    }

    /// Drops what is remembered of these.
    pub(super) fn forget<'a>(&mut self, txns: impl IntoIterator<Item = &'a TxnId>) {
        for txn in txns {
            self.slots -= usize::from(self.acquaintance(txn.coordinator()).slots.remove(txn.ordinal()).is_some());
        }
    }

    /// All branches, each coordinator's in the order of their transactions.
    pub(super) fn all(&self) -> impl Iterator<Item = (TxnId, &Acquaintance<W>, &Shared<W>)> {
        self.coordinators.iter().flat_map(|(name, known)| of_coordinator(name, known))
    }

    /// Those of one coordinator's transactions, in their order.
    pub(super) fn of(&self, coordinator: &Name) -> Vec<(TxnId, Shared<W>)> {
        let all = self.known(coordinator).into_iter().flat_map(|known| of_coordinator(coordinator, known));
        all.map(|(txn, _, slot)| (txn, Arc::clone(slot))).collect()
    }

    /// Branches that were not taken back in full at opening, and could be now.
    pub(super) fn troubled(&mut self) -> Vec<(TxnId, Shared<W>)> {
        let mut found = Vec::new();
        let mut troubled = mem::take(&mut self.troubled);
        troubled.retain(|txn| {
            let slot = self.known(txn.coordinator()).and_then(|known| known.slots.get(txn.ordinal()));
            let Some(slot) = slot else { return false };
            let Some(guard) = slot.try_lock() else { return true };
            let is_troubled = guard.trouble.is_some();
            if is_troubled {
                found.push((txn.clone(), Arc::clone(slot)));
            }
            is_troubled
        });
        self.troubled = troubled;
        found
    }

    /// Those whose transactions have ended. O(n) in them; what state they are in is looked at without this lock.
    pub(super) fn ended(&self) -> Vec<Ended<W>> {
        let ended = |(name, known): &(Name, Acquaintance<W>)| {
            let slots = known.slots.below(known.ended_below).map(|(ordinal, slot)| (ordinal, Arc::clone(slot)));
            Ended { coordinator: name.clone(), below: known.ended_below, slots: slots.collect() }
        };
        self.coordinators.iter().map(ended).collect()
    }

    /// The oldest of the committed branches whose transactions have not ended, as many as there are too many of.
    pub(super) fn surplus(&self) -> Vec<TxnId> {
        if self.slots <= MAX_REMEMBERED_OUTCOMES {
            return Vec::new();
        }
        let committed = |slot: &Shared<W>| state_of(slot) == Some(BranchPhase::Committed);
        let kept = self.all().filter(|(txn, known, slot)| txn.ordinal() >= known.ended_below && committed(slot));
        let mut kept: Vec<_> = kept.map(|(txn, ..)| txn).collect();
        kept.sort_unstable_by_key(TxnId::ordinal);
        kept.truncate(kept.len().saturating_sub(MAX_REMEMBERED_OUTCOMES));
        kept
    }

    /// Drops those that were sorted out as needing no remembering, and gives what is left of them, to be dealt with where
    /// nobody waits for it: see [`wipe`].
    pub(super) fn forget_ended(&mut self, sorted: &SortedOut) -> Vec<Shared<W>> {
        let known = self.acquaintance(&sorted.coordinator);
        let mut forgettable = sorted.forgettable.iter().peekable();
        let forgotten = known.slots.take_below(sorted.below, |ordinal, _| {
            // Both come in their order; but what was to go may have gone meanwhile.
            while forgettable.next_if(|first| **first < ordinal).is_some() {}
            forgettable.next_if_eq(&&ordinal).is_some()
        });
        self.slots -= forgotten.len();
        forgotten
    }

    /// Takes in wiped places for new branches, and gives back those that are too many.
    pub(super) fn reuse(&mut self, mut wiped: Vec<Shared<W>>) -> Vec<Shared<W>> {
        let room = MAX_SPARE.saturating_sub(self.spare.len()).min(wiped.len());
        self.spare.extend(wiped.drain(..room));
        wiped
    }
}

/// Makes places for new branches of those that were forgotten, but for those that somebody still has in his hands.
pub(super) fn wipe<W>(forgotten: impl IntoIterator<Item = Shared<W>>) -> Vec<Shared<W>> {
    let wiped = |mut slot: Shared<W>| {
        let place = Arc::get_mut(&mut slot)?;
        *place.doomed.get_mut() = false;
        place.slot.get_mut().wipe();
        Some(slot)
    };
    forgotten.into_iter().filter_map(wiped).take(MAX_SPARE).collect()
}

impl<W> Slot<W> {
    /// Drops the works, which nobody needs any more.
    pub(super) fn drop_works(&mut self) {
        /// The memory of so many is kept for the next branch.
        const FEW: usize = 16;
        self.works.clear();
        self.works.shrink_to(FEW);
    }

    /// Notes why the branch will vote no. The first reason stays.
    pub(super) fn refuse(&mut self, reason: impl FnOnce() -> BranchRefusal) {
        self.refusal.get_or_insert_with(|| Arc::new(reason()));
    }

    fn wipe(&mut self) {
        self.drop_works();
        (self.protocol, self.trouble, self.refusal, self.work_bytes) = (BranchProtocol::new(), None, None, 0);
    }
}

/// A coordinator's branches whose transactions have ended.
pub(super) struct Ended<W> {
    coordinator: Name,
    below: TxnOrdinal,
    slots: Vec<(TxnOrdinal, Shared<W>)>,
}

/// The same, by what is to be done about them. In the order of their transactions.
pub(super) struct SortedOut {
    pub(super) coordinator: Name,
    below: TxnOrdinal,
    /// They are committed: the log can forget them once the service has made that durable.
    pub(super) committed: Vec<TxnId>,
    /// Somebody works under them. The work came late, and after a restart that took the tombstone away; no message will ever
    /// come that ends them.
    pub(super) overdue: Vec<TxnId>,
    /// The committed ones, and tombstones.
    forgettable: Vec<TxnOrdinal>,
}

impl<W> Ended<W> {
    pub(super) fn sort_out(self) -> SortedOut {
        let (coordinator, below) = (self.coordinator, self.below);
        let (mut committed, mut overdue, mut forgettable) = (Vec::new(), Vec::new(), Vec::new());
        for (ordinal, slot) in self.slots {
            match state_of(&slot) {
                Some(BranchPhase::Committed) => {
                    committed.push(txn(&coordinator, ordinal));
                    forgettable.push(ordinal);
                }
                Some(BranchPhase::RolledBack | BranchPhase::ReadOnly) => forgettable.push(ordinal),
                Some(BranchPhase::Active { .. } | BranchPhase::Cancelling { .. }) => {
                    overdue.push(txn(&coordinator, ordinal))
                }
                // It goes on, or somebody is at it.
                _ => {}
            }
        }
        SortedOut { coordinator, below, committed, overdue, forgettable }
    }
}

fn txn(coordinator: &Name, ordinal: TxnOrdinal) -> TxnId {
    TxnId::new(coordinator.clone(), ordinal.epoch, ordinal.sequence)
}

fn of_coordinator<'a, W>(
    name: &'a Name,
    known: &'a Acquaintance<W>,
) -> impl Iterator<Item = (TxnId, &'a Acquaintance<W>, &'a Shared<W>)> {
    known.slots.iter().map(move |(ordinal, slot)| (txn(name, ordinal), known, slot))
}

/// `None` where somebody is at it.
fn state_of<W>(slot: &Shared<W>) -> Option<BranchPhase> {
    slot.try_lock().map(|slot| slot.protocol.phase())
}
