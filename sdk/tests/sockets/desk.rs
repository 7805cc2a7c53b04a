//! What the authority behind the agent does about tokens: issues them, and tells each callee what it takes to verify its own.

use std::{
    collections::HashMap,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use countersign_identity::{Mode, SpiffeId, TrustDomain, UserContext, WimseProof};
use countersign_keys::{KeyPair, PublicKey, SystemRandom, random_bytes};
use countersign_sdk::clock;
use countersign_token::{
    BearerKey, BearerToken, Wit,
    macaroon::{MacaroonName, RootKey, binary, service},
    wit::ConfirmationKey,
};
use countersign_wire::{
    agent::{
        AppliedRequest, BearerEntry, IssueTokenRequest, IssueTokenResponse, MacaroonKey, SecretsResponse,
        TokenKind,
    },
    snapshot::{Jwk, TokenAuthority},
};
use tokio::sync::watch;
use tonic::Status;

use crate::deployment::{HOUR, key};

/// How a service is registered to call and to be called.
#[derive(Clone)]
pub(crate) struct Modes {
    pub(crate) accepts: Vec<Mode>,
    pub(crate) sends: Mode,
    pub(crate) user_context: UserContext,
    pub(crate) wimse: WimseProof,
}

impl Default for Modes {
    fn default() -> Self {
        Self {
            accepts: vec![Mode::Mtls],
            sends: Mode::Mtls,
            user_context: UserContext::Same,
            wimse: WimseProof::Token,
        }
    }
}

pub(crate) struct Desk {
    trust_domain: TrustDomain,
    wit: Mutex<Vec<KeyPair>>,
    jwt_svid: KeyPair,
    pub(crate) exchange: KeyPair,
    callees: Mutex<HashMap<SpiffeId, Callee>>,
    pub(crate) secrets: watch::Sender<u64>,
    /// Every token that was issued, in order.
    pub(crate) issued: Mutex<Vec<(TokenKind, SpiffeId)>>,
    /// Signing certificates that were issued.
    pub(crate) certified: AtomicUsize,
    pub(crate) life: Mutex<Duration>,
    /// The desk is there and gives nothing.
    pub(crate) is_closed: Mutex<bool>,
    pub(crate) applied: Mutex<Vec<(SpiffeId, AppliedRequest)>>,
}

struct Callee {
    macaroon_key: [u8; 32],
    bearer_key: [u8; 32],
    bearer: Vec<BearerEntry>,
}

impl Desk {
    pub(crate) fn new(trust_domain: TrustDomain) -> Self {
        Self {
            trust_domain,
            wit: Mutex::new(vec![key()]),
            jwt_svid: key(),
            exchange: key(),
            callees: Mutex::default(),
            secrets: watch::Sender::new(1),
            issued: Mutex::default(),
            certified: AtomicUsize::new(0),
            life: Mutex::new(HOUR),
            is_closed: Mutex::new(false),
            applied: Mutex::default(),
        }
    }

    pub(crate) fn issuer(&self) -> String {
        format!("https://{}", self.trust_domain)
    }

    pub(crate) fn authority(&self) -> TokenAuthority {
        let jwk = |key: &KeyPair| vec![Jwk::from_text(&key.public_key().to_jwk()).unwrap()];
        TokenAuthority {
            trust_domain: self.trust_domain.clone(),
            issuer: self.issuer(),
            jwt_svid: jwk(&self.jwt_svid),
            wit: self.wit.lock().unwrap().iter().flat_map(jwk).collect(),
            exchange: jwk(&self.exchange),
        }
    }

    /// A new key signs from now on; the old one still verifies.
    pub(crate) fn rotate_wit_key(&self) {
        self.wit.lock().unwrap().push(key());
    }

    pub(crate) fn life(&self) -> Duration {
        *self.life.lock().unwrap()
    }

    pub(crate) fn count(&self, kind: TokenKind) -> usize {
        self.issued.lock().unwrap().iter().filter(|(issued, _)| *issued == kind).count()
    }

    pub(crate) fn certified(&self) -> usize {
        self.certified.load(Ordering::SeqCst)
    }

    pub(crate) fn check_open(&self) -> Result<(), Status> {
        if *self.is_closed.lock().unwrap() { Err(Status::unavailable("not now")) } else { Ok(()) }
    }

    pub(crate) fn issue(
        &self,
        owner: &SpiffeId,
        request: &IssueTokenRequest,
    ) -> Result<IssueTokenResponse, Status> {
        self.check_open()?;
        let (now, expires) = (clock::now(), clock::now().saturating_add(self.life()));
        let token = match request.kind() {
            TokenKind::Wit => {
                let public = PublicKey::from_jwk(&request.jwk).unwrap();
                let held = public.verify_fixed("wit-key", owner.as_str().as_bytes(), &request.possession);
                held.map_err(|_| Status::permission_denied("the key is not held"))?;
                let wit = Wit {
                    subject: owner.clone(),
                    confirmation: ConfirmationKey::new(public),
                    token_id: Some(random_text()),
                    issuer: Some(self.issuer()),
                    expires,
                };
                wit.mint(self.wit.lock().unwrap().last().unwrap(), now).unwrap()
            }
            TokenKind::Bearer => {
                let token = BearerToken::mint(&SystemRandom::new()).unwrap();
                self.of(&request.audience, |callee| {
                    let hash = BearerKey::new(callee.bearer_key).hash(&token);
                    callee.bearer.push(BearerEntry {
                        id: token.id().to_string(),
                        hash: hash.0.to_vec(),
                        owner: owner.to_string(),
                        expires_at_ms: expires.millis(),
                    });
                });
                // A callee must know a token before its owner shows it.
                self.secrets.send_modify(|generation| *generation += 1);
                token.expose().to_owned()
            }
            TokenKind::Macaroon => {
                let root = self.of(&request.audience, |callee| RootKey::derive(&callee.macaroon_key));
                let name = MacaroonName::new("m1", owner.clone(), random()).unwrap();
                let audience = request.audience.parse().unwrap();
                let macaroon = service::mint(&root, &name, &audience, expires).unwrap();
                URL_SAFE_NO_PAD.encode(binary::write(&macaroon))
            }
            other => return Err(Status::unimplemented(format!("{other:?}"))),
        };
        self.issued.lock().unwrap().push((request.kind(), owner.clone()));
        Ok(IssueTokenResponse { token, issued_at_ms: now.millis(), expires_at_ms: expires.millis() })
    }

    /// What `callee`, and nobody else, needs.
    pub(crate) fn secrets_of(&self, callee: &SpiffeId, generation: u64) -> SecretsResponse {
        self.of(callee.as_str(), |callee| SecretsResponse {
            generation,
            macaroon_keys: vec![MacaroonKey { id: "m1".into(), key: callee.macaroon_key.to_vec() }],
            bearer_key: callee.bearer_key.to_vec(),
            bearer: callee.bearer.clone(),
        })
    }

    /// The root key of macaroons for `callee`, with which a test verifies what left.
    pub(crate) fn macaroon_root(&self, callee: &SpiffeId) -> RootKey {
        self.of(callee.as_str(), |callee| RootKey::derive(&callee.macaroon_key))
    }

    fn of<T>(&self, callee: &str, look: impl FnOnce(&mut Callee) -> T) -> T {
        let mut callees = self.callees.lock().unwrap();
        let callee = callees.entry(callee.parse().unwrap()).or_insert_with(|| Callee {
            macaroon_key: random(),
            bearer_key: random(),
            bearer: Vec::new(),
        });
        look(callee)
    }
}

fn random<const N: usize>() -> [u8; N] {
    random_bytes(&SystemRandom::new()).unwrap()
}

fn random_text() -> String {
    URL_SAFE_NO_PAD.encode(random::<16>())
}
