//! A node gives: it leaves, or gets lighter.
//!
//! In reading order: [`leave`] and [`shrink`] say which parts of its arcs are given, [`spans`]
//! joins the parts that touch, and [`Release`] decides which nodes get them.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap},
    ops::Range,
};

use super::{CIRCLE, CircleArc, Edits, Holding, Layout, Position, slices, widest_first};

/// How full the neighbours of what is given up may get before it goes to other nodes, in parts of
/// [`FAIR`] of their fair share; and the least number of crumbs above that level that is worth a
/// token. The stricter levels cost tokens. They are tried in turn only while some node owns less
/// than [`LOW`].
const FULL: [(u128, u128); 3] = [(FAIR + FAIR / 96, 2), (FAIR + FAIR / 384, 1), (FAIR, 1)];
/// The parts into which a fair share is divided.
const FAIR: u128 = 1 << 12;
/// A node with fewer parts of its fair share than this has too little.
const LOW: u128 = FAIR - FAIR / 64;

/// Number of times that the cuts are revised, each in view of all others.
const SWEEPS: usize = 8;

/// Returns what changes when all arcs of a node are given up.
pub(super) fn leave(layout: Layout<'_>, leaver: u32) -> Edits {
    Release::new(layout, layout.holdings(), leaver, spans(layout, leaver, |_| Part::All)).run()
}

/// Returns what changes when `node` gives up `amount` of what it owns, and the tokens in excess of
/// those of a ring built afresh.
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
        // As few slices as possible, because each is a stretch that other nodes have to take.
        let most = runs.len();
        ends.extend(slices(&runs, rest, 1, most).map(|(run, width)| (run.end, width)));
    }
    let parts = parts(layout, node, &ends);
    let part = |end: u64| parts.get(&end).copied().unwrap_or(Part::Nothing);
    let kept = runs.len() + inner.iter().filter(|token| !parts.contains_key(token)).count();
    let mut edits = Release::new(layout, holdings, node, spans(layout, node, part)).run();
    // Tokens inside a run separate nothing, so the surplus is removed.
    for token in inner.into_iter().filter(|token| !parts.contains_key(token)).take(kept.saturating_sub(fresh)) {
        edits.entry(Position::new(token)).or_insert(None);
    }
    edits
}

/// Returns the *runs* of a node: arcs that touch, taken together, so that another node is on either
/// side of each run. The node isn't the only one.
///
/// What is inside a run can't be given to a neighbour, because both neighbours are the node itself.
/// In a ring of few nodes, most arcs of a heavy node are inside a run.
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
    // If the last token is the node's, the run that begins last ends at the first end.
    if layout.entries.last().is_some_and(|(_, owner)| *owner == node) && !ends.is_empty() {
        ends.rotate_left(1);
    }
    starts.into_iter().zip(ends).map(|(start, end)| CircleArc { start, end }).collect()
}

/// Returns the tokens of the node that separate two of its own arcs.
fn inner_tokens(layout: Layout<'_>, node: u32) -> Vec<u64> {
    let next = layout.entries.iter().cycle().skip(1);
    let pairs = layout.entries.iter().zip(next);
    pairs
        .filter(|((_, owner), (_, next))| (*owner, *next) == (node, node))
        .map(|((token, _), _)| token.as_u64())
        .collect()
}

/// Returns the part of each arc that is given up, by the end of the arc. `ends` has the width to
/// give up at the end of each run, by the end of the run.
fn parts(layout: Layout<'_>, node: u32, ends: &BTreeMap<u64, u128>) -> BTreeMap<u64, Part> {
    let arcs: Vec<_> = layout.arcs().collect();
    let mut parts = BTreeMap::new();
    // Two rounds, backwards. The run that passes position 0 has its end among the first arcs, which
    // come last in a round, and the rest of it is only met in the second round.
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

/// Returns the indices of the arcs to give up whole: `count` of similar width that are nearly
/// `amount` in all, and not more. If `count` of them are too wide, returns fewer, the narrowest.
/// `arcs` descend by width.
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

/// The part of an arc that is given up.
#[derive(Clone, Copy)]
enum Part {
    Nothing,
    /// This number of positions at its end.
    Tail(u128),
    All,
}

/// A stretch of the circle that one node gives up, and the nodes on its sides.
struct Span {
    arc: CircleArc,
    /// The node's tokens in the span. The last one is `arc.end`.
    tokens: Vec<u64>,
    /// The node on the side of the start.
    before: u32,
    /// The node on the side of the end.
    after: u32,
    /// Number of positions at the start that go to `before`.
    head: u128,
    /// Number of positions at the end that go to `after`. What is between head and tail goes to
    /// other nodes.
    tail: u128,
}

/// Returns what `node` gives up, joined where parts touch. `part` returns the part of an arc, given
/// its end.
fn spans(layout: Layout<'_>, node: u32, part: impl Fn(u64) -> Part) -> Vec<Span> {
    let mut spans: Vec<Span> = Vec::new();
    let Some((_, mut before)) = layout.entries.last().copied() else {
        return spans;
    };
    // Whether the last span goes on in the next arc.
    let mut open = false;
    for (arc, owner) in layout.arcs() {
        let part = if owner == node { part(arc.end) } else { Part::Nothing };
        match (part, spans.last_mut()) {
            // The whole arc, right after the last span: one span.
            (Part::All, Some(span)) if open => {
                span.arc.end = arc.end;
                span.tokens.push(arc.end);
            }
            // A new span. The node that ends the last one is known now.
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

/// Joins the last span to the first, if it goes on beyond the last token, which means in the first
/// arc.
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

/// The spans that one node gives up, and what the other nodes get of them.
struct Release<'a> {
    layout: Layout<'a>,
    node: u32,
    /// What the other nodes own, including what they have got so far.
    holdings: Vec<Holding>,
    /// The weight of all nodes that are in the ring afterwards.
    weights: u128,
    crumb: u128,
    spans: Vec<Span>,
    edits: Edits,
}

/// A heap of nodes, the least loaded first: share for weight, and the node.
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
        // First everything goes to the neighbours, cut so that they are even.
        for _ in 0..SWEEPS {
            for index in 0..self.spans.len() {
                self.cut(index);
            }
        }
        // Then what makes a neighbour too full goes to other nodes.
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
    /// Both may have a head or tail of it from an earlier sweep, which is taken back first.
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

    /// Takes back from the neighbours what is over `full`, and gives it to the nodes that own
    /// least, if it is more than `least` crumbs.
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

    /// Gives `over.0` of a span's head and `over.1` of its tail, or a little more, to the nodes
    /// that own least.
    fn give_away(&mut self, index: usize, over: (u128, u128), full: u128, loads: &mut LoadHeap) {
        // At least as much as is worth a token.
        let wanted = (over.0 + over.1).max(self.crumb * 8).min(self.spans[index].arc.width());
        // The least loaded nodes take pieces, each up to `full`, until all is given or none has
        // room.
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
        // The neighbours give it back, in proportion to what each has above `full`.
        let found = wanted - left;
        let span = &mut self.spans[index];
        let from_tail = found - (found * over.0 / (over.0 + over.1)).min(span.head);
        let from_tail = from_tail.min(span.tail);
        let from_head = found - from_tail;
        span.head -= from_head;
        span.tail -= from_tail;
        self.holdings[span.before as usize].share -= from_head;
        self.holdings[span.after as usize].share -= from_tail;
        // The pieces stand between the head and the tail.
        let mut end = span.arc.start.wrapping_add(span.head as u64);
        for (taker, width) in given {
            end = end.wrapping_add(width as u64);
            self.edits.insert(Position::new(end), Some(taker));
        }
    }

    /// Takes the least loaded node out of `loads`. A load in the heap may be out of date. It is
    /// never too high by more than what was taken back since, so a node may come too early but is
    /// never missed.
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

    /// Returns the entry of a node in the heap, or `None` if the node can't have another token.
    fn load(&self, node: u32) -> Option<Reverse<(u128, u32)>> {
        let Holding { share, tokens } = self.holdings[node as usize];
        let room = node != self.node && tokens < self.layout.most_tokens(node);
        room.then(|| Reverse(((share << 32) / self.layout.weight(node), node)))
    }

    /// Returns `parts` in [`FAIR`] of the fair share of a node.
    fn limit(&self, node: u32, parts: u128) -> u128 {
        CIRCLE * self.layout.weight(node) / self.weights * parts / FAIR
    }

    /// Returns how much a node owns above `full` parts of its fair share.
    fn over(&self, node: u32, full: u128) -> u128 {
        self.holdings[node as usize].share.saturating_sub(self.limit(node, full))
    }

    /// Whether no other node owns too little.
    fn none_is_low(&self) -> bool {
        let mut others = (0..self.holdings.len() as u32).filter(|node| *node != self.node);
        others.all(|node| self.holdings[node as usize].share >= self.limit(node, LOW))
    }

    /// Writes down what happens to the tokens of a span.
    fn settle(&mut self, index: usize) {
        let span = &self.spans[index];
        for token in &span.tokens {
            // A piece that was given away may end where the span ends, so that edit is kept.
            self.edits.entry(Position::new(*token)).or_insert(None);
        }
        let start = Position::new(span.arc.start);
        if span.before == self.node {
            self.edits.insert(start, Some(self.node));
        } else if span.head > 0 {
            self.edits.insert(start, None);
            self.edits.insert(Position::new(span.arc.start.wrapping_add(span.head as u64)), Some(span.before));
        } else if span.before == span.after && span.tail == span.arc.width() {
            // The same node is on both sides, and no other between, so the token at the start no
            // longer separates anything.
            let fresh = self.layout.fresh_tokens(span.before);
            let holding = &mut self.holdings[span.before as usize];
            if holding.tokens > fresh {
                holding.tokens -= 1;
                self.edits.insert(start, None);
            }
        }
    }
}
