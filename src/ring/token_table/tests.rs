//! Compares a table with a sorted list that is walked from its start: any sequence of changes,
//! tokens at difficult positions, and slots that no line can hold.

use proptest::prelude::*;

use super::{Entry, Position, TokenTable, TokensPerBucket, line::NOT_IN_LINE};
use crate::ring::{HashRing, Placement};

/// The tokens in the order in which a walk meets them. If tokens collide, the higher slot comes
/// first, so that a table that does not call `precedes` fails.
type Model = Vec<(u64, std::cmp::Reverse<u32>)>;

fn precedes(a: u32, b: u32) -> bool {
    a > b
}

#[derive(Clone, Debug)]
enum Change {
    Insert(u32, Vec<u64>),
    Remove(usize, usize),
    Reassign(usize, u32),
}

/// Uniform positions, and crowds that share a bucket, a prefix, or all but the lowest bits, also at
/// the ends of the circle.
fn position() -> impl Strategy<Value = u64> {
    prop_oneof![
        4 => any::<u64>(),
        1 => 0..4_u64,
        1 => (0..4_u64).prop_map(|back| u64::MAX - back),
        2 => (0..3_u64, 0..8_u64).prop_map(|(far, near)| (far << 62) + near),
        2 => (0..3_u64, 0..5_u64).prop_map(|(far, near)| (far << 40) + (1 << 63) + (near << 33)),
        1 => (1..64_u64).prop_map(|part| (part << 58) - 1),
    ]
}

fn slot() -> impl Strategy<Value = u32> {
    prop_oneof![8 => 0..5_u32, 1 => (0..3_u32).prop_map(|above| u32::from(NOT_IN_LINE) - 1 + above)]
}

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        3 => (slot(), prop::collection::vec(position(), 1..40)).prop_map(|(slot, tokens)| Change::Insert(slot, tokens)),
        2 => (any::<usize>(), 1..30_usize).prop_map(|(first, count)| Change::Remove(first, count)),
        2 => (any::<usize>(), slot()).prop_map(|(token, slot)| Change::Reassign(token, slot)),
    ]
}

fn entry((position, slot): (u64, std::cmp::Reverse<u32>)) -> Entry {
    Entry { position: Position::new(position), slot: slot.0 }
}

fn apply(change: &Change, table: &mut TokenTable, model: &mut Model) {
    match change {
        Change::Insert(slot, tokens) => {
            let mut tokens = tokens.clone();
            tokens.sort_unstable();
            let positions: Vec<_> = tokens.iter().copied().map(Position::new).collect();
            table.insert(*slot, &positions, precedes);
            model.extend(tokens.iter().map(|token| (*token, std::cmp::Reverse(*slot))));
            model.sort_unstable();
        }
        Change::Remove(first, count) => {
            // Some tokens of one slot, but not necessarily all of them.
            let (_, slot) = model[first % model.len()];
            let chosen: Vec<_> = model.iter().copied().filter(|(_, owner)| *owner == slot).take(*count).collect();
            if chosen.len() == model.len() {
                return;
            }
            let positions: Vec<_> = chosen.iter().map(|(token, _)| Position::new(*token)).collect();
            assert_eq!(table.remove(slot.0, &positions), chosen.len());
            for token in chosen {
                model.remove(model.iter().position(|other| *other == token).unwrap());
            }
        }
        Change::Reassign(token, to) => {
            let token = token % model.len();
            let (position, slot) = model[token];
            assert!(table.reassign(entry((position, slot)), *to, precedes));
            model[token].1.0 = *to;
            model.sort_unstable();
        }
    }
}

fn assert_equal(table: &TokenTable, model: &Model) {
    assert!(table.iter().eq(model.iter().copied().map(entry)), "{:?}\n{model:?}", table.iter().collect::<Vec<_>>());
    let by_slot: Vec<u32> = (0..u32::from(NOT_IN_LINE)).collect();
    let near = |token: u64| [token.wrapping_sub(1), token, token.wrapping_add(1)];
    for position in model.iter().flat_map(|(token, _)| near(*token)).chain([0, 1 << 63, u64::MAX]) {
        let successor = model.iter().position(|(token, _)| *token >= position).unwrap_or(0);
        let met = model.iter().cycle().skip(successor);
        let mut walk = table.walk(Position::new(position));
        for (_, slot) in met.take(model.len().min(40)) {
            assert_eq!(walk.next(), slot.0);
        }
        let owner = model[successor].1.0;
        let found = table.owner(Position::new(position), &by_slot);
        assert!(found.is_none_or(|slot| *slot == owner), "{found:?} instead of {owner} at {position:x}");
        assert_eq!(table.owner_slow(Position::new(position)), owner);

        let neighbours = table.neighbours(Position::new(position));
        let before = model.iter().rev().map(|(token, _)| *token).find(|token| *token < position);
        let beyond = model.iter().rev().map(|(token, _)| *token).find(|token| *token != position);
        assert_eq!(neighbours.before.as_u64(), before.or(beyond).unwrap_or(position));
        assert_eq!(neighbours.is_at, model.iter().any(|(token, _)| *token == position));
        assert_eq!(neighbours.owner, owner);
    }
}

proptest! {
    #[test]
    fn a_changed_table_is_what_a_sorted_list_says(
        start in prop::collection::vec(position(), 1..80),
        changes in prop::collection::vec(change(), 1..12),
    ) {
        let mut model: Model = start.into_iter().map(|token| (token, std::cmp::Reverse(0))).collect();
        let mut table = TokenTable::new(TokensPerBucket::OF_RANDOM, model.len(), model.iter().copied().map(entry));
        model.sort_unstable();
        assert_equal(&table, &model);
        for change in &changes {
            apply(change, &mut table, &mut model);
            assert_equal(&table, &model);
        }
    }
}

/// All tokens are at one spot: one bucket has all of them, and the sentinels of all other lines
/// point there.
#[test]
fn a_change_with_a_crowd_on_one_spot_takes_at_most_a_pass_over_the_table() {
    const CROWD: u64 = 200_000;
    let model: Vec<_> = (0..CROWD).map(|token| (u64::MAX / 3 + token, std::cmp::Reverse(0))).collect();
    let mut table = TokenTable::new(TokensPerBucket::OF_RANDOM, model.len(), model.iter().copied().map(entry));
    let newcomers: Vec<_> = (0..2_000).map(|token| Position::new(u64::MAX / 3 - 2_000 + token)).collect();
    let start = std::time::Instant::now();
    for _ in 0..5 {
        table.insert(1, &newcomers, precedes);
        assert_eq!(table.walk(Position::MIN).next(), 1);
        assert_eq!(table.remove(1, &newcomers), newcomers.len());
        assert_eq!(table.walk(Position::MAX).next(), 0);
    }
    assert!(start.elapsed().as_secs() < 5, "took {:?}", start.elapsed());
}

/// A section that is finished sets the sentinels of the sections before it, but only if it has
/// tokens. Once, sections without tokens did so, too, and in a table that is empty except for its
/// end each of them went through all sections before it.
#[test]
fn a_table_that_is_empty_except_for_its_end_is_built_in_one_pass() {
    let crowd: Vec<_> = (0..100).rev().map(|token| (u64::MAX - token, std::cmp::Reverse(0))).collect();
    let build = |crowd: &[_]| TokenTable::new(TokensPerBucket::OF_RANDOM, 8 << 19, crowd.iter().copied().map(entry));
    let least = |crowd: &[_]| {
        let time = |_| {
            let start = std::time::Instant::now();
            drop(build(crowd));
            start.elapsed()
        };
        (0..5).map(time).min().unwrap()
    };
    let everywhere: Vec<_> = (0..4_096).map(|token| (token << 52, std::cmp::Reverse(0))).collect();
    let (spread, crowded) = (least(&everywhere), least(&crowd));
    assert!(crowded < 5 * spread, "{crowded:?}, where tokens everywhere take {spread:?}");
    let table = build(&crowd);
    assert_eq!((table.len(), table.lines.len()), (crowd.len(), 1 << 19));
    for position in [0, 1, u64::MAX / 3, u64::MAX - (1 << 50)] {
        assert_eq!(table.owner(Position::new(position), &[7]), Some(&7), "the crowd's first owns {position:x}");
    }
}

fn spilled_share(ring: &HashRing) -> f64 {
    let entries = ring.tokens().map(|token| Entry { position: token.position, slot: 0 });
    let table = TokenTable::new(TokensPerBucket::OF_EVEN, ring.token_count(), entries);
    let spilled = (0..table.lines.len()).filter(|bucket| table.is_spilled(*bucket)).count();
    spilled as f64 / table.lines.len() as f64
}

/// Tokens on the ends of buckets have the one prefix that no line can hold. Look-ups in a ring of
/// such tokens took seven times as long.
#[test]
fn nearly_all_tokens_of_a_balanced_ring_fit_lines_fresh_and_after_changes() {
    for nodes in [1, 2, 10, 100, 1_000_usize] {
        let ids = (0..nodes).map(|node| format!("node-{node}"));
        let mut ring = HashRing::builder().placement(Placement::Balanced).virtual_nodes(64).nodes(ids).build().unwrap();
        assert!(spilled_share(&ring) <= 0.01, "{nodes} nodes: {}", spilled_share(&ring));
        let mut random = fastrand::Rng::with_seed(3);
        for change in 0..nodes.clamp(50, 400) {
            if ring.nodes().len() > nodes && random.bool() {
                let id = ring.nodes()[random.usize(..ring.nodes().len())].id().clone();
                ring.remove(id.as_str()).unwrap();
            } else {
                ring.add(format!("newcomer-{change}").as_str()).unwrap();
            }
        }
        assert!(spilled_share(&ring) <= 0.01, "{nodes} nodes, changed: {}", spilled_share(&ring));
    }
}
