//! The protocol's state space, searched exhaustively with the production code.
//!
//! [`support`](crate::support) says what the world consists of and what can happen in it.
//! These statements hold in every state that can be reached (`support/checks.rs`):
//!
//! - No participant has committed while another one has rolled back or lost its work. No
//!   participant has done both.
//! - A client that was told "committed" finds every branch committed, or sure to be. A client that
//!   was told "rolled back" finds no branch committed. A client is told one thing, and is told
//!   something in the end.
//! - No branch ends otherwise than decided, unless an operator made it do so.
//! - Branches may end differently because an operator decided so, or because nothing certain is
//!   known of a last resource. Such a transaction is not over before an operator has seen it.
//! - With two participants or more, there is no effect, and no word of one, before the decision is
//!   durable.
//! - From the state, moves that need neither luck nor a fault lead to a state in which the
//!   coordinator and all branches are finished. So every run in which crashes stop comes to an end.
//!   A log that has failed counts as opened again in the end.
//!
//! A single participant decides by itself (one-phase commit), and its client may be told
//! "indeterminate". The other statements hold for it unchanged.
//!
//! # Bounds
//!
//! **One and two participants are searched without any bound**: any number of losses, repeats,
//! delays, crashes of either side (also during recovery from another crash), failed logs and
//! failing services. The space is finite all the same, for three reasons. A request that was lost
//! or delivered becomes a ghost, which may turn up again forever (`support/world.rs`). A log holds
//! only what is live. Time-outs of zero make a tick possible whenever there is a deadline.
//!
//! With three participants a run holds at most *one fault*: a crash, a failed log, a lost or
//! repeated message, a false or late report of a failure, a service or log that fails once. There
//! is still no bound on the order of deliveries and syncs, on when and how often the clock ticks
//! (so every time-out, and any number of repeats), on what a crash leaves of a log, or on how the
//! participants vote. A third participant adds the case that two cannot have: two agree and one
//! differs. Each branch talks with the coordinator only, so two participants already show what
//! faults do to a branch.
//!
//! With a *last resource* and one participant that can promise there is no bound either; with two
//! such participants the bound is one fault. If a last resource *that does not remember* has committed
//! and the client was told nothing for certain, the other branches may end in any way: that is its
//! window. With one that *remembers* all statements hold. What an *operator* does by hand is searched with one fault, and with two faults by
//! `RINGPACT_LONG=1`.
//!
//! Branches that the client *withdraws* have a search of their own, because each participant more that may
//! be withdrawn multiplies the states. There is no bound on faults with one and two participants; with three
//! the search holds none, and one by `RINGPACT_LONG=1`.
//!
//! # What is not in it
//!
//! An operator tells no lies: the operator says how branches have ended only once they have ended.
//! If a branch was reported and the log knew nothing of it, it is unknown whether it was the only
//! one. So it is no news that it may have committed.
//!
//! A takeover counts as a fault, and a run holds at most one. Participants on the coordinator's log move
//! along with it, so takeovers are searched for participants with logs of their own.
//!
//! There is one transaction only; other transactions show in the `ended_below` that they carry.
//! Work may come after a restart has taken its tombstone away. The checkpoint that knows its
//! transaction to have ended undoes it (`tests/participant/restart.rs`), not the protocol. Here
//! work comes late only in runs without a crash.
//!
//! Run with `--nocapture` for a line about each search and the traces of the mutants.

use std::time::Instant;

use crate::{
    common,
    support::{
        Crashes::{Impossible, Possible},
        LastResource, Model, Move, Mutant,
        Role::{self, Declines, HearsLate, Looks, Refuses, Updates},
        Setting, Symmetry, UNBOUNDED, names,
        search::{self, Counterexample, NEVER_ENDS, Report},
    },
};
use ringpact::participant::LogSharing::{self, OwnLog, SharedLog};

/// Roles of participants that have done their work before the client ends the transaction.
const IN_TIME: &[Role] = &[Updates, Looks, Refuses];

/// The same, or the work is still on its way: the client has given up on a call.
const ANY: &[Role] = &[Updates, Looks, Refuses, HearsLate];

const fn setting(participants: usize, sharing: LogSharing, faults: u8) -> Setting {
    Setting {
        sharing,
        roles: IN_TIME,
        participants,
        crashes: Possible,
        faults,
        symmetry: Symmetry::Used,
        parks: false,
        asks: false,
        taken_over: false,
        by_hand: false,
        last_resource: LastResource::None,
        mutant: None,
        overlooked: None,
    }
}

/// Searches, and prints one line about the search.
fn run(setting: Setting) -> Report<Move> {
    let begun = Instant::now();
    let mut model = Model::new(setting);
    let report = search::search(&mut model);
    let faults = if setting.faults == UNBOUNDED { "any".to_owned() } else { setting.faults.to_string() };
    println!(
        "{} participants, {:?}, crashes {:?}, {faults} faults, {:?}: {} states for {}, {} moves, depth {}, {:.1?}",
        setting.participants,
        setting.sharing,
        setting.crashes,
        setting.mutant,
        report.states,
        report.stood_for,
        report.moves,
        report.depth,
        begun.elapsed(),
    );
    if let Err(Counterexample { breaks, initial, trace }) = &report.verdict {
        println!("  {breaks}; roles {:?}", model.choices()[*initial]);
        trace.iter().for_each(|what| println!("    {what:?}"));
    }
    report
}

/// Asserts that the search finds nothing wrong, in exactly this many states. A count that changes
/// says that the protocol or the model changed. Find out why before you write down the new count.
fn holds(setting: Setting, states: usize) {
    let report = run(setting);
    if let Err(counterexample) = report.verdict {
        panic!("{counterexample:#?}");
    }
    assert_eq!(report.states, states);
}

/// Asserts that the search finds the mutant, by this check.
fn caught(mutant: Mutant, by: &str, setting: Setting) {
    let report = run(Setting { mutant: Some(mutant), symmetry: Symmetry::Ignored, ..setting });
    assert_eq!(report.verdict.expect_err("the mutant is caught").breaks, by);
}

/// A search up to symmetry stands for exactly the states that a search without it counts.
#[test]
fn symmetry_loses_nothing() {
    let last = Setting { last_resource: LastResource::Forgets, ..setting(3, OwnLog, 0) };
    let plain = [setting(2, OwnLog, 1), setting(2, SharedLog, 1), setting(3, OwnLog, 0), setting(3, SharedLog, 0)];
    let remembers = Setting { last_resource: LastResource::Remembers, ..setting(3, SharedLog, 0) };
    for setting in plain.into_iter().chain([last, remembers]) {
        let all = run(Setting { symmetry: Symmetry::Ignored, ..setting });
        let some = run(setting);
        assert!(all.verdict.is_ok() && some.verdict.is_ok());
        assert_eq!(some.stood_for, all.states);
    }
}

#[test]
fn one_participant_with_its_own_log() {
    holds(setting(1, OwnLog, UNBOUNDED), 6_328);
}

#[test]
fn one_participant_on_the_shared_log() {
    holds(setting(1, SharedLog, UNBOUNDED), 2_046);
}

#[test]
fn two_participants_with_their_own_logs() {
    holds(setting(2, OwnLog, UNBOUNDED), 1_877_992);
}

#[test]
fn two_participants_on_the_shared_log() {
    holds(setting(2, SharedLog, UNBOUNDED), 261_374);
}

#[test]
fn three_participants_with_their_own_logs() {
    holds(setting(3, OwnLog, 1), 942_334);
}

#[test]
fn three_participants_on_the_shared_log() {
    holds(setting(3, SharedLog, 1), 945_542);
}

/// Everything that a network can do, any number of times, to two participants that do not crash,
/// and to work that comes after the end of its transaction.
#[test]
fn two_participants_in_a_network_that_does_anything() {
    for (sharing, states) in [(OwnLog, 40_880), (SharedLog, 41_955)] {
        let setting = setting(2, sharing, UNBOUNDED);
        holds(Setting { crashes: Impossible, roles: ANY, ..setting }, states);
    }
}

/// Decisions that are parked at the first failure, operators that retry, and participants that ask
/// for the outcome themselves. `ended_below` passes a parked transaction for the participants that
/// have acknowledged it.
#[test]
fn parked_decisions_and_participants_that_ask() {
    let asks = |setting| Setting { parks: true, asks: true, ..setting };
    holds(asks(setting(2, OwnLog, 1)), 191_376);
    holds(asks(setting(2, SharedLog, 1)), 328_798);
    holds(asks(setting(1, OwnLog, UNBOUNDED)), 9_064);
    if common::long_form() {
        holds(asks(setting(2, OwnLog, 2)), 1_035_350);
        holds(asks(setting(2, SharedLog, 2)), 1_509_497);
    }
}

/// A last resource that commits or refuses, and whose answer gets lost. The window that it leaves
/// open is the only one.
#[test]
fn with_a_last_resource() {
    let with = |setting| Setting { last_resource: LastResource::Forgets, ..setting };
    let parks = |setting| with(Setting { parks: true, ..setting });
    holds(with(setting(1, OwnLog, UNBOUNDED)), 400);
    holds(with(setting(2, OwnLog, UNBOUNDED)), 284_844);
    holds(parks(setting(2, OwnLog, 2)), 174_567);
    holds(with(setting(3, OwnLog, 1)), 287_559);
    holds(with(setting(1, SharedLog, UNBOUNDED)), 446);
    holds(parks(setting(2, SharedLog, UNBOUNDED)), 208_670);
    holds(with(setting(3, SharedLog, 1)), 233_097);
}

/// A last resource that remembers what it has committed. Nothing is torn: when it is asked, by a
/// coordinator that opened again or that waits for its answer, the others follow it.
#[test]
fn with_a_last_resource_that_remembers() {
    let with = |setting| Setting { last_resource: LastResource::Remembers, ..setting };
    let parks = |setting| with(Setting { parks: true, ..setting });
    let asks = |setting| with(Setting { asks: true, ..setting });
    holds(with(setting(1, OwnLog, UNBOUNDED)), 300);
    holds(with(setting(2, OwnLog, UNBOUNDED)), 90_128);
    holds(asks(setting(2, OwnLog, 2)), 31_511);
    holds(parks(setting(2, OwnLog, 2)), 116_390);
    holds(with(setting(3, OwnLog, 1)), 268_159);
    holds(with(setting(1, SharedLog, UNBOUNDED)), 346);
    holds(with(setting(2, SharedLog, UNBOUNDED)), 31_952);
    holds(asks(setting(2, SharedLog, 2)), 22_925);
    holds(with(setting(3, SharedLog, 1)), 214_489);
}

/// The window: without an answer, the same search finds the torn transaction at once.
#[test]
fn a_last_resource_that_forgets_what_it_committed_tears_the_transaction() {
    let setting = Setting { last_resource: LastResource::Remembers, ..setting(2, OwnLog, 1) };
    caught(Mutant::ForgetsItsCommit, names::TORN_TRANSACTION, setting);
    caught(Mutant::PresumesWithoutAsking, names::TORN_TRANSACTION, setting);
    caught(Mutant::PromisesLazily, names::TORN_TRANSACTION, Setting { sharing: SharedLog, ..setting });
    caught(Mutant::AnswersWithoutAsking, names::TORN_TRANSACTION, Setting { asks: true, ..setting });
}

#[test]
fn a_last_resource_that_commits_after_it_has_said_no_is_caught() {
    let setting = Setting { last_resource: LastResource::Remembers, ..setting(2, OwnLog, 2) };
    caught(Mutant::CommitsLater, names::FALSE_ROLLBACK, setting);
    let beyond = Setting { overlooked: Some(names::FALSE_ROLLBACK), ..setting };
    caught(Mutant::CommitsLater, names::SILENT, beyond);
}

/// A client withdraws participants that have done nothing, comes back to some of them and works there,
/// or commits with them all the same. What was withdrawn gets no message and is in no record.
/// Participants are not quite alike here, because one that comes back is asked last.
#[test]
fn with_branches_that_are_withdrawn() {
    let declines = |setting| Setting { roles: &[Updates, Declines], symmetry: Symmetry::Ignored, ..setting };
    let forgets = |setting| declines(Setting { last_resource: LastResource::Forgets, ..setting });
    let remembers = |setting| declines(Setting { last_resource: LastResource::Remembers, ..setting });
    holds(declines(setting(1, OwnLog, UNBOUNDED)), 4_360);
    holds(declines(setting(1, SharedLog, UNBOUNDED)), 1_522);
    holds(declines(setting(2, OwnLog, UNBOUNDED)), 2_311_344);
    holds(declines(setting(2, SharedLog, UNBOUNDED)), 415_356);
    holds(declines(setting(3, OwnLog, 0)), 541_836);
    holds(declines(setting(3, SharedLog, 0)), 1_156_502);
    holds(forgets(setting(1, OwnLog, UNBOUNDED)), 532);
    holds(forgets(setting(2, OwnLog, UNBOUNDED)), 354_336);
    holds(forgets(setting(2, SharedLog, 2)), 52_632);
    holds(remembers(setting(1, OwnLog, UNBOUNDED)), 392);
    holds(remembers(setting(2, OwnLog, UNBOUNDED)), 141_992);
    holds(remembers(setting(2, SharedLog, UNBOUNDED)), 52_792);
    if common::long_form() {
        holds(declines(setting(3, OwnLog, 1)), 7_680_493);
        holds(declines(setting(3, SharedLog, 1)), 10_559_809);
    }
}

#[test]
fn a_branch_that_is_withdrawn_and_told_all_the_same_is_caught() {
    let setting = Setting { roles: &[Updates, Declines], ..setting(2, OwnLog, 0) };
    caught(Mutant::KeepsWithdrawn, names::MESSAGE_TO_NONE, setting);
}

/// What an operator does by hand, as decided or otherwise, and reports. None of it is forgotten
/// before an operator has seen it. Participants are not quite alike here, because what the operator
/// says of several participants is logged in their order.
#[test]
fn what_is_settled_by_hand() {
    let by_hand = |setting| Setting { parks: true, asks: true, by_hand: true, symmetry: Symmetry::Ignored, ..setting };
    let updates = |setting| by_hand(Setting { roles: &[Updates], ..setting });
    holds(by_hand(setting(1, OwnLog, UNBOUNDED)), 23_832);
    holds(by_hand(setting(1, SharedLog, UNBOUNDED)), 4_384);
    holds(updates(setting(2, OwnLog, 1)), 495_980);
    holds(updates(setting(2, SharedLog, 1)), 1_475_528);
    if common::long_form() {
        holds(by_hand(setting(2, OwnLog, 1)), 873_724);
        holds(by_hand(setting(2, SharedLog, 1)), 1_780_649);
        holds(updates(setting(2, OwnLog, 2)), 4_547_995);
    }
}

#[test]
fn a_last_resource_that_is_trusted_without_an_answer_is_caught() {
    let setting = Setting { last_resource: LastResource::Forgets, ..setting(2, OwnLog, 1) };
    caught(Mutant::TrustsTheLastResource, names::FALSE_COMMIT, setting);
}

#[test]
fn an_operators_word_taken_for_the_decision_is_caught() {
    let setting = Setting { parks: true, by_hand: true, ..setting(2, OwnLog, 2) };
    caught(Mutant::BelievesOperators, names::SILENT, setting);
}

#[test]
fn a_commit_sent_before_it_is_durable_is_caught() {
    let setting = setting(2, OwnLog, 2);
    caught(Mutant::SendsCommitEarly, names::EARLY_EFFECT, setting);
    // And the damage that follows from it:
    let beyond = Setting { overlooked: Some(names::EARLY_EFFECT), ..setting };
    caught(Mutant::SendsCommitEarly, names::FALSE_COMMIT, beyond);
    let beyond = Setting { sharing: SharedLog, ..beyond };
    caught(Mutant::SendsCommitEarly, names::FALSE_COMMIT, beyond);
}

#[test]
fn a_log_that_lies_is_caught() {
    let setting = setting(2, OwnLog, 2);
    caught(Mutant::LogLies, names::EARLY_EFFECT, setting);
    let beyond = Setting { overlooked: Some(names::EARLY_EFFECT), ..setting };
    caught(Mutant::LogLies, names::FALSE_COMMIT, beyond);
    caught(Mutant::LogLies, names::FALSE_COMMIT, Setting { sharing: SharedLog, ..beyond });
    caught(Mutant::LogLies, names::FALSE_ROLLBACK, Setting { participants: 1, ..beyond });
}

#[test]
fn a_vote_sent_before_the_promise_is_durable_is_caught() {
    caught(Mutant::VotesEarly, names::FALSE_COMMIT, setting(2, OwnLog, 1));
}

#[test]
fn a_coordinator_that_forgets_before_all_have_acknowledged_is_caught() {
    caught(Mutant::ForgetsEarly, names::TORN_TRANSACTION, setting(2, OwnLog, 1));
    caught(Mutant::ForgetsEarly, names::TORN_TRANSACTION, setting(2, SharedLog, 1));
    // Without crashes nothing is torn, but a participant waits forever.
    caught(Mutant::ForgetsEarly, NEVER_ENDS, Setting { crashes: Impossible, ..setting(2, OwnLog, 1) });
}

/// Without a tombstone nothing is torn, because a late prepare of a branch whose work was lost is
/// answered No. Only work that comes after the rollback strands a branch.
#[test]
fn a_rollback_that_leaves_no_tombstone_is_caught() {
    let late = Setting { roles: &[Updates, HearsLate], crashes: Impossible, ..setting(2, OwnLog, 0) };
    caught(Mutant::LeavesNoTombstone, NEVER_ENDS, late);
}

/// The bug of `a_rolled_back_promise_does_not_come_back_with_the_participants_crash` in
/// `regressions.rs`.
#[test]
fn a_rollback_acknowledged_before_it_is_durable_is_caught() {
    caught(Mutant::AcknowledgesRollbackEarly, NEVER_ENDS, setting(2, OwnLog, 1));
}

/// The bug of `ended_below_does_not_pass_an_end_that_a_crash_can_take_back` in `regressions.rs`.
#[test]
fn an_ended_below_ahead_of_durable_ends_is_caught() {
    caught(Mutant::EndedBelowRunsAhead, names::HEURISTIC, setting(2, OwnLog, 1));
    // In a shared log a participant's forgetting comes after the end, unless the log refused the
    // end.
    caught(Mutant::EndedBelowRunsAhead, names::HEURISTIC, setting(2, SharedLog, 2));
    // It may also pass what is parked: then a participant that has forgotten is told again.
    caught(
        Mutant::EndedBelowRunsAhead,
        names::HEURISTIC,
        Setting { parks: true, roles: &[Updates], ..setting(2, OwnLog, 2) },
    );
}

/// Another process takes the coordinator's log over. The old coordinator goes on, and hears of it at any
/// time: what it says to its client is what the new one finds, and no message of it tears anything.
#[test]
fn a_log_that_is_taken_over() {
    let taken = |setting| Setting { taken_over: true, symmetry: Symmetry::Ignored, ..setting };
    let with = |last_resource, setting| taken(Setting { last_resource, ..setting });
    holds(taken(setting(1, OwnLog, UNBOUNDED)), 15_572);
    holds(taken(setting(2, OwnLog, 1)), 156_751);
    holds(with(LastResource::Forgets, setting(2, OwnLog, 2)), 246_326);
    holds(with(LastResource::Remembers, setting(2, OwnLog, 2)), 125_539);
    if common::long_form() {
        holds(taken(setting(2, OwnLog, 2)), 1_194_193);
    }
}

/// What it rests on: the compare in each write, the log's true word, and participants that refuse the old
/// coordinator once they have met the new one, also after a restart.
#[test]
fn a_takeover_without_a_fence_is_caught() {
    let setting = Setting { taken_over: true, ..setting(2, OwnLog, 1) };
    caught(Mutant::DeniesWhatIsDurable, names::FALSE_ROLLBACK, setting);
    let beyond = Setting { overlooked: Some(names::EARLY_EFFECT), ..setting };
    caught(Mutant::WritesAfterTakeover, names::EARLY_EFFECT, setting);
    caught(Mutant::WritesAfterTakeover, names::FALSE_COMMIT, beyond);
    let alone = Setting { participants: 1, faults: 2, ..setting };
    caught(Mutant::ForgetsTheEpoch, names::FALSE_ROLLBACK, alone);
    caught(Mutant::ListensToAll, names::FALSE_ROLLBACK, alone);
}
