//! Many allowed calls in one record: nothing is lost, nothing is added, and what is cut is found.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

use std::net::SocketAddr;

use countersign_identity::{DecisionId, SpiffeId, UnixTime};
use countersign_ledger::{
    BootId, CallBatch, CallBatcher, CallEdge, CheckRecord, CheckResult, ConnectionId, Decision, Entry, Event,
    NewCall, Pseudonym, PseudonymKey, Record, Stage, Verdict, Writer, WriterVerifier,
    calls::{CallBatchError, EDGE_BYTES_MAX, ROWS_MAX},
    chain::{CALLS_BYTES_MAX, EVENT_BYTES_MAX, RecordError},
};
use proptest::prelude::*;

const NOW: UnixTime = UnixTime::from_secs(1_800_000_000);

fn ads() -> SpiffeId {
    "spiffe://fleamarket.test/svc/ads".parse().unwrap()
}

fn edge(number: u32) -> CallEdge {
    let check =
        |name: &str, detail: String| CheckRecord { name: name.to_owned(), result: CheckResult::Pass, detail };
    CallEdge {
        source: (!number.is_multiple_of(3)).then(|| format!("spiffe://fleamarket.test/svc/s{number}")),
        target: "ads".to_owned(),
        method: "GET".to_owned(),
        route: format!("/ads/{{id}}/\"{number}\""),
        mode: "mtls".to_owned(),
        stage: Stage::Policy,
        checks: vec![check("chain", String::new()), check("policy", format!("p{number}"))],
        policy: Some(format!("p{number}")).filter(|_| !number.is_multiple_of(2)),
    }
}

/// A call as it is pushed, owned.
#[derive(Clone, Debug)]
struct Made {
    id: DecisionId,
    edge: u32,
    at: UnixTime,
    latency_us: u32,
    status: u16,
    trace: u128,
    user: Option<u8>,
    connection: Option<(u64, Option<SocketAddr>)>,
}

impl Made {
    fn of(number: u8) -> Self {
        Self {
            id: DecisionId::from_random([number; 10]),
            edge: u32::from(number % 3),
            at: NOW.saturating_add(std::time::Duration::from_millis(u64::from(number))),
            latency_us: 700 + u32::from(number),
            status: 200,
            trace: u128::from(number),
            user: number.is_multiple_of(2).then_some(number % 5),
            connection: Some((7, Some("127.0.0.1:4711".parse().unwrap()))),
        }
    }

    fn push(&self, batcher: &mut CallBatcher, facts: &CallEdge) -> bool {
        let connection = self.connection.map(|(id, peer)| (ConnectionId::from_random(id), peer));
        let Self { id, edge, at, latency_us, status, trace, user, .. } = *self;
        let user = user.map(user_of);
        batcher.push(&NewCall { id, edge, facts, at, latency_us, status, trace, user, connection }).is_ok()
    }

    /// As it would have been recorded alone.
    fn decision(&self) -> Decision {
        let CallEdge { source, target, method, route, mode, stage, checks, policy } = edge(self.edge);
        Decision {
            id: self.id,
            verdict: Verdict::Allow,
            stage,
            source,
            target,
            method,
            route,
            user: self.user.map(|user| user_of(user).to_string()),
            mode,
            checks,
            policy,
            code: None,
            reason: None,
            fix: None,
            status: self.status,
            latency_us: u64::from(self.latency_us),
            connection: self.connection.map(|(id, _)| format!("c_{id:016x}")),
            peer: self.connection.and_then(|(_, peer)| peer).map(|peer| peer.to_string()),
            trace: Some(format!("{:032x}", self.trace)).filter(|_| self.trace != 0),
        }
    }
}

fn user_of(number: u8) -> Pseudonym {
    Pseudonym::of(&PseudonymKey::new([1; 32]), &format!("u_{number}"))
}

/// Records of all calls, each batch as late as possible.
fn recorded(calls: &[Made]) -> Vec<Record> {
    let (mut batcher, mut batches) = (CallBatcher::new(&ads()), Vec::new());
    for call in calls {
        if !call.push(&mut batcher, &edge(call.edge)) {
            batches.extend(batcher.take());
            assert!(call.push(&mut batcher, &edge(call.edge)), "an empty batch takes every call");
        }
    }
    batches.extend(batcher.take());
    assert_eq!(batcher.take(), None);
    let mut writer = Writer::start(ads(), BootId::from_random([7; 16]));
    batches.into_iter().map(|batch| writer.append(&batch.into(), NOW).unwrap()).collect()
}

fn some(count: u8) -> Record {
    recorded(&(0..count).map(Made::of).collect::<Vec<_>>()).remove(0)
}

fn batch_of(record: &Record) -> CallBatch {
    match record.entry().unwrap().event {
        Event::AllowedCalls(batch) => *batch,
        other => panic!("{other:?}"),
    }
}

#[test]
fn accepts_a_batch_and_gives_back_each_decision_as_if_recorded_alone() {
    let record = some(9);
    let entry = record.entry().unwrap();
    let expected: Vec<_> = (0..9).map(Made::of).map(|made| (made.at, made.decision())).collect();
    assert_eq!(entry.decisions(), expected);
    let batch = batch_of(&record);
    assert_eq!((batch.len(), batch.edges().len(), batch.is_empty()), (9, 3, false));
    assert_eq!(batch.find(Made::of(4).id).unwrap().decision(), Made::of(4).decision());
    assert_eq!(batch.find(DecisionId::from_random([99; 10])), None);
    assert!(!entry.event.is_durable_at_once() && entry.event.decision().is_none());
    assert!(record.bytes.len() < 9 * 60 + 1300, "{}", record.bytes.len());
}

#[test]
fn the_bytes_of_a_batch_name_its_calls_where_a_database_can_look() {
    let record = some(200);
    let json = String::from_utf8(record.bytes).unwrap();
    for number in 0..200 {
        assert!(json.contains(&CallBatch::search_text(Made::of(number).id)), "{number}");
    }
    let other = DecisionId::from_random([9, 8, 7, 6, 5, 4, 3, 2, 1, 0]);
    assert!(!json.contains(&CallBatch::search_text(other)));
}

#[test]
fn a_decision_alone_is_the_only_one_of_its_entry_and_other_events_have_none() {
    let mut writer = Writer::start(ads(), BootId::from_random([7; 16]));
    let decision = Made::of(1).decision();
    let alone = writer.append(&Event::Decision(Box::new(decision.clone())), NOW).unwrap();
    assert_eq!(alone.entry().unwrap().decisions(), [(NOW, decision)]);
    let other = writer.append(&Event::ClockSteppedBack { by_ms: 1 }, NOW).unwrap();
    assert_eq!(other.entry().unwrap().decisions(), []);
}

#[test]
fn a_row_that_is_changed_cut_or_taken_out_breaks_the_chain() {
    let records = recorded(&(0..=255).cycle().take(3000).map(Made::of).collect::<Vec<_>>());
    assert!(records.len() > 2);
    let walk = |records: &[Record]| {
        let mut chain = WriterVerifier::start(ads(), BootId::from_random([7; 16]));
        records.iter().try_for_each(|record| chain.accept(record))
    };
    assert_eq!(walk(&records), Ok(()));
    let text = String::from_utf8(records[1].bytes.clone()).unwrap();
    let at = text.find("\"rows\":\"").unwrap() + 8;
    let changed =
        format!("{}{}{}", &text[..at], if &text[at..=at] == "A" { "B" } else { "A" }, &text[at + 1..]);
    let cut = format!("{}{}", &text[..at], &text[at + 56..]);
    for bytes in [changed, cut] {
        let mut forged = records.clone();
        forged[1].bytes = bytes.into_bytes();
        assert_eq!(walk(&forged), Err(RecordError::BrokenChain));
    }
    let without = [&records[..1], &records[2..]].concat();
    assert_eq!(walk(&without), Err(RecordError::OutOfSequence { expected: 2, got: 3 }));
}

/// What the parser says of the JSON of a batch after `change`.
fn changed(change: impl FnOnce(&mut serde_json::Value)) -> Result<Event, String> {
    let mut json = serde_json::to_value(Event::from(batch_of(&some(3)))).unwrap();
    change(&mut json);
    serde_json::from_value(json).map_err(|error| error.to_string())
}

#[test]
fn rejects_rows_of_a_layout_that_it_does_not_know() {
    let refused = changed(|json| json["layout"] = 2.into()).unwrap_err();
    assert_eq!(refused, CallBatchError::UnknownLayout { layout: 2 }.to_string());
}

#[test]
fn rejects_rows_that_are_cut_missing_or_too_many() {
    let rows = |json: &serde_json::Value| json["rows"].as_str().unwrap().to_owned();
    let refused = changed(|json| json["rows"] = rows(json)[..167].into()).unwrap_err();
    assert_eq!(refused, CallBatchError::WrongLength { chars: 167 }.to_string());
    let refused = changed(|json| json["rows"] = "".into()).unwrap_err();
    assert_eq!(refused, CallBatchError::WrongLength { chars: 0 }.to_string());
    let many = |count: usize| changed(|json| json["rows"] = rows(json)[..56].repeat(count).into());
    let Event::AllowedCalls(full) = many(ROWS_MAX).unwrap() else { panic!() };
    assert_eq!(full.len(), ROWS_MAX);
    let refused = many(ROWS_MAX + 1).unwrap_err();
    assert_eq!(refused, CallBatchError::WrongLength { chars: 56 * (ROWS_MAX + 1) }.to_string());
}

#[test]
fn rejects_rows_that_are_no_base64() {
    let refused = changed(|json| json["rows"] = "!".repeat(56).into()).unwrap_err();
    assert_eq!(refused, CallBatchError::NotBase64.to_string());
    let refused = changed(|json| json["rows"] = format!("{}====", "A".repeat(52)).into()).unwrap_err();
    assert_eq!(refused, CallBatchError::NotBase64.to_string());
}

#[test]
fn rejects_rows_that_refer_to_what_is_not_there() {
    for (table, row) in [("edges", 2), ("users", 2), ("connections", 0)] {
        let refused = changed(|json| drop(json[table].as_array_mut().unwrap().pop())).unwrap_err();
        assert_eq!(refused, CallBatchError::BadRow { row }.to_string(), "{table}");
    }
    let refused = changed(|json| json["start"] = i64::MAX.into()).unwrap_err();
    assert_eq!(refused, CallBatchError::BadRow { row: 1 }.to_string());
}

#[test]
fn an_edge_with_long_texts_fits_no_batch_and_the_longest_that_fits_does() {
    let long = |bytes: usize| CallEdge { route: "x".repeat(bytes), ..edge(1) };
    let frame = serde_json::to_vec(&long(0)).unwrap().len();
    assert!(long(EDGE_BYTES_MAX - frame).fits() && !long(EDGE_BYTES_MAX - frame + 1).fits());
    // The longest name that a writer can have leaves room for it.
    let writer: SpiffeId = format!("spiffe://td/{}", "x".repeat(2036)).parse().unwrap();
    let mut batcher = CallBatcher::new(&writer);
    assert!(Made::of(1).push(&mut batcher, &long(EDGE_BYTES_MAX - frame)));
    let mut writer = Writer::start(writer, BootId::from_random([7; 16]));
    assert!(writer.append(&batcher.take().unwrap().into(), NOW).is_ok());
}

#[test]
fn a_batch_may_be_longer_than_other_events_and_has_a_limit_of_its_own() {
    let records = recorded(&(0..=255).cycle().take(3000).map(Made::of).collect::<Vec<_>>());
    let full = &records[0];
    assert!((EVENT_BYTES_MAX + 1..=CALLS_BYTES_MAX).contains(&full.bytes.len()), "{}", full.bytes.len());
    assert!(full.entry().is_ok());
    let text = String::from_utf8(full.bytes.clone()).unwrap();
    let of = |text: String| Record { bytes: text.into_bytes(), ..full.clone() }.entry().unwrap_err();
    // The same length as another event.
    let other = text.replacen("allowed_calls", "decided_calls", 1);
    assert_eq!(of(other), RecordError::TooLarge { bytes: full.bytes.len() });
    let padded = text.clone() + &" ".repeat(CALLS_BYTES_MAX + 1 - text.len());
    assert_eq!(of(padded), RecordError::TooLarge { bytes: CALLS_BYTES_MAX + 1 });
}

#[test]
fn calls_that_are_weeks_apart_share_no_batch() {
    let late = Made { at: UnixTime::from_secs(NOW.secs() + 30 * 86_400), ..Made::of(2) };
    let records = recorded(&[Made::of(1), late.clone()]);
    assert_eq!(records.len(), 2);
    assert_eq!(records[1].entry().unwrap().decisions(), [(late.at, late.decision())]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn whatever_calls_are_packed_come_out_again_and_each_record_is_of_allowed_size(calls in proptest::collection::vec(call(), 1..2500)) {
        let records = recorded(&calls);
        prop_assert!(records.iter().all(|record| record.bytes.len() <= CALLS_BYTES_MAX));
        let entries: Vec<Entry> = records.iter().map(|record| record.entry().unwrap()).collect();
        let decisions: Vec<_> = entries.iter().flat_map(Entry::decisions).collect();
        let expected: Vec<_> = calls.iter().map(|made| (made.at, made.decision())).collect();
        prop_assert_eq!(decisions, expected);
    }

    #[test]
    fn no_change_of_a_batch_makes_the_parser_panic(place in 0_usize..1500, byte in any::<u8>()) {
        let mut record = some(9);
        let place = place % record.bytes.len();
        record.bytes[place] = byte;
        if let Ok(entry) = record.entry() {
            let Event::AllowedCalls(batch) = &entry.event else { return Ok(()) };
            prop_assert_eq!(entry.decisions().len(), batch.len());
        }
    }
}

fn call() -> impl Strategy<Value = Made> {
    let connection = proptest::option::of((0_u64..40, proptest::option::of(any::<(u32, u16)>())));
    let user = proptest::option::of(0_u8..100);
    let seen = (any::<u32>(), any::<u16>(), any::<u128>());
    (any::<[u8; 10]>(), 0_u32..60, -1000_i64..1000, seen, user, connection).prop_map(
        |(id, edge, after_ms, (latency_us, status, trace), user, connection)| Made {
            id: DecisionId::from_random(id),
            edge,
            at: UnixTime::from_millis(NOW.millis() + after_ms),
            latency_us,
            status,
            trace,
            user,
            connection: connection
                .map(|(id, peer)| (id, peer.map(|(ip, port)| SocketAddr::from((ip.to_be_bytes(), port))))),
        },
    )
}
