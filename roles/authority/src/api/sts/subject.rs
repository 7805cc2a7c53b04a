//! The token that is given away: verified by the keys of its own kind and trust domain, for whom it was meant.

use countersign_identity::{Possession, SpiffeId, TrustDomain, User, UserProof, Verified};
use countersign_token::{
    AccessToken, ExchangedToken, ExpectedToken, JwtSvid, Scope, Shown, SubjectKind, SubjectToken, TokenFacts,
    TokenKind, TxnToken, jws,
};
use countersign_wire::codes::Code;
use serde_json::Value;

use super::{Asked, OAuthError, Presented, TokenType};

/// A subject token that holds.
#[derive(Clone, Debug)]
pub(crate) struct Subject {
    /// The person that it speaks of; a JWT-SVID speaks of nobody.
    pub(crate) user: Option<Verified<User>>,
    pub(crate) proof: UserProof,
    /// What becomes of it, judged by `countersign_token::exchange`.
    pub(crate) token: SubjectToken,
}

/// Reads and verifies the subject token of a request by `client`.
///
/// `asked_scope` is what the client asks for: a token from login has no scope of its own and so permits any.
pub(crate) fn verify(
    asked: &Asked<'_>,
    presented: Presented<'_>,
    client: &SpiffeId,
    asked_scope: Option<&Scope>,
) -> Result<Subject, OAuthError> {
    let refused = |reason: String| OAuthError::new(Code::SubjectTokenRefused, reason);
    match presented.kind {
        TokenType::AccessToken => access(asked, presented.token, client, asked_scope),
        TokenType::TxnToken => txn(asked, presented.token),
        TokenType::Jwt => svid(asked, presented.token).map(|(svid, facts)| {
            let token = SubjectToken::of_jwt_svid(&svid, is_revoked(asked, &facts));
            Subject { user: None, proof: UserProof::None, token }
        }),
        TokenType::UnsignedJson => stated(asked, presented.token, asked_scope),
    }
    .map_err(refused)
}

/// Whose the actor token is, and when it expires.
pub(crate) fn actor(
    asked: &Asked<'_>,
    presented: Presented<'_>,
) -> Result<(SpiffeId, countersign_identity::UnixTime), OAuthError> {
    let refused = |reason: String| OAuthError::new(Code::ActorTokenRefused, reason);
    let (svid, facts) = svid(asked, presented.token).map_err(refused)?;
    asked.live.tokens().revoked.judge(&facts).map_err(|error| refused(error.to_string()))?;
    Ok((svid.subject.clone(), facts.expires))
}

/// From login or from an exchange: the key says which, and whose.
fn access(
    asked: &Asked<'_>,
    token: &str,
    client: &SpiffeId,
    asked_scope: Option<&Scope>,
) -> Result<Subject, String> {
    let unverified = jws::parse_as(TokenKind::AccessToken, token).map_err(|error| error.to_string())?;
    let keys = asked.live.tokens();
    // Whoever a bound token is for saw that its holder has the key: it cannot be shown a second time here.
    let shown = Shown::Elsewhere;
    if let Some(key) = keys.access.get(&unverified.kid) {
        let (issuer, audience) = (&keys.access_issuer, &keys.access_audience);
        let grant = AccessToken::verify_parsed(&unverified, key, shown, issuer, audience, asked.now);
        let grant = grant.map_err(|error| error.to_string())?;
        let scope = asked_scope.cloned().unwrap_or_default();
        let token = SubjectToken::of_access_token(&grant, scope, is_revoked(asked, &grant.facts));
        return Ok(Subject { user: Some(grant.user), proof: UserProof::AccessToken, token });
    }
    let of_domain = keys.exchange_authority(&unverified.kid);
    let (trust_domain, authority) = of_domain.ok_or(NO_KEY)?;
    let is_ours = *trust_domain == keys.trust_domain;
    let expected = ExpectedToken {
        issuer: &authority.issuer,
        // What another trust domain issues here is for our token service, and for nobody behind it.
        audience: if is_ours { client } else { &asked.authority.id },
        presenter: None,
        shown,
    };
    let key = authority.exchange.get(&unverified.kid).ok_or(NO_KEY)?;
    let verified = ExchangedToken::verify_parsed(&unverified, key, &expected, asked.now);
    let verified = verified.map_err(|error| error.to_string())?;
    let revoked = is_revoked(asked, &verified.facts(&unverified.kid));
    let token = SubjectToken::of_exchanged_token(&verified, revoked);
    let user = ExchangedToken::user(&verified);
    let user = if is_ours { user } else { guest(&user, trust_domain) };
    Ok(Subject { user: Some(user), proof: UserProof::HopToken, token })
}

fn txn(asked: &Asked<'_>, token: &str) -> Result<Subject, String> {
    let keys = asked.live.tokens();
    let key_of = |kid: &str| keys.internal.get(kid).cloned();
    let grant = TxnToken::verify_grant(token, &keys.trust_domain, asked.now, key_of);
    let grant = grant.map_err(|error| error.to_string())?;
    let revoked = is_revoked(asked, &grant.facts);
    let token = SubjectToken::of_txn_token(&grant, &keys.trust_domain, revoked);
    let token = token.map_err(|error| error.to_string())?;
    Ok(Subject { user: Some(grant.user), proof: UserProof::InternalToken, token })
}

fn is_revoked(asked: &Asked<'_>, facts: &TokenFacts) -> bool {
    asked.live.tokens().revoked.judge(facts).is_err()
}

/// A JWT-SVID for us, of our own or of a federated trust domain.
fn svid(asked: &Asked<'_>, token: &str) -> Result<(Verified<JwtSvid>, TokenFacts), String> {
    let mut signed_by = String::new();
    let key_of = |trust_domain: &TrustDomain, kid: &str| {
        kid.clone_into(&mut signed_by);
        asked.live.tokens().authorities.get(trust_domain)?.jwt_svid.get(kid).cloned()
    };
    let verified = JwtSvid::verify(token, asked.authority.id.as_str(), asked.now, key_of);
    let verified = verified.map_err(|error| error.to_string())?;
    let facts = verified.facts(&signed_by);
    Ok((verified, facts))
}

/// A subject by the client's own word: a name, and no rights of any kind.
fn stated(asked: &Asked<'_>, json: &str, asked_scope: Option<&Scope>) -> Result<Subject, String> {
    let Ok(Value::Object(members)) = serde_json::from_str::<Value>(json) else {
        return Err("the subject is no JSON object".to_owned());
    };
    let sub = members.get("sub").and_then(Value::as_str).unwrap_or_default();
    if members.len() != 1 || sub.is_empty() || sub.len() > STATED_BYTES_MAX || sub.contains("://") {
        return Err("the subject is no JSON object with a sub and nothing else".to_owned());
    }
    let expires = asked.now.saturating_add(countersign_token::txn_token::TXN_TOKEN_LIFETIME_MAX);
    let user = Verified::vouch(User {
        id: sub.to_owned(),
        name: sub.to_owned(),
        roles: Vec::new(),
        txn: String::new(),
        requested_by: None,
        actors: Vec::new(),
        possession: Possession::None,
        not_after: expires,
    });
    let token = SubjectToken {
        kind: SubjectKind::Stated,
        scope: asked_scope.cloned().unwrap_or_default(),
        actors: Vec::new(),
        possession: Possession::None,
        may_act: None,
        expires,
        is_revoked: false,
    };
    Ok(Subject { user: Some(user), proof: UserProof::None, token })
}

/// A person of another trust domain: the id and the roles that they have there mean nothing here, so each says whose
/// word it is. `u_1` of a partner is nobody's `u_1`, and a partner's moderator moderates nothing of ours.
fn guest(user: &Verified<User>, trust_domain: &TrustDomain) -> Verified<User> {
    let mut guest = (**user).clone();
    guest.id = format!("{trust_domain}/{}", guest.id);
    guest.name = format!("{}@{trust_domain}", guest.name);
    guest.roles = guest.roles.iter().map(|role| format!("{trust_domain}/{role}")).collect();
    Verified::vouch(guest)
}

const NO_KEY: &str = "no key for access tokens has its kid";
/// Bytes of a subject that is only stated.
const STATED_BYTES_MAX: usize = 128;
