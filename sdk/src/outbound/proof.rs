//! What of one request proves who calls: gathered once, and signed anew for each connection that it is sent on.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use countersign_identity::{Mode, SpiffeId, UnixTime, WimseProof};
use countersign_keys::{SystemRandom, random_bytes, sha256};
use countersign_request::{
    SIGNING_CHAIN, TXN_TOKEN, USER_TOKEN, WORKLOAD_IDENTITY_TOKEN, WORKLOAD_PROOF_TOKEN,
};
use countersign_token::{
    ProofTarget, ServiceToken,
    http_signature::{self, Stamp},
    macaroon::Narrowing,
    service_token::{self, BodyBinding, UserBinding},
    wpt::{self, target_uri},
};
use http::{
    HeaderMap, HeaderValue, Request,
    header::{AUTHORIZATION, IntoHeaderName},
};

use super::{
    CallError, Outgoing,
    body::{self, Held},
    exchange::{Exchanger, Presenter, Shown as Key},
    pool::Call,
    user::{self, Carried, InternalToken},
};
use crate::credentials::{CredentialError, Credentials, IssuedToken, SigningIdentity, WitIdentity};

/// Who calls one callee, for whom, and with what.
pub(super) struct Proof {
    shown: Shown,
    user: Carried,
    callee: Option<SpiffeId>,
    body: Held,
    claims: BTreeMap<String, String>,
}

/// What proves the workload, besides the connection.
enum Shown {
    Nothing,
    Issued(Arc<IssuedToken>),
    ServiceToken(Arc<SigningIdentity>),
    Wpt(Arc<WitIdentity>),
    HttpSignature(Arc<WitIdentity>),
}

impl Proof {
    /// Of nobody, for connections that prove everything or have nothing to prove.
    pub(super) const fn none() -> Self {
        Self {
            shown: Shown::Nothing,
            user: Carried::Nobody,
            callee: None,
            body: Held::Unbound,
            claims: BTreeMap::new(),
        }
    }

    /// Everything that the mode of `call` takes. Waits for credentials and exchanges that are not at hand.
    pub(super) async fn gather(
        call: &Call,
        request: Request<Outgoing>,
        token: Option<&InternalToken>,
        credentials: &Credentials,
        exchanger: &Exchanger,
    ) -> Result<(Request<Outgoing>, Self), CallError> {
        let (callee, sending) = (call.callee(), call.sending);
        let shown = Shown::of(sending.mode, callee, credentials).await;
        let shown = shown.map_err(|source| CallError::Credential { mode: sending.mode, source })?;
        let (request, body) = if shown.binds_body(sending.wimse) {
            body::hold(request).await?
        } else {
            (request, Held::Unbound)
        };
        let shown = match (shown, &body) {
            // Only what is held can be signed so. For all else the other proof stands, which claims nothing of a body.
            (Shown::Wpt(wit), Held::Whole(_)) if sending.wimse == WimseProof::HttpSignature => {
                Shown::HttpSignature(wit)
            }
            (shown, _) => shown,
        };
        let presenter = Presenter { callee, shown: shown.key(sending.mode) };
        let user = Carried::of(token, sending, exchanger, (&call.live, presenter)).await?;
        Ok((request, Self { shown, user, callee: Some(callee.clone()), body, claims: BTreeMap::new() }))
    }

    /// The same with claims of our own, where it has room for any.
    pub(super) fn saying(mut self, claims: &BTreeMap<String, String>) -> Self {
        self.claims.clone_from(claims);
        self
    }

    /// Writes the proof into the headers of `request`, for the connection with this `exporter`. What an earlier attempt
    /// wrote is replaced: each has an id of its own.
    ///
    /// Gives the nonce that a signed answer has to repeat.
    pub(super) fn sign(
        &self,
        request: &mut Request<Outgoing>,
        exporter: Option<&[u8; 32]>,
        now: UnixTime,
    ) -> Result<Option<SentNonce>, CallError> {
        let Some(callee) = &self.callee else { return Ok(None) };
        self.carry_user(request.headers_mut())?;
        match &self.shown {
            Shown::Nothing => {}
            Shown::Issued(token) => issued(request, token, callee, now)?,
            Shown::ServiceToken(identity) => self.service_token(request, identity, callee, exporter, now)?,
            Shown::Wpt(wit) => self.wpt(request, wit, exporter, now)?,
            Shown::HttpSignature(wit) => return self.http_signature(request, wit, now).map(Some),
        }
        Ok(None)
    }

    /// Was an answer asked for that its sender signs?
    pub(super) const fn wants_signed_answer(&self) -> bool {
        matches!(self.shown, Shown::HttpSignature(_))
    }

    fn carry_user(&self, headers: &mut HeaderMap) -> Result<(), CallError> {
        match &self.user {
            Carried::Nobody | Carried::Nested(_) => {}
            Carried::Same(token) => drop(headers.insert(TXN_TOKEN, user::header(token.expose())?)),
            Carried::Hop(token) => drop(headers.insert(USER_TOKEN, user::header(token.expose())?)),
        }
        Ok(())
    }

    fn txn_token(&self) -> Option<&str> {
        match &self.user {
            Carried::Same(token) => Some(token.expose()),
            _ => None,
        }
    }

    fn user_token(&self) -> Option<&str> {
        match &self.user {
            Carried::Hop(token) => Some(token.expose()),
            _ => None,
        }
    }

    fn wpt(
        &self,
        request: &mut Request<Outgoing>,
        wit: &WitIdentity,
        exporter: Option<&[u8; 32]>,
        now: UnixTime,
    ) -> Result<(), CallError> {
        let audience = audience(request);
        let others: Vec<_> = self.user_token().map(|token| (USER_TOKEN_NAME, token)).into_iter().collect();
        let target = ProofTarget {
            audience: &audience,
            access_token: None,
            txn_token: self.txn_token(),
            others: &others,
            exporter,
        };
        let expires = now.saturating_add(PROOF_LIFE);
        let proof = wpt::mint(wit.key(), text(wit.token())?, &target, &fresh_id()?, now, expires);
        let proof = proof.map_err(|error| unsigned(&error.to_string()))?;
        request.headers_mut().insert(WORKLOAD_IDENTITY_TOKEN, wit.token().clone());
        set(request, WORKLOAD_PROOF_TOKEN, &proof)
    }

    fn service_token(
        &self,
        request: &mut Request<Outgoing>,
        identity: &SigningIdentity,
        callee: &SpiffeId,
        exporter: Option<&[u8; 32]>,
        now: UnixTime,
    ) -> Result<(), CallError> {
        let token = ServiceToken {
            issuer: identity.id().clone(),
            audience: callee.clone(),
            jti: service_token::new_id(&SystemRandom::new()).map_err(|error| unsigned(&error.to_string()))?,
            method: request.method().to_string(),
            path_and_query: path_and_query(request).to_owned(),
            body: match &self.body {
                Held::Whole(bytes) => BodyBinding::Sha256(sha256(bytes)),
                Held::Unbound => BodyBinding::Unbound,
            },
            channel: exporter.copied(),
            user: match &self.user {
                Carried::Nobody => UserBinding::None,
                Carried::Same(token) => UserBinding::TxnToken(sha256(token.expose().as_bytes())),
                Carried::Hop(token) => UserBinding::UserToken(sha256(token.expose().as_bytes())),
                Carried::Nested(token) => UserBinding::Nested(token.expose().to_owned()),
            },
            private: self.claims.clone(),
            issued_at: now,
            expires: now.saturating_add(PROOF_LIFE),
        };
        let token = token.mint(identity.key(), identity.leaf_sha256());
        let token = token.map_err(|error| unsigned(&error.to_string()))?;
        if let Some(chain) = identity.chain() {
            request.headers_mut().insert(SIGNING_CHAIN, chain.clone());
        }
        set(request, AUTHORIZATION, &format!("Bearer {token}"))
    }

    fn http_signature(
        &self,
        request: &mut Request<Outgoing>,
        wit: &WitIdentity,
        now: UnixTime,
    ) -> Result<SentNonce, CallError> {
        let Held::Whole(body) = &self.body else { return Err(unsigned("the body is not held")) };
        let nonce = fresh_id()?;
        set(request, http_signature::CONTENT_DIGEST, &http_signature::content_digest(body))?;
        request.headers_mut().insert(WORKLOAD_IDENTITY_TOKEN, wit.token().clone());
        let (audience, target) = (audience(request), path_and_query(request).to_owned());
        let signed = http_signature::Request {
            method: request.method().as_str(),
            target: &target,
            headers: request.headers(),
            body,
        };
        let stamp = Stamp { nonce: &nonce, created: now, expires: now.saturating_add(PROOF_LIFE) };
        let fields = http_signature::sign_request(wit.key(), &signed, &audience, true, &stamp);
        let fields = fields.map_err(|error| unsigned(&error.to_string()))?;
        set(request, http_signature::SIGNATURE_INPUT, &fields.signature_input)?;
        set(request, http_signature::SIGNATURE, &fields.signature)?;
        Ok(SentNonce(nonce))
    }
}

/// The nonce of the signature that a request was sent with.
#[derive(Clone, Debug)]
pub(super) struct SentNonce(pub(super) String);

impl Shown {
    async fn of(mode: Mode, callee: &SpiffeId, credentials: &Credentials) -> Result<Self, CredentialError> {
        Ok(match mode {
            Mode::None | Mode::Mtls => Self::Nothing,
            Mode::Bearer => Self::Issued(credentials.bearer(callee).await?),
            Mode::Macaroon => Self::Issued(credentials.macaroon(callee).await?),
            Mode::Jwt | Mode::MtlsJwt => Self::ServiceToken(credentials.signing().await?),
            Mode::Wimse => Self::Wpt(credentials.wit().await?),
        })
    }

    /// Can it be bound to the body?
    fn binds_body(&self, wimse: WimseProof) -> bool {
        match self {
            Self::ServiceToken(_) | Self::HttpSignature(_) => true,
            Self::Wpt(_) => wimse == WimseProof::HttpSignature,
            Self::Nothing | Self::Issued(_) => false,
        }
    }

    /// What a token for one hop is to be bound to.
    fn key(&self, mode: Mode) -> Key<'_> {
        match self {
            _ if mode.shows_certificate() => Key::Certificate,
            Self::ServiceToken(identity) => Key::Key(identity.key()),
            Self::Wpt(wit) | Self::HttpSignature(wit) => Key::Key(wit.key()),
            Self::Nothing | Self::Issued(_) => Key::Nothing,
        }
    }
}

/// Shows what was issued to us; a macaroon only after it was narrowed to this request.
fn issued(
    request: &mut Request<Outgoing>,
    token: &IssuedToken,
    callee: &SpiffeId,
    now: UnixTime,
) -> Result<(), CallError> {
    let narrowed = token.authorization(&Narrowing {
        callee,
        method: request.method().as_str(),
        path: request.uri().path(),
        query: request.uri().query(),
        body: None,
        before: now.saturating_add(MACAROON_LIFE),
    });
    let value = narrowed.map_err(|error| unsigned(&error.to_string()))?;
    set(request, AUTHORIZATION, &value)
}

/// The target URI as the callee will read it: its name, and the path.
fn audience(request: &Request<Outgoing>) -> String {
    let authority = request.uri().authority().map_or("", |authority| authority.as_str());
    target_uri(authority, request.uri().path())
}

fn path_and_query(request: &Request<Outgoing>) -> &str {
    request.uri().path_and_query().map_or("/", |target| target.as_str())
}

/// 128 random bits.
fn fresh_id() -> Result<String, CallError> {
    let id = random_bytes::<16>(&SystemRandom::new()).map_err(|error| unsigned(&error.to_string()))?;
    Ok(URL_SAFE_NO_PAD.encode(id))
}

fn set(request: &mut Request<Outgoing>, name: impl IntoHeaderName, value: &str) -> Result<(), CallError> {
    request.headers_mut().insert(name, user::header(value)?);
    Ok(())
}

fn text(value: &HeaderValue) -> Result<&str, CallError> {
    value.to_str().map_err(|error| unsigned(&error.to_string()))
}

fn unsigned(why: &str) -> CallError {
    CallError::Proof { why: why.to_owned() }
}

const USER_TOKEN_NAME: &str = "user-token";
/// How long a proof counts: the way to the callee, and a little more.
const PROOF_LIFE: Duration = Duration::from_secs(30);
/// How long the copy of a macaroon counts.
const MACAROON_LIFE: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use super::*;
    use countersign_keys::KeyPair;

    use crate::{clock, outbound::empty};

    #[test]
    fn a_request_that_is_sent_again_is_signed_again_for_its_new_connection() {
        let key = KeyPair::generate(&SystemRandom::new()).unwrap();
        let proof = Proof {
            shown: Shown::Wpt(Arc::new(WitIdentity::for_tests(key))),
            user: Carried::Nobody,
            callee: Some(SpiffeId::parse("spiffe://td/svc/users").unwrap()),
            body: Held::Unbound,
            claims: BTreeMap::new(),
        };
        let mut request = Request::get("https://users/users/7").body(empty()).unwrap();
        let mut sign = |exporter: [u8; 32]| {
            proof.sign(&mut request, Some(&exporter), clock::now()).unwrap();
            assert_eq!(request.headers().get_all(WORKLOAD_PROOF_TOKEN).iter().count(), 1);
            let token = request.headers()[WORKLOAD_PROOF_TOKEN].to_str().unwrap().to_owned();
            let payload = URL_SAFE_NO_PAD.decode(token.split('.').nth(1).unwrap()).unwrap();
            serde_json::from_slice::<serde_json::Value>(&payload).unwrap()
        };
        let (first, second) = (sign([1; 32]), sign([2; 32]));
        assert_ne!(first.get("jti"), second.get("jti"));
        assert_ne!(first.get("cbx"), second.get("cbx"));
    }

    #[test]
    fn a_token_that_does_not_fit_into_a_header_does_not_leave() {
        let token = InternalToken::minted("two\nlines".into());
        let proof = Proof {
            shown: Shown::Nothing,
            user: Carried::Same(token),
            callee: Some(SpiffeId::parse("spiffe://td/svc/users").unwrap()),
            body: Held::Unbound,
            claims: BTreeMap::new(),
        };
        let mut request = Request::get("/users/7").body(empty()).unwrap();
        let refused = proof.sign(&mut request, None, clock::now()).map(|_| ());
        assert!(matches!(refused, Err(CallError::Proof { .. })), "{refused:?}");
        assert!(request.headers().is_empty());
    }
}
