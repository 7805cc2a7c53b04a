//! Takes a token back (RFC 7009): only whoever holds it may.

use countersign_identity::CLOCK_SKEW;
use countersign_store::revoked::{Revoked, RevokedKind};
use countersign_token::{TokenKind, bearer, jws};
use countersign_wire::codes::Code;

use super::{Asked, Form, OAuthError, client, recognise::recognise};

/// What is to be stored; `None` where there is nothing to take back, which is as good (RFC 7009 section 2.2).
pub(crate) fn judge(asked: &Asked<'_>, form: &Form) -> Result<Option<Revoked>, OAuthError> {
    let client = client::authenticate(asked, form)?;
    let token = form.required("token")?;
    if is_of_another_kind(token) {
        let reason = "tokens of this kind are not issued by the token service";
        return Err(OAuthError::new(Code::TokenTypeUnsupported, reason));
    }
    let Some(found) = recognise(asked, token) else { return Ok(None) };
    if found.holder.as_ref() != Some(client.id()) {
        let reason = "the token was issued to somebody else";
        return Err(OAuthError::new(Code::ClientNotPermitted, reason));
    }
    // Every data plane holds all revocations: nobody fills that place alone.
    asked
        .sts
        .revocations
        .check(client.id(), asked.now)
        .map_err(|error| OAuthError::new(Code::TooManyRequests, error.to_string()))?;
    let id = found.facts.ids.first().cloned();
    Ok(id.map(|id| Revoked {
        kind: RevokedKind::Token,
        id,
        issued_before: asked.now,
        until: found.facts.expires.saturating_add(CLOCK_SKEW),
        by: client.id().to_string(),
    }))
}

/// What workloads make themselves, and what is taken back elsewhere.
fn is_of_another_kind(token: &str) -> bool {
    let kind = jws::claimed_typ(token).ok().and_then(|typ| TokenKind::of(&typ));
    let own =
        [TokenKind::Service, TokenKind::Wit, TokenKind::Wpt, TokenKind::ClientAssertion, TokenKind::Dpop];
    bearer::claims_to_be(token) || kind.is_some_and(|kind| own.contains(&kind))
}
