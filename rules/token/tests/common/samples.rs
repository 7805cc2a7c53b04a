//! One good token of every kind, with whatever its verifier needs: what the benchmarks measure and the fuzz targets change.
#![allow(
    dead_code,
    clippy::expect_used,
    reason = "each of the two uses its own part, and neither can go on without a sample"
)]

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use countersign_identity::{SpiffeId, TrustDomain, UnixTime};
use countersign_keys::{AgreementKey, KeyPair, SystemRandom, domain, hash::hmac_sha256, sha256};
use countersign_token::macaroon::{
    HeldMacaroon, Macaroon, MacaroonName, Narrowing, RequestFacts, RootKey, service,
};
use countersign_token::service_token::{BodyBinding, SeenRequest, UserBinding};
use countersign_token::{
    AccessToken, BearerEntry, BearerKey, BearerToken, ClientAssertion, ConfirmationKey, DpopTarget,
    ExchangedToken, ExpectedToken, JwtSvid, ProofTarget, Scope, ServiceToken, Shown, Signer, TxnToken,
    Unproven, Wit, WitIssuer, bearer, dpop, http_signature, jwe, wpt,
};
use http::{HeaderMap, HeaderValue, Method};

/// When every sample is good.
pub(crate) const NOW: UnixTime = UnixTime::from_secs(1_800_000_000);
const SOON: UnixTime = UnixTime::from_secs(1_800_000_030);
const ISSUER: &str = "https://authority.fleamarket.test";
const TARGET: &str = "/users/7?full=1";
const URI: &str = "https://users.fleamarket.test/users/7";
const EXPORTER: [u8; 32] = [9; 32];
const JTI: &str = "0123456789abcdefghijkl";

/// A good token, and what becomes of others in its place.
pub(crate) struct Sample {
    /// Its kind, as the fuzz targets and the tables of benchmarks call it.
    pub(crate) kind: &'static str,
    /// The token as it travels. Where it is several header fields, one a line.
    pub(crate) text: String,
    /// Judges any text in its place; `true` for one that is accepted.
    pub(crate) accepts: Box<dyn Fn(&str) -> bool + Send + Sync>,
    /// Nothing but the signatures or MACs that judging it takes, as the crypto library makes them.
    pub(crate) bare: Box<dyn Fn() + Send + Sync>,
    /// Makes a compact JWS of this kind over any claims, properly signed; `None` for kinds of another form.
    pub(crate) sign: Option<Sign>,
}

type Sign = Box<dyn Fn(&[u8]) -> String + Send + Sync>;

/// One of every kind.
pub(crate) fn all() -> Vec<Sample> {
    let jwts =
        [access_token(), txn_token(), exchanged_token(), service_token(), jwt_svid(), client_assertion()];
    let proofs = [dpop_proof(), wit(), wpt_proof(), signature()];
    jwts.into_iter().chain(proofs).chain([encrypted(), macaroon(), bearer_token()]).collect()
}

fn access_token() -> Sample {
    let token = AccessToken {
        issuer: ISSUER.into(),
        audience: "https://fleamarket.test".into(),
        user_id: "u_1".into(),
        name: "alice".into(),
        roles: vec!["buyer".into(), "seller".into()],
        client_id: "countersign-cli".into(),
        jti: JTI.into(),
        expires: UnixTime::from_secs(NOW.secs() + 600),
        confirmation: None,
    };
    let key = key();
    let text = token.mint(&key, NOW).expect("a good access token");
    let public = key.public_key().clone();
    jwt("access-token", key, text, move |text| {
        AccessToken::verify(text, ISSUER, "https://fleamarket.test", NOW, |_| Some(public.clone())).is_ok()
    })
}

fn txn_token() -> Sample {
    let gateway = id("countersign/gateway/edge");
    let token = TxnToken {
        txn: "01JZ".into(),
        user_id: "u_1".into(),
        name: "alice".into(),
        roles: vec!["buyer".into()],
        scope: "fleamarket".into(),
        requested_by: gateway.clone(),
        actors: Vec::new(),
        possession: countersign_identity::Possession::None,
        expires: UnixTime::from_secs(NOW.secs() + 300),
    };
    let key = key();
    let text = token.mint(&key, NOW).expect("a good transaction token");
    let public = key.public_key().clone();
    jwt("txn-token", key, text, move |text| {
        TxnToken::verify(text, gateway.trust_domain(), NOW, |_| Some((public.clone(), gateway.clone())))
            .is_ok()
    })
}

fn exchanged_token() -> Sample {
    let token = ExchangedToken {
        issuer: ISSUER.into(),
        audience: id("svc/users"),
        user_id: "u_1".into(),
        name: "alice".into(),
        roles: vec!["buyer".into()],
        scope: Scope::parse("fleamarket").expect("a scope"),
        txn: "01JZ".into(),
        jti: JTI.into(),
        actors: vec![id("svc/ads")],
        confirmation: None,
        user_possession: countersign_identity::Possession::None,
        may_act: None,
        issued_at: NOW,
        expires: UnixTime::from_secs(NOW.secs() + 300),
    };
    let (key, users, ads) = (key(), id("svc/users"), id("svc/ads"));
    let text = token.mint(&key).expect("a good exchanged token");
    let public = key.public_key().clone();
    jwt("exchanged-token", key, text, move |text| {
        let expected =
            ExpectedToken { issuer: ISSUER, audience: &users, presenter: Some(&ads), shown: Shown::NOTHING };
        ExchangedToken::verify(text, &expected, NOW, |_| Some(public.clone())).is_ok()
    })
}

/// What a service signs for one request.
pub(crate) fn service_claims() -> ServiceToken {
    ServiceToken {
        issuer: id("svc/ads"),
        audience: id("svc/users"),
        jti: JTI.into(),
        method: "GET".into(),
        path_and_query: TARGET.into(),
        body: BodyBinding::Sha256(sha256(b"")),
        channel: Some(EXPORTER),
        user: UserBinding::None,
        private: std::collections::BTreeMap::new(),
        issued_at: NOW,
        expires: SOON,
    }
}

fn service_token() -> Sample {
    let (token, users) = (service_claims(), id("svc/users"));
    let key = key();
    let text = token.mint(&key, Some(&[3; 32])).expect("a good service token");
    let signer = Signer { key: key.public_key().clone(), owner: token.issuer };
    jwt("service-token", key, text, move |text| {
        let seen = SeenRequest {
            callee: &users,
            method: "GET",
            path_and_query: TARGET,
            channel: Some(&EXPORTER),
            txn_token: None,
            user_token: None,
            required: &[],
        };
        ServiceToken::verify(text, &seen, NOW, |_| Some(signer.clone())).is_ok()
    })
}

fn jwt_svid() -> Sample {
    let svid = JwtSvid {
        subject: id("svc/ads"),
        audiences: vec![id("svc/users").to_string()],
        jti: Some(JTI.into()),
        issued_at: Some(NOW),
        expires: UnixTime::from_secs(NOW.secs() + 300),
    };
    let key = key();
    let text = svid.mint(&key).expect("a good JWT-SVID");
    let public = key.public_key().clone();
    jwt("jwt-svid", key, text, move |text| {
        JwtSvid::verify(text, "spiffe://fleamarket.test/svc/users", NOW, |_, _| Some(public.clone())).is_ok()
    })
}

fn client_assertion() -> Sample {
    let assertion = ClientAssertion { client: id("svc/ads"), jti: JTI.into(), issued_at: NOW, expires: SOON };
    let key = key();
    let text = assertion.mint(&key, ISSUER).expect("a good client assertion");
    let signer = Signer { key: key.public_key().clone(), owner: id("svc/ads") };
    jwt("client-assertion", key, text, move |text| {
        ClientAssertion::verify(text, ISSUER, NOW, |_| Some(signer.clone())).is_ok()
    })
}

fn dpop_proof() -> Sample {
    let target = || DpopTarget {
        method: &Method::GET,
        uri: dpop::DpopUri::parse(URI).expect("a URI"),
        access_token: None,
    };
    let key = key();
    let text = dpop::mint(&key, &target(), None, JTI, NOW).expect("a good DPoP proof");
    let target = target();
    jwt("dpop", key, text, move |text| dpop::verify(text, &target, NOW).is_ok())
}

fn wit() -> Sample {
    let (key, workload) = (key(), key());
    let text = mint_wit(&key, &workload);
    let issuer = wit_issuer(&key);
    jwt("wit", key, text, move |text| Wit::<SpiffeId>::verify(text, NOW, |_| Some(issuer.clone())).is_ok())
}

fn wpt_proof() -> Sample {
    let (issuer, key) = (key(), key());
    let (wit, unproven) = proven_by(&issuer, &key);
    let target = ProofTarget { audience: URI, exporter: Some(&EXPORTER), ..ProofTarget::default() };
    let text = wpt::mint(&key, &wit, &target, JTI, NOW, SOON).expect("a good proof");
    jwt("wpt", key, text, move |text| wpt::verify(text, &unproven, &target, NOW).is_ok())
}

fn signature() -> Sample {
    let (issuer, key) = (key(), key());
    let (wit, unproven) = proven_by(&issuer, &key);
    let mut headers = HeaderMap::new();
    headers.insert("workload-identity-token", HeaderValue::from_str(&wit).expect("a header"));
    headers.insert("content-digest", http_signature::content_digest(b"body").parse().expect("a header"));
    let stamp = http_signature::Stamp { nonce: JTI, created: NOW, expires: SOON };
    let unsigned =
        http_signature::Request { method: "GET", target: TARGET, headers: &headers, body: b"body" };
    let fields = http_signature::sign_request(&key, &unsigned, URI, false, &stamp).expect("a good signature");
    let text = format!("{}\n{}", fields.signature_input, fields.signature);
    let accepts = move |text: &str| {
        let Some((input, signature)) = text.split_once('\n') else { return false };
        let (Ok(input), Ok(signature)) = (HeaderValue::from_str(input), HeaderValue::from_str(signature))
        else {
            return false;
        };
        let mut headers = headers.clone();
        headers.insert("signature-input", input);
        headers.insert("signature", signature);
        let request =
            http_signature::Request { method: "GET", target: TARGET, headers: &headers, body: b"body" };
        http_signature::verify_request(&request, URI, &unproven, NOW).is_ok()
    };
    let (base, public) = (vec![7; 400], key.public_key().clone());
    let signed = key.sign_raw(&base).expect("a signature");
    let bare = move || {
        assert!(public.verify_raw(&base, &signed).is_ok());
        std::hint::black_box(sha256(b"body"));
    };
    Sample { kind: "http-signature", text, accepts: Box::new(accepts), bare: Box::new(bare), sign: None }
}

fn encrypted() -> Sample {
    let (rng, key) = (SystemRandom::new(), AgreementKey::generate().expect("a key"));
    let text = jwe::encrypt(&[b'x'; 256], key.public_key(), &rng).expect("a good JWE");
    let ours = key.clone();
    let accepts = move |text: &str| jwe::decrypt(text, |_| Some(ours.clone())).is_ok();
    let (ephemeral, content) = key.public_key().agree(&rng).expect("an agreement");
    let sealed = content.seal([1; 12], b"header", &[b'x'; 256]).expect("sealed");
    let bare = move || {
        let content = key.agree(&ephemeral).expect("an agreement");
        assert!(content.open([1; 12], b"header", &sealed).is_ok());
    };
    Sample { kind: "jwe", text, accepts: Box::new(accepts), bare: Box::new(bare), sign: None }
}

fn macaroon() -> Sample {
    let (ads, users, secret) = (id("svc/ads"), id("svc/users"), [5; 32]);
    let root = RootKey::derive(&secret);
    let name = MacaroonName::new("k1", ads, [7; 16]).expect("a name");
    let wide =
        service::mint(&root, &name, &users, UnixTime::from_secs(NOW.secs() + 3600)).expect("a macaroon");
    let narrowing = Narrowing {
        callee: &users,
        method: "GET",
        path: "/users/7",
        query: Some("full=1"),
        body: None,
        before: SOON,
    };
    let text = HeldMacaroon::new(wide).present(&narrowing).expect("a good macaroon");
    let bytes = URL_SAFE_NO_PAD.decode(&text).expect("base64");
    let read = Macaroon::into_owned(countersign_token::macaroon::binary::read(&bytes).expect("a macaroon"));
    let bare = move || {
        let start = hmac_sha256(&secret, read.identifier());
        std::hint::black_box(read.caveats().iter().fold(start, |tag, caveat| hmac_sha256(&tag, caveat.id())));
    };
    let accepts = move |text: &str| {
        let facts = RequestFacts {
            callee: &users,
            method: "GET",
            path: "/users/7",
            query: Some("full=1"),
            body: None,
            caller: None,
            user: None,
            now: NOW,
        };
        service::verify(text, &facts, |_| Some(&root)).is_ok()
    };
    Sample { kind: "macaroon", text, accepts: Box::new(accepts), bare: Box::new(bare), sign: None }
}

fn bearer_token() -> Sample {
    let (token, key) =
        (BearerToken::mint(&SystemRandom::new()).expect("random bits"), BearerKey::new([5; 32]));
    let entry = BearerEntry {
        owner: id("svc/ads"),
        hash: key.hash(&token),
        expires: UnixTime::from_secs(NOW.secs() + 60),
    };
    let (text, known) = (token.expose().to_owned(), token.id());
    let message = domain("bearer", text.as_bytes());
    let bare = move || {
        std::hint::black_box(hmac_sha256(&[5; 32], &message));
    };
    let accepts =
        move |text: &str| bearer::verify(text, &key, NOW, |id| (id == known).then(|| entry.clone())).is_ok();
    Sample { kind: "bearer", text, accepts: Box::new(accepts), bare: Box::new(bare), sign: None }
}

/// A kind in compact JWS.
fn jwt(
    kind: &'static str,
    key: KeyPair,
    text: String,
    accepts: impl Fn(&str) -> bool + Send + Sync + 'static,
) -> Sample {
    let (input, signature) = text.rsplit_once('.').expect("three parts");
    let header = input.split('.').next().unwrap_or_default().to_owned();
    let (input, public) = (input.as_bytes().to_vec(), key.public_key().clone());
    let signature = URL_SAFE_NO_PAD.decode(signature).expect("base64");
    let bare = move || assert!(public.verify_raw(&input, &signature).is_ok());
    let sign = move |claims: &[u8]| {
        let input = format!("{header}.{}", URL_SAFE_NO_PAD.encode(claims));
        let signature = key.sign_raw(input.as_bytes()).expect("a signature");
        format!("{input}.{}", URL_SAFE_NO_PAD.encode(signature))
    };
    Sample { kind, text, accepts: Box::new(accepts), bare: Box::new(bare), sign: Some(Box::new(sign)) }
}

fn mint_wit(issuer: &KeyPair, workload: &KeyPair) -> String {
    let wit = Wit::<SpiffeId> {
        subject: id("svc/ads"),
        confirmation: ConfirmationKey::new(workload.public_key().clone()),
        token_id: Some(JTI.into()),
        issuer: Some(ISSUER.into()),
        expires: UnixTime::from_secs(NOW.secs() + 3600),
    };
    wit.mint(issuer, NOW).expect("a good WIT")
}

fn wit_issuer(key: &KeyPair) -> WitIssuer {
    WitIssuer {
        kid: key.public_key().thumbprint().to_string(),
        key: key.public_key().clone(),
        trust_domain: TrustDomain::parse("fleamarket.test").expect("a trust domain"),
        issuer: Some(ISSUER.into()),
    }
}

fn proven_by(issuer: &KeyPair, workload: &KeyPair) -> (String, Unproven) {
    let wit = mint_wit(issuer, workload);
    let unproven = Wit::verify(&wit, NOW, |_| Some(wit_issuer(issuer))).expect("a good WIT");
    (wit, unproven)
}

/// A key for signatures.
pub(crate) fn key() -> KeyPair {
    KeyPair::generate(&SystemRandom::new()).expect("a key")
}

fn id(path: &str) -> SpiffeId {
    SpiffeId::parse(&format!("spiffe://fleamarket.test/{path}")).expect("an id")
}
