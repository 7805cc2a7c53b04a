//! Is this a token of ours, and whom does it concern?

use countersign_identity::{IdKind, SpiffeId, TrustDomain};
use countersign_token::{
    AccessToken, ExchangedToken, ExpectedToken, JwtSvid, Shown, TokenFacts, TokenKind, TxnToken, jws,
};
use serde_json::{Map, Value};

use super::{Asked, said::Said};

/// A token that counts at this moment.
#[derive(Clone, Debug)]
pub(crate) struct Recognised {
    /// All that it says.
    pub(crate) claims: Map<String, Value>,
    /// By what it is taken back.
    pub(crate) facts: TokenFacts,
    /// The workload that it was issued to; a token from login was issued to a person.
    pub(crate) holder: Option<SpiffeId>,
    recipients: Recipients,
}

#[derive(Clone, Debug)]
enum Recipients {
    /// Gateways of ours.
    Edge,
    /// Everybody of this trust domain.
    Home,
    /// These.
    Named(Vec<String>),
}

impl Recognised {
    /// May `client` know about the token? It was issued to it, or is for it.
    pub(crate) fn concerns(&self, client: &SpiffeId, home: &TrustDomain) -> bool {
        let is_home = client.trust_domain() == home;
        let is_for_it = match &self.recipients {
            Recipients::Edge => is_home && matches!(client.kind(), IdKind::Gateway(_)),
            Recipients::Home => is_home,
            Recipients::Named(names) => names.iter().any(|name| name == client.as_str()),
        };
        is_for_it || self.holder.as_ref() == Some(client)
    }
}

/// Recognises a token that we issued, has not ended and was not taken back; anything else is nothing.
pub(crate) fn recognise(asked: &Asked<'_>, token: &str) -> Option<Recognised> {
    let said = Said::by(token).ok()?;
    let found = access(asked, token, &said)
        .or_else(|| exchanged(asked, token, &said))
        .or_else(|| txn(asked, token, &said))
        .or_else(|| svid(asked, token, &said))?;
    asked.live.tokens().revoked.judge(&found.facts).is_ok().then_some(found)
}

fn access(asked: &Asked<'_>, token: &str, said: &Said) -> Option<Recognised> {
    let keys = asked.live.tokens();
    let key_of = |kid: &str| keys.access.get(kid).cloned();
    let (issuer, audience) = (&keys.access_issuer, &keys.access_audience);
    let grant =
        AccessToken::verify_shown(token, Shown::Elsewhere, issuer, audience, asked.now, key_of).ok()?;
    let (claims, facts) = (said.claims.clone(), grant.facts);
    Some(Recognised { claims, facts, holder: None, recipients: Recipients::Edge })
}

fn exchanged(asked: &Asked<'_>, token: &str, said: &Said) -> Option<Recognised> {
    let unverified = jws::parse_as(TokenKind::AccessToken, token).ok()?;
    let keys = asked.live.tokens();
    let ours = keys.authorities.get(&keys.trust_domain)?;
    let audience = said.workload("aud")?;
    let expected =
        ExpectedToken { issuer: &ours.issuer, audience: &audience, presenter: None, shown: Shown::Elsewhere };
    let key_of = |kid: &str| ours.exchange.get(kid).cloned();
    let verified = ExchangedToken::verify(token, &expected, asked.now, key_of).ok()?;
    Some(Recognised {
        claims: said.claims.clone(),
        facts: verified.facts(&unverified.kid),
        holder: verified.actor().cloned(),
        recipients: Recipients::Named(vec![audience.to_string()]),
    })
}

fn txn(asked: &Asked<'_>, token: &str, said: &Said) -> Option<Recognised> {
    let keys = asked.live.tokens();
    let key_of = |kid: &str| keys.internal.get(kid).cloned();
    let grant = TxnToken::verify_grant(token, &keys.trust_domain, asked.now, key_of).ok()?;
    let (claims, holder) = (said.claims.clone(), grant.user.requested_by.clone());
    Some(Recognised { claims, facts: grant.facts, holder, recipients: Recipients::Home })
}

fn svid(asked: &Asked<'_>, token: &str, said: &Said) -> Option<Recognised> {
    let unverified = jws::parse_as(TokenKind::JwtSvid, token).ok()?;
    let keys = asked.live.tokens();
    let ours = keys.authorities.get(&keys.trust_domain)?;
    let key_of = |trust_domain: &TrustDomain, kid: &str| {
        (*trust_domain == keys.trust_domain).then(|| ours.jwt_svid.get(kid).cloned()).flatten()
    };
    let audience = match said.claims.get("aud")? {
        Value::Array(names) => names.first()?.as_str()?,
        name => name.as_str()?,
    };
    let verified = JwtSvid::verify(token, audience, asked.now, key_of).ok()?;
    Some(Recognised {
        claims: said.claims.clone(),
        facts: verified.facts(&unverified.kid),
        holder: Some(verified.subject.clone()),
        recipients: Recipients::Named(verified.audiences.clone()),
    })
}
