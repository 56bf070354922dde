//! The server's end of the transport, within limits: whatever connects, however much it asks for,
//! and whether or not it reads its answers, the other connections get theirs.
//!
//! - At most [`Limits::connections`] are served at a time. One more takes the place of the one that
//!   has been quiet for longest; if none is quiet, the new one is closed.
//! - A connection that sends nothing for [`Limits::idle_for`] is closed; a
//!   [`Remote`](super::Remote) connects again when it has something to send. Once a request has
//!   begun, it must be complete within [`Limits::silent_for`]; an answer must be read within the
//!   same time.
//! - At most [`Limits::under_way`] requests of a connection are under way, or have answers that
//!   were not read yet. More are not taken in. So a connection leaves little behind when it is
//!   gone, and nothing waits for that.
//! - A thread of the connection's own sends its answers, never a thread of the participant. When
//!   more than [`Limits::unsent`] bytes of answers are unsent in all connections together, the
//!   connection whose answer comes next is closed.

use std::{
    collections::{BTreeMap, VecDeque},
    io::{self, Write},
    net::{Shutdown, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use parking_lot::{Condvar, Mutex, MutexGuard};
use ringpact::participant::{Endpoint, Reply};
use serde_json::Value;

use super::{Answer, Ask, Line, Lines, MAX_ANSWER, MAX_REQUEST, SILENT_FOR, encode};

/// What a server spends on connections.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Maximum number of connections. Each takes two threads.
    pub connections: usize,
    /// Maximum number of requests of one connection that are under way, or whose answers were not
    /// read.
    pub under_way: usize,
    /// Maximum number of bytes of unsent answers, of all connections together.
    pub unsent: usize,
    /// Maximum time that a connection may be open and ask for nothing.
    pub idle_for: Duration,
    /// Maximum time for a request to arrive once it has begun, and for an answer to be read.
    pub silent_for: Duration,
}

impl Limits {
    /// A few hundred threads, and as much memory as eight of the longest answers.
    pub const DEFAULT: Self = Self {
        connections: 128,
        under_way: 64,
        unsent: 8 * MAX_ANSWER,
        idle_for: Duration::from_secs(300),
        silent_for: SILENT_FOR,
    };
}

/// Answers all connections: coordinators, and participants that ask for verdicts, through
/// `endpoint`; clients through `service`. `service` should be quick, because the requests of one
/// connection are taken in one after the other.
pub fn serve(
    listener: &TcpListener,
    limits: Limits,
    endpoint: impl Endpoint,
    service: impl Fn(Value) -> Value + Send + Sync + 'static,
) {
    let server = Arc::new((endpoint, service));
    let room = Arc::new(Room { limits, peers: Mutex::default(), unsent: AtomicUsize::new(0) });
    for (number, stream) in (0..).zip(listener.incoming()) {
        let server = Arc::clone(&server);
        let served = stream.and_then(|stream| {
            let Some(peer) = room.admit(number, stream)? else { return Ok(()) };
            let hear = move || peer.hear(&server.0, &server.1);
            thread::Builder::new().name("remote-server".into()).spawn(hear).map(drop)
        });
        if served.is_err() {
            // Too many files or threads are in use; some will become free. The other end tries
            // again.
            thread::sleep(Duration::from_millis(10));
        }
    }
}

/// All connections that are served.
struct Room {
    limits: Limits,
    peers: Mutex<BTreeMap<u64, Arc<Peer>>>,
    unsent: AtomicUsize,
}

impl Room {
    /// Takes a connection in; `None` if there is no place for it.
    fn admit(self: &Arc<Self>, number: u64, stream: TcpStream) -> io::Result<Option<Served>> {
        super::set_up(&stream, self.limits.silent_for)?;
        let mut peers = self.peers.lock();
        if peers.len() >= self.limits.connections {
            let quiet = peers.iter().filter_map(|(number, peer)| Some((peer.quiet_since()?, *number))).min();
            let Some(evicted) = quiet.and_then(|(_, number)| peers.remove(&number)) else { return Ok(None) };
            evicted.close();
        }
        let state = State { heard: Instant::now(), under_way: 0, unsent: VecDeque::new(), is_over: false };
        let peer = Arc::new(Peer { stream, state: Mutex::new(state), change: Condvar::new() });
        peers.insert(number, Arc::clone(&peer));
        Ok(Some(Served { number, peer, room: Arc::clone(self) }))
    }
}

/// The other end of a connection.
struct Peer {
    stream: TcpStream,
    state: Mutex<State>,
    change: Condvar,
}

struct State {
    heard: Instant,
    under_way: usize,
    unsent: VecDeque<Vec<u8>>,
    is_over: bool,
}

impl Peer {
    /// Returns the time of the last request, if nothing is under way.
    fn quiet_since(&self) -> Option<Instant> {
        let state = self.state.lock();
        (state.under_way == 0).then_some(state.heard)
    }

    fn close(&self) {
        self.state.lock().is_over = true;
        // The connection may be closed already.
        let _ = self.stream.shutdown(Shutdown::Both);
        self.change.notify_all();
    }

    /// Blocks until fewer requests than the limit are under way, and counts one more. Returns
    /// `false` if the connection is over.
    fn begin(&self, limits: &Limits) -> bool {
        let mut state = self.state.lock();
        let is_full = |state: &mut State| state.under_way >= limits.under_way && !state.is_over;
        let timed_out = self.change.wait_while_for(&mut state, is_full, limits.idle_for).timed_out();
        if timed_out || state.is_over {
            return false;
        }
        state.under_way += 1;
        state.heard = Instant::now();
        true
    }
}

/// A connection that is served, until this is dropped.
struct Served {
    number: u64,
    peer: Arc<Peer>,
    room: Arc<Room>,
}

impl Drop for Served {
    fn drop(&mut self) {
        self.peer.close();
        self.room.peers.lock().remove(&self.number);
    }
}

impl Served {
    fn hear(&self, endpoint: &impl Endpoint, service: &impl Fn(Value) -> Value) {
        let sender = Sender { peer: Arc::clone(&self.peer), room: Arc::clone(&self.room) };
        if thread::Builder::new().name("remote-sender".into()).spawn(move || sender.send_all()).is_err() {
            return;
        }
        let limits = &self.room.limits;
        let mut lines = Lines::new(&self.peer.stream, MAX_REQUEST);
        // A line that can't be read ends the connection, because it is not known which request it
        // would be.
        while let Ok(Some(Line { id, body })) = lines.next_within::<Line<Ask>>(limits.idle_for, limits.silent_for) {
            if !self.peer.begin(limits) {
                return;
            }
            let back = Back { peer: Arc::clone(&self.peer), room: Arc::clone(&self.room), id };
            match body {
                Ask::Pact(request) => {
                    let peer = Arc::clone(&self.peer);
                    let is_there = move || !peer.state.lock().is_over;
                    endpoint.send(request, Reply::new_while(is_there, |result| back.answer(Answer::Pact(result))));
                }
                Ask::Service(request) => back.answer(Answer::Service(service(request))),
            }
        }
    }
}

/// The way back for one answer.
struct Back {
    peer: Arc<Peer>,
    room: Arc<Room>,
    id: u64,
}

impl Back {
    /// Gives the answer to the connection's own thread. Nothing here waits for the other end.
    fn answer(self, body: Answer) {
        if self.peer.state.lock().is_over {
            return;
        }
        // An answer that is too long closes the connection, which says that no answer comes.
        let Ok(line) = encode(&Line { id: self.id, body }, MAX_ANSWER) else { return self.peer.close() };
        let unsent = self.room.unsent.fetch_add(line.len(), Ordering::Relaxed) + line.len();
        if unsent > self.room.limits.unsent {
            self.room.unsent.fetch_sub(line.len(), Ordering::Relaxed);
            return self.peer.close();
        }
        let mut state = self.peer.state.lock();
        if state.is_over {
            // The sender has ended.
            self.room.unsent.fetch_sub(line.len(), Ordering::Relaxed);
            return;
        }
        state.unsent.push_back(line);
        drop(state);
        self.peer.change.notify_all();
    }
}

/// Sends a connection's answers.
struct Sender {
    peer: Arc<Peer>,
    room: Arc<Room>,
}

impl Drop for Sender {
    fn drop(&mut self) {
        self.peer.close();
    }
}

impl Sender {
    fn send_all(&self) {
        let mut state = self.peer.state.lock();
        loop {
            if state.is_over {
                let left = std::mem::take(&mut state.unsent);
                self.room.unsent.fetch_sub(left.iter().map(Vec::len).sum(), Ordering::Relaxed);
                return;
            }
            let Some(line) = state.unsent.pop_front() else {
                self.peer.change.wait(&mut state);
                continue;
            };
            let sent = MutexGuard::unlocked(&mut state, || self.send(&line));
            self.room.unsent.fetch_sub(line.len(), Ordering::Relaxed);
            state.under_way -= 1;
            state.is_over |= sent.is_err();
            self.peer.change.notify_all();
        }
    }

    /// Sends a line as a whole, or fails within [`Limits::silent_for`], however slowly the other
    /// end reads.
    fn send(&self, mut line: &[u8]) -> io::Result<()> {
        let begun = Instant::now();
        let mut stream = &self.peer.stream;
        while !line.is_empty() {
            let left = self.room.limits.silent_for.checked_sub(begun.elapsed()).filter(|left| !left.is_zero());
            stream.set_write_timeout(Some(left.ok_or(io::ErrorKind::TimedOut)?))?;
            line = &line[stream.write(line)?..];
        }
        Ok(())
    }
}
