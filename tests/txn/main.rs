//! Transactions, from `begin` to the last acknowledgement: one behaviour a module.
//!
//! | module | what it asserts |
//! |---|---|
//! | **in the usual case** | |
//! | `commit` | a transaction commits at all participants or at none, for the forced writes that the design says |
//! | `shapes` | transactions of unusual shapes, and names that are refused |
//! | `membership`, `retiring` | participants are added and retire while the coordinator is open |
//! | `withdrawn` | a transaction goes on without a participant that has done nothing for it |
//! | `last_resource` | a participant that cannot prepare is asked last, and decides |
//! | `last_resource_remembers` | one that remembers what it has committed is asked, and the others follow it |
//! | `last_resource_async` | the same of one with asynchronous methods |
//! | `asynchronous` | asynchronous participants and others in one transaction |
//! | `run` | `Coordinator::run` tries a transaction again while what fails is transient |
//! | `async_calls` | the coordinator's calls for async code, on no runtime |
//! | `answers` | errors say what to do: at the first work that is too large, and with a No's reason |
//! | `delivered` | what `Commit::delivered` waits for |
//! | `verdicts` | a participant asks how a branch ended |
//! | `status` | what an operator sees, without waiting |
//! | `back_pressure` | above its limits a coordinator makes transactions wait, or refuses them |
//! | **when something fails** | |
//! | `faults` | participants refuse, fail, panic or cannot be reached |
//! | `bad_participant` | one bad participant costs other transactions nothing |
//! | `circuits` | a participant that does not keep up gets no more work |
//! | `deadlines`, `time` | time-outs and back-off |
//! | `unattended` | transactions end whatever becomes of the `Commit` |
//! | `heuristics` | branches that ended otherwise than decided |
//! | `parking` | decisions that cannot be delivered |
//! | `log_faults`, `commit_is_indeterminate` | the log refuses or fails |
//! | `fenced` | another holder takes the coordinator's log over |
//! | `fenced_participants` | the same of a resource manager's log; two coordinators, old and new, on shared participants |
//! | `foreign` | wakers that panic, late drops, work during a shutdown |
//! | **over restarts** | |
//! | `recovery` | a coordinator that is opened again settles what it left |
//! | `identity` | logs that were lost, copied, restored or opened twice |
//! | `shutdown`, `outlived_coordinator`, `gone_branches` | what a shutdown and a drop leave |
//! | **in large numbers** | |
//! | `ends_together` | many ends go to the log at once, and participants forget nothing too early |
//! | `stress` | totals are exact after many transactions on many threads |
//! | `elsewhere` | bugs of other coordinators, which this one must not have |
//!
//! Tests that need a process of their own are beside this folder: `txn_cost`, `txn_threads`,
//! `txn_is_observed`.

#[path = "../common/mod.rs"]
mod common;
mod support;

#[cfg(feature = "tokio")]
mod answers;
mod async_calls;
#[cfg(feature = "tokio")]
mod asynchronous;
mod back_pressure;
mod bad_participant;
mod circuits;
mod commit;
mod commit_is_indeterminate;
mod deadlines;
#[cfg(feature = "tokio")]
mod delivered;
mod elsewhere;
mod ends_together;
mod faults;
mod fenced;
mod fenced_participants;
mod foreign;
mod gone_branches;
mod heuristics;
mod identity;
mod last_resource;
#[cfg(feature = "tokio")]
mod last_resource_async;
mod last_resource_remembers;
mod log_faults;
mod membership;
mod outlived_coordinator;
mod parking;
mod recovery;
mod retiring;
mod run;
mod shapes;
mod shutdown;
mod status;
mod stress;
mod time;
mod unattended;
mod verdicts;
mod withdrawn;
