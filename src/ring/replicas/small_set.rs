//! A set of small numbers, for what a walk has met.

/// Number of elements that are kept in place, without an allocation.
pub(super) const FEW: usize = 16;

/// A set of small numbers, such as slots. It allocates only when it has more than [`FEW`] elements.
#[derive(Clone)]
pub(in crate::ring) struct SmallSet {
    len: usize,
    few: [u32; FEW],
    /// One bit for each number. Empty until there are more than [`FEW`] elements.
    many: Vec<u64>,
}

impl SmallSet {
    #[inline]
    pub(in crate::ring) fn new() -> Self {
        Self { len: 0, few: [0; FEW], many: Vec::new() }
    }

    #[inline]
    pub(in crate::ring) fn len(&self) -> usize {
        self.len
    }

    /// Whether a number is among the first [`FEW`] that were added.
    #[inline]
    pub(super) fn contains_few(&self, number: u32) -> bool {
        self.few[..self.len.min(FEW)].contains(&number)
    }

    /// Adds a number that isn't in the set, unless there are [`FEW`] already.
    #[inline]
    pub(super) fn push_few(&mut self, number: u32) {
        if let Some(place) = self.few.get_mut(self.len) {
            *place = number;
            self.len += 1;
        }
    }

    /// Adds a number below `bound`, which is the same at each call. Returns whether it is new.
    #[inline]
    pub(in crate::ring) fn insert(&mut self, number: u32, bound: usize) -> bool {
        if self.len >= FEW {
            return self.insert_into_many(number, bound);
        }
        if self.few[..self.len].contains(&number) {
            return false;
        }
        self.few[self.len] = number;
        self.len += 1;
        true
    }

    #[cold]
    fn insert_into_many(&mut self, number: u32, bound: usize) -> bool {
        if self.many.is_empty() {
            self.many = vec![0; bound.div_ceil(64)];
            for met in self.few {
                self.many[met as usize / 64] |= 1 << (met % 64);
            }
        }
        let word = &mut self.many[number as usize / 64];
        let is_new = *word & 1 << (number % 64) == 0;
        *word |= 1 << (number % 64);
        self.len += usize::from(is_new);
        is_new
    }
}
