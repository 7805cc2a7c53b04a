//! Records and events: what is written is read back, and nothing else.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

use countersign_identity::{DecisionId, SpiffeId, UnixTime};
use countersign_keys::sha256;
use countersign_ledger::{
    chain::{AppendError, BootId, EVENT_BYTES_MAX, Record, RecordError, Writer, WriterVerifier, leaf},
    digest::{Digest, DigestError},
    event::{CheckRecord, CheckResult, Decision, Event, LoginOutcome, Stage, Verdict},
};

const NOW: UnixTime = UnixTime::from_secs(1_800_000_000);

#[test]
fn an_event_is_read_back_as_it_was_written() {
    let mut writer = ads();
    let event = Event::Decision(Box::new(decision()));
    let record = writer.append(&event, NOW).unwrap();
    let entry = record.entry().unwrap();
    assert_eq!((entry.v, entry.sequence, entry.at, entry.event), (1, 1, NOW, event));
    assert_eq!(record.at(), Ok(NOW));
}

#[test]
fn the_five_steps_of_figure_3_1_are_five_kinds_of_event() {
    let (spiffe_id, agent) = (id("svc/ads"), Some(id("countersign/agent/laptop")));
    let steps = [
        Event::BootstrapCredentialIssued { credential: "csj_1".into(), node: agent.clone(), expires: NOW },
        Event::EnrolmentRequested { spiffe_id: spiffe_id.clone(), agent, attestation: "uid=0 pid=7".into() },
        Event::CsrBuilt { spiffe_id: spiffe_id.clone(), key: "thumbprint".into() },
        Event::CertificateSigned {
            spiffe_id: spiffe_id.clone(),
            serial: "0a".into(),
            key: "thumbprint".into(),
            profile: "workload".into(),
            requested_by: "spiffe://fleamarket.test/countersign/agent/laptop".into(),
            not_after: NOW,
        },
        Event::CertificateDelivered { spiffe_id, serial: "0a".into() },
    ];
    let kinds = steps.iter().map(|step| serde_json::to_value(step).unwrap()["kind"].clone());
    let expected = [
        "bootstrap_credential_issued",
        "enrolment_requested",
        "csr_built",
        "certificate_signed",
        "certificate_delivered",
    ];
    assert_eq!(kinds.collect::<Vec<_>>(), expected);
    let mut writer = ads();
    for step in steps {
        assert!(step.is_durable_at_once());
        assert_eq!(writer.append(&step, NOW).unwrap().entry().unwrap().event, step);
    }
    assert_eq!(writer.sequence(), 5);
}

#[test]
fn only_an_allowed_call_may_wait_for_the_next_batch() {
    let allowed = Event::Decision(Box::new(decision()));
    assert!(!allowed.is_durable_at_once());
    let denied = Event::Decision(Box::new(Decision { verdict: Verdict::Deny, ..decision() }));
    assert!(denied.is_durable_at_once());
    let login = Event::Login { user: None, address: None, outcome: LoginOutcome::UnknownUser };
    assert!(login.is_durable_at_once());
    assert_eq!(denied.decision(), Some(&decision().id));
    assert_eq!(login.decision(), None);
}

#[test]
fn explain_finds_its_fields_under_their_documented_names() {
    let json = serde_json::to_value(Event::Decision(Box::new(decision()))).unwrap();
    assert_eq!(json["kind"], "decision");
    assert_eq!((&json["verdict"], &json["stage"]), (&"allow".into(), &"policy".into()));
    let results: Vec<_> = json["checks"].as_array().unwrap().iter().map(|check| &check["result"]).collect();
    assert_eq!(results, ["pass", "fail", "not_reached"]);
    assert_eq!(json["checks"][1]["detail"], "expired 3 s ago");
}

#[test]
fn a_word_is_the_same_in_json_and_in_tables() {
    let stages = [
        Stage::Transport,
        Stage::Request,
        Stage::Quota,
        Stage::Identity,
        Stage::Token,
        Stage::Policy,
        Stage::Upstream,
    ];
    assert!(stages.is_sorted());
    for stage in stages {
        assert_eq!(serde_json::to_value(stage).unwrap(), stage.to_string());
    }
    use LoginOutcome::{Accepted, Busy, Locked, Throttled, UnknownUser, WrongPassword};
    for outcome in [Accepted, WrongPassword, UnknownUser, Locked, Throttled, Busy] {
        assert_eq!(serde_json::to_value(outcome).unwrap(), outcome.as_str());
    }
    for result in [CheckResult::Pass, CheckResult::Fail, CheckResult::NotReached] {
        assert_eq!(serde_json::to_value(result).unwrap(), result.as_str());
    }
    assert_eq!((Verdict::Allow.as_str(), Verdict::Deny.as_str()), ("allow", "deny"));
}

#[test]
fn the_chain_is_the_documented_construction() {
    let record = ads().append(&Event::ClockSteppedBack { by_ms: 1 }, NOW).unwrap();
    let start = [&b"countersign/v1/ledger-writer\0spiffe://fleamarket.test/svc/ads\0"[..], &[7; 16]];
    let leaf = sha256(&[&[0][..], &record.bytes].concat());
    let expected = sha256(&[&[1][..], &sha256(&start.concat()), &leaf].concat());
    assert_eq!(record.chain, Digest::new(expected));
    assert_eq!(countersign_ledger::chain::leaf(&record.bytes), Digest::new(leaf));
}

#[test]
fn the_leaf_hash_is_that_of_rfc_6962() {
    let empty = "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d";
    assert_eq!(leaf(b"").to_string(), empty);
}

#[test]
fn a_writer_goes_on_where_its_spool_ends() {
    let mut writer = ads();
    let first = writer.append(&Event::ClockSteppedBack { by_ms: 1 }, NOW).unwrap();
    let second = Writer::resume(&first).append(&Event::ClockSteppedBack { by_ms: 2 }, NOW).unwrap();
    let mut verifier = WriterVerifier::start(id("svc/ads"), boot());
    verifier.accept(&first).unwrap();
    let mut resumed = WriterVerifier::resume(id("svc/ads"), boot(), verifier.sequence(), verifier.hash());
    resumed.accept(&second).unwrap();
    assert_eq!((resumed.sequence(), resumed.hash()), (2, second.chain));
    assert_eq!((writer.boot(), writer.id()), (boot(), &id("svc/ads")));
}

#[test]
fn an_event_at_the_size_limit_is_written_and_one_byte_more_is_refused() {
    let of = |bytes: usize| Event::LedgerAlarm { finding: "x".repeat(bytes) };
    let frame = ads().append(&of(0), NOW).unwrap().bytes.len();
    let mut writer = ads();
    assert_eq!(writer.append(&of(EVENT_BYTES_MAX - frame), NOW).unwrap().bytes.len(), EVENT_BYTES_MAX);
    let (sequence, hash) = (writer.sequence(), writer.hash());
    let refused = writer.append(&of(EVENT_BYTES_MAX - frame + 1), NOW);
    assert_eq!(refused, Err(AppendError::TooLarge { bytes: EVENT_BYTES_MAX + 1 }));
    assert_eq!((writer.sequence(), writer.hash()), (sequence, hash), "a refused event moves nothing");
}

#[test]
fn a_refusal_is_recorded_however_long_its_texts_are() {
    for filler in ["x", "\0", "\"", "\\", "ü", "\u{1f600}", "\u{2028}"] {
        let long = || filler.repeat(5000);
        let check = CheckRecord { name: long(), result: CheckResult::Fail, detail: long() };
        let monster = Decision {
            verdict: Verdict::Deny,
            source: Some(long()),
            target: long(),
            method: long(),
            route: long(),
            user: Some(long()),
            mode: long(),
            checks: vec![check; 500],
            policy: Some(long()),
            code: Some(long()),
            reason: Some(long()),
            fix: Some(long()),
            connection: Some(long()),
            peer: Some(long()),
            trace: Some(long()),
            ..decision()
        };
        let record = ads().append(&Event::Decision(Box::new(monster)), NOW).unwrap();
        let Event::Decision(kept) = record.entry().unwrap().event else { panic!() };
        assert_eq!((kept.id, kept.verdict, kept.status), (decision().id, Verdict::Deny, 200));
        assert!(kept.route.ends_with('…') && !kept.checks.is_empty());
    }
}

#[test]
fn rejects_a_record_that_is_longer_than_any_event() {
    let record = with_bytes(vec![b' '; EVENT_BYTES_MAX + 1]);
    assert_eq!(record.entry(), Err(RecordError::TooLarge { bytes: EVENT_BYTES_MAX + 1 }));
}

#[test]
fn rejects_a_record_that_is_not_an_entry() {
    for bytes in ["", "{}", "[]", "{\"v\":1}", "{\"v\":\"1\"}"] {
        let found = with_bytes(bytes.into()).entry();
        assert!(matches!(found, Err(RecordError::Unreadable { .. })), "{bytes}: {found:?}");
    }
}

#[test]
fn rejects_a_record_with_a_doubled_field() {
    let text = String::from_utf8(valid().bytes).unwrap().replacen("{", "{\"sequence\":1,", 1);
    assert!(matches!(with_bytes(text.into()).entry(), Err(RecordError::Unreadable { .. })));
}

#[test]
fn rejects_a_schema_that_no_release_wrote() {
    let text = String::from_utf8(valid().bytes).unwrap().replacen("\"v\":1", "\"v\":0", 1);
    assert_eq!(with_bytes(text.into()).entry(), Err(RecordError::UnknownSchema { v: 0 }));
}

#[test]
fn an_event_of_a_newer_release_still_verifies_but_is_not_understood() {
    let text = String::from_utf8(valid().bytes).unwrap().replacen("\"v\":1", "\"v\":9", 1).replacen(
        "clock_stepped_back",
        "clock_exploded",
        1,
    );
    let mut record = with_bytes(text.into());
    let mut verifier = WriterVerifier::start(id("svc/ads"), boot());
    assert_eq!(verifier.accept(&record), Err(RecordError::BrokenChain));
    let start = WriterVerifier::start(id("svc/ads"), boot()).hash();
    let link = [&[1][..], start.as_bytes(), leaf(&record.bytes).as_bytes()].concat();
    record.chain = Digest::new(sha256(&link));
    assert_eq!(verifier.accept(&record), Ok(()));
    assert!(matches!(record.entry(), Err(RecordError::UnknownEvent { .. })));
}

#[test]
fn rejects_what_is_no_boot_id() {
    for text in [
        "",
        "07",
        "0707070707070707070707070707070G",
        "+707070707070707070707070707070",
        "0707070707070707070707070707070A",
    ] {
        assert_eq!(text.parse::<BootId>(), Err(RecordError::BadBootId), "{text}");
    }
    assert_eq!(boot().to_string().parse(), Ok(boot()));
}

#[test]
fn rejects_what_is_no_hash() {
    let hash = leaf(b"x");
    assert_eq!(hash.to_string().parse(), Ok(hash));
    for text in ["", "00", &hash.to_string().to_uppercase(), &format!("{hash}0"), &format!("{hash}00")] {
        assert_eq!(text.parse::<Digest>(), Err(DigestError), "{text}");
    }
    assert_eq!(Digest::try_from(&[0_u8; 31][..]), Err(DigestError));
}

#[test]
fn a_gap_must_be_continued_behind_its_end() {
    let mut writer = ads();
    let records: Vec<_> =
        (0..5).map(|by_ms| writer.append(&Event::ClockSteppedBack { by_ms }, NOW).unwrap()).collect();
    let mut verifier = WriterVerifier::start(id("svc/ads"), boot());
    verifier.accept(&records[0]).unwrap();
    let too_far = verifier.accept_after_gap(&records[4], 3);
    assert_eq!(too_far, Err(RecordError::OutOfSequence { expected: 4, got: 5 }));
    let no_gap = verifier.accept_after_gap(&records[1], 1);
    assert_eq!(no_gap, Err(RecordError::OutOfSequence { expected: 2, got: 2 }));
    verifier.accept_after_gap(&records[3], 3).unwrap();
    verifier.accept(&records[4]).unwrap();
}

#[test]
fn errors_are_short_sentences_without_a_full_stop() {
    let errors = [
        AppendError::TooLarge { bytes: 1 }.to_string(),
        AppendError::Unwritable { why: "because".into() }.to_string(),
        RecordError::Mislabelled.to_string(),
        RecordError::ForeignChain.to_string(),
        RecordError::BrokenChain.to_string(),
        RecordError::OutOfSequence { expected: 1, got: 2 }.to_string(),
    ];
    for error in errors {
        assert!(error.starts_with(|c: char| c.is_lowercase()) && !error.ends_with('.'), "{error}");
    }
}

fn decision() -> Decision {
    let check =
        |name: &str, result, detail: &str| CheckRecord { name: name.into(), result, detail: detail.into() };
    Decision {
        id: DecisionId::from_random([1; 10]),
        verdict: Verdict::Allow,
        stage: Stage::Policy,
        source: Some("spiffe://fleamarket.test/svc/ads".into()),
        target: "users".into(),
        method: "GET".into(),
        route: "/users/{id}".into(),
        user: Some("p_0123".into()),
        mode: "mtls".into(),
        checks: vec![
            check("usage", CheckResult::Pass, ""),
            check("validity", CheckResult::Fail, "expired 3 s ago"),
            check("chain", CheckResult::NotReached, ""),
        ],
        policy: Some("ads-reads-users".into()),
        code: None,
        reason: None,
        fix: None,
        status: 200,
        latency_us: 812,
        connection: Some("c_1".into()),
        peer: Some("127.0.0.1:5000".into()),
        trace: None,
    }
}

fn valid() -> Record {
    ads().append(&Event::ClockSteppedBack { by_ms: 1 }, NOW).unwrap()
}

fn with_bytes(bytes: Vec<u8>) -> Record {
    Record { bytes, ..valid() }
}

fn ads() -> Writer {
    Writer::start(id("svc/ads"), boot())
}

fn boot() -> BootId {
    BootId::from_random([7; 16])
}

fn id(path: &str) -> SpiffeId {
    SpiffeId::parse(&format!("spiffe://fleamarket.test/{path}")).unwrap()
}
