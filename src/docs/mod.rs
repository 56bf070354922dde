//! The long explanations.

#[doc = include_str!("placement.md")]
pub mod placement {}

#[doc = include_str!("balance.md")]
pub mod balance {}

#[doc = include_str!("lookup.md")]
pub mod lookup {}
