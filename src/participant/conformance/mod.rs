//! The suite that every [`Participant`] is held to. Yours, too: write a [`Harness`] for it and call [`check`].
//!
//! ```no_run
//! use ringpact::participant::conformance::{self, Effect, Harness, Worked};
//! # use std::sync::Arc;
//! # use ringpact::{BranchId, Name, Participant};
//! # struct MyHarness;
//! impl Harness for MyHarness {
//!     // .. how to work at the participant, crash it, and look at what it has done
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
//! Each check gets a fresh participant. A check that fails panics with its name and with what it saw instead; one that
//! the harness can't run is named in [`Report::skipped`], so that what was not checked is not taken for correct.

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

#[cfg(feature = "tokio")]
pub use asynchronous::{AsyncHarness, check_async};
use case::Case;
use checks::{Ran, checks};

/// A coordinator's log that no participant shares.
const SEPARATE_LOG: LogId = LogId::from_bytes(*b"conformance-test");

/// How the suite handles a participant: makes it work, crashes it, looks at it.
pub trait Harness {
    /// The participant's name: all branches of the suite are for it.
    fn name(&self) -> Name;

    /// The participant as it runs now. The suite drops what it was given before it calls [`crash`](Self::crash).
    fn participant(&self) -> Arc<dyn Participant>;

    /// Has it do, under the branch, some work that changes something and that nothing is wrong with.
    fn work(&self, branch: &BranchId) -> Worked;

    /// Has it refuse, under the branch, some work for reasons of its own (stock that is out, a limit that is passed).
    fn refused_work(&self, branch: &BranchId);

    /// Has it do, under the branch, some work that only looks. `None`, as provided, where it has no such work.
    fn read_only_work(&self, branch: &BranchId) -> Option<Worked> {
        let _ = branch;
        None
    }

    /// What there is to be seen of the branch's work.
    fn effect(&self, branch: &BranchId) -> Effect;

    /// Stops the participant as a crash of its machine would, without giving it a chance to write anything down, and
    /// opens it again on what is durable.
    fn crash(&mut self);

    /// The log in which the coordinator keeps its decisions. As provided one that no participant shares.
    fn coordinator_log(&self) -> LogId {
        SEPARATE_LOG
    }

    /// Makes the coordinator's log durable, as its next decision would. Only participants that
    /// [share](super::Call::log) that log have anything to do here: what they wrote there is durable from here on.
    fn coordinator_syncs(&self) {}
}

/// What became of a piece of work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Worked {
    /// It is done, under the branch.
    Done,
    /// The branch takes no more work.
    Refused,
}

/// What there is to be seen of a branch's work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Nothing: neither was anything changed, nor is anything set aside.
    Absent,
    /// What it needs is set aside; nobody else sees a change.
    Reserved,
    /// It has happened, this many times.
    Applied {
        /// 1, if all is well.
        times: usize,
    },
}

/// What was checked and what was not.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use = "look at `skipped`: what was skipped was not checked"]
pub struct Report {
    /// The checks that the participant has passed.
    pub passed: Vec<&'static str>,
    /// The checks that the harness could not run.
    pub skipped: Vec<&'static str>,
}

/// Runs all checks, each against a fresh participant from `make`.
///
/// # Panics
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
