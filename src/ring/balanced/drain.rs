//! A node takes: it joins, or gets heavier.
//!
//! In reading order: [`drain`] is the plan, [`donors`] chooses the nodes that give and how much
//! each gives, [`Drain`] takes it arc by arc.

use super::{CircleArc, Edits, Holding, Layout, MAX_TOKEN_GROWTH, Position, slices, widest, widest_first};

/// Gives `taker` `amount` more of the circle, from the nodes that own most for their weight. It
/// gets about `pieces` arcs, and at most [`MAX_TOKEN_GROWTH`] times as many.
///
/// The most loaded `pieces` nodes are drained, like vessels, to one level of share for weight, or
/// as many of them as stand above that level. So however the ring came about, the nodes that own
/// most are the first to own less.
pub(super) fn drain(layout: Layout<'_>, holdings: Vec<Holding>, taker: u32, amount: u128, pieces: usize) -> Edits {
    if amount == 0 {
        return Edits::new();
    }
    let donors = donors(layout, &holdings, taker, amount, pieces);
    let arcs = arcs_of(layout, &donors);
    let budget = pieces * MAX_TOKEN_GROWTH as usize;
    let mut drain = Drain { taker, edits: Edits::new(), budget, balance: 0, crumb: layout.crumb() };
    // The least loaded first, the most loaded last. The last one has the most to give, so it can
    // make up for whole arcs that gave too much or too little.
    let (mut passed, mut planned) = (0, 0);
    let mut left = donors.len();
    for (donor, arcs) in donors.iter().zip(arcs).rev() {
        left -= 1;
        passed += donor.demand;
        let due = (passed * pieces as u128).div_ceil(amount) as usize;
        let mut count = due.saturating_sub(planned);
        if left == 0 {
            // The last one makes up for donors that gave fewer pieces.
            count = count.max(drain.missing(pieces));
        }
        planned = due;
        drain.take(arcs, donor, count.max(1), left);
    }
    if drain.edits.is_empty() && holdings[taker as usize].tokens == 0 {
        drain.take_anything(layout);
    }
    drain.edits
}

/// A node that gives.
struct Donor {
    node: u32,
    /// Number of positions that it is to give.
    demand: u128,
    /// Number of whole arcs that it can spare.
    spare: usize,
}

/// Returns the nodes that give, the most loaded first: at most `most` of them.
fn donors(layout: Layout<'_>, holdings: &[Holding], taker: u32, amount: u128, most: usize) -> Vec<Donor> {
    let weight = |node: u32| layout.weight(node);
    let share = |node: u32| holdings[node as usize].share;
    let mut nodes: Vec<u32> = (0..layout.weights.len() as u32).filter(|node| *node != taker).collect();
    let by_load = |a: &u32, b: &u32| (share(*b) * weight(*a)).cmp(&(share(*a) * weight(*b))).then(a.cmp(b));
    if nodes.len() > most {
        nodes.select_nth_unstable_by(most, by_load);
        nodes.truncate(most);
    }
    nodes.sort_unstable_by(by_load);
    let (mut shares, mut weights, mut count) = (0, 0, 0);
    for node in &nodes {
        // Stop when the next node is below the level to which the nodes so far are drained.
        if shares > amount && share(*node) * weights <= (shares - amount) * weight(*node) {
            break;
        }
        shares += share(*node);
        weights += weight(*node);
        count += 1;
    }
    nodes.truncate(count);
    let kept = shares.saturating_sub(amount);
    let (mut passed, mut keep) = (0, 0);
    nodes
        .into_iter()
        .map(|node| {
            passed += weight(node);
            // The sum is rounded, not the part of each node, so that the demands add up.
            let keeps = kept * passed / weights - keep;
            keep += keeps;
            let spare = holdings[node as usize].tokens.saturating_sub(layout.fresh_tokens(node));
            Donor { node, demand: share(node).saturating_sub(keeps), spare: spare as usize }
        })
        .collect()
}

/// Returns the arcs of each donor, clockwise.
fn arcs_of(layout: Layout<'_>, donors: &[Donor]) -> Vec<Vec<CircleArc>> {
    let mut slots = vec![usize::MAX; layout.weights.len()];
    for (slot, donor) in donors.iter().enumerate() {
        slots[donor.node as usize] = slot;
    }
    let mut arcs = vec![Vec::new(); donors.len()];
    for (arc, owner) in layout.arcs() {
        if let Some(arcs) = arcs.get_mut(slots[owner as usize]) {
            arcs.push(arc);
        }
    }
    arcs
}

/// The pieces that were taken so far.
struct Drain {
    taker: u32,
    edits: Edits,
    /// Number of pieces that may still be taken.
    budget: usize,
    /// Number of positions that were taken in excess of the demands so far.
    balance: i128,
    crumb: u128,
}

impl Drain {
    /// Takes what is demanded of a donor with these arcs, in `count` pieces: whole arcs if it can
    /// spare some that fit, otherwise slices. `left` donors come after it.
    fn take(&mut self, mut arcs: Vec<CircleArc>, donor: &Donor, mut count: usize, left: usize) {
        let mut open = donor.demand as i128 - self.balance;
        let worthwhile = self.crumb as i128;
        let mut spare = if left == 0 { 0 } else { donor.spare };
        let most = self.budget.saturating_sub(left).min(2 * count + 1);
        if spare > 0 {
            widest_first(&mut arcs);
        } else {
            arcs = widest(arcs, most);
        }
        // Whole arcs first, as long as one fits.
        while spare > 0 && count > 0 && open > worthwhile {
            let Some(index) = best_fit(&arcs, open as u128 / count as u128) else {
                break;
            };
            let arc = arcs.remove(index);
            open -= arc.width() as i128;
            (count, spare) = (count - 1, spare - 1);
            self.own(arc.end);
        }
        // Slices for the rest.
        if count > 0 && open > worthwhile {
            for (arc, width) in slices(&arcs, open as u128, count, most) {
                open -= width as i128;
                self.own(arc.start.wrapping_add(width as u64));
            }
        }
        self.balance = -open;
    }

    /// Takes half of the widest arc of all. It is for a ring that was read from outside, if the
    /// nodes that own most own only crumbs.
    fn take_anything(&mut self, layout: Layout<'_>) {
        if let Some((arc, _)) = layout.arcs().max_by_key(|(arc, _)| arc.width()) {
            self.own(arc.start.wrapping_add((arc.width() / 2) as u64));
        }
    }

    /// Returns how many of `pieces` are not taken yet.
    fn missing(&self, pieces: usize) -> usize {
        pieces.saturating_sub(self.edits.len())
    }

    /// Makes the taker the owner of a token.
    fn own(&mut self, token: u64) {
        self.budget = self.budget.saturating_sub(1);
        self.edits.insert(Position::new(token), Some(self.taker));
    }
}

/// Returns the index of the arc whose width is nearest to `wanted`, if it is within a quarter of
/// it. `arcs` descend by width.
fn best_fit(arcs: &[CircleArc], wanted: u128) -> Option<usize> {
    let off = |index: &usize| arcs[*index].width().abs_diff(wanted);
    let narrower = arcs.partition_point(|arc| arc.width() > wanted);
    let nearest = (narrower.saturating_sub(1)..arcs.len().min(narrower + 1)).min_by_key(off)?;
    (off(&nearest) * 4 <= wanted).then_some(nearest)
}
