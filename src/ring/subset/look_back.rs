//! A subset with the nodes that a tenant had earlier.

use std::{collections::BTreeSet, fmt};

use super::{Slots, Subset, choose, history::PastVersion};
use crate::ring::{HashRing, HeldRing, KeyHasher, Node, Placement, Position, RingError, RingKey, members::Members};

/// The nodes that a tenant uses, with those that it used within the window of a
/// [`RingHistory`](super::RingHistory), which returns it. Writes go to the [subset](Self::subset),
/// reads to all [nodes](Self::nodes), or to the [readers](Self::readers) of one key.
///
/// Nodes that are no longer in the ring are left out, because they can't be read.
#[derive(Clone)]
pub struct LookBack<R> {
    subset: Subset<R>,
    /// What the tenant had in earlier versions, the newest first. No two are the same.
    earlier: Vec<Earlier>,
}

/// The nodes that a tenant had in some versions and that are still in the ring.
#[derive(Clone, PartialEq, Eq)]
struct Earlier {
    slots: Slots,
    /// Whether these nodes have the tokens that they had. Otherwise any of them may have owned any
    /// position.
    have_their_tokens: bool,
}

impl<R: HeldRing> LookBack<R> {
    pub(super) fn new<'v>(
        ring: R,
        tenant: Position,
        size: usize,
        versions: impl Iterator<Item = &'v PastVersion>,
    ) -> Result<Self, RingError> {
        let subset = Subset::at(ring, tenant, size)?;
        let mut earlier = Vec::<Earlier>::new();
        for version in versions {
            let chosen = choose(&*version.nodes, tenant, size);
            let chosen: Vec<_> = chosen.into_iter().map(|index| &version.nodes[index]).collect();
            let mut choices = vec![chosen];
            if choices[0].iter().any(|node| node.is_draining()) {
                let accepting: Vec<_> = version.nodes.iter().filter(|node| !node.is_draining()).collect();
                let chosen = choose(accepting.iter().copied(), tenant, size);
                choices.push(chosen.into_iter().map(|index| accepting[index]).collect());
            }
            for nodes in choices {
                let found = still_there(subset.ring(), version, &nodes);
                earlier.extend(found.filter(|found| {
                    let is_current = |current: &Slots| found.have_their_tokens && current.same_nodes(&found.slots);
                    let is_known = |known: &Earlier| {
                        known.have_their_tokens == found.have_their_tokens && known.slots.same_nodes(&found.slots)
                    };
                    !is_current(&subset.slots)
                        && !subset.for_new.as_ref().is_some_and(is_current)
                        && !earlier.iter().any(is_known)
                }));
            }
        }
        Ok(Self { subset, earlier })
    }

    /// Returns the nodes that the tenant uses now.
    #[must_use]
    pub fn subset(&self) -> &Subset<R> {
        &self.subset
    }

    /// Returns all nodes that may have data of the tenant, each once: those of the subset, those
    /// that [take new keys](Subset::nodes_for_new) while others drain, and then those of earlier
    /// versions, the newest first.
    pub fn nodes(&self) -> impl Iterator<Item = &Node> {
        let (members, _) = self.subset.ring().parts();
        let for_new = self.subset.for_new.iter();
        let all =
            [&self.subset.slots].into_iter().chain(for_new).chain(self.earlier.iter().map(|earlier| &earlier.slots));
        each_once(members, all.flat_map(|slots| slots.in_order().iter().copied()))
    }

    /// Returns the nodes that may have `key`; see [`readers_at`](Self::readers_at).
    pub fn readers<K: RingKey>(&self, key: K, copies: usize) -> impl Iterator<Item = &Node> + use<'_, R, K>
    where
        R::Hasher: KeyHasher,
    {
        self.readers_at(self.subset.ring().position(key), copies)
    }

    /// Returns the nodes that may have a key at `position`, each once. They are the nodes that had it
    /// in any version, if each version kept it on the first `copies` nodes of the tenant's
    /// [preference list](Subset::replicas_at), 1 for the owner alone.
    ///
    /// The owner comes first, then the other nodes of the subset, those that take new keys while
    /// others drain, and those of earlier versions, the newest first. If a node has changed its
    /// weight since, or with balanced placement, tokens are not where they were. Then all nodes that
    /// the tenant had in that version are readers.
    pub fn readers_at(&self, position: Position, copies: usize) -> impl Iterator<Item = &Node> + use<'_, R> {
        let (members, table) = self.subset.ring().parts();
        let now = [&self.subset.slots].into_iter().chain(&self.subset.for_new).map(move |slots| (slots, copies));
        let earlier = self
            .earlier
            .iter()
            .map(move |earlier| (&earlier.slots, if earlier.have_their_tokens { copies } else { usize::MAX }));
        let holders =
            now.chain(earlier).flat_map(move |(slots, copies)| slots.on(members, table.walk(position)).take(copies));
        let mut met = BTreeSet::new();
        holders.filter(move |node| met.insert(node.id()))
    }
}

/// Returns what is left in `ring` of the nodes that a tenant had in an earlier version.
fn still_there<H>(ring: &HashRing<H>, version: &PastVersion, nodes: &[&Node]) -> Option<Earlier> {
    let (members, _) = ring.parts();
    let is_as_before = |(old, index): &(&Node, usize)| old.weight() == members.nodes()[*index].weight();
    let left: Vec<_> = nodes.iter().filter_map(|old| Some((*old, members.index_of(old.id().as_str()).ok()?))).collect();
    let have_their_tokens = (version.placement, ring.placement()) == (Placement::Hashed, Placement::Hashed)
        && version.virtual_nodes == ring.virtual_nodes()
        && left.iter().all(is_as_before);
    let slots = Slots::new(members, left.iter().map(|(_, index)| members.slot(*index)).collect())?;
    Some(Earlier { slots, have_their_tokens })
}

fn each_once(members: &Members, slots: impl Iterator<Item = u32>) -> impl Iterator<Item = &Node> {
    let mut met = BTreeSet::new();
    slots.filter(move |slot| met.insert(*slot)).map(|slot| members.by_slot(slot))
}

impl<R: HeldRing> fmt::Debug for LookBack<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LookBack")
            .field("subset", &self.subset)
            .field("nodes", &self.nodes().map(Node::id).collect::<Vec<_>>())
            .finish()
    }
}
