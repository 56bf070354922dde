//! Which coordinator speaks: [`Life`] says it, [`KnownLife`] and [`Lives`] check it.
//!
//! A name alone does not identify a coordinator. Its log may have been lost, and another one opened
//! under the same name; the log may have been copied, or an older copy restored; two processes may
//! have been given one name by mistake. In each of these cases one coordinator does not know what
//! the other one decided. It would take the other's promises for its own, and roll back what is
//! committed.
//!
//! So a coordinator says with every message which log it decides in, which opening of that log it
//! is, and how far the log is durable. A participant compares that with what it has heard before,
//! and refuses a message that does not continue from there.
//!
//! How far a log has come does not tell an older copy from the newest log, because a copy grows,
//! too, with each opening and each record. What tells them apart is how far the log had come when
//! the opening *ended* that the participant has heard of. So each life names such an opening and
//! that number.

use std::{cmp::Ordering, collections::BTreeMap, fmt};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::{Call, ParticipantError};
use crate::{
    exact,
    id::{BranchId, Epoch, Name},
    log::LogId,
};

/// One opening of a coordinator on its log: a plain value, copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Life {
    /// The id of the log in which the coordinator keeps its decisions.
    pub log: LogId,
    /// The epoch that this opening began. It is greater than that of each earlier opening of this
    /// log. The chance that another opening of any log has it is about 1 in 10^10.
    pub epoch: Epoch,
    /// Number of the log's records that are durable. It counts over all openings of the log and
    /// never decreases.
    #[serde(with = "exact::counter")]
    pub position: u64,
    /// The log that this one replaces, because an operator said that it is gone for good. It is
    /// this log's own id if the operator said that this log is an older copy and the newest there
    /// is. Usually [`LogId::NONE`].
    #[serde(default)]
    pub replaces: LogId,
    /// The earlier opening of the log that this life continues, usually the one before.
    ///
    /// A participant that last heard of that opening accepts this life if the log was at least as
    /// long when the opening ended as the participant has heard: then all that it has heard is in
    /// this log. If the participant has missed the opening before, it refuses, and the coordinator
    /// names the opening that the participant knows.
    ///
    /// If an operator said that the log is an older copy and the newest there is, this life takes
    /// the place of that opening, whether the copy has it or not.
    #[serde(default)]
    pub after: EndedOpening,
}

/// An opening of a coordinator on its log that has ended: a plain value. Exhaustive on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[expect(clippy::exhaustive_structs, reason = "it is what tells one opening of a log from others")]
pub struct EndedOpening {
    /// The epoch that the opening began; zero stands for no opening.
    pub epoch: Epoch,
    /// Number of the log's last record when the next opening began.
    #[serde(with = "exact::counter")]
    pub position: u64,
}

impl Life {
    /// Returns the opening of `log` that began `epoch` when `position` records were durable. It
    /// replaces no other log.
    #[must_use]
    pub const fn new(log: LogId, epoch: Epoch, position: u64) -> Self {
        Self { log, epoch, position, replaces: LogId::NONE, after: EndedOpening { epoch: Epoch::new(0), position: 0 } }
    }

    /// Returns this life, continuing this earlier opening of the log.
    #[must_use]
    pub const fn continuing(self, after: EndedOpening) -> Self {
        Self { after, ..self }
    }
}

impl fmt::Display for Life {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "epoch {} of log {} at record {}", self.epoch, self.log, self.position)
    }
}

/// A coordinator's life as a participant knows it, and as a message that it refused gave it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct LifeMismatch {
    /// The coordinator's name.
    pub coordinator: Name,
    /// The life that the participant knows.
    pub known: Life,
    /// The life that sent the refused message.
    pub came: Life,
}

/// The result of an introduction that was accepted; see [`KnownLife::meet`]. Exhaustive on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
#[expect(clippy::exhaustive_enums, reason = "a participant must act on each of them")]
pub enum Introduction {
    /// The life continues what was known.
    Continues,
    /// An operator said that the log replaces the known one: nothing that was heard before applies
    /// to it.
    Replaces,
}

/// What one participant knows about the lives of one coordinator. Pure: no I/O, no clock. A plain
/// value; [`Lives`] shares many of them among threads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct KnownLife {
    life: Life,
    /// Whether a message said so since the participant was opened.
    heard: bool,
    /// Whether a life of a later epoch was refused since the participant was opened.
    refused_later: bool,
}

impl KnownLife {
    /// Returns what is known of a coordinator that was never heard: nothing.
    #[must_use]
    pub const fn new() -> Self {
        Self { life: Life::new(LogId::NONE, Epoch::new(0), 0), heard: false, refused_later: false }
    }

    /// Takes in what the participant heard before it was opened, as its own log says. Call it in
    /// the order in which the participant heard it.
    pub fn remember(&mut self, heard: Life) {
        if self.life.log != heard.log || self.life.epoch < heard.epoch {
            self.life = heard;
        } else if self.life.epoch == heard.epoch {
            self.life.position = self.life.position.max(heard.position);
        }
    }

    /// Returns the latest life that is known. Its log is [`LogId::NONE`] if no coordinator has said
    /// which log it has.
    #[must_use]
    pub const fn life(&self) -> Life {
        self.life
    }

    /// Whether the coordinator itself has said its epoch since the participant was opened.
    #[must_use]
    pub const fn is_heard(&self) -> bool {
        self.heard
    }

    /// Whether work of a later epoch than that of [`life`](Self::life) is refused. It is once the
    /// coordinator has said its epoch since the participant was opened; and once the participant has
    /// refused a later one, because no coordinator may ever end such work.
    #[must_use]
    pub const fn refuses_later_work(&self) -> bool {
        self.heard || self.refused_later
    }

    /// Checks and takes in how a coordinator introduces itself. Call it before the participant
    /// answers which branches it holds.
    ///
    /// # Errors
    ///
    /// [`ParticipantError::OtherLog`] and [`ParticipantError::Superseded`]; the known life is the same
    /// then.
    pub fn meet(&mut self, coordinator: &Name, life: &Life) -> Result<Introduction, ParticipantError> {
        let known = self.life;
        // Two openings of a copy may both say that it was restored. Then the introduction of the
        // first one must not end the second one if it arrives late. So such an opening names the
        // one that it takes the place of.
        let is_named = life.log != known.log || (life.epoch != known.epoch && life.after.epoch == known.epoch);
        if known.log != LogId::NONE && known.log == life.replaces && is_named {
            *self = Self { life: Life::new(life.log, life.epoch, life.position), heard: true, refused_later: false };
            return Ok(Introduction::Replaces);
        }
        self.continue_with(coordinator, life)?;
        Ok(Introduction::Continues)
    }

    /// Checks and takes in what a message says of its coordinator.
    ///
    /// # Errors
    ///
    /// As for [`meet`](Self::meet).
    pub fn hear(&mut self, coordinator: &Name, call: &Call) -> Result<(), ParticipantError> {
        let said = call.life();
        if said.log != LogId::NONE {
            return self.continue_with(coordinator, &said);
        }
        if said.epoch == Epoch::default() {
            return Ok(()); // the message says nothing of its coordinator
        }
        if said.epoch < self.life.epoch {
            return Err(ParticipantError::Superseded(self.refuse(coordinator, &said)));
        }
        // A message that does not say which log it comes from must not outdate one that does.
        if self.life.log == LogId::NONE {
            self.life.epoch = said.epoch;
        }
        Ok(())
    }

    fn continue_with(&mut self, coordinator: &Name, said: &Life) -> Result<(), ParticipantError> {
        let known = self.life;
        if known.log == LogId::NONE {
            // What is known came without a log, so it is no reason to refuse a coordinator that
            // names its log.
            *self = Self { life: Life::new(said.log, said.epoch, said.position), heard: true, refused_later: false };
            return Ok(());
        }
        if known.log != said.log {
            return Err(ParticipantError::OtherLog(self.refuse(coordinator, said)));
        }
        let is_older = match said.epoch.cmp(&known.epoch) {
            Ordering::Less => true,
            Ordering::Equal => false,
            // The length of the log now says nothing. What counts is that all that was heard was in
            // the log when the earlier opening ended.
            Ordering::Greater => said.after.epoch != known.epoch || said.after.position < known.position,
        };
        if is_older {
            return Err(ParticipantError::Superseded(self.refuse(coordinator, said)));
        }
        // Messages of one life overtake each other, so one of them may have a smaller position.
        let position = known.position.max(said.position);
        *self = Self { life: Life::new(said.log, said.epoch, position), heard: true, refused_later: false };
        Ok(())
    }

    fn refuse(&mut self, coordinator: &Name, came: &Life) -> Box<LifeMismatch> {
        self.refused_later |= came.epoch > self.life.epoch;
        Box::new(LifeMismatch { coordinator: coordinator.clone(), known: self.life, came: *came })
    }
}

/// What a participant knows about the lives of all its coordinators, in memory. For a
/// [`Participant`](super::Participant) of your own. Share it by reference or
/// [`Arc`](std::sync::Arc); its methods block for no longer than a map access.
///
/// ```
/// use ringpact::{Epoch, LogId, Name, participant::{Life, Lives, ParticipantError}};
///
/// let (lives, shop) = (Lives::default(), Name::new("shop")?);
/// let life = Life::new(LogId::from_bytes([1; 16]), Epoch::new(7), 40);
/// let _met = lives.meet(&shop, &life)?;
/// // Another log under the same name: a second coordinator, or one that has lost its log.
/// let other = Life::new(LogId::from_bytes([2; 16]), Epoch::new(9), 3);
/// assert!(matches!(lives.meet(&shop, &other), Err(ParticipantError::OtherLog(_))));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Default)]
pub struct Lives(Mutex<BTreeMap<Name, KnownLife>>);

impl Lives {
    /// Checks and takes in how a coordinator introduces itself. Call it in
    /// [`Participant::meet`](super::Participant::meet). O(log n) in the coordinators.
    ///
    /// # Errors
    ///
    /// As for [`KnownLife::meet`].
    pub fn meet(&self, coordinator: &Name, life: &Life) -> Result<Introduction, ParticipantError> {
        self.of(coordinator, |known| known.meet(coordinator, life))
    }

    /// Checks and takes in what a message about a branch says of its coordinator. Call it first in
    /// each of a participant's methods that have a [`Call`]. O(log n) in the coordinators.
    ///
    /// # Errors
    ///
    /// As for [`KnownLife::hear`].
    pub fn hear(&self, branch: &BranchId, call: &Call) -> Result<(), ParticipantError> {
        let coordinator = branch.txn().coordinator();
        self.of(coordinator, |known| known.hear(coordinator, call))
    }

    /// Takes in what the participant heard before it was opened, as it has stored it; see
    /// [`KnownLife::remember`].
    pub fn remember(&self, coordinator: &Name, heard: Life) {
        self.of(coordinator, |known| known.remember(heard));
    }

    /// Returns the latest life of the coordinator that is known: what a participant with durable
    /// promises stores with each of them. Its log is [`LogId::NONE`] if none is known.
    #[must_use]
    pub fn life(&self, coordinator: &Name) -> Life {
        self.of(coordinator, |known| known.life())
    }

    fn of<T>(&self, coordinator: &Name, does: impl FnOnce(&mut KnownLife) -> T) -> T {
        let mut lives = self.0.lock();
        match lives.get_mut(coordinator) {
            Some(known) => does(known),
            None => does(lives.entry(coordinator.clone()).or_default()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(number: u8) -> LogId {
        LogId::from_bytes([number; 16])
    }

    fn life(number: u8, epoch: u64, position: u64) -> Life {
        Life::new(log(number), Epoch::new(epoch), position)
    }

    fn call(life: Life) -> Call {
        let Life { log: identity, epoch, position, after, .. } = life;
        Call { identity, epoch, position, after, ..Call::new(LogId::NONE) }
    }

    fn after(life: Life, epoch: u64, position: u64) -> Life {
        life.continuing(EndedOpening { epoch: Epoch::new(epoch), position })
    }

    const SHOP: Name = Name::from_static("shop");

    #[test]
    fn a_later_opening_of_the_same_log_continues() {
        let mut known = KnownLife::new();
        assert!(matches!(known.meet(&SHOP, &life(1, 10, 5)), Ok(Introduction::Continues)));
        known.hear(&SHOP, &call(life(1, 10, 9))).expect("the same life");
        known.hear(&SHOP, &call(life(1, 10, 7))).expect("the same life, overtaken by a later message");
        assert_eq!(known.life().position, 9);
        assert!(matches!(known.meet(&SHOP, &after(life(1, 20, 10), 10, 9)), Ok(Introduction::Continues)));
        assert!(matches!(known.hear(&SHOP, &call(life(1, 10, 9))), Err(ParticipantError::Superseded(_))));
        // The participant was down while epoch 30 was open. The next life first names epoch 30, and
        // then the one that the participant knows.
        assert!(matches!(known.meet(&SHOP, &after(life(1, 40, 20), 30, 19)), Err(ParticipantError::Superseded(_))));
        assert!(matches!(known.meet(&SHOP, &after(life(1, 40, 20), 20, 15)), Ok(Introduction::Continues)));
        known.hear(&SHOP, &call(after(life(1, 40, 21), 30, 19))).expect("it is known by now");
    }

    /// A copy grows, too. It used to be accepted once it had been opened, and refused, as often as
    /// it lacked records.
    #[test]
    fn an_older_copy_of_a_log_is_refused_however_far_it_has_come() {
        let mut known = KnownLife::new();
        known.hear(&SHOP, &call(life(1, 20, 100))).expect("nothing is known before");
        for position in [91, 101, 1_000_000] {
            // Copied in the life that is known, before the last that was heard; or before that
            // life.
            for ended in [
                EndedOpening { epoch: Epoch::new(20), position: 99 },
                EndedOpening { epoch: Epoch::new(10), position: 150 },
            ] {
                let copy = life(1, 30, position).continuing(ended);
                assert!(matches!(known.meet(&SHOP, &copy), Err(ParticipantError::Superseded(_))), "{copy}");
                assert!(matches!(known.hear(&SHOP, &call(copy)), Err(ParticipantError::Superseded(_))), "{copy}");
            }
        }
        known.hear(&SHOP, &call(after(life(1, 30, 101), 20, 100))).expect("it has all that was heard");
    }

    /// The participant used to go back to the first opening, and then refused all messages of the
    /// second one.
    #[test]
    fn a_late_introduction_of_a_restored_copy_does_not_end_its_later_opening() {
        let mut known = KnownLife::new();
        known.hear(&SHOP, &call(life(1, 50, 100))).expect("nothing is known before");
        let restored = |epoch, position| Life { replaces: log(1), ..life(1, epoch, position) };
        let first = after(restored(20, 11), 50, 100);
        let unnamed = after(restored(20, 11), 10, 10);
        assert!(matches!(known.meet(&SHOP, &unnamed), Err(ParticipantError::Superseded(_))));
        assert!(matches!(known.meet(&SHOP, &first), Ok(Introduction::Replaces)));
        assert!(matches!(known.meet(&SHOP, &first), Ok(Introduction::Continues)), "it comes twice");
        for second in [after(life(1, 30, 15), 20, 14), after(restored(30, 15), 20, 14)] {
            let mut known = known;
            let _met = known.meet(&SHOP, &second).expect("it continues the first");
            for late in [first, unnamed] {
                assert!(matches!(known.meet(&SHOP, &late), Err(ParticipantError::Superseded(_))), "{late}");
            }
            known.hear(&SHOP, &call(second)).expect("the late introduction has changed nothing");
        }
    }

    /// The copy's opening may have a greater epoch or a smaller one. Its log is shorter than what
    /// was heard.
    #[test]
    fn an_older_copy_of_a_log_is_refused_whatever_its_epoch() {
        for epoch in [11, 30] {
            let mut known = KnownLife::new();
            known.hear(&SHOP, &call(life(1, 20, 100))).expect("nothing is known before");
            for position in [6, 100] {
                let copy = life(1, epoch, position);
                assert!(matches!(known.meet(&SHOP, &copy), Err(ParticipantError::Superseded(_))), "{copy}");
                assert!(matches!(known.hear(&SHOP, &call(copy)), Err(ParticipantError::Superseded(_))), "{copy}");
            }
            assert_eq!(known.life(), life(1, 20, 100), "a refusal changes nothing");
            let admitted = after(Life { replaces: log(1), ..life(1, epoch, 6) }, 20, 100);
            assert!(matches!(known.meet(&SHOP, &admitted), Ok(Introduction::Replaces)));
            assert!(matches!(known.meet(&SHOP, &admitted), Ok(Introduction::Continues)), "the message came twice");
            known.hear(&SHOP, &call(life(1, epoch, 7))).expect("it continues the copy");
        }
    }

    #[test]
    fn another_log_under_the_name_is_refused_until_an_operator_says_that_it_replaces_the_first() {
        let mut known = KnownLife::new();
        known.remember(life(1, 3, 50));
        assert!(!known.is_heard());
        let other = life(2, 90, 900);
        assert!(matches!(known.meet(&SHOP, &other), Err(ParticipantError::OtherLog(_))));
        assert!(matches!(known.hear(&SHOP, &call(other)), Err(ParticipantError::OtherLog(_))));
        let wrong = Life { replaces: log(7), ..other };
        assert!(matches!(known.meet(&SHOP, &wrong), Err(ParticipantError::OtherLog(_))));
        assert!(matches!(known.meet(&SHOP, &Life { replaces: log(1), ..life(2, 1, 1) }), Ok(Introduction::Replaces)));
        known.hear(&SHOP, &call(life(2, 1, 2))).expect("it is known now");
    }

    /// A single call with a forged epoch used to lock the real coordinator out.
    #[test]
    fn a_call_that_does_not_say_its_log_outdates_no_coordinator_that_does() {
        let mut known = KnownLife::new();
        let _met = known.meet(&SHOP, &life(1, 10, 5)).expect("nothing is known before");
        let forged = Call { epoch: Epoch::new(1 << 60), ..Call::new(LogId::NONE) };
        known.hear(&SHOP, &forged).expect("it is not late");
        known.hear(&SHOP, &call(life(1, 10, 6))).expect("the coordinator goes on");
    }
}
