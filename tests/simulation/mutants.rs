//! Bugs that a coordinator, a resource manager or a log could have, planted at the seams between them: in messages,
//! records and syncs. So the production code stays as it is, and the world around it behaves as if it were wrong.

/// Each must be found by the simulation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mutant {
    /// The log reports a batch durable that it has not synced.
    SyncsNothing,
    /// The log takes a failed sync for a success.
    SwallowsFailedSyncs,
    /// The log drops a decision that is still live.
    CollectsLiveDecisions,
    /// The log drops a promise that is still live.
    CollectsLivePromises,
    /// The log forgets what a coordinator has ended only when it is opened again.
    KeepsWhatHasEnded,
    /// The log removes the segments that it has replaced only when it is opened again.
    KeepsReplacedSegments,
    /// The coordinator sends its decision out before it is durable.
    DecidesBeforeDurable,
    /// The coordinator does not log its decision.
    DecidesWithoutRecord,
    /// The coordinator does not deliver again what its log says is decided.
    RecoversNoDecisions,
    /// The coordinator hands out an epoch's numbers again.
    ReusesEpochs,
    /// The coordinator commits what it finds in doubt and knows nothing of.
    PresumesCommit,
    /// The coordinator counts a No as a Yes.
    IgnoresNo,
    /// The coordinator counts a vote that never came as a Yes.
    IgnoresSilence,
    /// The coordinator takes a decision that was sent for one that was acknowledged.
    ForgetsEarly,
    /// The coordinator says that all has ended when it has not.
    MarkRunsAhead,
    /// The coordinator takes a last resource that did not answer for one that has committed.
    TrustsTheLastResource,
    /// The coordinator has the last resource commit where it is to be rolled back.
    AsksTheLastResourceAnyhow,
    /// The participant votes before its promise is durable.
    PromisesBeforeDurable,
    /// The participant votes Yes without a promise in its log.
    VotesWithoutPromise,
    /// The participant, asked for a vote, never says No.
    AlwaysVotesYes,
    /// The participant forgets its promises when it restarts.
    RecoversNoPromises,
    /// The participant keeps to itself what it has in doubt.
    ReportsNothingInDoubt,
    /// The participant has the service confirm without a record of the commit.
    CommitsWithoutRecord,
    /// The participant acknowledges commits that it has not carried out.
    AcknowledgesCommitsUndone,
    /// The participant acknowledges rollbacks that it has not carried out.
    AcknowledgesRollbacksUndone,
    /// The participant has the service confirm a branch twice.
    ConfirmsTwice,
}

impl Mutant {
    pub const ALL: [Self; 26] = [
        Self::SyncsNothing,
        Self::SwallowsFailedSyncs,
        Self::CollectsLiveDecisions,
        Self::CollectsLivePromises,
        Self::KeepsWhatHasEnded,
        Self::KeepsReplacedSegments,
        Self::DecidesBeforeDurable,
        Self::DecidesWithoutRecord,
        Self::RecoversNoDecisions,
        Self::ReusesEpochs,
        Self::PresumesCommit,
        Self::IgnoresNo,
        Self::IgnoresSilence,
        Self::ForgetsEarly,
        Self::MarkRunsAhead,
        Self::TrustsTheLastResource,
        Self::AsksTheLastResourceAnyhow,
        Self::PromisesBeforeDurable,
        Self::VotesWithoutPromise,
        Self::AlwaysVotesYes,
        Self::RecoversNoPromises,
        Self::ReportsNothingInDoubt,
        Self::CommitsWithoutRecord,
        Self::AcknowledgesCommitsUndone,
        Self::AcknowledgesRollbacksUndone,
        Self::ConfirmsTwice,
    ];

    /// Whether it sits between the coordinator and all its participants.
    pub const fn needs_wire(self) -> bool {
        matches!(
            self,
            Self::PresumesCommit | Self::IgnoresNo | Self::IgnoresSilence | Self::ForgetsEarly | Self::MarkRunsAhead
        )
    }
}
