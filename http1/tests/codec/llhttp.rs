//! The cases of llhttp, the parser of Node.js: each is refused, or read as llhttp reads it and written again as exactly one
//! identical message. Where we differ from llhttp stands with its reason in `llhttp_divergences.json`.

use std::collections::BTreeMap;
use std::fs;

use countersign_http1::Asked;
use serde_json::{Value, json};

use crate::reader::{self, Connection, Message};

#[test]
fn every_case_of_llhttp_is_refused_or_read_and_written_as_exactly_one_identical_message() {
    let Some(folder) = countersign_testkit::vectors("llhttp") else { return };
    let mut found = BTreeMap::new();
    let (mut cases, mut forwarded) = (0, 0);
    for kind in ["request", "response"] {
        let mut files: Vec<_> =
            fs::read_dir(folder.join(kind)).unwrap().map(|file| file.unwrap().path()).collect();
        files.sort();
        for file in files {
            let name = format!("{kind}/{}", file.file_stem().unwrap().to_str().unwrap());
            for case in read_cases(&name, &fs::read_to_string(&file).unwrap()) {
                cases += 1;
                let (input, expected) = case.with_hosts();
                let ours = case.read(&input);
                forwarded += ours.messages.iter().filter(|message| message.complete).count();
                case.check_onward(&ours);
                for piece in [1, 7] {
                    let again = case.read_in_pieces(&input, piece);
                    assert_eq!(again.messages, ours.messages, "{}, {piece} bytes at a time", case.name);
                    assert_eq!(again.refused, ours.refused, "{}, {piece} bytes at a time", case.name);
                }
                let (ours, theirs) = (verdict(&ours), verdict(&expected));
                // Bytes that say nothing yet go nowhere: here the connection waits, and llhttp knew already.
                let both_refuse =
                    theirs.starts_with("refused") && (ours.starts_with("refused") || ours == "nothing");
                if ours != theirs && !both_refuse {
                    found.insert(case.name, json!({ "llhttp": theirs, "ours": ours }));
                }
            }
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
    assert_eq!(cases, 251);
    println!("{cases} cases, {forwarded} messages go on");
}

struct Case {
    name: String,
    input: Vec<u8>,
    log: String,
    is_request: bool,
}

impl Case {
    fn read(&self, input: &[u8]) -> Connection {
        self.read_in_pieces(input, input.len())
    }

    fn read_in_pieces(&self, input: &[u8], piece: usize) -> Connection {
        let asked = Asked { upgrade: true, ..Asked::default() };
        if self.is_request { reader::requests(input, piece) } else { reader::responses(input, piece, asked) }
    }

    /// What was read complete is, once written, read as one message with the same start, body and headers.
    fn check_onward(&self, ours: &Connection) {
        for (message, onward) in
            ours.messages.iter().zip(&ours.onward).filter(|(message, _)| message.complete)
        {
            let again = self.read(onward);
            assert_eq!(again.messages.len(), 1, "{}: {}", self.name, String::from_utf8_lossy(onward));
            let again = &again.messages[0];
            assert_eq!(same_start(&again.start), same_start(&message.start), "{}", self.name);
            assert_eq!(again.body, message.body, "{}", self.name);
            let kept = |(name, _): &&(String, Vec<u8>)| !STATED_ANEW.contains(&name.as_str());
            let listed = message.values("connection").join(",");
            let goes_on =
                |(name, _): &&(String, Vec<u8>)| !listed.split(',').any(|other| other.trim() == name);
            let before: Vec<_> = message.headers.iter().filter(kept).filter(goes_on).collect();
            let after: Vec<_> = again.headers.iter().filter(kept).collect();
            assert_eq!(after, before, "{}", self.name);
        }
    }

    /// The case with a `Host` where a request has none, and what llhttp says of it.
    fn with_hosts(&self) -> (Vec<u8>, Connection) {
        let (mut expected, versions) = self.expected();
        let mut input = self.input.clone();
        for (at, message) in versions.into_iter().rev() {
            let Some(message) = expected.messages.get_mut(message) else { continue };
            let has_host = message.headers.iter().any(|(name, _)| name == "host");
            if self.is_request && !has_host && input.get(at..at + 2) == Some(b"\r\n") {
                let authority =
                    message.start.split("://").nth(1).and_then(|rest| rest.split(['/', '?']).next());
                let host = format!("Host: {}\r\n", authority.unwrap_or("flea.test"));
                input.splice(at + 2..at + 2, host.bytes());
                message.headers.push(("host".to_owned(), Vec::new()));
            }
        }
        (input, expected)
    }

    /// llhttp's reading, and where in the input each first line ends.
    fn expected(&self) -> (Connection, Vec<(usize, usize)>) {
        let (mut connection, mut versions) = (Connection::default(), Vec::new());
        let mut in_head = false;
        for line in self.log.lines() {
            let mut words = line.split(' ');
            let at: usize =
                words.next().and_then(|word| word.strip_prefix("off=")?.parse().ok()).unwrap_or_default();
            if line.ends_with(" message begin") {
                connection.messages.push(Message::default());
                in_head = true;
                continue;
            }
            let place = connection.messages.len().saturating_sub(1);
            let Some(message) = connection.messages.last_mut() else { continue };
            if let Some(length) = words.next().and_then(|word| word.strip_prefix("len=")) {
                let span = &self.input[at..at + length.parse::<usize>().unwrap()];
                match line.split_once("span[").unwrap().1.split_once(']').unwrap().0 {
                    "method" => message.start = format!("{} ", String::from_utf8_lossy(span)),
                    "url" => message.start.push_str(&String::from_utf8_lossy(span)),
                    "body" => message.body.extend_from_slice(span),
                    "version" => versions.push((at + span.len(), place)),
                    "header_field" if in_head => {
                        message
                            .headers
                            .push((String::from_utf8_lossy(span).to_ascii_lowercase(), Vec::new()));
                    }
                    _ => {}
                }
            } else if line.contains("headers complete") {
                in_head = false;
                if let Some(status) = line.split("status=").nth(1) {
                    message.start = status.split(' ').next().unwrap().to_owned();
                }
            } else if line.ends_with(" message complete") {
                message.complete = true;
            } else if let Some(why) = line.split("reason=").nth(1)
                && !why.contains("Pause on")
            {
                connection.refused = Some(why.trim_matches('"').to_owned());
            }
        }
        // A message that did not get past its head was not read.
        if in_head {
            connection.messages.pop();
        }
        (connection, versions)
    }
}

/// Everything in one line that readers must agree on.
fn verdict(connection: &Connection) -> String {
    if let Some(why) = &connection.refused {
        return format!("refused: {why}");
    }
    let messages: Vec<_> = connection
        .messages
        .iter()
        .map(|message| {
            let (headers, bytes) = (message.headers.len(), message.body.len());
            let end = if message.complete { "" } else { ", incomplete" };
            format!("{}, {headers} headers, {bytes} bytes{end}", message.start)
        })
        .collect();
    if messages.is_empty() { "nothing".to_owned() } else { messages.join("; ") }
}

/// The target without the authority of its absolute form.
fn same_start(start: &str) -> String {
    let Some((method, rest)) = start.split_once(" http://") else { return start.to_owned() };
    let rest = &rest[rest.find(['/', '?']).unwrap_or(rest.len())..];
    let slash = if rest.starts_with('/') { "" } else { "/" };
    format!("{method} {slash}{rest}")
}

fn read_cases(file: &str, text: &str) -> Vec<Case> {
    let (mut cases, mut heading, mut seen) = (Vec::new(), String::new(), BTreeMap::new());
    for part in text.split("\n```http\n").collect::<Vec<_>>().windows(2) {
        if let Some(line) = part[0].lines().rev().find(|line| line.starts_with("##")) {
            heading = line.trim_start_matches('#').trim().replace('`', "");
        }
        let (input, rest) = part[1].split_once("\n```").unwrap();
        let log = rest.split("```log\n").nth(1).unwrap().split("```").next().unwrap().to_owned();
        let name = format!("{file}: {heading}");
        let count = seen.entry(name.clone()).or_insert(0);
        *count += 1;
        let name = if *count == 1 { name } else { format!("{name} ({count})") };
        cases.push(Case { name, input: unescape(input), log, is_request: file.starts_with("request") });
    }
    cases
}

/// How llhttp writes bytes in its cases: a backslash ends a line without ending it, `\r`, `\n`, `\t`, `\f`, `\xHH` and octal
/// digits are bytes, and every line ends with CR LF.
fn unescape(text: &str) -> Vec<u8> {
    let joined = text.replace("\\\n", "");
    let mut bytes = Vec::new();
    let mut rest = joined.as_str();
    while let Some(c) = rest.chars().next() {
        rest = &rest[c.len_utf8()..];
        match c {
            '\n' => bytes.extend_from_slice(b"\r\n"),
            '\\' => rest = unescape_one(rest, &mut bytes),
            c => bytes.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
    bytes
}

fn unescape_one<'a>(rest: &'a str, bytes: &mut Vec<u8>) -> &'a str {
    let short = [('r', b'\r'), ('n', b'\n'), ('t', b'\t'), ('f', 0x0c)];
    let first = rest.chars().next().unwrap_or('\\');
    if let Some((_, byte)) = short.iter().find(|(c, _)| *c == first) {
        bytes.push(*byte);
        return &rest[1..];
    }
    let (digits, radix, skip) = if first == 'x' {
        (rest[1..].chars().take(2).take_while(char::is_ascii_hexdigit).count(), 16, 1)
    } else {
        (rest.chars().take(3).take_while(|c| c.is_digit(8)).count(), 8, 0)
    };
    if digits == 0 {
        bytes.push(b'\\');
        return rest;
    }
    bytes.push(u8::try_from(u32::from_str_radix(&rest[skip..skip + digits], radix).unwrap() & 0xff).unwrap());
    &rest[skip + digits..]
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
