use countersign_identity::DecisionId;
use countersign_ledger::log::{Assurance, LogError, LogVerifier};
use countersign_ledger::{
    CallBatcher, CallEdge, Decision, Event, NewCall, Record, SignedHead, Stage, Verdict, Writer,
};
use countersign_store::ledger::{EVENTS_BYTES_MAX, LedgerQuery};
use countersign_store::{Db, ROWS_MAX, StoreError};

use crate::ground::{Ground, NOW, event, later};

fn decision(number: u8, verdict: Verdict) -> Event {
    Event::Decision(Box::new(Decision {
        id: DecisionId::from_random([number; 10]),
        verdict,
        stage: Stage::Policy,
        source: None,
        target: "ads".to_owned(),
        method: "GET".to_owned(),
        route: "/ads/{id}".to_owned(),
        user: None,
        mode: "mtls".to_owned(),
        checks: Vec::new(),
        policy: None,
        code: None,
        reason: Some("\u{1f512} quotes \" and\nlines".to_owned()),
        fix: None,
        status: 200,
        latency_us: 7,
        connection: None,
        peer: None,
        trace: None,
    }))
}

/// A batch of calls over one edge, with these numbers.
fn batch(numbers: &[u8]) -> Event {
    let facts = CallEdge {
        source: None,
        target: "ads".to_owned(),
        method: "GET".to_owned(),
        route: "/ads/{id}".to_owned(),
        mode: "mtls".to_owned(),
        stage: Stage::Policy,
        checks: Vec::new(),
        policy: None,
    };
    let mut batcher = CallBatcher::new(&"spiffe://td/svc/ads".parse().unwrap());
    for number in numbers {
        let call = NewCall {
            id: id(*number),
            edge: 0,
            facts: &facts,
            at: NOW,
            latency_us: 1,
            status: 200,
            trace: 0,
            user: None,
            connection: None,
        };
        batcher.push(&call).unwrap();
    }
    batcher.take().unwrap().into()
}

fn id(number: u8) -> DecisionId {
    DecisionId::from_random([number; 10])
}

async fn verify(db: &Db) -> Result<Assurance, LogError> {
    let mut verifier = LogVerifier::new(db.trust_domain());
    let all = LedgerQuery { limit: ROWS_MAX, ..LedgerQuery::default() };
    for event in db.events(&all).await.unwrap() {
        verifier.accept(event.index, &event.record, event.log)?;
    }
    verifier.finish().map(|report| report.assurance)
}

fn records(writer: &mut Writer, count: usize) -> Vec<Record> {
    (0..count).map(|_| event(writer)).collect()
}

both! {
    async fn records_come_back_byte_for_byte_with_index_and_log_hash(ground: &Ground) {
        let mut writer = ground.writer();
        let mut sent = records(&mut writer, 2);
        sent.push(writer.append(&decision(1, Verdict::Deny), NOW).unwrap());
        let state = ground.db.append(&sent, later(3)).await.unwrap();

        let reopened = ground.reopened().await;
        assert_eq!(reopened.log_state().await.unwrap(), state);
        let query = LedgerQuery { limit: 10, ..LedgerQuery::default() };
        let got = reopened.events(&query).await.unwrap();
        assert_eq!(got.iter().map(|event| event.index).collect::<Vec<_>>(), [1, 2, 3]);
        assert_eq!(got.iter().map(|event| event.record.clone()).collect::<Vec<_>>(), sent);
        assert_eq!((got[2].log, got[2].stored_at), (state.hash(), later(3)));
        assert_eq!(verify(&reopened).await, Ok(Assurance::InternallyConsistentOnly));
    }

    async fn a_retry_stores_nothing_twice(ground: &Ground) {
        let sent = records(&mut ground.writer(), 4);
        ground.db.append(&sent[..2], NOW).await.unwrap();
        let state = ground.db.append(&sent, NOW).await.unwrap();
        assert_eq!(state.size(), 4);
        assert_eq!(ground.db.append(&sent[1..3], NOW).await.unwrap(), state);
        assert_eq!(verify(&ground.db).await, Ok(Assurance::InternallyConsistentOnly));
    }

    async fn another_event_at_the_same_place_is_refused_with_the_whole_batch(ground: &Ground) {
        let sent = records(&mut ground.writer(), 2);
        ground.db.append(&sent[..1], NOW).await.unwrap();
        let mut forged = sent.clone();
        forged[0].bytes = b"{}".to_vec();
        forged.reverse();
        let expected = StoreError::LedgerConflict {
            writer: sent[0].writer.to_string(),
            boot: sent[0].boot.to_string(),
            sequence: 1,
        };
        assert_eq!(ground.db.append(&forged, NOW).await, Err(expected));
        assert_eq!(ground.db.log_state().await.unwrap().size(), 1);
    }

    async fn parallel_writers_make_one_log_without_holes(ground: &Ground) {
        let second = ground.reopened().await;
        let mut tasks = tokio::task::JoinSet::new();
        for turn in 0..12 {
            let db = if turn % 2 == 0 { ground.db.clone() } else { second.clone() };
            let sent = records(&mut ground.writer(), 5);
            tasks.spawn(async move {
                for record in sent {
                    db.append(&[record], NOW).await.unwrap();
                }
            });
        }
        tasks.join_all().await;
        assert_eq!(ground.db.log_state().await.unwrap().size(), 60);
        assert_eq!(verify(&ground.db).await, Ok(Assurance::InternallyConsistentOnly));
    }

    async fn what_is_changed_at_rest_is_noticed(ground: &Ground) {
        ground.db.append(&records(&mut ground.writer(), 5), NOW).await.unwrap();
        ground.tamper("UPDATE ledger SET event = replace(event, '\"by_ms\":7', '\"by_ms\":8') WHERE idx = 3").await;
        assert!(matches!(verify(&ground.db).await, Err(LogError::BadEntry { index: 3, .. })));
        ground.tamper("UPDATE ledger SET event = replace(event, '\"by_ms\":8', '\"by_ms\":7') WHERE idx = 3").await;
        ground.tamper("UPDATE ledger SET log = (SELECT log FROM ledger WHERE idx = 1) WHERE idx = 4").await;
        assert_eq!(verify(&ground.db).await, Err(LogError::BrokenLog { index: 4 }));
        ground.tamper("DELETE FROM ledger WHERE idx = 2").await;
        assert_eq!(verify(&ground.db).await, Err(LogError::MissingEntry { expected: 2, got: 3 }));
    }

    async fn decisions_are_found_by_id_and_the_newest_by_verdict(ground: &Ground) {
        let mut writer = ground.writer();
        let events =
            [decision(1, Verdict::Deny), decision(2, Verdict::Allow), Event::ClockSteppedBack { by_ms: 1 }];
        let sent: Vec<Record> = events.iter().map(|event| writer.append(event, NOW).unwrap()).collect();
        ground.db.append(&sent, NOW).await.unwrap();

        assert_eq!(ground.db.decision(id(1)).await.unwrap().unwrap().record, sent[0]);
        assert_eq!(ground.db.decision(id(9)).await.unwrap(), None);
        let last = |verdict| async move {
            ground.db.last_decision(verdict).await.unwrap().and_then(|event| event.decision)
        };
        assert_eq!(last(None).await, Some(id(2).to_string()));
        assert_eq!(last(Some(Verdict::Deny)).await, Some(id(1).to_string()));
        assert_eq!(last(Some(Verdict::Allow)).await, Some(id(2).to_string()));
    }

    async fn a_call_in_a_batch_is_found_by_its_id_and_by_every_search_for_decisions(ground: &Ground) {
        let mut writer = ground.writer();
        let events =
            [batch(&[1, 2]), decision(3, Verdict::Deny), batch(&[4]), decision(4, Verdict::Deny), batch(&[3])];
        let sent: Vec<Record> = events.iter().map(|event| writer.append(event, NOW).unwrap()).collect();
        ground.db.append(&sent, NOW).await.unwrap();
        let place = |number| async move { ground.db.decision(id(number)).await.unwrap().map(|found| found.index) };
        assert_eq!((place(1).await, place(2).await), (Some(1), Some(1)));
        // The first one that says it counts, whatever its form.
        assert_eq!((place(3).await, place(4).await, place(5).await), (Some(2), Some(3), None));

        let all = LedgerQuery { limit: 100, ..LedgerQuery::default() };
        let found = |query: LedgerQuery| async move {
            ground.db.events(&query).await.unwrap().iter().map(|event| event.index).collect::<Vec<_>>()
        };
        assert_eq!(found(LedgerQuery { decision: Some(id(4)), ..all.clone() }).await, [3, 4]);
        assert_eq!(found(LedgerQuery { decision: Some(id(9)), ..all.clone() }).await, [0_u64; 0]);
        assert_eq!(found(LedgerQuery { kind: Some("decision".into()), ..all.clone() }).await, [1, 2, 3, 4, 5]);
        assert_eq!(found(LedgerQuery { kind: Some("allowed_calls".into()), ..all.clone() }).await, [1, 3, 5]);
        assert_eq!(found(LedgerQuery { verdict: Some(Verdict::Allow), ..all.clone() }).await, [1, 3, 5]);
        verify(&ground.db).await.unwrap();
    }

    async fn a_search_ends_once_it_has_found_enough_and_goes_on_behind_that(ground: &Ground) {
        let mut writer = ground.writer();
        let long = Event::LedgerAlarm { finding: "x".repeat(16_000) };
        let sent: Vec<Record> = (0..400).map(|_| writer.append(&long, NOW).unwrap()).collect();
        ground.db.append(&sent, NOW).await.unwrap();
        let page = |after, newest| async move {
            let query = LedgerQuery { after, newest, limit: 1000, ..LedgerQuery::default() };
            ground.db.events(&query).await.unwrap().iter().map(|event| event.index).collect::<Vec<_>>()
        };
        let first = page(0, false).await;
        let bytes = first.len() * sent[0].bytes.len();
        assert!((EVENTS_BYTES_MAX..EVENTS_BYTES_MAX + 17_000).contains(&bytes), "{bytes}");
        let more = page(first.len() as u64, false).await;
        assert_eq!([first, more].concat(), (1..=400).collect::<Vec<u64>>());
        assert_eq!(page(0, true).await.last(), Some(&400), "the newest are the last ones");
    }

    async fn an_id_that_only_looks_like_one_of_a_batch_is_not_found(ground: &Ground) {
        let record = ground.writer().append(&batch(&[1]), NOW).unwrap();
        ground.db.append(&[record], NOW).await.unwrap();
        // The last byte is not among those that the database looks for.
        let close = DecisionId::from_random([1, 1, 1, 1, 1, 1, 1, 1, 1, 2]);
        assert_eq!(ground.db.decision(close).await.unwrap(), None);
        let query = LedgerQuery { decision: Some(close), limit: 9, ..LedgerQuery::default() };
        assert_eq!(ground.db.events(&query).await.unwrap(), []);
    }

    async fn calls_of_the_administration_are_found_by_their_decision_too(ground: &Ground) {
        let call = Event::AdminCall {
            route: "GET /api/v1/users".to_owned(),
            actor: "stranger".to_owned(),
            verdict: Verdict::Deny,
            decision: DecisionId::from_random([5; 10]),
        };
        let record = ground.writer().append(&call, NOW).unwrap();
        ground.db.append(&[record], NOW).await.unwrap();
        assert_eq!(ground.db.decision(id(5)).await.unwrap().unwrap().kind, "admin_call");
        assert_eq!(ground.db.last_decision(None).await.unwrap(), None, "that is about requests between services");
    }

    async fn searches_are_narrowed_by_every_condition(ground: &Ground) {
        let (mut first, mut second) = (ground.writer(), Writer::start(ground.id("ads"), ground.writer().boot()));
        for turn in 0..4 {
            ground.db.append(&[event(&mut first)], later(turn)).await.unwrap();
            let verdict = if turn % 2 == 0 { Verdict::Allow } else { Verdict::Deny };
            let decided = second.append(&decision(u8::try_from(turn).unwrap(), verdict), NOW).unwrap();
            ground.db.append(&[decided], later(turn)).await.unwrap();
        }
        let all = LedgerQuery { limit: 100, ..LedgerQuery::default() };
        let found = |query: LedgerQuery| async move {
            ground.db.events(&query).await.unwrap().iter().map(|event| event.index).collect::<Vec<_>>()
        };
        assert_eq!(found(LedgerQuery { after: 6, ..all.clone() }).await, [7, 8]);
        assert_eq!(found(LedgerQuery { limit: 2, newest: true, ..all.clone() }).await, [7, 8]);
        assert_eq!(found(LedgerQuery { limit: 0, ..all.clone() }).await, [0_u64; 0]);
        assert_eq!(found(LedgerQuery { kind: Some("decision".into()), ..all.clone() }).await, [2, 4, 6, 8]);
        assert_eq!(
            found(LedgerQuery { writer: Some(ground.id("ads").to_string()), ..all.clone() }).await,
            [2, 4, 6, 8]
        );
        assert_eq!(found(LedgerQuery { verdict: Some(Verdict::Deny), ..all.clone() }).await, [4, 8]);
        assert_eq!(found(LedgerQuery { decision: Some(id(2)), ..all.clone() }).await, [6]);
        assert_eq!(
            found(LedgerQuery { since: Some(later(1)), until: Some(later(3)), ..all.clone() }).await,
            [3, 4, 5, 6]
        );
        let last = ground.db.last_of_writer(second.id(), second.boot()).await.unwrap().unwrap();
        assert_eq!((last.record.sequence, last.record.chain), (4, second.hash()));
        let never = ground.db.last_of_writer(first.id(), ground.writer().boot()).await.unwrap();
        assert_eq!(never, None);
    }

    async fn an_event_of_a_newer_release_keeps_its_kind(ground: &Ground) {
        let mut record = ground.record();
        let text = String::from_utf8(record.bytes).unwrap().replace("clock_stepped_back", "from_the_future");
        record.bytes = text.into_bytes();
        ground.db.append(&[record.clone()], NOW).await.unwrap();
        let query = LedgerQuery { kind: Some("from_the_future".into()), limit: 1, ..LedgerQuery::default() };
        assert_eq!(ground.db.events(&query).await.unwrap()[0].record, record);
    }

    async fn what_is_not_text_is_refused(ground: &Ground) {
        for bytes in [vec![0xff, 0xfe], b"{\"a\":\"\0\"}".to_vec()] {
            let mut record = ground.record();
            record.bytes = bytes;
            assert_eq!(
                ground.db.append(&[record], NOW).await,
                Err(StoreError::Unstorable { what: "a ledger record", why: "it is not JSON" })
            );
        }
        let mut record = ground.record();
        record.sequence = u64::MAX;
        assert!(matches!(ground.db.append(&[record], NOW).await, Err(StoreError::Unstorable { .. })));
    }

    async fn the_head_of_the_most_events_is_the_latest(ground: &Ground) {
        let head = |name: &str| SignedHead {
            payload: format!("{{\"of\":\"{name}\"}}"),
            kid: "k".to_owned(),
            signature: "s".to_owned(),
        };
        assert_eq!(ground.db.latest_head().await.unwrap(), None);
        ground.db.save_head(&head("nine"), 9, NOW).await.unwrap();
        ground.db.save_head(&head("ten"), 10, NOW).await.unwrap();
        ground.db.save_head(&head("ten again"), 10, NOW).await.unwrap();
        ground.db.save_head(&head("two"), 2, NOW).await.unwrap();
        assert_eq!(ground.reopened().await.latest_head().await.unwrap(), Some(head("ten again")));
    }
}
