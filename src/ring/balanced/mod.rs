//! Balanced placement: tokens that are assigned to even out what nodes own, instead of hashed.
//!
//! The scheme, its reasons and its figures are in [the balance page](crate::docs::balance). In short: think of the
//! ring as a table of *arcs*, each from the token before (exclusive) to its own token (inclusive). A node that joins
//! takes slices off the largest arcs of the most loaded nodes ([`drain`]); the arcs of a node that leaves fall to the
//! nodes on either side, cut where that leaves them most even, and where both are full to the least loaded of all
//! ([`release`]).
//!
//! All here are pure functions of a [`Layout`], the tokens in clockwise order and who owns them, and answer with
//! [`Edits`] to it. There is no other state: a ring that was written out and read back goes on exactly alike. All
//! arithmetic is on integers, and ties go to the node that comes first, so that it does so on every machine.
//!
//! A change costs O(T) for the T tokens: two passes over the tokens, of about a nanosecond each, find what every node
//! owns and collect the arcs of those concerned. The rest is O(N + t log t) for N nodes and the t tokens of those.

mod drain;
mod fresh;
mod release;
mod table;

use std::collections::BTreeMap;

use fresh::fresh;
pub(super) use table::{add, build, entries, plan_join, remove, replace, restore};

use super::Position;

/// How many positions there are.
const CIRCLE: u128 = 1 << 64;

/// No node owns more than this many times the tokens it has in a ring built afresh, namely its weight times the tokens
/// for each unit of weight.
pub const MAX_TOKEN_GROWTH: u32 = 2;

/// A change of weight may move this part more of the circle than it has to.
const ALLOWANCE: u128 = 100;

/// What to do to a table of tokens: each position named gets this owner, or loses its token (`None`).
type Edits = BTreeMap<Position, Option<u32>>;

/// Tokens and owners, and what the nodes are to own. Nodes are numbers, the indices of `weights`.
#[derive(Clone, Copy)]
struct Layout<'a> {
    /// The tokens and the node each belongs to: ascending, no two on one position.
    entries: &'a [(Position, u32)],
    /// The nodes' weights, at least 1 each.
    weights: &'a [u32],
    /// Tokens for each unit of weight in a ring built afresh.
    tokens: u32,
}

/// The positions from `start` (exclusive) clockwise to `end` (inclusive); all of them if the two are equal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct CircleArc {
    start: u64,
    end: u64,
}

impl CircleArc {
    /// From 1 to 2^64.
    fn width(self) -> u128 {
        match self.end.wrapping_sub(self.start) {
            0 => CIRCLE,
            width => u128::from(width),
        }
    }

    /// Orders arcs by width, the widest first, and equally wide ones clockwise.
    fn narrowness(self) -> (u64, u64) {
        (self.start.wrapping_sub(self.end), self.end)
    }
}

/// What a node owns.
#[derive(Clone, Copy, Default)]
struct Holding {
    share: u128,
    tokens: u32,
}

impl<'a> Layout<'a> {
    /// What changes when `node` comes in, which has a weight here but no token yet. It takes its fair share.
    fn join(self, node: u32) -> Edits {
        let pieces = self.fresh_tokens(node) as usize;
        drain::drain(self, self.holdings(), node, self.fair_share(node), pieces)
    }

    /// What changes when `node` goes, which isn't the only one. Only what it owned moves.
    fn leave(self, node: u32) -> Edits {
        match self.weights {
            [_, _] => self.left_to(1 - node),
            _ => release::leave(self, node),
        }
    }

    /// What changes when `node`, here with its new weight, had weight `before`.
    ///
    /// A heavier node only takes, a lighter one only gives: what takes it to its fair share, but no more than what the
    /// fair share changes by, give or take what the node was off before and [`ALLOWANCE`]. To stop short of the fair
    /// share wouldn't do: what is little too much for a heavy node is much for a light one.
    fn reweigh(self, node: u32, before: u32) -> Edits {
        if self.weights.len() == 1 {
            return self.left_to(node);
        }
        let holdings = self.holdings();
        let (weight, before) = (self.weight(node), u128::from(before));
        let total_before = self.total_weight() - weight + before;
        let share = holdings[node as usize].share;
        let (fair_before, fair) = (CIRCLE * before / total_before, self.fair_share(node));
        let ideal = fair.abs_diff(fair_before);
        let most = ideal + ideal / ALLOWANCE;
        if weight > before {
            let pieces = (weight - before) as usize * self.tokens as usize;
            drain::drain(self, holdings, node, most.min(fair.saturating_sub(share)), pieces)
        } else {
            let in_proportion = share - share * weight * total_before / (before * self.total_weight());
            let amount = most.max(in_proportion).min(share.saturating_sub(fair));
            release::shrink(self, holdings, node, amount)
        }
    }

    /// What makes this the ring that would be built afresh of `node` alone. Where all others go, or there are none, it
    /// owns everything, whatever its tokens; so they may as well be as even as they can.
    fn left_to(self, node: u32) -> Edits {
        let gone = self.entries.iter().map(|(position, _)| (*position, None));
        let tokens = fresh(&[self.weights[node as usize]], self.tokens);
        gone.chain(tokens.into_iter().map(|(position, _)| (position, Some(node)))).collect()
    }

    fn weight(self, node: u32) -> u128 {
        u128::from(self.weights[node as usize])
    }

    fn total_weight(self) -> u128 {
        self.weights.iter().map(|weight| u128::from(*weight)).sum()
    }

    fn fair_share(self, node: u32) -> u128 {
        CIRCLE * self.weight(node) / self.total_weight()
    }

    /// How many tokens `node` may have.
    fn most_tokens(self, node: u32) -> u32 {
        self.fresh_tokens(node) * MAX_TOKEN_GROWTH
    }

    /// How many tokens `node` has in a ring built afresh. A change takes none of its tokens when it has no more.
    fn fresh_tokens(self, node: u32) -> u32 {
        self.weights[node as usize] * self.tokens
    }

    /// The arcs and their owners, clockwise. The first passes position 0, unless its start is the last position.
    fn arcs(self) -> impl Iterator<Item = (CircleArc, u32)> + use<'a> {
        let mut start = self.entries.last().map_or(0, |(last, _)| last.as_u64());
        self.entries.iter().map(move |(position, owner)| {
            let arc = CircleArc { start, end: position.as_u64() };
            start = arc.end;
            (arc, *owner)
        })
    }

    /// What every node owns.
    fn holdings(self) -> Vec<Holding> {
        // Sums modulo the circle, which take half the time of wider ones.
        let mut sums = vec![(0_u64, 0_u32); self.weights.len()];
        for (arc, owner) in self.arcs() {
            let (share, tokens) = &mut sums[owner as usize];
            *share = share.wrapping_add(arc.end.wrapping_sub(arc.start));
            *tokens += 1;
        }
        // An arc is never empty, so who owns arcs of the sum 0 owns the whole circle.
        let share = |(share, tokens)| if share == 0 && tokens > 0 { CIRCLE } else { u128::from(share) };
        sums.into_iter().map(|sum| Holding { share: share(sum), tokens: sum.1 }).collect()
    }

    /// An arc narrower than this isn't worth a token: a sixteenth of an arc of a ring built afresh.
    fn crumb(self) -> u128 {
        CIRCLE / (self.total_weight() * u128::from(self.tokens) * 16)
    }
}

/// Slices of the widest of these arcs, `amount` in all: `count` of them, or up to `most` if otherwise an arc would lose
/// over three quarters. Each arc keeps at least one position; so if the arcs don't have it, there are fewer and less.
///
/// `arcs` descend by width. Slices are in proportion to the widths, so that the arcs stay even.
fn slices(arcs: &[CircleArc], amount: u128, count: usize, most: usize) -> impl Iterator<Item = (CircleArc, u128)> {
    let most = arcs.len().min(most);
    let mut used = 0;
    let mut width = 0;
    while used < most && (used < count || width * 3 < amount * 4) {
        width += arcs[used].width();
        used += 1;
    }
    // With every arc sliced in proportion and rounded, none loses all of its width while the sum stays this small.
    let amount = amount.min(width.saturating_sub(2 * used as u128));
    let mut passed = 0;
    let mut cut = 0;
    arcs[..used].iter().filter_map(move |arc| {
        passed += arc.width();
        let slice = (amount * passed / width - cut).min(arc.width() - 1);
        cut += slice;
        (slice > 0).then_some((*arc, slice))
    })
}

/// The widest `count` of these arcs, the widest first.
fn widest(mut arcs: Vec<CircleArc>, count: usize) -> Vec<CircleArc> {
    if count < arcs.len() {
        arcs.select_nth_unstable_by_key(count, |arc| arc.narrowness());
        arcs.truncate(count);
    }
    widest_first(&mut arcs);
    arcs
}

fn widest_first(arcs: &mut [CircleArc]) {
    arcs.sort_unstable_by_key(|arc| arc.narrowness());
}
