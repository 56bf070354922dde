//! A balanced ring from nothing.

use super::{CIRCLE, Position};

/// Number of parts of an arc. The first token stands 8 of these parts from the start of the circle.
///
/// With whole arcs, or halves, many tokens would stand on the very ends of a table's buckets, where
/// a line can't hold them. The number of buckets has no prime factor as high as this number, so
/// tokens miss those ends.
const PARTS: u128 = 17;

/// Returns the tokens of nodes with these weights, in clockwise order: `tokens` for each unit of
/// weight.
///
/// All arcs are equally wide, to a position, so shares are exact. The order consists of `tokens`
/// rounds. In each round, every node stands as often as its weight, and the round is shuffled. So
/// the arcs of a node are spread around the circle, and another node comes after each of them: when
/// one node fails, many share its load. The shuffle depends only on the weights and on `tokens`.
pub(super) fn fresh(weights: &[u32], tokens: u32) -> Vec<(Position, u32)> {
    let mut round: Vec<u32> =
        (0..).zip(weights).flat_map(|(node, weight)| std::iter::repeat_n(node, *weight as usize)).collect();
    let total = round.len() as u128 * u128::from(tokens);
    let mut shuffle = Shuffle { state: 0 };
    let mut entries = Vec::with_capacity(total as usize);
    for _ in 0..tokens {
        let before = entries.last().map(|(_, owner)| *owner);
        shuffle.apply(&mut round);
        part_neighbours(&mut round, before);
        for owner in &round {
            let passed = PARTS * entries.len() as u128 + PARTS / 2;
            entries.push((Position::new((passed * CIRCLE / (PARTS * total) - 1) as u64), *owner));
        }
    }
    entries
}

/// If a node would follow itself, swaps in the next other node of the round, if there is one.
fn part_neighbours(round: &mut [u32], mut before: Option<u32>) {
    let mut other = 0;
    for place in 0..round.len() {
        if before == Some(round[place]) {
            other = other.max(place + 1);
            while other < round.len() && before == Some(round[other]) {
                other += 1;
            }
            if other < round.len() {
                round.swap(place, other);
            }
        }
        before = Some(round[place]);
    }
}

/// The shuffle of Fisher and Yates, with the random numbers of SplitMix64 by Steele, Lea and Flood.
struct Shuffle {
    state: u64,
}

impl Shuffle {
    fn apply(&mut self, items: &mut [u32]) {
        for last in (1..items.len()).rev() {
            // The high half of the product is below `last + 1`.
            let chosen = (u128::from(self.next()) * (last as u128 + 1)) >> 64;
            items.swap(last, chosen as usize);
        }
    }

    fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.state ^ (self.state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}
