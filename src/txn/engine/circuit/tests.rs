use super::*;
use crate::id::{Epoch, TxnOrdinal};

const MS: Duration = Duration::from_millis(1);

fn id(sequence: u64) -> Id {
    (TxnKey::of(TxnOrdinal { epoch: Epoch::new(1), sequence }), 0)
}

fn circuit(policy: Policy) -> Circuit {
    Circuit::new(Settings { undelivered: 100, policy })
}

/// Makes this number of transactions fail, each with a decision that is not delivered.
fn fail(circuit: &mut Circuit, now: Instant, sequences: impl IntoIterator<Item = u64>) {
    for sequence in sequences {
        circuit.delivers(now, id(sequence), 0);
        circuit.answered(now, now, false);
        circuit.failed(now, id(sequence));
    }
}

#[test]
fn one_failing_branch_opens_nothing_and_many_do() {
    let (mut circuit, now) = (circuit(Policy::DEFAULT), Instant::now());
    for _ in 0..1_000 {
        fail(&mut circuit, now, [1]);
    }
    assert_eq!(circuit.admits(now), Ok(Admitted::Usually));
    fail(&mut circuit, now, 2..8);
    assert_eq!(circuit.admits(now), Ok(Admitted::Usually));
    fail(&mut circuit, now, [8]);
    let refused = circuit.admits(now).unwrap_err();
    assert_eq!((refused.why, refused.outstanding, refused.since), (Refusal::NotAnswering, 8, now));
    assert_eq!(circuit.asks_vote(now), Pass::Fail);
}

#[test]
fn failures_among_answers_open_nothing() {
    let (mut circuit, now) = (circuit(Policy::DEFAULT), Instant::now());
    for round in 0..100 {
        fail(&mut circuit, now, round * 7..round * 7 + 7);
        circuit.succeeded(now, id(1_000));
        circuit.tick(now);
        (round * 7..round * 7 + 7).for_each(|sequence| circuit.settled(now, id(sequence)));
        assert_eq!(circuit.admits(now), Ok(Admitted::Usually));
    }
    assert!(circuit.is_calm());
}

#[test]
fn an_open_circuit_probes_once_at_a_time_whatever_is_kept_back() {
    let policy = Policy { first_backoff: 10 * MS, longest_backoff: 80 * MS, ..Policy::DEFAULT };
    let (mut circuit, begun) = (circuit(policy), Instant::now());
    fail(&mut circuit, begun, 1..=8);
    for sequence in 1..=50 {
        assert_eq!(circuit.delivers(begun, id(sequence), 1), Pass::KeepBack);
        assert_eq!(circuit.delivers(begun, id(sequence), 1), Pass::KeepBack, "and again");
    }
    assert_eq!(circuit.view().kept, 50);
    let (mut now, mut probes) = (begun, Vec::new());
    while now < begun + 1_000 * MS {
        now = circuit.next_tick().expect("something is kept back").max(now);
        circuit.tick(now);
        for effect in circuit.take_effects() {
            let Effect::LetOut(probe) = effect else { panic!("{effect:?}") };
            probes.push(now);
            assert_eq!(circuit.delivers(now, probe, 1), Pass::Go);
            circuit.tick(now);
            assert_eq!(circuit.take_effects(), [], "one at a time");
            circuit.answered(now, now, false);
            circuit.failed(now, probe);
            assert_eq!(circuit.delivers(now, probe, 2), Pass::KeepBack, "behind the others");
        }
    }
    assert!((12..=18).contains(&probes.len()), "{} probes in a second", probes.len());
}

#[test]
fn once_it_answers_kept_back_decisions_are_let_out_window_by_window() {
    let (mut circuit, mut now) = (circuit(Policy::DEFAULT), Instant::now());
    fail(&mut circuit, now, 1..=8);
    (1..=90).for_each(|sequence| assert_eq!(circuit.delivers(now, id(sequence), 1), Pass::KeepBack));
    now += Duration::from_secs(1);
    circuit.tick(now);
    let (mut let_out, mut done, mut most) = (circuit.take_effects(), 0, 0);
    assert_eq!(let_out.len(), 1);
    while let Some(Effect::LetOut(next)) = let_out.pop() {
        most = most.max(let_out.len());
        assert_eq!(circuit.delivers(now, next, 0), Pass::Go);
        circuit.answered(now, now, false);
        circuit.succeeded(now, next);
        circuit.settled(now, next);
        done += 1;
        if done == 1 {
            assert_eq!(circuit.effects.len(), FIRST_WINDOW);
        }
        let_out.extend(circuit.take_effects());
    }
    assert_eq!((done, circuit.is_calm()), (90, true));
    assert!(most <= WIDEST);
}

#[test]
fn undelivered_decisions_are_limited_and_parked_ones_count() {
    let (mut circuit, now) = (circuit(Policy::DEFAULT), Instant::now());
    for sequence in 0..100 {
        assert_eq!(circuit.admits(now), Ok(Admitted::Usually));
        circuit.delivers(now, id(sequence), 0);
    }
    let later = now + MS;
    assert_eq!(circuit.admits(later).unwrap_err().why, Refusal::Undelivered);
    circuit.parked(later, id(0));
    let refused = circuit.admits(later).unwrap_err();
    assert_eq!((refused.outstanding, refused.since), (100, now));
    circuit.settled(later, id(0));
    assert_eq!(circuit.admits(later), Ok(Admitted::Usually));
}

#[test]
fn a_silent_participant_opens_its_circuit_and_one_that_answers_others_does_not() {
    let (mut circuit, begun) = (circuit(Policy::DEFAULT), Instant::now());
    (0..8).for_each(|_| assert_eq!(circuit.asks_vote(begun), Pass::Go));
    let late = begun + Policy::DEFAULT.prepare_timeout;
    circuit.answered(late, begun, true);
    (0..8).for_each(|sequence| circuit.is_late(late, id(sequence), begun));
    assert_eq!(circuit.admits(late), Ok(Admitted::Usually), "it has just said something");
    circuit.asks_vote(late);
    let silent = late + Policy::DEFAULT.prepare_timeout / 2;
    assert_eq!(circuit.admits(silent).unwrap_err().why, Refusal::NotAnswering);
    circuit.succeeded(silent, id(1));
    assert_eq!(circuit.view().state, CircuitState::Closed);
}

/// Simulates votes at a steady rate, each after the given time; new ones begin as they are
/// admitted. Returns the number of refused ones, and the largest number that waited.
fn steady(circuit: &mut Circuit, a_second: u32, takes: Duration, arrive_a_second: u32) -> (usize, usize) {
    let begun = Instant::now();
    let (mut asked, mut refused, mut most, mut free) = (std::collections::VecDeque::new(), 0, 0, begun);
    let (serves, arrives) = (Duration::from_secs(1) / a_second, Duration::from_secs(1) / arrive_a_second);
    for number in 0..20 * arrive_a_second {
        let now = begun + arrives * number;
        while let Some((at, done)) = asked.front().copied().filter(|(_, done)| *done <= now) {
            circuit.answered(done, at, true);
            circuit.succeeded(done, id(1));
            asked.pop_front();
        }
        if circuit.admits(now).is_ok() {
            assert_eq!(circuit.asks_vote(now), Pass::Go);
            free = free.max(now) + serves;
            asked.push_back((now, free + takes));
            most = most.max(asked.len());
        } else {
            refused += 1;
        }
    }
    (refused, most)
}

#[test]
fn a_fast_participant_far_away_is_not_throttled() {
    let mut far = circuit(Policy::DEFAULT);
    let (refused, most) = steady(&mut far, 200_000, 20 * MS, 20_000);
    assert_eq!(refused, 0);
    assert!(most >= 300, "{most} were outstanding");
}

#[test]
fn an_overloaded_participant_gets_what_it_can_do_in_time() {
    let mut slow = circuit(Policy::DEFAULT);
    let (refused, most) = steady(&mut slow, 400, MS, 4_000);
    let done = 20 * 4_000 - refused;
    assert!(done >= 20 * 400, "it is kept busy: {done}");
    let longest = Duration::from_secs_f64(most as f64 / 400.0);
    assert!(longest < Policy::DEFAULT.prepare_timeout * 3, "the first rush waits for {longest:?}");
    let (_, then) = steady(&mut slow, 400, MS, 4_000);
    assert!(then <= 1_100, "{then} wait for their votes");
}

#[test]
fn kept_back_decisions_are_parked_in_their_time_and_after_their_attempts() {
    let policy = Policy { park_after: 500 * MS, first_backoff: 10 * MS, longest_backoff: 10 * MS, ..Policy::DEFAULT };
    for policy in [policy, Policy { park_after_attempts: 5, park_after: Duration::MAX, ..policy }] {
        let (mut circuit, begun) = (circuit(policy), Instant::now());
        fail(&mut circuit, begun, 1..=8);
        (1..=20).for_each(|sequence| assert_eq!(circuit.delivers(begun, id(sequence), 1), Pass::KeepBack));
        let (mut now, mut given_up) = (begun, 0);
        while given_up < 20 && now < begun + 2_000 * MS {
            let Some(next) = circuit.next_tick() else { break };
            now = now.max(next);
            circuit.tick(now);
            for effect in circuit.take_effects() {
                match effect {
                    Effect::GiveUp(_) => given_up += 1,
                    Effect::LetOut(probe) => {
                        circuit.delivers(now, probe, 1);
                        circuit.answered(now, now, false);
                        circuit.failed(now, probe);
                        circuit.delivers(now, probe, 2);
                    }
                }
            }
            given_up += circuit.take_effects().len();
        }
        assert_eq!((given_up, circuit.view().kept, circuit.view().undelivered), (20, 0, 20), "{policy:?}");
    }
}
