//! The cases of llhttp, the parser of Node.js, said to the listener by a client and to the client by an upstream.
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use countersign_testkit::llhttp::{self, Case};

use crate::rig::tape::{Message, Said, Tape, answers, broke_off, converse};
use crate::rig::{Rig, Running};

const ALL: &str = "@id(\"all\")\npermit (principal, action, resource);";

/// Which of its two carriers the gateway takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Carrier {
    /// Our codec on both sides, for what it is sure of.
    Quick,
    /// hyper to the upstream.
    Full,
}

pub(crate) const BOTH: [Carrier; 2] = [Carrier::Quick, Carrier::Full];

/// Everything goes to the tape. One worker: what it did for one client is done before it hears the next.
pub(crate) async fn gateway(tape: &Tape, carrier: Carrier) -> (Rig, Running) {
    let rig = Rig::new();
    rig.policy("gateway", ALL);
    // A bound on the whole answer is nothing that the quick carrier knows.
    let whole = if carrier == Carrier::Full { ", whole_ms = 20000" } else { "" };
    let toml = format!(
        "workers = 1\n[throttle]\nrequests_burst = 100000\n[limits]\nbody_idle_timeout_ms = 500\n\
         [[route]]\npath = \"/*\"\nto = \"tape\"\nuser = \"none\"\n\
         [[route]]\npath = \"/\"\nto = \"tape\"\nuser = \"none\"\n\
         [[upstream]]\nname = \"tape\"\nendpoints = [\"{}\"]\noutlier = {{ failures = 0 }}\n\
         retry = {{ tries_max = 0 }}\ntimeouts = {{ answer_ms = 500, body_idle_ms = 500{whole} }}\n",
        tape.address
    );
    let edge = rig.gateway(&toml).await;
    (rig, edge)
}

/// What a request behind everything else brings to light: it is the only one, and its answer is its own.
pub(crate) async fn fence(edge: &Running, tape: &Tape) -> Vec<Message> {
    let heard =
        converse(edge.plain, b"GET /fence HTTP/1.1\r\nHost: flea.test\r\nConnection: close\r\n\r\n").await;
    let answers = answers(&heard, &["GET"]);
    assert_eq!(answers.len(), 1, "{answers:?}");
    assert_eq!((answers[0].status(), &answers[0].body[..]), (200, &b"GET /fence"[..]));
    let mut requests = tape.take().await;
    assert_eq!(requests.pop().expect("the fence").asks(), "GET /fence");
    requests
}

#[tokio::test]
async fn every_request_of_llhttp_is_refused_or_arrives_as_exactly_one_identical_request() {
    let Some(cases) = llhttp::cases() else { return };
    let tape = Tape::new(|request| Said::text(request.asks())).await;
    for carrier in BOTH {
        let (_rig, edge) = gateway(&tape, carrier).await;
        let (mut forwarded, mut refused) = (0, 0);
        let requests: Vec<_> = cases.iter().filter(|case| case.is_request).collect();
        for case in &requests {
            let (input, expected) = case.with_hosts();
            let heard = converse(edge.plain, &input).await;
            let methods: Vec<&str> =
                expected.messages.iter().map(|message| message.start.split(' ').next().unwrap()).collect();
            let answers = answers(&heard, &methods);
            let arrived = fence(&edge, &tape).await;
            let told = format!("{}: {arrived:?} {answers:?}", case.name);
            let good = answers.iter().filter(|answer| answer.status() == 200).count();
            assert_eq!(good, arrived.len(), "{told}");
            assert!(answers.iter().take(good).all(|answer| answer.status() == 200), "{told}");
            assert!(answers.len() <= good + 1, "nothing is answered after a refusal: {told}");
            assert!(answers.iter().skip(good).all(|answer| REFUSALS.contains(&answer.status())), "{told}");
            for (position, arrived) in arrived.iter().enumerate() {
                let sent = expected.messages.get(position).unwrap_or_else(|| panic!("{told}"));
                check_identical(sent, arrived, &told);
            }
            forwarded += arrived.len();
            refused += usize::from(answers.len() > good);
        }
        println!("{} cases, {forwarded} requests forwarded, {refused} refused", requests.len());
        assert!(requests.len() > 150 && forwarded > 40 && refused > 60, "{forwarded} {refused}");
    }
}

fn check_identical(sent: &llhttp::Message, arrived: &Message, told: &str) {
    assert_eq!(arrived.asks(), without_authority(&sent.start), "{told}");
    assert_eq!(arrived.body, sent.body, "{told}");
    for (name, _) in &arrived.headers {
        assert!(sent.headers.contains(name) || ADDED.contains(&name.as_str()), "{name}: {told}");
    }
    for name in &sent.headers {
        let stays = !arrived.values(name).is_empty() || OF_ONE_HOP.contains(&name.as_str());
        assert!(stays, "{name}: {told}");
    }
}

/// The target in origin form.
fn without_authority(start: &str) -> String {
    let Some((method, rest)) = start.split_once(" http://") else { return start.to_owned() };
    let rest = &rest[rest.find(['/', '?']).unwrap_or(rest.len())..];
    let slash = if rest.starts_with('/') { "" } else { "/" };
    format!("{method} {slash}{rest}")
}

/// What an upstream says in place of an answer, then a second request whose answer nobody else may have.
async fn answered(case: &Case, ends: bool, edge: &Running, reply: &Mutex<Said>) -> Vec<Message> {
    *reply.lock().unwrap() = Said { bytes: case.input.clone(), ends };
    let heard =
        converse(edge.plain, b"GET /case HTTP/1.1\r\nHost: flea.test\r\nConnection: close\r\n\r\n").await;
    if broke_off(&heard) { Vec::new() } else { answers(&heard, &["GET"]) }
}

#[tokio::test]
async fn every_response_of_llhttp_is_one_answer_or_none_and_never_the_answer_to_another_request() {
    let Some(cases) = llhttp::cases() else { return };
    let reply = Arc::new(Mutex::new(Said::text("")));
    let told = Arc::clone(&reply);
    let tape = Tape::new(move |request| {
        if request.asks() != "GET /case" {
            return Said::text(request.asks());
        }
        let told = told.lock().unwrap();
        Said { bytes: told.bytes.clone(), ends: told.ends }
    })
    .await;
    for carrier in BOTH {
        let (_rig, edge) = gateway(&tape, carrier).await;
        let responses: Vec<_> = cases.iter().filter(|case| !case.is_request).collect();
        let (mut passed, mut refused, mut broken) = (0, 0, 0);
        let mut otherwise = BTreeSet::new();
        for case in &responses {
            for ends in [true, false] {
                let answers = answered(case, ends, &edge, &reply).await;
                assert!(answers.len() <= 1, "{}: {answers:?}", case.name);
                let (_, expected) = case.with_hosts();
                match answers.first() {
                    None => broken += 1,
                    Some(answer) if answer.status() == 502 || answer.status() == 504 => refused += 1,
                    Some(answer) => {
                        passed += 1;
                        let sent = expected.messages.iter().find(|message| !message.start.starts_with('1'));
                        let theirs = sent.map(|sent| (sent.start.clone(), sent.body.clone()));
                        let ours = (answer.status().to_string(), answer.body.clone());
                        if theirs.as_ref() != Some(&ours) {
                            otherwise.insert(case.name.as_str());
                        }
                    }
                }
                let arrived = fence(&edge, &tape).await;
                assert_eq!(arrived.len(), 1, "{}", case.name);
            }
        }
        println!("{} cases twice: {passed} answers, {refused} 502, {broken} broken off", responses.len());
        let known: &[&str] = if carrier == Carrier::Full { &OTHERWISE } else { &[] };
        assert_eq!(std::mem::take(&mut otherwise).into_iter().collect::<Vec<_>>(), known, "{carrier:?}");
        assert!(responses.len() > 70 && passed > 40 && refused > 20, "{passed} {refused} {broken}");
    }
}

/// Statuses that say: nothing of this went on.
const REFUSALS: [u16; 9] = [400, 403, 405, 408, 413, 417, 426, 431, 501];

/// Responses that hyper, the client of the full carrier, reads and llhttp does not: each is one answer all the same.
/// Lines that end with a line feed alone (RFC 9112 section 2.2 lets a client read them), and white space or an empty extension
/// behind a chunk's size. What goes on is written anew.
const OTHERWISE: [&str; 5] = [
    "response/invalid: Only LFs present",
    "response/invalid: Only LFs present and no body",
    "response/sample: No carriage ret",
    "response/transfer-encoding: No extension after semicolon",
    "response/transfer-encoding: Trailing space on chunked body",
];

/// What the gateway says itself.
const ADDED: [&str; 11] = [
    "host",
    "content-length",
    "transfer-encoding",
    "traceparent",
    "x-forwarded-for",
    "x-forwarded-proto",
    "x-forwarded-host",
    "x-forwarded-port",
    "x-request-id",
    "forwarded",
    "via",
];

/// What ends at each hop.
const OF_ONE_HOP: [&str; 11] = [
    "connection",
    "content-length",
    "transfer-encoding",
    "keep-alive",
    "proxy-connection",
    "proxy-authorization",
    "te",
    "trailer",
    "upgrade",
    "expect",
    "host",
];
