//! The protocol's state space, searched exhaustively with the production code.
//!
//! [`model`] says what the world consists of and what can happen in it. In every state that can be reached, these hold
//! (`model/checks.rs`):
//!
//! - no participant has committed while another has rolled back, or lost its work, and none has done both;
//! - a client that was told "committed" finds every branch committed or sure to be; one that was told "rolled back" finds
//!   none; a client is told one thing, and something in the end;
//! - no branch is found to have ended otherwise than decided, where no operator has made it;
//! - where branches have not ended alike, because an operator would have it so or a last resource could not be made sure of, that
//!   is not over before an operator has seen it;
//! - with two participants or more, no effect is there, and no word of it, before the decision has been durable;
//! - from it a state can be reached, by moves that need neither luck nor fault, in which the coordinator and all
//!   branches are finished: every run that stops crashing ends. A log that has failed counts as opened again in the end.
//!
//! One participant alone decides by itself (one-phase commit), and its client may be told "indeterminate"; the other
//! statements hold for it as they are.
//!
//! # Bounds
//!
//! **One participant, and two, are searched without any bound**: any number of losses, repeats, delays, crashes of
//! either side (during recovery from other crashes, too), failed logs, failing services. That is finitely much, because a
//! request that was lost or delivered becomes a ghost that may turn up again for ever (`model/world.rs`), a log holds
//! only what lives, and time-outs of nothing make a tick possible whenever there is a deadline.
//!
//! Of three participants a run holds at most *one fault*: a crash, a failed log, a lost or repeated message, a false or
//! late report of a failure, a service or log that fails once. Not bounded there either are the order of deliveries and
//! syncs, when and how often the clock ticks (so every time-out, and any number of repeats), what a crash leaves of a log,
//! and how the participants vote. A third participant adds what two can't have, two that agree while one differs; each
//! branch talks with the coordinator only, so what faults do to a branch, two participants have shown already.
//!
//! With a *last resource* and one participant that can promise there is no bound either, and with two of these it is one fault.
//! Where the last resource has committed and the client was told nothing for certain the others may end in any way: that is
//! its window. What an *operator* does by hand is searched with one fault, and by `RINGPACT_LONG=1` with two.
//!
//! # What is not in it
//!
//! An operator tells no lies: he says of branches how they have ended only when they have. Of a branch that was reported, and of
//! which the log knew nothing, nobody knows whether it was the only one, so that it may have committed is no news.
//!
//! One transaction only; others show in the mark that they carry. Work that comes after a restart has taken its
//! tombstone away is undone at the checkpoint that knows its transaction to have ended (`tests/participant/restart.rs`),
//! not by the protocol; here work comes late only where nobody crashes.
//!
//! Run with `--nocapture` for a line about each search and the traces of the mutants.

mod common;
mod model;

use std::time::Instant;

use model::{
    Crashes::{Impossible, Possible},
    LastResource, Model, Mutant,
    Role::{self, HearsLate, Looks, Refuses, Updates},
    Setting, Symmetry, UNBOUNDED, names,
    search::{self, Counterexample, NEVER_ENDS, Report},
};
use ringpact::participant::LogSharing::{self, OwnLog, SharedLog};

/// Before the client ends the transaction, every participant has done its work.
const IN_TIME: &[Role] = &[Updates, Looks, Refuses];

/// Or it is still to hear of it: the client has given up on a call that is under way.
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
        by_hand: false,
        last_resource: LastResource::None,
        mutant: None,
        overlooked: None,
    }
}

/// Searches, and prints the line of the table.
fn run(setting: Setting) -> Report<model::Move> {
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

/// The search finds nothing wrong, in exactly this many states. A count that changes says that the protocol or the
/// model has; whoever changes either looks why, and writes down the new one.
fn holds(setting: Setting, states: usize) {
    let report = run(setting);
    if let Err(counterexample) = report.verdict {
        panic!("{counterexample:#?}");
    }
    assert_eq!(report.states, states);
}

/// The search finds the mutant, by this check.
fn caught(mutant: Mutant, by: &str, setting: Setting) {
    let report = run(Setting { mutant: Some(mutant), symmetry: Symmetry::Ignored, ..setting });
    assert_eq!(report.verdict.expect_err("the mutant is caught").breaks, by);
}

/// What the searches up to symmetry stand for is what searches without it count.
#[test]
fn symmetry_loses_nothing() {
    let last = Setting { last_resource: LastResource::Last, ..setting(3, OwnLog, 0) };
    let plain = [setting(2, OwnLog, 1), setting(2, SharedLog, 1), setting(3, OwnLog, 0), setting(3, SharedLog, 0)];
    for setting in plain.into_iter().chain([last]) {
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

/// Everything that a network can do, any number of times, to two participants that don't crash; and to work that comes
/// after the end of its transaction.
#[test]
fn two_participants_in_a_network_without_any_manners() {
    for (sharing, states) in [(OwnLog, 40_880), (SharedLog, 41_955)] {
        let setting = setting(2, sharing, UNBOUNDED);
        holds(Setting { crashes: Impossible, roles: ANY, ..setting }, states);
    }
}

/// Decisions that are parked at the first failure, operators who retry, and participants who ask for themselves. The mark
/// passes a parked transaction for those who have acknowledged it.
#[test]
fn what_is_parked_and_those_who_ask() {
    let asks = |setting| Setting { parks: true, asks: true, ..setting };
    holds(asks(setting(2, OwnLog, 1)), 191_376);
    holds(asks(setting(2, SharedLog, 1)), 328_798);
    holds(asks(setting(1, OwnLog, UNBOUNDED)), 9_064);
    if common::long_form() {
        holds(asks(setting(2, OwnLog, 2)), 1_035_350);
        holds(asks(setting(2, SharedLog, 2)), 1_509_497);
    }
}

/// A last resource that commits or refuses, and whose answer gets lost: the window that it leaves open is the only one.
#[test]
fn with_a_last_resource() {
    let with = |setting| Setting { last_resource: LastResource::Last, ..setting };
    let parks = |setting| with(Setting { parks: true, ..setting });
    holds(with(setting(1, OwnLog, UNBOUNDED)), 400);
    holds(with(setting(2, OwnLog, UNBOUNDED)), 284_844);
    holds(parks(setting(2, OwnLog, 2)), 174_567);
    holds(with(setting(3, OwnLog, 1)), 287_559);
    holds(with(setting(1, SharedLog, UNBOUNDED)), 446);
    holds(parks(setting(2, SharedLog, UNBOUNDED)), 208_670);
    holds(with(setting(3, SharedLog, 1)), 233_097);
}

/// What an operator does by hand, in either way, and tells. Nothing of it is forgotten before he has seen it. Participants are
/// not quite alike there: what he says of several is logged in their order.
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
    let setting = Setting { last_resource: LastResource::Last, ..setting(2, OwnLog, 1) };
    caught(Mutant::TrustsTheLastResource, names::FALSE_COMMIT, setting);
}

#[test]
fn an_operators_word_that_counts_as_what_was_decided_is_caught() {
    let setting = Setting { parks: true, by_hand: true, ..setting(2, OwnLog, 2) };
    caught(Mutant::BelievesOperators, names::SILENT, setting);
}

#[test]
fn a_commit_sent_before_it_is_durable_is_caught() {
    let setting = setting(2, OwnLog, 2);
    caught(Mutant::SendsCommitEarly, names::EARLY_EFFECT, setting);
    // And what comes of it:
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
    // Where nobody crashes nothing is torn, but somebody waits for ever.
    caught(Mutant::ForgetsEarly, NEVER_ENDS, Setting { crashes: Impossible, ..setting(2, OwnLog, 1) });
}

/// Without a tombstone nothing is torn: a late prepare of a branch whose work was lost is answered No. It takes work
/// that comes after the rollback to strand a branch.
#[test]
fn a_rollback_that_leaves_no_tombstone_is_caught() {
    let late = Setting { roles: &[Updates, HearsLate], crashes: Impossible, ..setting(2, OwnLog, 0) };
    caught(Mutant::LeavesNoTombstone, NEVER_ENDS, late);
}

/// The bug that `a_rolled_back_promise_does_not_come_back_with_the_participants_crash` tells of.
#[test]
fn a_rollback_acknowledged_before_it_is_durable_is_caught() {
    caught(Mutant::AcknowledgesRollbackEarly, NEVER_ENDS, setting(2, OwnLog, 1));
}

/// The bug that `the_mark_does_not_pass_an_end_that_a_crash_can_take_back` tells of.
#[test]
fn a_mark_that_runs_ahead_of_durable_ends_is_caught() {
    caught(Mutant::MarkRunsAhead, names::HEURISTIC, setting(2, OwnLog, 1));
    // In a shared log what is forgotten comes after the end, unless the log refused the end.
    caught(Mutant::MarkRunsAhead, names::HEURISTIC, setting(2, SharedLog, 2));
    // And where it passes what is parked: who has forgotten is told again.
    caught(
        Mutant::MarkRunsAhead,
        names::HEURISTIC,
        Setting { parks: true, roles: &[Updates], ..setting(2, OwnLog, 2) },
    );
}
