//! What carries transactions out: threads, participants, and the state that transactions share.
//!
//! Read `transaction_driver/drive.rs` first: the loop of one transaction.
//!
//! | file | contents |
//! |---|---|
//! | `transaction_driver/` | one transaction under way: the thin driver around its protocol |
//! | `coordinator_core/` | what all transactions of a coordinator share |
//! | `scheduler.rs` | the coordinator's threads: a clock, and workers |
//! | `pause.rs` | waits by the coordinator's clock |
//! | `lanes.rs` | the threads on which the coordinator calls one participant |
//! | `members.rs` | the participants, and how each is reached |
//! | `circuit/` | one participant's circuit, pure |
//! | `breakers.rs` | connects circuits with transactions |
//! | `observe/` | spans and metrics |

pub(super) mod breakers;
pub(super) mod circuit;
pub(super) mod coordinator_core;
pub(super) mod lanes;
pub(super) mod members;
pub(super) mod observe;
pub(super) mod pause;
pub(super) mod scheduler;
pub(super) mod transaction_driver;
