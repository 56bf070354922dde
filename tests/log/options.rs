//! Options of no size, or of an absurd one, make a log neither wrong nor busy.

use std::{fs, thread, time::Duration};

use crate::{
    common::{commit, live_numbers, prepared},
    support::runs_alone,
};
use ringpact::{FileLog, TransactionLog, log::Durability};

/// Returns what the threads of this name have used of the processor, in hundredths of a second.
fn processor_time(name: &str) -> u64 {
    let tasks = fs::read_dir("/proc/self/task").unwrap().map(|task| task.unwrap().path());
    let stats = tasks.filter_map(|task| fs::read_to_string(task.join("stat")).ok());
    let of_name = stats.filter(|stat| stat.contains(&format!("({name})")));
    let ticks = |stat: String| {
        let fields = stat.rsplit(')').next().unwrap().to_owned();
        fields.split_whitespace().skip(11).take(2).map(|field| field.parse::<u64>().unwrap()).sum::<u64>()
    };
    of_name.map(ticks).sum()
}

/// The writer used to look at the clock all the time while there was no room for the seal, or while
/// a caller had the pen.
#[test]
fn sealing_at_once_does_not_keep_the_writer_busy() {
    // In a process of its own, because it tells threads by their names.
    if !runs_alone("options::sealing_at_once_does_not_keep_the_writer_busy") {
        return;
    }
    for seal_after in [Duration::ZERO, Duration::from_nanos(1), Duration::MAX] {
        let dir = tempfile::tempdir().unwrap();
        let log = FileLog::options().segment_bytes(0).seal_after(seal_after).open(dir.path()).unwrap();
        log.append(prepared(1, 100), Durability::Lazy).unwrap();
        log.wait(log.append(prepared(2, 100), Durability::Lazy).unwrap()).unwrap();
        // No caller wants this yet, and it is so large that no block is left for a seal.
        log.append(prepared(3, 46_000), Durability::Lazy).unwrap();
        let before = processor_time("ringpact-log");
        thread::sleep(Duration::from_millis(500));
        let used = processor_time("ringpact-log") - before;
        assert!(used < 15, "{seal_after:?}: {used} of 50 hundredths");
        commit(&log, prepared(100, 10)).unwrap();
        assert_eq!(live_numbers(&log), [1, 2, 3, 100]);
        log.close().unwrap();
    }
}
