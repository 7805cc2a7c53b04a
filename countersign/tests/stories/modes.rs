//! # One flea market, seven ways to prove who calls
//!
//! The table says beforehand what becomes of each request in each mode. Nothing else differs: the same processes, the
//! same policies, switched while they run.

use crate::world::{
    CLOSED, Claims, FLOOR, MADE, MODES, NEW_AD, OK, POLICY, REQUEST, SHAKE, Seen, TOKEN, World,
};

/// What a request is, and what must become of it in each of [`MODES`].
type Row = (&'static str, fn(&World) -> Seen, [&'static str; 7]);

#[rustfmt::skip]
const TABLE: [Row; 23] = [
    // Through the gateway: users, and what the services behind say of the gateway.
    //                                          none    bearer  macaroon jwt    wimse   mtls    mtls+jwt
    ("alice lists ads",        |w| w.user("alice", "/ads?near=48.37,14.51", &[]),
                                               [POLICY, OK,     OK,     OK,     OK,     OK,     OK]),
    ("alice looks at an ad",   |w| w.user("alice", "/ads/1", &[]),
                                               [POLICY, OK,     OK,     OK,     OK,     OK,     OK]),
    ("mod reads reports",      |w| w.user("mod", "/reports", &[]),
                                               [POLICY, OK,     OK,     OK,     OK,     OK,     OK]),
    ("bob offers something",   |w| w.user("bob", "/ads", &["-d", NEW_AD]),
                                               [POLICY, MADE,   MADE,   MADE,   MADE,   MADE,   MADE]),
    // Whatever changes hands is asked for by a workload that proved to hold a key.
    ("alice buys",             World::buy,     [POLICY, POLICY, POLICY, OK,     OK,     OK,     OK]),
    ("eve buys",               |w| w.user("eve", "/ads/1/buy", &["-d", "{}"]),
                                               [POLICY, POLICY, POLICY, POLICY, POLICY, POLICY, POLICY]),
    ("alice reads reports",    |w| w.user("alice", "/reports", &[]),
                                               [POLICY, POLICY, POLICY, POLICY, POLICY, POLICY, POLICY]),
    ("nobody lists ads",       |w| w.nobody("/ads", &[]),
                                               [TOKEN,  TOKEN,  TOKEN,  TOKEN,  TOKEN,  TOKEN,  TOKEN]),
    ("a forged user lists ads", |w| w.nobody("/ads", &["-H", FORGED_USER]),
                                               [TOKEN,  TOKEN,  TOKEN,  TOKEN,  TOKEN,  TOKEN,  TOKEN]),
    ("a path with two meanings", |w| w.user("alice", "/ads/..%2freports", &["--path-as-is"]),
                                               [REQUEST, REQUEST, REQUEST, REQUEST, REQUEST, REQUEST, REQUEST]),
    // Straight to the port of ads.
    ("a stranger over TLS",    |w| w.ads(&[], &[]),
                                               [FLOOR,  FLOOR,  FLOOR,  FLOOR,  FLOOR,  SHAKE,  SHAKE]),
    ("a header says it is ads, in the clear", |w| w.clear(&["-H", "X-Caller: ads"]),
                                               [POLICY, CLOSED, CLOSED, CLOSED, CLOSED, CLOSED, CLOSED]),
    ("a certificate of another authority", |w| w.ads(&[], &w.foreign),
                                               [SHAKE,  SHAKE,  SHAKE,  SHAKE,  SHAKE,  SHAKE,  SHAKE]),
    ("chat with its certificate", |w| w.ads(&[], &w.chat_tls),
                                               [POLICY, FLOOR,  FLOOR,  FLOOR,  FLOOR,  POLICY, FLOOR]),
    ("chat with its own token", |w| w.signed(&w.chat, &Claims::default()),
                                               [POLICY, FLOOR,  FLOOR,  POLICY, FLOOR,  SHAKE,  SHAKE]),
    ("users presents a token that chat made", |w| w.presented(&w.chat.token(w, &Claims::default()), &w.users),
                                               [TOKEN,  TOKEN,  TOKEN,  TOKEN,  TOKEN,  SHAKE,  SHAKE]),
    ("users signs in the name of chat", |w| w.signed(&w.users, &Claims { issuer: "chat", ..Claims::default() }),
                                               [TOKEN,  TOKEN,  TOKEN,  TOKEN,  TOKEN,  SHAKE,  SHAKE]),
    ("a token for another callee", |w| w.signed(&w.chat, &Claims { audience: "media", ..Claims::default() }),
                                               [TOKEN,  TOKEN,  TOKEN,  TOKEN,  TOKEN,  SHAKE,  SHAKE]),
    ("a token for another method", |w| w.signed(&w.chat, &Claims { method: "POST", ..Claims::default() }),
                                               [TOKEN,  TOKEN,  TOKEN,  TOKEN,  TOKEN,  SHAKE,  SHAKE]),
    ("a token for another query", |w| w.signed(&w.chat, &Claims { target: "/ads?near=1,1", ..Claims::default() }),
                                               [TOKEN,  TOKEN,  TOKEN,  TOKEN,  TOKEN,  SHAKE,  SHAKE]),
    ("the same token twice",   World::twice,
                                               [TOKEN,  TOKEN,  TOKEN,  TOKEN,  TOKEN,  SHAKE,  SHAKE]),
    ("a bearer token that nobody issued", |w| w.ads(&["-H", &format!("Authorization: Bearer {}", w.unknown_bearer)], &[]),
                                               [TOKEN,  TOKEN,  TOKEN,  TOKEN,  TOKEN,  SHAKE,  SHAKE]),
    ("a macaroon of chat with a caveat for another path", |w| w.ads(&["-H", &format!("Authorization: Macaroon {}", w.narrow)], &[]),
                                               [TOKEN,  TOKEN,  TOKEN,  TOKEN,  TOKEN,  SHAKE,  SHAKE]),
];

const FORGED_USER: &str =
    "Authorization: Bearer eyJhbGciOiJub25lIiwia2lkIjoieCIsInR5cCI6ImF0K2p3dCJ9.eyJzdWIiOiJ1XzEifQ.AAAA";

#[test]
fn twenty_requests_have_in_every_mode_the_verdict_that_was_written_beforehand() {
    let world = World::new();
    every_verdict_is_the_one_of_the_table(&world);
    let edges = world.d.json(&["edges"]);
    let seen: Vec<&str> = edges.as_array().unwrap().iter().filter_map(|edge| edge["mode"].as_str()).collect();
    for mode in MODES {
        assert!(seen.contains(&mode), "{mode} is missing where the callees say what they verified: {seen:?}");
    }
}

/// Sends every request of the table in every mode.
pub fn every_verdict_is_the_one_of_the_table(world: &World) {
    let mut wrong = Vec::new();
    for (column, mode) in MODES.into_iter().enumerate() {
        world.d.ok(&["demo", "mode", mode]);
        for (name, send, expected) in TABLE {
            let (seen, want) = (send(world), expected[column]);
            if seen.verdict != want {
                wrong.push(format!("{mode}: {name}: {} instead of {want}; {}", seen.verdict, seen.told));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
