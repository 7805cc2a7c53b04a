//! The JWT-SVID profile of the SPIFFE Workload API (section 6): tokens for one process, remembered while more than
//! half of their life is left, and validation for workloads that would rather not.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use countersign_identity::UnixTime;
use countersign_keys::{PublicKey, Secret};
use countersign_sdk::clock;
use countersign_token::JwtSvid;
use countersign_wire::agent::{IssueTokenRequest, TokenKind};
use countersign_wire::snapshot::Snapshot;
use countersign_wire::workload::{Jwtsvid, JwtsvidRequest, JwtsvidResponse, ValidateJwtsvidResponse};
use prost_types::{ListValue, Struct, Value, value::Kind};
use tonic::Status;

use crate::agent::Core;
use crate::attest::Process;
use crate::registry::Registered;
use crate::relay::AUDIENCES_MAX;

/// Tokens that are remembered for one process: one for each set of audiences.
const REMEMBERED_MAX: usize = 64;
/// Nesting of claims that is passed on.
const CLAIM_DEPTH_MAX: usize = 8;

/// Tokens of one process by their audiences, in memory alone.
#[derive(Debug, Default)]
pub(crate) struct JwtSvids(Mutex<BTreeMap<Vec<String>, Remembered>>);

#[derive(Debug)]
struct Remembered {
    token: Secret<String>,
    /// Half of its life.
    renew_at: UnixTime,
}

impl JwtSvids {
    fn fresh(&self, audiences: &[String], now: UnixTime) -> Option<String> {
        let remembered = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        remembered.get(audiences).filter(|svid| now < svid.renew_at).map(|svid| svid.token.expose().clone())
    }

    fn remember(&self, audiences: Vec<String>, svid: Remembered, now: UnixTime) {
        let mut remembered = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if remembered.len() >= REMEMBERED_MAX {
            remembered.retain(|_, svid| now < svid.renew_at);
        }
        // A process with more audiences than that asks the authority each time, at its own quota.
        if remembered.len() < REMEMBERED_MAX || remembered.contains_key(&audiences) {
            remembered.insert(audiences, svid);
        }
    }
}

/// Section 6.2.1. One identity per process, so it is the default one and needs no hint.
pub(crate) async fn fetch(
    core: &Core,
    process: &Process,
    held: &Registered,
    request: JwtsvidRequest,
) -> Result<JwtsvidResponse, Status> {
    let JwtsvidRequest { audience: audiences, spiffe_id } = request;
    must_be_own(held, &spiffe_id)?;
    if audiences.is_empty() || audiences.len() > AUDIENCES_MAX || audiences.iter().any(String::is_empty) {
        return Err(Status::invalid_argument(format!(
            "name 1 to {AUDIENCES_MAX} audiences, none of them empty"
        )));
    }
    let svid = match held.jwt_svids.fresh(&audiences, clock::now()) {
        Some(token) => token,
        None => issue(core, process, held, audiences).await?,
    };
    let spiffe_id = held.entry.spiffe_id.to_string();
    Ok(JwtsvidResponse { svids: vec![Jwtsvid { spiffe_id, svid, hint: String::new() }] })
}

async fn issue(
    core: &Core,
    process: &Process,
    held: &Registered,
    audiences: Vec<String>,
) -> Result<String, Status> {
    core.limits.token(process.key())?;
    let mut named = audiences.iter().cloned();
    let request = IssueTokenRequest {
        kind: TokenKind::JwtSvid.into(),
        audience: named.next().unwrap_or_default(),
        more_audiences: named.collect(),
        ..IssueTokenRequest::default()
    };
    let issued = core.issue_token(process, held, request).await?;
    let now = clock::now();
    let life = UnixTime::from_millis(issued.expires_at_ms).since(now);
    let token = Secret::new(issued.token.clone());
    held.jwt_svids.remember(audiences, Remembered { token, renew_at: now.saturating_add(life / 2) }, now);
    Ok(issued.token)
}

/// Whoever asks for an identity by name must be it.
pub(crate) fn must_be_own(held: &Registered, spiffe_id: &str) -> Result<(), Status> {
    if spiffe_id.is_empty() || spiffe_id == held.entry.spiffe_id.as_str() {
        return Ok(());
    }
    Err(Status::permission_denied("no identity issued: the process is another service"))
}

/// Section 6.2.3, by JWT-SVID.md: what the token says, if it is genuine, in date, for `audience` and not revoked.
pub(crate) fn validate(
    snapshot: &Snapshot,
    audience: &str,
    svid: &str,
    now: UnixTime,
) -> Result<ValidateJwtsvidResponse, Status> {
    if audience.is_empty() || svid.is_empty() {
        return Err(Status::invalid_argument("audience and svid are mandatory"));
    }
    let mut signed_by = None;
    let verified = JwtSvid::verify(svid, audience, now, |trust_domain, kid| {
        let bundle = snapshot.token_authorities.iter().find(|known| known.trust_domain == *trust_domain)?;
        let keys = bundle.jwt_svid.iter().filter_map(|jwk| PublicKey::from_jwk(jwk.as_str()).ok());
        let key = keys.into_iter().find(|key| key.thumbprint() == kid)?;
        signed_by = Some(kid.to_owned());
        Some(key)
    });
    let verified = verified.map_err(|error| Status::invalid_argument(error.to_string()))?;
    let revoked = &snapshot.revoked;
    let is_revoked = verified.jti.iter().any(|jti| revoked.tokens.iter().any(|token| token.id == *jti))
        || signed_by.is_some_and(|kid| revoked.keys.iter().any(|key| key.id == kid));
    if is_revoked {
        return Err(Status::invalid_argument("the JWT-SVID was revoked"));
    }
    // Verified a line above: the payload is what was signed.
    let claims =
        claims(svid).ok_or_else(|| Status::internal("the claims of a verified token were not read"))?;
    Ok(ValidateJwtsvidResponse { spiffe_id: verified.subject.to_string(), claims: Some(claims) })
}

fn claims(verified: &str) -> Option<Struct> {
    let payload = URL_SAFE_NO_PAD.decode(verified.split('.').nth(1)?).ok()?;
    let serde_json::Value::Object(members) = serde_json::from_slice(&payload).ok()? else { return None };
    Some(Struct {
        fields: members.into_iter().map(|(name, value)| (name, told(value, CLAIM_DEPTH_MAX))).collect(),
    })
}

fn told(value: serde_json::Value, depth: usize) -> Value {
    use serde_json::Value as Json;
    let kind = match value {
        Json::Bool(truth) => Kind::BoolValue(truth),
        Json::Number(number) => Kind::NumberValue(number.as_f64().unwrap_or_default()),
        Json::String(text) => Kind::StringValue(text),
        Json::Array(values) if depth > 0 => {
            let values = values.into_iter().map(|value| told(value, depth - 1)).collect();
            Kind::ListValue(ListValue { values })
        }
        Json::Object(members) if depth > 0 => {
            let fields = members.into_iter().map(|(name, value)| (name, told(value, depth - 1))).collect();
            Kind::StructValue(Struct { fields })
        }
        Json::Null | Json::Array(_) | Json::Object(_) => Kind::NullValue(0),
    };
    Value { kind: Some(kind) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: UnixTime = UnixTime::from_secs(1_800_000_000);

    fn svid(renew_at: i64) -> Remembered {
        Remembered { token: Secret::new("t".to_owned()), renew_at: UnixTime::from_secs(renew_at) }
    }

    fn audience(number: usize) -> Vec<String> {
        vec![number.to_string()]
    }

    #[test]
    fn a_token_is_remembered_for_exactly_its_audiences_until_half_of_its_life_is_over() {
        let svids = JwtSvids::default();
        svids.remember(audience(1), svid(NOW.secs() + 150), NOW);
        assert_eq!(svids.fresh(&audience(1), NOW).as_deref(), Some("t"));
        assert_eq!(svids.fresh(&audience(2), NOW), None);
        assert_eq!(svids.fresh(&["1".to_owned(), "2".to_owned()], NOW), None);
        assert_eq!(svids.fresh(&audience(1), UnixTime::from_secs(NOW.secs() + 150)), None);
    }

    #[test]
    fn more_audiences_than_the_limit_are_not_remembered_and_old_ones_make_room() {
        let svids = JwtSvids::default();
        for number in 0..REMEMBERED_MAX {
            svids.remember(audience(number), svid(NOW.secs() + 1), NOW);
        }
        svids.remember(audience(REMEMBERED_MAX), svid(NOW.secs() + 1), NOW);
        assert_eq!(svids.fresh(&audience(REMEMBERED_MAX), NOW), None);
        let later = UnixTime::from_secs(NOW.secs() + 1);
        svids.remember(audience(REMEMBERED_MAX), svid(NOW.secs() + 9), later);
        assert!(svids.fresh(&audience(REMEMBERED_MAX), later).is_some());
    }
}
