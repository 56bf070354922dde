//! The room above the average that a bounded load may take.

/// The room above the average that [`BoundedLoads`](super::BoundedLoads) leaves each node, as an
/// exact ratio: the epsilon of its capacity (1 + epsilon) x average. It is a small value that is
/// copied.
///
/// A small epsilon evens the load out, a large one keeps more keys with their owner. For epsilon
/// below 1, the expected number of nodes that are tried for a key is 1 + O(1/epsilon^2). A quarter,
/// the default, is a common choice.
///
/// It is a ratio of integers, not a float, because the bound is exact to the last slot.
///
/// ```
/// use ringpact::ring::Epsilon;
///
/// assert_eq!(Epsilon::percent(25)?, Epsilon::new(1, 4)?);
/// assert_eq!(Epsilon::default().as_f64(), 0.25);
/// assert!(Epsilon::new(0, 4).is_err());
/// # Ok::<(), ringpact::ring::EpsilonError>(())
/// ```
#[derive(Clone, Copy, Debug, Eq)]
pub struct Epsilon {
    /// From 1 to `MAX` times the denominator.
    numerator: u32,
    /// From 1 to `MAX_DENOMINATOR`.
    denominator: u32,
}

/// Why a ratio is not accepted as an epsilon.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EpsilonError {
    /// The ratio is 0. Then every node except the last would have to be exactly at the average, and
    /// walks would be as long as the ring.
    #[error("epsilon is 0, and has to be above 0: 1/4 is usual")]
    Zero,

    /// The ratio is above [`Epsilon::MAX`], which would bound nothing.
    #[error("epsilon is {numerator}/{denominator}, over the limit of {}: use a plain ring instead", Epsilon::MAX)]
    TooLarge {
        /// The rejected numerator.
        numerator: u32,
        /// The rejected denominator.
        denominator: u32,
    },

    /// The denominator is 0 or above [`Epsilon::MAX_DENOMINATOR`].
    #[error("epsilon's denominator is {denominator}, and has to be 1 to {}", Epsilon::MAX_DENOMINATOR)]
    Denominator {
        /// The rejected denominator.
        denominator: u32,
    },
}

impl Epsilon {
    /// Maximum epsilon.
    pub const MAX: u32 = 1_000;
    /// Maximum denominator. So a millionth is the smallest epsilon.
    pub const MAX_DENOMINATOR: u32 = 1_000_000;

    /// Returns the epsilon `numerator / denominator`.
    ///
    /// # Errors
    ///
    /// [`EpsilonError`] if the ratio is 0 or outside of the two limits.
    pub const fn new(numerator: u32, denominator: u32) -> Result<Self, EpsilonError> {
        if denominator == 0 || denominator > Self::MAX_DENOMINATOR {
            return Err(EpsilonError::Denominator { denominator });
        }
        if numerator == 0 {
            return Err(EpsilonError::Zero);
        }
        if numerator > Self::MAX * denominator {
            return Err(EpsilonError::TooLarge { numerator, denominator });
        }
        Ok(Self { numerator, denominator })
    }

    /// Returns the epsilon `percent / 100`.
    ///
    /// # Errors
    ///
    /// The errors of [`Epsilon::new`].
    pub const fn percent(percent: u32) -> Result<Self, EpsilonError> {
        Self::new(percent, 100)
    }

    /// Returns the nearest `f64`, for display.
    #[must_use]
    pub fn as_f64(self) -> f64 {
        f64::from(self.numerator) / f64::from(self.denominator)
    }

    /// Returns `ceil((1 + epsilon) * total * weight / total_weight)`.
    ///
    /// The sum over all nodes is at least (1 + epsilon) * total, which is above `total` - 1 unless
    /// `total` is 0. So among nodes that have `total` - 1 slots in all, at least one is below its
    /// capacity.
    pub(super) fn capacity(self, total: u64, weight: u64, total_weight: u64) -> u64 {
        // The scale is below 2^30 and a weight below 2^32, so the product is below 2^30 * 2^64 *
        // 2^32 and fits.
        let scale = u128::from(self.numerator) + u128::from(self.denominator);
        let capacity = (scale * u128::from(total) * u128::from(weight))
            .div_ceil(u128::from(self.denominator) * u128::from(total_weight));
        u64::try_from(capacity).unwrap_or(u64::MAX)
    }
}

/// The default is a quarter.
impl Default for Epsilon {
    fn default() -> Self {
        Self { numerator: 1, denominator: 4 }
    }
}

/// Epsilons are compared by value: 1/4 equals 25/100.
impl PartialEq for Epsilon {
    fn eq(&self, other: &Self) -> bool {
        let cross = |a: &Self, b: &Self| u64::from(a.numerator) * u64::from(b.denominator);
        cross(self, other) == cross(other, self)
    }
}
