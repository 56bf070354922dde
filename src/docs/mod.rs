//! The long explanations, by reader.
//!
//! | you are | read |
//! |---|---|
//! | starting | [getting started](getting_started), [choose a participant](participants), [databases], [your first cluster](first_cluster), [sharded services](sharding), [use it from async code](async_code) |
//! | operating it | [deploy], [backups and moving](backups), [runbook by symptom](runbook), [observing], [what happens when something fails](failures) |
//! | looking something up | [the protocol](protocol), [where a key goes](placement), [balanced tokens](balance), [rings as other software has them](interop), [the log's format and its medium](media) |
//! | wondering why | [how a key is looked up](lookup), [how fast the log is](log_speed), [what a transaction costs](txn_speed) |

#[doc = include_str!("getting_started.md")]
pub mod getting_started {}

#[doc = include_str!("participants.md")]
pub mod participants {}

#[doc = include_str!("databases.md")]
pub mod databases {}

#[doc = include_str!("first_cluster.md")]
pub mod first_cluster {}

#[doc = include_str!("sharding.md")]
#[doc = include_str!("move.svg")]
pub mod sharding {}

#[doc = include_str!("async_code.md")]
pub mod async_code {}

#[doc = include_str!("deploy.md")]
pub mod deploy {}

#[doc = include_str!("backups.md")]
pub mod backups {}

#[doc = include_str!("runbook.md")]
pub mod runbook {}

#[doc = include_str!("observing.md")]
pub mod observing {}

#[doc = include_str!("failures.md")]
pub mod failures {}

#[doc = include_str!("protocol.md")]
pub mod protocol {}

#[doc = include_str!("placement.md")]
pub mod placement {}

#[doc = include_str!("balance.md")]
pub mod balance {}

#[doc = include_str!("interop.md")]
pub mod interop {}

#[doc = include_str!("media.md")]
pub mod media {}

#[doc = include_str!("lookup.md")]
pub mod lookup {}

#[doc = include_str!("log_speed.md")]
pub mod log_speed {}

#[doc = include_str!("txn_speed.md")]
pub mod txn_speed {}
