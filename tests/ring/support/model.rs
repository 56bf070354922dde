//! A ring so simple that its correctness is obvious, and a comparison of all answers of the real
//! ring with it.
//!
//! Shared by the property tests and the fuzz target.

use std::collections::{BTreeMap, BTreeSet};

use ringpact::ring::{HashRing, KeyHasher, Node, Position, RingError, Xxh3};

/// Placements of tokens that are hard for the ring: on few spots, in few dense clusters, or just
/// before the ends of buckets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placing {
    Uniform,
    Spots,
    Clusters,
    Edges,
}

impl KeyHasher for Placing {
    fn hash_key(&self, key: &[u8]) -> Position {
        let hash = Xxh3::default().hash_key(key).as_u64();
        Position::new(match self {
            Self::Uniform => hash,
            Self::Spots => (hash % 7).wrapping_mul(u64::MAX / 6),
            Self::Clusters => (hash & 3) << 62 | (hash >> 20 & 0x1f) << 44 | (hash >> 40 & 7),
            Self::Edges => ((hash & 0x3f) << 58).wrapping_sub(1 + (hash >> 60)),
        })
    }
}

/// One change of a ring.
#[derive(Clone, Debug)]
pub enum Step {
    Add(Node),
    Remove(String),
    Replace(Node),
}

/// Nodes, and their tokens in a sorted list. A look-up walks the list from its start.
#[derive(Clone, Debug)]
pub struct Model {
    placing: Placing,
    virtual_nodes: u32,
    nodes: BTreeMap<String, Node>,
    tokens: Vec<(u64, String)>,
}

impl Model {
    pub fn new(placing: Placing, virtual_nodes: u32, first: Node) -> Self {
        let nodes = BTreeMap::from([(first.id().to_string(), first)]);
        let mut model = Self { placing, virtual_nodes, nodes, tokens: Vec::new() };
        model.place();
        model
    }

    pub fn ring(&self) -> HashRing<Placing> {
        let builder = HashRing::builder().virtual_nodes(self.virtual_nodes).hasher(self.placing);
        builder.nodes(self.nodes.values().cloned()).build().expect("the model's members are valid")
    }

    /// Makes the change in the model, and returns what the ring should answer.
    pub fn step(&mut self, step: &Step) -> Result<(), RingError> {
        let id = match step {
            Step::Add(node) | Step::Replace(node) => node.id().as_str(),
            Step::Remove(id) => id,
        };
        match (step, self.nodes.contains_key(id)) {
            (Step::Add(_), true) => return Err(RingError::DuplicateNode { id: id.into() }),
            (Step::Remove(_) | Step::Replace(_), false) => return Err(RingError::UnknownNode { id: id.into() }),
            (Step::Remove(_), true) if self.nodes.len() == 1 => return Err(RingError::LastNode { id: id.into() }),
            (Step::Remove(_), true) => drop(self.nodes.remove(id)),
            (Step::Add(node) | Step::Replace(node), _) => drop(self.nodes.insert(id.to_owned(), node.clone())),
        }
        self.place();
        Ok(())
    }

    fn place(&mut self) {
        self.tokens.clear();
        for (id, node) in &self.nodes {
            for index in 0..node.weight() * self.virtual_nodes {
                let encoded = [id.as_bytes(), &index.to_le_bytes()].concat();
                self.tokens.push((self.placing.hash_token(&encoded).as_u64(), id.clone()));
            }
        }
        self.tokens.sort();
    }

    /// Returns all nodes in the order in which a walk from the position meets them.
    pub fn preference(&self, position: u64) -> Vec<&Node> {
        let first = self.tokens.iter().position(|(token, _)| *token >= position).unwrap_or(0);
        let mut met = Vec::new();
        for (_, id) in self.tokens[first..].iter().chain(&self.tokens[..first]) {
            if !met.contains(&id) {
                met.push(id);
            }
        }
        met.into_iter().map(|id| &self.nodes[id]).collect()
    }

    /// Returns the same nodes, the first of each zone before the second of any zone, and so on. If
    /// they are for new keys, those that are draining count as absent.
    pub fn preference_across_zones(&self, position: u64, for_new: bool) -> Vec<&Node> {
        let mut of_zones = BTreeMap::new();
        let preference = self.preference(position).into_iter().filter(|node| !for_new || !node.is_draining());
        let mut rounds: Vec<_> = preference
            .map(|node| {
                let round = of_zones.entry(node.zone()).and_modify(|round| *round += 1).or_insert(0);
                (*round, node)
            })
            .collect();
        rounds.sort_by_key(|(round, _)| *round);
        rounds.into_iter().map(|(_, node)| node).collect()
    }

    /// Returns positions at which a mistake would show: next to tokens, at most about `limit` of
    /// them, and the ends.
    pub fn telling_positions(&self, limit: usize) -> Vec<u64> {
        let step = (self.tokens.len() / limit).max(1);
        let tokens = self.tokens.iter().step_by(step).map(|(token, _)| *token);
        let near = tokens.chain([0]).flat_map(|token| [token.wrapping_sub(1), token, token.wrapping_add(1)]);
        near.collect()
    }
}

/// Makes one change in both, and compares all answers afterwards.
pub fn step_and_compare(ring: &mut HashRing<Placing>, model: &mut Model, step: &Step, limit: usize) {
    let (before, old) = (ring.clone(), model.clone());
    let planned = match step {
        Step::Add(node) => before.plan_join(node).ok(),
        _ => None,
    };
    let answer = match step {
        Step::Add(node) => ring.add(node.clone()),
        Step::Remove(id) => ring.remove(id).map(drop),
        Step::Replace(node) => ring.replace(node.clone()).map(drop),
    };
    assert_eq!(answer, model.step(step), "{step:?}");
    compare(ring, model, limit);

    let movement = before.movement(ring).expect("the hasher is the same");
    if let (Step::Add(_), Ok(())) = (step, answer) {
        assert_eq!(planned.as_ref(), Some(&movement), "the plan is what happens");
    }
    // A fresh ring may have other buckets. Then the movement is found by another algorithm.
    assert_eq!(movement, before.movement(&model.ring()).expect("the hasher is the same"));
    for copies in [1, 3] {
        let replicas = before.replica_movement(ring, copies).expect("the hasher is the same");
        for position in old.telling_positions(limit).into_iter().chain(model.telling_positions(limit)) {
            let (from, to) = (old.preference(position), model.preference(position));
            let moved = movement.find(Position::new(position));
            let expected = (from[0].id() != to[0].id()).then_some((from[0].id(), to[0].id()));
            assert_eq!(moved.map(|moved| (moved.from.id(), moved.to.id())), expected);

            let ids =
                |nodes: &[&Node]| nodes.iter().take(copies).map(|node| node.id().clone()).collect::<BTreeSet<_>>();
            let (from, to) = (ids(&from), ids(&to));
            let found = replicas.find(Position::new(position));
            let (gained, lost) =
                found.map_or((vec![], vec![]), |moved| (moved.gained_by.to_vec(), moved.lost_by.to_vec()));
            assert!(gained.iter().map(|node| node.id()).eq(to.difference(&from)), "{gained:?}, {from:?} to {to:?}");
            assert!(lost.iter().map(|node| node.id()).eq(from.difference(&to)), "{lost:?}, {from:?} to {to:?}");
        }
    }
}

fn compare(ring: &HashRing<Placing>, model: &Model, limit: usize) {
    assert!(ring.nodes().iter().eq(model.nodes.values()));
    let tokens = ring.tokens().map(|token| (token.position.as_u64(), token.node.id().as_str()));
    assert!(tokens.eq(model.tokens.iter().map(|(token, id)| (*token, id.as_str()))));
    let positions = model.telling_positions(limit);
    for &position in &positions {
        let preference = model.preference(position);
        let accepting: Vec<_> = preference.iter().copied().filter(|node| !node.is_draining()).collect();
        let (across, accepting_across) =
            (model.preference_across_zones(position, false), model.preference_across_zones(position, true));
        let position = Position::new(position);
        assert_eq!(ring.owner_at(position), preference[0]);
        assert!(ring.replicas_at(position).eq(preference));
        assert!(ring.replicas_across_zones_at(position).eq(across));
        assert_eq!(ring.owner_for_new_at(position), accepting.first().copied());
        assert!(ring.replicas_for_new_at(position).eq(accepting));
        assert!(ring.replicas_across_zones_for_new_at(position).eq(accepting_across));
    }
    let mut owners = Vec::new();
    ring.owners(&positions, &mut owners);
    assert!(owners.into_iter().eq(positions.iter().map(|key| ring.owner(key))));
}
