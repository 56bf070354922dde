//! Sketch: a writer thread, and a list of wakers for tasks.

use std::{
    future::poll_fn,
    io, mem,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Poll, Waker},
    thread::{self, JoinHandle},
};

use parking_lot::{Condvar, Mutex};

use super::{RECORD_BYTES, bare::BareFile, load::Tasks};

#[derive(Default)]
struct Queue {
    bytes: Vec<u8>,
    wakers: Vec<Waker>,
    /// Number of the batch that is being filled, from 1.
    batch: u64,
    closed: bool,
}

#[derive(Default)]
struct Shared {
    queue: Mutex<Queue>,
    work: Condvar,
    durable: AtomicU64,
    syncs: AtomicU64,
}

#[derive(Clone)]
pub struct Sketch(Arc<Handle>);

struct Handle {
    shared: Arc<Shared>,
    writer: Option<JoinHandle<()>>,
}

impl Sketch {
    pub fn open(dir: &Path) -> io::Result<Self> {
        let mut file = BareFile::create(dir)?;
        let shared =
            Arc::new(Shared { queue: Mutex::new(Queue { batch: 1, ..Queue::default() }), ..Shared::default() });
        let of_writer = shared.clone();
        let writer = thread::spawn(move || write(&of_writer, &mut file));
        Ok(Self(Arc::new(Handle { shared, writer: Some(writer) })))
    }
}

fn write(shared: &Shared, file: &mut BareFile) {
    let (mut bytes, mut wakers) = (Vec::new(), Vec::new());
    loop {
        let mut queue = shared.queue.lock();
        while queue.bytes.is_empty() {
            if queue.closed {
                return;
            }
            shared.work.wait(&mut queue);
        }
        mem::swap(&mut queue.bytes, &mut bytes);
        mem::swap(&mut queue.wakers, &mut wakers);
        let batch = queue.batch;
        queue.batch += 1;
        drop(queue);
        file.put(&mut bytes).expect("the disk works");
        shared.syncs.store(file.syncs, Ordering::Relaxed);
        shared.durable.store(batch, Ordering::Release);
        wakers.drain(..).for_each(Waker::wake);
    }
}

impl Tasks for Sketch {
    async fn commit(&self, _number: u64) {
        let shared = &self.0.shared;
        let mut batch = None;
        poll_fn(|context| match batch {
            None => {
                let mut queue = shared.queue.lock();
                let first = queue.bytes.is_empty();
                queue.bytes.extend([7; RECORD_BYTES]);
                queue.wakers.push(context.waker().clone());
                batch = Some(queue.batch);
                drop(queue);
                if first {
                    shared.work.notify_one();
                }
                Poll::Pending
            }
            Some(batch) if shared.durable.load(Ordering::Acquire) >= batch => Poll::Ready(()),
            Some(_) => Poll::Pending,
        })
        .await;
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shared.queue.lock().closed = true;
        self.shared.work.notify_one();
        let _ = self.writer.take().map(JoinHandle::join);
    }
}
