//! [`OrdinalMap`]: what is kept for each of one coordinator's transactions, in their order.

use std::collections::{BTreeMap, VecDeque};

use crate::id::{Epoch, TxnOrdinal};

/// Number of places up to which the window is kept, however empty it is.
const SMALLEST: u64 = 1 << 10;

/// A map from the transactions of one coordinator to values, ordered, and made for numbers that
/// come nearly in order.
///
/// When many transactions are under way, nearly all have numbers close to each other. So the last
/// ones have a *window*: a place for each number, whether it has a value or not. A look-up in it
/// compares nothing, which matters because all branches share the lock around it. A window that
/// would be mostly empty is given up for a new one: its values move to a map, together with those
/// of earlier epochs. So memory follows the number of values, whatever numbers come.
pub(super) struct OrdinalMap<T> {
    /// The values before those in the window.
    others: BTreeMap<TxnOrdinal, T>,
    epoch: Epoch,
    /// The sequence of the window's first place.
    first: u64,
    window: VecDeque<Option<T>>,
    in_window: usize,
}

impl<T> Default for OrdinalMap<T> {
    fn default() -> Self {
        Self { others: BTreeMap::new(), epoch: Epoch::default(), first: 0, window: VecDeque::new(), in_window: 0 }
    }
}

impl<T> OrdinalMap<T> {
    pub(super) fn len(&self) -> usize {
        self.others.len() + self.in_window
    }

    /// Returns the value. O(1) in the window, O(log n) outside of it.
    pub(super) fn get(&self, ordinal: TxnOrdinal) -> Option<&T> {
        if self.begins_after(ordinal) {
            self.others.get(&ordinal)
        } else {
            self.window.get(self.place(ordinal)?)?.as_ref()
        }
    }

    /// Inserts a value. Amortised O(1) for numbers that come nearly in order, else O(log n).
    pub(super) fn insert(&mut self, ordinal: TxnOrdinal, what: T) {
        if self.begins_after(ordinal) {
            self.others.insert(ordinal, what);
            return;
        }
        let length = match self.place(ordinal) {
            Some(place) => (place as u64).saturating_add(1),
            None => u64::MAX,
        };
        if self.in_window == 0 || length > SMALLEST.max(4 * (self.in_window as u64 + 1)) {
            self.begin_window(ordinal);
        }
        // By now it is in the window or little behind its end, or it is the first of a new window.
        let place = (ordinal.sequence - self.first) as usize;
        if self.window.len() <= place {
            self.window.resize_with(place + 1, || None);
        }
        self.in_window += usize::from(self.window[place].replace(what).is_none());
    }

    pub(super) fn remove(&mut self, ordinal: TxnOrdinal) -> Option<T> {
        if self.begins_after(ordinal) {
            return self.others.remove(&ordinal);
        }
        let place = self.place(ordinal)?;
        let removed = self.window.get_mut(place)?.take()?;
        self.in_window -= 1;
        self.move_on();
        Some(removed)
    }

    /// Takes out the values below the ordinal for which `goes` is true. O(n) in the values below
    /// it.
    pub(super) fn take_below(&mut self, below: TxnOrdinal, mut goes: impl FnMut(TxnOrdinal, &T) -> bool) -> Vec<T> {
        let mut taken = Vec::new();
        let later = self.others.split_off(&below);
        for (ordinal, what) in std::mem::replace(&mut self.others, later) {
            if goes(ordinal, &what) {
                taken.push(what);
            } else {
                self.others.insert(ordinal, what);
            }
        }
        let (epoch, first, places) = (self.epoch, self.first, self.places_below(below));
        taken.reserve(places.min(self.in_window));
        for (index, place) in self.window.iter_mut().take(places).enumerate() {
            let sequence = first + index as u64;
            if let Some(what) = place.take_if(|what| goes(TxnOrdinal { epoch, sequence }, what)) {
                self.in_window -= 1;
                taken.push(what);
            }
        }
        self.move_on();
        // After a rush, gives most of the memory back, but not what will soon be needed again.
        self.window.shrink_to(4 * (self.window.len() + SMALLEST as usize));
        taken
    }

    /// Returns the values below the ordinal, in order.
    pub(super) fn below(&self, below: TxnOrdinal) -> impl Iterator<Item = (TxnOrdinal, &T)> {
        let others = self.others.range(..below).map(|(ordinal, what)| (*ordinal, what));
        others
            .chain(self.windowed().take(self.places_below(below)).filter_map(|(ordinal, what)| Some((ordinal, what?))))
    }

    /// Returns all values, in order.
    pub(super) fn iter(&self) -> impl Iterator<Item = (TxnOrdinal, &T)> {
        let others = self.others.iter().map(|(ordinal, what)| (*ordinal, what));
        others.chain(self.windowed().filter_map(|(ordinal, what)| Some((ordinal, what?))))
    }

    fn windowed(&self) -> impl Iterator<Item = (TxnOrdinal, Option<&T>)> {
        let (epoch, first) = (self.epoch, self.first);
        let places = self.window.iter().enumerate();
        places.map(move |(index, what)| (TxnOrdinal { epoch, sequence: first + index as u64 }, what.as_ref()))
    }

    fn begins_after(&self, ordinal: TxnOrdinal) -> bool {
        ordinal < TxnOrdinal { epoch: self.epoch, sequence: self.first }
    }

    /// Returns its place in the window, which may lie behind the end; `None` if it is of a later
    /// epoch.
    fn place(&self, ordinal: TxnOrdinal) -> Option<usize> {
        (ordinal.epoch == self.epoch).then(|| usize::try_from(ordinal.sequence.checked_sub(self.first)?).ok())?
    }

    /// Returns the number of places in the window below the ordinal.
    fn places_below(&self, below: TxnOrdinal) -> usize {
        match self.place(below) {
            _ if self.begins_after(below) => 0,
            Some(place) => place.min(self.window.len()),
            None => self.window.len(),
        }
    }

    /// Gives up the window, and begins a new one at this ordinal.
    fn begin_window(&mut self, ordinal: TxnOrdinal) {
        let (epoch, first) = (self.epoch, self.first);
        let left = self.window.drain(..).enumerate();
        let left = left.filter_map(|(index, what)| Some((TxnOrdinal { epoch, sequence: first + index as u64 }, what?)));
        self.others.extend(left);
        (self.epoch, self.first, self.in_window) = (ordinal.epoch, ordinal.sequence, 0);
    }

    /// Drops the empty places at the front.
    fn move_on(&mut self) {
        while let Some(None) = self.window.front() {
            self.window.pop_front();
            self.first = self.first.saturating_add(1); // the last number there is may have been in it
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ordinal(epoch: u64, sequence: u64) -> TxnOrdinal {
        TxnOrdinal { epoch: Epoch::new(epoch), sequence }
    }

    /// Compared with a plain map: numbers nearly in order, some late, some far off, and later
    /// epochs.
    #[test]
    fn it_does_what_a_plain_map_does() {
        for seed in 0..30 {
            let mut random = fastrand::Rng::with_seed(seed);
            let (mut slots, mut model) = (OrdinalMap::default(), BTreeMap::new());
            // Maximum distance of the numbers, and number of values that are kept.
            let (apart, kept) = [(1, 10), (3, 3_000), (40, 500), (1_000_000, 50)][seed as usize % 4];
            let (mut epoch, mut last) = (1, 0);
            for step in 0..10_000 {
                last += random.u64(1..=apart);
                if random.u32(..2_000) == 0 {
                    (epoch, last) = (epoch + 1, random.u64(..10));
                }
                let at = match random.u32(..20) {
                    0 => ordinal(random.u64(1..=epoch), random.u64(..=last)),
                    1 if random.u32(..100) == 0 => ordinal(epoch, u64::MAX - random.u64(..2)),
                    _ => ordinal(epoch, last),
                };
                slots.insert(at, step);
                model.insert(at, step);
                let other = ordinal(epoch, last.saturating_sub(random.u64(..2 * apart * kept)));
                assert_eq!(slots.get(other), model.get(&other), "seed {seed}");
                match random.u32(..8) {
                    0 => assert_eq!(slots.remove(other), model.remove(&other), "seed {seed}"),
                    1 if random.u32(..50) == 0 => {
                        let goes = |_: TxnOrdinal, what: &i32| what % 7 != 0;
                        assert!(slots.below(other).eq(model.range(..other).map(|(ordinal, what)| (*ordinal, what))));
                        let taken = slots.take_below(other, goes);
                        let later = model.split_off(&other);
                        let (gone, mut left) = model.into_iter().partition::<BTreeMap<_, _>, _>(|(m, w)| goes(*m, w));
                        left.extend(later);
                        model = left;
                        assert!(taken.iter().eq(gone.values()), "seed {seed}");
                    }
                    _ => {}
                }
                assert_eq!(slots.len(), model.len(), "seed {seed}");
            }
            assert!(slots.iter().eq(model.iter().map(|(ordinal, what)| (*ordinal, what))), "seed {seed}");
        }
    }

    #[test]
    fn memory_follows_the_number_of_values() {
        let mut slots = OrdinalMap::default();
        slots.insert(ordinal(1, 1), 0);
        for number in 1..100_000 {
            slots.insert(ordinal(1, number * 1_000), number);
            slots.remove(ordinal(1, number * 1_000 - 1_000));
        }
        assert!(slots.window.len() as u64 <= SMALLEST, "{} places", slots.window.len());
        slots.insert(ordinal(1, u64::MAX), 0);
        slots.insert(ordinal(2, u64::MAX), 0);
        slots.insert(ordinal(3, 0), 0);
        assert!(slots.window.len() as u64 <= SMALLEST);
        assert_eq!(slots.iter().last(), Some((ordinal(3, 0), &0)));
    }
}
