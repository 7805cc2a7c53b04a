//! Batches of allowed calls in the ledger, as they come from services that may lie about themselves.

use countersign_identity::{DecisionId, UnixTime};
use countersign_ledger::{CallBatch, CallBatcher, CallEdge, ConnectionId, Event, NewCall, Stage};

/// Whatever the parser takes has a decision for each row, which a database finds, and is written back as the same batch.
pub(crate) fn batch(data: &[u8]) {
    let Ok(event) = serde_json::from_slice::<Event>(data) else { return };
    let Event::AllowedCalls(batch) = &event else { return };
    let json = serde_json::to_string(&event).expect("what was read can be written");
    for call in batch.calls() {
        assert!(json.contains(&CallBatch::search_text(call.id)), "a call is not found in {json}");
        assert!(batch.find(call.id).is_some());
    }
    let calls = batch.calls().count();
    assert!(calls > 0 && calls == batch.len(), "{calls} calls in {} rows", batch.len());
    assert_eq!(serde_json::from_str::<Event>(&json).as_ref().ok(), Some(&event), "one meaning only");
}

/// Batches of one and of many calls.
pub(crate) fn batches() -> Vec<Vec<u8>> {
    let writer = "spiffe://td/svc/ads".parse().expect("a good name");
    let edge = |source: Option<&str>| CallEdge {
        source: source.map(str::to_owned),
        target: "ads".to_owned(),
        method: "GET".to_owned(),
        route: "/ads/{id}".to_owned(),
        mode: "mtls".to_owned(),
        stage: Stage::Policy,
        checks: Vec::new(),
        policy: Some("browse".to_owned()),
    };
    let edges = [edge(None), edge(Some("spiffe://td/svc/users"))];
    let of = |count: u8| {
        let mut batcher = CallBatcher::new(&writer);
        for number in 0..count {
            let place = usize::from(number % 2);
            let (edge, facts) = edges.iter().enumerate().nth(place).expect("one of two");
            let call = NewCall {
                id: DecisionId::from_random([number; 10]),
                edge: u32::try_from(edge).expect("a small number"),
                facts,
                at: UnixTime::from_secs(1_800_000_000),
                latency_us: 700,
                status: 200,
                trace: u128::from(number),
                user: None,
                connection: Some((ConnectionId::from_random(1), None)),
            };
            batcher.push(&call).expect("there is room");
        }
        let batch = batcher.take().expect("some calls");
        serde_json::to_vec(&Event::from(batch)).expect("it can be written")
    };
    vec![of(1), of(20)]
}
