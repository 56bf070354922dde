//! Which failures are transient. Pure, but for the participants that are asked.

use std::{
    error::Error as StdError,
    panic::{AssertUnwindSafe, catch_unwind},
};

use super::RunError;
use crate::{
    causes,
    participant::{ParticipantError, RefusedForNow},
    txn::{BeginError, BranchError, CommitError, DeliveryError, RollbackCause},
};

type Link<'a> = &'a (dyn StdError + 'static);

/// Says which failures are transient. `recognises` asks the participants about one error.
pub(super) struct Judge<A>(A);

/// What one error of a chain says about the whole.
enum Sign {
    /// A new attempt may succeed.
    Transient,
    /// No new attempt may be made, whatever the other errors say.
    Final,
    /// Nothing.
    Unknown,
}

impl<A: Fn(Link<'_>) -> bool> Judge<A> {
    pub(super) const fn new(recognises: A) -> Self {
        Self(recognises)
    }

    /// Whether an attempt that failed in this way was certainly rolled back, and a new one may succeed.
    pub(super) fn is_transient(&self, failed: &RunError) -> bool {
        match failed {
            RunError::Work(error) => self.is_chain_transient(&**error),
            RunError::RolledBack(error) => self.is_chain_transient(&**error),
            RunError::GaveUp { .. } | RunError::Indeterminate(_) | RunError::Heuristic(_) | RunError::Kept { .. } => {
                false
            }
        }
    }

    /// Looks at an error and its sources. One that is final decides, wherever it is.
    fn is_chain_transient(&self, error: Link<'_>) -> bool {
        let mut is_transient = false;
        for link in causes(error) {
            match self.sign(link) {
                Sign::Transient => is_transient = true,
                Sign::Final => return false,
                Sign::Unknown => {}
            }
        }
        is_transient
    }

    fn sign(&self, error: Link<'_>) -> Sign {
        if let Some(CommitError::RolledBack { cause: RollbackCause::Failed { error, .. }, .. }) = error.downcast_ref() {
            return self.sign(error); // the text of the whole includes it, so it is no cause
        }
        if error.is::<RefusedForNow>() {
            return Sign::Transient;
        }
        if error.is::<RunError>() {
            // It has been tried again already. Attempts inside attempts would multiply.
            return Sign::Final;
        }
        let own = error.downcast_ref().map(of_commit).or_else(|| match error.downcast_ref()? {
            DeliveryError::NotCommitted(error) => Some(of_commit(error)),
            DeliveryError::Parked { .. } | DeliveryError::Abandoned { .. } | DeliveryError::Fenced { .. } => {
                Some(Sign::Final)
            }
        });
        let own = own.or_else(|| error.downcast_ref().map(of_branch)).or_else(|| error.downcast_ref().map(of_begin));
        match own.or_else(|| error.downcast_ref().map(of_participant)) {
            Some(Sign::Unknown) | None if self.recognises(error) => Sign::Transient,
            sign => sign.unwrap_or(Sign::Unknown),
        }
    }

    /// A participant that panics over an error has not recognised it.
    fn recognises(&self, error: Link<'_>) -> bool {
        catch_unwind(AssertUnwindSafe(|| (self.0)(error))).unwrap_or(false)
    }
}

fn of_commit(error: &CommitError) -> Sign {
    let CommitError::RolledBack { cause, .. } = error else { return Sign::Final };
    match cause {
        RollbackCause::TimedOut | RollbackCause::Expired => Sign::Transient,
        // The reason is looked at as the next link.
        RollbackCause::VotedNo { .. } | RollbackCause::Failed { .. } => Sign::Unknown,
        RollbackCause::Requested | RollbackCause::LogRefused { .. } | RollbackCause::Fenced { .. } => Sign::Final,
    }
}

const fn of_branch(error: &BranchError) -> Sign {
    match error {
        BranchError::Over { .. } | BranchError::Refused { .. } | BranchError::Retiring { .. } => Sign::Transient,
        BranchError::UnknownParticipant { .. }
        | BranchError::Fenced { .. }
        | BranchError::SecondLastResource { .. }
        | BranchError::NotEnlisted { .. }
        | BranchError::Name(_) => Sign::Final,
    }
}

const fn of_begin(error: &BeginError) -> Sign {
    match error {
        BeginError::InFlight { .. } | BeginError::LogQueue { .. } => Sign::Transient,
        BeginError::ShuttingDown | BeginError::Fenced => Sign::Final,
    }
}

/// A participant that gives no answer may give one soon. A wrong name, another log or a log that has
/// failed stay as they are. A blocked runtime would be blocked again.
const fn of_participant(error: &ParticipantError) -> Sign {
    match error {
        ParticipantError::Unreachable | ParticipantError::Busy | ParticipantError::CircuitOpen => Sign::Transient,
        _ => Sign::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use std::{fmt, io, sync::Arc};

    use super::*;
    use crate::id::{Epoch, Name, TxnId};

    #[derive(Debug)]
    struct Deadlock;

    impl fmt::Display for Deadlock {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("deadlock")
        }
    }

    impl StdError for Deadlock {}

    fn txn() -> TxnId {
        TxnId::new(Name::from_static("c"), Epoch::new(1), 1)
    }

    fn rolled_back(cause: RollbackCause) -> CommitError {
        CommitError::RolledBack { txn: txn(), cause }
    }

    fn failed(error: ParticipantError) -> CommitError {
        rolled_back(RollbackCause::Failed { participant: Name::from_static("goods"), error })
    }

    fn is_transient(failed: &RunError) -> bool {
        Judge::new(|error: Link<'_>| error.is::<Deadlock>()).is_transient(failed)
    }

    fn work(error: impl Into<super::super::WorkError>) -> bool {
        is_transient(&RunError::Work(error.into()))
    }

    fn commit(error: CommitError) -> bool {
        is_transient(&RunError::of_commit(error))
    }

    #[test]
    fn a_participants_error_is_found_wherever_it_is_in_the_chain() {
        assert!(work(Deadlock));
        assert!(work(io::Error::other(Deadlock)));
        assert!(work(ParticipantError::resource(Deadlock)));
        assert!(work(ParticipantError::refused(io::Error::other(Deadlock))));
        assert!(commit(failed(ParticipantError::resource(Deadlock))));
        let reason: Arc<dyn StdError + Send + Sync> = Arc::new(Deadlock);
        let participant = Name::from_static("goods");
        assert!(commit(rolled_back(RollbackCause::VotedNo { participant, reason: Some(reason) })));
        assert!(!work("deadlock"), "a text is no error of the participant's type");
    }

    #[test]
    fn of_the_crates_own_errors_those_are_transient_that_say_so() {
        assert!(commit(rolled_back(RollbackCause::TimedOut)) && commit(rolled_back(RollbackCause::Expired)));
        assert!(commit(failed(ParticipantError::Unreachable)) && commit(failed(ParticipantError::CircuitOpen)));
        assert!(work(BranchError::Over { txn: txn() }) && work(BeginError::InFlight { limit: 1 }));
        assert!(!commit(rolled_back(RollbackCause::Requested)) && !commit(failed(ParticipantError::Panicked)));
        assert!(!commit(rolled_back(RollbackCause::LogRefused { error: crate::LogError::Closed })));
        assert!(!commit(rolled_back(RollbackCause::VotedNo { participant: Name::from_static("goods"), reason: None })));
        assert!(!work(BeginError::ShuttingDown) && !work("no money"));
    }

    /// A bug: databases hid the reason, so clients spun at the error while their database was down.
    #[cfg(feature = "tokio")]
    #[test]
    fn a_refusal_of_the_branch_is_found_in_the_errors_of_databases() {
        use crate::participant::{tables::TableWorkError, xa::XaWorkError};
        let over = || BranchError::Over { txn: txn() };
        assert!(work(XaWorkError::from(over())) && work(TableWorkError::from(over())));
        assert!(work(io::Error::other(XaWorkError::from(over()))));
    }

    /// The source of this error is a deadlock; the outcome is not known all the same.
    #[test]
    fn an_outcome_that_is_not_known_is_final_also_inside_the_error_of_the_work() {
        let indeterminate = || CommitError::Indeterminate {
            txn: txn(),
            error: None,
            participant_error: Some(Box::new(ParticipantError::resource(Deadlock))),
        };
        assert!(!commit(indeterminate()));
        assert!(!work(indeterminate()));
        assert!(!work(io::Error::other(indeterminate())));
        assert!(!work(DeliveryError::NotCommitted(indeterminate())));
        assert!(!work(RunError::Work(Deadlock.into())), "attempts inside attempts do not multiply");
    }

    #[test]
    fn a_chain_without_an_end_and_a_participant_that_panics_do_no_harm() {
        #[derive(Debug)]
        struct Circular;
        impl fmt::Display for Circular {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("round")
            }
        }
        impl StdError for Circular {
            fn source(&self) -> Option<&(dyn StdError + 'static)> {
                Some(self)
            }
        }
        assert!(!work(Circular));
        let judge = Judge::new(|_: Link<'_>| panic!("the test wants this to panic"));
        assert!(!judge.is_transient(&RunError::Work(Deadlock.into())));
    }
}
