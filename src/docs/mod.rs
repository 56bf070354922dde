//! The long explanations.

#[doc = include_str!("interop.md")]
pub mod interop {}

#[doc = include_str!("placement.md")]
pub mod placement {}

#[doc = include_str!("log_speed.md")]
pub mod log_speed {}

#[doc = include_str!("txn_speed.md")]
pub mod txn_speed {}

#[doc = include_str!("balance.md")]
pub mod balance {}

#[doc = include_str!("lookup.md")]
pub mod lookup {}

#[doc = include_str!("protocol.md")]
pub mod protocol {}

#[doc = include_str!("failures.md")]
pub mod failures {}

#[doc = include_str!("backups.md")]
pub mod backups {}

#[doc = include_str!("observing.md")]
pub mod observing {}

#[doc = include_str!("media.md")]
pub mod media {}
