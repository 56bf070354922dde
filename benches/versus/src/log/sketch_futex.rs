//! Sketch: a writer thread, and a futex for each waiter.

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
    waiters: Vec<Arc<AtomicU32>>,
    closed: bool,
}

#[derive(Default)]
struct Shared {
    queue: Mutex<Queue>,
    work: Condvar,
    syncs: AtomicU64,
}

pub struct Sketch {
    shared: Arc<Shared>,
    clients: Vec<Arc<AtomicU32>>,
    writer: Option<JoinHandle<()>>,
}

impl Sketch {
    pub fn open(dir: &Path, clients: usize) -> io::Result<Self> {
        let mut file = BareFile::create(dir)?;
        let shared = Arc::new(Shared::default());
        let of_writer = shared.clone();
        let writer = thread::spawn(move || write(&of_writer, &mut file));
        Ok(Self { shared, clients: (0..clients).map(|_| Arc::default()).collect(), writer: Some(writer) })
    }
}

fn write(shared: &Shared, file: &mut BareFile) {
    let (mut bytes, mut waiters) = (Vec::new(), Vec::new());
    loop {
        let mut queue = shared.queue.lock();
        while queue.bytes.is_empty() {
            if queue.closed {
                return;
            }
            shared.work.wait(&mut queue);
        }
        mem::swap(&mut queue.bytes, &mut bytes);
        mem::swap(&mut queue.waiters, &mut waiters);
        drop(queue);
        file.put(&mut bytes).expect("the disk works");
        shared.syncs.store(file.syncs, Ordering::Relaxed);
        for waiter in waiters.drain(..) {
            waiter.store(1, Ordering::Release);
            atomic_wait::wake_one(&raw const *waiter);
        }
    }
}

impl Blocking for Sketch {
    fn commit(&self, client: usize, _number: u64) {
        let mine = &self.clients[client];
        mine.store(0, Ordering::Relaxed);
        let mut queue = self.shared.queue.lock();
        let first = queue.bytes.is_empty();
        queue.bytes.extend([7; RECORD_BYTES]);
        queue.waiters.push(mine.clone());
        drop(queue);
        if first {
            self.shared.work.notify_one();
        }
        while mine.load(Ordering::Acquire) == 0 {
            atomic_wait::wait(mine, 0);
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
