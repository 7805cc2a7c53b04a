//! A token that the authority made for one callee: opaque, or a macaroon.

use std::fmt;

use countersign_identity::{SpiffeId, UnixTime};
use countersign_keys::Secret;
use countersign_token::macaroon::{AttenuateError, HeldMacaroon, Narrowing};
use countersign_wire::agent::{IssueTokenRequest, IssueTokenResponse, TokenKind};
use http::HeaderValue;

use super::{Credential, CredentialError};
use crate::{agent::AgentApi, clock, renewal};

/// A token that is shown to one callee. The one before it counts until it expires, so requests that carry it are not
/// cut off by a renewal.
pub struct IssuedToken {
    token: Token,
    expires: UnixTime,
    renew_at: UnixTime,
}

enum Token {
    Opaque(Secret<String>),
    Macaroon(HeldMacaroon),
}

impl IssuedToken {
    /// The value of `Authorization` for one request. An opaque token is what it is; of a macaroon leaves only a copy that
    /// is good for this request and for seconds.
    ///
    /// # Errors
    /// The macaroon cannot be narrowed any more.
    pub(crate) fn authorization(&self, to: &Narrowing<'_>) -> Result<String, AttenuateError> {
        match &self.token {
            Token::Opaque(token) => Ok(format!("Bearer {}", token.expose())),
            Token::Macaroon(held) => Ok(format!("Macaroon {}", held.present(to)?)),
        }
    }

    /// When it is over.
    #[must_use]
    pub const fn expires(&self) -> UnixTime {
        self.expires
    }
}

pub(super) async fn get(
    agent: &AgentApi,
    kind: TokenKind,
    callee: &SpiffeId,
) -> Result<IssuedToken, CredentialError> {
    let request = IssueTokenRequest {
        kind: kind.into(),
        audience: callee.to_string(),
        jwk: String::new(),
        possession: Vec::new(),
        more_audiences: Vec::new(),
    };
    let answer = agent.issue_token(request).await?;
    let (expires, renew_at) = times(&answer, clock::now());
    Ok(IssuedToken { token: Token::read(kind, answer.token)?, expires, renew_at })
}

impl Token {
    /// What cannot be shown is refused here, once, and not with every request.
    fn read(kind: TokenKind, token: String) -> Result<Self, CredentialError> {
        if kind == TokenKind::Macaroon {
            let held = HeldMacaroon::parse(&token);
            return held
                .map(Self::Macaroon)
                .map_err(|_| CredentialError::Unusable { why: "it is no macaroon" });
        }
        header(&token)?;
        Ok(Self::Opaque(Secret::new(token)))
    }
}

/// When it is over, and when a new one is due. The life counts from now: our clock and the authority's may differ.
pub(super) fn times(answer: &IssueTokenResponse, now: UnixTime) -> (UnixTime, UnixTime) {
    let expires = UnixTime::from_millis(answer.expires_at_ms);
    (expires, now.saturating_add(renewal::half_of(expires.since(now))))
}

/// A token as the value of a header that is never logged.
pub(super) fn header(token: &str) -> Result<HeaderValue, CredentialError> {
    let unusable = CredentialError::Unusable { why: "its token is empty or does not fit into a header" };
    if token.is_empty() {
        return Err(unusable);
    }
    let mut value = HeaderValue::try_from(token).map_err(|_| unusable)?;
    value.set_sensitive(true);
    Ok(value)
}

impl Credential for IssuedToken {
    fn expires(&self) -> UnixTime {
        self.expires
    }

    fn renew_at(&self) -> UnixTime {
        self.renew_at
    }
}

impl fmt::Debug for IssuedToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "IssuedToken(until {:?})", self.expires)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rejects_a_token_that_cannot_be_shown() {
        for (kind, token) in [
            (TokenKind::Bearer, ""),
            (TokenKind::Bearer, "two\nlines"),
            (TokenKind::Macaroon, "csb_no_macaroon"),
            (TokenKind::Macaroon, ""),
        ] {
            let refused = Token::read(kind, token.to_owned()).map(|_| ());
            assert!(matches!(refused, Err(CredentialError::Unusable { .. })), "{kind:?} {token:?}");
        }
    }
}
