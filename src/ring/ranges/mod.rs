//! Sets of positions, and values for positions.
//!
//! In reading order: [`map`] has the map, on which all else is built; [`set`] has the set.

mod map;
mod set;

pub use map::RangeMap;
pub use set::RangeSet;
