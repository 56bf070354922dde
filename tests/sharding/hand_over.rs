//! What a host does when a hand-over fails, is repeated, or is interrupted by a restart.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, atomic::Ordering},
    thread,
    time::{Duration, Instant},
};

use ringpact::{
    Coordinator, MemoryLog, TransactionLog, Vote,
    ring::{NodeId, RangeSet},
    sharding::{GateRefusal, GivenUp, ShardError, Tenure},
};

use crate::ledger::{Add, Kind, MOMENT, Shared, Site, only, position, txn};

const KEY: u32 = 5;

fn both(test: impl Fn(Kind)) {
    [Kind::InMemory, Kind::AtOnce].into_iter().for_each(test);
}

fn is_moving(result: &Result<(), ShardError>) -> bool {
    matches!(result, Err(ShardError::Gate(GateRefusal::Moving)))
}

#[test]
fn a_hand_over_moves_its_range_and_nothing_else() {
    both(|kind| {
        let (from, to) = (Site::owner("from", kind), Site::new("to", kind));
        from.add(1, KEY, 3);
        from.add(2, KEY + 1, 4);
        let sent = from.release(3, &only(KEY), 2).unwrap();
        assert_eq!(from.read(KEY), None, "nothing reads what is sealed");
        to.take(3, &only(KEY), 2, &sent).unwrap();
        assert_eq!((from.prepare(3), to.prepare(3)), (Vote::Yes, Vote::Yes));
        assert_eq!((from.read(KEY), to.read(KEY)), (None, None));
        from.finish(3);
        to.finish(3);
        assert_eq!((from.read(KEY), to.read(KEY)), (None, Some(Some(3))));
        assert_eq!((from.read(KEY + 1), to.read(KEY + 1)), (Some(Some(4)), None));
        assert_eq!(from.host.shard().sums(), [(KEY + 1, 4)]);
        assert_eq!(to.host.shard().sums(), [(KEY, 3)]);
        assert_eq!(to.host.owned(), only(KEY));
        assert!(matches!(from.work(4, KEY, 1), Err(ShardError::Gate(GateRefusal::NotOwner { .. }))));
        to.add(4, KEY, 1);
    });
}

/// A message may come twice, and the second time after the vote.
#[test]
fn a_release_that_is_repeated_after_the_vote_opens_nothing() {
    both(|kind| {
        let from = Site::owner("from", kind);
        from.add(1, KEY, 3);
        from.release(2, &only(KEY), 2).unwrap();
        assert_eq!(from.prepare(2), Vote::Yes);
        assert!(from.release(2, &only(KEY), 2).is_err(), "the branch takes no more work");
        assert!(is_moving(&from.work(3, KEY, 1)), "the promise still holds the range");
        assert_eq!(from.read(KEY), None);
        from.finish(2);
        assert_eq!(from.host.shard().sums(), []);
    });
}

#[test]
fn a_repeated_release_before_the_vote_has_the_same_answer() {
    let from = Site::owner("from", Kind::InMemory);
    from.add(1, KEY, 3);
    let first = from.release(2, &only(KEY), 2).unwrap();
    assert_eq!(from.release(2, &only(KEY), 2).unwrap(), first);
    assert!(is_moving(&from.work(3, KEY, 1)));
    from.commit(2);
    assert_eq!(from.host.owned().width(), (1 << 64) - 1);
}

#[test]
fn a_rolled_back_hand_over_leaves_both_as_before() {
    both(|kind| {
        let (from, to) = (Site::owner("from", kind), Site::new("to", kind));
        from.add(1, KEY, 3);
        let sent = from.release(2, &only(KEY), 2).unwrap();
        to.take(2, &only(KEY), 2, &sent).unwrap();
        assert_eq!((from.prepare(2), to.prepare(2)), (Vote::Yes, Vote::Yes));
        from.rollback(2);
        to.rollback(2);
        assert_eq!((from.read(KEY), to.read(KEY)), (Some(Some(3)), None));
        assert_eq!(to.host.shard().sums(), []);
        from.add(3, KEY, 1);
        // The number was given to nothing that was committed, so it may come again.
        let sent = from.release(4, &only(KEY), 2).unwrap();
        to.take(4, &only(KEY), 2, &sent).unwrap();
        from.commit(4);
        to.commit(4);
        assert_eq!(to.read(KEY), Some(Some(4)));
    });
}

#[test]
fn a_promise_is_kept_across_restarts_of_both() {
    both(|kind| {
        for commits in [true, false] {
            let (mut from, mut to) = (Site::owner("from", kind), Site::new("to", kind));
            from.add(1, KEY, 3);
            let sent = from.release(2, &only(KEY), 2).unwrap();
            to.take(2, &only(KEY), 2, &sent).unwrap();
            assert_eq!((from.prepare(2), to.prepare(2)), (Vote::Yes, Vote::Yes));
            for _ in 0..2 {
                from.crash();
                to.crash();
                assert!(is_moving(&from.work(3, KEY, 1)), "sealed again before any request is let in");
                assert_eq!((from.read(KEY), to.read(KEY)), (None, None));
            }
            for site in [&from, &to] {
                if commits { site.finish(2) } else { site.rollback(2) }
            }
            let (now, then) = if commits { (&to, &from) } else { (&from, &to) };
            assert_eq!((now.read(KEY), then.read(KEY)), (Some(Some(3)), None));
            assert_eq!(then.host.shard().sums(), []);
        }
    });
}

#[test]
fn an_unpromised_hand_over_is_void_after_a_restart() {
    both(|kind| {
        let (mut from, mut to) = (Site::owner("from", kind), Site::new("to", kind));
        from.add(1, KEY, 3);
        let sent = from.release(2, &only(KEY), 2).unwrap();
        to.take(2, &only(KEY), 2, &sent).unwrap();
        to.host.checkpoint().unwrap(); // with what is staged
        from.crash();
        to.crash();
        assert_eq!((from.prepare(2), to.prepare(2)), (Vote::No, Vote::No));
        assert_eq!((from.read(KEY), to.host.shard().sums()), (Some(Some(3)), vec![]));
    });
}

/// A service that can't confirm right after a restart has a change that no hold would keep in place.
#[test]
fn a_commit_that_is_not_carried_out_yet_is_not_left_behind() {
    both(|kind| {
        let mut from = Site::owner("from", kind);
        from.add(1, KEY, 3);
        assert_eq!(from.work(2, KEY, 4).map(|()| from.prepare(2)).unwrap(), Vote::Yes);
        from.faults.confirms.store(1, Ordering::SeqCst);
        let call = ringpact::Call::new(ringpact::LogId::from_bytes([7; 16]));
        use ringpact::Participant;
        assert!(from.host.commit(&from.branch(2), &call).is_err(), "it is in the log, and not carried out");
        assert!(matches!(from.release(3, &only(KEY), 2), Err(ShardError::Held { by }) if by == [txn(2)]));
        from.rollback(3);
        from.faults.confirms.store(u32::MAX, Ordering::SeqCst);
        from.crash();
        assert!(matches!(from.release(4, &only(KEY), 2), Err(ShardError::Held { by }) if by.contains(&txn(2))));
        from.rollback(4);
        from.faults.confirms.store(0, Ordering::SeqCst);
        from.finish(1);
        from.finish(2);
        let sent = from.release(5, &only(KEY), 2).unwrap();
        let to = Site::new("to", kind);
        to.take(5, &only(KEY), 2, &sent).unwrap();
        from.commit(5);
        to.commit(5);
        assert_eq!(to.read(KEY), Some(Some(7)));
    });
}

#[test]
fn an_arrival_that_can_be_neither_imported_nor_discarded_blocks_nothing() {
    both(|kind| {
        let (from, to) = (Site::owner("from", kind), Site::new("to", kind));
        from.add(1, KEY, 3);
        let sent = from.release(2, &only(KEY), 2).unwrap();
        to.faults.imports.store(1, Ordering::SeqCst);
        to.faults.discards.store(1, Ordering::SeqCst);
        assert!(matches!(to.take(2, &only(KEY), 2, &sent), Err(ShardError::Records(_))));
        assert_eq!(to.prepare(2), Vote::No);
        from.rollback(2);
        to.rollback(2);
        let sent = from.release(3, &only(KEY), 2).unwrap();
        to.take(3, &only(KEY), 2, &sent).expect("the range is free again");
        from.commit(3);
        to.commit(3);
        assert_eq!(to.read(KEY), Some(Some(3)));
    });
}

/// The promise is in the log; after the restart its records can be restored only in part.
#[test]
fn a_promised_arrival_is_opened_with_all_its_records_or_not_at_all() {
    both(|kind| {
        for panics in [false, true] {
            let (from, mut to) = (Site::owner("from", kind), Site::new("to", kind));
            let keys = RangeSet::from_iter(only(KEY).iter().chain(only(KEY + 1).iter()));
            from.add(1, KEY, 3);
            from.add(2, KEY + 1, 4);
            let sent = from.release(3, &keys, 2).unwrap();
            to.take(3, &keys, 2, &sent).unwrap();
            from.commit(3);
            assert_eq!(to.prepare(3), Vote::Yes);
            let planted = if panics { &to.faults.imports_panic } else { &to.faults.imports };
            planted.store(1, Ordering::SeqCst);
            to.faults.discards.store(1, Ordering::SeqCst);
            to.crash();
            assert_eq!(to.host.branches().troubled.len(), 1);
            to.finish(3);
            assert_eq!((to.read(KEY), to.read(KEY + 1)), (Some(Some(3)), Some(Some(4))), "panics: {panics}");
        }
    });
}

/// What has come to a shard in a chunk, and has changed there since, comes again after a restart. The
/// import fails twice.
fn arrived_changed_and_restarted(also_leaves: bool) -> Site {
    let (from, mut to) = (Site::owner("from", Kind::InMemory), Site::new("to", Kind::InMemory));
    from.add(1, KEY, 3);
    let sent = from.release(2, &only(KEY), 2).unwrap();
    to.take(2, &only(KEY), 2, &sent).unwrap();
    from.commit(2);
    to.commit(2);
    to.add(3, KEY, 4);
    if also_leaves {
        to.release(4, &only(KEY), 3).unwrap();
        to.commit(4);
    }
    // Once at the opening, and once more when the read has it tried again.
    to.faults.imports.store(2, Ordering::SeqCst);
    to.crash();
    assert_eq!(to.read(KEY), None, "nothing is served before it is complete");
    // Each of them tries what has failed again.
    (0..4).for_each(|_| to.host.checkpoint().unwrap());
    assert!(to.host.branches().troubled.is_empty());
    to
}

#[test]
fn a_change_that_follows_an_arrival_is_not_lost_when_the_arrival_fails_at_the_opening() {
    let to = arrived_changed_and_restarted(false);
    assert_eq!(to.read(KEY), Some(Some(7)));
}

#[test]
fn an_arrival_that_fails_at_the_opening_does_not_bring_back_what_has_left_since() {
    let to = arrived_changed_and_restarted(true);
    assert!(to.host.owned().is_empty());
    assert_eq!((to.read(KEY), to.host.shard().sums()), (None, vec![]));
}

/// Found by simulation: the import that comes again after a restart failed at first, and the shard had promised
/// to give the range away since. The promise closed the range, so that the import could not begin.
#[test]
fn an_arrival_that_fails_at_the_opening_is_done_again_before_a_promise_to_give_it_away() {
    for (panics, commits) in [(false, true), (true, true), (false, false), (true, false)] {
        let (from, mut to) = (Site::owner("from", Kind::InMemory), Site::new("to", Kind::InMemory));
        from.add(1, KEY, 3);
        let sent = from.release(2, &only(KEY), 2).unwrap();
        to.take(2, &only(KEY), 2, &sent).unwrap();
        to.commit(2);
        to.add(3, KEY, 4);
        to.release(4, &only(KEY), 3).unwrap();
        assert_eq!(to.prepare(4), Vote::Yes);
        if panics { &to.faults.imports_panic } else { &to.faults.imports }.store(1, Ordering::SeqCst);
        to.crash();
        (0..4).for_each(|_| to.host.checkpoint().unwrap());
        assert!(to.host.branches().troubled.is_empty(), "{:?}", to.host.branches());
        assert!(is_moving(&to.work(5, KEY, 1)), "the promise holds the range");
        if commits {
            to.finish(4);
            assert!(to.host.owned().is_empty() && to.host.shard().sums().is_empty());
        } else {
            to.rollback(4);
            assert_eq!(to.read(KEY), Some(Some(7)));
        }
    }
}

#[test]
fn an_import_that_panics_leaves_nothing() {
    both(|kind| {
        let (from, to) = (Site::owner("from", kind), Site::new("to", kind));
        from.add(1, KEY, 3);
        let sent = from.release(2, &only(KEY), 2).unwrap();
        to.faults.imports_panic.store(1, Ordering::SeqCst);
        assert!(catch_unwind(AssertUnwindSafe(|| to.take(2, &only(KEY), 2, &sent))).is_err());
        assert_eq!(to.prepare(2), Vote::No);
        from.rollback(2);
        let sent = from.release(3, &only(KEY), 2).unwrap();
        to.take(3, &only(KEY), 2, &sent).unwrap();
        from.commit(3);
        to.commit(3);
        assert_eq!(to.read(KEY), Some(Some(3)));
    });
}

/// On the coordinator's log a commit is not forced. What the shard has saved may be ahead of the log
/// that a crash leaves.
#[test]
fn an_arrival_that_is_saved_before_its_commit_is_durable_is_complete_after_a_crash() {
    both(|kind| {
        let (from, mut to) = (Site::owner("from", kind), Site::new("to", kind));
        to.is_shared = true;
        from.add(1, KEY, 3);
        let sent = from.release(2, &only(KEY), 2).unwrap();
        from.commit(2);
        to.take(2, &only(KEY), 2, &sent).unwrap();
        assert_eq!(to.prepare(2), Vote::Yes);
        to.log.live(to.host.name()).unwrap(); // the decision takes the promise along
        to.finish(2);
        to.host.checkpoint().unwrap();
        to.crash();
        assert_eq!(to.read(KEY), Some(Some(3)), "it was open before");
        assert_eq!(to.host.branches().troubled.len(), 0);
        to.finish(2);
        to.add(3, KEY, 1);
        assert_eq!(to.read(KEY), Some(Some(4)));
    });
}

#[test]
fn a_departure_that_is_saved_before_its_commit_is_durable_is_complete_after_a_crash() {
    both(|kind| {
        let mut from = Site::owner("from", kind);
        from.is_shared = true;
        from.add(1, KEY, 3);
        from.release(2, &only(KEY), 2).unwrap();
        assert_eq!(from.prepare(2), Vote::Yes);
        from.log.live(from.host.name()).unwrap();
        from.finish(2);
        from.host.checkpoint().unwrap();
        from.crash();
        assert_eq!(from.read(KEY), None);
        from.finish(2);
        assert_eq!(from.host.owned().width(), (1 << 64) - 1);
        assert_eq!(from.host.status().leaving, 0);
    });
}

/// The range has left, and was on its way back without a promise. The log has lost the commit of the first
/// hand-over.
#[test]
fn records_that_were_staged_over_a_departure_are_discarded() {
    both(|kind| {
        let (mut from, to) = (Site::owner("from", kind), Site::new("to", kind));
        from.is_shared = true;
        from.add(1, KEY, 3);
        let sent = from.release(2, &only(KEY), 2).unwrap();
        to.take(2, &only(KEY), 2, &sent).unwrap();
        to.commit(2);
        assert_eq!(from.prepare(2), Vote::Yes);
        from.log.live(from.host.name()).unwrap();
        from.finish(2);
        let back = to.release(3, &only(KEY), 3).unwrap();
        from.take(3, &only(KEY), 3, &back).unwrap();
        from.host.checkpoint().unwrap();
        from.crash();
        from.finish(2);
        assert_eq!(from.host.shard().sums(), []);
    });
}

/// A number that was given out long ago, whose mover comes only now.
#[test]
fn a_hand_over_with_a_number_that_is_past_is_refused() {
    let (from, to) = (Site::owner("from", Kind::InMemory), Site::new("to", Kind::InMemory));
    let past = |result: Result<(), ShardError>| assert!(matches!(result, Err(ShardError::Gate(_))), "{result:?}");
    from.add(1, KEY, 3);
    let sent = from.release(2, &only(KEY), 4).unwrap();
    to.take(2, &only(KEY), 4, &sent).unwrap();
    from.commit(2);
    to.commit(2);
    past(to.release(3, &only(KEY), 4).map(drop));
    past(to.release(4, &only(KEY), 3).map(drop));
    assert_eq!(to.read(KEY), Some(Some(3)), "nothing is held");
    past(from.take(5, &only(KEY), 4, &sent));
    past(from.take(6, &only(KEY), 3, &sent));
    assert_eq!(from.host.status().arriving, 0);
    let back = to.release(7, &only(KEY), 5).unwrap();
    from.take(7, &only(KEY), 5, &back).unwrap();
    from.commit(7);
    to.commit(7);
    assert_eq!(from.read(KEY), Some(Some(3)));
}

/// The host has lost the branch in a restart, and the call that began it comes once more. Meanwhile
/// clients have written.
#[test]
fn a_release_that_comes_again_after_a_restart_promises_nothing() {
    both(|kind| {
        let (x, y) = (Site::owner("x", kind), Site::new("y", kind));
        x.add(1, KEY, 3);
        let [x, y] = [x, y].map(|site| Arc::new(Shared::new(site)));
        let builder = Coordinator::builder(MemoryLog::new()).participant("x", x.clone());
        let coordinator = builder.participant("y", y.clone()).open().unwrap();
        x.ask(&coordinator);
        let mut chunk = coordinator.begin();
        let (tenure, node) = (Tenure::new(2), NodeId::from("y"));
        let branch = chunk.branch("x").unwrap().clone();
        let (records, digest) = x.host().release(&branch, &only(KEY), tenure, &node, MOMENT).unwrap();
        y.host().take(chunk.branch("y").unwrap(), &only(KEY), tenure, records, digest).unwrap();
        x.crash();
        let mut client = coordinator.begin();
        let written = x.host().execute(client.branch("x").unwrap(), Tenure::NONE, Add { key: KEY, amount: 4 }, MOMENT);
        written.unwrap();
        client.commit().wait().unwrap();
        let _ = x.host().release(&branch, &only(KEY), tenure, &node, MOMENT);
        chunk.commit().wait().unwrap_err();
        assert!(coordinator.settle(Duration::from_secs(10)));
        let read = |site: &Shared| {
            site.host().read(position(KEY), Tenure::NONE, Duration::ZERO, |ledger| ledger.sum(KEY)).ok().flatten()
        };
        assert_eq!((read(&x), read(&y)), (Some(7), None));
        assert_eq!(y.host().shard().sums(), []);
    });
}

#[test]
fn a_pin_blocks_a_hand_over_until_the_branch_has_ended() {
    let from = Site::owner("from", Kind::InMemory);
    from.work(1, KEY, 3).unwrap();
    assert!(matches!(from.release(2, &only(KEY), 2), Err(ShardError::Held { by }) if by == [txn(1)]));
    from.work(1, KEY, 3).expect("work goes on");
    from.work(3, KEY, 4).expect("also of others");
    from.commit(1);
    assert!(matches!(from.release(4, &only(KEY), 2), Err(ShardError::Held { by }) if by == [txn(3)]));
    assert_eq!(from.host.give_up(&txn(3)), GivenUp::RolledBack);
    assert_eq!(from.prepare(3), Vote::No);
    from.release(5, &only(KEY), 2).unwrap();
    from.rollback(5);
    from.work(6, KEY, 1).unwrap();
    assert_eq!(from.prepare(6), Vote::Yes);
    assert_eq!(from.host.give_up(&txn(6)), GivenUp::Promised);
    assert_eq!(from.host.give_up(&txn(7)), GivenUp::Other);
    from.finish(6);
    assert_eq!((from.read(KEY), from.host.status().holds), (Some(Some(7)), 0));
}

/// Patience is time that a call waits at the shard, as long as the position is on its way.
#[test]
fn a_client_with_patience_gets_in_when_the_hand_over_ends() {
    const LONG: Duration = Duration::from_secs(20);
    let (from, to) = (Site::owner("from", Kind::InMemory), Site::new("to", Kind::InMemory));
    from.add(1, KEY, 3);
    let add = |site: &Site, number, amount| {
        site.host.execute(&site.branch(number), Tenure::NONE, Add { key: KEY, amount }, LONG)
    };
    thread::scope(|scope| {
        from.release(2, &only(KEY), 2).unwrap();
        let waits = scope.spawn(|| add(&from, 3, 1));
        thread::sleep(20 * MOMENT);
        assert!(!waits.is_finished());
        from.rollback(2);
        waits.join().unwrap().expect("it goes on where it was");
        from.commit(3);
    });
    thread::scope(|scope| {
        let sent = from.release(4, &only(KEY), 2).unwrap();
        let waits = scope.spawn(|| add(&from, 5, 1));
        let early = scope.spawn(|| add(&to, 6, 1));
        let reads = scope.spawn(|| to.host.read(position(KEY), Tenure::NONE, LONG, |ledger| ledger.sum(KEY)));
        to.take(4, &only(KEY), 2, &sent).unwrap();
        thread::sleep(20 * MOMENT);
        assert!(!waits.is_finished() && !early.is_finished() && !reads.is_finished());
        from.commit(4);
        let refused = waits.join().unwrap().unwrap_err();
        assert!(matches!(refused, ShardError::Gate(GateRefusal::NotOwner { .. })), "no wait for what has left");
        to.commit(4);
        early.join().unwrap().expect("the new owner lets it in");
        assert_eq!(reads.join().unwrap().unwrap(), Some(4));
        to.commit(6);
    });
    assert_eq!(to.read(KEY), Some(Some(5)));
    // And a release waits for holds.
    thread::scope(|scope| {
        to.work(7, KEY, 1).unwrap();
        let waits = scope.spawn(|| {
            let node = NodeId::from("from");
            to.host.release(&to.branch(8), &only(KEY), Tenure::new(3), &node, LONG)
        });
        thread::sleep(20 * MOMENT);
        assert!(!waits.is_finished());
        assert_eq!(to.host.give_up(&txn(7)), GivenUp::RolledBack);
        waits.join().unwrap().unwrap();
    });
}

#[test]
fn a_refused_piece_of_work_leaves_no_pin() {
    let from = Site::owner("from", Kind::InMemory);
    assert!(from.work(1, KEY, i64::MAX).is_err());
    assert_eq!(from.host.status().holds, 0);
    from.work(2, KEY, 1).unwrap();
    assert!(from.work(2, KEY, i64::MAX).is_err());
    assert_eq!(from.host.status().holds, 1, "the first piece is still there");
    from.rollback(2);
    assert_eq!(from.host.status().holds, 0);
    from.work(3, KEY, 0).unwrap();
    assert_eq!(from.host.status().holds, 0, "a read holds nothing");
}

/// Found by simulation: a shard could not do the log's first work again when it was opened, and what came
/// after that waited for its turn. Calls had it tried again, but one branch at a time, after longer and longer
/// pauses; and none, if the gate refused them all.
#[test]
fn calls_that_the_gate_refuses_have_the_logs_work_done_again() {
    both(|kind| {
        let mut x = Site::owner("x", kind);
        (1..=50).for_each(|number| x.add(number, KEY, 1));
        x.faults.confirms.store(3, Ordering::SeqCst);
        x.disk.lock().applied.clear();
        x.crash();
        assert_eq!(x.read(KEY), None, "{:?}", x.host.branches());
        let until = Instant::now() + Duration::from_secs(5);
        let expected = if kind == Kind::InMemory { 50 } else { 100 };
        while x.read(KEY) != Some(Some(expected)) {
            assert!(Instant::now() < until, "{:?}", x.host.branches());
            thread::sleep(MOMENT);
        }
    });
}

/// A replay confirms what was committed before the range left and came back, on data that was saved
/// since.
#[test]
fn a_confirm_that_is_replayed_after_the_range_left_and_came_back_is_left_out() {
    both(|kind| {
        let (mut x, y) = (Site::owner("x", kind), Site::new("y", kind));
        x.add(1, KEY, 3);
        let sent = x.release(2, &only(KEY), 2).unwrap();
        y.take(2, &only(KEY), 2, &sent).unwrap();
        x.commit(2);
        y.commit(2);
        y.add(3, KEY, 4);
        let sent = y.release(4, &only(KEY), 3).unwrap();
        x.take(4, &only(KEY), 3, &sent).unwrap();
        x.commit(4);
        y.commit(4);
        x.host.checkpoint().unwrap();
        // A service that has forgotten which branches it carried out.
        x.disk.lock().applied.clear();
        x.crash();
        assert_eq!(x.read(KEY), Some(Some(7)));
        assert_eq!(x.host.owned(), RangeSet::full());
        assert_eq!(x.host.status().latest, Tenure::new(3));
    });
}
