//! A node gives: it leaves, or grew lighter.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap},
    ops::Range,
};

use super::{CIRCLE, CircleArc, Edits, Holding, Layout, Position, slices, widest_first};

/// How full, in parts of [`FAIR`] of its fair share, the neighbours of what is given up may get before others are
/// looked for. The strict levels cost tokens, and are tried in turn only while some node owns less than [`LOW`].
const FULL: [(u128, u128); 3] = [(FAIR + FAIR / 96, 2), (FAIR + FAIR / 384, 1), (FAIR, 1)];
const FAIR: u128 = 1 << 12;
const LOW: u128 = FAIR - FAIR / 64;

/// How often the cuts are revised, each in view of all others.
const SWEEPS: usize = 8;

/// What changes when all of a node's arcs are given up.
pub(super) fn leave(layout: Layout<'_>, leaver: u32) -> Edits {
    Release::new(layout, layout.holdings(), leaver, spans(layout, leaver, |_| Part::All)).run()
}

/// What changes when `node` gives up `amount` of what it owns, and tokens in excess of those of a ring built afresh.
pub(super) fn shrink(layout: Layout<'_>, holdings: Vec<Holding>, node: u32, amount: u128) -> Edits {
    let inner = inner_tokens(layout, node);
    let mut runs = runs(layout, node);
    widest_first(&mut runs);
    let fresh = layout.fresh_tokens(node) as usize;
    let chosen = whole_arcs(&runs, runs.len().saturating_sub(fresh), amount);
    let given: Vec<CircleArc> = runs.drain(chosen).collect();
    let rest = amount - given.iter().map(|run| run.width()).sum::<u128>();
    let mut ends: BTreeMap<u64, u128> = given.iter().map(|run| (run.end, run.width())).collect();
    if rest > 0 {
        // As few as can be: each is a stretch that others have to take.
        let most = runs.len();
        ends.extend(slices(&runs, rest, 1, most).map(|(run, width)| (run.end, width)));
    }
    let parts = parts(layout, node, &ends);
    let part = |end: u64| parts.get(&end).copied().unwrap_or(Part::Nothing);
    let kept = runs.len() + inner.iter().filter(|token| !parts.contains_key(token)).count();
    let mut edits = Release::new(layout, holdings, node, spans(layout, node, part)).run();
    // They part nothing, and there is no need of them.
    for token in inner.into_iter().filter(|token| !parts.contains_key(token)).take(kept.saturating_sub(fresh)) {
        edits.entry(Position::new(token)).or_insert(None);
    }
    edits
}

/// The runs of a node: arcs that touch, taken together, so that on either side of each another node begins. The node isn't
/// the only one.
///
/// What is inside a run can't be given to a neighbour, since both are the node itself. In a ring of few nodes, most arcs of a
/// heavy node are inside.
fn runs(layout: Layout<'_>, node: u32) -> Vec<CircleArc> {
    let mut before = layout.entries.last().map(|(_, owner)| *owner);
    let (mut starts, mut ends) = (Vec::new(), Vec::new());
    for (arc, owner) in layout.arcs() {
        match (before == Some(node), owner == node) {
            (false, true) => starts.push(arc.start),
            (true, false) => ends.push(arc.start),
            _ => {}
        }
        before = Some(owner);
    }
    // If the last token is the node's, its run ends at the first end.
    if layout.entries.last().is_some_and(|(_, owner)| *owner == node) && !ends.is_empty() {
        ends.rotate_left(1);
    }
    starts.into_iter().zip(ends).map(|(start, end)| CircleArc { start, end }).collect()
}

/// The node's tokens that part its own arcs.
fn inner_tokens(layout: Layout<'_>, node: u32) -> Vec<u64> {
    let next = layout.entries.iter().cycle().skip(1);
    let pairs = layout.entries.iter().zip(next);
    pairs
        .filter(|((_, owner), (_, next))| (*owner, *next) == (node, node))
        .map(|((token, _), _)| token.as_u64())
        .collect()
}

/// What is given up of each arc, by its end, if so much is at the end of each of these runs, by theirs.
fn parts(layout: Layout<'_>, node: u32, ends: &BTreeMap<u64, u128>) -> BTreeMap<u64, Part> {
    let arcs: Vec<_> = layout.arcs().collect();
    let mut parts = BTreeMap::new();
    // Twice round backwards, for the run that passes position 0: its last arc comes first, whichever way one begins.
    let mut left = 0;
    for (arc, owner) in arcs.iter().rev().chain(arcs.iter().rev()) {
        if *owner != node {
            left = 0;
        } else if let Some(width) = ends.get(&arc.end) {
            left = *width;
        }
        if left >= arc.width() {
            parts.insert(arc.end, Part::All);
            left -= arc.width();
        } else if left > 0 {
            parts.insert(arc.end, Part::Tail(left));
            left = 0;
        }
    }
    parts
}

/// Which of these arcs, which descend by width, to give up whole: `count` of similar width that are nearly `amount`
/// in all, and not more. Fewer, and the narrowest, if so many are too wide.
fn whole_arcs(arcs: &[CircleArc], count: usize, amount: u128) -> Range<usize> {
    let mut first = 0;
    let mut width: u128 = arcs[..count].iter().map(|arc| arc.width()).sum();
    while width > amount && first + count < arcs.len() {
        width = width - arcs[first].width() + arcs[first + count].width();
        first += 1;
    }
    while width > amount {
        width -= arcs[first].width();
        first += 1;
    }
    first..arcs.len().min(first + count)
}

/// How much of an arc is given up.
#[derive(Clone, Copy)]
enum Part {
    Nothing,
    /// So many positions at its end.
    Tail(u128),
    All,
}

/// A stretch of the circle that one node gives up, and between whom it lies.
struct Span {
    arc: CircleArc,
    /// The node's tokens in it, `arc.end` the last of them.
    tokens: Vec<u64>,
    before: u32,
    after: u32,
    /// How much falls to `before`, and how much to `after`. What is between is for others.
    head: u128,
    tail: u128,
}

/// What `node` gives up of its arcs, given each by its end, joined where it touches.
fn spans(layout: Layout<'_>, node: u32, part: impl Fn(u64) -> Part) -> Vec<Span> {
    let mut spans: Vec<Span> = Vec::new();
    let Some((_, mut before)) = layout.entries.last().copied() else {
        return spans;
    };
    // Whether the last span goes on in the next arc, or in the first if it was the last.
    let mut open = false;
    for (arc, owner) in layout.arcs() {
        let part = if owner == node { part(arc.end) } else { Part::Nothing };
        match (part, spans.last_mut()) {
            (Part::All, Some(span)) if open => {
                span.arc.end = arc.end;
                span.tokens.push(arc.end);
            }
            (Part::All | Part::Tail(_), last) => {
                if let Some(span) = last.filter(|_| open) {
                    span.after = owner;
                }
                let (start, before) = match part {
                    Part::Tail(width) => (arc.end.wrapping_sub(width as u64), node),
                    _ => (arc.start, before),
                };
                let arc = CircleArc { start, end: arc.end };
                spans.push(Span { arc, tokens: vec![arc.end], before, after: node, head: 0, tail: 0 });
            }
            (Part::Nothing, Some(span)) if open => span.after = owner,
            (Part::Nothing, _) => {}
        }
        open = !matches!(part, Part::Nothing);
        before = owner;
    }
    join_across_zero(&mut spans, layout, open);
    spans
}

/// If the last span goes on beyond the last token, that is in the first arc.
fn join_across_zero(spans: &mut Vec<Span>, layout: Layout<'_>, open: bool) {
    let Some((_, first)) = layout.entries.first().copied() else {
        return;
    };
    let touches = matches!(&spans[..], [first, .., last] if open && last.arc.end == first.arc.start);
    if touches && let Some(last) = spans.pop() {
        let first = &mut spans[0];
        first.arc.start = last.arc.start;
        first.before = last.before;
        first.tokens.splice(0..0, last.tokens);
    } else if open && let Some(last) = spans.last_mut() {
        last.after = first;
    }
}

struct Release<'a> {
    layout: Layout<'a>,
    node: u32,
    /// What the others own, with what they get so far.
    holdings: Vec<Holding>,
    /// The weight of all who are in the ring afterwards.
    weights: u128,
    crumb: u128,
    spans: Vec<Span>,
    edits: Edits,
}

/// The least loaded first: share for weight, and the node.
type LoadHeap = BinaryHeap<Reverse<(u128, u32)>>;

impl<'a> Release<'a> {
    fn new(layout: Layout<'a>, mut holdings: Vec<Holding>, node: u32, spans: Vec<Span>) -> Self {
        let given: u128 = spans.iter().map(|span| span.arc.width()).sum();
        holdings[node as usize].share -= given;
        let mut weights = layout.total_weight();
        if holdings[node as usize].share == 0 {
            weights -= layout.weight(node);
        }
        Self { layout, node, holdings, weights, crumb: layout.crumb(), spans, edits: Edits::new() }
    }

    fn run(mut self) -> Edits {
        for _ in 0..SWEEPS {
            for index in 0..self.spans.len() {
                self.cut(index);
            }
        }
        for (full, least) in FULL {
            self.relieve(full, least);
            if self.none_is_low() {
                break;
            }
        }
        for index in 0..self.spans.len() {
            self.settle(index);
        }
        self.edits
    }

    /// Cuts a span in two so that the nodes on its sides own most nearly the same for their weight.
    fn cut(&mut self, index: usize) {
        let span = &mut self.spans[index];
        let width = span.arc.width();
        self.holdings[span.before as usize].share -= span.head;
        self.holdings[span.after as usize].share -= span.tail;
        let (before, after) = (self.holdings[span.before as usize].share, self.holdings[span.after as usize].share);
        let (before_weight, after_weight) = (self.layout.weight(span.before), self.layout.weight(span.after));
        span.head = if span.before == self.node || span.before == span.after {
            0
        } else if span.after == self.node {
            width
        } else {
            let wanted = ((after + width) * before_weight).saturating_sub(before * after_weight);
            (wanted / (before_weight + after_weight)).min(width)
        };
        span.tail = width - span.head;
        self.holdings[span.before as usize].share += span.head;
        self.holdings[span.after as usize].share += span.tail;
    }

    /// Takes back from the neighbours what is over `full`, for those who own least.
    fn relieve(&mut self, full: u128, least: u128) {
        let mut loads = None;
        for index in 0..self.spans.len() {
            let span = &self.spans[index];
            if span.head + span.tail < span.arc.width() {
                continue;
            }
            let over = (self.over(span.before, full).min(span.head), self.over(span.after, full).min(span.tail));
            if over.0 + over.1 > self.crumb * least {
                let loads = loads.get_or_insert_with(|| self.loads());
                self.give_away(index, over, full, loads);
            }
        }
    }

    /// Gives `over.0` of a span's head and `over.1` of its tail, or a little more, to those who own least.
    fn give_away(&mut self, index: usize, over: (u128, u128), full: u128, loads: &mut LoadHeap) {
        // An arc that is worth its token.
        let wanted = (over.0 + over.1).max(self.crumb * 8).min(self.spans[index].arc.width());
        let mut given = Vec::new();
        let mut left = wanted;
        while left > 0
            && let Some(taker) = self.least_loaded(loads)
        {
            let room = self.limit(taker, full).saturating_sub(self.holdings[taker as usize].share);
            if room < self.crumb * 4 {
                loads.extend(self.load(taker));
                break;
            }
            let width = if left < room + self.crumb { left } else { room };
            left -= width;
            given.push((taker, width));
            let holding = &mut self.holdings[taker as usize];
            holding.share += width;
            holding.tokens += 1;
            loads.extend(self.load(taker));
        }
        let found = wanted - left;
        let span = &mut self.spans[index];
        let from_tail = found - (found * over.0 / (over.0 + over.1)).min(span.head);
        let from_tail = from_tail.min(span.tail);
        let from_head = found - from_tail;
        span.head -= from_head;
        span.tail -= from_tail;
        self.holdings[span.before as usize].share -= from_head;
        self.holdings[span.after as usize].share -= from_tail;
        let mut end = span.arc.start.wrapping_add(span.head as u64);
        for (taker, width) in given {
            end = end.wrapping_add(width as u64);
            self.edits.insert(Position::new(end), Some(taker));
        }
    }

    /// Takes the least loaded out of `loads`. A load there may be out of date, but never too high by more than what
    /// was taken back since, so a node is met too early rather than missed.
    fn least_loaded(&self, loads: &mut LoadHeap) -> Option<u32> {
        while let Some(Reverse((load, node))) = loads.pop() {
            match self.load(node) {
                Some(Reverse((now, _))) if now > load => loads.push(Reverse((now, node))),
                Some(_) => return Some(node),
                None => {}
            }
        }
        None
    }

    fn loads(&self) -> LoadHeap {
        (0..self.holdings.len() as u32).filter_map(|node| self.load(node)).collect()
    }

    /// A node's place among the loads, if it can have another token.
    fn load(&self, node: u32) -> Option<Reverse<(u128, u32)>> {
        let Holding { share, tokens } = self.holdings[node as usize];
        let room = node != self.node && tokens < self.layout.most_tokens(node);
        room.then(|| Reverse(((share << 32) / self.layout.weight(node), node)))
    }

    /// `parts` in [`FAIR`] of a node's fair share.
    fn limit(&self, node: u32, parts: u128) -> u128 {
        CIRCLE * self.layout.weight(node) / self.weights * parts / FAIR
    }

    fn over(&self, node: u32, full: u128) -> u128 {
        self.holdings[node as usize].share.saturating_sub(self.limit(node, full))
    }

    fn none_is_low(&self) -> bool {
        let mut others = (0..self.holdings.len() as u32).filter(|node| *node != self.node);
        others.all(|node| self.holdings[node as usize].share >= self.limit(node, LOW))
    }

    /// Writes down what becomes of a span's tokens.
    fn settle(&mut self, index: usize) {
        let span = &self.spans[index];
        for token in &span.tokens {
            // What was given away may end where the span does.
            self.edits.entry(Position::new(*token)).or_insert(None);
        }
        let start = Position::new(span.arc.start);
        if span.before == self.node {
            self.edits.insert(start, Some(self.node));
        } else if span.head > 0 {
            self.edits.insert(start, None);
            self.edits.insert(Position::new(span.arc.start.wrapping_add(span.head as u64)), Some(span.before));
        } else if span.before == span.after && span.tail == span.arc.width() {
            // The same node on both sides, and nobody between: the token at the start parts nothing any more.
            let fresh = self.layout.fresh_tokens(span.before);
            let holding = &mut self.holdings[span.before as usize];
            if holding.tokens > fresh {
                holding.tokens -= 1;
                self.edits.insert(start, None);
            }
        }
    }
}
