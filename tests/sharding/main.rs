//! Shards whose data moves while clients write: the conformance suite, gates and hosts.
//!
//! | module | what it holds to account |
//! |---|---|
//! | `conformance` | the suite passes sound shards and names the rule that a broken one breaks |
//! | `hand_over` | what a host does when a hand-over fails, is repeated, or is interrupted by a restart |
//! | `ledger` | the shard that these tests use |

mod conformance;
mod hand_over;
mod ledger;
