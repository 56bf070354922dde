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
    /// The coordinator's epochs count up, by the same steps for each opening of a copy of its log.
    EpochsCountUp,
    /// The coordinator takes whatever it finds in doubt under its name for its own, and rolls it back.
    SettlesWhatIsUnclaimed,
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
    /// The coordinator holds every participant's mark where one of them holds its own.
    HoldsAllMarks,
    /// The coordinator never closes a circuit that is open.
    NeverClosesCircuits,
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
    /// The participant knows coordinators by their names, whatever their logs.
    HearsAnyLog,
    /// The participant takes an older copy of a coordinator's log for the log.
    TakesCopiesForTheLog,
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
    /// The service keeps what it has set aside for branches that are void.
    KeepsWhatIsVoid,
    /// The adapter for asynchronous participants answers before its task has run.
    AnswersForTasks,
    /// The adapter takes a task that panicked for one that has carried out what it was told.
    TakesPanicsForSuccess,
    /// The adapter does not go on with a task that was woken.
    LosesWakeUps,
    /// A database's backend does not wait until the session is gone that it ends, so a promise may come after the answer.
    FencesNothing,
    /// A database's backend takes a promise that it can't commit for committed, without a look at the marker.
    BelievesWhatIsNotThere,
    /// A database's backend takes the promises that are listed so far for all there are.
    BelievesLateLists,
    /// A branch that commits in a database leaves no marker, so a commit whose answer was lost counts as a rollback.
    LeavesNoMarker,
}

/// Each with the number of seeds within which it must be found: large enough that less than one in ten thousand such rows of seeds
/// would miss it by bad luck, rounded up, at the rate at which 300 seeds find it (`simulate --mutants --seeds 300`).
const ALL: [(Mutant, u64); 40] = [
    (Mutant::SyncsNothing, 10),
    (Mutant::SwallowsFailedSyncs, 200),
    (Mutant::CollectsLiveDecisions, 50),
    (Mutant::CollectsLivePromises, 10),
    (Mutant::KeepsWhatHasEnded, 100),
    (Mutant::KeepsReplacedSegments, 20),
    (Mutant::DecidesBeforeDurable, 100),
    (Mutant::DecidesWithoutRecord, 50),
    (Mutant::RecoversNoDecisions, 50),
    (Mutant::ReusesEpochs, 10),
    (Mutant::EpochsCountUp, 300),
    (Mutant::SettlesWhatIsUnclaimed, 1_000),
    (Mutant::PresumesCommit, 30),
    (Mutant::IgnoresNo, 20),
    (Mutant::IgnoresSilence, 300),
    (Mutant::ForgetsEarly, 50),
    (Mutant::MarkRunsAhead, 10),
    (Mutant::HoldsAllMarks, 300),
    (Mutant::NeverClosesCircuits, 300),
    (Mutant::TrustsTheLastResource, 300),
    (Mutant::AsksTheLastResourceAnyhow, 20),
    (Mutant::PromisesBeforeDurable, 100),
    (Mutant::VotesWithoutPromise, 10),
    (Mutant::AlwaysVotesYes, 20),
    (Mutant::RecoversNoPromises, 10),
    (Mutant::HearsAnyLog, 300),
    (Mutant::TakesCopiesForTheLog, 300),
    (Mutant::ReportsNothingInDoubt, 50),
    (Mutant::CommitsWithoutRecord, 30),
    (Mutant::AcknowledgesCommitsUndone, 20),
    (Mutant::AcknowledgesRollbacksUndone, 20),
    (Mutant::ConfirmsTwice, 10),
    (Mutant::KeepsWhatIsVoid, 50),
    (Mutant::AnswersForTasks, 150),
    (Mutant::TakesPanicsForSuccess, 150),
    (Mutant::LosesWakeUps, 20),
    (Mutant::FencesNothing, 200),
    (Mutant::BelievesWhatIsNotThere, 50),
    (Mutant::BelievesLateLists, 300),
    (Mutant::LeavesNoMarker, 10),
];

impl Mutant {
    /// All that can be planted here, in their order.
    pub fn all() -> impl Iterator<Item = Self> {
        ALL.into_iter().map(|(mutant, _)| mutant).filter(|mutant| cfg!(feature = "tokio") || !mutant.needs_tasks())
    }

    /// Number of seeds within which it is found.
    pub fn limit(self) -> u64 {
        ALL.into_iter().find(|(mutant, _)| *mutant == self).map_or(0, |(_, limit)| limit)
    }

    /// Whether it takes the feature `tokio`.
    const fn needs_tasks(self) -> bool {
        matches!(self, Self::AnswersForTasks | Self::TakesPanicsForSuccess | Self::LosesWakeUps)
            || self.needs_database()
    }

    /// Whether it is a database's. Then each run has one.
    pub const fn needs_database(self) -> bool {
        matches!(
            self,
            Self::FencesNothing | Self::BelievesWhatIsNotThere | Self::BelievesLateLists | Self::LeavesNoMarker
        )
    }

    /// Whether it can only show when something happens to a coordinator's log. Then something happens to one in each run.
    pub const fn needs_log_fault(self) -> bool {
        matches!(self, Self::SettlesWhatIsUnclaimed)
    }

    /// Whether it sits between the coordinator and all its participants.
    pub const fn needs_wire(self) -> bool {
        matches!(
            self,
            Self::PresumesCommit
                | Self::IgnoresNo
                | Self::IgnoresSilence
                | Self::ForgetsEarly
                | Self::MarkRunsAhead
                | Self::HoldsAllMarks
        )
    }
}
