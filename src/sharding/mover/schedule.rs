//! [`Schedule`]: which chunk moves next. Pure; time is an argument.
//!
//! Ranges wait in queues, one for each pair of nodes. A chunk takes ranges from the front of a queue
//! whose two nodes have room for it. What of a chunk did not move comes back: to the front if the chunk
//! was only too large for it, to the end, after a pause, if something was in the way. So ranges that
//! can't move now don't keep others from moving.

use std::{
    collections::{BTreeMap, VecDeque},
    ops::Bound,
    time::{Duration, Instant},
};

use crate::{
    ring::{NodeId, PositionRange, RangeSet},
    sharding::{MAX_CHUNK_RANGES, Pace},
};

/// Number of bytes of the first chunk. Small, because nothing is known of the nodes yet.
const FIRST_BYTES: u64 = 64 << 10;

/// Time after which ranges are tried again, at first. It doubles up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(10);

/// Maximum time after which ranges are tried again.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// Number of failures in a row of a range after which transactions that hold it and have promised
/// nothing are given up.
const GIVE_UP_AFTER: u32 = 5;

/// Time for which a pace may save up bytes that it did not move.
const BURST: Duration = Duration::from_millis(250);

/// What to do next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Move this chunk.
    Chunk(Chunk),
    /// Wait until then, or until a chunk has ended.
    Wait(Instant),
    /// Wait until a chunk has ended.
    Busy,
    /// All has moved.
    Done,
}

/// Ranges to move from one node to another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Chunk {
    pub(super) from: NodeId,
    pub(super) to: NodeId,
    /// As many as fit into `budget` move.
    pub(super) ranges: RangeSet,
    pub(super) budget: u64,
    /// Whether to give up transactions that are in the way and have promised nothing.
    pub(super) is_urgent: bool,
    failures: u32,
}

/// How a chunk ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum ChunkEnd {
    /// These of its ranges moved, with this many bytes, and were held up for this long: not at all, if they
    /// had moved before.
    Moved { ranges: RangeSet, bytes: u64, held_up: Duration },
    /// Nothing moved; try it again after a pause.
    Failed,
}

#[derive(Clone, Debug, Default)]
struct Pair {
    queue: VecDeque<Waiting>,
    /// The budget of the next chunk, once one of this pair has moved or failed.
    budget: Option<u64>,
    /// Whether the last chunk held up its keys for too long.
    was_slow: bool,
    under_way: u32,
}

#[derive(Clone, Debug)]
struct Waiting {
    range: PositionRange,
    failures: u32,
    not_before: Option<Instant>,
}

/// The ranges that are still to move, and those that are on their way.
#[derive(Clone, Debug)]
pub(super) struct Schedule {
    pace: Pace,
    pairs: BTreeMap<(NodeId, NodeId), Pair>,
    out_of: BTreeMap<NodeId, u32>,
    into: BTreeMap<NodeId, u32>,
    /// The pair that had the last chunk. The next one has its turn first.
    last: Option<(NodeId, NodeId)>,
    /// When the bytes that have moved are paid for, at this pace.
    paid_at: Option<Instant>,
    /// About the shortest time for which a chunk holds up its keys, however small it is.
    least_held_up: Option<Duration>,
    /// The budget of the first chunk of a pair: that which another pair has come to.
    first_budget: u64,
}

impl Schedule {
    /// Returns a schedule that moves these ranges, each from one node to another.
    pub(super) fn new(pace: Pace, moves: impl IntoIterator<Item = (PositionRange, NodeId, NodeId)>) -> Self {
        let mut pairs = BTreeMap::<_, Pair>::new();
        for (range, from, to) in moves {
            let pair = pairs.entry((from, to)).or_default();
            pair.queue.push_back(Waiting { range, failures: 0, not_before: None });
        }
        let (out_of, into) = (BTreeMap::new(), BTreeMap::new());
        let (last, paid_at, least_held_up) = (None, None, None);
        Self { pace, pairs, out_of, into, last, paid_at, least_held_up, first_budget: FIRST_BYTES }
    }

    pub(super) fn set_pace(&mut self, pace: Pace) {
        self.pace = pace;
        self.paid_at = None;
    }

    /// Returns what to do now.
    pub(super) fn next(&mut self, now: Instant) -> Next {
        if let Some(paid_at) = self.paid_at.filter(|paid_at| *paid_at > now) {
            return if self.is_done() { Next::Done } else { Next::Wait(paid_at) };
        }
        let (out_limit, in_limit) = self.pace.max_chunks();
        let is_below =
            |counts: &BTreeMap<NodeId, u32>, node, limit| counts.get(node).is_none_or(|count| *count < limit);
        let mut earliest = None;
        let mut chosen = None;
        // In turn: first the pairs behind the last one. The search ends at the first that can go, so that
        // it is short, however many pairs there are.
        let (behind, up_to) =
            self.last.as_ref().map_or((Bound::Unbounded, None), |last| (Bound::Excluded(last), Some(last)));
        let head = self.pairs.range((behind, Bound::Unbounded));
        let tail = up_to.into_iter().flat_map(|last| self.pairs.range(..=last));
        for (pair, at) in head.chain(tail) {
            let (from, to) = pair;
            let Some(first) = at.queue.front() else { continue };
            if !is_below(&self.out_of, from, out_limit) || !is_below(&self.into, to, in_limit) {
                continue;
            }
            match first.not_before {
                Some(not_before) if not_before > now => {
                    earliest = Some(earliest.map_or(not_before, |earliest: Instant| earliest.min(not_before)));
                }
                _ => {
                    chosen = Some(pair.clone());
                    break;
                }
            }
        }
        match (chosen, earliest) {
            (Some(pair), _) => Next::Chunk(self.take(pair)),
            (None, Some(earliest)) => Next::Wait(earliest),
            (None, None) if self.is_done() => Next::Done,
            (None, None) => Next::Busy,
        }
    }

    fn is_done(&self) -> bool {
        self.pairs.is_empty()
    }

    fn take(&mut self, pair: (NodeId, NodeId)) -> Chunk {
        let at = self.pairs.get_mut(&pair).expect("the pair was chosen from the map");
        let failures = at.queue.front().map_or(0, |waiting| waiting.failures);
        let mut ranges = RangeSet::new();
        // Ranges that have failed go by themselves, because they may fail again.
        let most = if failures > 0 { 1 } else { MAX_CHUNK_RANGES };
        for _ in 0..most {
            if at.queue.front().is_none_or(|waiting| waiting.failures != failures) {
                break;
            }
            ranges.extend(at.queue.pop_front().map(|waiting| waiting.range));
        }
        at.under_way += 1;
        let budget = at.budget.unwrap_or_else(|| self.pace.budget(self.first_budget));
        let (from, to) = pair.clone();
        *self.out_of.entry(from.clone()).or_default() += 1;
        *self.into.entry(to.clone()).or_default() += 1;
        self.last = Some(pair);
        Chunk { from, to, ranges, budget, is_urgent: failures >= GIVE_UP_AFTER, failures }
    }

    /// Takes in how a chunk ended.
    pub(super) fn ended(&mut self, chunk: &Chunk, end: &ChunkEnd, now: Instant) {
        for (counts, node) in [(&mut self.out_of, &chunk.from), (&mut self.into, &chunk.to)] {
            if let Some(count) = counts.get_mut(node) {
                *count -= 1;
                if *count == 0 {
                    counts.remove(node);
                }
            }
        }
        let pair = (chunk.from.clone(), chunk.to.clone());
        let at = self.pairs.entry(pair.clone()).or_default();
        at.under_way = at.under_way.saturating_sub(1);
        match end {
            ChunkEnd::Moved { ranges, bytes, held_up } => {
                let mut left = chunk.ranges.clone();
                ranges.iter().for_each(|range| left.remove(range));
                let left: Vec<_> = left.iter().collect();
                for range in left.into_iter().rev() {
                    at.queue.push_front(Waiting { range, failures: 0, not_before: None });
                }
                // One that had moved before shows nothing.
                if !held_up.is_zero() {
                    // It creeps up, so that it forgets a time when all was quick.
                    let least = self.least_held_up.map_or(*held_up, |least| (least + least / 32).min(*held_up));
                    self.least_held_up = Some(least);
                    let target = self.pace.target_freeze().max(least * 2);
                    let is_slow = *held_up > target * 2;
                    // One slow chunk shows little: now and then a disk takes long for a few bytes, too.
                    if !is_slow || at.was_slow {
                        let next = self.pace.budget(next_budget(chunk.budget, *bytes, *held_up, target));
                        at.budget = Some(next);
                        self.first_budget = next;
                    }
                    at.was_slow = is_slow;
                }
                let start = self.paid_at.unwrap_or(now).max(now.checked_sub(BURST).unwrap_or(now));
                self.paid_at = start.checked_add(self.pace.time_for(*bytes));
            }
            ChunkEnd::Failed => {
                let failures = chunk.failures.saturating_add(1);
                let pause = FIRST_PAUSE.saturating_mul(1 << failures.min(16).saturating_sub(1)).min(LONGEST_PAUSE);
                at.budget = Some(self.pace.budget(chunk.budget / 2));
                for range in chunk.ranges.iter() {
                    at.queue.push_back(Waiting { range, failures, not_before: now.checked_add(pause) });
                }
            }
        }
        if at.queue.is_empty() && at.under_way == 0 {
            self.pairs.remove(&pair);
        }
    }
}

/// Returns the number of bytes for the next chunk, after one of `bytes` was held up for this long.
///
/// A target below twice what the smallest chunk takes can't be met: smaller chunks would hold up their
/// keys for as long, and there would be more of them.
fn next_budget(budget: u64, bytes: u64, held_up: Duration, target: Duration) -> u64 {
    if held_up > target * 2 {
        budget / 2
    } else if held_up < target && bytes * 2 > budget {
        // Only a chunk that used its budget shows that a larger one would be quick, too.
        budget * 2
    } else {
        budget
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ring::Position;

    fn range(start: u64, end: u64) -> PositionRange {
        PositionRange { start: Position::new(start), end: Position::new(end) }
    }

    fn node(name: &str) -> NodeId {
        NodeId::from(name)
    }

    fn schedule(moves: &[(u64, u64, &str, &str)]) -> Schedule {
        let moves = moves.iter().map(|(start, end, from, to)| (range(*start, *end), node(from), node(to)));
        Schedule::new(Pace::new().unthrottled(), moves)
    }

    fn chunk(schedule: &mut Schedule, now: Instant) -> Chunk {
        match schedule.next(now) {
            Next::Chunk(chunk) => chunk,
            other => panic!("no chunk: {other:?}"),
        }
    }

    fn moved(chunk: &Chunk) -> ChunkEnd {
        ChunkEnd::Moved { ranges: chunk.ranges.clone(), bytes: 1, held_up: Duration::ZERO }
    }

    #[test]
    fn all_ranges_move_once_and_no_node_is_in_too_many_chunks() {
        let now = Instant::now();
        let mut schedule = schedule(&[
            (0, 1, "a", "new"),
            (10, 11, "b", "new"),
            (20, 21, "c", "new"),
            (30, 31, "a", "new"),
            (40, 41, "a", "other"),
        ]);
        let (first, second) = (chunk(&mut schedule, now), chunk(&mut schedule, now));
        assert_eq!((first.ranges.iter().count(), first.from.as_str()), (2, "a"), "both ranges of a pair go together");
        assert_eq!(second.from.as_str(), "b", "a gives one chunk at a time");
        assert_eq!(schedule.next(now), Next::Busy, "two into one node, one out of each");
        schedule.ended(&first, &moved(&first), now);
        let third = chunk(&mut schedule, now);
        assert_eq!(third.from.as_str(), "c", "pairs take turns");
        let fourth = chunk(&mut schedule, now);
        assert_eq!(fourth.to.as_str(), "other");
        for done in [second, third, fourth] {
            schedule.ended(&done, &moved(&done), now);
        }
        assert_eq!(schedule.next(now), Next::Done);
    }

    #[test]
    fn what_does_not_fit_is_next_and_what_fails_waits_and_goes_alone() {
        let mut now = Instant::now();
        let mut schedule = schedule(&[(0, 10, "a", "b"), (20, 30, "a", "b")]);
        let first = chunk(&mut schedule, now);
        let part = RangeSet::from_iter([range(0, 4)]);
        schedule.ended(&first, &ChunkEnd::Moved { ranges: part, bytes: 1, held_up: Duration::ZERO }, now);
        let second = chunk(&mut schedule, now);
        assert_eq!(second.ranges, RangeSet::from_iter([range(4, 10), range(20, 30)]));
        schedule.ended(&second, &ChunkEnd::Failed, now);
        let mut tried = 0;
        let urgent = loop {
            match schedule.next(now) {
                Next::Wait(until) => now = until,
                Next::Chunk(chunk) if chunk.is_urgent => break chunk,
                Next::Chunk(chunk) => {
                    assert!(chunk.ranges == RangeSet::from_iter([range(4, 10)]) || chunk.ranges.width() == 10);
                    schedule.ended(&chunk, &ChunkEnd::Failed, now);
                    tried += 1;
                }
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(tried, 2 * (GIVE_UP_AFTER - 1), "both ranges are tried as often");
        schedule.ended(&urgent, &moved(&urgent), now);
        assert!(matches!(schedule.next(now + LONGEST_PAUSE), Next::Chunk(_)), "and the other one is next");
    }

    #[test]
    fn a_chunk_that_had_moved_before_says_nothing_about_the_time_of_others() {
        let now = Instant::now();
        let mut schedule = schedule(&[(0, 10, "a", "b"), (20, 30, "a", "c"), (40, 50, "a", "d")]);
        let ended = |schedule: &mut Schedule, held_up| {
            let chunk = chunk(schedule, now);
            let end = ChunkEnd::Moved { ranges: chunk.ranges.clone(), bytes: chunk.budget, held_up };
            schedule.ended(&chunk, &end, now);
            schedule.first_budget
        };
        let quick = Duration::from_millis(1);
        let larger = ended(&mut schedule, quick);
        assert!(larger > FIRST_BYTES);
        assert_eq!(ended(&mut schedule, Duration::ZERO), larger);
        assert_eq!(schedule.least_held_up, Some(quick));
    }

    #[test]
    fn the_pace_is_kept() {
        let begun = Instant::now();
        let mut now = begun;
        let moves = (0..100).map(|start| (range(start * 2, start * 2 + 1), node("a"), node("b")));
        let mut schedule = Schedule::new(Pace::new().bytes_per_second(1_000_000), moves);
        let mut bytes = 0;
        loop {
            match schedule.next(now) {
                Next::Chunk(chunk) => {
                    let first = chunk.ranges.iter().next().unwrap();
                    let ranges = RangeSet::from_iter([first]);
                    schedule.ended(&chunk, &ChunkEnd::Moved { ranges, bytes: 10_000, held_up: Duration::ZERO }, now);
                    bytes += 10_000;
                }
                Next::Wait(until) => now = until,
                Next::Busy => panic!("nothing is under way"),
                Next::Done => break,
            }
        }
        let rate = bytes as f64 / (now - begun).as_secs_f64();
        assert!((900_000.0..1_400_000.0).contains(&rate), "{rate} bytes a second");
    }

    #[test]
    fn pairs_begin_with_the_size_that_others_have_come_to_and_one_slow_chunk_changes_nothing() {
        let now = Instant::now();
        let mut schedule = schedule(&[(0, 100, "a", "b"), (200, 300, "c", "d"), (400, 500, "e", "f")]);
        let full = |chunk: &Chunk, held_up| ChunkEnd::Moved {
            ranges: RangeSet::from_iter([range(0, 10)]),
            bytes: chunk.budget,
            held_up: Duration::from_millis(held_up),
        };
        let first = chunk(&mut schedule, now);
        schedule.ended(&first, &full(&first, 1), now);
        let other = chunk(&mut schedule, now);
        assert_eq!((other.from.as_str(), other.budget), ("c", 2 * first.budget));
        schedule.ended(&other, &moved(&other), now);
        let third = chunk(&mut schedule, now);
        schedule.ended(&third, &moved(&third), now);
        let mut budgets = Vec::new();
        for held_up in [100, 1, 100, 100] {
            let next = chunk(&mut schedule, now);
            budgets.push(next.budget / FIRST_BYTES);
            let part = next.ranges.iter().next().unwrap();
            let ranges = RangeSet::from_iter([range(part.start.as_u64(), part.start.as_u64() + 1)]);
            let held_up = Duration::from_millis(held_up);
            schedule.ended(&next, &ChunkEnd::Moved { ranges, bytes: next.budget, held_up }, now);
        }
        budgets.push(chunk(&mut schedule, now).budget / FIRST_BYTES);
        assert_eq!(budgets, [2, 2, 4, 4, 2], "not after one slow chunk, but after two in a row");
    }

    #[test]
    fn chunks_grow_while_they_are_quick_and_shrink_when_they_hold_up_keys() {
        let target = Duration::from_millis(5);
        let ms = Duration::from_millis;
        assert_eq!(next_budget(64 << 10, 60 << 10, ms(1), target), 128 << 10);
        assert_eq!(next_budget(64 << 10, 60, ms(1), target), 64 << 10, "a chunk that was not full shows nothing");
        assert_eq!(next_budget(64 << 10, 60 << 10, ms(7), target), 64 << 10);
        assert_eq!(next_budget(64 << 10, 60 << 10, ms(11), target), 32 << 10);
        let pace = Pace::new();
        assert_eq!(pace.budget(1 << 30), pace.budget(u64::MAX), "a chunk fits into a record");
        assert_eq!(pace.budget(0), pace.budget(1), "and smaller chunks would not be quicker");
        assert_eq!(Pace::new().chunk_bytes(100).budget(1 << 30), 100);
    }
}
