//! [`BranchTable`]: which branches and coordinators a participant remembers, and for how long.

use std::{
    mem,
    sync::{Arc, OnceLock},
};

use ordinal_map::OrdinalMap;

use super::{BranchPhase, Call, Endpoint, Greeting, Introduction, KnownLife, Life, ParticipantError};
use crate::{
    id::{Epoch, Name, TxnId, TxnOrdinal},
    log::LogId,
};

mod begun;
mod ended;
mod ordinal_map;

pub(super) use begun::{HasAllWork, ask_begun};
#[cfg(feature = "tokio")]
pub(super) use ended::sweep_due;
pub(super) use ended::{EndedBranches, SortedBranches, wipe};

/// Maximum number of outcomes that are remembered for coordinators that do not say that they have
/// ended: of commits, for all coordinators together; and for each coordinator up to twice as many
/// that left nothing to do.
///
/// Beyond it the oldest are forgotten. A commit that is delivered again for one of them is answered
/// by [`UnknownBranch`](crate::ParticipantError::UnknownBranch), and work that comes late for one
/// that was rolled back is taken for new. The limit bounds memory and log while a transaction never
/// ends.
pub const MAX_REMEMBERED_OUTCOMES: usize = 1 << 16;

/// Maximum number of cells that are kept for new branches: those of a few checkpoints at their
/// default frequency.
const MAX_SPARE: usize = 1 << 12;

/// What a participant keeps of one branch.
pub(super) trait Cell: Default {
    /// Returns the branch's phase; `None` while it is locked.
    fn phase(&self) -> Option<BranchPhase>;

    /// Whether nothing has happened under the branch, nothing is kept for it, and it is not locked.
    fn is_empty(&self) -> bool;

    /// Returns the cell of a branch that is rolled back, of which nothing was known.
    fn tombstone() -> Self;

    /// Makes the cell one of a branch of which nothing is known.
    fn wipe(&mut self);
}

/// All branches that are remembered. The lock around it is never held while the service, the log
/// or a database is called.
pub(super) struct BranchTable<C> {
    /// All known coordinators, in the order of their names.
    coordinators: Vec<(Name, KnownCoordinator<C>)>,
    /// Number of branches.
    count: usize,
    /// Number of branches that the last sweep left. The next sweep comes when there are twice as
    /// many.
    swept_to: usize,
    /// Cells of forgotten branches, to be used for new ones. Otherwise each cell would be allocated
    /// by the thread that works under it and freed by the thread that takes a checkpoint, which is
    /// the most expensive way to use an allocator.
    spare: Vec<Arc<C>>,
}

/// What is known of one coordinator, with the branches of its transactions.
pub(super) struct KnownCoordinator<C> {
    /// All of its transactions below this one have ended.
    ended_below: TxnOrdinal,
    /// Its markers below this transaction are deleted, at participants that have such.
    #[cfg(feature = "tokio")]
    swept: TxnOrdinal,
    /// What is known of its lives.
    pub(super) lives: KnownLife,
    /// The epoch of the last life whose meeting is noted durably in the participant's log.
    pub(super) noted: Epoch,
    /// The epochs of all lives of which the log has such a note.
    pub(super) notes: Vec<Epoch>,
    /// Transactions from this one on began after this resource manager was opened, once that is
    /// known. It holds for the life that said so, and for those that [continue](Self::begins_at) it.
    pub(super) begun_below: Arc<OnceLock<TxnOrdinal>>,
    /// Epoch of the life for which that holds, too, because the life continues the one that said
    /// so.
    holds_in: Epoch,
    /// The endpoint that answers for verdicts.
    pub(super) verdicts: Option<Arc<dyn Endpoint>>,
    /// Its branches, in the order of their transactions: what has ended comes first, what is new is
    /// added at the end.
    branches: OrdinalMap<Arc<C>>,
}

/// The result of looking for a branch, to work under it or to deliver a message.
pub(super) enum BranchLookup<C> {
    /// The branch; a new one if there was none.
    Found(Arc<C>),
    /// The branch is forgotten, because its transaction has ended.
    Ended {
        /// The epoch that the coordinator is in, as far as the participant has heard.
        known: Epoch,
    },
    /// The branch has made no promise, and its coordinator was opened again since: it counts as
    /// rolled back.
    EarlierLife {
        /// The epoch that the coordinator is in, as far as the participant has heard.
        known: Epoch,
    },
    /// The coordinator is in another epoch, and has not announced the branch's epoch.
    UnknownLife {
        /// The epoch that the coordinator is in, as far as the participant has heard.
        known: Epoch,
    },
}

impl<C> Default for BranchTable<C> {
    fn default() -> Self {
        Self { coordinators: Vec::new(), count: 0, swept_to: 0, spare: Vec::new() }
    }
}

impl<C> Default for KnownCoordinator<C> {
    fn default() -> Self {
        Self {
            ended_below: TxnOrdinal::default(),
            #[cfg(feature = "tokio")]
            swept: TxnOrdinal::default(),
            lives: KnownLife::new(),
            noted: Epoch::default(),
            notes: Vec::new(),
            begun_below: Arc::default(),
            holds_in: Epoch::default(),
            verdicts: None,
            branches: OrdinalMap::default(),
        }
    }
}

impl<C> KnownCoordinator<C> {
    /// Whether the log does not note yet that the present life was met.
    fn is_unnoted(&self) -> bool {
        let life = self.lives.life();
        life.log != LogId::NONE && life.epoch != self.noted
    }

    /// Returns the first transaction of this epoch that certainly began after this resource manager
    /// was opened, if that is known.
    ///
    /// A coordinator on another log may have said it, which was there for a while by mistake: its
    /// epochs are in no order with those of this one. So it holds only for that coordinator's own
    /// epoch, and for those that continue it in the same log.
    pub(super) fn begins_at(&self, epoch: Epoch) -> Option<TxnOrdinal> {
        self.begun_below.get().copied().filter(|said| said.epoch == epoch || self.holds_in == epoch)
    }

    /// Takes in that transactions from this one on began after this resource manager was opened.
    pub(super) fn begins_at_least(&mut self, begun_below: TxnOrdinal) {
        if self.begins_at(begun_below.epoch).is_none() {
            (self.begun_below, self.holds_in) = (Arc::new(begun_below.into()), Epoch::default());
        }
    }

    /// Notes that the coordinator's life may have become another one, which continues this one.
    fn continues(&mut self, before: Life) {
        let after = self.lives.life();
        if before.epoch != after.epoch && before.log != LogId::NONE && self.begins_at(before.epoch).is_some() {
            self.holds_in = after.epoch;
        }
    }
}

impl<C: Cell> BranchTable<C> {
    /// Takes in what is known at opening.
    pub(super) fn found(cells: impl IntoIterator<Item = (TxnId, C)>) -> Self {
        let mut table = Self::default();
        for (txn, cell) in cells {
            table.coordinator_mut(txn.coordinator()).branches.insert(txn.ordinal(), Arc::new(cell));
            table.count += 1;
        }
        table.swept_to = table.count;
        table
    }

    /// Takes in which life of the coordinator was met before this opening, as is durably noted.
    #[cfg(feature = "tokio")]
    pub(super) fn recall(&mut self, coordinator: &Name, life: Life) {
        let known = self.coordinator_mut(coordinator);
        known.lives.remember(life);
        known.noted = life.epoch;
    }

    /// Returns up to where the coordinator's markers can be deleted, if `every` more transactions have
    /// ended since some were.
    #[cfg(feature = "tokio")]
    pub(super) fn sweep_due(&self, coordinator: &Name, every: u64) -> Option<TxnOrdinal> {
        let known = self.coordinator(coordinator)?;
        sweep_due(known.ended_below, known.swept, every)
    }

    /// Takes in that the coordinator's markers below this transaction are deleted.
    #[cfg(feature = "tokio")]
    pub(super) fn swept(&mut self, coordinator: &Name, below: TxnOrdinal) {
        self.coordinator_mut(coordinator).swept = below;
    }

    /// Returns the branch, if it is remembered.
    pub(super) fn get(&self, txn: &TxnId) -> Option<&Arc<C>> {
        self.coordinator(txn.coordinator())?.branches.get(txn.ordinal())
    }

    pub(super) fn coordinator(&self, coordinator: &Name) -> Option<&KnownCoordinator<C>> {
        self.index_of(coordinator).ok().map(|index| &self.coordinators[index].1)
    }

    pub(super) fn coordinator_mut(&mut self, coordinator: &Name) -> &mut KnownCoordinator<C> {
        let index = self.index_or_insert(coordinator);
        &mut self.coordinators[index].1
    }

    fn index_or_insert(&mut self, coordinator: &Name) -> usize {
        self.index_of(coordinator).unwrap_or_else(|index| {
            self.coordinators.insert(index, (coordinator.clone(), KnownCoordinator::default()));
            index
        })
    }

    /// Returns the coordinator's index, or as an error the index at which to insert it.
    fn index_of(&self, coordinator: &Name) -> Result<usize, usize> {
        self.coordinators.binary_search_by(|(known, _)| known.cmp(coordinator))
    }

    /// Takes in what a call says of its coordinator, and finds the branch that it is about. Also
    /// returns the first transaction that certainly began after this opening, if that is known, and
    /// whether the life must still be noted. Returns an error if the message is not one of that
    /// coordinator.
    pub(super) fn called(
        &mut self,
        txn: &TxnId,
        call: &Call,
    ) -> Result<(BranchLookup<C>, Option<TxnOrdinal>, bool), ParticipantError> {
        let known = self.coordinator_mut(txn.coordinator());
        let before = known.lives.life();
        known.lives.hear(txn.coordinator(), call)?;
        known.continues(before);
        known.ended_below = known.ended_below.max(call.ended_below);
        let (begins_at, is_unnoted) = (known.begins_at(txn.epoch()), known.is_unnoted());
        let lookup = match known.branches.get(txn.ordinal()) {
            Some(entry) => BranchLookup::Found(Arc::clone(entry)),
            None => self.admit(txn),
        };
        Ok((lookup, begins_at, is_unnoted))
    }

    /// Checks and takes in how a coordinator introduces itself.
    pub(super) fn meet(&mut self, coordinator: &Name, life: &Life) -> Result<(), ParticipantError> {
        let known = self.coordinator_mut(coordinator);
        let before = known.lives.life();
        match known.lives.meet(coordinator, life)? {
            Introduction::Continues => known.continues(before),
            // What the coordinator on the other log has said does not apply to this one. Promises
            // to it stay.
            Introduction::Replaces => {
                (known.ended_below, known.verdicts) = (TxnOrdinal::default(), None);
                (known.begun_below, known.holds_in) = (Arc::default(), Epoch::default());
                #[cfg(feature = "tokio")]
                {
                    known.swept = TxnOrdinal::default();
                }
            }
        }
        Ok(())
    }

    /// Like [`meet`](Self::meet), for a coordinator of the same process. A coordinator that is
    /// refused learns it when it asks.
    pub(super) fn greet(&mut self, greeting: &Greeting) {
        let known = self.coordinator_mut(&greeting.coordinator).lives.life();
        if self.meet(&greeting.coordinator, &greeting.life_after(known.epoch)).is_ok() {
            let known = self.coordinator_mut(&greeting.coordinator);
            known.begins_at_least(TxnOrdinal { epoch: greeting.life.epoch, sequence: 0 });
            known.verdicts = Some(Arc::clone(&greeting.verdicts));
        }
    }

    /// Returns the coordinator's life, if it has said which: a promise to the coordinator must note
    /// it.
    pub(super) fn life_of(&self, coordinator: &Name) -> Option<Life> {
        Some(self.coordinator(coordinator)?.lives.life()).filter(|life| life.log != LogId::NONE)
    }

    /// Returns the coordinator's present life, if the log does not note yet that it was met. The
    /// caller is to note it.
    /// `is_own` says whether the participant's own log has that opening.
    pub(super) fn unnoted_life_of(&mut self, coordinator: &Name, is_own: impl FnOnce(&Life) -> bool) -> Option<Life> {
        let known = self.coordinator_mut(coordinator);
        let life = known.lives.life();
        if !known.is_unnoted() {
            return None;
        }
        if is_own(&life) {
            // It is known by the log that both write to, so there is nothing to note.
            known.noted = life.epoch;
            return None;
        }
        if !known.notes.contains(&life.epoch) {
            known.notes.push(life.epoch);
        }
        Some(life)
    }

    /// Takes in that the note of the life of this epoch is durable. Returns the notes that are no
    /// longer needed: those of all other lives, if this is still the present one. If it is not, its
    /// own note is returned once that of the present life is durable.
    pub(super) fn noted(&mut self, coordinator: &Name, epoch: Epoch) -> Vec<Epoch> {
        let known = self.coordinator_mut(coordinator);
        if known.lives.life().epoch != epoch {
            return Vec::new();
        }
        known.noted = epoch;
        mem::replace(&mut known.notes, vec![epoch])
    }

    /// Finds a branch, or makes a new one if that is still possible. At most O(log n) in the
    /// coordinator's branches; amortised O(1) for those of new transactions.
    pub(super) fn admit(&mut self, txn: &TxnId) -> BranchLookup<C> {
        let index = self.index_or_insert(txn.coordinator());
        let known = &mut self.coordinators[index].1;
        if let Some(entry) = known.branches.get(txn.ordinal()) {
            return BranchLookup::Found(Arc::clone(entry));
        }
        if txn.ordinal() < known.ended_below {
            return BranchLookup::Ended { known: known.lives.life().epoch };
        }
        // Without a promise, a transaction of an earlier life can only be rolled back.
        let life = known.lives.life();
        if txn.epoch() < life.epoch {
            return BranchLookup::EarlierLife { known: life.epoch };
        }
        if txn.epoch() > life.epoch && known.lives.refuses_later_work() {
            return BranchLookup::UnknownLife { known: life.epoch };
        }
        let entry = self.spare.pop().unwrap_or_default();
        known.branches.insert(txn.ordinal(), Arc::clone(&entry));
        self.count += 1;
        self.sweep();
        BranchLookup::Found(entry)
    }

    /// Leaves a tombstone for a branch that is unknown, and under which work was refused. The
    /// client may commit all the same; so nothing may be promised there.
    pub(super) fn refuse(&mut self, txn: &TxnId) {
        self.coordinator_mut(txn.coordinator()).branches.insert(txn.ordinal(), Arc::new(C::tombstone()));
        self.count += 1;
        self.sweep();
    }

    /// Drops the tombstones below `ended_below`, and the oldest of the others if they are too many:
    /// `ended_below` does not move while a transaction stays open, or a participant is down.
    /// Amortised O(1) for each new branch.
    fn sweep(&mut self) {
        const SMALLEST: usize = 1024;
        const END: TxnOrdinal = TxnOrdinal { epoch: Epoch::new(u64::MAX), sequence: u64::MAX };
        if self.count < SMALLEST.max(2 * self.swept_to) {
            return;
        }
        for (_, known) in &mut self.coordinators {
            let is_tombstone =
                |entry: &Arc<C>| matches!(entry.phase(), Some(BranchPhase::RolledBack | BranchPhase::ReadOnly));
            let goes = |_, entry: &Arc<C>| is_tombstone(entry) || !is_used(entry) && entry.is_empty();
            drop(known.branches.take_below(known.ended_below, goes));
            if known.branches.len() > MAX_REMEMBERED_OUTCOMES {
                let tombstones = known.branches.iter().filter(|(_, entry)| is_tombstone(entry)).count();
                let mut surplus = tombstones.saturating_sub(MAX_REMEMBERED_OUTCOMES);
                let is_surplus = |_, entry: &Arc<C>| {
                    let goes = surplus > 0 && is_tombstone(entry);
                    surplus -= usize::from(goes);
                    goes
                };
                drop(known.branches.take_below(END, is_surplus));
            }
        }
        self.count = self.coordinators.iter().map(|(_, known)| known.branches.len()).sum();
        self.swept_to = self.count;
    }

    /// Removes the empty branch that a commit for an unknown branch has made, or refused work, unless
    /// another thread uses it by now. That one does the same.
    pub(super) fn discard_unknown(&mut self, txn: &TxnId, entry: Arc<C>) {
        if !self.get(txn).is_some_and(|known| Arc::ptr_eq(known, &entry)) {
            return;
        }
        // The caller's reference goes first: of two threads that let go, the second one finds it unused.
        drop(entry);
        let is_unused = |entry: &Arc<C>| !is_used(entry) && entry.phase() == Some(BranchPhase::Unknown);
        if self.get(txn).is_some_and(is_unused) {
            self.forget([txn]);
        }
    }

    /// Forgets these branches.
    pub(super) fn forget<'a>(&mut self, txns: impl IntoIterator<Item = &'a TxnId>) {
        for txn in txns {
            self.count -= usize::from(self.coordinator_mut(txn.coordinator()).branches.remove(txn.ordinal()).is_some());
        }
    }

    /// Returns all branches, those of each coordinator in the order of their transactions.
    pub(super) fn all(&self) -> impl Iterator<Item = (TxnId, &KnownCoordinator<C>, &Arc<C>)> {
        self.coordinators.iter().flat_map(|(name, known)| of_coordinator(name, known))
    }

    /// Returns the branches of one coordinator, in the order of their transactions.
    pub(super) fn of(&self, coordinator: &Name) -> Vec<(TxnId, Arc<C>)> {
        let all = self.coordinator(coordinator).into_iter().flat_map(|known| of_coordinator(coordinator, known));
        all.map(|(txn, _, entry)| (txn, Arc::clone(entry))).collect()
    }

    /// Takes in wiped cells for new branches, and returns those that are too many.
    pub(super) fn reuse(&mut self, mut wiped: Vec<Arc<C>>) -> Vec<Arc<C>> {
        let room = MAX_SPARE.saturating_sub(self.spare.len()).min(wiped.len());
        self.spare.extend(wiped.drain(..room));
        wiped
    }
}

/// Whether a thread uses the branch. While the table is locked no other reference can be made.
fn is_used<C>(entry: &Arc<C>) -> bool {
    Arc::strong_count(entry) > 1
}

fn txn(coordinator: &Name, ordinal: TxnOrdinal) -> TxnId {
    TxnId::new(coordinator.clone(), ordinal.epoch, ordinal.sequence)
}

fn of_coordinator<'a, C>(
    name: &'a Name,
    known: &'a KnownCoordinator<C>,
) -> impl Iterator<Item = (TxnId, &'a KnownCoordinator<C>, &'a Arc<C>)> {
    known.branches.iter().map(move |(ordinal, entry)| (txn(name, ordinal), known, entry))
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Plain(BranchPhase);

    impl Default for Plain {
        fn default() -> Self {
            Self(BranchPhase::Unknown)
        }
    }

    impl Cell for Plain {
        fn phase(&self) -> Option<BranchPhase> {
            Some(self.0)
        }
        fn is_empty(&self) -> bool {
            self.0 == BranchPhase::Unknown
        }
        fn tombstone() -> Self {
            Self(BranchPhase::RolledBack)
        }
        fn wipe(&mut self) {
            *self = Self::default();
        }
    }

    fn shop(sequence: u64) -> TxnId {
        TxnId::new(Name::from_static("shop"), Epoch::new(1), sequence)
    }

    fn admitted(table: &mut BranchTable<Plain>, sequence: u64) -> Arc<Plain> {
        let BranchLookup::Found(cell) = table.admit(&shop(sequence)) else { panic!("it is a new branch") };
        cell
    }

    fn ends_below(table: &mut BranchTable<Plain>, sequence: u64) {
        table.coordinator_mut(shop(1).coordinator()).ended_below = shop(sequence).ordinal();
    }

    #[test]
    fn of_two_threads_that_have_done_nothing_the_last_one_leaves_no_trace() {
        let mut table = BranchTable::default();
        let (first, second) = (admitted(&mut table, 1), admitted(&mut table, 1));
        table.discard_unknown(&shop(1), first);
        assert!(table.get(&shop(1)).is_some(), "the other one uses it");
        table.discard_unknown(&shop(1), second);
        assert_eq!((table.get(&shop(1)).is_none(), table.count), (true, 0));
    }

    #[test]
    fn a_branch_without_a_trace_goes_once_its_transaction_has_ended_and_no_thread_uses_it() {
        let mut table = BranchTable::default();
        let used = admitted(&mut table, 1);
        for sequence in 2..=3 {
            drop(admitted(&mut table, sequence));
        }
        ends_below(&mut table, 3);
        let forget = |table: &mut BranchTable<Plain>| {
            for sorted in table.ended().into_iter().map(EndedBranches::sort_out).collect::<Vec<_>>() {
                assert!(sorted.overdue.is_empty() && sorted.committed.is_empty());
                drop(table.forget_ended(&sorted));
            }
        };
        forget(&mut table);
        let left = |table: &BranchTable<Plain>| (1..=3).map(|of| table.get(&shop(of)).is_some()).collect::<Vec<_>>();
        assert_eq!(left(&table), [true, false, true], "of the third the end is not known");
        drop(used);
        forget(&mut table);
        assert_eq!((left(&table), table.count), (vec![false, false, true], 1));
    }

    #[test]
    fn branches_without_a_trace_do_not_pile_up_between_checkpoints() {
        let mut table = BranchTable::default();
        for sequence in 1..=100_000 {
            drop(admitted(&mut table, sequence));
            ends_below(&mut table, sequence);
            assert!(table.count <= 1024, "{}", table.count);
        }
    }
}
