//! The oracle: what clients asked for and were told, held against what the services did.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    time::Duration,
};

use ringpact::{BranchId, Name, TxnId};

use super::store::Work;

/// What every client knows. No crash in the simulated world forgets it.
#[derive(Debug, Default)]
pub struct Ledger {
    purchases: BTreeMap<TxnId, Purchase>,
    /// Purchases whose decisions nothing can tell of any more: the coordinator's log is gone, and no participant had carried
    /// them out by then.
    untold: BTreeSet<TxnId>,
    /// Purchases that no participant had carried out when a copy of the coordinator's log was opened in its place, or as long as one
    /// was open beside it.
    overtaken: BTreeSet<TxnId>,
    /// Purchases of which a copy of the coordinator's log has rolled something back, with the participants that were absent then:
    /// they could have told that the copy is old.
    without: BTreeMap<TxnId, BTreeSet<Name>>,
    /// Purchases that some participant has said to be committed there. So that is durable.
    acknowledged: BTreeSet<TxnId>,
    pub wrong: Vec<String>,
}

#[derive(Debug, Default)]
struct Purchase {
    /// What was done at each participant, as far as the client knows.
    works: BTreeMap<Name, Vec<Work>>,
    /// The letter that was to be sent about it.
    letter: Option<BranchId>,
    committing: bool,
    told: Option<Told>,
    /// On which host it was begun.
    host: usize,
    /// The participants, whether any work was done or not.
    participants: BTreeSet<Name>,
    /// When its client was through with it.
    left: Option<Duration>,
}

impl Purchase {
    /// Nothing is sure of it but that its letter was sent.
    fn is_unsure(&self, is_sent: bool) -> bool {
        is_sent && !matches!(self.told, Some(Told::Committed | Told::RolledBack))
    }
}

/// What a client was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    Committed,
    RolledBack,
    Indeterminate,
}

/// What there is in the services' books, by branch.
pub type Books = BTreeMap<BranchId, Vec<Work>>;

impl Ledger {
    pub fn begun(&mut self, txn: &TxnId, host: usize) {
        let purchase = Purchase { host, ..Purchase::default() };
        if self.purchases.insert(txn.clone(), purchase).is_some() {
            self.is_wrong(format_args!("{txn} was begun twice"));
        }
    }

    /// The transaction was given this branch.
    pub fn branched(&mut self, branch: &BranchId) {
        let purchase = self.purchases.entry(branch.txn().clone()).or_default();
        purchase.participants.insert(branch.participant().clone());
    }

    /// Its client has nothing more to do with it.
    pub fn left(&mut self, txn: &TxnId, now: Duration) {
        self.purchases.entry(txn.clone()).or_default().left = Some(now);
    }

    /// Whether the participant has no part in the transaction, and its client was through with it by then.
    pub fn was_over(&self, txn: &TxnId, participant: &Name, by: Duration) -> bool {
        let purchase = self.purchases.get(txn).filter(|purchase| !purchase.participants.contains(participant));
        purchase.and_then(|purchase| purchase.left).is_some_and(|left| left <= by)
    }

    pub fn worked(&mut self, branch: &BranchId, work: Work) {
        let purchase = self.purchases.entry(branch.txn().clone()).or_default();
        purchase.works.entry(branch.participant().clone()).or_default().push(work);
    }

    pub fn wrote(&mut self, branch: &BranchId) {
        self.purchases.entry(branch.txn().clone()).or_default().letter = Some(branch.clone());
    }

    pub fn committing(&mut self, txn: &TxnId) {
        self.purchases.entry(txn.clone()).or_default().committing = true;
    }

    pub fn told(&mut self, txn: &TxnId, told: Told) {
        self.purchases.entry(txn.clone()).or_default().told = Some(told);
    }

    /// The purchases of this coordinator whose clients have been told how they ended.
    pub fn told_before(&self, coordinator: &str) -> BTreeSet<TxnId> {
        let told = self.purchases.iter().filter(|(_, purchase)| purchase.told.is_some());
        told.map(|(txn, _)| txn.clone()).filter(|txn| txn.coordinator().as_str() == coordinator).collect()
    }

    /// All purchases that were begun.
    pub fn all(&self) -> BTreeSet<TxnId> {
        self.purchases.keys().cloned().collect()
    }

    /// The log is gone that holds the decisions of these purchases of a coordinator, given with the host where each was begun.
    pub fn loses(&mut self, coordinator: &str, is_lost: impl Fn(&TxnId, usize) -> bool) {
        let of_it = self.purchases.iter().filter(|(txn, _)| txn.coordinator().as_str() == coordinator);
        let lost = of_it.filter(|(txn, purchase)| !self.acknowledged.contains(txn) && is_lost(txn, purchase.host));
        let lost: Vec<_> = lost.map(|(txn, _)| txn.clone()).collect();
        self.untold.extend(lost);
    }

    /// A copy of a coordinator's log is opened, although the log is still there.
    pub fn is_copied_over(&mut self, coordinator: &str) {
        let of_it = self.purchases.keys().filter(|txn| txn.coordinator().as_str() == coordinator);
        self.overtaken.extend(of_it.filter(|txn| !self.acknowledged.contains(txn)).cloned());
    }

    /// Whether a copy may have rolled the purchase back, although its coordinator had decided to commit it.
    pub fn was_overtaken(&self, txn: &TxnId) -> bool {
        self.overtaken.contains(txn)
    }

    /// A copy of a coordinator's log has rolled something of the purchase back, while these participants were absent.
    pub fn is_rolled_back_without(&mut self, txn: &TxnId, absent: BTreeSet<Name>) {
        self.without.entry(txn.clone()).or_default().extend(absent);
    }

    /// Whether a copy may have torn the purchase apart: participants have it, and all of these were absent when the copy rolled it
    /// back.
    pub fn is_torn_by_copy<'a>(&self, txn: &TxnId, there: impl Iterator<Item = &'a Name>) -> bool {
        let mut there = there.peekable();
        let absent = self.without.get(txn).filter(|_| there.peek().is_some());
        absent.is_some_and(|absent| there.all(|participant| absent.contains(participant)))
    }

    /// A participant says that it has committed its branch.
    pub fn acknowledged(&mut self, txn: &TxnId) {
        self.acknowledged.insert(txn.clone());
    }

    pub fn is_wrong(&mut self, what: fmt::Arguments<'_>) {
        self.wrong.push(what.to_string());
    }

    /// Nothing is under way any more: each purchase has happened at all its services or at none, as its client was told.
    ///
    /// So has the letter about it been sent or not. The exception is what a last resource can't be made sure of: where no
    /// client was told anything for certain, the letter may have gone out and the services have ended in any way.
    /// There is no exception if the post `remembers`.
    pub fn audit(&mut self, when: &str, books: &Books, letters: &BTreeSet<BranchId>, remembers: bool) {
        let mut wrong = Vec::new();
        let (mut known, mut unsure) = (BTreeSet::new(), BTreeSet::new());
        for (txn, purchase) in &self.purchases {
            let changes = |works: &[Work]| works.iter().any(Work::changes);
            let branches = purchase.works.iter().filter(|(_, works)| changes(works));
            let (mut there, mut missing) = (Vec::new(), Vec::new());
            for (participant, works) in branches {
                let branch = txn.branch(participant);
                match books.get(&branch) {
                    Some(done) if done == works => there.push(participant),
                    Some(done) => wrong.push(format!("{branch} did {done:?} and was asked for {works:?}")),
                    None => missing.push(participant),
                }
                known.insert(branch);
            }
            let is_sent = purchase.letter.as_ref().is_some_and(|letter| letters.contains(letter));
            if is_sent && (!purchase.committing || purchase.told == Some(Told::RolledBack)) {
                wrong.push(format!("the letter about {txn} was sent; its client: {:?}", purchase.told));
            }
            if !is_sent && purchase.letter.is_some() && purchase.told == Some(Told::Committed) {
                wrong.push(format!("the letter about {txn} is missing; its client was told that it has committed"));
            }
            if !is_sent && purchase.letter.is_some() && !there.is_empty() {
                wrong.push(format!("{txn} has happened at {there:?} without its letter"));
            }
            if purchase.is_unsure(is_sent) && !remembers {
                unsure.insert(txn);
                continue;
            }
            let is_torn_by_copy = self.is_torn_by_copy(txn, there.iter().copied());
            if !there.is_empty() && !missing.is_empty() && !is_torn_by_copy {
                wrong.push(format!(
                    "{txn} is torn: {there:?} have it, {missing:?} don't; its client: {:?}",
                    purchase.told
                ));
            }
            if !there.is_empty() && (!purchase.committing || purchase.told == Some(Told::RolledBack)) {
                wrong.push(format!("{txn} has happened at {there:?}; its client: {:?}", purchase.told));
            }
            // A copy of the log that takes over rolls back what it knows no decision of, and no operator looks for a letter then.
            let is_lost = self.overtaken.contains(txn) || !is_sent && self.untold.contains(txn);
            let is_untold = there.is_empty() && is_lost;
            if !missing.is_empty() && purchase.told == Some(Told::Committed) && !is_untold && !is_torn_by_copy {
                wrong.push(format!("{txn} is missing at {missing:?}; its client was told that it has committed"));
            }
        }
        wrong.extend(
            books.keys().filter(|branch| !known.contains(branch)).map(|branch| format!("no client knows of {branch}")),
        );
        // The shop's own sum: what left the store was ordered, and paid.
        let mut sums = BTreeMap::<&TxnId, Vec<u64>>::new();
        for (branch, works) in books.iter().filter(|(branch, _)| !unsure.contains(branch.txn())) {
            sums.entry(branch.txn()).or_default().push(works.iter().map(|work| work.value).sum());
        }
        let unequal = sums.iter().filter(|(_, sums)| sums.iter().any(|sum| *sum != sums[0]));
        wrong.extend(unequal.map(|(txn, sums)| format!("the services book {sums:?} for {txn}")));
        self.wrong.extend(wrong.into_iter().map(|what| format!("{when}: {what}")));
    }

    /// How many letters are about purchases of which the books know nothing, although they should.
    pub fn false_letters(&self, books: &Books, letters: &BTreeSet<BranchId>) -> usize {
        let is_missing = |(participant, works): (&Name, &Vec<Work>), txn: &TxnId| {
            works.iter().any(Work::changes) && !books.contains_key(&txn.branch(participant))
        };
        let about = letters.iter().filter_map(|letter| self.purchases.get_key_value(letter.txn()));
        about.filter(|(txn, purchase)| purchase.works.iter().any(|branch| is_missing(branch, txn))).count()
    }

    /// How many clients were told this.
    pub fn count(&self, told: Option<Told>) -> usize {
        self.purchases.values().filter(|purchase| purchase.told == told).count()
    }
}
