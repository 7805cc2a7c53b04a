//! The cases of llhttp, the parser of Node.js: each is refused, or read as llhttp reads it and written again as exactly one
//! identical message. Where we differ from llhttp stands with its reason in `llhttp_divergences.json`.

use std::collections::BTreeMap;

use countersign_http1::Asked;
use countersign_testkit::llhttp::{self, Case, Reading};
use serde_json::{Value, json};

use crate::reader::{self, Connection};

#[test]
fn every_case_of_llhttp_is_refused_or_read_and_written_as_exactly_one_identical_message() {
    let Some(cases) = llhttp::cases() else { return };
    assert_eq!(cases.len(), 251);
    let mut found = BTreeMap::new();
    let mut forwarded = 0;
    for case in &cases {
        let (input, expected) = case.with_hosts();
        let ours = read(case, &input);
        forwarded += ours.messages.iter().filter(|message| message.complete).count();
        check_onward(case, &ours);
        for piece in [1, 7] {
            let again = read_in_pieces(case, &input, piece);
            assert_eq!(again.messages, ours.messages, "{}, {piece} bytes at a time", case.name);
            assert_eq!(again.refused, ours.refused, "{}, {piece} bytes at a time", case.name);
        }
        let (ours, theirs) = (reading(ours).to_string(), expected.to_string());
        // Bytes that say nothing yet go nowhere: here the connection waits, and llhttp knew already.
        let both_refuse = theirs.starts_with("refused") && (ours.starts_with("refused") || ours == "nothing");
        if ours != theirs && !both_refuse {
            found.insert(case.name.clone(), json!({ "llhttp": theirs, "ours": ours }));
        }
    }
    let known: BTreeMap<String, Value> =
        serde_json::from_str(include_str!("llhttp_divergences.json")).unwrap();
    let without_reason: BTreeMap<String, Value> = known
        .into_iter()
        .map(|(name, mut known)| {
            let reason = known.as_object_mut().unwrap().remove("reason");
            assert!(
                reason.is_some_and(|reason| reason.as_str().is_some_and(|text| text.len() > 20)),
                "{name}"
            );
            (name, known)
        })
        .collect();
    assert_eq!(found, without_reason, "{}", serde_json::to_string_pretty(&found).unwrap());
    println!("{} cases, {forwarded} messages go on", cases.len());
}

fn read(case: &Case, input: &[u8]) -> Connection {
    read_in_pieces(case, input, input.len())
}

fn read_in_pieces(case: &Case, input: &[u8], piece: usize) -> Connection {
    let asked = Asked { upgrade: true, ..Asked::default() };
    if case.is_request { reader::requests(input, piece) } else { reader::responses(input, piece, asked) }
}

/// What was read complete is, once written, read as one message with the same start, body and headers.
fn check_onward(case: &Case, ours: &Connection) {
    for (message, onward) in ours.messages.iter().zip(&ours.onward).filter(|(message, _)| message.complete) {
        let again = read(case, onward);
        assert_eq!(again.messages.len(), 1, "{}: {}", case.name, String::from_utf8_lossy(onward));
        let again = &again.messages[0];
        assert_eq!(same_start(&again.start), same_start(&message.start), "{}", case.name);
        assert_eq!(again.body, message.body, "{}", case.name);
        let kept = |(name, _): &&(String, Vec<u8>)| !STATED_ANEW.contains(&name.as_str());
        let listed = message.values("connection").join(",");
        let goes_on = |(name, _): &&(String, Vec<u8>)| !listed.split(',').any(|other| other.trim() == name);
        let before: Vec<_> = message.headers.iter().filter(kept).filter(goes_on).collect();
        let after: Vec<_> = again.headers.iter().filter(kept).collect();
        assert_eq!(after, before, "{}", case.name);
    }
}

/// As llhttp's readings are.
fn reading(connection: Connection) -> Reading {
    let messages = connection.messages.into_iter().map(|message| llhttp::Message {
        start: message.start,
        headers: message.headers.into_iter().map(|(name, _)| name).collect(),
        body: message.body,
        complete: message.complete,
    });
    Reading { messages: messages.collect(), refused: connection.refused }
}

/// The target without the authority of its absolute form.
fn same_start(start: &str) -> String {
    let Some((method, rest)) = start.split_once(" http://") else { return start.to_owned() };
    let rest = &rest[rest.find(['/', '?']).unwrap_or(rest.len())..];
    let slash = if rest.starts_with('/') { "" } else { "/" };
    format!("{method} {slash}{rest}")
}

/// Headers that whoever writes the next message states himself, or that end at each hop.
const STATED_ANEW: [&str; 13] = [
    "host",
    "content-length",
    "transfer-encoding",
    "connection",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "upgrade",
    "expect",
    "x-forwarded-for",
    "proxy-authenticate",
    "proxy-authorization",
];
