//! What transactions report with the features `tracing` and `metrics`.
//!
//! A binary of its own, because subscriber and recorder are global to a process: other tests would
//! report to them, too.

#[path = "txn/support/mod.rs"]
mod support;

use std::{
    cell::RefCell,
    collections::BTreeMap,
    fmt::Debug,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use metrics_util::debugging::{DebugValue, DebuggingRecorder, Snapshotter};
use parking_lot::Mutex;
use ringpact::{
    BranchId, Coordinator, MemoryLog, Name, Participant, ParticipantError, Policy, Vote,
    participant::{Call, Verb},
};
use support::{
    eventually,
    scripted::{Scripted, broken},
};
use tracing::{
    Event, Metadata, Subscriber,
    field::{Field, Visit},
    span,
};

/// Notes every span, with its parent and fields, and every event.
#[derive(Clone, Default)]
struct Notes(Arc<Noted>);

#[derive(Default)]
struct Noted {
    next: AtomicU64,
    spans: Mutex<BTreeMap<u64, String>>,
    events: Mutex<Vec<String>>,
    /// The events, each with the span that its thread was in.
    within: Mutex<Vec<(String, String)>>,
    metadata: Mutex<BTreeMap<u64, &'static Metadata<'static>>>,
}

thread_local! {
    /// The spans that this thread is in, the innermost last.
    static INSIDE: RefCell<Vec<(span::Id, &'static Metadata<'static>)>> = const { RefCell::new(Vec::new()) };
}

struct Line<'a>(&'a mut String);

impl Visit for Line<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.0.push_str(&format!(" {field}={value:?}"));
    }
}

impl Subscriber for Notes {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }
    fn new_span(&self, attributes: &span::Attributes<'_>) -> span::Id {
        let id = self.0.next.fetch_add(1, Ordering::SeqCst) + 1;
        let mut spans = self.0.spans.lock();
        let parent = attributes.parent().and_then(|parent| spans.get(&parent.into_u64())).cloned();
        let mut line = parent.map_or(String::new(), |parent| parent + " > ");
        line.push_str(attributes.metadata().name());
        attributes.record(&mut Line(&mut line));
        spans.insert(id, line);
        self.0.metadata.lock().insert(id, attributes.metadata());
        span::Id::from_u64(id)
    }
    fn record(&self, span: &span::Id, values: &span::Record<'_>) {
        if let Some(line) = self.0.spans.lock().get_mut(&span.into_u64()) {
            values.record(&mut Line(line));
        }
    }
    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}
    fn event(&self, event: &Event<'_>) {
        let mut line = event.metadata().level().to_string();
        event.record(&mut Line(&mut line));
        let within = INSIDE.with_borrow(|inside| inside.last().map(|(id, _)| id.into_u64()));
        let within = within.and_then(|id| self.0.spans.lock().get(&id).cloned()).unwrap_or_default();
        self.0.events.lock().push(line.clone());
        self.0.within.lock().push((within, line));
    }
    fn enter(&self, span: &span::Id) {
        let metadata = self.0.metadata.lock()[&span.into_u64()];
        INSIDE.with_borrow_mut(|inside| inside.push((span.clone(), metadata)));
    }
    fn exit(&self, span: &span::Id) {
        let left = INSIDE.with_borrow_mut(Vec::pop);
        assert_eq!(left.map(|(id, _)| id).as_ref(), Some(span), "spans are left in the order of entering them");
    }
    fn current_span(&self) -> tracing_core::span::Current {
        INSIDE.with_borrow(|inside| match inside.last() {
            Some((id, metadata)) => tracing_core::span::Current::new(id.clone(), metadata),
            None => tracing_core::span::Current::none(),
        })
    }
}

/// One subscriber for the process: whether a span is wanted at all is remembered across threads.
fn notes() -> Notes {
    static NOTES: OnceLock<Notes> = OnceLock::new();
    let install = || {
        let notes = Notes::default();
        tracing::subscriber::set_global_default(notes.clone()).expect("no other test sets one");
        notes
    };
    NOTES.get_or_init(install).clone()
}

fn open(name: &str, a: &Scripted, b: &Scripted) -> Coordinator {
    let policy = Policy::default().park_after_attempts(1);
    let builder = Coordinator::builder(MemoryLog::new()).name(name).policy(policy);
    builder.participant("a", a.clone()).participant("b", b.clone()).open().unwrap()
}

fn commit(coordinator: &Coordinator) -> Result<(), ringpact::CommitError> {
    let mut txn = coordinator.begin();
    txn.branch("a").unwrap();
    txn.branch("b").unwrap();
    txn.commit().wait()
}

#[test]
fn a_transaction_is_a_span_with_its_phases_and_branches() {
    let notes = notes();
    let coordinator = open("spans", &Scripted::new(), &Scripted::new());
    let txn = format!("transaction txn=spans:{}:1", coordinator.epoch());
    commit(&coordinator).unwrap();
    drop(coordinator);
    let mine = |span: &&String| span.starts_with(&txn);
    let spans: Vec<_> = notes.0.spans.lock().values().filter(mine).cloned().collect();
    let within = format!("{txn} > phase phase=");
    let named = |what: &str| spans.iter().filter(|span| span.starts_with(&format!("{within}{what}"))).count();
    assert!(spans.iter().any(|span| *span == format!("{txn} outcome=\"committed\"")), "{spans:#?}");
    for phase in ["\"active\"", "\"prepare\"", "\"decide\"", "\"commit\""] {
        assert_eq!(spans.iter().filter(|span| **span == format!("{within}{phase}")).count(), 1, "{phase}: {spans:#?}");
    }
    let branch = |phase: &str, verb: &str, participant: &str, answer: &str| {
        named(&format!("\"{phase}\" > branch participant=\"{participant}\" verb=\"{verb}\" answer=\"{answer}\""))
    };
    for participant in ["a", "b"] {
        assert_eq!(branch("prepare", "prepare", participant, "yes"), 1, "{spans:#?}");
        assert_eq!(branch("commit", "commit", participant, "done"), 1, "{spans:#?}");
    }
}

/// Reports an event in each call.
struct Telling;

impl Participant for Telling {
    fn prepare(&self, branch: &BranchId, _: &Call) -> Result<Vote, ParticipantError> {
        tracing::info!(%branch, "works");
        Ok(Vote::Yes)
    }
    fn commit(&self, branch: &BranchId, _: &Call) -> Result<(), ParticipantError> {
        tracing::info!(%branch, "works");
        Ok(())
    }
    fn rollback(&self, _: &BranchId, _: &Call) -> Result<(), ParticipantError> {
        Ok(())
    }
    fn in_doubt(&self, _: &Name) -> Result<Vec<BranchId>, ParticipantError> {
        Ok(Vec::new())
    }
}

/// The same, with each poll on another thread.
#[cfg(feature = "tokio")]
impl ringpact::participant::AsyncParticipant for Telling {
    async fn prepare(&self, branch: &BranchId, call: &Call) -> Result<Vote, ParticipantError> {
        tokio::task::yield_now().await;
        Participant::prepare(self, branch, call)
    }
    async fn commit(&self, branch: &BranchId, call: &Call) -> Result<(), ParticipantError> {
        tokio::task::yield_now().await;
        Participant::commit(self, branch, call)
    }
    async fn rollback(&self, _: &BranchId, _: &Call) -> Result<(), ParticipantError> {
        Ok(())
    }
    async fn in_doubt(&self, _: &Name) -> Result<Vec<BranchId>, ParticipantError> {
        Ok(Vec::new())
    }
}

#[track_caller]
fn assert_works_within_its_branches(coordinator: &Coordinator) {
    let notes = notes();
    commit(coordinator).unwrap();
    assert!(coordinator.settle(Duration::from_secs(10)));
    let within = notes.0.within.lock().clone();
    let txn = format!("{}:{}:1", coordinator.name(), coordinator.epoch());
    for participant in ["a", "b"] {
        let works: Vec<_> =
            within.iter().filter(|(_, line)| line.contains(&format!("branch={txn}:{participant}"))).collect();
        assert_eq!(works.len(), 2, "{within:#?}");
        for ((span, _), verb) in works.into_iter().zip(["prepare", "commit"]) {
            let branch = format!("branch participant=\"{participant}\" verb=\"{verb}\"");
            assert!(span.contains(&format!("txn={txn}")) && span.contains(&branch), "{participant}, {verb}: {span:?}");
        }
    }
}

#[test]
fn participants_work_within_the_span_of_their_branch_on_any_thread() {
    let _ = notes();
    let builder = Coordinator::builder(MemoryLog::new()).name("called");
    assert_works_within_its_branches(&builder.participant("a", Telling).participant("b", Telling).open().unwrap());
    let (builder, two) = (Coordinator::builder(MemoryLog::new()).name("pooled"), std::num::NonZeroUsize::MIN);
    let builder = builder.slow_participant("a", Telling, two).slow_participant("b", Telling, two);
    assert_works_within_its_branches(&builder.open().unwrap());
    #[cfg(feature = "tokio")]
    {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().unwrap();
        let builder = Coordinator::builder(MemoryLog::new()).name("spawned");
        let builder = builder.async_participant("a", Telling, runtime.handle().clone());
        let builder = builder.async_participant("b", Telling, runtime.handle().clone());
        assert_works_within_its_branches(&builder.open().unwrap());
    }
}

#[test]
fn what_waits_for_an_operator_is_a_warning() {
    let notes = notes();
    commit(&open("parked", &Scripted::new(), &Scripted::failing(Verb::Commit, broken()))).unwrap();
    let unknown = Scripted::failing(Verb::Commit, ParticipantError::UnknownBranch);
    commit(&open("unknown", &Scripted::new(), &unknown)).unwrap_err();
    let events = notes.0.events.lock().clone();
    let warned = |state: &str| events.iter().any(|event| event.starts_with("WARN") && event.contains(state));
    assert!(warned("parked while committing") && warned("heuristic: hazard"), "{events:#?}");
}

/// All values by name and labels.
fn values(snapshotter: &Snapshotter) -> BTreeMap<String, DebugValue> {
    let told = snapshotter.snapshot().into_vec().into_iter().map(|(key, _, _, value)| {
        let labels: Vec<_> = key.key().labels().map(|label| format!("{}={}", label.key(), label.value())).collect();
        (format!("{}{{{}}}", key.key().name(), labels.join(",")), value)
    });
    told.collect()
}

/// There is one recorder for the process, so one test has all the assertions.
#[test]
fn counters_histograms_and_gauges_count_what_happened() {
    let recorder = DebuggingRecorder::new();
    let snapshotter = recorder.snapshotter();
    recorder.install().expect("this is the only test that installs one");
    let b = Scripted::new();
    let coordinator = open("counted", &Scripted::new(), &b);
    commit(&coordinator).unwrap();
    commit(&coordinator).unwrap();
    drop(coordinator.begin());
    b.fail(Verb::Prepare, broken());
    commit(&coordinator).unwrap_err();
    b.mend();
    b.fail(Verb::Commit, broken());
    commit(&coordinator).unwrap();
    let held = coordinator.begin();
    let all = values(&snapshotter);
    let counted = |name: &str, at_least: u64| match all.get(name) {
        // Other tests of this program are counted as well.
        Some(DebugValue::Counter(counted)) => assert!(*counted >= at_least, "{name}: {counted}"),
        other => panic!("{name} is {other:?} in {all:#?}"),
    };
    counted("ringpact_transactions_begun_total{}", 6);
    counted("ringpact_transactions_total{outcome=committed}", 3);
    counted("ringpact_transactions_total{outcome=rolled_back}", 1);
    counted("ringpact_transactions_total{outcome=failed}", 1);
    counted("ringpact_messages_total{verb=prepare,answer=yes}", 7);
    counted("ringpact_messages_total{verb=prepare,answer=failed}", 1);
    counted("ringpact_messages_total{verb=commit,answer=failed}", 1);
    counted("ringpact_parked_total{}", 1);
    for histogram in [
        "ringpact_transaction_seconds{outcome=committed}",
        "ringpact_phase_seconds{phase=prepare}",
        "ringpact_phase_seconds{phase=decide}",
        "ringpact_phase_seconds{phase=commit}",
        "ringpact_message_seconds{verb=commit}",
    ] {
        let Some(DebugValue::Histogram(recorded)) = all.get(histogram) else { panic!("{histogram} in {all:#?}") };
        assert!(!recorded.is_empty() && recorded.iter().all(|seconds| (0.0..60.0).contains(&seconds.0)));
    }
    // Gauges are set once a second, and reading this recorder clears them.
    let mut seen = BTreeMap::new();
    eventually("the gauges are set", Duration::from_secs(5), || {
        for (name, value) in values(&snapshotter) {
            if let (DebugValue::Gauge(value), true) = (value, name.ends_with("{coordinator=counted}")) {
                let most: &mut f64 = seen.entry(name.replace("{coordinator=counted}", "")).or_default();
                *most = most.max(value.0);
            }
        }
        ["ringpact_in_flight", "ringpact_in_doubt", "ringpact_parked"].iter().all(|name| seen.get(*name) == Some(&1.0))
    });
    assert_eq!((seen["ringpact_heuristic"], seen["ringpact_log_queue"]), (0.0, 0.0));
    drop(held);
}
