//! The cases of llhttp, the parser of Node.js: bytes of a connection, and what llhttp makes of them.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;

/// One case, request or response.
#[derive(Debug)]
pub struct Case {
    /// File and heading.
    pub name: String,
    /// The bytes of the connection.
    pub input: Vec<u8>,
    /// Does a client say this, or a server?
    pub is_request: bool,
    log: String,
}

/// What a reader understood of a connection. Its text is everything that readers must agree on, in one line.
#[derive(Debug, Default)]
pub struct Reading {
    /// In their order; only the last may be incomplete.
    pub messages: Vec<Message>,
    /// Why reading stopped, if something was refused.
    pub refused: Option<String>,
}

/// What a reader understood of one message.
#[derive(Debug, Default)]
pub struct Message {
    /// Method and target, or the status.
    pub start: String,
    /// Names in lower case.
    pub headers: Vec<String>,
    /// Without chunks.
    pub body: Vec<u8>,
    /// Did its end come?
    pub complete: bool,
}

/// All cases, or `None` where this machine has none ([`crate::vectors`]).
#[must_use]
pub fn cases() -> Option<Vec<Case>> {
    let folder = crate::vectors("llhttp")?;
    let mut cases = Vec::new();
    for kind in ["request", "response"] {
        let entries = fs::read_dir(folder.join(kind)).expect("the cases of llhttp are two folders");
        let mut files: Vec<_> = entries.filter_map(|file| Some(file.ok()?.path())).collect();
        files.sort();
        for file in files {
            let stem = file.file_stem().unwrap_or_default().to_string_lossy();
            let text = fs::read_to_string(&file).expect("the cases of llhttp are text");
            cases.extend(read_cases(&format!("{kind}/{stem}"), &text));
        }
    }
    Some(cases)
}

impl Case {
    /// The bytes with a `Host` in every request that llhttp read without one, and what it says of them.
    #[must_use]
    pub fn with_hosts(&self) -> (Vec<u8>, Reading) {
        let (mut expected, versions) = self.expected();
        let mut input = self.input.clone();
        for (at, message) in versions.into_iter().rev() {
            let Some(message) = expected.messages.get_mut(message) else { continue };
            let has_host = message.headers.iter().any(|name| name == "host");
            if self.is_request && !has_host && input.get(at..at + 2) == Some(b"\r\n") {
                let authority =
                    message.start.split("://").nth(1).and_then(|rest| rest.split(['/', '?']).next());
                let host = format!("Host: {}\r\n", authority.unwrap_or("flea.test"));
                input.splice(at + 2..at + 2, host.bytes());
                message.headers.push("host".to_owned());
            }
        }
        (input, expected)
    }

    /// llhttp's reading, and where in the input each first line ends.
    fn expected(&self) -> (Reading, Vec<(usize, usize)>) {
        let (mut reading, mut versions) = (Reading::default(), Vec::new());
        let mut in_head = false;
        for line in self.log.lines() {
            let mut words = line.split(' ');
            let at: usize =
                words.next().and_then(|word| word.strip_prefix("off=")?.parse().ok()).unwrap_or_default();
            if line.ends_with(" message begin") {
                reading.messages.push(Message::default());
                in_head = true;
                continue;
            }
            let place = reading.messages.len().saturating_sub(1);
            let Some(message) = reading.messages.last_mut() else { continue };
            if let Some(length) = words.next().and_then(|word| word.strip_prefix("len=")) {
                let end = at + length.parse::<usize>().expect("a length");
                let span = self.input.get(at..end).expect("a span of the input");
                let kind = line.split_once("span[").and_then(|(_, rest)| rest.split_once(']'));
                match kind.map_or("", |(kind, _)| kind) {
                    "method" => message.start = format!("{} ", String::from_utf8_lossy(span)),
                    "url" => message.start.push_str(&String::from_utf8_lossy(span)),
                    "body" => message.body.extend_from_slice(span),
                    "version" => versions.push((end, place)),
                    "header_field" if in_head => {
                        message.headers.push(String::from_utf8_lossy(span).to_ascii_lowercase());
                    }
                    _ => {}
                }
            } else if line.contains("headers complete") {
                in_head = false;
                if let Some(status) = line.split("status=").nth(1) {
                    message.start = status.split(' ').next().unwrap_or_default().to_owned();
                }
            } else if line.ends_with(" message complete") {
                message.complete = true;
            } else if let Some(why) = line.split("reason=").nth(1)
                && !why.contains("Pause on")
            {
                reading.refused = Some(why.trim_matches('"').to_owned());
            }
        }
        // A message that did not get past its head was not read.
        if in_head {
            reading.messages.pop();
        }
        (reading, versions)
    }
}

impl fmt::Display for Reading {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(why) = &self.refused {
            return write!(f, "refused: {why}");
        }
        if self.messages.is_empty() {
            return f.write_str("nothing");
        }
        for (position, message) in self.messages.iter().enumerate() {
            let (headers, bytes) = (message.headers.len(), message.body.len());
            let before = if position == 0 { "" } else { "; " };
            let end = if message.complete { "" } else { ", incomplete" };
            write!(f, "{before}{}, {headers} headers, {bytes} bytes{end}", message.start)?;
        }
        Ok(())
    }
}

fn read_cases(file: &str, text: &str) -> Vec<Case> {
    let (mut cases, mut heading, mut seen) = (Vec::new(), String::new(), BTreeMap::new());
    let parts: Vec<&str> = text.split("\n```http\n").collect();
    for pair in parts.windows(2) {
        let [before, after] = pair else { continue };
        if let Some(line) = before.lines().rev().find(|line| line.starts_with("##")) {
            heading = line.trim_start_matches('#').trim().replace('`', "");
        }
        let (input, rest) = after.split_once("\n```").expect("a case ends");
        let log = rest.split("```log\n").nth(1).and_then(|log| log.split("```").next());
        let log = log.expect("a case has its log").to_owned();
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
        rest = rest.get(c.len_utf8()..).unwrap_or_default();
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
        return rest.get(1..).unwrap_or_default();
    }
    let (digits, radix, skip) = if first == 'x' {
        let after = rest.get(1..).unwrap_or_default();
        (after.chars().take(2).take_while(char::is_ascii_hexdigit).count(), 16, 1)
    } else {
        (rest.chars().take(3).take_while(|c| c.is_digit(8)).count(), 8, 0)
    };
    if digits == 0 {
        bytes.push(b'\\');
        return rest;
    }
    let (number, rest) = rest.split_at_checked(skip + digits).expect("digits are ASCII");
    let number = number.get(skip..).and_then(|digits| u32::from_str_radix(digits, radix).ok());
    bytes.push(u8::try_from(number.unwrap_or_default() & 0xff).expect("eight bits"));
    rest
}
