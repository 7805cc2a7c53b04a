//! A key of our own and the workload identity token that names it (draft-ietf-wimse-workload-creds).

use std::fmt;

use countersign_identity::{SpiffeId, UnixTime};
use countersign_keys::{KeyPair, SystemRandom};
use countersign_wire::agent::{IssueTokenRequest, TokenKind};
use http::HeaderValue;

use super::{Credential, CredentialError, issued};
use crate::{agent::AgentApi, clock};

/// A workload identity token with the private half of the key that it names.
pub struct WitIdentity {
    key: KeyPair,
    token: HeaderValue,
    expires: UnixTime,
    renew_at: UnixTime,
}

impl WitIdentity {
    /// `key` beside a token that nobody signed.
    #[cfg(test)]
    pub(crate) fn for_tests(key: KeyPair) -> Self {
        let (expires, renew_at) = (clock::now(), clock::now());
        Self { key, token: HeaderValue::from_static("wit"), expires, renew_at }
    }

    /// What signs the proof beside the token.
    #[must_use]
    pub const fn key(&self) -> &KeyPair {
        &self.key
    }

    /// Value of `Workload-Identity-Token`.
    #[must_use]
    pub const fn token(&self) -> &HeaderValue {
        &self.token
    }
}

pub(super) async fn get(agent: &AgentApi, id: &SpiffeId) -> Result<WitIdentity, CredentialError> {
    let key = KeyPair::generate(&SystemRandom::new()).map_err(|_| CredentialError::NoKey)?;
    // The authority names no key in a token before its private half was shown to be held.
    let possession =
        key.sign_fixed(POSSESSION_PURPOSE, id.as_str().as_bytes()).map_err(|_| CredentialError::NoKey)?;
    let request = IssueTokenRequest {
        kind: TokenKind::Wit.into(),
        audience: String::new(),
        jwk: key.public_key().to_jwk(),
        possession: possession.to_vec(),
        more_audiences: Vec::new(),
    };
    let answer = agent.issue_token(request).await?;
    let (expires, renew_at) = issued::times(&answer, clock::now());
    Ok(WitIdentity { key, token: issued::header(&answer.token)?, expires, renew_at })
}

impl Credential for WitIdentity {
    fn expires(&self) -> UnixTime {
        self.expires
    }

    fn renew_at(&self) -> UnixTime {
        self.renew_at
    }
}

impl fmt::Debug for WitIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "WitIdentity({:?})", self.key)
    }
}

/// Purpose in the domain separation of the proof of possession.
const POSSESSION_PURPOSE: &str = "wit-key";
