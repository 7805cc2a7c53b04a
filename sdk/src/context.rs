//! The user's context in the hands of somebody who may not read it.
//!
//! A service behind a sidecar links no SDK, so it cannot hold the internal token that came with a request. It is handed
//! a sealed text instead, which it gives back with the calls that it makes on behalf of that user: only the process that
//! sealed it can open it, and only as long as the token inside may count. Nothing is kept for it, so nothing can fill up.

use std::time::Duration;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use countersign_identity::{SpiffeId, UnixTime};
use countersign_keys::{ProcessSeal, ProcessSealError, SecureRandom};
use http::HeaderName;
use thiserror::Error;

use crate::{
    inbound::Caller,
    outbound::{InternalToken, Reach},
    trace::{Hop, TraceContext},
};

/// Carries a sealed context from a sidecar to its service, and back with the service's own calls.
pub const CONTEXT: HeaderName = HeaderName::from_static("countersign-context");

/// Longest life of a sealed context: no internal token of a user lives longer.
pub const CONTEXT_LIFETIME: Duration = Duration::from_mins(5);

/// Seals and opens contexts; lives and dies with its process. Whoever seals for itself has a clone for itself.
#[derive(Clone, Debug)]
pub struct ContextKey(ProcessSeal);

/// What a service passes on: whose call this is, and the trace that it belongs to.
#[derive(Clone, Debug)]
pub struct Context {
    token: Option<InternalToken>,
    trace: TraceContext,
}

/// Why nothing was sealed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum ContextSealError {
    /// Over [`TOKEN_BYTES_MAX`].
    #[error("a user's token of {bytes} bytes fits in no context: at most {TOKEN_BYTES_MAX} are sealed")]
    TooLong {
        /// How long the token is.
        bytes: usize,
    },
    /// Every number that a seal may use once was used.
    #[error("this process can seal no more contexts: start it again")]
    UsedUp,
}

/// Why a text is no context.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum ContextError {
    /// Over [`CONTEXT_BYTES_MAX`].
    #[error("context has {bytes} bytes: at most {CONTEXT_BYTES_MAX} are read")]
    TooLong {
        /// How long it is.
        bytes: usize,
    },
    /// Not sealed by this process, or changed since.
    #[error(
        "context was not sealed by this process: pass on what came with the request that is being served"
    )]
    NotOurs,
    /// Its time is over.
    #[error("context has expired: calls on behalf of a user end with the request that they belong to")]
    Expired,
}

impl ContextKey {
    /// A new key, for contexts of the service `id`.
    ///
    /// # Errors
    /// The machine gave no randomness.
    pub fn generate(id: &SpiffeId, rng: &dyn SecureRandom) -> Result<Self, ProcessSealError> {
        ProcessSeal::generate(&format!("sidecar-context {id}"), rng).map(Self)
    }

    /// Seals what `caller` brought along, until `now` and [`CONTEXT_LIFETIME`].
    ///
    /// # Errors
    /// See [`ContextSealError`].
    pub fn seal(&self, caller: &Caller, now: UnixTime) -> Result<String, ContextSealError> {
        self.seal_parts(caller.trace().hop(), caller.token(), now)
    }

    fn seal_parts(
        &self,
        hop: Hop,
        token: Option<&InternalToken>,
        now: UnixTime,
    ) -> Result<String, ContextSealError> {
        let expires = now.saturating_add(CONTEXT_LIFETIME).secs();
        let (reach, token) = match token {
            None => (NOBODY, ""),
            Some(token) => (mark(token.reach()), token.expose()),
        };
        if token.len() > TOKEN_BYTES_MAX {
            return Err(ContextSealError::TooLong { bytes: token.len() });
        }
        let mut plain = Vec::with_capacity(HEAD_BYTES + token.len());
        plain.extend_from_slice(&expires.to_be_bytes());
        plain.extend_from_slice(&hop.trace().to_bytes());
        plain.extend_from_slice(&hop.span().to_bytes());
        plain.extend_from_slice(&[u8::from(hop.is_sampled()), reach]);
        plain.extend_from_slice(token.as_bytes());
        let sealed = self.0.seal(&plain).ok_or(ContextSealError::UsedUp)?;
        Ok(URL_SAFE_NO_PAD.encode(sealed))
    }

    /// Opens what this process sealed.
    ///
    /// # Errors
    /// See [`ContextError`].
    pub fn open(&self, text: &[u8], now: UnixTime) -> Result<Context, ContextError> {
        if text.len() > CONTEXT_BYTES_MAX {
            return Err(ContextError::TooLong { bytes: text.len() });
        }
        let sealed = URL_SAFE_NO_PAD.decode(text).map_err(|_| ContextError::NotOurs)?;
        let plain = self.0.open(&sealed).ok_or(ContextError::NotOurs)?;
        read(plain.expose(), now)
    }
}

impl Context {
    /// The token that goes along, if the request came for somebody.
    pub(crate) const fn token(&self) -> Option<&InternalToken> {
        self.token.as_ref()
    }

    /// Joins the hops of one call.
    #[must_use]
    pub const fn trace(&self) -> &TraceContext {
        &self.trace
    }
}

fn read(plain: &[u8], now: UnixTime) -> Result<Context, ContextError> {
    let (expires, rest) = plain.split_first_chunk::<8>().ok_or(ContextError::NotOurs)?;
    let (trace, rest) = rest.split_first_chunk::<16>().ok_or(ContextError::NotOurs)?;
    let (span, rest) = rest.split_first_chunk::<8>().ok_or(ContextError::NotOurs)?;
    let ([is_sampled, reach], token) = rest.split_first_chunk::<2>().ok_or(ContextError::NotOurs)?;
    if now.secs() >= i64::from_be_bytes(*expires) {
        return Err(ContextError::Expired);
    }
    let token = std::str::from_utf8(token).map_err(|_| ContextError::NotOurs)?;
    let token = match *reach {
        NOBODY => None,
        TRUST_DOMAIN => Some(InternalToken::verified(token)),
        THIS_HOP => Some(InternalToken::verified_for_this_hop(token)),
        _ => return Err(ContextError::NotOurs),
    };
    let trace = TraceContext::of_parts(*trace, *span, *is_sampled != 0).ok_or(ContextError::NotOurs)?;
    Ok(Context { token, trace })
}

const fn mark(reach: Reach) -> u8 {
    match reach {
        Reach::TrustDomain => TRUST_DOMAIN,
        Reach::ThisHop => THIS_HOP,
    }
}

/// Longest context that is read: the longest token, sealed and in base64url.
const CONTEXT_BYTES_MAX: usize = 12 * 1024;
/// Longest token that is sealed.
const TOKEN_BYTES_MAX: usize = 8 * 1024;
/// Expiry, trace, span, is it sampled, reach.
const HEAD_BYTES: usize = 8 + 16 + 8 + 1 + 1;
const NOBODY: u8 = 0;
const TRUST_DOMAIN: u8 = 1;
const THIS_HOP: u8 = 2;

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use countersign_keys::SystemRandom;

    use super::*;

    const NOW: UnixTime = UnixTime::from_secs(1_800_000_000);

    fn key() -> ContextKey {
        let id = SpiffeId::parse("spiffe://fleamarket.test/svc/ads").unwrap();
        ContextKey::generate(&id, &SystemRandom::new()).unwrap()
    }

    fn sealed(key: &ContextKey, reach: u8, token: &str, expires: UnixTime) -> String {
        let hop = [&7_u128.to_be_bytes()[..], &9_u64.to_be_bytes(), &[1]].concat();
        let head = [&expires.secs().to_be_bytes()[..], &hop, &[reach]].concat();
        let plain = [head, token.as_bytes().to_vec()].concat();
        URL_SAFE_NO_PAD.encode(key.0.seal(&plain).unwrap())
    }

    #[test]
    fn a_context_comes_back_as_it_was_sealed() {
        let (key, later) = (key(), NOW.saturating_add(Duration::from_secs(1)));
        for (reach, expected) in [(TRUST_DOMAIN, Reach::TrustDomain), (THIS_HOP, Reach::ThisHop)] {
            let context = key.open(sealed(&key, reach, "a.b.c", later).as_bytes(), NOW).unwrap();
            let token = context.token().unwrap();
            assert_eq!((token.expose(), token.reach()), ("a.b.c", expected));
            let hop = context.trace().hop();
            assert_eq!(hop.trace().to_bytes(), 7_u128.to_be_bytes());
            assert_eq!((hop.span().to_bytes(), hop.is_sampled()), (9_u64.to_be_bytes(), true));
        }
        let nobody = key.open(sealed(&key, NOBODY, "", later).as_bytes(), NOW).unwrap();
        assert!(nobody.token().is_none());
    }

    #[test]
    fn seals_the_longest_token_and_none_that_is_longer() {
        let (key, hop) = (key(), Hop::first());
        let token = InternalToken::verified(&"t".repeat(TOKEN_BYTES_MAX));
        let sealed = key.seal_parts(hop, Some(&token), NOW).unwrap();
        let context = key.clone().open(sealed.as_bytes(), NOW).unwrap();
        assert_eq!(context.token().unwrap().expose().len(), TOKEN_BYTES_MAX);
        let token = InternalToken::verified(&"t".repeat(TOKEN_BYTES_MAX + 1));
        let refused = key.seal_parts(hop, Some(&token), NOW).unwrap_err();
        assert_eq!(refused, ContextSealError::TooLong { bytes: TOKEN_BYTES_MAX + 1 });
        assert!(ContextSealError::UsedUp.to_string().contains("start it again"));
    }

    #[test]
    fn rejects_a_context_of_another_process() {
        let (ours, theirs) = (key(), key());
        let text = sealed(&theirs, TRUST_DOMAIN, "a.b.c", NOW.saturating_add(CONTEXT_LIFETIME));
        assert_eq!(ours.open(text.as_bytes(), NOW).unwrap_err(), ContextError::NotOurs);
        assert_eq!(ours.open(b"not base64url!", NOW).unwrap_err(), ContextError::NotOurs);
        assert_eq!(ours.open(b"", NOW).unwrap_err(), ContextError::NotOurs);
    }

    #[test]
    fn rejects_a_context_whose_time_is_over() {
        let key = key();
        let text = sealed(&key, TRUST_DOMAIN, "a.b.c", NOW);
        assert_eq!(key.open(text.as_bytes(), NOW).unwrap_err(), ContextError::Expired);
    }

    #[test]
    fn rejects_a_context_that_is_too_long_before_it_is_opened() {
        let refused = key().open(&vec![b'A'; CONTEXT_BYTES_MAX + 1], NOW).unwrap_err();
        assert_eq!(refused, ContextError::TooLong { bytes: CONTEXT_BYTES_MAX + 1 });
    }
}
