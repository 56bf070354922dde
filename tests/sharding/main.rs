//! Shards whose data moves while clients write: the conformance suite, gates and hosts.
//!
//! | module | what it holds to account |
//! |---|---|
//! | `conformance` | the suite passes sound shards and names the rule that a broken one breaks |
//! | `hand_over` | what a host does when a hand-over fails, is repeated, or is interrupted by a restart |
//! | `threads` | clients write while ranges go back and forth, and hosts and coordinators crash |
//! | `ledger` | the shard that these tests use |

mod conformance;
mod hand_over;
mod ledger;
mod threads;

/// Whether the long form of the tests is asked for: `RINGPACT_LONG=1`.
fn long_form() -> bool {
    std::env::var_os("RINGPACT_LONG").is_some_and(|value| value != "0")
}
