//! The check of logs that another holder can take over.

use std::{
    future::poll_fn,
    sync::Arc,
    task::{Context, Waker},
    thread,
    time::{Duration, Instant},
};

use super::{
    Factory, NEVER, THREADS, append,
    concurrent::{block_on, block_on_durable},
    live_of, name, prepared, require, wait,
};
use crate::log::{Durability, LogError, Lsn, TransactionLog};

/// How long the threads write before the log is taken over under them.
const WRITES_FOR: Duration = Duration::from_millis(20);

/// `taken over`: from then on the old handle writes nothing, and gives a definite answer for each of its
/// records. Nothing is done if the factory's logs can't be taken over.
pub(super) fn check(factory: &mut impl Factory) {
    let log = factory.create();
    if factory.take_over(&log).is_none() {
        return;
    }
    each_record_has_a_definite_answer(factory);
    writers_hear_the_truth(factory);
    can_be_taken_again(factory);
}

fn taken_from<F: Factory>(factory: &mut F, log: &F::Log) -> F::Log {
    factory.take_over(log).unwrap_or_else(|| panic!("the factory takes one log over and not the next"))
}

fn is_fenced<T>(result: &Result<T, LogError>) -> bool {
    matches!(result, Err(LogError::Fenced { .. }))
}

/// Some records are durable at the takeover, and some are not.
fn each_record_has_a_definite_answer(factory: &mut impl Factory) {
    let log = factory.create();
    require!("taken over", log.lost().is_none(), "a log is lost that was not taken over");
    let poll = log.poll_lost(&mut Context::from_waker(Waker::noop()));
    require!("taken over", poll.is_pending(), "a task hears of a takeover that there was not");
    let durable: Vec<_> = (1..=5).map(|number| append(&log, prepared("a", number), Durability::Lazy)).collect();
    wait(&log, durable[4]);
    let pending: Vec<_> = (6..=20).map(|number| append(&log, prepared("a", number), Durability::Lazy)).collect();

    let holders = taken_from(factory, &log);
    require!("taken over", holders.id() == log.id(), "the new holder's log has another id");
    require!("taken over", holders.incarnation() != log.incarnation(), "both holders have one incarnation");
    let found = live_of(&holders, "a");
    let appended: Vec<_> = (1..=20).map(|number| prepared("a", number)).collect();
    require!("taken over", appended.starts_with(&found), "the new holder finds {found:?}");
    require!("taken over", found.len() >= 5, "5 records were durable, the new holder finds {}", found.len());

    let refused = log.append(prepared("a", 21), Durability::Lazy);
    require!("taken over", is_fenced(&refused), "an append after the takeover gives {refused:?}");
    let lsn = append(&holders, prepared("b", 1), Durability::Forced);
    require!("taken over", lsn.as_u64() == found.len() as u64 + 1, "the new holder's first record is {lsn:?}");
    wait(&holders, lsn);
    for (lsn, place) in durable.into_iter().chain(pending).zip(1..) {
        let is_there = place <= found.len();
        let answers = [log.wait(lsn), block_on(poll_fn(|context| log.poll_durable(lsn, context)), "taken over")];
        for answer in &answers {
            let is_true = if is_there { answer.is_ok() } else { is_fenced(answer) };
            require!(
                "taken over",
                is_true,
                "the new holder has {} records, and {lsn:?} is said to be {answer:?}",
                found.len()
            );
        }
    }
    let reported = log.durable();
    require!("taken over", reported.as_u64() == found.len() as u64, "durable() of the old handle is {reported:?}");
    let live = log.live(&name("a"));
    require!("taken over", is_fenced(&live), "the old handle's live records are {live:?}");
    require!("taken over", log.lost().is_some(), "the old handle does not know what it was told");
    let poll = log.poll_lost(&mut Context::from_waker(Waker::noop()));
    require!("taken over", poll.is_ready(), "a task that asks too late is not told of the takeover");
    require!("taken over", holders.lost().is_none(), "the new holder has lost the log");
    require!("taken over", live_of(&holders, "a") == found, "records of the old handle came after the takeover");
}

/// Threads write, and a task waits for the takeover, when it comes.
fn writers_hear_the_truth<F: Factory>(factory: &mut F) {
    let log = factory.create();
    let (mut holders, mut acknowledged, mut refused) = (None, Vec::new(), Vec::new());
    thread::scope(|scope| {
        let watcher = scope.spawn(|| block_on(poll_fn(|context| log.poll_lost(context)), "taken over"));
        let writers: Vec<_> = (0..THREADS)
            .map(|thread| {
                scope.spawn({
                    let log = &log;
                    move || write_until_refused(log, thread)
                })
            })
            .collect();
        thread::sleep(WRITES_FOR);
        holders = Some(taken_from(factory, &log));
        for writer in writers {
            let (own, error) = writer.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            acknowledged.push(own);
            refused.push(error);
        }
        let known = watcher.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        require!("taken over", log.lost() == Some(known), "the log names two takeovers");
    });
    require!("taken over", acknowledged.iter().sum::<u64>() > 0, "nothing was written before the takeover");
    let unclear = refused.iter().find(|error| !matches!(error, LogError::Fenced { .. }));
    require!("taken over", unclear.is_none(), "a record's answer is not definite: {unclear:?}");
    let holders = holders.unwrap_or_else(|| panic!("it was taken over above"));
    for (thread, acknowledged) in acknowledged.into_iter().enumerate() {
        let found = live_of(&holders, &format!("writer-{thread}")).len() as u64;
        require!(
            "taken over",
            found == acknowledged,
            "a thread was told that {acknowledged} of its records are durable and the next one surely not; the new holder has {found}"
        );
    }
}

/// Commits until the log refuses. Returns the number of records that were acknowledged, and the error
/// for the one after them.
fn write_until_refused(log: &impl TransactionLog, thread: u64) -> (u64, LogError) {
    let (owner, begun) = (format!("writer-{thread}"), Instant::now());
    for number in 1.. {
        if let Err(error) = log.commit(prepared(&owner, number)) {
            return (number - 1, error);
        }
        require!("taken over", begun.elapsed() < NEVER, "a thread still writes long after the takeover");
    }
    unreachable!("the loop has no end of its own")
}

/// The new holder's log is a log like any other.
fn can_be_taken_again(factory: &mut impl Factory) {
    let first = factory.create();
    wait(&first, append(&first, prepared("a", 1), Durability::Forced));
    let second = Arc::new(taken_from(factory, &first));
    let claimed = second.claim(&name("a"));
    require!("taken over", claimed.is_ok(), "the old holder's names are not free: {claimed:?}");
    drop(claimed);
    block_on_durable(&second, append(&second, prepared("a", 2), Durability::Forced), "taken over");
    let third = taken_from(factory, &second);
    require!(
        "taken over",
        live_of(&third, "a") == [prepared("a", 1), prepared("a", 2)],
        "the third holder lacks records"
    );
    for old in [&first, &*second] {
        let refused = old.append(prepared("a", 3), Durability::Forced);
        require!("taken over", is_fenced(&refused), "an earlier holder's append gives {refused:?}");
    }
    let lsn = append(&third, prepared("a", 3), Durability::Forced);
    require!("taken over", lsn == Lsn::new(3), "the third holder's first record is {lsn:?}");
    wait(&third, lsn);
    require!("taken over", second.lost().is_some(), "the second holder does not know that it has lost the log");
}
