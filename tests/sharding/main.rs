//! Shards whose data moves while clients write: the conformance suite, gates and hosts.
//!
//! | module | what it holds to account |
//! |---|---|
//! | `cluster` | nodes join and leave a cluster: what moves, what a cancel, a pause or a crash leave, what clients see |
//! | `conformance` | the suite passes sound shards and names the rule that a broken one breaks |
//! | `gate` | what a gate answers, in each state of a position |
//! | `elsewhere` | shards, keepers and followers in other processes, and async clients |
//! | `hand_over` | what a host does when a hand-over fails, is repeated, or is interrupted by a restart |
//! | `threads` | clients write while ranges go back and forth, and hosts and coordinators crash |
//! | `plan` | what a plan and a change under way say beforehand |
//! | `reads` | clients read outside of transactions, here and from afar, while keys move |
//! | `refusals` | what a client learns of work that was not done, and what `run` tries again |
//! | `remote` | shards in other processes, which hear of the coordinator only what is sent to them |
//! | `opening` | what must not open, because something was lost or confused |
//! | `lost_log` | the log of a cluster's or a follower's coordinator is gone, or an older copy |
//! | `new_service` | a service that is added to a cluster later |
//! | `operator` | what an operator does to a change, and what must not stop one |
//! | `ledger`, `town` | the shard that these tests use, and a cluster of them |

mod cluster;
mod conformance;
mod elsewhere;
mod gate;
mod hand_over;
mod ledger;
mod lost_log;
mod new_service;
mod opening;
mod operator;
mod plan;
mod reads;
mod refusals;
mod remote;
mod threads;
mod town;

/// Whether the long form of the tests is asked for: `RINGPACT_LONG=1`.
fn long_form() -> bool {
    std::env::var_os("RINGPACT_LONG").is_some_and(|value| value != "0")
}
