//! One test for each bug that this protocol had.

use super::{super::Vote, *};

/// A first prepare finds the branch doomed, and the service can't cancel it. A copy of the same
/// prepare used to be answered No at once. The coordinator sends nothing after a No, so the
/// service's reservation stayed until the coordinator was next opened.
#[test]
fn no_is_not_voted_before_the_work_is_undone() {
    let mut branch = BranchProtocol::new();
    branch.handle(BranchInput::Worked(Effort::Update));
    branch.handle(BranchInput::Refused);
    let prepare = BranchInput::Prepare(LogSharing::OwnLog);
    assert_eq!(branch.handle(prepare), Some(BranchAction::Cancel));
    assert_eq!(branch.handle(BranchInput::Failed), Some(BranchAction::Reply(BranchReply::Failed)));
    assert_eq!(branch.handle(prepare), Some(BranchAction::Cancel), "the copy");
    let no = BranchReply::Voted(Vote::No);
    assert_eq!(branch.handle(BranchInput::Cancelled), Some(BranchAction::Reply(no)));
}

/// The service of a branch that has decided alone could not confirm, and the coordinator gave up.
/// Told to roll back, the branch used to answer that it is committed, and the service was never
/// asked to confirm again.
#[test]
fn a_rollback_does_not_end_a_commit_that_the_service_has_not_confirmed() {
    let mut branch = BranchProtocol::new();
    branch.handle(BranchInput::Worked(Effort::Update));
    branch.handle(BranchInput::CommitOnePhase);
    branch.handle(BranchInput::Appended(Lsn::new(7)));
    assert_eq!(branch.handle(BranchInput::Durable(Lsn::new(7))), Some(BranchAction::Confirm));
    assert_eq!(branch.handle(BranchInput::Failed), Some(BranchAction::Reply(BranchReply::Failed)));
    assert_eq!(branch.handle(BranchInput::Rollback(LogSharing::OwnLog)), Some(BranchAction::Confirm));
    let committed = BranchAction::Reply(BranchReply::AlreadyCommitted);
    assert_eq!(branch.handle(BranchInput::Confirmed), Some(committed));
}

/// With a log of its own, the end of a promise used to be acknowledged before it was durable.
#[test]
fn the_rollback_of_a_promise_is_acknowledged_once_it_is_durable() {
    let mut branch = BranchProtocol::recovered_prepared();
    assert_eq!(branch.handle(BranchInput::Rollback(LogSharing::OwnLog)), Some(BranchAction::Cancel));
    let append = BranchAction::AppendEnded(Durability::Forced);
    assert_eq!(branch.handle(BranchInput::Cancelled), Some(append));
    assert_eq!(branch.handle(BranchInput::Appended(Lsn::new(7))), Some(BranchAction::AwaitDurable(Lsn::new(7))));
    let twin = branch.handle(BranchInput::Rollback(LogSharing::OwnLog));
    assert_eq!(twin, Some(BranchAction::Reply(BranchReply::Stale)), "not yet");
    let done = BranchAction::Reply(BranchReply::Done);
    assert_eq!(branch.handle(BranchInput::Durable(Lsn::new(7))), Some(done));
}

/// In the coordinator's own log the end of a promise need not be forced: a crash that loses it
/// stops the coordinator too, and the coordinator asks for branches in doubt when it opens.
#[test]
fn the_rollback_of_a_promise_in_the_shared_log_forces_nothing() {
    let mut branch = BranchProtocol::recovered_prepared();
    branch.handle(BranchInput::Rollback(LogSharing::SharedLog));
    let append = BranchAction::AppendEnded(Durability::Lazy);
    assert_eq!(branch.handle(BranchInput::Cancelled), Some(append));
    let done = BranchAction::Reply(BranchReply::Done);
    assert_eq!(branch.handle(BranchInput::Appended(Lsn::new(7))), Some(done));
}

/// A No would end the exchange: the coordinator would send no rollback, and a promise that the new
/// holder has of the branch would wait forever.
#[test]
fn a_branch_whose_log_was_taken_over_promises_nothing_and_votes_no_no() {
    let failed = Some(BranchAction::Reply(BranchReply::LogFailed));
    for at_append in [true, false] {
        let mut branch = BranchProtocol::new();
        branch.handle(BranchInput::Worked(Effort::Update));
        branch.handle(BranchInput::Prepare(LogSharing::OwnLog));
        if !at_append {
            branch.handle(BranchInput::Appended(Lsn::new(7)));
        }
        assert_eq!(branch.handle(BranchInput::NotDurable), failed);
        assert_eq!(branch.phase(), BranchPhase::Broken);
        assert_eq!(branch.handle(BranchInput::Rollback(LogSharing::OwnLog)), failed, "the service is not called");
    }
    let mut branch = BranchProtocol::recovered_prepared();
    branch.handle(BranchInput::Commit(LogSharing::OwnLog));
    assert_eq!(branch.handle(BranchInput::NotDurable), failed);
    assert_eq!(branch.handle(BranchInput::Commit(LogSharing::OwnLog)), failed);
}

#[test]
fn a_branch_alone_whose_commit_is_surely_not_in_the_log_has_decided_to_roll_back() {
    let mut branch = BranchProtocol::new();
    branch.handle(BranchInput::Worked(Effort::Update));
    branch.handle(BranchInput::CommitOnePhase);
    branch.handle(BranchInput::Appended(Lsn::new(7)));
    let rolled_back = BranchReply::Decided(Decision::Rollback);
    assert_eq!(branch.handle(BranchInput::NotDurable), Some(BranchAction::Reply(rolled_back)));
    assert_eq!(branch.handle(BranchInput::CommitOnePhase), Some(BranchAction::Reply(BranchReply::LogFailed)));
}
