//! A connection to a participant that loses, doubles and delays messages and answers, as the test
//! says.

use std::sync::Arc;

use parking_lot::Mutex;
use ringpact::{
    Participant, ParticipantError,
    participant::{Endpoint, Inline, Reply, Request, Response, Verb},
};

/// What becomes of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    Deliver,
    /// Delivered twice; the second answer is the one that arrives.
    DeliverTwice,
    LoseRequest,
    /// Carried out, and the answer is lost.
    LoseReply,
    /// Carried out, and the answer arrives at [`Wire::release`].
    HoldReply,
    /// Carried out and answered at [`Wire::release`].
    HoldRequest,
}

#[derive(Debug, PartialEq, Eq, Clone, Copy)]
pub enum Sent {
    Branch(Verb),
    InDoubt,
}

enum Held {
    Request(Request, Reply),
    Reply(Result<Response, ParticipantError>, Reply),
}

type Fates = Box<dyn FnMut(Sent) -> Fate + Send>;

#[derive(Clone)]
pub struct Wire(Arc<Ends>);

struct Ends {
    participant: Inline<Arc<dyn Participant>>,
    fates: Mutex<Fates>,
    sent: Mutex<Vec<Sent>>,
    held: Mutex<Vec<Held>>,
}

impl Wire {
    pub fn new(participant: Arc<dyn Participant>, fates: impl FnMut(Sent) -> Fate + Send + 'static) -> Self {
        Self(Arc::new(Ends {
            participant: Inline::new(participant),
            fates: Mutex::new(Box::new(fates)),
            sent: Mutex::default(),
            held: Mutex::default(),
        }))
    }

    /// Returns everything that was sent so far, lost requests included.
    pub fn sent(&self) -> Vec<Sent> {
        self.0.sent.lock().clone()
    }

    pub fn times_sent(&self, what: Sent) -> usize {
        self.0.sent.lock().iter().filter(|sent| **sent == what).count()
    }

    pub fn held(&self) -> usize {
        self.0.held.lock().len()
    }

    /// Delivers everything that is held.
    pub fn release(&self) {
        let held = std::mem::take(&mut *self.0.held.lock());
        for held in held {
            match held {
                Held::Request(request, reply) => self.0.participant.send(request, reply),
                Held::Reply(result, reply) => reply.send(result),
            }
        }
    }

    fn answer_to(&self, request: Request) -> Result<Response, ParticipantError> {
        let answer = Arc::new(Mutex::new(None));
        let sink = Arc::clone(&answer);
        self.0.participant.send(request, Reply::new(move |result| *sink.lock() = Some(result)));
        answer.lock().take().expect("an inline participant answers at once")
    }
}

impl Endpoint for Wire {
    fn send(&self, request: Request, reply: Reply) {
        let sent = match &request {
            Request::Branch { verb, .. } => Sent::Branch(*verb),
            Request::InDoubt { .. } => Sent::InDoubt,
            other => unreachable!("no participant is asked {other:?}"),
        };
        self.0.sent.lock().push(sent);
        let fate = (self.0.fates.lock())(sent);
        match fate {
            Fate::Deliver => self.0.participant.send(request, reply),
            Fate::DeliverTwice => {
                let _ = self.answer_to(request.clone());
                self.0.participant.send(request, reply);
            }
            Fate::LoseRequest => drop(reply),
            Fate::LoseReply => {
                let _ = self.answer_to(request);
                drop(reply);
            }
            Fate::HoldReply => {
                let result = self.answer_to(request);
                self.0.held.lock().push(Held::Reply(result, reply));
            }
            Fate::HoldRequest => self.0.held.lock().push(Held::Request(request, reply)),
        }
    }
}
