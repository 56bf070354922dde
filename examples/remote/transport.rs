//! A transport, to copy and to fit to your own: requests and answers as lines of JSON over TCP.
//!
//! The protocol is made for networks, so it asks little of a transport:
//!
//! - An answer goes to the request that it answers: each request has a number, and its answer has
//!   the same.
//! - If an answer can no longer come, the transport *drops* the reply. It is then not known whether
//!   the request arrived, and the protocol does not need to know: a prepare brings a rollback, and
//!   everything else is sent again later, by the part that sent it.
//! - So the transport sends nothing twice, and connects only when there is something to send. Above
//!   all it must not repeat work without the client's knowledge.
//! - `send` never waits for the network: a thread does.
//! - Connections cost the server no more than the [`Limits`].
//!
//! What is left out: encryption and authentication. **Any program that reaches a port which is
//! served here can commit and roll back.** Listen only where no other program can connect, or add
//! both.

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

/// Maximum length of a request, in bytes. Work is small.
pub const MAX_REQUEST: usize = 1 << 20;

/// Maximum length of an answer, in bytes. The list of branches in doubt can be long: it has about
/// 40 bytes and more for each transaction that was in flight.
pub const MAX_ANSWER: usize = 32 << 20;

/// Maximum number of requests that wait to be sent, and of those that wait for their answers. More
/// of them fail at once.
const MAX_WAITING: usize = 1 << 16;

/// Maximum time to connect.
const CONNECT_WITHIN: Duration = Duration::from_secs(2);

/// Default time-out of a connection. A peer that takes longer to read a line, or sends nothing for
/// longer while it owes an answer, is given up: its machine may be gone without a word.
pub const SILENT_FOR: Duration = Duration::from_secs(10);

/// A request or an answer, with the number that they share.
#[derive(Serialize, Deserialize)]
struct Line<T> {
    id: u64,
    body: T,
}

#[derive(Serialize, Deserialize)]
enum Ask {
    /// A request of a coordinator; or of a participant, for a verdict.
    Pact(Request),
    /// A request of a client of the service, in a form of the service's own.
    Service(Value),
}

#[derive(Serialize, Deserialize)]
enum Answer {
    Pact(Result<Response, ParticipantError>),
    Service(Value),
}

/// The way back to the part that waits for an answer. Dropped, it says that no answer comes.
enum Asker {
    Pact(Reply),
    Service(SyncSender<Value>),
}

/// The connection to a process that [`serve`]s. For a coordinator it is an [`Endpoint`]. Clients
/// send their work through [`ask`](Self::ask), together with the branch ids. Clones share one
/// connection.
#[derive(Clone)]
pub struct Remote(SyncSender<(Ask, Asker)>);

impl Remote {
    /// Connects when there is something to send, and again after a connection was lost. Use
    /// [`SILENT_FOR`] if nothing speaks for another time-out.
    pub fn new(address: SocketAddr, silent_for: Duration) -> io::Result<Self> {
        let (queue, queued) = mpsc::sync_channel(MAX_WAITING);
        thread::Builder::new().name("remote-writer".into()).spawn(move || send_all(address, silent_for, &queued))?;
        Ok(Self(queue))
    }

    /// Sends a request to the service itself, and blocks until its answer comes.
    pub fn ask<R: DeserializeOwned>(&self, request: &impl Serialize) -> Result<R, NoAnswer> {
        let request = serde_json::to_value(request).map_err(|_| NoAnswer)?;
        let (answer, answered) = mpsc::sync_channel(1);
        self.0.try_send((Ask::Service(request), Asker::Service(answer))).map_err(|_| NoAnswer)?;
        // A thread that gives the connection up drops the sender, so this does end.
        let answer = answered.recv().map_err(|_| NoAnswer)?;
        serde_json::from_value(answer).map_err(|_| NoAnswer)
    }
}

impl Endpoint for Remote {
    fn send(&self, request: Request, reply: Reply) {
        // If the queue is full, the reply is dropped, which reports the failure.
        drop(self.0.try_send((Ask::Pact(request), Asker::Pact(reply))));
    }
}

/// No answer came, so it is not known whether the request was carried out. If it was work, roll the
/// transaction back, because repeated work could be done twice.
#[derive(Debug)]
pub struct NoAnswer;

impl fmt::Display for NoAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("no answer came; roll the transaction back and begin another")
    }
}

impl std::error::Error for NoAnswer {}

/// Sends what is queued. Ends with the last [`Remote`].
fn send_all(address: SocketAddr, silent_for: Duration, queued: &Receiver<(Ask, Asker)>) {
    let mut connection: Option<Connection> = None;
    for (id, (ask, asker)) in (0..).zip(queued) {
        if connection.as_ref().is_none_or(Connection::is_lost) {
            connection = connect(address, silent_for).ok();
        }
        match &connection {
            Some(connection) => connection.send(id, ask, asker),
            // Requests that came during the attempt to connect have waited as long, and fail with
            // this one.
            None => drop((asker, queued.try_iter().collect::<Vec<_>>())),
        }
    }
}

/// The writer's half of a connection. Dropping it, or the reader's half, closes the connection for
/// both.
struct Connection {
    stream: Closing,
    waiting: Arc<Waiting>,
}

/// The requests that wait for an answer over a connection; `None` once it is lost.
struct Waiting(Mutex<Option<BTreeMap<u64, Asker>>>);

impl Waiting {
    /// Adds the request of this number. Gives it back if the connection is lost, or too many wait.
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

    /// Returns the number of the request that has waited for longest; an error once the connection
    /// is lost.
    fn oldest(&self) -> Result<Option<u64>, NoAnswer> {
        self.0.lock().as_ref().map(|waiting| waiting.keys().next().copied()).ok_or(NoAnswer)
    }
}

fn connect(address: SocketAddr, silent_for: Duration) -> io::Result<Connection> {
    let stream = TcpStream::connect_timeout(&address, CONNECT_WITHIN)?;
    // If no process listens on that port of this machine, the system can choose it for this end,
    // and connect it to itself.
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
        // Added before it is sent, because the answer could come at once.
        if self.waiting.add(id, asker).is_err() {
            return;
        }
        // Serialised here, so this is where a deadline becomes the time that is left. What can't be
        // written gets no answer.
        if write_line(&self.stream.0, &Line { id, body: ask }, MAX_REQUEST).is_err() {
            drop(self.waiting.take(id));
        }
    }
}

/// Fails all waiting requests when the reader ends, in whatever way.
struct Lost(Arc<Waiting>);

impl Drop for Lost {
    fn drop(&mut self) {
        // Dropped without the lock: a dropped reply may send again at once, which takes the lock.
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
                    // A client that no longer waits needs no answer.
                    (Some(Asker::Service(answer)), Answer::Service(value)) => drop(answer.try_send(value)),
                    // An answer of the wrong kind, or to a question that was not asked.
                    _ => {}
                }
            }
            Err(error) if is_timeout(&error) => match waiting.oldest() {
                // The peer was silent for the whole time-out while the same request waited.
                Ok(oldest) if oldest.is_none() || oldest != overdue => overdue = oldest,
                _ => return,
            },
            Ok(None) | Err(_) => return,
        }
    }
}

/// Answers all connections, within [`Limits::DEFAULT`]; see [`server::serve`].
pub fn serve(
    listener: &TcpListener,
    endpoint: impl Endpoint,
    service: impl Fn(Value) -> Value + Send + Sync + 'static,
) {
    server::serve(listener, Limits::DEFAULT, endpoint, service);
}

fn set_up(stream: &TcpStream, silent_for: Duration) -> io::Result<()> {
    // Lines are short, and the other end waits for them.
    stream.set_nodelay(true)?;
    stream.set_write_timeout(Some(silent_for))
}

/// Closes the connection for all its handles when dropped, also if a thread panics.
struct Closing(TcpStream);

impl Drop for Closing {
    fn drop(&mut self) {
        // It may be closed already.
        let _ = self.0.shutdown(Shutdown::Both);
    }
}

/// Writes a line as a whole. If it is not written as a whole, the connection is closed, because the
/// peer would read the next line as the rest of this one.
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
    /// What has come of the next line.
    partial: Vec<u8>,
    limit: usize,
}

impl<'a> Lines<'a> {
    fn new(stream: &'a TcpStream, limit: usize) -> Self {
        Self { stream: BufReader::new(stream), partial: Vec::new(), limit }
    }

    /// Returns the next line; `None` at the end. After a time-out it can be called again.
    fn next<T: DeserializeOwned>(&mut self) -> io::Result<Option<T>> {
        while self.more()? {}
        self.take()
    }

    /// Like [`next`](Self::next), but the line must begin within `idle_for`, and be complete within
    /// `silent_for` from then on, however little comes at a time.
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

    /// Takes in what has come of the line. Returns `false` once the line is complete or too long.
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
