//! The participant's side: what crosses the wire, the pool of threads, the conformance suite, and
//! resource managers.
//!
//! | module | what it holds to account |
//! |---|---|
//! | `conformance` | the suite passes sound participants and names the rule that a broken one breaks |
//! | `conformance_async` | the same of asynchronous participants (feature `tokio`) |
//! | `names` | a participant is registered under its own name |
//! | `wire` | requests, answers and errors keep their form in JSON and in postcard |
//! | `pool` | a slow participant's threads: bounded, started when needed, not lost |
//! | `concurrency` | calls for one branch at the same time have one outcome |
//! | `inside` | a service that comes back to its own resource manager is answered |
//! | `misbehaviour` | services that fail or panic, and messages that are wrong |
//! | `refusals` | a refusal that does not doom leaves the branch as it was |
//! | `restart` | what a resource manager restores after a restart |
//! | `serialisation` | work that panics while it is serialised or read stays with its branch |
//! | `xa`, `tables` | participants that keep their data in a database, which can prepare or not (feature `tokio`) |
//! | `lives` | random lives of such participants |
//! | `checkpoint` | what a resource manager forgets, and when |

#[path = "../txn/support/mod.rs"]
mod txn_support;

mod checkpoint;
mod concurrency;
mod conformance;
#[cfg(feature = "tokio")]
mod conformance_async;
mod inside;
#[cfg(feature = "tokio")]
mod lives;
mod misbehaviour;
mod names;
mod pool;
mod refusals;
mod restart;
mod serialisation;
#[cfg(feature = "tokio")]
mod tables;
mod wire;
#[cfg(feature = "tokio")]
mod xa;
