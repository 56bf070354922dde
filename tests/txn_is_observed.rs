//! What is told of transactions with the features `tracing` and `metrics`.

mod txn_support;

use std::{
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
use ringpact::{Coordinator, MemoryLog, ParticipantError, Policy, participant::Verb};
use tracing::{
    Event, Metadata, Subscriber,
    field::{Field, Visit},
    span,
};
use txn_support::{
    eventually,
    scripted::{Scripted, broken},
};

/// Notes every span, with its parent and fields, and every event.
#[derive(Clone, Default)]
struct Notes(Arc<Noted>);

#[derive(Default)]
struct Noted {
    next: AtomicU64,
    spans: Mutex<BTreeMap<u64, String>>,
    events: Mutex<Vec<String>>,
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
        self.0.events.lock().push(line);
    }
    fn enter(&self, _: &span::Id) {}
    fn exit(&self, _: &span::Id) {}
}

/// One subscriber for the process: whether a span is wanted at all is remembered across threads.
fn notes() -> Notes {
    static NOTES: OnceLock<Notes> = OnceLock::new();
    let install = || {
        let notes = Notes::default();
        tracing::subscriber::set_global_default(notes.clone()).expect("nobody else sets one");
        notes
    };
    NOTES.get_or_init(install).clone()
}

fn open(name: &str, a: &Scripted, b: &Scripted) -> Coordinator {
    let policy = Policy { park_after_attempts: 1, ..Policy::default() };
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
    commit(&open("spans", &Scripted::new(), &Scripted::new())).unwrap();
    let mine = |span: &&String| span.starts_with("transaction txn=spans:1:1");
    let spans: Vec<_> = notes.0.spans.lock().values().filter(mine).cloned().collect();
    let within = "transaction txn=spans:1:1 > phase phase=";
    let named = |what: &str| spans.iter().filter(|span| span.starts_with(&format!("{within}{what}"))).count();
    assert!(spans.iter().any(|span| span == "transaction txn=spans:1:1 outcome=\"committed\""), "{spans:#?}");
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

/// One recorder for the process, so all of it is in one test.
#[test]
fn counters_histograms_and_gauges_tell_what_happened() {
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
    // Gauges are set once a second, and reading this recorder sets them to nothing.
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
