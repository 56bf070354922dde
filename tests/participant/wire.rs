//! The wire form of requests, answers and errors: names and numbers that never change, and input
//! that is checked.

use std::{
    collections::BTreeMap,
    error::Error,
    fmt::Debug,
    io,
    sync::Arc,
    time::{Duration, Instant},
};

use proptest::prelude::*;
use ringpact::{
    BranchId, Epoch, LogError, LogId, Name, TxnId, TxnOrdinal, Vote,
    log::Heuristic,
    participant::{Call, Decision, Life, MAX_ERROR_TEXT_BYTES, ParticipantError, Request, Response, Verb, Verdict},
};
use serde::{Serialize, de::DeserializeOwned};

type Answer = Result<Response, ParticipantError>;

const BRANCH: &str = r#""shop:7:42:goods""#;
/// The same id in postcard: texts after their lengths, small numbers as bytes.
const BRANCH_BYTES: &[u8] = b"\x04shop\x07\x2a\x05goods";

fn branch() -> BranchId {
    "shop:7:42:goods".parse().unwrap()
}

fn call() -> Call {
    let mut call = Call::new(LogId::from_bytes([9; 16]));
    call.epoch = Epoch::new(7);
    call.ended_below = TxnOrdinal { epoch: Epoch::new(7), sequence: 40 };
    (call.identity, call.position) = (LogId::from_bytes([8; 16]), 300);
    (call.after.epoch, call.after.position) = (Epoch::new(6), 200);
    call
}

fn request(verb: Verb, call: Call) -> Request {
    Request::Branch { branch: branch(), verb, call }
}

/// Asserts how a value is written in both forms, and that it is read from them unchanged. Errors
/// have no equality, so their debug texts are compared.
fn assert_wire<T: Serialize + DeserializeOwned + Debug>(value: &T, json: &str, bytes: &[u8]) {
    let shown = format!("{value:?}");
    assert_eq!(serde_json::to_string(value).unwrap(), json);
    assert_eq!(postcard::to_stdvec(value).unwrap(), bytes, "{shown}");
    assert_eq!(format!("{:?}", serde_json::from_str::<T>(json).unwrap()), shown);
    assert_eq!(format!("{:?}", postcard::from_bytes::<T>(bytes).unwrap()), shown);
    // Input that stops before its end is refused.
    for end in 0..bytes.len() {
        assert!(postcard::from_bytes::<T>(&bytes[..end]).is_err(), "{end} bytes of {shown}");
    }
    for end in 0..json.len() {
        assert!(serde_json::from_str::<T>(&json[..end]).is_err(), "{end} characters of {json}");
    }
}

#[test]
fn requests_keep_their_names_and_places() {
    let verbs = [(Verb::Prepare, "Prepare"), (Verb::Commit, "Commit"), (Verb::Rollback, "Rollback")];
    for (place, (verb, name)) in (0..).zip(verbs.into_iter().chain([(Verb::CommitOnePhase, "CommitOnePhase")])) {
        let (log, identity) = (vec!["9"; 16].join(","), vec!["8"; 16].join(","));
        let call_json = format!(
            r#"{{"log":[{log}],"epoch":7,"ended_below":{{"epoch":7,"sequence":40}},"deadline":null,"identity":[{identity}],"position":300,"after":{{"epoch":6,"position":200}}}}"#
        );
        let json = format!(r#"{{"Branch":{{"branch":{BRANCH},"verb":"{name}","call":{call_json}}}}}"#);
        let bytes = [&[0], BRANCH_BYTES, &[place], &[9; 16], &[7, 7, 40, 0], &[8; 16], &[0xac, 2, 6, 0xc8, 1]].concat();
        assert_wire(&request(verb, call()), &json, &bytes);
    }
    let in_doubt = Request::InDoubt { coordinator: Name::new("shop").unwrap(), life: None };
    assert_wire(&in_doubt, r#"{"InDoubt":{"coordinator":"shop","life":null}}"#, b"\x01\x04shop\x00");
    let life = Some(Life::new(LogId::from_bytes([8; 16]), Epoch::new(7), 300));
    let introduced = Request::InDoubt { coordinator: Name::new("shop").unwrap(), life };
    let (eight, none) = (vec!["8"; 16].join(","), vec!["0"; 16].join(","));
    let json = format!(
        r#"{{"InDoubt":{{"coordinator":"shop","life":{{"log":[{eight}],"epoch":7,"position":300,"replaces":[{none}],"after":{{"epoch":0,"position":0}}}}}}}}"#
    );
    let bytes = [b"\x01\x04shop\x01", &[8; 16][..], &[7, 0xac, 2], &[0; 18]].concat();
    assert_wire(&introduced, &json, &bytes);
    // From before there were lives.
    let before = serde_json::from_str(r#"{"InDoubt":{"coordinator":"shop"}}"#).unwrap();
    assert!(matches!(before, Request::InDoubt { life: None, .. }));
    let json = format!(r#"{{"Verdict":{{"branch":{BRANCH}}}}}"#);
    assert_wire(&Request::Verdict { branch: branch() }, &json, &[&[2], BRANCH_BYTES].concat());
    assert_wire(&Request::Message { body: vec![5, 255] }, r#"{"Message":{"body":[5,255]}}"#, &[3, 2, 5, 255]);
}

/// A text in JSON, so that it can be the key of a map; its parts, one after the other, in a binary
/// form.
#[test]
fn ids_are_texts_where_people_read_and_parts_where_they_do_not() {
    assert_wire(&branch(), BRANCH, BRANCH_BYTES);
    assert_wire(branch().txn(), r#""shop:7:42""#, b"\x04shop\x07\x2a");
    let last = TxnId::new(Name::new("shop").unwrap(), Epoch::new(u64::MAX), u64::MAX);
    let most = [0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 1];
    let bytes = [b"\x04shop", &most[..], &most].concat();
    assert_wire(&last, r#""shop:18446744073709551615:18446744073709551615""#, &bytes);

    let stock = BTreeMap::from([(branch(), 3)]);
    assert_wire(&stock, r#"{"shop:7:42:goods":3}"#, &[&[1], BRANCH_BYTES, &[6]].concat());
    let ended = BTreeMap::from([(branch().txn().clone(), true)]);
    assert_wire(&ended, r#"{"shop:7:42":true}"#, b"\x01\x04shop\x07\x2a\x01");
}

#[test]
fn answers_keep_their_names_and_places() {
    let message = Answer::Ok(Response::Message { body: vec![5, 255] });
    assert_wire(&message, r#"{"Ok":{"Message":{"body":[5,255]}}}"#, &[0, 5, 2, 5, 255]);
    for (place, vote, name) in [(0, Vote::Yes, "Yes"), (1, Vote::ReadOnly, "ReadOnly"), (2, Vote::No, "No")] {
        let json = format!(r#"{{"Ok":{{"Voted":"{name}"}}}}"#);
        assert_wire(&Answer::Ok(Response::Voted(vote)), &json, &[0, 0, place]);
    }
    assert_wire(&Answer::Ok(Response::Done), r#"{"Ok":"Done"}"#, &[0, 1]);
    for (place, decision, name) in [(0, Decision::Commit, "Commit"), (1, Decision::Rollback, "Rollback")] {
        let json = format!(r#"{{"Ok":{{"Decided":"{name}"}}}}"#);
        assert_wire(&Answer::Ok(Response::Decided(decision)), &json, &[0, 2, place]);
    }
    let json = format!(r#"{{"Ok":{{"InDoubt":[{BRANCH},{BRANCH}]}}}}"#);
    let bytes = [&[0, 3, 2], BRANCH_BYTES, BRANCH_BYTES].concat();
    assert_wire(&Answer::Ok(Response::InDoubt(vec![branch(); 2])), &json, &bytes);
    let verdicts = [(Verdict::Commit, "Commit"), (Verdict::Rollback, "Rollback"), (Verdict::Undecided, "Undecided")];
    for (place, (verdict, name)) in (0..).zip(verdicts) {
        let begun_below = TxnOrdinal { epoch: Epoch::new(7), sequence: 43 };
        let json =
            format!(r#"{{"Ok":{{"Verdict":{{"verdict":"{name}","begun_below":{{"epoch":7,"sequence":43}}}}}}}}"#);
        assert_wire(&Answer::Ok(Response::Verdict { verdict, begun_below }), &json, &[0, 4, place, 7, 43]);
    }
}

#[test]
fn errors_keep_their_names_and_places() {
    use ParticipantError as Error;
    let plain = [
        (Error::Unreachable, "Unreachable"),
        (Error::Panicked, "Panicked"),
        (Error::UnknownBranch, "UnknownBranch"),
        (Error::AlreadyRolledBack, "AlreadyRolledBack"),
        (Error::AlreadyCommitted, "AlreadyCommitted"),
    ];
    for (place, (error, name)) in (0..).zip(plain) {
        assert_wire(&Answer::Err(error), &format!(r#"{{"Err":"{name}"}}"#), &[1, place]);
    }
    let outcomes = [
        (Heuristic::Committed, "Committed"),
        (Heuristic::RolledBack, "RolledBack"),
        (Heuristic::Mixed, "Mixed"),
        (Heuristic::Hazard, "Hazard"),
    ];
    for (place, (outcome, name)) in (0..).zip(outcomes) {
        let json = format!(r#"{{"Err":{{"Heuristic":"{name}"}}}}"#);
        assert_wire(&Answer::Err(Error::Heuristic(outcome)), &json, &[1, 5, place]);
    }
    assert_wire(&Answer::Err(Error::Misdirected), r#"{"Err":"Misdirected"}"#, &[1, 6]);
    assert_wire(&Answer::Err(Error::Stale), r#"{"Err":"Stale"}"#, &[1, 7]);
    assert_wire(&Answer::Err(Error::Busy), r#"{"Err":"Busy"}"#, &[1, 10]);
    let misrouted = Error::Misrouted { branch: Box::new(branch()), participant: Name::new("payments").unwrap() };
    let json = format!(r#"{{"Err":{{"Misrouted":{{"branch":{BRANCH},"participant":"payments"}}}}}}"#);
    assert_wire(&Answer::Err(misrouted), &json, &[&[1, 8], BRANCH_BYTES, b"\x08payments"].concat());
    let bytes = b"\x01\x09\x0dout of \"paper";
    assert_wire(&Answer::Err(Error::resource("out of \"paper")), r#"{"Err":{"Resource":"out of \"paper"}}"#, bytes);
    let refused = Error::refused("sold out");
    assert_wire(&Answer::Err(refused), r#"{"Err":{"Refused":"sold out"}}"#, b"\x01\x0d\x08sold out");
}

/// The coordinator's operator reads it. Nothing else can be done with an error of another program.
#[test]
fn an_error_of_the_log_arrives_as_one_of_the_resource_and_says_the_same() {
    let cause = Arc::new(io::Error::other("the disk is on fire"));
    let error = LogError::Poisoned { cause };
    let said = ringpact::error_chain(&error);
    assert!(said.contains("the disk is on fire"));
    let json = serde_json::to_string(&ParticipantError::from(error)).unwrap();
    let ParticipantError::Resource(arrived) = serde_json::from_str(&json).unwrap() else { panic!("{json}") };
    assert_eq!(arrived.to_string(), said);
    // And again over a second hop.
    let json = serde_json::to_string(&ParticipantError::Resource(arrived)).unwrap();
    let arrived = serde_json::from_str::<ParticipantError>(&json).unwrap();
    assert_eq!(ringpact::error_chain(&arrived).matches(&said).count(), 1);
}

fn deadline_of(request: &Request) -> Option<Instant> {
    match request {
        Request::Branch { call, .. } => call.deadline,
        other => panic!("{other:?}"),
    }
}

fn due_at(deadline: Option<Instant>) -> Request {
    let mut call = call();
    call.deadline = deadline;
    request(Verb::Prepare, call)
}

/// Each hop starts with the time that the previous one left. The time on the way is not counted,
/// because neither end measures it.
#[test]
fn a_deadline_travels_as_the_time_that_is_left() {
    const WHOLE: Duration = Duration::from_secs(1_000);
    const PAUSE: Duration = Duration::from_millis(30);
    let sent_for = Instant::now() + WHOLE;
    let before_use = due_at(Some(sent_for));
    std::thread::sleep(PAUSE); // it waits to be sent, and that is counted
    for by_json in [true, false] {
        let (json, bytes) = (serde_json::to_vec(&before_use).unwrap(), postcard::to_stdvec(&before_use).unwrap());
        std::thread::sleep(PAUSE); // it is on its way
        let received = Instant::now();
        let arrived: Request =
            if by_json { serde_json::from_slice(&json).unwrap() } else { postcard::from_bytes(&bytes).unwrap() };
        let deadline = deadline_of(&arrived).expect("there was one");
        assert!(deadline <= Instant::now() + WHOLE - PAUSE, "what has passed before sending is gone");
        assert!(deadline >= sent_for + PAUSE, "what passes on the way is not counted");
        assert!(deadline > received, "there was a lot left");
    }
}

#[test]
fn a_deadline_that_is_past_arrives_as_past_and_none_as_none() {
    let past = serde_json::to_string(&due_at(Instant::now().checked_sub(Duration::from_millis(1)))).unwrap();
    assert!(past.contains(r#""deadline":{"secs":0,"nanos":0}"#), "{past}");
    let arrived: Request = serde_json::from_str(&past).unwrap();
    assert!(deadline_of(&arrived).expect("there was one") <= Instant::now());
    let none = serde_json::to_string(&due_at(None)).unwrap();
    assert_eq!(deadline_of(&serde_json::from_str(&none).unwrap()), None);
    // More time than a clock can count is no deadline, and no panic.
    let endless = none.replace(r#""deadline":null"#, &format!(r#""deadline":{{"secs":{},"nanos":0}}"#, u64::MAX));
    assert_eq!(deadline_of(&serde_json::from_str(&endless).unwrap()), None);
}

#[test]
fn what_does_not_fit_is_refused_by_name() {
    fn refused<T: DeserializeOwned + Debug>(json: &str, because: &str) {
        let error = serde_json::from_str::<T>(json).expect_err(json).to_string();
        assert!(error.contains(because), "{json}: {error}");
    }
    refused::<Answer>(r#"{"Ok":{"Voted":"Maybe"}}"#, "unknown variant `Maybe`, expected one of `Yes`");
    refused::<Answer>(r#"{"Ok":"Undone"}"#, "unknown variant `Undone`");
    refused::<Answer>(r#"{"Err":"Asleep"}"#, "unknown variant `Asleep`, expected one of `Unreachable`");
    refused::<Answer>(r#"{"Err":{"Log":"full"}}"#, "unknown variant `Log`");
    refused::<Answer>(r#"{"Err":{"Heuristic":"Perhaps"}}"#, "unknown variant `Perhaps`");
    refused::<Request>(r#"{"Greet":{}}"#, "unknown variant `Greet`");
    refused::<Request>(r#"{"InDoubt":{}}"#, "missing field `coordinator`");
    refused::<Request>(r#"{"InDoubt":{"coordinator":"a shop"}}"#, "use only letters");
    refused::<Request>(r#"{"InDoubt":{"coordinator":""}}"#, "1 to 64 bytes");
    let long = format!(r#"{{"InDoubt":{{"coordinator":"{}"}}}}"#, "x".repeat(65));
    refused::<Request>(&long, "1 to 64 bytes");
    let negative = BRANCH.replace(":42", ":-42");
    refused::<Request>(
        &format!(r#"{{"Verdict":{{"branch":{negative}}}}}"#),
        "not an id of the form coordinator:epoch:sequence",
    );
    let good = serde_json::to_string(&due_at(None)).unwrap();
    let late = good.replace(r#""deadline":null"#, r#""deadline":{"secs":18446744073709551615,"nanos":4294967295}"#);
    refused::<Request>(&late, "overflow");
    refused::<Request>(&good.replace("Prepare", "Propose"), "unknown variant `Propose`");
    refused::<Request>(&good.replace("\"log\":[9,", "\"log\":["), "invalid length 15");
    for unknown in [&[4, 0][..], &[3, 5], &[2, 5], &[1, 4, b's', b' ', b'o', b'p'], &[0xFF; 32]] {
        assert!(postcard::from_bytes::<Request>(unknown).is_err(), "{unknown:?}");
    }
    for unknown in [&[0, 6][..], &[0, 5], &[1, 11], &[2], &[0, 0, 3], &[1, 5, 4], &[1, 9, 1, 0xFF]] {
        assert!(postcard::from_bytes::<Answer>(unknown).is_err(), "{unknown:?}");
    }
    // A list takes no memory before its elements have come, however long it says it is.
    assert!(postcard::from_bytes::<Answer>(&[0, 3, 0xFF, 0xFF, 0xFF, 0xFF, 0x0F]).is_err());
}

fn assert_sound<T: Serialize + DeserializeOwned + Debug>(bytes: &[u8]) {
    let from_json = serde_json::from_slice::<T>(bytes).ok();
    let from_postcard = postcard::from_bytes::<T>(bytes).ok();
    for value in from_json.into_iter().chain(from_postcard) {
        let again: T = serde_json::from_str(&serde_json::to_string(&value).unwrap()).unwrap();
        let again = postcard::to_stdvec(&again).unwrap();
        assert!(postcard::from_bytes::<T>(&again).is_ok(), "{value:?}");
    }
}

proptest! {
    /// Any bytes are read or refused, and what is read can be written again.
    #[test]
    fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..96)) {
        assert_sound::<Request>(&bytes);
        assert_sound::<Answer>(&bytes);
    }

    /// One byte of a valid message is replaced.
    #[test]
    fn a_replaced_byte_does_no_harm(at in any::<prop::sample::Index>(), with: u8, left: Option<Duration>) {
        let deadline = left.and_then(|left| Instant::now().checked_add(left));
        let request = due_at(deadline);
        let answer = Answer::Err(ParticipantError::Misrouted { branch: Box::new(branch()), participant: Name::new("b").unwrap() });
        for mut bytes in [
            serde_json::to_vec(&request).unwrap(),
            postcard::to_stdvec(&request).unwrap(),
            serde_json::to_vec(&answer).unwrap(),
            postcard::to_stdvec(&answer).unwrap(),
        ] {
            let at = at.index(bytes.len());
            bytes[at] = with;
            assert_sound::<Request>(&bytes);
            assert_sound::<Answer>(&bytes);
        }
    }
}

/// Three thousand commits with texts of 1 MiB held 485 MiB in the coordinator.
#[test]
fn the_text_of_an_error_is_cut_where_it_is_sent_and_where_it_comes_in() {
    let text = |error: &ParticipantError| error.source().unwrap().to_string();
    let long = "\u{fc}".repeat(1 << 20);
    for (kind, error) in
        [("Resource", ParticipantError::resource(&*long)), ("Refused", ParticipantError::refused(&*long))]
    {
        let sent = serde_json::to_string(&error).unwrap();
        assert!(sent.len() < MAX_ERROR_TEXT_BYTES + 100, "{} bytes are sent", sent.len());
        // A program that does not cut.
        let came: ParticipantError = serde_json::from_str(&format!("{{\"{kind}\":\"{long}\"}}")).unwrap();
        let came = text(&came);
        assert!(came.len() <= MAX_ERROR_TEXT_BYTES && came.len() > MAX_ERROR_TEXT_BYTES - 4, "{} bytes", came.len());
        assert!(came.ends_with("\u{fc}\u{2026}"), "cut between two characters, and it shows");
        assert_eq!(text(&serde_json::from_str(&sent).unwrap()), came);
        // What has room is as it was.
        let fits = "x".repeat(MAX_ERROR_TEXT_BYTES);
        let came: ParticipantError = serde_json::from_str(&format!("{{\"{kind}\":\"{fits}\"}}")).unwrap();
        assert_eq!(text(&came), fits);
    }
}
