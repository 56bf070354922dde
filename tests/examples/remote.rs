//! Participants in other processes: the example as its users run it, and its transport when
//! connections break.

#[path = "../../examples/remote/transport.rs"]
mod transport;

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    sync::{
        Mutex,
        mpsc::{self, Receiver},
    },
    thread,
    time::{Duration, Instant},
};

use ringpact::{
    BranchId, Name, Vote,
    participant::{Call, Endpoint, Participant, ParticipantError, Pooled, Reply, Request, Response},
};
use serde_json::{Value, json};
use transport::{
    MAX_ANSWER, MAX_REQUEST, Remote, SILENT_FOR, serve,
    server::{self, Limits},
};

use crate::support::Example;

/// Nothing here takes that long. A thread that waits for longer would wait forever.
const LONG: Duration = Duration::from_secs(60);

static REMOTE: Example = Example::new("remote");

/// Once with many transactions between two kills, and once with hardly any.
#[test]
fn killing_participants_tears_no_order_apart() {
    for orders in ["150", "9"] {
        let run = REMOTE.run(&["--orders", orders]);
        let summary = run.summary();
        assert!(run.status.success(), "{}{}", run.stdout, run.stderr);
        assert_eq!((&*summary["orders"], &*summary["kills"]), (orders, "6"), "{}", run.stdout);
        assert_eq!((&*summary["invariants"], &*summary["in_doubt"]), ("ok", "0"), "{}", run.stdout);
        assert_ne!(summary["committed"], "0", "{}", run.stdout);
        assert_ne!(summary["moved"], "0", "{}", run.stdout);
    }
}

fn listen() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

/// Serves until the test's process ends. The service panics if it is asked for `"panic"`, and
/// otherwise answers what it was asked.
fn served(endpoint: impl Endpoint) -> SocketAddr {
    let (listener, address) = listen();
    let echo = |request: Value| if request == "panic" { panic!("as it was asked to") } else { request };
    thread::spawn(move || serve(&listener, endpoint, echo));
    address
}

fn remote(address: SocketAddr) -> Remote {
    Remote::new(address, SILENT_FOR).unwrap()
}

fn in_doubt(of: &str) -> Request {
    Request::InDoubt { coordinator: Name::new(of).unwrap(), life: None }
}

type Result<T> = std::result::Result<T, ParticipantError>;

fn send(remote: &Remote, request: Request) -> Receiver<Result<Response>> {
    let (answer, answered) = mpsc::channel();
    remote.send(request, Reply::new(move |result| drop(answer.send(result))));
    answered
}

fn assert_dropped(answer: &Receiver<Result<Response>>) {
    let answer = answer.recv_timeout(LONG).expect("the reply is used or dropped");
    assert!(matches!(answer, Err(ParticipantError::Unreachable)), "{answer:?}");
}

/// Waits for this number of requests and then answers all of them, the last one first, each with its
/// coordinator's name.
struct Backwards(usize, Mutex<Vec<(Request, Reply)>>);

impl Endpoint for Backwards {
    fn send(&self, request: Request, reply: Reply) {
        let mut held = self.1.lock().unwrap();
        held.push((request, reply));
        if held.len() < self.0 {
            return;
        }
        for (request, reply) in held.drain(..).rev() {
            let Request::InDoubt { coordinator, .. } = request else { panic!("{request:?}") };
            reply.send(Ok(Response::InDoubt(vec![format!("{coordinator}:1:1:p").parse().unwrap()])));
        }
    }
}

#[test]
fn each_answer_goes_to_its_request() {
    let remote = remote(served(Backwards(10, Mutex::default())));
    let answers: Vec<_> = (0..10).map(|n| send(&remote, in_doubt(&format!("c{n}")))).collect();
    let echo: Value = remote.ask(&json!({ "a": 1 })).expect("the service does not wait for the participant");
    assert_eq!(echo, json!({ "a": 1 }));
    for (n, answer) in answers.iter().enumerate() {
        let expected = Response::InDoubt(vec![format!("c{n}:1:1:p").parse().unwrap()]);
        assert_eq!(answer.recv_timeout(LONG).unwrap().unwrap(), expected);
    }
}

/// Answers nothing.
struct Taciturn;

impl Endpoint for Taciturn {
    fn send(&self, _: Request, reply: Reply) {
        drop(reply);
    }
}

#[test]
fn what_the_participant_does_not_answer_is_reported_as_that() {
    let remote = remote(served(Taciturn));
    assert_dropped(&send(&remote, in_doubt("c")));
    remote.ask::<Value>(&json!(1)).expect("and the connection is as good as before");
}

/// The next request, as it goes over the wire.
fn next_line(stream: &TcpStream) -> Value {
    stream.set_read_timeout(Some(LONG)).unwrap();
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).unwrap();
    serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line:?}"))
}

#[test]
fn a_lost_connection_drops_the_replies_and_repeats_nothing() {
    let (listener, address) = listen();
    let remote = remote(address);
    let lost = send(&remote, in_doubt("first"));
    let stream = listener.accept().unwrap().0;
    assert_eq!(next_line(&stream)["body"], json!({ "Pact": { "InDoubt": { "coordinator": "first", "life": null } } }));
    drop(stream);
    assert_dropped(&lost);
    thread::scope(|scope| {
        // Work is lost in the same way. The next connection carries what was sent next, and no
        // repeat.
        for n in 0..3 {
            let work = scope.spawn(|| remote.ask::<Value>(&json!("work")));
            let stream = listener.accept().unwrap().0;
            assert_eq!(next_line(&stream)["body"], json!({ "Service": "work" }));
            drop(stream);
            work.join().unwrap().expect_err("it is not known whether it was done");
            let other = send(&remote, in_doubt(&format!("c{n}")));
            let mut stream = listener.accept().unwrap().0;
            let line = next_line(&stream);
            assert_eq!(line["body"]["Pact"]["InDoubt"]["coordinator"], format!("c{n}"), "{line}");
            writeln!(stream, "{}", json!({ "id": line["id"], "body": { "Pact": { "Ok": "Done" } } })).unwrap();
            assert_eq!(other.recv_timeout(LONG).unwrap().unwrap(), Response::Done);
            // A request that waits when its connection is lost fails once that is noticed.
            let lost = send(&remote, in_doubt("last"));
            next_line(&stream);
            drop(stream);
            assert_dropped(&lost);
        }
    });
}

#[test]
fn a_request_fails_at_once_if_no_process_listens() {
    let (listener, address) = listen();
    drop(listener);
    let remote = remote(address);
    for _ in 0..100 {
        assert_dropped(&send(&remote, in_doubt("c")));
    }
    remote.ask::<Value>(&json!(1)).expect_err("no process listens");
    // A process begins to listen.
    let listener = TcpListener::bind(address).unwrap();
    thread::spawn(move || serve(&listener, Taciturn, |request| request));
    remote.ask::<Value>(&json!(1)).expect("it connects again");
}

#[test]
fn a_peer_that_is_silent_for_too_long_is_given_up() {
    const SILENT: Duration = Duration::from_millis(100);
    let (listener, address) = listen();
    let remote = Remote::new(address, SILENT).unwrap();
    let begun = Instant::now();
    let unanswered = send(&remote, in_doubt("c"));
    let stream = listener.accept().unwrap().0;
    assert_dropped(&unanswered);
    assert!(begun.elapsed() >= SILENT, "{:?}", begun.elapsed());
    assert_eq!(next_line(&stream)["body"]["Pact"]["InDoubt"]["coordinator"], "c");
    assert_eq!((&stream).read(&mut [0]).unwrap(), 0, "the connection is closed");
}

fn assert_closed(mut stream: TcpStream) {
    stream.set_read_timeout(Some(LONG)).unwrap();
    // Closed with something unread it may be reset instead.
    let read = stream.read(&mut [0]).map_err(|error| error.kind());
    assert!(matches!(read, Ok(0) | Err(std::io::ErrorKind::ConnectionReset)), "{read:?}");
}

#[test]
fn what_is_no_request_ends_its_connection_and_no_other() {
    let address = served(Taciturn);
    let remote = remote(address);
    remote.ask::<Value>(&json!(1)).unwrap();
    let endless = vec![b' '; MAX_REQUEST + 1];
    let bad: [&[u8]; 6] = [
        b"GET / HTTP/1.1\n",
        b"{\"id\":1,\"body\":{\"Pact\":{\"Greet\":{}}}}\n",
        b"{\"id\":-1,\"body\":{\"Service\":1}}\n",
        b"{\"id\":1,\"body\":{\"Pact\":{\"InDoubt\":{\"coordinator\":\"no name\"}}}}\n",
        b"\xff\xfe\n",
        &endless,
    ];
    for bytes in bad {
        let mut stream = TcpStream::connect(address).unwrap();
        // It may be closed before all of it is written.
        let _ = stream.write_all(bytes);
        assert_closed(stream);
    }
    let mut cut_off = TcpStream::connect(address).unwrap();
    cut_off.write_all(b"{\"id\":1,\"body\":{\"Service\":1}}").unwrap();
    cut_off.shutdown(std::net::Shutdown::Write).unwrap();
    assert_closed(cut_off);
    remote.ask::<Value>(&json!(2)).expect("the other connection knows nothing of it");
    // A request that is too long to be read is not sent.
    remote.ask::<Value>(&json!("x".repeat(MAX_REQUEST))).unwrap_err();
    remote.ask::<Value>(&json!(3)).unwrap();
}

#[test]
fn an_answer_that_is_too_long_or_none_ends_the_connection() {
    let (listener, address) = listen();
    let remote = remote(address);
    let endless = vec![b' '; MAX_ANSWER + 1];
    for bytes in [&b"what?\n"[..], b"{\"id\":0}\n", &endless] {
        let unanswered = send(&remote, in_doubt("c"));
        let mut stream = listener.accept().unwrap().0;
        next_line(&stream);
        let _ = stream.write_all(bytes);
        assert_dropped(&unanswered);
        assert_closed(stream);
    }
}

#[test]
fn a_service_that_panics_gives_no_answer_and_goes_on() {
    let remote = remote(served(Taciturn));
    for _ in 0..3 {
        remote.ask::<Value>(&json!("panic")).unwrap_err();
        // The first one after it may still go over the connection that has just ended.
        while remote.ask::<Value>(&json!(1)).is_err() {}
    }
}

/// Serves within these limits until the test's process ends.
fn served_within(limits: Limits, endpoint: impl Endpoint) -> SocketAddr {
    let (listener, address) = listen();
    thread::spawn(move || server::serve(&listener, limits, endpoint, |request| request));
    address
}

#[cfg(target_os = "linux")]
fn threads(name: &str) -> usize {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap().map(|task| task.unwrap().path().join("comm"));
    tasks.filter(|comm| std::fs::read_to_string(comm).is_ok_and(|comm| comm.trim() == name)).count()
}

/// Each used to keep a thread forever.
#[test]
#[cfg(target_os = "linux")]
fn connections_that_say_nothing_cost_little_and_end() {
    const CONNECTIONS: usize = 8;
    let limits = Limits { connections: CONNECTIONS, idle_for: Duration::from_secs(3), ..Limits::DEFAULT };
    let others = threads("remote-server");
    let address = served_within(limits, Taciturn);
    let silent: Vec<_> = (0..300).map(|_| TcpStream::connect(address).unwrap()).collect();
    // More connections than the limit, and one more that sends a request.
    remote(address).ask::<Value>(&json!(1)).expect("there is a place for it");
    let running = threads("remote-server");
    // The limit leaves room for threads of other tests that run beside this one, and for some that
    // are about to end.
    assert!(running < others + 100, "{running} threads");
    silent.into_iter().for_each(assert_closed);
}

/// A request that comes a byte at a time, and in the end not at all.
#[test]
fn a_request_that_does_not_come_to_its_end_is_not_waited_for() {
    let limits = Limits { silent_for: Duration::from_millis(300), ..Limits::DEFAULT };
    let mut stream = TcpStream::connect(served_within(limits, Taciturn)).unwrap();
    let begun = Instant::now();
    while stream.write_all(b" ").is_ok() {
        thread::sleep(Duration::from_millis(20));
        assert!(begun.elapsed() < LONG, "it is waited for without a limit");
    }
}

/// Has many branches in doubt.
struct Doubtful(Vec<BranchId>);

impl Participant for Doubtful {
    fn prepare(&self, _: &BranchId, _: &Call) -> Result<Vote> {
        Ok(Vote::Yes)
    }
    fn commit(&self, _: &BranchId, _: &Call) -> Result<()> {
        Ok(())
    }
    fn rollback(&self, _: &BranchId, _: &Call) -> Result<()> {
        Ok(())
    }
    fn in_doubt(&self, coordinator: &Name) -> Result<Vec<BranchId>> {
        Ok(if coordinator.as_str() == "greedy" { self.0.clone() } else { Vec::new() })
    }
}

/// Such peers used to keep all of the participant's threads, which wrote to them. What they had
/// asked for before they left kept the threads for minutes more.
#[test]
fn peers_that_read_no_answers_do_not_hold_up_others() {
    let in_doubt_branches = (0..50_000).map(|number| format!("greedy:1:{number}:p").parse().unwrap()).collect();
    let endpoint = Pooled::new(Doubtful(in_doubt_branches), 4.try_into().unwrap());
    let limits = Limits { under_way: 8, unsent: 4 << 20, silent_for: Duration::from_secs(2), ..Limits::DEFAULT };
    let address = served_within(limits, endpoint);
    let remote = remote(address);
    let ask = || {
        let begun = Instant::now();
        let answer = send(&remote, in_doubt("modest")).recv_timeout(LONG).expect("it is answered");
        (answer, begun.elapsed())
    };
    assert_eq!(ask().0.unwrap(), Response::InDoubt(Vec::new()));
    let mut greedy = Vec::new();
    for _ in 0..8 {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_write_timeout(Some(Duration::from_millis(100))).unwrap();
        for id in 0..2_000 {
            let request = json!({ "id": id, "body": { "Pact": { "InDoubt": { "coordinator": "greedy" } } } });
            // At some point nothing more is read.
            if writeln!(stream, "{request}").is_err() {
                break;
            }
        }
        greedy.push(stream);
    }
    let soon = Duration::from_secs(5); // on a busy machine; it used to be ten for each write
    for _ in 0..10 {
        let (answer, elapsed) = ask();
        assert_eq!(answer.unwrap(), Response::InDoubt(Vec::new()));
        assert!(elapsed < soon, "{elapsed:?}");
    }
    drop(greedy);
    let (answer, elapsed) = ask();
    assert_eq!(answer.unwrap(), Response::InDoubt(Vec::new()));
    assert!(elapsed < soon, "{elapsed:?} after they have left");
}
