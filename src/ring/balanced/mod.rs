//! Balanced placement: tokens that are assigned to even out what nodes own, instead of hashed.
//!
//! The scheme, its reasons and its figures are in [the balance page](crate::docs::balance). In
//! short: think of the ring as a table of *arcs*, each from the token before (exclusive) to its own
//! token (inclusive). A node that joins takes slices off the largest arcs of the most loaded nodes.
//! The arcs of a node that leaves go to the nodes on either side, cut so that these are most even;
//! if both are full, they go to the least loaded node of all.
//!
//! In reading order:
//!
//! - [`table`]: the functions that the ring calls, from its table to a [`Layout`] and from
//!   [`Edits`] back to the table;
//! - this file: what changes for a join, a leave and a change of weight, and the shared arithmetic;
//! - [`fresh`](mod@fresh): a ring from nothing;
//! - [`drain`]: a node takes;
//! - [`release`]: a node gives.
//!
//! Everything except [`table`] is a pure function of a [`Layout`] (the tokens in clockwise order
//! and their owners) and returns [`Edits`] to it. There is no other state, so a ring that was
//! written out and read back goes on in exactly the same way. All arithmetic is on integers, and
//! ties go to the node that comes first, so the result is the same on every machine.
//!
//! A change costs O(T) for the T tokens. Two passes over the tokens, of about a nanosecond each,
//! find what every node owns and collect the arcs of the nodes concerned. The rest is
//! O(N + t log t) for N nodes and the t tokens of those nodes.

mod drain;
mod fresh;
mod release;
mod table;

use std::collections::BTreeMap;

use fresh::fresh;
pub(super) use table::{add, build, entries, plan_join, remove, replace, restore};

use super::Position;

/// Number of positions on the circle.
const CIRCLE: u128 = 1 << 64;

/// Maximum ratio of a node's tokens to the tokens that it has in a ring built afresh, which are its
/// weight times the virtual nodes for each unit of weight.
pub const MAX_TOKEN_GROWTH: u32 = 2;

/// The inverse of the ratio by which a change of weight may move more of the circle than it has to:
/// a hundredth.
const ALLOWANCE: u128 = 100;

/// Changes of a table of tokens: for each position, the owner of the token there from now on, or
/// `None` to remove the token.
type Edits = BTreeMap<Position, Option<u32>>;

/// Tokens with their owners, and the weights of the nodes. A node is a number here: its index in
/// `weights`.
#[derive(Clone, Copy)]
struct Layout<'a> {
    /// The tokens and the node each belongs to: ascending, no two on one position.
    entries: &'a [(Position, u32)],
    /// The nodes' weights, at least 1 each.
    weights: &'a [u32],
    /// Tokens for each unit of weight in a ring built afresh.
    tokens: u32,
}

/// The positions from `start` (exclusive) clockwise to `end` (inclusive). If the two are equal, it
/// is the whole circle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct CircleArc {
    start: u64,
    end: u64,
}

impl CircleArc {
    /// Returns the number of positions, from 1 to 2^64.
    fn width(self) -> u128 {
        match self.end.wrapping_sub(self.start) {
            0 => CIRCLE,
            width => u128::from(width),
        }
    }

    /// Returns a key that sorts arcs by width, the widest first, and equally wide ones clockwise.
    fn narrowness(self) -> (u64, u64) {
        (self.start.wrapping_sub(self.end), self.end)
    }
}

/// What one node owns.
#[derive(Clone, Copy, Default)]
struct Holding {
    /// Number of positions.
    share: u128,
    tokens: u32,
}

impl<'a> Layout<'a> {
    /// Returns what changes when `node` joins. It has a weight in the layout, but no token yet. It
    /// takes its fair share.
    fn join(self, node: u32) -> Edits {
        let pieces = self.fresh_tokens(node) as usize;
        drain::drain(self, self.holdings(), node, self.fair_share(node), pieces)
    }

    /// Returns what changes when `node` leaves, which isn't the only node. Only what it owned
    /// moves.
    fn leave(self, node: u32) -> Edits {
        match self.weights {
            [_, _] => self.left_to(1 - node),
            _ => release::leave(self, node),
        }
    }

    /// Returns what changes when the weight of `node` changes. The layout has the new weight,
    /// `before` is the old one.
    ///
    /// A node that gets heavier only takes, one that gets lighter only gives. It takes or gives
    /// what brings it to its fair share, but no more than the change of the fair share, apart from
    /// what the node was off before and [`ALLOWANCE`]. It must not stop short of the fair share,
    /// because a small excess for a heavy node is a large one for a light node.
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

    /// Returns what makes this the ring that would be built afresh of `node` alone. If there is no
    /// other node, this one owns everything, wherever its tokens are. So they are placed as evenly
    /// as possible.
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

    /// Returns the part of the circle that is in proportion to the weight of `node`.
    fn fair_share(self, node: u32) -> u128 {
        CIRCLE * self.weight(node) / self.total_weight()
    }

    /// Returns the maximum number of tokens of `node`.
    fn most_tokens(self, node: u32) -> u32 {
        self.fresh_tokens(node) * MAX_TOKEN_GROWTH
    }

    /// Returns the number of tokens that `node` has in a ring built afresh. A change removes a
    /// token of a node only if it has more.
    fn fresh_tokens(self, node: u32) -> u32 {
        self.weights[node as usize] * self.tokens
    }

    /// Returns the arcs and their owners, clockwise. The first arc passes position 0, unless its
    /// start is the last position.
    fn arcs(self) -> impl Iterator<Item = (CircleArc, u32)> + use<'a> {
        let mut start = self.entries.last().map_or(0, |(last, _)| last.as_u64());
        self.entries.iter().map(move |(position, owner)| {
            let arc = CircleArc { start, end: position.as_u64() };
            start = arc.end;
            (arc, *owner)
        })
    }

    /// Returns what every node owns.
    fn holdings(self) -> Vec<Holding> {
        // Sums modulo 2^64, because wider sums take twice the time.
        let mut sums = vec![(0_u64, 0_u32); self.weights.len()];
        for (arc, owner) in self.arcs() {
            let (share, tokens) = &mut sums[owner as usize];
            *share = share.wrapping_add(arc.end.wrapping_sub(arc.start));
            *tokens += 1;
        }
        // An arc is never empty, so a node with arcs of the sum 0 owns the whole circle.
        let share = |(share, tokens)| if share == 0 && tokens > 0 { CIRCLE } else { u128::from(share) };
        sums.into_iter().map(|sum| Holding { share: share(sum), tokens: sum.1 }).collect()
    }

    /// Returns the width of a *crumb*: a sixteenth of an arc of a ring built afresh. A narrower arc
    /// isn't worth a token.
    fn crumb(self) -> u128 {
        CIRCLE / (self.total_weight() * u128::from(self.tokens) * 16)
    }
}

/// Returns slices of the widest of these arcs, `amount` in all, each as its arc and a width.
///
/// There are `count` slices, or up to `most` if otherwise an arc would lose over three quarters.
/// Each arc keeps at least one position. So if the arcs are too narrow, there are fewer slices, and
/// their sum is smaller. `arcs` descend by width. Slices are in proportion to the widths, so that
/// the arcs stay even.
fn slices(arcs: &[CircleArc], amount: u128, count: usize, most: usize) -> impl Iterator<Item = (CircleArc, u128)> {
    let most = arcs.len().min(most);
    let mut used = 0;
    let mut width = 0;
    while used < most && (used < count || width * 3 < amount * 4) {
        width += arcs[used].width();
        used += 1;
    }
    // Every arc is sliced in proportion, and rounded. None loses all of its width if the sum is at
    // most this.
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

/// Returns the widest `count` of these arcs, the widest first.
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
