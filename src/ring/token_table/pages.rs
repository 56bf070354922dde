//! The bits of each token's position that a line leaves out.

/// The lowest 48 bits of a position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Residual([u16; 3]);

/// Number of bits in a residual.
const BITS: u32 = 48;
const MASK: u64 = (1 << BITS) - 1;

/// Number of buckets that share a page.
pub(super) const BUCKETS: usize = 16;

/// Number of residuals by which a full page grows: about one in sixteen.
const GROWTH: usize = 8;

impl Residual {
    pub(super) const ZERO: Self = Self([0; 3]);

    pub(super) fn new(position: u64) -> Self {
        Self([position as u16, (position >> 16) as u16, (position >> 32) as u16])
    }

    /// Returns the one position that has these lowest bits and is at least `near` and less than
    /// 2^48 above it.
    #[inline]
    pub(super) fn from(self, near: u64) -> u64 {
        let low = u64::from(self.0[0]) | u64::from(self.0[1]) << 16 | u64::from(self.0[2]) << 32;
        near.wrapping_add(low.wrapping_sub(near) & MASK)
    }
}

/// The residuals of all tokens in the lines of [`BUCKETS`] neighbouring buckets, clockwise. They
/// are apart from the lines because a look-up needs them only if its position and a token's agree
/// in all bits of the prefix.
pub(super) type Page = Vec<Residual>;

/// Inserts a residual at an index of a page.
pub(super) fn insert(page: &mut Page, index: usize, residual: Residual) {
    if page.len() == page.capacity() {
        page.reserve_exact(GROWTH);
    }
    page.insert(index, residual);
}
