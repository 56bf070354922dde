//! Sketch: a writer thread, and one futex for all waiters of a batch: the epoch, of odd and of even
//! batches.

use std::{
    io, mem,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
};

use parking_lot::{Condvar, Mutex};

use super::{RECORD_BYTES, bare::BareFile, load::Blocking};

#[derive(Default)]
struct Queue {
    bytes: Vec<u8>,
    /// Epoch of the batch that is being filled.
    batch: u32,
    closed: bool,
}

#[derive(Default)]
struct Shared {
    queue: Mutex<Queue>,
    work: Condvar,
    /// One more than the last durable batch with an odd number, and the same for even numbers.
    epochs: [AtomicU32; 2],
    syncs: AtomicU64,
}

pub struct Sketch {
    shared: Arc<Shared>,
    writer: Option<JoinHandle<()>>,
}

impl Sketch {
    pub fn open(dir: &Path) -> io::Result<Self> {
        let mut file = BareFile::create(dir)?;
        let shared = Arc::new(Shared::default());
        let of_writer = shared.clone();
        let writer = thread::spawn(move || write(&of_writer, &mut file));
        Ok(Self { shared, writer: Some(writer) })
    }
}

fn write(shared: &Shared, file: &mut BareFile) {
    let mut bytes = Vec::new();
    loop {
        let mut queue = shared.queue.lock();
        while queue.bytes.is_empty() {
            if queue.closed {
                return;
            }
            shared.work.wait(&mut queue);
        }
        mem::swap(&mut queue.bytes, &mut bytes);
        let batch = queue.batch;
        queue.batch += 1;
        drop(queue);
        file.put(&mut bytes).expect("the disk works");
        shared.syncs.store(file.syncs, Ordering::Relaxed);
        let epoch = &shared.epochs[batch as usize % 2];
        epoch.store(batch + 1, Ordering::Release);
        atomic_wait::wake_all(epoch);
    }
}

impl Blocking for Sketch {
    fn commit(&self, _client: usize, _number: u64) {
        let mut queue = self.shared.queue.lock();
        let first = queue.bytes.is_empty();
        queue.bytes.extend([7; RECORD_BYTES]);
        let batch = queue.batch;
        drop(queue);
        if first {
            self.shared.work.notify_one();
        }
        let epoch = &self.shared.epochs[batch as usize % 2];
        loop {
            let seen = epoch.load(Ordering::Acquire);
            if seen > batch {
                return;
            }
            atomic_wait::wait(epoch, seen);
        }
    }

    fn syncs(&self) -> Option<u64> {
        Some(self.shared.syncs.load(Ordering::Relaxed))
    }
}

impl Drop for Sketch {
    fn drop(&mut self) {
        self.shared.queue.lock().closed = true;
        self.shared.work.notify_one();
        let _ = self.writer.take().map(JoinHandle::join);
    }
}
