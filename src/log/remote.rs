//! A log that is kept by an engine which several processes can reach: what decides, without the engine.
//!
//! [`RemoteWriter`] is the holder's side. The engine keeps three things beside the batches of records: the
//! *fence*, a token of the present holder; the *tail*, the number of the last batch; and for each earlier holder
//! the tail at which the log was taken over from it. It must be able to do two things, each in one atomic step:
//!
//! - **Write** batch `n` under a token: if the fence is this token and the tail is `n - 1`, the batch is added and
//!   the tail becomes `n`.
//! - **Take over** with a new token: if the fence is the one that was read, it becomes the new token, and the tail
//!   is noted as that of the holder before.
//!
//! So a lost answer is no riddle. The holder sends the same write again, and the engine's state says what became of
//! it: the tail has reached `n` (it was written), the fence is another one (the noted tail says whether it was
//! written before that), or neither (it was not, and is now). A write that is held up in the network and arrives late
//! finds the tail beyond it, or another fence, and changes nothing; also if the batch was collected meanwhile, which is
//! why the tail is compared, and not whether the batch is there. One batch is in flight at a time, so that what survives
//! is a prefix.
//!
//! `tests/model/remote_log.rs` searches every order of what holders and the network can do.

use std::time::{Duration, Instant};

/// Time after which a batch is sent again, at first. It doubles up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(20);

/// Maximum time after which a batch is sent again. Short beside the lease of a holder, so that a batch is sent again
/// soon after the engine has a new leader.
const LONGEST_PAUSE: Duration = Duration::from_millis(500);

/// Number of times that the pause doubles until it is the longest one.
const DOUBLINGS: u32 = 5;

/// What a write came to, as the engine says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(clippy::exhaustive_enums, reason = "every engine must know all of them")]
pub enum RemoteAnswer {
    /// The batch is in the log, by this write or by an earlier one.
    Written,
    /// Another holder has taken the log over. `tail` is the last batch before that.
    Taken {
        /// The number of the last batch.
        tail: u64,
    },
    /// The engine has no room. This write has added nothing.
    NoSpace,
    /// There is no answer, or one that says nothing: the batch may be in the log, now or later.
    Unknown,
}

/// What the holder does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(clippy::exhaustive_enums, reason = "every driver must know all of them")]
pub enum RemoteStep {
    /// The batch is durable. The next one may be sent.
    Durable,
    /// The log was taken over. The batch is durable, or it surely is not and never will be. Send nothing more.
    Fenced {
        /// Whether the batch is durable.
        is_durable: bool,
    },
    /// Send the same batch again at this time.
    Again(Instant),
    /// There was no answer for too long. Whether the batch is durable is not known. Send nothing more.
    GiveUp,
}

/// Why a holder writes nothing more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum RemoteEnd {
    /// Another holder has the log.
    Taken,
    /// There was no answer for too long.
    Silent,
}

/// One holder of a log on an engine: which batch is next, and what became of it. Pure; the driver sends, and time is an
/// argument.
///
/// ```
/// use std::time::{Duration, Instant};
/// use ringpact::log::remote::{RemoteAnswer, RemoteStep, RemoteWriter};
///
/// let now = Instant::now();
/// let mut writer = RemoteWriter::new(41, Duration::from_secs(10));
/// assert_eq!(writer.begin(now), Some(42));
/// // The answer was lost. The same batch is sent again, and the engine says what became of it.
/// assert!(matches!(writer.answered(RemoteAnswer::Unknown, now), Some(RemoteStep::Again(_))));
/// let taken = RemoteAnswer::Taken { tail: 42 };
/// assert_eq!(writer.answered(taken, now), Some(RemoteStep::Fenced { is_durable: true }));
/// assert_eq!(writer.begin(now), None);
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RemoteWriter {
    tail: u64,
    flight: Option<Flight>,
    give_up_after: Duration,
    end: Option<RemoteEnd>,
}

/// The batch that is in flight.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Flight {
    /// Since when it may be in the log without an answer that says so.
    since: Instant,
    /// Number of times that it is to be sent again, up to [`DOUBLINGS`].
    again: u32,
}

impl RemoteWriter {
    /// Returns the holder that has taken the log over when `tail` was the last batch. It gives up when there was no answer
    /// for `give_up_after`.
    #[must_use]
    pub const fn new(tail: u64, give_up_after: Duration) -> Self {
        Self { tail, flight: None, give_up_after, end: None }
    }

    /// Returns the number of the last batch that is durable.
    #[must_use]
    pub const fn tail(&self) -> u64 {
        self.tail
    }

    /// Returns why nothing more is written, or `None` while more may be written.
    #[must_use]
    pub const fn end(&self) -> Option<RemoteEnd> {
        self.end
    }

    /// Begins the next batch, and returns its number; `None` if one is in flight, or if nothing more is written.
    pub fn begin(&mut self, now: Instant) -> Option<u64> {
        if self.flight.is_some() || self.end.is_some() {
            return None;
        }
        self.flight = Some(Flight { since: now, again: 0 });
        Some(self.tail + 1)
    }

    /// Takes in what a write of the batch in flight came to, and returns what is next; `None` if no batch is in flight: it
    /// is a late answer.
    pub fn answered(&mut self, answer: RemoteAnswer, now: Instant) -> Option<RemoteStep> {
        let number = self.tail + 1;
        let flight = self.flight.as_mut()?;
        match answer {
            RemoteAnswer::Written => self.tail = number,
            RemoteAnswer::Taken { tail } => {
                let is_durable = number <= tail;
                self.tail += u64::from(is_durable);
                (self.flight, self.end) = (None, Some(RemoteEnd::Taken));
                return Some(RemoteStep::Fenced { is_durable });
            }
            // The engine answers, so there is no hurry to give up: space may come.
            RemoteAnswer::NoSpace => {
                flight.since = now;
                return Some(flight.again_after(now));
            }
            RemoteAnswer::Unknown if now.saturating_duration_since(flight.since) < self.give_up_after => {
                return Some(flight.again_after(now));
            }
            RemoteAnswer::Unknown => {
                (self.flight, self.end) = (None, Some(RemoteEnd::Silent));
                return Some(RemoteStep::GiveUp);
            }
        }
        self.flight = None;
        Some(RemoteStep::Durable)
    }
}

impl Flight {
    fn again_after(&mut self, now: Instant) -> RemoteStep {
        let pause = FIRST_PAUSE.saturating_mul(1 << self.again).min(LONGEST_PAUSE);
        self.again = (self.again + 1).min(DOUBLINGS);
        RemoteStep::Again(now + pause)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_is_sent_again_after_longer_and_longer_pauses_until_it_is_given_up() {
        let begun = Instant::now();
        let mut writer = RemoteWriter::new(0, Duration::from_secs(2));
        assert_eq!((writer.begin(begun), writer.begin(begun)), (Some(1), None), "one at a time");
        let (mut now, mut pauses) = (begun, Vec::new());
        let last = loop {
            match writer.answered(RemoteAnswer::Unknown, now) {
                Some(RemoteStep::Again(at)) => {
                    pauses.push((at - now).as_millis());
                    now = at;
                }
                last => break last,
            }
        };
        assert_eq!(pauses, [20, 40, 80, 160, 320, 500, 500, 500]);
        assert_eq!((last, writer.end(), writer.tail()), (Some(RemoteStep::GiveUp), Some(RemoteEnd::Silent), 0));
        assert_eq!((writer.begin(now), writer.answered(RemoteAnswer::Written, now)), (None, None));
    }

    #[test]
    fn an_engine_without_space_is_asked_for_as_long_as_it_answers() {
        let now = Instant::now();
        let mut writer = RemoteWriter::new(7, Duration::from_secs(1));
        assert_eq!(writer.begin(now), Some(8));
        for minutes in 1..60 {
            let now = now + Duration::from_secs(60 * minutes);
            assert!(matches!(writer.answered(RemoteAnswer::NoSpace, now), Some(RemoteStep::Again(_))));
        }
        assert_eq!(writer.answered(RemoteAnswer::Written, now), Some(RemoteStep::Durable));
        assert_eq!((writer.tail(), writer.begin(now)), (8, Some(9)));
    }
}
