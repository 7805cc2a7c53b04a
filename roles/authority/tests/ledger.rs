//! What others wrote, taken in, explained and verified.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

mod common;

use common::{Place, Running, from_base64, home};
use countersign_identity::{DecisionId, SpiffeId, UnixTime};
use countersign_keys::PublicKey;
use countersign_ledger::{
    BootId, CallBatcher, CallEdge, CheckRecord, CheckResult, ConnectionId, Decision, Digest, Event, NewCall,
    Record, SignedHead, Stage, Verdict, Writer,
    log::{Assurance, LogVerifier},
};
use countersign_sdk::{clock, outbound::Channel};
use countersign_wire::{
    agent::{EdgeCount, LedgerRecord, ReportRequest},
    node::node_client::NodeClient,
};
use tonic::{Code, Status};

fn ads() -> SpiffeId {
    SpiffeId::service(&home(), "ads").unwrap()
}

fn writer(id: SpiffeId) -> Writer {
    Writer::start(id, BootId::from_random([7; 16]))
}

fn denial(number: u8) -> Event {
    Event::Decision(Box::new(Decision {
        id: DecisionId::from_random([number; 10]),
        verdict: Verdict::Deny,
        stage: Stage::Transport,
        source: None,
        target: "ads".to_owned(),
        method: String::new(),
        route: String::new(),
        user: None,
        mode: "none".to_owned(),
        checks: vec![CheckRecord {
            name: "usage".to_owned(),
            result: CheckResult::Fail,
            detail: "no".to_owned(),
        }],
        policy: None,
        code: Some("CS2001".to_owned()),
        reason: Some("no client certificate".to_owned()),
        fix: Some("bring one".to_owned()),
        status: 0,
        latency_us: 12,
        connection: Some("c_1".to_owned()),
        peer: Some("127.0.0.1:1".to_owned()),
        trace: None,
    }))
}

/// A batch of allowed calls of `target`, with these numbers.
fn calls(target: &str, numbers: std::ops::Range<u8>) -> Event {
    let passed =
        |name: &str| CheckRecord { name: name.to_owned(), result: CheckResult::Pass, detail: String::new() };
    let facts = CallEdge {
        source: Some("spiffe://fleamarket.test/svc/users".to_owned()),
        target: target.to_owned(),
        method: "GET".to_owned(),
        route: "/ads/{id}".to_owned(),
        mode: "mtls".to_owned(),
        stage: Stage::Policy,
        checks: vec![passed("chain"), passed("policy")],
        policy: Some("users-may-read".to_owned()),
    };
    let mut batcher = CallBatcher::new(&ads());
    for number in numbers {
        let call = NewCall {
            id: DecisionId::from_random([number; 10]),
            edge: 0,
            facts: &facts,
            at: UnixTime::from_secs(1_800_000_000 + i64::from(number)),
            latency_us: 700,
            status: 200,
            trace: 1,
            user: None,
            connection: Some((ConnectionId::from_random(7), Some(([127, 0, 0, 1], 4711).into()))),
        };
        batcher.push(&call).unwrap();
    }
    batcher.take().unwrap().into()
}

fn write(writer: &mut Writer, count: u8) -> Vec<Record> {
    (0..count).map(|number| writer.append(&denial(number), clock::now()).unwrap()).collect()
}

fn on_the_wire(records: &[Record]) -> Vec<LedgerRecord> {
    let one = |record: &Record| LedgerRecord {
        writer: record.writer.to_string(),
        boot: record.boot.to_string(),
        sequence: record.sequence,
        event: record.bytes.clone(),
        chain: record.chain.as_bytes().to_vec(),
    };
    records.iter().map(one).collect()
}

async fn report(agent: &mut NodeClient<Channel>, records: Vec<LedgerRecord>) -> Result<u64, Status> {
    let answer = agent.report(ReportRequest { records, edges: Vec::new() }).await?;
    Ok(answer.into_inner().acknowledged)
}

/// Walks the whole ledger as an auditor would.
async fn verify(authority: &Running) -> countersign_ledger::log::Report {
    let keys = authority.get("/api/v1/audit/keys").await;
    let key = PublicKey::from_jwk(&keys["keys"][0].to_string()).unwrap();
    let head = authority.get("/api/v1/audit/head").await;
    let head = SignedHead::parse(&head.to_string()).unwrap();
    let head = head.verify(|kid| (kid == key.thumbprint()).then(|| key.clone())).unwrap();
    let mut verifier = LogVerifier::new(&home()).expecting_outside(&head);
    let mut after = 0;
    while after < head.size {
        let page = authority.get(&format!("/api/v1/audit/events?limit=100&after={after}")).await;
        for item in page["items"].as_array().unwrap() {
            after = item["index"].as_u64().unwrap();
            let digest =
                |name: &str| Digest::try_from(from_base64(item[name].as_str().unwrap()).as_slice()).unwrap();
            let record = Record {
                writer: SpiffeId::parse(item["writer"].as_str().unwrap()).unwrap(),
                boot: item["boot"].as_str().unwrap().parse().unwrap(),
                sequence: item["sequence"].as_u64().unwrap(),
                bytes: from_base64(item["event"].as_str().unwrap()),
                chain: digest("chain"),
            };
            verifier.accept(after, &record, digest("log")).unwrap();
        }
    }
    verifier.finish().unwrap()
}

#[tokio::test]
async fn records_are_taken_once_whatever_is_retried_and_the_whole_log_verifies() {
    let place = Place::new();
    let authority = place.start().await;
    let mut agent = authority.agent("local").await;
    let records = write(&mut writer(ads()), 5);
    assert_eq!(report(&mut agent, on_the_wire(&records[..3])).await.unwrap(), 3);
    assert_eq!(report(&mut agent, on_the_wire(&records[..3])).await.unwrap(), 3);
    assert_eq!(report(&mut agent, on_the_wire(&records)).await.unwrap(), 5);
    let stored = authority.get(&format!("/api/v1/audit/events?limit=100&writer={}", ads())).await;
    assert_eq!(stored["items"].as_array().unwrap().len(), 5);
    let report = verify(&authority).await;
    assert_eq!(report.gaps, 0);
    assert!(matches!(report.assurance, Assurance::MatchesOutsideHead { .. }));
    authority.stop().await;
}

#[tokio::test]
async fn what_is_missing_is_a_gap_that_the_ledger_itself_tells_of() {
    let place = Place::new();
    let authority = place.start().await;
    let mut agent = authority.agent("local").await;
    let records = write(&mut writer(ads()), 9);
    let holes = [&records[0..2], &records[4..5], &records[7..9]].concat();
    assert_eq!(report(&mut agent, on_the_wire(&holes)).await.unwrap(), 9);
    let gaps = authority.events("gap").await;
    let places: Vec<_> =
        gaps.iter().map(|gap| (gap["missing_from"].clone(), gap["missing_to"].clone())).collect();
    assert_eq!(places, [(3.into(), 4.into()), (6.into(), 7.into())]);
    let verified = verify(&authority).await;
    assert_eq!((verified.gaps, verified.missing), (2, 4));
    authority.stop().await;
}

#[tokio::test]
async fn rejects_records_that_were_changed_reordered_or_written_by_somebody_else() {
    let place = Place::new();
    let authority = place.start().await;
    let mut agent = authority.agent("local").await;
    let records = on_the_wire(&write(&mut writer(ads()), 3));
    let mut changed = records.clone();
    changed[1].event =
        String::from_utf8(changed[1].event.clone()).unwrap().replace("deny", "allow").into_bytes();
    assert_eq!(report(&mut agent, changed).await.unwrap(), 3, "a bad record stands in the way of the next");
    let stored = authority.get(&format!("/api/v1/audit/events?limit=100&writer={}", ads())).await;
    let kept: Vec<_> =
        stored["items"].as_array().unwrap().iter().map(|item| item["sequence"].clone()).collect();
    assert_eq!(kept, [1, 3], "a record that was changed is in the ledger, or a good one is not");
    let alarms = authority.events_at_least("ledger_alarm", 1).await;
    assert!(alarms[0]["finding"].as_str().unwrap().starts_with("CS6009: left out record 2 of"), "{alarms:?}");

    let users = SpiffeId::service(&home(), "users").unwrap();
    let elsewhere = on_the_wire(&write(&mut writer(users), 1));
    let refused = report(&mut agent, elsewhere).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied, "{refused}");
    let authority_itself = on_the_wire(&write(&mut writer(SpiffeId::authority(&home())), 1));
    assert_eq!(report(&mut agent, authority_itself).await.unwrap_err().code(), Code::PermissionDenied);

    let mut unreadable = records.clone();
    unreadable[0].chain.pop();
    assert_eq!(report(&mut agent, unreadable).await.unwrap_err().code(), Code::InvalidArgument);
    let too_many = vec![records[0].clone(); 2001];
    assert_eq!(report(&mut agent, too_many).await.unwrap_err().code(), Code::ResourceExhausted);
    assert_eq!(report(&mut agent, records).await.unwrap(), 3);
    assert_eq!(authority.events("ledger_alarm").await.len(), 1, "what was settled alarms again");
    assert_eq!(verify(&authority).await.gaps, 1);
    authority.stop().await;
}

#[tokio::test]
async fn a_decision_made_elsewhere_is_explained_here() {
    let place = Place::new();
    let authority = place.start().await;
    let mut agent = authority.agent("local").await;
    report(&mut agent, on_the_wire(&write(&mut writer(ads()), 2))).await.unwrap();
    let last = authority.get("/api/v1/decisions/last").await;
    assert_eq!(last["decision"], DecisionId::from_random([1; 10]).to_string());
    assert_eq!(last["writer"], ads().to_string());
    assert_eq!(last["checks"][0]["result"], "fail");
    assert_eq!((&last["fix"], &last["code"]), (&"bring one".into(), &"CS2001".into()));
    let first = DecisionId::from_random([0; 10]).to_string().to_lowercase();
    assert_eq!(authority.get(&format!("/api/v1/decisions/{first}")).await["verdict"], "deny");
    authority.stop().await;
}

#[tokio::test]
async fn an_allowed_call_within_a_batch_is_explained_by_its_id() {
    let place = Place::new();
    let authority = place.start().await;
    let mut agent = authority.agent("local").await;
    let mut writer = writer(ads());
    let records: Vec<_> = [calls("ads", 10..110), denial(1), calls("ads", 110..210)]
        .iter()
        .map(|event| writer.append(event, clock::now()).unwrap())
        .collect();
    report(&mut agent, on_the_wire(&records)).await.unwrap();
    let id = DecisionId::from_random([150; 10]);
    let told = authority.get(&format!("/api/v1/decisions/{id}")).await;
    assert_eq!((&told["decision"], &told["verdict"]), (&id.to_string().into(), &"allow".into()));
    assert_eq!(
        (&told["source"], &told["target"]),
        (&"spiffe://fleamarket.test/svc/users".into(), &"ads".into())
    );
    assert_eq!((&told["policy"], &told["mode"]), (&"users-may-read".into(), &"mtls".into()));
    assert_eq!((&told["status"], &told["latency_us"]), (&200.into(), &700.into()));
    assert_eq!(
        (&told["connection"], &told["peer"]),
        (&"c_0000000000000007".into(), &"127.0.0.1:4711".into())
    );
    assert_eq!((&told["checks"][0]["name"], &told["checks"][1]["result"]), (&"chain".into(), &"pass".into()));
    assert_eq!((&told["at"], &told["writer"]), (&1_800_000_150_000_u64.into(), &ads().to_string().into()));
    let last = authority.get("/api/v1/decisions/last").await;
    assert_eq!(last["verdict"], "deny", "the last refusal is no call of a batch");

    let found = authority.get(&format!("/api/v1/audit/events?decision={id}")).await;
    assert_eq!((&found["items"][0]["sequence"], &found["items"][1]), (&3.into(), &serde_json::Value::Null));
    assert_eq!(found["items"][0]["kind"], "allowed_calls");
    verify(&authority).await;
    authority.stop().await;
}

#[tokio::test]
async fn a_call_that_its_caller_could_not_make_is_told_by_the_caller_and_only_as_a_refusal() {
    let place = Place::new();
    let authority = place.start().await;
    let mut agent = authority.agent("local").await;
    let Event::Decision(mut stopped) = denial(1) else { unreachable!() };
    let mut records = Vec::new();
    let mut pen = writer(ads());
    for target in ["unknown", "users"] {
        stopped.source = Some(ads().to_string());
        stopped.target = target.to_owned();
        stopped.id = DecisionId::from_random([records.len() as u8; 10]);
        records.push(pen.append(&Event::Decision(stopped.clone()), clock::now()).unwrap());
    }
    records.push(pen.append(&denial(9), clock::now()).unwrap());
    assert_eq!(report(&mut agent, on_the_wire(&records)).await.unwrap(), 3);
    let stored = authority.get(&format!("/api/v1/audit/events?limit=100&writer={}", ads())).await;
    assert_eq!(stored["items"].as_array().unwrap().len(), 3, "what a sidecar told is missing");
    authority.stop().await;
}

#[tokio::test]
async fn a_batch_that_was_cut_on_its_way_is_found_and_so_is_one_of_calls_of_others() {
    let place = Place::new();
    let authority = place.start().await;
    let mut agent = authority.agent("local").await;
    let record = writer(ads()).append(&calls("ads", 0..50), clock::now()).unwrap();
    let mut cut = on_the_wire(std::slice::from_ref(&record));
    let text = String::from_utf8(cut[0].event.clone()).unwrap();
    let rows = text.find("\"rows\":\"").unwrap() + 8;
    cut[0].event = format!("{}{}", &text[..rows], &text[rows + 56..]).into_bytes();
    report(&mut agent, cut).await.unwrap();
    let foreign =
        Writer::start(ads(), BootId::from_random([9; 16])).append(&calls("users", 0..2), clock::now());
    report(&mut agent, on_the_wire(&[foreign.unwrap()])).await.unwrap();
    assert_eq!(authority.events("allowed_calls").await, [] as [serde_json::Value; 0]);
    authority.events_at_least("ledger_alarm", 2).await;
    // Told in the place of a call that is in the ledger already: the first one counts.
    report(&mut agent, on_the_wire(&[record])).await.unwrap();
    let later = Writer::start(ads(), BootId::from_random([8; 16])).append(&denial(7), clock::now()).unwrap();
    report(&mut agent, on_the_wire(&[later])).await.unwrap();
    let id = DecisionId::from_random([7; 10]);
    assert_eq!(authority.get(&format!("/api/v1/decisions/{id}")).await["verdict"], "allow");
    verify(&authority).await;
    authority.stop().await;
}

#[tokio::test]
async fn a_service_tells_of_nothing_but_itself_and_cannot_speak_in_the_place_of_a_decision() {
    let place = Place::new();
    let authority = place.start().await;
    let mut agent = authority.agent("local").await;
    report(&mut agent, on_the_wire(&write(&mut writer(ads()), 2))).await.unwrap();

    let Event::Decision(mut forged) = denial(1) else { unreachable!() };
    forged.verdict = Verdict::Allow;
    let mut later = Writer::start(ads(), BootId::from_random([8; 16]));
    let record = later.append(&Event::Decision(forged.clone()), clock::now()).unwrap();
    report(&mut agent, on_the_wire(&[record])).await.unwrap();
    let id = DecisionId::from_random([1; 10]);
    assert_eq!(authority.get(&format!("/api/v1/decisions/{id}")).await["verdict"], "deny");

    forged.target = "users".to_owned();
    let mut of_itself = forged.clone();
    of_itself.source = Some(ads().to_string());
    let mut of_another = forged.clone();
    (of_another.verdict, of_another.source) =
        (Verdict::Deny, Some("spiffe://fleamarket.test/svc/chat".to_owned()));
    let user = "u".to_owned();
    let before = authority.get(&format!("/api/v1/audit/events?limit=100&writer={}", ads())).await;
    for (boot, event) in [
        (18, Event::Decision(of_itself)),
        (19, Event::Decision(of_another)),
        (20, Event::Decision(forged)),
        (21, Event::UserAdded { user: user.clone(), roles: Vec::new(), added_by: "uid:0".to_owned() }),
        (22, Event::LedgerAlarm { finding: "boo".to_owned() }),
        (23, Event::TokenMinted { typ: "x".to_owned(), id: "x".to_owned(), user, expires: clock::now() }),
    ] {
        let mut writer = Writer::start(ads(), BootId::from_random([boot; 16]));
        let record = writer.append(&event, clock::now()).unwrap();
        assert_eq!(
            report(&mut agent, on_the_wire(&[record])).await.unwrap(),
            1,
            "{event:?} is asked for again"
        );
    }
    let after = authority.get(&format!("/api/v1/audit/events?limit=100&writer={}", ads())).await;
    assert_eq!(after["items"], before["items"]);
    authority.events_at_least("ledger_alarm", 6).await;
    verify(&authority).await;
    authority.stop().await;
}

#[tokio::test]
async fn calls_are_summed_up_only_for_callees_that_live_on_the_node() {
    let place = Place::new();
    let authority = place.start().await;
    let mut agent = authority.agent("local").await;
    let count = |target: &str| EdgeCount {
        source: "spiffe://fleamarket.test/countersign/gateway/edge".to_owned(),
        target: target.to_owned(),
        mode: "mtls".to_owned(),
        user: "internal_token".to_owned(),
        policy: "browse".to_owned(),
        requests: 10,
        denied: 1,
        latency_log2_us: vec![0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 10],
    };
    for _ in 0..2 {
        let edges = vec![count("ads"), count("users"), count("nobody")];
        agent.report(ReportRequest { records: Vec::new(), edges }).await.unwrap();
    }
    let edges = authority.get("/api/v1/edges").await;
    assert_eq!(edges.as_array().unwrap().len(), 1);
    let edge = &edges[0];
    assert_eq!((edge["target"].as_str().unwrap(), edge["requests"].as_u64().unwrap()), ("ads", 20));
    assert_eq!((edge["denied"].as_u64().unwrap(), edge["policy"].as_str().unwrap()), (2, "browse"));
    let p50 = edge["p50_ms"].as_f64().unwrap();
    assert!((0.5..=1.1).contains(&p50), "{p50}");
    authority.stop().await;
}
