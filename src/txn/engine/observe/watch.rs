//! Spans and metrics of one transaction.

use std::time::Instant;

use crate::{
    id::{BranchId, TxnId},
    log::Takeover,
    participant::{ParticipantError, Response, Verb, Vote},
    txn::{Cause, CoordinatorStatus, Outcome, TransactionState},
};

/// Spans and metrics of one transaction. All of its methods are called under the transaction's
/// lock, and do not wait.
pub(in crate::txn) struct Watch {
    #[cfg(feature = "tracing")]
    transaction: tracing::Span,
    #[cfg(feature = "tracing")]
    phase_span: tracing::Span,
    #[cfg(feature = "metrics")]
    begun: Instant,
    #[cfg(feature = "metrics")]
    phase_begun: Instant,
    phase: &'static str,
    /// Messages without an answer, by their branches' indices.
    messages: Vec<Option<Message>>,
}

struct Message {
    #[cfg(feature = "metrics")]
    verb: Verb,
    #[cfg(feature = "metrics")]
    sent: Instant,
    #[cfg(feature = "tracing")]
    span: tracing::Span,
}

impl Watch {
    /// Reports that a client's transaction begins.
    pub(in crate::txn) fn begun(txn: &TxnId, now: Instant) -> Self {
        #[cfg(feature = "metrics")]
        metrics::counter!("ringpact_transactions_begun_total").increment(1);
        Self::new(txn, now, "active")
    }

    /// Reports that a transaction of an earlier life goes on.
    pub(in crate::txn) fn resumed(txn: &TxnId, now: Instant) -> Self {
        #[cfg(feature = "metrics")]
        metrics::counter!("ringpact_transactions_recovered_total").increment(1);
        Self::new(txn, now, "recovery")
    }

    #[cfg_attr(not(all(feature = "metrics", feature = "tracing")), allow(unused_variables))]
    fn new(txn: &TxnId, now: Instant, phase: &'static str) -> Self {
        #[cfg(feature = "tracing")]
        let transaction = tracing::info_span!(parent: None, "transaction", %txn, outcome = tracing::field::Empty);
        Self {
            #[cfg(feature = "tracing")]
            phase_span: tracing::info_span!(parent: &transaction, "phase", phase),
            #[cfg(feature = "tracing")]
            transaction,
            #[cfg(feature = "metrics")]
            begun: now,
            #[cfg(feature = "metrics")]
            phase_begun: now,
            phase,
            messages: Vec::new(),
        }
    }

    /// Reports the transaction's state. A change of phase ends one phase and begins another.
    pub(in crate::txn) fn stands(&mut self, state: TransactionState) {
        let phase = phase_name(state);
        if phase == self.phase {
            return;
        }
        #[cfg(feature = "metrics")]
        {
            let now = Instant::now();
            let took = now.saturating_duration_since(self.phase_begun);
            metrics::histogram!("ringpact_phase_seconds", "phase" => self.phase).record(took);
            self.phase_begun = now;
            match phase {
                "parked" => metrics::counter!("ringpact_parked_total").increment(1),
                "heuristic" => metrics::counter!("ringpact_heuristic_total").increment(1),
                _ => {}
            }
        }
        self.phase = phase;
        #[cfg(feature = "tracing")]
        {
            self.phase_span = match state {
                TransactionState::Ended => tracing::Span::none(),
                _ => tracing::info_span!(parent: &self.transaction, "phase", phase),
            };
            if let TransactionState::Parked(_) | TransactionState::Heuristic(..) | TransactionState::Indeterminate =
                state
            {
                tracing::warn!(parent: &self.transaction, %state, "a transaction waits for an operator");
            }
        }
    }

    /// Reports a message. The caller makes the call inside of the returned span.
    #[cfg_attr(not(feature = "tracing"), allow(unused_variables))]
    pub(in crate::txn) fn sends(&mut self, index: usize, branch: &BranchId, verb: Verb) -> Entered {
        #[cfg(feature = "tracing")]
        let span = {
            let participant = branch.participant().as_str();
            let verb = verb_name(verb);
            tracing::info_span!(parent: &self.phase_span, "branch", participant, verb, answer = tracing::field::Empty)
        };
        // A message that is sent again was not answered; the first one is reported only as sent.
        if self.messages.len() <= index {
            self.messages.resize_with(index + 1, || None);
        }
        self.messages[index] = Some(Message {
            #[cfg(feature = "metrics")]
            verb,
            #[cfg(feature = "metrics")]
            sent: Instant::now(),
            #[cfg(feature = "tracing")]
            span: span.clone(),
        });
        Entered {
            #[cfg(feature = "tracing")]
            span,
        }
    }

    /// Reports an answer, or a failure.
    pub(in crate::txn) fn hears(&mut self, index: usize, result: &Result<Response, ParticipantError>) {
        let Some(message) = self.messages.get_mut(index).and_then(Option::take) else { return };
        let answer = answer_name(result);
        #[cfg(feature = "metrics")]
        {
            let verb = verb_name(message.verb);
            metrics::counter!("ringpact_messages_total", "verb" => verb, "answer" => answer).increment(1);
            metrics::histogram!("ringpact_message_seconds", "verb" => verb).record(message.sent.elapsed());
        }
        #[cfg(feature = "tracing")]
        {
            message.span.record("answer", answer);
            if let Err(error) = result {
                let chain = || crate::error_chain(error); // only if it is to be written
                tracing::debug!(parent: &message.span, error = %chain(), "a participant failed or refused");
            }
        }
    }

    /// Reports the answer to the client.
    pub(in crate::txn) fn answers(&mut self, outcome: Outcome, heuristic: bool) {
        let outcome = if heuristic { "heuristic" } else { outcome_name(outcome) };
        #[cfg(feature = "metrics")]
        {
            metrics::counter!("ringpact_transactions_total", "outcome" => outcome).increment(1);
            metrics::histogram!("ringpact_transaction_seconds", "outcome" => outcome).record(self.begun.elapsed());
        }
        #[cfg(feature = "tracing")]
        self.transaction.record("outcome", outcome);
    }
}

/// A message's span, in which the message is sent.
pub(in crate::txn) struct Entered {
    #[cfg(feature = "tracing")]
    span: tracing::Span,
}

impl Entered {
    pub(in crate::txn) fn call<T>(self, send: impl FnOnce() -> T) -> T {
        #[cfg(feature = "tracing")]
        return self.span.in_scope(send);
        #[cfg(not(feature = "tracing"))]
        send()
    }
}

/// Sets the gauges to the present counts.
#[cfg_attr(not(feature = "metrics"), allow(unused_variables))]
pub(in crate::txn) fn gauges(coordinator: &str, status: &CoordinatorStatus) {
    #[cfg(feature = "metrics")]
    {
        // The counts are far below 2^53, up to which a float is exact.
        #[allow(clippy::cast_precision_loss)]
        let set = |name: &'static str, value: u64| {
            metrics::gauge!(name, "coordinator" => coordinator.to_owned()).set(value as f64);
        };
        set("ringpact_in_flight", status.in_flight as u64);
        set("ringpact_in_doubt", status.in_doubt() as u64);
        set("ringpact_parked", status.parked as u64);
        set("ringpact_heuristic", status.heuristic as u64);
        set("ringpact_log_queue", status.log_queue);
    }
}

/// Reports that the coordinator has lost its log.
#[cfg_attr(not(feature = "tracing"), allow(unused_variables))]
pub(in crate::txn) fn fenced(coordinator: &str, takeover: &Takeover) {
    #[cfg(feature = "metrics")]
    metrics::counter!("ringpact_fenced_total").increment(1);
    #[cfg(feature = "tracing")]
    tracing::error!(coordinator, "the log was {takeover}, and the coordinator has given up all that was under way");
}

const fn phase_name(state: TransactionState) -> &'static str {
    match state {
        TransactionState::Active => "active",
        TransactionState::Preparing => "prepare",
        TransactionState::Delegated => "delegate",
        TransactionState::AskingLastResource => "ask_last_resource",
        TransactionState::Deciding => "decide",
        TransactionState::Committing => "commit",
        TransactionState::RollingBack => "rollback",
        TransactionState::Parked(_) => "parked",
        TransactionState::Heuristic(..) => "heuristic",
        TransactionState::Indeterminate => "indeterminate",
        TransactionState::Fenced => "fenced",
        TransactionState::Ended => "ended",
    }
}

const fn verb_name(verb: Verb) -> &'static str {
    match verb {
        Verb::Prepare => "prepare",
        Verb::Commit => "commit",
        Verb::Rollback => "rollback",
        Verb::CommitOnePhase => "commit_one_phase",
    }
}

const fn answer_name(result: &Result<Response, ParticipantError>) -> &'static str {
    use crate::participant::Decision;
    match result {
        Ok(Response::Voted(Vote::Yes)) => "yes",
        Ok(Response::Voted(Vote::No)) | Err(ParticipantError::Refused(_)) => "no",
        Ok(Response::Voted(Vote::ReadOnly)) => "read_only",
        Ok(Response::Decided(Decision::Commit)) => "committed",
        Ok(Response::Decided(Decision::Rollback)) => "rolled_back",
        Ok(_) => "done",
        Err(ParticipantError::UnknownBranch) => "unknown",
        Err(
            ParticipantError::AlreadyCommitted | ParticipantError::AlreadyRolledBack | ParticipantError::Heuristic(_),
        ) => "heuristic",
        Err(_) => "failed",
    }
}

const fn outcome_name(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Committed => "committed",
        Outcome::RolledBack(Cause::Requested) => "rolled_back",
        Outcome::RolledBack(Cause::VotedNo(_)) => "refused",
        Outcome::RolledBack(Cause::Failed(_)) => "failed",
        Outcome::RolledBack(Cause::TimedOut) => "timed_out",
        Outcome::RolledBack(Cause::Expired) => "expired",
        Outcome::RolledBack(Cause::LogRefused) => "log_refused",
        Outcome::RolledBack(Cause::Fenced) => "fenced",
        Outcome::Indeterminate => "indeterminate",
    }
}
