//! A transport, to be copied and fitted to what you have: requests and answers as lines of JSON over TCP.
//!
//! The protocol is made for networks, so a transport owes it little:
//!
//! - An answer goes to whoever asked: each request has a number, and its answer the same.
//! - An answer that can't come any more is *dropped*. Whether the request arrived is then not known, and need not be: a
//!   prepare brings a rollback, and everything else is sent again, with back-off, by whoever wants it.
//! - So nothing is sent twice from here, and no connection is tried again before there is something to send. Work, above
//!   all, must not be repeated behind its client's back.
//! - `send` never waits for the network: a thread does.
//!
//! - Those that connect cost what [`server`] has for them, and not more.
//!
//! What is left out: encryption, and a look at who it is. **Whoever reaches a port that is served here can commit and roll
//! back.** Let it listen where nobody else can, or put them in.

use std::{
    collections::BTreeMap,
    fmt,
    io::{self, BufRead, BufReader, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        mpsc::{self, Receiver, SyncSender},
    },
    thread,
    time::{Duration, Instant},
};

#[path = "server.rs"]
pub mod server;

use parking_lot::Mutex;
use ringpact::participant::{Endpoint, ParticipantError, Reply, Request, Response};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::Value;
use server::Limits;

/// The longest request, in bytes; work is small.
pub const MAX_REQUEST: usize = 1 << 20;

/// The longest answer. Of a participant that is asked for all that it has in doubt it can be long: 100 bytes and more for
/// each transaction that was in flight.
pub const MAX_ANSWER: usize = 32 << 20;

/// How many requests may wait to be sent, and for their answers. Those that are too many fail at once.
const MAX_WAITING: usize = 1 << 16;

const CONNECT_WITHIN: Duration = Duration::from_secs(2);

/// Whoever takes longer to take a line in, or says nothing for longer while he is asked something, is given up: the machine
/// at the other end may be gone without a word.
pub const SILENT_FOR: Duration = Duration::from_secs(10);

/// What is asked, and what is answered, under the same number.
#[derive(Serialize, Deserialize)]
struct Line<T> {
    id: u64,
    body: T,
}

#[derive(Serialize, Deserialize)]
enum Ask {
    /// By a coordinator; or by a participant, for a verdict.
    Pact(Request),
    /// By a client of the service: its work, and whatever else it wants, in a form of their own.
    Service(Value),
}

#[derive(Serialize, Deserialize)]
enum Answer {
    Pact(Result<Response, ParticipantError>),
    Service(Value),
}

/// Who waits for an answer. Dropped, both learn that none comes.
enum Asker {
    Pact(Reply),
    Service(SyncSender<Value>),
}

/// The way to a process that [`serve`]s: for a coordinator an [`Endpoint`], and for its clients the way that their work
/// goes, under the branch ids that they pass along. Clones share one connection.
#[derive(Clone)]
pub struct Remote(SyncSender<(Ask, Asker)>);

impl Remote {
    /// Connects when there is something to send, and anew after a connection was lost. [`SILENT_FOR`] is a time-out for those
    /// who know no better.
    pub fn new(address: SocketAddr, silent_for: Duration) -> io::Result<Self> {
        let (queue, queued) = mpsc::sync_channel(MAX_WAITING);
        thread::Builder::new().name("remote-writer".into()).spawn(move || send_all(address, silent_for, &queued))?;
        Ok(Self(queue))
    }

    /// Asks the service itself, and waits for its answer.
    pub fn ask<R: DeserializeOwned>(&self, request: &impl Serialize) -> Result<R, NoAnswer> {
        let request = serde_json::to_value(request).map_err(|_| NoAnswer)?;
        let (answer, answered) = mpsc::sync_channel(1);
        self.0.try_send((Ask::Service(request), Asker::Service(answer))).map_err(|_| NoAnswer)?;
        // Dropped by whoever gives up waiting for the other end, so it does end.
        let answer = answered.recv().map_err(|_| NoAnswer)?;
        serde_json::from_value(answer).map_err(|_| NoAnswer)
    }
}

impl Endpoint for Remote {
    fn send(&self, request: Request, reply: Reply) {
        // Where the queue is full the reply is dropped, which says all there is to say.
        drop(self.0.try_send((Ask::Pact(request), Asker::Pact(reply))));
    }
}

/// Nobody knows whether the request was carried out. Where it was work, the transaction is to be rolled back: repeated, it
/// could be done twice.
#[derive(Debug)]
pub struct NoAnswer;

impl fmt::Display for NoAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("no answer came; roll the transaction back and begin another")
    }
}

impl std::error::Error for NoAnswer {}

/// Ends with the last [`Remote`].
fn send_all(address: SocketAddr, silent_for: Duration, queued: &Receiver<(Ask, Asker)>) {
    let mut connection: Option<Connection> = None;
    for (id, (ask, asker)) in (0..).zip(queued) {
        if connection.as_ref().is_none_or(Connection::is_lost) {
            connection = connect(address, silent_for).ok();
        }
        match &connection {
            Some(connection) => connection.send(id, ask, asker),
            // Whoever came while it was tried has waited as long, and is told with this one.
            None => drop((asker, queued.try_iter().collect::<Vec<_>>())),
        }
    }
}

/// A connection as long as this is held, and its reader's: whichever goes first ends it for both.
struct Connection {
    stream: Closing,
    waiting: Arc<Waiting>,
}

/// Who waits for an answer over a connection; `None` once it is lost.
struct Waiting(Mutex<Option<BTreeMap<u64, Asker>>>);

impl Waiting {
    /// Takes in who waits for the answer of this number, unless nobody can, or too many do.
    fn add(&self, id: u64, asker: Asker) -> Result<(), Asker> {
        match &mut *self.0.lock() {
            Some(waiting) if waiting.len() < MAX_WAITING => {
                waiting.insert(id, asker);
                Ok(())
            }
            _ => Err(asker),
        }
    }

    fn take(&self, id: u64) -> Option<Asker> {
        self.0.lock().as_mut()?.remove(&id)
    }

    /// The number of who has waited for longest; an error once it is lost.
    fn oldest(&self) -> Result<Option<u64>, NoAnswer> {
        self.0.lock().as_ref().map(|waiting| waiting.keys().next().copied()).ok_or(NoAnswer)
    }
}

fn connect(address: SocketAddr, silent_for: Duration) -> io::Result<Connection> {
    let stream = TcpStream::connect_timeout(&address, CONNECT_WITHIN)?;
    // With nobody listening on this machine, the system can pick that very port for this end, and connect it to itself.
    if stream.local_addr()? == address {
        return Err(io::ErrorKind::ConnectionRefused.into());
    }
    set_up(&stream, silent_for)?;
    stream.set_read_timeout(Some(silent_for))?;
    let waiting = Arc::new(Waiting(Mutex::new(Some(BTreeMap::new()))));
    let reader = (Closing(stream.try_clone()?), Lost(Arc::clone(&waiting)));
    thread::Builder::new().name("remote-reader".into()).spawn(move || hear_answers(&reader.0, &reader.1.0))?;
    Ok(Connection { stream: Closing(stream), waiting })
}

impl Connection {
    fn is_lost(&self) -> bool {
        self.waiting.0.lock().is_none()
    }

    fn send(&self, id: u64, ask: Ask, asker: Asker) {
        // Before it is sent, or the answer could be there first.
        if self.waiting.add(id, asker).is_err() {
            return;
        }
        // Here it is that a deadline becomes the time that is left. What can't be written is not waited for.
        if write_line(&self.stream.0, &Line { id, body: ask }, MAX_REQUEST).is_err() {
            drop(self.waiting.take(id));
        }
    }
}

/// However the reader ends, nobody is left waiting.
struct Lost(Arc<Waiting>);

impl Drop for Lost {
    fn drop(&mut self) {
        // In a statement of its own: who is dropped may send again at once, which asks for the lock.
        let left = self.0.0.lock().take();
        drop(left);
    }
}

fn hear_answers(stream: &Closing, waiting: &Waiting) {
    let mut lines = Lines::new(&stream.0, MAX_ANSWER);
    let mut overdue = None;
    loop {
        match lines.next::<Line<Answer>>() {
            Ok(Some(Line { id, body })) => {
                overdue = None;
                match (waiting.take(id), body) {
                    (Some(Asker::Pact(reply)), Answer::Pact(result)) => reply.send(result),
                    // Who has stopped waiting needs no answer.
                    (Some(Asker::Service(answer)), Answer::Service(value)) => drop(answer.try_send(value)),
                    // An answer of the wrong kind, or to a question that nobody has asked.
                    _ => {}
                }
            }
            Err(error) if is_timeout(&error) => match waiting.oldest() {
                // It has been silent for the whole of the time that somebody waited.
                Ok(oldest) if oldest.is_none() || oldest != overdue => overdue = oldest,
                _ => return,
            },
            Ok(None) | Err(_) => return,
        }
    }
}

/// Answers whatever connects, within [`Limits::DEFAULT`]; see [`server::serve`].
pub fn serve(
    listener: &TcpListener,
    endpoint: impl Endpoint,
    service: impl Fn(Value) -> Value + Send + Sync + 'static,
) {
    server::serve(listener, Limits::DEFAULT, endpoint, service);
}

fn set_up(stream: &TcpStream, silent_for: Duration) -> io::Result<()> {
    // Lines are short and waited for.
    stream.set_nodelay(true)?;
    stream.set_write_timeout(Some(silent_for))
}

/// Closes the connection for all who have a handle to it, also when their thread panics.
struct Closing(TcpStream);

impl Drop for Closing {
    fn drop(&mut self) {
        // It may be closed already.
        let _ = self.0.shutdown(Shutdown::Both);
    }
}

/// Writes a line as a whole. One that is not written as a whole ends the connection: what came after it would be read as the
/// rest of it.
fn write_line(mut stream: &TcpStream, line: &impl Serialize, limit: usize) -> io::Result<()> {
    stream.write_all(&encode(line, limit)?).inspect_err(|_| drop(stream.shutdown(Shutdown::Both)))
}

fn encode(line: &impl Serialize, limit: usize) -> io::Result<Vec<u8>> {
    let mut bytes = serde_json::to_vec(line)?;
    bytes.push(b'\n');
    if bytes.len() > limit {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "the line is too long"));
    }
    Ok(bytes)
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}

/// Reads lines, none of them longer than the limit.
struct Lines<'a> {
    stream: BufReader<&'a TcpStream>,
    /// What has come of the next one.
    partial: Vec<u8>,
    limit: usize,
}

impl<'a> Lines<'a> {
    fn new(stream: &'a TcpStream, limit: usize) -> Self {
        Self { stream: BufReader::new(stream), partial: Vec::new(), limit }
    }

    /// The next one; `None` at the end. After a time-out it can be called again.
    fn next<T: DeserializeOwned>(&mut self) -> io::Result<Option<T>> {
        while self.more()? {}
        self.take()
    }

    /// The same, where it must begin to come within `idle_for`, and be there within `silent_for` from then on, however
    /// little comes at a time.
    fn next_within<T: DeserializeOwned>(&mut self, idle_for: Duration, silent_for: Duration) -> io::Result<Option<T>> {
        self.stream.get_ref().set_read_timeout(Some(idle_for))?;
        let mut is_coming = self.more()?;
        let begun = Instant::now();
        while is_coming {
            let left = silent_for.checked_sub(begun.elapsed()).filter(|left| !left.is_zero());
            self.stream.get_ref().set_read_timeout(Some(left.ok_or(io::ErrorKind::TimedOut)?))?;
            is_coming = self.more()?;
        }
        self.take()
    }

    /// Takes in what has come of the line; `false` once it is at its end, or too long.
    fn more(&mut self) -> io::Result<bool> {
        let come = match self.stream.fill_buf() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(true),
            come => come?,
        };
        let end = come.iter().position(|byte| *byte == b'\n').map_or(come.len(), |at| at + 1);
        let taken = end.min(self.limit - self.partial.len());
        self.partial.extend_from_slice(&come[..taken]);
        self.stream.consume(taken);
        Ok(taken > 0 && self.partial.last() != Some(&b'\n') && self.partial.len() < self.limit)
    }

    fn take<T: DeserializeOwned>(&mut self) -> io::Result<Option<T>> {
        match self.partial.last() {
            Some(b'\n') => {
                let line = serde_json::from_slice(&self.partial)?;
                self.partial.clear();
                Ok(Some(line))
            }
            None => Ok(None),
            Some(_) => Err(io::Error::new(io::ErrorKind::InvalidData, "the line is too long, or was cut off")),
        }
    }
}
