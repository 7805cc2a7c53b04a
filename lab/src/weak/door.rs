//! Who may come in. What is right goes by the rules of `token`; what is wrong stands here as people write it.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use countersign_identity::SpiffeId;
use countersign_keys::sha256;
use countersign_pki::CertificateDer;
use countersign_sdk::{authenticate::EvidenceError, clock, inbound::Denial, signing_chains::read_chain};
use countersign_token::{
    AccessToken, ReplayError, ServiceToken, ServiceTokenError, Signer, TokenKind, TxnToken, jws,
    service_token::{SERVICE_TOKEN_LIFETIME_MAX, SeenBody, SeenRequest},
};
use countersign_wire::codes::Code;
use http::{HeaderMap, HeaderName};
use serde_json::Value;

use super::{Weak, Weakness};

/// A request, and what is known of its connection.
pub(super) struct Asked<'a> {
    pub(super) method: &'a str,
    /// Path and query.
    pub(super) target: &'a str,
    pub(super) headers: &'a HeaderMap,
    pub(super) body: &'a [u8],
    pub(super) exporter: Option<[u8; 32]>,
    /// The chain of the connection, and who it was when it began.
    pub(super) peer: Option<(&'a [CertificateDer<'static>], &'a str)>,
}

impl Weak {
    /// The name of whoever asks the service.
    pub(super) fn caller(&self, asked: &Asked<'_>) -> Result<String, Denial> {
        let peer = self.peer_now(asked)?;
        if let Some(context) = asked.headers.get(TXN_TOKEN).and_then(|value| value.to_str().ok()) {
            return self.passed_on(context);
        }
        let bearer = self.presented(asked)?;
        let Some(token) = bearer else {
            let by_header = asked.headers.get("x-caller").and_then(|value| value.to_str().ok());
            return match (peer, by_header) {
                (Some(peer), _) => Ok(peer),
                // Who proves nothing may at least say something.
                (None, Some(name)) if self.believes_words() => Ok(name.to_owned()),
                (None, _) => Err(Denial::new(Code::CertificateMissing, "nobody")),
            };
        };
        let (caller, owner) = self.service_token(token, asked)?;
        match peer {
            Some(peer) if peer != owner && !self.makes(Weakness::TokenOfAnybody) => {
                let named = |text: &str| SpiffeId::parse(text).map_err(|_| unreadable());
                let (issuer, peer) = (named(&owner)?, named(&peer)?);
                Err(EvidenceError::OtherPeer { issuer, peer }.into())
            }
            _ => Ok(caller),
        }
    }

    /// The name of whoever asks the edge.
    pub(super) fn user(&self, asked: &Asked<'_>) -> Result<String, Denial> {
        let in_query = asked.target.split_once("access_token=").map(|(_, token)| token);
        if in_query.is_some() && !self.makes(Weakness::TokenInQuery) {
            return Err(Denial::new(Code::PathAmbiguous, "the query carries a token"));
        }
        match self.presented(asked)?.or(in_query) {
            Some(token) => self.access_token(token, asked),
            None if self.makes(Weakness::TokenOptional) => Ok("guest".to_owned()),
            None => Err(Denial::new(Code::TokenMissing, "the route needs a user, and no access token came")),
        }
    }

    /// The user whom a service passes on. This trust domain has no gateway, so no key of one is known.
    fn passed_on(&self, token: &str) -> Result<String, Denial> {
        if self.makes(Weakness::UserContextBelieved) {
            let claims = token.split('.').nth(1).and_then(|part| URL_SAFE_NO_PAD.decode(part).ok());
            let claims: Value =
                claims.and_then(|json| serde_json::from_slice(&json).ok()).unwrap_or_default();
            return Ok(text(&claims, "sub"));
        }
        let verified = TxnToken::verify_grant(token, &self.trust_domain, clock::now(), |_| None);
        verified.map(|grant| grant.user.id.clone()).map_err(|error| EvidenceError::TxnToken(error).into())
    }

    /// Judged anew with each request, unless an open connection is for ever.
    pub(super) fn peer_now(&self, asked: &Asked<'_>) -> Result<Option<String>, Denial> {
        match asked.peer {
            Some((_, name)) if self.makes(Weakness::ConnectionForEver) => Ok(Some(name.to_owned())),
            Some((chain, _)) => Ok(Some(self.peer(chain).map_err(EvidenceError::Peer)?)),
            None => Ok(None),
        }
    }

    pub(super) fn presented<'a>(&self, asked: &Asked<'a>) -> Result<Option<&'a str>, Denial> {
        let mut values = asked.headers.get_all(http::header::AUTHORIZATION).iter();
        let (first, rest) = (values.next(), values.next_back());
        let value = match (first, rest) {
            (_, Some(last)) if self.makes(Weakness::LastHeaderCounts) => Some(last),
            (_, Some(_)) => return Err(Denial::new(Code::HeaderAmbiguous, "authorization is there twice")),
            (first, None) => first,
        };
        let text = value.and_then(|value| value.to_str().ok());
        Ok(text.and_then(|text| text.strip_prefix("Bearer ")))
    }

    /// Who the token says it is from, and whose key signed it.
    fn service_token(&self, token: &str, asked: &Asked<'_>) -> Result<(String, String), Denial> {
        if countersign_token::bearer::claims_to_be(token) {
            return match self.makes(Weakness::BestEvidenceCounts) {
                true => Ok(self.peer_now(asked)?.map(|peer| (peer.clone(), peer)).ok_or_else(unreadable)?),
                false => Err(EvidenceError::Combination("a bearer token came beside a certificate").into()),
            };
        }
        let typ = match self.misreads() {
            true => naive_typ(token),
            false => jws::claimed_typ(token).map_err(EvidenceError::Unreadable)?,
        };
        if TokenKind::of(&typ) != Some(TokenKind::Service) {
            if self.makes(Weakness::AnyKind) {
                let claims = self.read_naively(token, self.login_key.public_key())?;
                let user = text(&claims, "sub");
                // Whoever's signature verifies may come in, over whichever connection.
                return Ok((user, self.peer_now(asked)?.unwrap_or_default()));
            }
            return Err(EvidenceError::UnknownKind { typ }.into());
        }
        let chain = asked.headers.get(SIGNING_CHAIN).and_then(|value| value.to_str().ok());
        let chain = read_chain(chain.ok_or(EvidenceError::SignerUnknown)?).map_err(EvidenceError::from)?;
        let (key, owner) = self.signer(&chain).map_err(EvidenceError::Signer)?;
        let (jti, caller) = if self.misreads() {
            let claims = self.read_naively(token, &key)?;
            self.judge_naively(&claims, &owner, asked)?;
            (text(&claims, "jti"), text(&claims, "iss"))
        } else {
            self.verified(token, &Signer { key, owner: owner.clone() }, asked)?
        };
        if !self.makes(Weakness::NoMemory) && !self.is_new(&jti) {
            return Err(EvidenceError::Replay(ReplayError::Replayed).into());
        }
        Ok((caller, owner.to_string()))
    }

    /// As it is right.
    fn verified(&self, token: &str, signer: &Signer, asked: &Asked<'_>) -> Result<(String, String), Denial> {
        let me = self.name("ads").map_err(|_| unreadable())?;
        let seen = SeenRequest {
            callee: &me,
            method: asked.method,
            path_and_query: asked.target,
            channel: asked.exporter.as_ref(),
            txn_token: None,
            user_token: None,
            required: &[],
        };
        let refused = |error: ServiceTokenError| match error {
            ServiceTokenError::NotOwner { issuer, owner } => {
                EvidenceError::SignerMismatch { issuer, certified: owner }
            }
            error => EvidenceError::ServiceToken(error),
        };
        let verified = ServiceToken::verify(token, &seen, clock::now(), |_| Some(signer.clone()));
        let verified = verified.map_err(refused)?;
        verified.judge_body(SeenBody::Whole(asked.body)).map_err(EvidenceError::from)?;
        Ok((verified.jti.clone(), verified.issuer.to_string()))
    }

    /// As it is wrong: each comparison is there but the one that was forgotten.
    fn judge_naively(&self, claims: &Value, owner: &SpiffeId, asked: &Asked<'_>) -> Result<(), Denial> {
        let forgotten = |weakness| self.makes(weakness);
        let time = |name| claims.get(name).and_then(Value::as_i64);
        let now = clock::now().secs();
        let encoded = |bytes: &[u8; 32]| URL_SAFE_NO_PAD.encode(bytes);
        let me = format!("spiffe://{}/svc/ads", self.trust_domain);
        let life = i64::try_from(SERVICE_TOKEN_LIFETIME_MAX.as_secs()).unwrap_or(i64::MAX);
        let same = |name: &str, want: &str| text(claims, name) == want;
        let checks = [
            (Weakness::IssuerUnchecked, same("iss", owner.as_str()), Code::SignerMismatch),
            (Weakness::AnyAudience, same("aud", &me), Code::TokenAudience),
            (Weakness::AnyMethod, same("htm", asked.method), Code::ProofOfOtherRequest),
            (Weakness::AnyTarget, same("htp", asked.target), Code::ProofOfOtherRequest),
            (Weakness::AnyBody, same("bdy", &encoded(&sha256(asked.body))), Code::BodyChanged),
            (
                Weakness::AnyConnection,
                claims.get("cbx").is_none() || asked.exporter.is_some_and(|own| same("cbx", &encoded(&own))),
                Code::ProofOfOtherConnection,
            ),
            (Weakness::NeverExpires, time("exp").is_none_or(|exp| now < exp), Code::TokenExpired),
            (Weakness::FromTheFuture, time("iat").is_none_or(|iat| iat <= now + 60), Code::TokenNotYetValid),
            (
                Weakness::AnyLifetime,
                time("exp").zip(time("iat")).is_none_or(|(exp, iat)| exp - iat <= life),
                Code::TokenLifetime,
            ),
        ];
        match checks.into_iter().find(|(weakness, holds, _)| !holds && !forgotten(*weakness)) {
            Some((_, _, code)) => Err(Denial::new(code, code.entry().title)),
            None => Ok(()),
        }
    }

    pub(super) fn access_token(&self, token: &str, asked: &Asked<'_>) -> Result<String, Denial> {
        if self.makes(Weakness::AnyKind)
            && let Some(chain) = asked.headers.get(SIGNING_CHAIN).and_then(|value| value.to_str().ok())
        {
            let chain = read_chain(chain).map_err(EvidenceError::from)?;
            let (key, _) = self.signer(&chain).map_err(EvidenceError::Signer)?;
            return self.read_naively(token, &key).map(|claims| text(&claims, "iss"));
        }
        if self.misreads() {
            return self.read_naively(token, self.login_key.public_key()).map(|claims| text(&claims, "sub"));
        }
        let key = self.login_key.public_key();
        let key_of = |kid: &str| key.is_named(kid).then(|| key.clone());
        let verified = AccessToken::verify(token, &self.issuer(), &self.audience(), clock::now(), key_of);
        verified.map(|user| user.id.clone()).map_err(|error| EvidenceError::AccessToken(error).into())
    }

    fn believes_words(&self) -> bool {
        self.makes(Weakness::NoCertificateDemanded) || self.makes(Weakness::PlainHttp)
    }

    /// Is a mistake made in how a token is read?
    fn misreads(&self) -> bool {
        NAIVE.iter().any(|weakness| self.makes(*weakness))
    }
}

fn naive_typ(token: &str) -> String {
    let header = token.split('.').next().and_then(|header| URL_SAFE_NO_PAD.decode(header).ok());
    let header: Value = header.and_then(|json| serde_json::from_slice(&json).ok()).unwrap_or_default();
    text(&header, "typ").to_ascii_lowercase()
}

fn text(object: &Value, name: &str) -> String {
    object.get(name).and_then(Value::as_str).unwrap_or_default().to_owned()
}

fn unreadable() -> Denial {
    Denial::new(Code::TokenMalformed, "it cannot be read")
}

/// What a service that wrote its own verifier gets wrong in it.
const NAIVE: [Weakness; 19] = [
    Weakness::AlgNone,
    Weakness::PublicKeyAsSecret,
    Weakness::AnyAlgorithm,
    Weakness::KeyFromHeader,
    Weakness::KidNamesAFile,
    Weakness::SkipsUnknownHeaders,
    Weakness::UnverifiedSignature,
    Weakness::LastMemberCounts,
    Weakness::AnyLength,
    Weakness::WrongTypeIsAbsent,
    Weakness::IssuerUnchecked,
    Weakness::AnyAudience,
    Weakness::NeverExpires,
    Weakness::FromTheFuture,
    Weakness::AnyLifetime,
    Weakness::AnyConnection,
    Weakness::AnyMethod,
    Weakness::AnyTarget,
    Weakness::AnyBody,
];

const TXN_TOKEN: HeaderName = HeaderName::from_static("txn-token");
const SIGNING_CHAIN: HeaderName = HeaderName::from_static("countersign-signing-chain");
