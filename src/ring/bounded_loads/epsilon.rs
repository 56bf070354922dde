//! How far above the average a bounded load may be.

/// The room above the average that [`BoundedLoads`](super::BoundedLoads) leaves each node, as an exact ratio: the
/// epsilon of its capacity (1 + epsilon) x average.
///
/// A small one evens the load out, a large one keeps more keys with their owner. In expectation 1 + O(1/epsilon^2)
/// nodes are tried for a key, for epsilon below 1; a quarter, the default, is a common choice.
///
/// A ratio of integers, not a float, because "at most" is meant to the last slot.
///
/// ```
/// use ringpact::ring::Epsilon;
///
/// assert_eq!(Epsilon::percent(25)?, Epsilon::new(1, 4)?);
/// assert_eq!(Epsilon::default().as_f64(), 0.25);
/// assert!(Epsilon::new(0, 4).is_err());
/// # Ok::<(), ringpact::ring::EpsilonError>(())
/// ```
#[derive(Debug, Clone, Copy, Eq)]
pub struct Epsilon {
    /// At least 1, and at most `MAX` times the denominator.
    numerator: u32,
    /// At least 1, at most `MAX_DENOMINATOR`.
    denominator: u32,
}

/// Why a ratio is no epsilon.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EpsilonError {
    /// With none, every node but the last would have to be exactly at the average, and walks would be as long as the
    /// ring.
    #[error("epsilon is 0, and has to be above: 1/4 is usual")]
    Zero,

    /// More than [`Epsilon::MAX`], which bounds nothing.
    #[error("epsilon is {numerator}/{denominator}, over the limit of {}: use a plain ring instead", Epsilon::MAX)]
    TooLarge {
        /// What was given.
        numerator: u32,
        /// By what it was to be divided.
        denominator: u32,
    },

    /// The denominator is 0 or above [`Epsilon::MAX_DENOMINATOR`].
    #[error("epsilon's denominator is {denominator}, and has to be 1 to {}", Epsilon::MAX_DENOMINATOR)]
    Denominator {
        /// What was given.
        denominator: u32,
    },
}

impl Epsilon {
    /// The largest epsilon.
    pub const MAX: u32 = 1_000;
    /// The largest denominator, which makes a millionth the smallest epsilon.
    pub const MAX_DENOMINATOR: u32 = 1_000_000;

    /// `numerator / denominator`.
    ///
    /// # Errors
    ///
    /// [`EpsilonError`] unless the ratio is above 0 and within the two limits.
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

    /// `percent / 100`.
    ///
    /// # Errors
    ///
    /// As [`Epsilon::new`].
    pub const fn percent(percent: u32) -> Result<Self, EpsilonError> {
        Self::new(percent, 100)
    }

    /// The nearest `f64`, for display.
    pub fn as_f64(self) -> f64 {
        f64::from(self.numerator) / f64::from(self.denominator)
    }

    /// `ceil((1 + epsilon) * total * weight / total_weight)`.
    ///
    /// Summed over all nodes that is at least (1 + epsilon) * total, so above `total` - 1 unless `total` is 0: among
    /// nodes that carry `total` - 1 in all, one is below its capacity.
    pub(super) fn capacity(self, total: u64, weight: u64, total_weight: u64) -> u64 {
        // Below 2^30, so the product is below 2^30 * 2^64 * 2^32 and fits; weights fit 32 bits each.
        let scale = u128::from(self.numerator) + u128::from(self.denominator);
        let capacity = (scale * u128::from(total) * u128::from(weight))
            .div_ceil(u128::from(self.denominator) * u128::from(total_weight));
        u64::try_from(capacity).unwrap_or(u64::MAX)
    }
}

/// A quarter.
impl Default for Epsilon {
    fn default() -> Self {
        Self { numerator: 1, denominator: 4 }
    }
}

/// By value: 1/4 equals 25/100.
impl PartialEq for Epsilon {
    fn eq(&self, other: &Self) -> bool {
        let cross = |a: &Self, b: &Self| u64::from(a.numerator) * u64::from(b.denominator);
        cross(self, other) == cross(other, self)
    }
}
