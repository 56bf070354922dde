//! [`Case`]: one check with its shards, and the steps that checks are made of.

use std::{error::Error as StdError, fmt::Debug};

use super::ShardHarness;
use crate::{
    error_chain,
    id::{BranchId, Epoch, Name, TxnId},
    participant::Service,
    ring::{Position, PositionRange, RangeSet},
    sharding::{Digest, Keyed, Shard, records},
};

/// Number of keys that most checks use.
pub(super) const KEYS: u32 = 12;

/// One check with what makes its shards. A step that fails panics with the name of the check.
pub(super) struct Case<'a, H> {
    name: &'static str,
    make: &'a dyn Fn() -> H,
    last: u64,
}

/// A shard and its storage.
pub(super) struct Place<H: ShardHarness> {
    pub(super) harness: H,
    pub(super) shard: H::Shard,
}

impl<H: ShardHarness> Place<H> {
    /// Crashes the shard, and opens it again.
    pub(super) fn crashed(self) -> Self {
        let Self { harness, shard } = self;
        drop(shard);
        let shard = harness.open();
        Self { harness, shard }
    }

    pub(super) fn seen(&self, key: u32) -> Option<String> {
        self.harness.seen(&self.shard, key)
    }

    pub(super) fn position(&self, key: u32) -> Position {
        self.harness.work(key, 1).position()
    }
}

/// The range after `start` up to `end`.
pub(super) const fn range(start: u64, end: u64) -> PositionRange {
    PositionRange { start: Position::new(start), end: Position::new(end) }
}

/// The range whose only position is this one.
pub(super) const fn only(position: Position) -> PositionRange {
    PositionRange { start: before(position), end: position }
}

pub(super) const fn before(position: Position) -> Position {
    Position::new(position.as_u64().wrapping_sub(1))
}

impl<'a, H: ShardHarness> Case<'a, H> {
    pub(super) fn new(name: &'static str, make: &'a dyn Fn() -> H) -> Self {
        Self { name, make, last: 0 }
    }

    pub(super) fn harness(&self) -> H {
        (self.make)()
    }

    /// Returns a new shard.
    pub(super) fn empty(&self) -> Place<H> {
        let harness = self.harness();
        let shard = harness.open();
        Place { harness, shard }
    }

    /// Returns a new shard with all keys.
    pub(super) fn filled(&mut self) -> Place<H> {
        let place = self.empty();
        (0..KEYS).for_each(|key| self.work(&place, key, 1 + key));
        place
    }

    pub(super) fn txn(&mut self) -> TxnId {
        self.last += 1;
        TxnId::new(named("conformance"), Epoch::new(1), self.last)
    }

    pub(super) fn branch(&mut self) -> BranchId {
        self.txn().branch(&named("conformance.shard"))
    }

    /// Has the shard do work, and confirms it.
    pub(super) fn work(&mut self, place: &Place<H>, key: u32, value: u32) {
        let (branch, work) = (self.branch(), place.harness.work(key, value));
        self.tried(place, &branch, &work);
        self.ok("confirm", place.shard.confirm(&branch, &[work]));
    }

    pub(super) fn tried(&self, place: &Place<H>, branch: &BranchId, work: &<H::Shard as Service>::Work) {
        if let Err(refusal) = place.shard.try_reserve(branch, work) {
            self.fail(&format!("the shard refused work of the harness: {}", error_chain(&refusal)));
        }
    }

    /// Returns the positions of all keys, ascending, each once.
    pub(super) fn positions(&self, place: &Place<H>) -> Vec<Position> {
        let mut positions: Vec<_> = (0..KEYS).map(|key| place.position(key)).collect();
        positions.sort_unstable();
        positions.dedup();
        self.that(positions.len() >= 4, || "the harness has fewer than 4 keys with different positions".to_owned());
        positions
    }

    /// Returns what the shard exports of the range, as it travels.
    pub(super) fn export(&self, place: &Place<H>, range: PositionRange) -> (Vec<u8>, Digest) {
        self.ok("export", records::of_range(range, |range, into| place.shard.export(range, into)))
    }

    /// Returns the positions of what the shard exports of the range, each once.
    pub(super) fn exported(&self, place: &Place<H>, range: PositionRange) -> Vec<Position> {
        let (bytes, _) = self.export(place, range);
        let mut positions: Vec<_> = records::as_records(&bytes).map(|(position, _)| position).collect();
        positions.dedup();
        positions
    }

    pub(super) fn digest(&self, place: &Place<H>, ranges: &RangeSet) -> Digest {
        self.ok("export", records::digest(ranges, |range, into| place.shard.export(range, into)))
    }

    pub(super) fn import(&self, place: &Place<H>, range: PositionRange, bytes: &[u8]) {
        self.ok("import", place.shard.import(range, records::as_records(bytes)));
    }

    pub(super) fn discard(&self, place: &Place<H>, range: PositionRange) {
        self.ok("discard", place.shard.discard(range));
    }

    /// Returns what clients see of all keys.
    pub(super) fn content(&self, place: &Place<H>) -> Vec<Option<String>> {
        (0..KEYS).map(|key| place.seen(key)).collect()
    }

    pub(super) fn ok<T, E: AsError>(&self, what: &str, result: Result<T, E>) -> T {
        result.unwrap_or_else(|error| self.fail(&format!("{what} failed: {}", error_chain(error.as_error()))))
    }

    pub(super) fn same<T: PartialEq + Debug>(&self, what: &str, seen: &T, expected: &T) {
        self.that(seen == expected, || format!("{what} is {seen:?}, should be {expected:?}"));
    }

    pub(super) fn that(&self, holds: bool, what: impl FnOnce() -> String) {
        if !holds {
            self.fail(&what());
        }
    }

    pub(super) fn fail(&self, what: &str) -> ! {
        panic!("shard conformance: \"{}\" does not hold: {what}", self.name)
    }
}

/// An error, boxed or not.
pub(super) trait AsError {
    fn as_error(&self) -> &(dyn StdError + 'static);
}

impl AsError for crate::ServiceError {
    fn as_error(&self) -> &(dyn StdError + 'static) {
        &**self
    }
}

macro_rules! errors {
    ($($error:ty),*) => {$(
        impl AsError for $error {
            fn as_error(&self) -> &(dyn StdError + 'static) {
                self
            }
        }
    )*};
}
errors!(
    crate::participant::ParticipantError,
    crate::participant::OpenError,
    crate::sharding::ShardError,
    crate::txn::BranchError,
    crate::txn::CommitError,
    crate::txn::CoordinatorError
);

pub(super) fn named(name: &str) -> Name {
    Name::new(name).unwrap_or_else(|error| unreachable!("the suite's own names are valid: {error}"))
}
