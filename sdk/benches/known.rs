//! What a token costs at the door that was seen there before: everything between a parsed request and a caller, for a
//! JWT-SVID, and for a JWT-SVID beside a user's internal token. Nothing is verified again; expiry and revocation are
//! asked each time.
//!
//! `cargo bench -p countersign-sdk --bench known`
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a benchmark prints, and stops when it cannot go on"
)]

use std::{collections::HashMap, time::Duration};

use countersign_identity::{Mode, Possession, SpiffeId, TrustDomain};
use countersign_keys::{KeyPair, SystemRandom};
use countersign_pki::{BundleSet, CrlPolicy};
use countersign_request::CanonicalRequest;
use countersign_sdk::{
    authenticate::{Authenticator, Rules},
    clock,
    live::{AuthorityKeys, TokenKeys},
    secrets::SecretsCell,
    tls::TrustState,
};
use countersign_testkit::measure::process_cpu;
use countersign_token::{JwtSvid, TxnToken, txn_token};
use http::{HeaderMap, Method, Uri, Version, header::HOST};

const ROUNDS: u32 = 1_000_000;

fn main() {
    let home = TrustDomain::parse("fleamarket.test").unwrap();
    let id = |name: &str| SpiffeId::service(&home, name).unwrap();
    let gateway = SpiffeId::gateway(&home, "edge").unwrap();
    let (svids, internal, now) = (key(), key(), clock::now());
    let svid = JwtSvid {
        subject: id("ads"),
        audiences: vec![id("users").to_string()],
        jti: Some("1".to_owned()),
        issued_at: Some(now),
        expires: now.saturating_add(Duration::from_mins(5)),
    };
    let txn = TxnToken {
        txn: "01JZ".into(),
        user_id: "u_alice".into(),
        name: "alice".into(),
        roles: vec!["buyer".into()],
        scope: "fleamarket".into(),
        requested_by: gateway.clone(),
        actors: Vec::new(),
        possession: Possession::None,
        expires: txn_token::expiry(now, None),
    };
    let mut keys = TokenKeys::for_access_tokens(home.clone(), String::new(), String::new(), []);
    let public = internal.public_key().clone();
    keys.internal.insert(public.thumbprint(), (public, gateway));
    let public = svids.public_key().clone();
    let authority = AuthorityKeys {
        issuer: String::new(),
        jwt_svid: HashMap::from([(public.thumbprint(), public)]),
        wit: HashMap::new(),
        exchange: HashMap::new(),
    };
    keys.authorities.insert(home.clone(), authority);
    let trust = TrustState::new(BundleSet::new(), CrlPolicy::Require);
    let door = Authenticator::new(id("users"), trust, SecretsCell::new());

    let mut headers = HeaderMap::new();
    headers.insert(HOST, "users".parse().unwrap());
    headers.insert("authorization", format!("Bearer {}", svid.mint(&svids).unwrap()).parse().unwrap());
    measure("jwt-svid", &door, &headers, &keys);
    headers.insert("txn-token", txn.mint(&internal, now).unwrap().parse().unwrap());
    measure("jwt-svid and internal token", &door, &headers, &keys);
}

fn measure(what: &str, door: &Authenticator, headers: &HeaderMap, keys: &TokenKeys) {
    let uri = Uri::from_static("/users/7");
    let request = CanonicalRequest::parse(&Method::GET, &uri, headers, Version::HTTP_2).unwrap();
    let before = process_cpu(std::process::id());
    for _ in 0..ROUNDS {
        let rules = Rules { keys, accepts: &[Mode::Bearer], required: &[], now: clock::now() };
        let judged = door.judge(&request, None, &rules);
        assert!(judged.claimed.is_ok());
    }
    let took = process_cpu(std::process::id()).saturating_sub(before).as_secs_f64();
    println!("{what}: {:.0} known a CPU second", f64::from(ROUNDS) / took);
}

fn key() -> KeyPair {
    KeyPair::generate(&SystemRandom::new()).unwrap()
}
