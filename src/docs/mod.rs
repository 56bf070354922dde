//! The long explanations.

#[doc = include_str!("placement.md")]
pub mod placement {}
