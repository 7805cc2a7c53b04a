//! Who runs one service, or has a copy of what one sent, and would like more. Every attack is a token with one thing
//! wrong, over a connection that is in order; before it goes out, its honest twin has to be believed.

mod stand;

use countersign_keys::SystemRandom;
use countersign_token::{
    jws::TOKEN_BYTES_MAX,
    service_token::{SERVICE_TOKEN_LIFETIME_MAX, new_id},
};
use countersign_wire::codes::Code;
use serde_json::{Value, json};

use self::stand::Stand;
use super::{
    Attack, AttackError, Doing, Guard, Held, Kind, Observation, Position, Sign, Target,
    forge::{self, Draft, Signing, jws, set},
    target::{FORMER, OTHER, PATH},
    wire::Request,
};
use crate::weak::{Weakness, public_key_pem};

const JWS: &str = "rules/token/src/jws.rs";
const CLAIMS: &str = "rules/token/src/claims.rs";
const TOKEN: &str = "rules/token/src/service_token.rs";
const DOOR: &str = "sdk/src/authenticate/service_token.rs";
const TIMES: &str = "rules/token/src/times.rs";
const REPLAY: &str = "rules/token/src/replay.rs";

/// A token with one thing wrong.
macro_rules! token {
    (name: $name:literal, title: $title:literal, from: $from:expr, by: $position:ident, home: $home:ident, guard: $what:literal,
        but_for: $weakness:ident, signs: $signs:expr, change: $change:expr $(,)?) => {
        Attack {
            name: $name,
            title: $title,
            from: $from,
            position: Position::$position,
            guard: Guard { what: $what, home: $home, signs: $signs, weakness: Weakness::$weakness },
            waits: false,
            run: |target| changed(target, $title, $change),
        }
    };
}

/// An attack that takes more than one change.
macro_rules! scene {
    (name: $name:literal, title: $title:literal, from: $from:expr, by: $position:ident, home: $home:ident, guard: $what:literal,
        but_for: $weakness:ident, signs: $signs:expr, run: $run:expr $(,)?) => {
        Attack {
            name: $name,
            title: $title,
            from: $from,
            position: Position::$position,
            guard: Guard { what: $what, home: $home, signs: $signs, weakness: Weakness::$weakness },
            waits: false,
            run: |target| Box::pin($run(target)),
        }
    };
}

pub(super) static ATTACKS: &[Attack] = &[
    scene! {
        name: "stolen-token",
        title: "present the token of another service over one's own mutual TLS",
        from: &["D2", "idea 10"],
        by: Thief,
        home: DOOR,
        guard: "issuer of the token and name of the connection's certificate must be the same",
        but_for: TokenOfAnybody,
        signs: &[Sign::Said(Code::SignerMismatch, "certificate of the connection")],
        run: stolen,
    },
    token! {
        name: "issuer-of-another",
        title: "sign in the name of another service with one's own certified key",
        from: &["D2", "JB-1", "idea 10"],
        by: Service,
        home: DOOR,
        guard: "iss must be the one name in the signing certificate",
        but_for: IssuerUnchecked,
        signs: &[Sign::Said(Code::SignerMismatch, "signing certificate")],
        change: |draft, target| {
            set(&mut draft.claims, "iss", target.id(OTHER)?.as_str());
            Ok(())
        },
    },
    scene! {
        name: "chain-of-another",
        title: "sign with one's own key, and send the certificate of another service along",
        from: &["T85", "JB-1"],
        by: Service,
        home: DOOR,
        guard: "the key in the certificate verifies, not the one that signed",
        but_for: UnverifiedSignature,
        signs: &[Sign::Code(Code::TokenSignature)],
        run: chain_of_another,
    },
    scene! {
        name: "revoked-signer",
        title: "go on signing after the signing certificate was taken back",
        from: &["D3", "T47"],
        by: Former,
        home: DOOR,
        guard: "a chain that is known is asked again at each use: lifetime, root, revocation",
        but_for: SignerForEver,
        signs: &[Sign::Code(Code::CertificateRevoked)],
        run: revoked_signer,
    },
    token! {
        name: "alg-none",
        title: "send a token without a signature, and say that its algorithm is none",
        from: &["JB-1", "lesson 45", "CVE-2022-23540"],
        by: Service,
        home: JWS,
        guard: "the algorithms are a closed list, and none is not on it",
        but_for: AlgNone,
        signs: &[Sign::Said(Code::TokenMalformed, "algorithm")],
        change: |draft, _| {
            set(&mut draft.header, "alg", "none");
            draft.signing = Signing::Bytes(Vec::new());
            Ok(())
        },
    },
    token! {
        name: "alg-confusion",
        title: "say HS256, and take the public key, which everybody has, for the secret",
        from: &["JB-1", "lesson 40", "lesson 46", "CVE-2026-39999"],
        by: Service,
        home: JWS,
        guard: "the algorithms are a closed list, and no MAC is on it",
        but_for: PublicKeyAsSecret,
        signs: &[Sign::Said(Code::TokenMalformed, "algorithm")],
        change: |draft, _| {
            if let Signing::By(key) = &draft.signing {
                draft.signing = Signing::Mac(public_key_pem(key.public_key()).into_bytes());
            }
            set(&mut draft.header, "alg", "HS256");
            Ok(())
        },
    },
    token! {
        name: "other-algorithm",
        title: "say EdDSA over a signature of ES256",
        from: &["JB-1", "lesson 40", "RFC 8725 section 3.1"],
        by: Service,
        home: JWS,
        guard: "a key knows its one algorithm; the header only has to agree",
        but_for: AnyAlgorithm,
        signs: &[Sign::Said(Code::TokenMalformed, "is one for")],
        change: |draft, _| {
            set(&mut draft.header, "alg", "EdDSA");
            Ok(())
        },
    },
    token! {
        name: "kid-injection",
        title: "let kid name a file",
        from: &["JB-1", "idea 10"],
        by: Service,
        home: JWS,
        guard: "kid is the thumbprint of the key that verifies, and never a path",
        but_for: KidNamesAFile,
        signs: &[Sign::Said(Code::TokenSignature, "not the one that the token names")],
        change: |draft, _| {
            set(&mut draft.header, "kid", "/dev/null");
            Ok(())
        },
    },
    token! {
        name: "key-in-header",
        title: "bring along in the header the key with which the token is to be verified",
        from: &["JB-1", "lesson 47"],
        by: Thief,
        home: JWS,
        guard: "a header has alg, kid, typ, x5t#S256, and nothing else",
        but_for: KeyFromHeader,
        signs: &[Sign::Said(Code::TokenMalformed, "jwk")],
        change: |draft, _| {
            let key = forge::key()?;
            let jwk: Value = serde_json::from_str(&key.public_key().to_jwk()).unwrap_or_default();
            set(&mut draft.header, "jwk", jwk);
            draft.signing = Signing::By(key);
            Ok(())
        },
    },
    token! {
        name: "critical-header",
        title: "demand in crit that something be understood which nobody understands",
        from: &["RFC 7515 section 4.1.11", "lesson 49"],
        by: Service,
        home: JWS,
        guard: "members that are not understood are refused",
        but_for: SkipsUnknownHeaders,
        signs: &[Sign::Said(Code::TokenMalformed, "crit")],
        change: |draft, _| {
            set(&mut draft.header, "crit", json!(["exp"]));
            Ok(())
        },
    },
    token! {
        name: "edited-token",
        title: "change what a token says after it was signed",
        from: &["JB-1", "T83"],
        by: Proxy,
        home: JWS,
        guard: "the signature covers header and claims",
        but_for: UnverifiedSignature,
        signs: &[Sign::Code(Code::TokenSignature)],
        change: |draft, _| {
            let signature = forge::signature(&draft.token()?);
            draft.request.target = format!("{PATH}/1");
            set(&mut draft.claims, "htp", format!("{PATH}/1"));
            draft.signing = Signing::Bytes(signature);
            Ok(())
        },
    },
    token! {
        name: "zero-signature",
        title: "send a signature in which r and s are zero",
        from: &["lesson 50", "CVE-2022-21449"],
        by: Thief,
        home: JWS,
        guard: "the library of cryptography refuses signatures out of range",
        but_for: UnverifiedSignature,
        signs: &[Sign::Code(Code::TokenSignature)],
        change: |draft, _| {
            draft.signing = Signing::Bytes(vec![0; 64]);
            Ok(())
        },
    },
    scene! {
        name: "duplicate-claim",
        title: "say iss twice, and hope that two readers take two of them",
        from: &["JB-1", "idea 10"],
        by: Service,
        home: CLAIMS,
        guard: "an object with two members of one name is none",
        but_for: LastMemberCounts,
        signs: &[Sign::Said(Code::TokenClaims, "twice")],
        run: duplicate_claim,
    },
    token! {
        name: "expiry-as-text",
        title: "write the expiry as a text, which some readers take for absent",
        from: &["lesson 5", "lesson 44", "CVE-2026-25537"],
        by: Service,
        home: CLAIMS,
        guard: "a claim of the wrong type is an error, never absent",
        but_for: WrongTypeIsAbsent,
        signs: &[Sign::Said(Code::TokenClaims, "exp")],
        change: |draft, _| {
            let exp = time(draft, "exp").to_string();
            set(&mut draft.claims, "exp", exp);
            Ok(())
        },
    },
    token! {
        name: "huge-token",
        title: "send a token that is longer than any honest one",
        from: &["lesson 48", "CVE-2025-30204"],
        by: Service,
        home: JWS,
        guard: "a token has at most 8 KiB, and longer ones are not read",
        but_for: AnyLength,
        signs: &[Sign::Said(Code::TokenMalformed, "bytes")],
        change: |draft, _| {
            set(&mut draft.claims, "note", "x".repeat(TOKEN_BYTES_MAX));
            Ok(())
        },
    },
    scene! {
        name: "user-token-as-service",
        title: "present the access token of a user as if a service had signed it",
        from: &["JB-1", "TX-2", "AT-1"],
        by: Thief,
        home: TOKEN,
        guard: "typ: each kind of token has its own, and a service is proven by its own kind alone",
        but_for: AnyKind,
        signs: &[Sign::Code(Code::TokenKind)],
        run: user_token_as_service,
    },
    token! {
        name: "wrong-audience",
        title: "pass on to one service the token that was made for another",
        from: &["JB-1", "lesson 51", "lesson 57"],
        by: Service,
        home: TOKEN,
        guard: "aud is one name, and it must be the callee's own",
        but_for: AnyAudience,
        signs: &[Sign::Code(Code::TokenAudience)],
        change: |draft, target| {
            set(&mut draft.claims, "aud", target.id(OTHER)?.as_str());
            Ok(())
        },
    },
    token! {
        name: "expired-token",
        title: "use a token after it has expired",
        from: &["T79", "JB-1"],
        by: Thief,
        home: TIMES,
        guard: "exp, without leniency at the end",
        but_for: NeverExpires,
        signs: &[Sign::Code(Code::TokenExpired)],
        change: |draft, _| {
            moved(draft, -120);
            Ok(())
        },
    },
    token! {
        name: "future-token",
        title: "make a token today for next week",
        from: &["D5", "idea 10"],
        by: Service,
        home: TIMES,
        guard: "iat may lie ahead by the difference of honest clocks, and no more",
        but_for: FromTheFuture,
        signs: &[Sign::Code(Code::TokenNotYetValid)],
        change: |draft, _| {
            moved(draft, 7 * 86_400);
            Ok(())
        },
    },
    token! {
        name: "long-lived-token",
        title: "make a token that lives a day",
        from: &["D5", "D14"],
        by: Service,
        home: TIMES,
        guard: "a service token lives a minute at most, whoever signs it",
        but_for: AnyLifetime,
        signs: &[Sign::Code(Code::TokenLifetime)],
        change: |draft, _| {
            let iat = time(draft, "iat");
            set(
                &mut draft.claims,
                "exp",
                iat + 1440 * i64::try_from(SERVICE_TOKEN_LIFETIME_MAX.as_secs()).unwrap_or(60),
            );
            Ok(())
        },
    },
    scene! {
        name: "replay",
        title: "send a request a second time over the same connection",
        from: &["D5", "DP-1", "idea 10"],
        by: Proxy,
        home: REPLAY,
        guard: "each proof is accepted once, and remembered until it expires",
        but_for: NoMemory,
        signs: &[Sign::Code(Code::ProofReplayed)],
        run: replay,
    },
    scene! {
        name: "replay-elsewhere",
        title: "send a copy of a request over another connection",
        from: &["D5", "idea 10"],
        by: Thief,
        home: TOKEN,
        guard: "a proof names its TLS connection by the exporter, and dies with it",
        but_for: AnyConnection,
        signs: &[Sign::Code(Code::ProofOfOtherConnection)],
        run: replay_elsewhere,
    },
    token! {
        name: "other-method",
        title: "send the token of a GET with a DELETE",
        from: &["D5", "WIM-3"],
        by: Proxy,
        home: TOKEN,
        guard: "htm: the token names the method",
        but_for: AnyMethod,
        signs: &[Sign::Code(Code::ProofOfOtherRequest)],
        change: |draft, _| {
            draft.request.method = "DELETE".into();
            Ok(())
        },
    },
    token! {
        name: "other-path",
        title: "send the token of one path with another",
        from: &["D5", "DP-1"],
        by: Proxy,
        home: TOKEN,
        guard: "htp: the token names path and query",
        but_for: AnyTarget,
        signs: &[Sign::Code(Code::ProofOfOtherRequest)],
        change: |draft, _| {
            draft.request.target = format!("{PATH}/1");
            Ok(())
        },
    },
    token! {
        name: "other-query",
        title: "add a query to what was signed",
        from: &["D5", "WIM-3"],
        by: Proxy,
        home: TOKEN,
        guard: "htp: the query is part of it",
        but_for: AnyTarget,
        signs: &[Sign::Code(Code::ProofOfOtherRequest)],
        change: |draft, _| {
            draft.request.target = format!("{PATH}?all=true");
            Ok(())
        },
    },
    token! {
        name: "body-swap",
        title: "leave the token as it is, and send another body",
        from: &["D5", "WIM-3", "idea 10"],
        by: Proxy,
        home: TOKEN,
        guard: "bdy: the digest of the body, compared before any handler runs",
        but_for: AnyBody,
        signs: &[Sign::Code(Code::BodyChanged)],
        change: |draft, _| {
            draft.request.body = br#"{"price_cents":1}"#.to_vec();
            Ok(())
        },
    },
    scene! {
        name: "two-authorizations",
        title: "send two Authorization headers, with two tokens",
        from: &["lesson 4", "lesson 5", "lesson 13"],
        by: Proxy,
        home: HEADERS,
        guard: "headers that decide who calls stand there once",
        but_for: LastHeaderCounts,
        signs: &[Sign::Code(Code::HeaderAmbiguous)],
        run: two_authorizations,
    },
    scene! {
        name: "mixed-evidence",
        title: "show a good certificate, and a worthless bearer token beside it",
        from: &["lesson 16", "CVE-2021-21378"],
        by: Service,
        home: PRESENTED,
        guard: "evidence that no mode combines is refused: the worse of two must not hide behind the better",
        but_for: BestEvidenceCounts,
        signs: &[Sign::Code(Code::EvidenceCombination)],
        run: mixed_evidence,
    },
];

const HEADERS: &str = "rules/request/src/headers.rs";
const PRESENTED: &str = "sdk/src/authenticate/presented.rs";

/// A token with one thing changed, over a connection on which the unchanged one is believed.
fn changed<'a>(
    target: &'a Target,
    what: &'static str,
    change: fn(&mut Draft, &Target) -> Result<(), AttackError>,
) -> Doing<'a> {
    Box::pin(async move {
        let mut stand = Stand::of_own(target).await?;
        stand.honest(target, &Request::get(PATH)).await?;
        let mut draft = stand.draft(target, Request::get(PATH))?;
        change(&mut draft, target)?;
        let request = draft.sealed()?;
        Ok(stand.sent(target, format!("{} {}: {what}", request.method, request.target), &request).await)
    })
}

/// All times of a token, moved.
fn moved(draft: &mut Draft, seconds: i64) {
    for name in ["iat", "nbf", "exp"] {
        let at = time(draft, name);
        set(&mut draft.claims, name, at + seconds);
    }
}

fn time(draft: &Draft, name: &str) -> i64 {
    draft.claims.get(name).and_then(Value::as_i64).unwrap_or_default()
}

async fn stolen(target: &Target) -> Result<Observation, AttackError> {
    // The victim of the theft proves first that its token is good, over its own connection.
    let mut robbed = Stand::of(target, OTHER).await?;
    // Bound to no connection: the thief could use it elsewhere if that were all.
    robbed.connection.exporter = None;
    robbed.honest(target, &Request::get(PATH)).await?;
    let copied = robbed.draft(target, Request::get(PATH))?.sealed()?;
    let mut thief = Stand::of_own(target).await?;
    Ok(thief.sent(target, "GET /ads with the token and chain of another service", &copied).await)
}

async fn chain_of_another(target: &Target) -> Result<Observation, AttackError> {
    let mut stand = Stand::of_own(target).await?;
    stand.honest(target, &Request::get(PATH)).await?;
    // A certificate of its own name for a key that it does not hold: every name agrees, only the key does not.
    let shown = target.own(Kind::Signing).await?;
    let forged = Held { key: stand.signer.key.clone(), ..shown.clone() };
    let victim = target.id(super::target::VICTIM)?;
    let mut draft = Draft::honest(&forged, &victim, Request::get(PATH), stand.connection.exporter)?;
    set(&mut draft.header, "kid", shown.key.public_key().thumbprint());
    let request = draft.sealed()?;
    Ok(stand.sent(target, "GET /ads with a token by one key and the certificate of another", &request).await)
}

async fn revoked_signer(target: &Target) -> Result<Observation, AttackError> {
    let mut stand = Stand::of(target, FORMER).await?;
    stand.honest(target, &Request::get(PATH)).await?;
    target.revoke(&stand.signer).await?;
    let request = stand.draft(target, Request::get(PATH))?.sealed()?;
    Ok(stand.sent(target, "GET /ads with a token by a key whose certificate was revoked", &request).await)
}

async fn duplicate_claim(target: &Target) -> Result<Observation, AttackError> {
    let mut stand = Stand::of_own(target).await?;
    stand.honest(target, &Request::get(PATH)).await?;
    let draft = stand.draft(target, Request::get(PATH))?;
    let other = target.id(OTHER)?;
    let claims = draft.claims.to_string().replacen('{', &format!("{{\"iss\":\"{other}\","), 1);
    let token = jws(&draft.header.to_string(), &claims, &draft.signing)?;
    let request = draft.carrying(token)?;
    Ok(stand.sent(target, "GET /ads with a token that says iss twice", &request).await)
}

async fn user_token_as_service(target: &Target) -> Result<Observation, AttackError> {
    let mut stand = Stand::of_own(target).await?;
    stand.honest(target, &Request::get(PATH)).await?;
    let token = target.user_token("alice").await?;
    let request = Request::get(PATH).with("Authorization", format!("Bearer {token}"));
    Ok(stand.sent(target, "GET /ads at the service with the access token of a user", &request).await)
}

async fn replay(target: &Target) -> Result<Observation, AttackError> {
    let mut stand = Stand::of_own(target).await?;
    let request = stand.draft(target, Request::get(PATH))?.sealed()?;
    let first = stand.sent(target, "", &request).await;
    if !first.is_believed() {
        return Err(AttackError::HonestRefused { answer: first.told() });
    }
    Ok(stand.sent(target, "GET /ads, the very same request again", &request).await)
}

async fn replay_elsewhere(target: &Target) -> Result<Observation, AttackError> {
    let mut stand = Stand::of_own(target).await?;
    stand.honest(target, &Request::get(PATH)).await?;
    // Never used, so that nobody can remember it.
    let copied = stand.draft(target, Request::get(PATH))?.sealed()?;
    let mut elsewhere = Stand::of_own(target).await?;
    Ok(elsewhere.sent(target, "GET /ads, copied from another connection", &copied).await)
}

async fn two_authorizations(target: &Target) -> Result<Observation, AttackError> {
    let mut stand = Stand::of_own(target).await?;
    stand.honest(target, &Request::get(PATH)).await?;
    let draft = stand.draft(target, Request::get(PATH))?;
    let jti = new_id(&SystemRandom::new()).map_err(|error| AttackError::equipment("an id", error))?;
    let mut second = draft.clone();
    set(&mut second.claims, "jti", jti);
    let request = draft.sealed()?.with("Authorization", format!("Bearer {}", second.token()?));
    Ok(stand.sent(target, "GET /ads with two Authorization headers", &request).await)
}

async fn mixed_evidence(target: &Target) -> Result<Observation, AttackError> {
    let mut stand = Stand::of_own(target).await?;
    stand.honest(target, &Request::get(PATH)).await?;
    let token = forge::unissued_bearer()?;
    let request = Request::get(PATH).with("Authorization", format!("Bearer {token}"));
    Ok(stand.sent(target, "GET /ads over mutual TLS with a bearer token that nobody issued", &request).await)
}
