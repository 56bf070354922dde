//! Shards whose data moves while clients write: gates and hosts.
//!
//! | module | what it holds to account |
//! |---|---|
//! | `hand_over` | what a host does when a hand-over fails, is repeated, or is interrupted by a restart |
//! | `ledger` | the shard that these tests use |

mod hand_over;
mod ledger;
