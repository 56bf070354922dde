//! With the feature `tracing`, opening a log reports what it found.

use std::{
    fmt::{Debug, Write},
    sync::{Arc, Mutex},
};

use crate::{
    common::{commit, only_segment, open_small, prepared},
    support::runs_alone,
};
use tracing::{
    Event, Metadata, Subscriber,
    field::{Field, Visit},
    span,
};

/// Writes each event down as text.
#[derive(Clone, Default)]
struct Notes(Arc<Mutex<String>>);

impl Visit for Notes {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        write!(self.0.lock().unwrap(), " {field}={value:?}").unwrap();
    }
}

impl Subscriber for Notes {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }
    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }
    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}
    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}
    fn event(&self, event: &Event<'_>) {
        write!(self.0.lock().unwrap(), "{} {}", event.metadata().level(), event.metadata().target()).unwrap();
        event.record(&mut self.clone());
    }
    fn enter(&self, _: &span::Id) {}
    fn exit(&self, _: &span::Id) {}
}

#[test]
fn opening_a_log_tells_what_was_found() {
    // In a process of its own: `tracing` remembers for each event whether a subscriber wants it,
    // and may ask a thread of another test, which has none.
    if !runs_alone("opening_is_told::opening_a_log_tells_what_was_found") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let log = open_small(dir.path()).unwrap();
    commit(&log, prepared(1, 10)).unwrap();
    let told = |expected: &[&str]| {
        let notes = Notes::default();
        let log = tracing::subscriber::with_default(notes.clone(), || open_small(dir.path()).unwrap());
        let text = notes.0.lock().unwrap().clone();
        assert!(expected.iter().all(|part| text.contains(part)), "{text}");
        log
    };
    drop(log);
    drop(told(&[
        "INFO ringpact::log",
        "records=1",
        "live=1",
        "live_transactions=1",
        "torn_bytes=0",
        "elapsed_us=",
        "message=log opened",
    ]));
    let path = only_segment(dir.path());
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[2 * 4096] = 7; // behind the carried batch, where nothing was written yet
    std::fs::write(path, bytes).unwrap();
    told(&["WARN ringpact::log", "torn_bytes=1", "cut off"]);
}
