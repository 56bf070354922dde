//! The table of open transactions, in the order in which they began. It also knows `ended_below`:
//! the number below which all have ended.

use std::{
    collections::{BTreeMap, VecDeque},
    ops::ControlFlow,
    sync::Arc,
};

use crate::{
    id::{Epoch, TxnOrdinal},
    log::Lsn,
    txn::{
        engine::transaction_driver::TransactionDriver,
        table::{
            key::TxnKey,
            unsettled_ends::{EndRecord, UnsettledEnds},
        },
    },
};

/// Number of places in the window at which transactions are first moved out of it.
const SMALLEST: usize = 1 << 10;

/// The table of open transactions.
///
/// Nearly all open transactions of a busy coordinator began a short time ago and end soon. So those
/// of this epoch have a *window*: a place for each number, from the first that matters to the last
/// that was given out. Beginning and ending cost O(1), amortised, however many are open or have
/// ended. Transactions that outlast their neighbours are moved out of the window before it gets
/// long, to a map with O(log n). So memory follows the open transactions, and not the ended ones.
pub(in crate::txn) struct OpenTransactions<T = Arc<TransactionDriver>> {
    epoch: Epoch,
    /// Transaction number of the window's first place.
    first: u64,
    window: VecDeque<Place<T>>,
    /// Number of places in the window with an open transaction.
    open_in_window: usize,
    /// Open transactions that were moved out of the window, and those of earlier epochs.
    others: BTreeMap<TxnKey, T>,
    /// Ended transactions outside of the window that `ended_below` must not pass yet.
    endings: UnsettledEnds,
}

enum Place<T> {
    Open(T),
    /// It has ended, and the log holds its end as this record.
    Ended(Lsn),
    /// It has ended, and its record is going to be written.
    Unwritten,
    /// It has ended, and the log has refused its record. Held until the log is opened again.
    Refused,
    /// Nothing is left to wait for.
    Free,
    /// The number is given out, and its client has not begun the transaction here yet.
    GivenOut,
}

impl<T> OpenTransactions<T> {
    pub(in crate::txn) fn new(epoch: Epoch) -> Self {
        Self {
            epoch,
            first: 1,
            window: VecDeque::new(),
            open_in_window: 0,
            others: BTreeMap::new(),
            endings: UnsettledEnds::default(),
        }
    }

    /// Returns the first number of which nothing is known yet.
    fn next(&self) -> u64 {
        self.first + self.window.len() as u64
    }

    /// Returns about how many transactions of this epoch are open.
    pub(in crate::txn) const fn at_once(&self) -> u64 {
        self.open_in_window as u64
    }

    /// Begins the transaction with this number. Numbers are given out in order, and come here in
    /// nearly that order. `None` keeps nothing under it.
    pub(in crate::txn) fn begin(&mut self, sequence: u64, what: Option<T>) {
        self.open_in_window += usize::from(what.is_some());
        let place = what.map_or(Place::Free, Place::Open);
        while self.next() < sequence {
            self.window.push_back(Place::GivenOut);
        }
        // Places before a number that is given out stay in the window, so its place is still there.
        let index = (sequence - self.first) as usize;
        match self.window.get_mut(index) {
            Some(given_out) => *given_out = place,
            None => self.window.push_back(place),
        }
        if self.window.len() >= SMALLEST && self.window.len() > 4 * self.open_in_window {
            self.move_out();
        }
    }

    /// Takes out an open transaction. Returns `None` if it is not open.
    pub(in crate::txn) fn take(&mut self, key: TxnKey, end: EndRecord) -> Option<T> {
        let Some(place) = self.place(key).filter(|index| matches!(self.window[*index], Place::Open(_))) else {
            self.endings.add(key.ordinal, end);
            return self.others.remove(&key);
        };
        let left = match end {
            EndRecord::Unlogged => Place::Free,
            EndRecord::Logged(lsn) => Place::Ended(lsn),
            EndRecord::Unwritten => Place::Unwritten,
            EndRecord::Refused => Place::Refused,
        };
        self.open_in_window -= 1;
        match std::mem::replace(&mut self.window[place], left) {
            Place::Open(what) => Some(what),
            _ => None,
        }
    }

    /// Notes that an unwritten end is now in the log, as this record or one before it; `None` if
    /// the log refused it.
    pub(in crate::txn) fn written(&mut self, ordinal: TxnOrdinal, lsn: Option<Lsn>) {
        match (self.place(TxnKey::of(ordinal)).map(|place| &mut self.window[place]), lsn) {
            (Some(place @ Place::Unwritten), _) => *place = lsn.map_or(Place::Refused, Place::Ended),
            // A transaction that was taken out and came back ends outside of the window, whatever
            // its number is.
            (_, Some(lsn)) => self.endings.written(ordinal, lsn),
            (_, None) => {}
        }
    }

    /// Returns the first transaction that is open, or has an end that is not durable; or else the
    /// one that begins next. `durable` is the log's last durable record. Amortised O(1).
    pub(in crate::txn) fn first(&mut self, durable: Lsn) -> TxnOrdinal {
        while let Some(place) = self.window.front() {
            match place {
                Place::Free => {}
                Place::Ended(lsn) if *lsn <= durable => {}
                _ => break,
            }
            self.window.pop_front();
            self.first += 1;
        }
        self.endings.durable(durable);
        let in_window = TxnOrdinal { epoch: self.epoch, sequence: self.first };
        let other = self.others.first_key_value().map(|(key, _)| key.ordinal);
        other.into_iter().chain(self.endings.first()).chain([in_window]).min().unwrap_or(in_window)
    }

    /// Returns the entries of one transaction: its own, and those of branches that participants
    /// reported.
    pub(in crate::txn) fn of(&self, ordinal: TxnOrdinal) -> impl Iterator<Item = &T> {
        let own = self.place(TxnKey::of(ordinal)).and_then(|index| self.window[index].open());
        own.into_iter().chain(self.others.range(TxnKey::all_of(ordinal)).map(|(_, what)| what))
    }

    /// Returns all open transactions, in the order in which they began; but those outside of the
    /// window come first.
    pub(in crate::txn) fn iter(&self) -> impl Iterator<Item = &T> {
        self.others.values().chain(self.window.iter().filter_map(Place::open))
    }

    /// Calls `see` with the open transactions from this one on, in the order in which they began,
    /// and passes at most `most` places. Returns the transaction to go on from; `None` if nothing
    /// is left, or if `see` breaks.
    pub(in crate::txn) fn look(
        &self,
        from: TxnOrdinal,
        mut most: usize,
        mut see: impl FnMut(&T) -> ControlFlow<()>,
    ) -> Option<TxnOrdinal> {
        // All transactions outside of the window come before it.
        for (key, what) in self.others.range(TxnKey::of(from)..) {
            if most == 0 {
                return Some(key.ordinal);
            }
            most -= 1;
            if see(what).is_break() {
                return None;
            }
        }
        let first = TxnOrdinal { epoch: self.epoch, sequence: self.first }.max(from);
        let passed = usize::try_from(first.sequence - self.first).unwrap_or(usize::MAX);
        for (sequence, place) in (first.sequence..).zip(self.window.iter().skip(passed)) {
            if most == 0 {
                return Some(TxnOrdinal { epoch: self.epoch, sequence });
            }
            most -= 1;
            if place.open().is_some_and(|what| see(what).is_break()) {
                return None;
            }
        }
        None
    }

    /// Returns the transaction's place in the window, if it has one.
    fn place(&self, key: TxnKey) -> Option<usize> {
        let index = usize::try_from(key.ordinal.sequence.checked_sub(self.first)?).ok()?;
        (key == TxnKey::of(key.ordinal) && key.ordinal.epoch == self.epoch && index < self.window.len())
            .then_some(index)
    }

    /// Moves the remaining transactions out of the first half of the window. They are at most a
    /// quarter of the window.
    fn move_out(&mut self) {
        let half = self.window.len() / 2;
        let settled = self.window.iter().take(half).position(|place| matches!(place, Place::GivenOut)).unwrap_or(half);
        for place in self.window.drain(..settled) {
            let ordinal = TxnOrdinal { epoch: self.epoch, sequence: self.first };
            self.first += 1;
            match place {
                Place::Open(what) => {
                    self.open_in_window -= 1;
                    self.others.insert(TxnKey::of(ordinal), what);
                }
                Place::Ended(lsn) => self.endings.add(ordinal, EndRecord::Logged(lsn)),
                Place::Unwritten => self.endings.add(ordinal, EndRecord::Unwritten),
                Place::Refused => self.endings.add(ordinal, EndRecord::Refused),
                Place::Free | Place::GivenOut => {}
            }
        }
    }
}

impl<T> Place<T> {
    const fn open(&self) -> Option<&T> {
        match self {
            Self::Open(what) => Some(what),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    const EPOCH: Epoch = Epoch::new(3);

    fn key(sequence: u64) -> TxnKey {
        TxnKey::of(TxnOrdinal { epoch: EPOCH, sequence })
    }

    /// Compares the table with the simplest model: a set of open transactions, and a set of ends
    /// that are not durable.
    #[test]
    fn it_behaves_like_plain_sets() {
        for seed in 0..30 {
            let mut random = fastrand::Rng::with_seed(seed);
            let mut table = OpenTransactions::new(EPOCH);
            let (mut open, mut ends) = (BTreeSet::new(), BTreeMap::new());
            let (mut unwritten, mut written) = (BTreeSet::new(), Vec::new());
            let (mut lsn, mut durable) = (0, 0);
            // The number of open transactions, and the percentage of those that stay open for long.
            let (at_once, patience) = [(1, 0), (10, 50), (3_000, 5)][seed as usize % 3];
            for _ in 0..20_000 {
                if open.len() < at_once || random.u32(..2) == 0 {
                    // Two at a time, in either order.
                    let sequence = table.next();
                    let order = if random.bool() { [sequence, sequence + 1] } else { [sequence + 1, sequence] };
                    for sequence in order {
                        let remembered = random.u32(..20) > 0;
                        table.begin(sequence, remembered.then_some(sequence));
                        if remembered {
                            open.insert(sequence);
                        }
                    }
                } else {
                    let skip = if random.u32(..100) < patience { random.usize(..open.len()) } else { open.len() - 1 };
                    let sequence = *open.iter().nth(skip).expect("the index is below their number");
                    open.remove(&sequence);
                    let end = match random.u32(..10) {
                        0 => EndRecord::Unlogged,
                        1 => {
                            unwritten.insert(sequence);
                            EndRecord::Unwritten
                        }
                        _ => {
                            lsn += 1;
                            ends.insert(lsn, sequence);
                            EndRecord::Logged(Lsn::new(lsn))
                        }
                    };
                    assert_eq!(table.take(key(sequence), end), Some(sequence));
                    assert_eq!(table.take(key(sequence), EndRecord::Unlogged), None, "it is taken out once");
                }
                if random.u32(..40) == 0 {
                    // One record for all of them.
                    lsn += 1;
                    for sequence in std::mem::take(&mut unwritten) {
                        table.written(key(sequence).ordinal, Some(Lsn::new(lsn)));
                        written.push((lsn, sequence));
                    }
                }
                if random.u32(..4) == 0 {
                    durable = random.u64(durable..=lsn);
                    ends.retain(|record, _| *record > durable);
                    written.retain(|(record, _)| *record > durable);
                    let held = ends.values().chain(&unwritten).chain(written.iter().map(|(_, sequence)| sequence));
                    let first = open.first().into_iter().chain(held).min().copied();
                    let ordinal = TxnOrdinal { epoch: EPOCH, sequence: first.unwrap_or_else(|| table.next()) };
                    assert_eq!(table.first(Lsn::new(durable)), ordinal, "seed {seed}");
                }
            }
            assert!(table.iter().copied().collect::<BTreeSet<_>>() == open, "seed {seed}");
            // In slices; the table may change between them.
            let (mut from, mut seen) = (Some(TxnOrdinal::default()), Vec::new());
            while let Some(ordinal) = from {
                from = table.look(ordinal, 7, |sequence| {
                    seen.push(*sequence);
                    ControlFlow::Continue(())
                });
                if seen.len().is_multiple_of(3) {
                    table.move_out();
                }
            }
            assert!(seen.iter().eq(&open), "seed {seed}");
            assert!(open.iter().all(|sequence| table.of(key(*sequence).ordinal).eq([sequence])), "seed {seed}");
        }
    }

    #[test]
    fn memory_follows_the_open_transactions_and_not_the_ended_ones() {
        let mut table = OpenTransactions::new(EPOCH);
        table.begin(1, Some(()));
        for sequence in 2..1_000_000 {
            table.begin(sequence, Some(()));
            table.take(key(sequence), EndRecord::Logged(Lsn::new(sequence)));
            assert_eq!(table.first(Lsn::new(sequence - 1)), key(1).ordinal);
        }
        assert!(table.window.len() <= SMALLEST, "{} places for the one that is open", table.window.len());
        assert_eq!(table.others.len(), 1);
        table.take(key(1), EndRecord::Unlogged);
        assert_eq!(table.first(Lsn::new(1_000_000)).sequence, table.next());
    }

    #[test]
    fn a_refused_end_is_held_until_the_log_is_opened_again() {
        let mut table = OpenTransactions::new(EPOCH);
        (1..=3).for_each(|sequence| table.begin(sequence, Some(())));
        table.take(key(1), EndRecord::Logged(Lsn::new(1)));
        table.take(key(2), EndRecord::Refused);
        table.take(key(3), EndRecord::Unlogged);
        assert_eq!(table.first(Lsn::NONE), key(1).ordinal);
        assert_eq!(table.first(Lsn::new(99)), key(2).ordinal);
        (4..10 * SMALLEST as u64).for_each(|sequence| table.begin(sequence, None));
        assert_eq!(table.first(Lsn::new(99)), key(2).ordinal, "out of the window, too");
    }

    #[test]
    fn an_unwritten_end_is_held_until_it_is_durable_and_a_refused_one_forever() {
        let mut table = OpenTransactions::new(EPOCH);
        (1..=2).for_each(|sequence| table.begin(sequence, Some(())));
        (1..=2).for_each(|sequence| assert!(table.take(key(sequence), EndRecord::Unwritten).is_some()));
        assert_eq!(table.first(Lsn::new(99)), key(1).ordinal);
        table.written(key(1).ordinal, Some(Lsn::new(7)));
        table.written(key(2).ordinal, None);
        assert_eq!(table.first(Lsn::new(6)), key(1).ordinal);
        assert_eq!(table.first(Lsn::new(7)), key(2).ordinal);
        assert_eq!(table.first(Lsn::new(99)), key(2).ordinal);
    }

    /// A client may be slow to begin the transaction of its number. Until then `ended_below` must
    /// not pass the number.
    #[test]
    fn a_number_that_was_given_out_counts_as_open() {
        let mut table = OpenTransactions::new(EPOCH);
        table.begin(2, Some(()));
        table.take(key(2), EndRecord::Unlogged);
        assert_eq!(table.first(Lsn::NONE), key(1).ordinal);
        (3..10 * SMALLEST as u64).for_each(|sequence| table.begin(sequence, None));
        assert_eq!(table.first(Lsn::NONE), key(1).ordinal);
        table.begin(1, Some(()));
        assert_eq!(table.of(key(1).ordinal).count(), 1);
        table.take(key(1), EndRecord::Unlogged);
        assert_eq!(table.first(Lsn::NONE).sequence, table.next());
    }
}
