//! Sequences of appends, batches and segments, and what they must not lead to.

use super::*;
use crate::log::file::limits::MIN_SEGMENT_BYTES;

fn queue(room: u64) -> Queue {
    Queue::new(Lsn::NONE, 0, SegmentState { room, bytes: MIN_SEGMENT_BYTES, configured: MIN_SEGMENT_BYTES })
}

fn accept(queue: &mut Queue, frame: u64) {
    queue.accept(&vec![0; frame as usize - format::FRAME_HEADER]);
}

/// Notes that all that was accepted is folded in, and returns its size.
fn fold_all(queue: &mut Queue) -> u64 {
    queue.take_unfolded();
    mem::take(&mut queue.folding_bytes)
}

/// A record accepted because there is a spare segment must not lose that segment to a caller that
/// demands a larger one.
#[test]
fn a_spare_that_the_buffer_needs_is_begun_before_a_larger_one_is_prepared() {
    let mut queue = queue(0);
    queue.spare.ready = Some(MIN_SEGMENT_BYTES);
    queue.demand_spare(1 << 20);
    assert_eq!(queue.admit(100), RecordAdmission::Accept);
    accept(&mut queue, 100); // lazily: no caller has asked for it to be written
    assert_eq!(queue.next_upkeep(), None);
    assert_eq!(queue.next_work(&mut Vec::new()), Some(Work::Rotate));
    queue.take_into_spare(MIN_SEGMENT_BYTES, &mut Vec::new());
    queue.has_replaced(MIN_SEGMENT_BYTES);
    assert_eq!(queue.next_upkeep(), Some(Upkeep::Remove(())), "it is too small to be of use again");
    assert_eq!(queue.next_upkeep(), Some(Upkeep::Prepare(1 << 20, ())));
}

/// A segment prepared too early would get the number, and the file, of the one that is being begun.
#[test]
fn no_segment_is_prepared_while_one_is_being_replaced() {
    let mut queue = queue(0);
    queue.spare.ready = Some(MIN_SEGMENT_BYTES);
    accept(&mut queue, 100);
    queue.want();
    assert_eq!(queue.next_work(&mut Vec::new()), Some(Work::Rotate));
    queue.take_into_spare(MIN_SEGMENT_BYTES, &mut Vec::new());
    accept(&mut queue, 100); // more than half of the new one may seem to be used
    queue.demand_spare(1 << 20);
    assert!(!queue.needs_upkeep());
    assert_eq!(queue.next_upkeep(), None);
    queue.has_replaced(MIN_SEGMENT_BYTES);
    assert!(queue.needs_upkeep());
    assert_eq!(queue.next_upkeep(), Some(Upkeep::Remove(())));
    assert_eq!(queue.next_upkeep(), Some(Upkeep::Prepare(1 << 20, ())));
}

#[test]
fn a_segment_that_was_replaced_is_used_again_if_it_has_the_size_for_it() {
    let replace = |live_bytes, replaced, demanded: Option<u64>| {
        let mut queue = queue(0);
        queue.spare.ready = Some(1 << 20);
        accept(&mut queue, 100);
        queue.want();
        assert_eq!(queue.next_work(&mut Vec::new()), Some(Work::Rotate));
        queue.take_into_spare(1 << 20, &mut Vec::new());
        queue.live_bytes = live_bytes;
        queue.has_replaced(replaced);
        demanded.into_iter().for_each(|bytes| queue.demand_spare(bytes));
        [queue.next_upkeep(), queue.next_upkeep()]
    };
    let then = |bytes| [Some(Upkeep::Remove(())), Some(Upkeep::Prepare(bytes, ()))];
    assert_eq!(replace(0, MIN_SEGMENT_BYTES, None), [Some(Upkeep::Reuse(())), None], "one attempt at a time");
    assert_eq!(replace(0, MIN_SEGMENT_BYTES, Some(MIN_SEGMENT_BYTES)), [Some(Upkeep::Reuse(())), None]);
    assert_eq!(replace(0, MIN_SEGMENT_BYTES, Some(2 << 20)), then(2 << 20), "a caller needs more");
    assert_eq!(replace(0, 1 << 20, None)[0], Some(Upkeep::Remove(())), "it was made for more than is live now");
    assert_eq!(replace(60_000, MIN_SEGMENT_BYTES, None)[0], Some(Upkeep::Remove(())), "too much is live");
}

/// Found by simulation: two appenders waited for room. While the segment for one of them was
/// prepared, the other demanded one too. So the keeper threw away the segment that was ready, and
/// prepared another, for which the first appender then asked again. Neither ever got to append, and
/// the keeper kept the disk busy forever.
#[test]
fn a_spare_that_is_ready_serves_all_who_have_demanded_one() {
    let mut queue = queue(0);
    queue.spare.full = Some(Arc::new(io::ErrorKind::StorageFull.into()));
    queue.demand_spare(MIN_SEGMENT_BYTES);
    assert_eq!(queue.next_upkeep(), Some(Upkeep::Prepare(MIN_SEGMENT_BYTES, ())));
    queue.demand_spare(MIN_SEGMENT_BYTES);
    queue.prepared(Ok(MIN_SEGMENT_BYTES));
    assert_eq!(queue.next_upkeep(), None);
    assert_eq!(queue.admit(100), RecordAdmission::Accept);
}

/// The first invariant, under random appends, foldings, failed attempts to prepare a segment, and
/// ends of batches.
#[test]
fn whatever_was_accepted_has_its_room() {
    for seed in 0..300 {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut queue = queue(MIN_SEGMENT_BYTES - 3 * BLOCK);
        let mut preparing = None;
        for _ in 0..400 {
            match random.u32(..6) {
                0..=1 => {
                    let frame = if random.u32(..20) == 0 { 150_000 } else { random.u64(20..9_000) };
                    match queue.admit(frame) {
                        RecordAdmission::Accept => accept(&mut queue, frame),
                        RecordAdmission::Wait => queue.want(),
                        RecordAdmission::NeedsSpare(bytes) => queue.demand_spare(bytes),
                    }
                }
                2 => {
                    // All that was accepted is folded in, and some of what is live has ended.
                    queue.live_bytes = random.u64(..=queue.live_bytes + fold_all(&mut queue));
                }
                3 => queue.want(),
                4 if preparing.is_some() => {
                    let bytes = preparing.take().filter(|_| random.bool());
                    queue.prepared(bytes.ok_or_else(|| io::ErrorKind::StorageFull.into()));
                }
                4 => {
                    while let Some(upkeep) = queue.next_upkeep() {
                        preparing = match upkeep {
                            Upkeep::Prepare(bytes, ()) => Some(bytes),
                            Upkeep::Reuse(()) => Some(MIN_SEGMENT_BYTES),
                            _ => continue,
                        };
                        break;
                    }
                }
                _ if queue.in_flight => queue.in_flight = false,
                _ => {
                    if queue.next_work(&mut Vec::new()) == Some(Work::Rotate) {
                        let spare = queue.spare.ready.expect("a record was accepted for it");
                        let carried = queue.live_bytes + fold_all(&mut queue);
                        assert!(suits(spare, carried), "seed {seed}: {carried} bytes do not go into {spare}");
                        queue.take_into_spare(spare, &mut Vec::new());
                        queue.live_bytes = carried;
                        queue.carried(carried);
                        queue.has_replaced(spare);
                    }
                }
            }
            let has_room = queue.buffer_need() <= queue.segment.room;
            assert!(has_room || queue.spare.ready.is_some(), "seed {seed}: no room for what was accepted");
        }
    }
}
