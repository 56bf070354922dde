//! The protocol, checked by search: production's state machines in worlds that are small enough to
//! be searched whole.
//!
//! | file | what it checks |
//! |---|---|
//! | `state_space.rs` | every state that coordinator, participants, logs and network can reach |
//! | `two_phase_commit.rs` | the machines beside the textbook's specification, state by state |
//! | `identity.rs`, `identity_model.rs` | what lost, copied and restored logs can do to participants |
//! | `sharding/` | hand-overs between shards: gates, branches, the ring's record, clients and crashes |
//! | `remote_log.rs` | holders of one log on an engine that others can reach: lost and late answers, takeovers |
//! | `regressions.rs` | bugs that the search found, each as it showed outside |
//! | `support/` | the world that `state_space.rs` searches; start at its `mod.rs` |

#[path = "../common/mod.rs"]
mod common;
mod identity;
mod identity_model;
mod regressions;
mod remote_log;
mod sharding;
mod state_space;
mod support;
mod two_phase_commit;
