//! A transaction's branches, with questions about all of them that need not look at each.

use std::{ops::Index, time::Instant};

use super::{OnRecord, Role, Step, delivery::STUCK_AFTER};
use crate::{id::Name, log::Heuristic};

/// Number of branches, or nodes of the tree, up to which a linear search is used.
const FEW: usize = 8;

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct BranchProgress {
    pub(super) participant: Name,
    pub(super) role: Role,
    pub(super) step: Step,
    /// Number of failed deliveries since the decision or the last retry, as far as counting them
    /// makes a difference.
    pub(super) failures: u32,
    pub(super) on_record: OnRecord,
}

impl BranchProgress {
    pub(super) const fn new(participant: Name, role: Role, step: Step) -> Self {
        Self { participant, role, step, failures: 0, on_record: OnRecord::Nothing }
    }
}

/// A transaction's branches, in the order in which they were added. With the usual two or three, a
/// linear search is the quickest. With more than a [`FEW`] there is also a tree, once no more are
/// added. Then to change one and to find one are O(log n). A transaction of n branches takes a few
/// times n steps, and each step looks for the next thing to do.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Branches {
    all: Vec<BranchProgress>,
    /// The summary of each [`FEW`] branches, then the summary of each few of these, until only a
    /// few are left. Empty while branches are added, and if there are only a few.
    tree: Vec<Vec<BranchSummary>>,
}

/// Summary of some branches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct BranchSummary {
    /// Whether one that can vote was not asked.
    pub(super) unasked: bool,
    /// Whether one of these is to be asked before the others.
    pub(super) unasked_early: bool,
    /// Whether one that can vote has not voted.
    pub(super) unvoted: bool,
    /// Whether one was told, or is about to be.
    pub(super) awaits: bool,
    /// Whether one of these has not failed often enough to count as stuck.
    pub(super) is_slow: bool,
    pub(super) is_parked: bool,
    /// Whether one may still get messages.
    pub(super) is_in: bool,
    /// Whether the heuristic end of one must be written.
    pub(super) unnoted: bool,
    /// Whether such a record is being written.
    pub(super) writing: bool,
    /// Whether one has not ended otherwise than decided.
    pub(super) as_decided: bool,
    /// How the others have ended, if there are others.
    pub(super) heuristic: Option<Heuristic>,
    /// Number of branches that have not acknowledged what they were told, or would be told.
    pub(super) owing: usize,
    /// Time at which the first one must be told.
    pub(super) due: Option<Instant>,
    /// The same, of those that are told before the others.
    pub(super) due_early: Option<Instant>,
    /// Time of the first time-out: of an answer, or until a record is written again.
    pub(super) lapses: Option<Instant>,
    /// Time of the first thing to do, whatever it is.
    pub(super) deadline: Option<Instant>,
}

impl BranchSummary {
    #[inline(always)]
    fn of(branch: &BranchProgress) -> Self {
        let (step, on_record, votes) = (branch.step, branch.on_record, branch.role != Role::LastResource);
        let is_early = branch.role == Role::EarlyVoter;
        let (due, sent) = match step {
            Step::Due(at) => (Some(at), None),
            Step::Sent(at) => (None, Some(at)),
            _ => (None, None),
        };
        let unwritten = match on_record {
            OnRecord::Unwritten(at) => Some(at),
            _ => None,
        };
        let (heuristic, unnoted, retold) = match step {
            Step::Heuristic(outcome) => {
                (Some(outcome), unwritten.is_none() && on_record != OnRecord::Heuristic(outcome), unwritten)
            }
            _ => (None, false, None),
        };
        Self {
            unasked: votes && step == Step::Idle,
            unasked_early: is_early && step == Step::Idle,
            unvoted: votes && matches!(step, Step::Idle | Step::Asked),
            awaits: step.awaits_answer(),
            is_slow: step.awaits_answer() && step != Step::Kept && branch.failures < STUCK_AFTER,
            is_parked: step == Step::Parked,
            is_in: step != Step::Out,
            unnoted,
            writing: matches!(on_record, OnRecord::Writing(_)),
            as_decided: heuristic.is_none(),
            heuristic,
            owing: usize::from(step.owes_answer()),
            due,
            due_early: due.filter(|_| is_early),
            lapses: both(sent, unwritten, Instant::min),
            deadline: due.or(sent).or(retold),
        }
    }

    fn and(self, other: Self) -> Self {
        Self {
            unasked: self.unasked || other.unasked,
            unasked_early: self.unasked_early || other.unasked_early,
            unvoted: self.unvoted || other.unvoted,
            awaits: self.awaits || other.awaits,
            is_slow: self.is_slow || other.is_slow,
            is_parked: self.is_parked || other.is_parked,
            is_in: self.is_in || other.is_in,
            unnoted: self.unnoted || other.unnoted,
            writing: self.writing || other.writing,
            as_decided: self.as_decided || other.as_decided,
            heuristic: both(self.heuristic, other.heuristic, Heuristic::and),
            owing: self.owing + other.owing,
            due: both(self.due, other.due, Instant::min),
            due_early: both(self.due_early, other.due_early, Instant::min),
            lapses: both(self.lapses, other.lapses, Instant::min),
            deadline: both(self.deadline, other.deadline, Instant::min),
        }
    }
}

/// Whether there is a time, and it has come.
#[inline]
pub(super) fn is_over(at: Option<Instant>, now: Instant) -> bool {
    at.is_some_and(|at| at <= now)
}

/// Combines two values, if there are two.
#[inline]
fn both<T>(one: Option<T>, other: Option<T>, and: impl FnOnce(T, T) -> T) -> Option<T> {
    match (one, other) {
        (Some(one), Some(other)) => Some(and(one, other)),
        (one, other) => one.or(other),
    }
}

impl Branches {
    pub(super) const fn new() -> Self {
        Self { all: Vec::new(), tree: Vec::new() }
    }

    /// Returns these branches, to which no more are added.
    pub(super) fn of(all: impl Iterator<Item = BranchProgress>) -> Self {
        let mut branches = Self { all: all.collect(), tree: Vec::new() };
        branches.close();
        branches
    }

    pub(super) fn push(&mut self, branch: BranchProgress) {
        self.tree.clear();
        self.all.push(branch);
    }

    /// Takes out a branch that exists, before [`close`](Self::close). Those behind it move down. O(n).
    pub(super) fn remove(&mut self, index: usize) -> BranchProgress {
        self.tree.clear();
        self.all.remove(index)
    }

    /// Notes that no more branches are added, and builds the tree. O(n).
    pub(super) fn close(&mut self) {
        if self.all.len() <= FEW {
            return;
        }
        self.tree.clear();
        let mut level: Vec<_> = self.all.chunks(FEW).map(|few| sum(few.iter(), BranchSummary::of)).collect();
        while level.len() > FEW {
            let above = level.chunks(FEW).map(|few| sum(few.iter(), |node| *node)).collect();
            self.tree.push(std::mem::replace(&mut level, above));
        }
        self.tree.push(level);
    }

    pub(super) fn len(&self) -> usize {
        self.all.len()
    }

    pub(super) fn get(&self, index: usize) -> Option<&BranchProgress> {
        self.all.get(index)
    }

    pub(super) fn iter(&self) -> std::slice::Iter<'_, BranchProgress> {
        self.all.iter()
    }

    /// Changes a branch that exists.
    pub(super) fn change(&mut self, index: usize, change: impl FnOnce(&mut BranchProgress)) {
        change(&mut self.all[index]);
        if self.tree.is_empty() {
            return;
        }
        let mut place = index / FEW;
        self.tree[0][place] = sum(self.all[below(place, self.all.len())].iter(), BranchSummary::of);
        for level in 1..self.tree.len() {
            let (lower, upper) = self.tree.split_at_mut(level);
            let lower = &lower[level - 1];
            place /= FEW;
            upper[0][place] = sum(lower[below(place, lower.len())].iter(), |node| *node);
        }
    }

    /// Moves a branch to another step. Returns `false` if it does not exist, or if `from` is not
    /// true of its present step.
    pub(super) fn step(&mut self, index: usize, from: impl FnOnce(Step) -> bool, to: Step) -> bool {
        let moves = self.all.get(index).is_some_and(|branch| from(branch.step));
        if moves {
            self.change(index, |branch| branch.step = to);
        }
        moves
    }

    /// Calls `change` with each branch. O(n).
    pub(super) fn change_all(&mut self, change: impl FnMut(&mut BranchProgress)) {
        self.all.iter_mut().for_each(change);
        self.close();
    }

    /// Returns the first branch for which `is` is true. `is` must be true of a summary exactly if
    /// it is true of one of its branches.
    #[inline]
    pub(super) fn first(&self, is: impl Fn(&BranchSummary) -> bool) -> Option<usize> {
        let Some((top, others)) = self.tree.split_last() else {
            return self.all.iter().position(|branch| is(&BranchSummary::of(branch)));
        };
        let mut place = top.iter().position(&is)?;
        for level in others.iter().rev() {
            place = below(place, level.len()).find(|place| is(&level[*place]))?;
        }
        below(place, self.all.len()).find(|index| is(&BranchSummary::of(&self.all[*index])))
    }

    /// Returns the first of the early branches for which `is_early` is true, or else the first branch
    /// for which `is` is true.
    #[inline]
    pub(super) fn next(
        &self,
        is_early: impl Fn(&BranchSummary) -> bool,
        is: impl Fn(&BranchSummary) -> bool,
    ) -> Option<usize> {
        match self.first(is_early) {
            Some(early) => Some(early),
            None => self.first(is),
        }
    }

    /// Whether `is` is true of any branch. The same rule holds for `is` as in
    /// [`first`](Self::first).
    #[inline]
    pub(super) fn any(&self, is: impl Fn(&BranchSummary) -> bool) -> bool {
        match self.tree.last() {
            Some(top) => top.iter().any(is),
            None => self.all.iter().any(|branch| is(&BranchSummary::of(branch))),
        }
    }

    /// Combines one field of all branches.
    #[inline]
    fn sum<T: Copy>(&self, of: impl Fn(&BranchSummary) -> T, and: impl Fn(T, T) -> T) -> Option<T> {
        match self.tree.last() {
            Some(top) => top.iter().map(of).reduce(and),
            None => self.all.iter().map(|branch| of(&BranchSummary::of(branch))).reduce(and),
        }
    }

    /// Returns the time of the first thing to do.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.sum(|all| all.deadline, |one, other| both(one, other, Instant::min)).flatten()
    }

    /// Number of branches that have not acknowledged what they were told, or would be told.
    pub(super) fn owing(&self) -> usize {
        self.sum(|all| all.owing, |one, other| one + other).unwrap_or(0)
    }

    /// Returns how branches have ended that ended otherwise than decided, if there are such
    /// branches.
    pub(super) fn heuristic(&self) -> Option<Heuristic> {
        self.sum(|all| all.heuristic, |one, other| both(one, other, Heuristic::and)).flatten()
    }
}

impl Index<usize> for Branches {
    type Output = BranchProgress;

    fn index(&self, index: usize) -> &BranchProgress {
        &self.all[index]
    }
}

/// Returns the places below a node.
fn below(place: usize, len: usize) -> std::ops::Range<usize> {
    place * FEW..len.min((place + 1) * FEW)
}

fn sum<'a, T: 'a>(few: impl Iterator<Item = &'a T>, of: impl Fn(&T) -> BranchSummary) -> BranchSummary {
    few.map(of).fold(BranchSummary::default(), BranchSummary::and)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn any_step(now: Instant) -> Step {
        let at = now + Duration::from_millis(fastrand::u64(0..1_000));
        match fastrand::u8(0..9) {
            0 => Step::Idle,
            1 => Step::Asked,
            2 => Step::Yes,
            3 => Step::Due(at),
            4 => Step::Sent(at),
            5 => Step::Kept,
            6 => Step::Parked,
            7 => Step::Heuristic(Heuristic::RolledBack),
            _ => Step::Out,
        }
    }

    #[test]
    fn the_tree_finds_what_a_linear_search_finds() {
        fastrand::seed(7);
        let now = Instant::now();
        for count in [1, FEW, FEW + 1, FEW * FEW, FEW * FEW + 1, 700] {
            let mut many = Branches::new();
            for number in 0..count {
                let name = Name::new(&format!("participant-{number}")).expect("a valid name");
                let role = if number % 3 == 0 { Role::Voter } else { Role::EarlyVoter };
                many.push(BranchProgress::new(name, role, Step::Idle));
            }
            let mut few = many.clone();
            many.close();
            assert_eq!(many.tree.is_empty(), count <= FEW);
            for _ in 0..300 {
                let (index, step) = (fastrand::usize(0..count), any_step(now));
                let on_record = match fastrand::u8(0..4) {
                    0 => OnRecord::Nothing,
                    1 => OnRecord::Heuristic(Heuristic::RolledBack),
                    2 => OnRecord::Writing(Heuristic::RolledBack),
                    _ => OnRecord::Unwritten(now + Duration::from_millis(fastrand::u64(0..1_000))),
                };
                let failures = fastrand::u32(0..3);
                let change = |branch: &mut BranchProgress| {
                    (branch.step, branch.on_record, branch.failures) = (step, on_record, failures);
                };
                many.change(index, change);
                few.change(index, change);
                if fastrand::u8(0..20) == 0 {
                    let out = |branch: &mut BranchProgress| branch.step = Step::Out;
                    many.change_all(out);
                    few.all.iter_mut().for_each(out);
                }
                assert_eq!(many.all, few.all);
                assert_eq!(
                    (many.deadline(), many.owing(), many.heuristic()),
                    (few.deadline(), few.owing(), few.heuristic())
                );
                let asked: [&dyn Fn(&BranchSummary) -> bool; 13] = [
                    &|some| some.unasked,
                    &|some| some.unasked_early,
                    &|some| some.unvoted,
                    &|some| some.awaits,
                    &|some| some.is_slow,
                    &|some| some.is_parked,
                    &|some| some.is_in,
                    &|some| some.unnoted,
                    &|some| some.writing,
                    &|some| some.as_decided,
                    &|some| is_over(some.due, now + Duration::from_millis(100)),
                    &|some| is_over(some.due_early, now + Duration::from_millis(100)),
                    &|some| is_over(some.lapses, now + Duration::from_millis(100)),
                ];
                for is in asked {
                    assert_eq!((many.first(is), many.any(is)), (few.first(is), few.any(is)));
                }
            }
        }
    }
}
