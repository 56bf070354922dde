//! Placement and atomic commit for sharded, multi-service backends.
#![forbid(unsafe_code)]
#![warn(missing_docs)]

pub mod registry;
pub mod ring;
