//! One name, two logs: a log that was lost, copied, restored or opened twice. No two lives of a
//! coordinator give out the same id, no participant mixes two of them up, and no log ends what
//! another one has promised or decided.

use std::{collections::BTreeSet, sync::OnceLock, time::Duration};

use crate::support::{Account, Disk, Manager, Op, copies::Copy, eventually, manager, manager_on, name};
use ringpact::{
    BranchId, Coordinator, Epoch, LogId, MemoryLog, Participant, ParticipantError, Policy, ResourceManager,
    TransactionLog, TxnId, Vote,
    participant::{Call, Decision, Endpoint, ExecuteError, Inline, Life, Reply, Request},
    txn::{CoordinatorBuilder, CoordinatorError, OperatorError},
};

const SOON: Duration = Duration::from_secs(5);

/// Two services in other processes than the coordinator, each with a log of its own.
struct Shop {
    goods_log: MemoryLog,
    goods: Manager,
    payments: Manager,
    disk: Disk,
}

impl Shop {
    fn new() -> Self {
        let goods_log = MemoryLog::new();
        let goods = manager("goods", goods_log.clone());
        Self { goods, goods_log, payments: manager("payments", MemoryLog::new()), disk: Disk::default() }
    }

    fn coordinator(&self, log: impl TransactionLog) -> CoordinatorBuilder {
        let builder = Coordinator::builder(log).name("shop");
        builder.participant("goods", self.goods.clone()).participant("payments", self.payments.clone())
    }

    /// The process of the service `goods` is killed and started again.
    fn restart_goods(&mut self) {
        self.goods_log = self.goods_log.crash();
        self.goods = manager_on("goods", self.goods_log.clone(), &self.disk);
    }
}

fn buy(shop: &Shop, coordinator: &Coordinator) -> TxnId {
    let mut txn = coordinator.begin();
    let id = txn.id().clone();
    shop.goods.execute(txn.branch("goods").unwrap(), 2).unwrap();
    shop.payments.execute(txn.branch("payments").unwrap(), 4).unwrap();
    txn.commit().wait().unwrap();
    id
}

/// Leaves a promise at `goods` whose coordinator is gone: either `payments` has heard the commit of
/// that purchase, or it is not decided.
fn promise(shop: &Shop, coordinator: &Coordinator, log: &impl TransactionLog) -> BranchId {
    let mut txn = coordinator.begin();
    let branch = txn.branch("goods").unwrap().clone();
    shop.goods.execute(&branch, 6).unwrap();
    let mut call = Call::new(log.opening());
    (call.identity, call.epoch, call.position) = (log.id(), coordinator.epoch(), log.durable().as_u64());
    assert!(matches!(shop.goods.prepare(&branch, &call), Ok(Vote::Yes)));
    std::mem::forget(txn); // the process dies
    branch
}

/// A bug: an order that was answered Ok was missing at one service, because the first coordinator
/// of another process had the same name, epoch and number.
#[test]
fn two_coordinators_of_one_name_never_give_out_the_same_id() {
    let mut seen = BTreeSet::new();
    let lost = MemoryLog::new();
    let copied = Copy::of(&lost, &["shop"]);
    for _ in 0..3 {
        for log in [Copy::of(&lost, &["shop"]), copied.clone(), Copy::of(&MemoryLog::new(), &[])] {
            let coordinator = Coordinator::builder(log).name("shop").open().unwrap();
            for _ in 0..3 {
                assert!(seen.insert(coordinator.begin().id().clone()), "an id was given out twice");
            }
        }
    }
}

#[test]
fn a_coordinator_on_another_log_is_refused_and_both_logs_are_named() {
    let shop = Shop::new();
    let (first, second) = (MemoryLog::new(), MemoryLog::new());
    let open = shop.coordinator(first.clone()).open().unwrap();
    buy(&shop, &open);
    let error = shop.coordinator(second.clone()).open().unwrap_err();
    assert!(matches!(&error, CoordinatorError::Refused { error: ParticipantError::OtherLog(_), .. }), "{error}");
    let text = ringpact::error_chain(&error);
    for said in [first.id().to_string(), second.id().to_string(), "goods".into(), "replaces_log".into()] {
        assert!(text.contains(&said), "{said} is not in: {text}");
    }
    buy(&shop, &open); // the first one goes on
}

/// The participant has forgotten the life that it heard, but not the coordinator that it has
/// promised to.
#[test]
fn a_restarted_participant_refuses_another_log_while_it_has_a_promise() {
    let mut shop = Shop::new();
    let first = MemoryLog::new();
    let open = shop.coordinator(first.clone()).open().unwrap();
    let branch = promise(&shop, &open, &first);
    drop(open);
    shop.restart_goods();
    let error = shop.coordinator(MemoryLog::new()).open().unwrap_err();
    assert!(matches!(&error, CoordinatorError::Refused { error: ParticipantError::OtherLog(_), .. }), "{error}");
    let reopened = shop.coordinator(first.crash()).open().unwrap();
    assert!(reopened.settle(SOON));
    assert_eq!(shop.goods.in_doubt(branch.txn().coordinator()).unwrap(), []);
}

/// A bug: the new log's first transaction rolled back an old committed promise, and committed an
/// old undecided one.
#[test]
fn promises_of_a_lost_log_are_unclaimed_until_an_operator_settles_them() {
    for decision in [Decision::Commit, Decision::Rollback] {
        let mut shop = Shop::new();
        let lost = MemoryLog::new();
        let first = shop.coordinator(lost.clone()).open().unwrap();
        let branch = promise(&shop, &first, &lost);
        drop(first);
        shop.restart_goods();
        let log = MemoryLog::new();
        let coordinator = shop.coordinator(log.clone()).replaces_log(lost.id()).open().unwrap();
        let status = coordinator.status();
        assert_eq!(status.unclaimed.iter().map(|unclaimed| &unclaimed.branch).collect::<Vec<_>>(), [&branch]);
        assert!(status.in_doubt() == 1 && status.to_string().contains(&branch.to_string()), "{status}");
        assert!(!coordinator.settle(Duration::ZERO), "an operator is to act");
        for _ in 0..20 {
            buy(&shop, &coordinator);
        }
        assert_eq!(
            shop.goods.in_doubt(&name("shop")).unwrap(),
            std::slice::from_ref(&branch),
            "no coordinator has touched it"
        );
        coordinator.settle_unclaimed(branch.txn(), decision).unwrap();
        assert!(coordinator.settle(SOON));
        let applied = shop.goods.service().applied.lock().get(&branch).copied();
        assert_eq!(applied, (decision == Decision::Commit).then_some(6));
        let again = coordinator.settle_unclaimed(branch.txn(), decision);
        assert!(matches!(again, Err(OperatorError::Unknown { .. })), "{again:?}");
        // Once accepted, the new log is the log of that name.
        drop(coordinator);
        let coordinator = shop.coordinator(log.crash()).open().unwrap();
        buy(&shop, &coordinator);
        assert!(shop.coordinator(Copy::of(&lost, &["shop"])).open().is_err());
    }
}

/// An operator's decision survives the process, like the coordinator's own.
#[test]
fn an_operators_commit_is_durable_before_it_is_delivered() {
    let mut shop = Shop::new();
    let lost = MemoryLog::new();
    let first = shop.coordinator(lost.clone()).open().unwrap();
    let branch = promise(&shop, &first, &lost);
    drop(first);
    shop.restart_goods();
    let log = MemoryLog::new();
    let coordinator = shop.coordinator(log.clone()).replaces_log(lost.id()).open().unwrap();
    shop.goods.service().fail(Op::Confirm, [crate::support::Fault::Fail]);
    coordinator.settle_unclaimed(branch.txn(), Decision::Commit).unwrap();
    drop(coordinator);
    let coordinator = shop.coordinator(log.crash()).open().unwrap();
    assert_eq!(coordinator.recovered().committed, 1);
    eventually("it is committed", SOON, || shop.goods.service().applied.lock().contains_key(&branch));
}

/// A bug: every transaction of the next openings was refused as "late", and no text said why.
#[test]
fn an_older_copy_of_the_log_is_refused_at_the_first_participant_that_has_heard_more() {
    let shop = Shop::new();
    let newest = MemoryLog::new();
    let coordinator = shop.coordinator(newest.clone()).open().unwrap();
    buy(&shop, &coordinator);
    let backup = Copy::of(&newest, &["shop"]);
    for _ in 0..3 {
        buy(&shop, &coordinator);
    }
    drop(coordinator);
    for _ in 0..8 {
        // Its epoch may be greater than that of the last life, or smaller.
        let copy = Copy::of(&backup, &["shop"]);
        let error = shop.coordinator(copy).open().unwrap_err();
        assert!(matches!(&error, CoordinatorError::Refused { error: ParticipantError::Superseded(_), .. }), "{error}");
        let chain = ringpact::error_chain(&error);
        assert!(chain.contains("older copy") && chain.contains("log_was_restored"), "{chain}");
    }
    let coordinator = shop.coordinator(newest.crash()).open().unwrap();
    buy(&shop, &coordinator);
}

/// A bug: each refused opening left a record, and participants accepted the copy once it had as
/// many records as they had heard of. A service manager that restarts its program needed moments
/// for that. Then the copy rolled back what it lacked.
#[test]
fn an_older_copy_is_refused_however_often_it_is_opened() {
    let shop = Shop::new();
    let newest = MemoryLog::new();
    let coordinator = shop.coordinator(newest.clone()).open().unwrap();
    buy(&shop, &coordinator);
    let backup = Copy::of(&newest, &["shop"]);
    let branch = promise(&shop, &coordinator, &newest);
    for _ in 0..3 {
        buy(&shop, &coordinator);
    }
    drop(coordinator);
    for opening in 0..100 {
        let error = shop.coordinator(backup.clone()).open().expect_err("the copy lacks what was heard");
        let is_superseded = matches!(&error, CoordinatorError::Refused { error: ParticipantError::Superseded(_), .. });
        assert!(is_superseded, "opening {opening}: {error}");
    }
    assert_eq!(
        shop.goods.in_doubt(&name("shop")).unwrap(),
        std::slice::from_ref(&branch),
        "no coordinator has touched it"
    );
    let coordinator = shop.coordinator(newest.crash()).open().unwrap();
    buy(&shop, &coordinator);
}

/// The same, if remote participants refuse and the coordinator is open: it went on with others, and
/// its log grew.
#[test]
fn an_older_copy_is_refused_however_much_it_has_done_for_others() {
    let shop = Shop::new();
    let newest = MemoryLog::new();
    let coordinator = shop.coordinator(newest.clone()).open().unwrap();
    // The copy holds a decision that it delivers, and its calls carry how far its log has come.
    shop.goods.service().fail(Op::Confirm, [crate::support::Fault::Fail; 6]);
    buy(&shop, &coordinator);
    let backup = Copy::of(&newest, &["shop"]);
    assert!(coordinator.settle(SOON));
    let branch = promise(&shop, &coordinator, &newest);
    for _ in 0..3 {
        buy(&shop, &coordinator);
    }
    drop(coordinator);
    let two = std::num::NonZeroUsize::new(2).unwrap();
    let (near, by) = (manager("near", MemoryLog::new()), manager("by", MemoryLog::new()));
    let builder = Coordinator::builder(backup).name("shop").participant("near", near.clone());
    let builder = builder.participant("by", by.clone()).slow_participant("goods", shop.goods.clone(), two);
    let coordinator = builder.open().unwrap();
    for _ in 0..50 {
        let mut txn = coordinator.begin();
        near.execute(txn.branch("near").unwrap(), 2).unwrap();
        by.execute(txn.branch("by").unwrap(), 2).unwrap();
        txn.commit().wait().unwrap();
    }
    eventually("the decision is told again, and refused", SOON, || {
        let status = coordinator.status();
        let mut branches = status.transactions.iter().flat_map(|txn| &txn.branches);
        branches.any(|branch| branch.participant.as_str() == "goods" && branch.failures > 5)
    });
    let by = coordinator.status().unanswered_by;
    assert!(matches!(by.get("goods"), Some(Some(ParticipantError::Superseded(_)))), "{by:?}");
    assert_eq!(shop.goods.in_doubt(&name("shop")).unwrap(), [branch], "no coordinator has touched it");
}

/// A transport that loses the first answer.
struct LosesOne<E> {
    to: E,
    lost: OnceLock<Reply>,
}

impl<E: Endpoint> Endpoint for LosesOne<E> {
    fn send(&self, request: Request, reply: Reply) {
        if let Err(reply) = self.lost.set(reply) {
            self.to.send(request, reply);
        }
    }
}

/// Found by simulation. A bug: the refusal was in a message that was lost, so the participant counted as absent. The coordinator
/// rolled back here what was committed there.
#[test]
fn an_older_copy_that_misses_a_refusal_asks_again_before_it_presumes_anything() {
    let shop = Shop::new();
    let newest = MemoryLog::new();
    let coordinator = shop.coordinator(newest.clone()).open().unwrap();
    let backup = Copy::of(&newest, &["shop"]);
    let branch = promise(&shop, &coordinator, &newest);
    // The transaction is decided, and only this participant has heard it.
    let there = branch.txn().branch(&name("payments"));
    shop.payments.execute(&there, 4).unwrap();
    let mut call = Call::new(newest.opening());
    (call.identity, call.epoch, call.position) = (newest.id(), coordinator.epoch(), newest.durable().as_u64());
    assert!(matches!(shop.payments.prepare(&there, &call), Ok(Vote::Yes)));
    call.position += 1;
    shop.payments.commit(&there, &call).unwrap();
    drop(coordinator);
    let payments = LosesOne { to: Inline::new(shop.payments.clone()), lost: OnceLock::new() };
    let patience = Duration::from_millis(400);
    let builder = Coordinator::builder(backup).name("shop").policy(Policy::default().delivery_timeout(patience));
    let coordinator = builder.participant("goods", shop.goods.clone()).endpoint("payments", payments).open().unwrap();
    eventually("it is refused", SOON, || {
        let by = coordinator.status().unanswered_by;
        matches!(by.get("payments"), Some(Some(ParticipantError::Superseded(_))))
    });
    std::thread::sleep(patience);
    assert_eq!(shop.goods.in_doubt(&name("shop")).unwrap(), [branch], "no coordinator has touched it");
}

/// The participant has missed the opening before. The coordinator shows that its log continues
/// an earlier one.
#[test]
fn a_participant_that_has_missed_openings_accepts_the_next() {
    let two = std::num::NonZeroUsize::new(2).unwrap();
    for is_slow in [false, true] {
        let mut shop = Shop::new();
        let mut log = MemoryLog::new();
        for round in 0..3 {
            let coordinator = shop.coordinator(log.clone()).open().unwrap();
            buy(&shop, &coordinator);
            drop(coordinator);
            for _ in 0..round {
                log = log.crash();
                let alone = Coordinator::builder(log.clone()).name("shop");
                drop(alone.participant("payments", shop.payments.clone()).open().unwrap());
            }
            log = log.crash();
            shop.restart_goods();
            let builder = Coordinator::builder(log.clone()).name("shop").participant("payments", shop.payments.clone());
            let coordinator = match is_slow {
                true => builder.slow_participant("goods", shop.goods.clone(), two).open().unwrap(),
                false => builder.participant("goods", shop.goods.clone()).open().unwrap(),
            };
            eventually("all have answered", SOON, || coordinator.status().unanswered == 0);
            buy(&shop, &coordinator);
            drop(coordinator);
            log = log.crash();
        }
    }
}

/// The copy lacks the decision. A presumed abort would roll back here what is committed there.
#[test]
fn a_restored_log_presumes_nothing() {
    let shop = Shop::new();
    let newest = MemoryLog::new();
    let coordinator = shop.coordinator(newest.clone()).open().unwrap();
    buy(&shop, &coordinator);
    let backup = Copy::of(&newest, &["shop"]);
    // Decided after the backup; `payments` has heard it, `goods` has not.
    let branch = promise(&shop, &coordinator, &newest);
    drop(coordinator);
    let restored = shop.coordinator(backup.clone()).log_was_restored().open().unwrap();
    assert_eq!(restored.status().unclaimed_count, 1, "{}", restored.status());
    assert_eq!(shop.goods.in_doubt(&name("shop")).unwrap(), std::slice::from_ref(&branch));
    restored.settle_unclaimed(branch.txn(), Decision::Commit).unwrap();
    assert!(restored.settle(SOON));
    buy(&shop, &restored);
    drop(restored);
    let reopened = shop.coordinator(Copy::of(&backup, &["shop"])).open().unwrap();
    buy(&shop, &reopened);
}

/// A bug: the decision of one coordinator committed the work of the other.
#[test]
fn one_of_two_live_coordinators_on_copies_of_a_log_is_fenced() {
    let shop = Shop::new();
    let log = MemoryLog::new();
    let first = shop.coordinator(log.clone()).open().unwrap();
    let mut txn = first.begin();
    shop.goods.execute(txn.branch("goods").unwrap(), 2).unwrap();
    shop.payments.execute(txn.branch("payments").unwrap(), 2).unwrap();
    let second = shop.coordinator(Copy::of(&log, &["shop"])).open().unwrap();
    let error = txn.commit().wait().unwrap_err();
    assert!(error.to_string().contains("opened again elsewhere"), "{error}");
    assert_eq!(shop.goods.service().balance(), 0);
    buy(&shop, &second);
    let mut late = first.begin();
    let refused = shop.goods.execute(late.branch("goods").unwrap(), 2);
    let Err(error @ ExecuteError::EarlierLife { known, .. }) = &refused else { panic!("{refused:?}") };
    assert_eq!(*known, second.epoch());
    assert!(error.to_string().contains("no new transaction helps"), "\"begin a new one\" is no help here: {error}");
}

#[test]
fn work_of_an_epoch_that_the_coordinator_has_not_announced_is_refused() {
    let shop = Shop::new();
    let coordinator = shop.coordinator(MemoryLog::new()).open().unwrap();
    let forged = TxnId::new(name("shop"), Epoch::new(coordinator.epoch().as_u64() + 1), 1).branch(&name("goods"));
    let refused = shop.goods.execute(&forged, 2);
    assert!(matches!(refused, Err(ExecuteError::UnknownEpoch { .. })), "{refused:?}");
    assert_eq!(shop.goods.in_doubt(&name("shop")).unwrap(), []);
}

/// Found by simulation. A bug: until it heard the coordinator again, a participant that was started again took work of later
/// epochs, also of an opening that it had just refused. The copy was closed, and what the work had set aside stayed so.
#[test]
fn a_restarted_participant_takes_no_work_of_an_opening_that_it_refuses() {
    let mut shop = Shop::new();
    let log = MemoryLog::new();
    let coordinator = shop.coordinator(log.clone()).open().unwrap();
    buy(&shop, &coordinator);
    shop.restart_goods();
    let later = Epoch::new(coordinator.epoch().as_u64() + 1);
    let branch = |sequence| TxnId::new(name("shop"), later, sequence).branch(&name("goods"));
    // Nothing was heard of it: it may be the coordinator's next opening, whose introduction is on its way.
    shop.goods.execute(&branch(1), 2).unwrap();
    let copy = Life::new(log.id(), later, 3);
    let refused = shop.goods.meet(&name("shop"), &copy);
    assert!(matches!(refused, Err(ParticipantError::Superseded(_))), "{refused:?}");
    let refused = shop.goods.execute(&branch(2), 2);
    assert!(matches!(refused, Err(ExecuteError::UnknownEpoch { .. })), "{refused:?}");
    assert_eq!(shop.goods.status().active, 1);
    drop(coordinator);
    let next = shop.coordinator(log.crash()).open().unwrap();
    buy(&shop, &next);
}

/// A bug: it held its locks forever.
#[test]
fn work_under_an_id_that_was_never_given_out_is_given_back() {
    let options = ResourceManager::<Account>::options().abandon_after(Duration::from_millis(20));
    let goods = std::sync::Arc::new(options.open("goods", MemoryLog::new(), Account::default()).unwrap());
    let shop = Coordinator::builder(MemoryLog::new()).name("shop").participant("goods", goods.clone()).open().unwrap();
    let forged = TxnId::new(name("shop"), shop.epoch(), 1_000_000).branch(&name("goods"));
    goods.execute(&forged, 2).unwrap();
    let mut held = shop.begin();
    eventually("the abandoned work is given back", SOON, || {
        // Another client's work is refused because of what the abandoned one has set aside.
        let mut txn = shop.begin();
        assert!(goods.execute(txn.branch("goods").unwrap(), 1).is_err());
        // A branch that gets work now and then is left alone.
        goods.execute(held.branch("goods").unwrap(), 2).unwrap();
        !goods.service().reserved.lock().contains_key(&forged)
    });
    let mut call = Call::new(LogId::NONE);
    call.epoch = shop.epoch();
    assert!(matches!(goods.prepare(&forged, &call), Err(ParticipantError::Refused(_))));
    held.commit().wait().unwrap();
}

/// An id of the current epoch with a number that was not given out belongs to no transaction. A
/// bug: no status showed it.
#[test]
fn a_branch_with_a_number_that_was_not_given_out_is_shown_as_unclaimed() {
    let shop = Shop::new();
    let log = MemoryLog::new();
    let coordinator = shop.coordinator(log.clone()).open().unwrap();
    let forged = TxnId::new(name("shop"), Epoch::new(coordinator.epoch().as_u64() / 2), 7).branch(&name("payments"));
    drop(coordinator);
    let payments_log = MemoryLog::new();
    let payments = manager("payments", payments_log.clone());
    payments.execute(&forged, 2).unwrap();
    let builder = Coordinator::builder(log.crash()).name("shop").participant("payments", payments.clone());
    let coordinator = builder.open().unwrap();
    assert_eq!(coordinator.status().unclaimed.len(), 1, "{}", coordinator.status());
}

/// A bug: the promise was not forced, because the log's id was that of the coordinator's log. A
/// crash undid the commit that was answered.
#[test]
fn a_participant_on_a_clone_of_the_coordinators_log_forces_its_own_records() {
    let log = MemoryLog::new();
    let clone = Copy::of(&log, &[]);
    assert_eq!(clone.id(), log.id());
    let (near, far) = (manager("near", log.clone()), manager("far", clone.clone()));
    let builder = Coordinator::builder(log).participant("near", near.clone()).participant("far", far.clone());
    let coordinator = builder.open().unwrap();
    let mut txn = coordinator.begin();
    near.execute(txn.branch("near").unwrap(), 2).unwrap();
    far.execute(txn.branch("far").unwrap(), 2).unwrap();
    txn.commit().wait().unwrap();
    assert_eq!(clone.stats().forced, 3, "which life it has met, a promise and a commit of its own");
}

/// A participant in another process refuses when it is asked; the coordinator shows that and
/// settles nothing there.
#[test]
fn a_participant_far_away_that_refuses_is_shown_in_the_status() {
    let shop = Shop::new();
    let first = MemoryLog::new();
    let open = shop.coordinator(first.clone()).open().unwrap();
    let branch = promise(&shop, &open, &first);
    drop(open);
    let two = std::num::NonZeroUsize::new(2).unwrap();
    let builder =
        Coordinator::builder(MemoryLog::new()).name("shop").slow_participant("goods", shop.goods.clone(), two);
    let second = builder.open().unwrap();
    eventually("it is refused", SOON, || {
        let by = second.status().unanswered_by;
        matches!(by.get("goods"), Some(Some(ParticipantError::OtherLog(_))))
    });
    let mut txn = second.begin();
    let worked = shop.goods.execute(txn.branch("goods").unwrap(), 2);
    // Chance decides whether the epoch is later or earlier than the known one.
    assert!(matches!(worked, Err(ExecuteError::UnknownEpoch { .. } | ExecuteError::EarlierLife { .. })), "{worked:?}");
    let text = worked.unwrap_err().to_string();
    assert!(
        text.contains("the participant refuses") && text.contains("unanswered_by"),
        "it says where to look: {text}"
    );
    let error = txn.commit().wait();
    assert!(error.is_err(), "{error:?}");
    assert_eq!(shop.goods.in_doubt(&name("shop")).unwrap(), [branch], "the promise is not touched");
}

/// Found by simulation. A bug: the participant had forgotten the work, and answered each rollback that
/// it came too late, because the lost log's epoch was later than that of the log in its place. The
/// transaction never ended.
#[test]
fn work_of_a_lost_log_that_the_participant_has_forgotten_can_be_rolled_back() {
    let (mut shop, shops) = (Shop::new(), name("shop"));
    let life = |log, epoch| Life::new(LogId::from_bytes([log; 16]), Epoch::new(epoch), 10);
    shop.goods.meet(&shops, &life(1, 9)).unwrap();
    let branches = [1, 2].map(|sequence| TxnId::new(shops.clone(), Epoch::new(9), sequence).branch(&name("goods")));
    branches.iter().for_each(|branch| shop.goods.execute(branch, 6).unwrap());
    let mut replacing = life(2, 5);
    replacing.replaces = LogId::from_bytes([1; 16]);
    shop.goods.meet(&shops, &replacing).unwrap();
    assert_eq!(shop.goods.in_doubt(&shops).unwrap(), branches);
    shop.restart_goods();
    let mut call = Call::new(LogId::from_bytes([3; 16]));
    (call.identity, call.epoch, call.position) = (LogId::from_bytes([2; 16]), Epoch::new(5), 11);
    let asked = shop.goods.prepare(&branches[0], &call);
    assert!(matches!(asked, Err(ParticipantError::Stale)), "no coordinator asks that: {asked:?}");
    for _ in 0..2 {
        shop.goods.rollback(&branches[0], &call).unwrap();
        let committed = shop.goods.commit(&branches[1], &call);
        assert!(matches!(committed, Err(ParticipantError::UnknownBranch)), "{committed:?}");
    }
    assert!(shop.goods.execute(&branches[0], 2).is_err(), "late work of the lost log is refused");
    assert_eq!(shop.goods.in_doubt(&shops).unwrap(), []);
}

/// A live copy of the log that the participant shares with its coordinator has the same id. The
/// participant used to forget that it had listened to the copy, and then listened to the original.
#[test]
fn a_participant_remembers_a_copy_of_its_own_log_over_a_restart() {
    let log = MemoryLog::new();
    let goods = manager("goods", log.clone());
    let copy = Life::new(log.id(), Epoch::new(20), 9);
    goods.meet(&name("shop"), &copy).unwrap();
    drop(goods);
    let goods = manager("goods", log.crash());
    let original = Life::new(copy.log, Epoch::new(10), 5);
    let refused = goods.meet(&name("shop"), &original);
    assert!(matches!(refused, Err(ParticipantError::Superseded(_))), "{refused:?}");
}

/// Lives are compared first, and a repeated introduction changes nothing.
#[test]
fn an_introduction_may_come_twice() {
    let goods = manager("goods", MemoryLog::new());
    let life = Life::new(LogId::from_bytes([7; 16]), Epoch::new(5), 10);
    for _ in 0..2 {
        goods.meet(&name("shop"), &life).unwrap();
    }
}
