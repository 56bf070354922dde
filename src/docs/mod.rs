//! The long explanations.

#[doc = include_str!("interop.md")]
pub mod interop {}

#[doc = include_str!("placement.md")]
pub mod placement {}
