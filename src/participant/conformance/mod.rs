//! The suite that every [`Participant`] must pass. For one of your own, write a [`Harness`] and
//! call [`check`]. For one with asynchronous methods, write an `AsyncHarness` and call
//! `check_async` (feature `tokio`).
//!
//! ```no_run
//! use ringpact::participant::conformance::{self, Effect, Harness, Worked};
//! # use std::sync::Arc;
//! # use ringpact::{BranchId, Name, Participant};
//! # struct MyHarness;
//! impl Harness for MyHarness {
//!     // .. how to have the participant work, crash it, and look at what it has done
//! #   fn name(&self) -> Name { todo!() }
//! #   fn participant(&self) -> Arc<dyn Participant> { todo!() }
//! #   fn work(&self, _: &BranchId) -> Worked { todo!() }
//! #   fn refused_work(&self, _: &BranchId) { todo!() }
//! #   fn effect(&self, _: &BranchId) -> Effect { todo!() }
//! #   fn crash(&mut self) { todo!() }
//! }
//! let report = conformance::check(|| MyHarness);
//! assert_eq!(report.skipped, ["a branch that only looked votes read-only"]);
//! ```
//!
//! Each check gets a fresh participant. A check that fails panics with its name and with what it
//! saw. A check that the harness can't run is listed in [`Report::skipped`], so that what was not
//! checked is not taken for correct.
//!
//! | file, in reading order | what is in it |
//! |---|---|
//! | `mod.rs` | [`Harness`], [`check`] and [`Report`] |
//! | `case.rs` | the steps that the checks are made of |
//! | `checks.rs` | the checks, and the table of their names |
//! | `lives.rs` | the checks of lives: which coordinator the participant listens to |
//! | `last_resource.rs` | the suite for last resources: [`check_last_resource`] |
//! | `asynchronous.rs` | the same suites for asynchronous participants and last resources |

use std::sync::Arc;

use super::Participant;
use crate::{
    id::{BranchId, Name},
    log::LogId,
};

#[cfg(feature = "tokio")]
mod asynchronous;
mod case;
mod checks;
mod last_resource;
mod lives;

#[cfg(feature = "tokio")]
pub use asynchronous::{AsyncHarness, check_async, check_async_last_resource};
use case::Case;
use checks::{Ran, checks};
pub use last_resource::{LastResourceHarness, check_last_resource};

/// A coordinator's log that no participant shares.
const SEPARATE_LOG: LogId = LogId::from_bytes(*b"conformance-test");

/// How the suite handles a participant: has it work, crashes it, and looks at what it has done.
pub trait Harness {
    /// Returns the participant's name. All branches of the suite are for it.
    fn name(&self) -> Name;

    /// Returns the participant as it runs now. The suite drops it before it calls
    /// [`crash`](Self::crash).
    fn participant(&self) -> Arc<dyn Participant>;

    /// Has the participant do valid work under the branch that changes something.
    fn work(&self, branch: &BranchId) -> Worked;

    /// Has the participant refuse work under the branch for reasons of its own, such as a lack of
    /// stock.
    fn refused_work(&self, branch: &BranchId);

    /// Has the participant do work under the branch that only reads. The default implementation
    /// returns `None`: there is no such work.
    fn read_only_work(&self, branch: &BranchId) -> Option<Worked> {
        let _ = branch;
        None
    }

    /// Returns what can be seen of the branch's work.
    fn effect(&self, branch: &BranchId) -> Effect;

    /// Stops the participant as a crash of its machine would, so that it writes nothing more, and
    /// opens it again on what is durable.
    fn crash(&mut self);

    /// Returns the log in which the coordinator keeps its decisions. The default implementation
    /// returns one that no participant shares.
    fn coordinator_log(&self) -> LogId {
        SEPARATE_LOG
    }

    /// Whether the participant remembers which [lives](super::Life) of coordinators it has met, and
    /// refuses those that do not continue them. The default implementation returns `true`. A
    /// participant that accepts every life, as the default [`Participant::meet`] does, lets
    /// transactions be torn apart when a coordinator's log is lost or copied. If the harness returns
    /// `false`, nothing about lives is checked.
    fn remembers_lives(&self) -> bool {
        true
    }

    /// Whether work that was answered survives a crash although nothing was promised, as rows in a
    /// database do. Then a branch may still promise after a crash. The default implementation returns
    /// `false`: such a branch must vote No, because its work may be lost.
    fn keeps_work(&self) -> bool {
        false
    }

    /// Makes the coordinator's log durable, as its next decision would. Only a harness for
    /// participants that [share](super::Call::log) that log has something to do here: what they
    /// wrote there is durable when this returns.
    fn coordinator_syncs(&self) {}
}

/// What became of a piece of work. Exhaustive on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "the suite handles each of them")]
pub enum Worked {
    /// The work is done, under the branch.
    Done,
    /// The branch takes no more work.
    Refused,
}

/// What can be seen of a branch's work. Exhaustive on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "the suite handles each of them")]
pub enum Effect {
    /// Nothing was changed, and nothing is set aside.
    Absent,
    /// What the work needs is set aside. Other work sees no change.
    Reserved,
    /// The work has taken effect.
    Applied {
        /// Number of times; 1 if the participant is correct.
        times: usize,
    },
}

/// What was checked and what was not.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
#[must_use = "look at `skipped`: what was skipped was not checked"]
pub struct Report {
    /// The checks that the participant has passed.
    pub passed: Vec<&'static str>,
    /// The checks that the harness could not run.
    pub skipped: Vec<&'static str>,
}

/// Runs all checks, each against a fresh participant from `make`. Blocks until all have run.
///
/// # Panics
///
/// At the first check that fails, with its name.
pub fn check<H: Harness>(make: impl Fn() -> H) -> Report {
    let mut report = Report { passed: Vec::new(), skipped: Vec::new() };
    for (name, run) in checks() {
        match run(&mut Case::new(name, make())) {
            Ran::Passed => report.passed.push(name),
            Ran::Skipped => report.skipped.push(name),
        }
    }
    report
}
