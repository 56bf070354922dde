//! The oracle of the cluster's world: what clients asked for and were told, held against what they read and what shards have; and which
//! rings there may be.

use std::collections::{BTreeMap, BTreeSet};

use ringpact::{
    HashRing, TxnId,
    ring::{PositionRange, RangeSet, RingEpoch},
    sharding::Tenure,
};

use super::plan::{KEYS, Plan, SERVICES};

/// A service and a key of it.
pub type Place = (usize, u32);

/// What every client knows. No crash in the simulated world forgets it.
#[derive(Debug)]
pub struct Oracle {
    pub wrong: Vec<String>,
    /// By token.
    transfers: BTreeMap<u32, Transfer>,
    /// Tokens that have been confirmed at the place, as clients were told.
    visible: BTreeMap<Place, BTreeSet<u32>>,
    /// The latest tenure under which work was let in.
    let_in: BTreeMap<Place, Tenure>,
    /// The latest epoch that the keeper has published, in whatever life.
    epoch: RingEpoch,
    known: BTreeMap<u32, Tenure>,
    /// The rings that there may be when no change is under way.
    rings: Vec<HashRing>,
    /// Ranges that changes were to move.
    movements: RangeSet,
    was_cancelled: bool,
}

#[derive(Debug)]
struct Transfer {
    #[allow(dead_code, reason = "what is reported shows it")]
    txn: TxnId,
    works: BTreeSet<Place>,
    is_committing: bool,
    told: Option<Told>,
}

/// What a client was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    Committed,
    RolledBack,
    Indeterminate,
}

impl Oracle {
    pub fn new(plan: &Plan) -> Self {
        Self {
            wrong: Vec::new(),
            transfers: BTreeMap::new(),
            visible: BTreeMap::new(),
            let_in: BTreeMap::new(),
            epoch: RingEpoch::new(0),
            known: BTreeMap::new(),
            rings: vec![plan.first_ring()],
            movements: RangeSet::new(),
            was_cancelled: false,
        }
    }

    /// Returns the token of a new transaction.
    pub fn begun(&mut self, txn: &TxnId) -> u32 {
        let token = self.transfers.len() as u32 + 1;
        let transfer = Transfer { txn: txn.clone(), works: BTreeSet::new(), is_committing: false, told: None };
        self.transfers.insert(token, transfer);
        token
    }

    fn transfer(&mut self, token: u32) -> &mut Transfer {
        self.transfers.get_mut(&token).expect("it was begun")
    }

    pub fn worked(&mut self, token: u32, place: Place) {
        self.transfer(token).works.insert(place);
    }

    pub fn committing(&mut self, token: u32) {
        self.transfer(token).is_committing = true;
    }

    pub fn told(&mut self, token: u32, told: Told) {
        self.transfer(token).told = Some(told);
    }

    /// All shards have confirmed it, its client was told.
    pub fn delivered(&mut self, token: u32) {
        for place in self.transfer(token).works.clone() {
            self.visible.entry(place).or_default().insert(token);
        }
    }

    /// What a read that begins now must find.
    pub fn visible(&self, place: Place) -> BTreeSet<u32> {
        self.visible.get(&place).cloned().unwrap_or_default()
    }

    /// A client has read this.
    pub fn is_read(&mut self, place: Place, tokens: &[u32], visible: &BTreeSet<u32>) {
        let missing: Vec<_> = visible.iter().filter(|token| !tokens.contains(token)).collect();
        if !missing.is_empty() {
            self.wrong.push(format!("a read of {place:?} misses {missing:?}, which were delivered before: {tokens:?}"));
        }
        self.check(place, tokens, "a read");
    }

    /// Whether the tokens may be there.
    fn check(&mut self, place: Place, tokens: &[u32], when: &str) {
        let once: BTreeSet<_> = tokens.iter().collect();
        if once.len() < tokens.len() {
            self.wrong.push(format!("{when}: {place:?} has a token twice: {tokens:?}"));
        }
        for token in once {
            match self.transfers.get(token) {
                Some(transfer)
                    if transfer.is_committing
                        && transfer.works.contains(&place)
                        && transfer.told != Some(Told::RolledBack) => {}
                other => self.wrong.push(format!("{when}: {place:?} has token {token}, and its client: {other:?}")),
            }
        }
    }

    /// Work is let in at the place under this tenure. Returns a later one, if there was one before.
    pub fn is_let_in(&mut self, service: usize, key: u32, tenure: Tenure) -> Option<Tenure> {
        let latest = self.let_in.entry((service, key)).or_default();
        if tenure < *latest {
            return Some(*latest);
        }
        *latest = tenure;
        None
    }

    /// The keeper's clients see this.
    pub fn is_published(&mut self, epoch: RingEpoch, known: impl Fn(u32) -> Tenure) {
        if epoch < self.epoch && self.wrong.is_empty() {
            self.wrong.push(format!("the keeper publishes epoch {epoch:?}, after {:?}", self.epoch));
        }
        self.epoch = self.epoch.max(epoch);
        for key in 0..KEYS {
            let (now, before) = (known(key), self.known.entry(key).or_default());
            if now < *before {
                self.wrong.push(format!("the keeper knows of hand-over {now} of key {key}, and knew of {before}"));
            }
            *before = now.max(*before);
        }
    }

    /// A change is about to be started.
    pub fn starts(&mut self, after: &HashRing, ranges: impl IntoIterator<Item = PositionRange>) {
        self.rings.push(after.clone());
        self.movements.extend(ranges);
    }

    /// No change is under way, and the keeper has this ring.
    pub fn has_ring(&mut self, ring: &HashRing) {
        if !self.rings.contains(ring) {
            self.wrong.push(format!("the ring is none of those that it may be: {:?}", ring.nodes()));
        }
        self.rings = vec![ring.clone()];
    }

    /// The change has surely begun, and is not cancelled; or, it was surely cancelled.
    pub fn leads_to(&mut self, ring: &HashRing) {
        self.rings = vec![ring.clone()];
    }

    /// The change may be cancelled: then it leads here.
    pub fn may_lead_to(&mut self, ring: &HashRing) {
        self.was_cancelled = true;
        self.rings.push(ring.clone());
    }

    pub fn was_cancelled(&self) -> bool {
        self.was_cancelled
    }

    /// Whether the range was ever to be moved.
    pub fn may_import(&self, range: PositionRange) -> bool {
        self.movements.covers(range)
    }

    /// Nothing is under way any more: each transfer has happened at all its places or at none, as its client was told, and no key is
    /// gone.
    pub fn audit(&mut self, when: &str, found: &BTreeMap<Place, Vec<u32>>) {
        for place in (0..SERVICES.len()).flat_map(|service| (0..KEYS).map(move |key| (service, key))) {
            match found.get(&place) {
                Some(tokens) => self.check(place, tokens, when),
                None => self.wrong.push(format!("{when}: {place:?} is gone")),
            }
        }
        let mut wrong = Vec::new();
        for (token, transfer) in &self.transfers {
            let is_there = |place: &&Place| found.get(*place).is_some_and(|tokens| tokens.contains(token));
            let there = transfer.works.iter().filter(is_there).count();
            let is_fine = match transfer.told {
                Some(Told::Committed) => there == transfer.works.len(),
                Some(Told::RolledBack) => there == 0,
                _ => there == 0 || there == transfer.works.len(),
            };
            if !is_fine {
                wrong.push(format!("{when}: token {token} is at {there} of its places: {transfer:?}"));
            }
        }
        self.wrong.extend(wrong);
    }
}
