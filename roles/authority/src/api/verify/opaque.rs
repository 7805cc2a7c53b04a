//! Bearer tokens: nothing can be read in them, so all there is to say is what was stored.

use countersign_identity::{SpiffeId, UnixTime};
use countersign_store::{Db, StoreError, bearer::Bearer};
use countersign_token::{BearerEntry, BearerHash, BearerKey, BearerToken, RevokedError, bearer};
use countersign_wire::api::verify::{ExaminedKind, TokenVerdict};

use super::{
    Question,
    checks::{FORM, Failure, KNOWN, REVOCATION, SCOPE, SECRET, Says, Step, TIMES, verdict},
};
use crate::secrets;

use Step::{Found, Judged};

/// Judges it as a callee of its scope would.
pub(super) async fn judge(question: &Question<'_>, db: &Db) -> Result<TokenVerdict, StoreError> {
    let stored = match BearerToken::parse(question.token) {
        // Those that expired too, as long as they are kept: why one counts no longer is what is asked.
        Ok(token) => db.bearer(&token.id().to_string(), UnixTime::from_secs(0)).await?,
        Err(_) => None,
    };
    let entry = match &stored {
        Some(stored) => entry(question, stored, db).await?,
        None => None,
    };
    let scope = stored.as_ref().map(scope).unwrap_or_default();
    let says = stored.as_ref().map(says).unwrap_or_default();
    let steps = vec![
        Judged(FORM),
        Judged(KNOWN),
        Found(SCOPE, format!("it counts at {scope}")),
        Judged(SECRET),
        Judged(TIMES),
        Judged(REVOCATION),
    ];
    let judged = match &stored {
        Some(_) if entry.is_none() => {
            Err(Failure::at(SCOPE, format!("it counts at {scope} and nowhere else")))
        }
        stored => holds(question, entry, stored.as_ref()),
    };
    Ok(verdict(ExaminedKind::Bearer, says, steps, judged))
}

/// What the callee holds of it: of all callees in its scope, the one that is asked about or any.
async fn entry(
    question: &Question<'_>,
    stored: &Bearer,
    db: &Db,
) -> Result<Option<(SpiffeId, BearerEntry)>, StoreError> {
    let Some(callee) = question.callee.or(stored.scope.first()) else { return Ok(None) };
    let hash = db.bearer_hash(&stored.id, callee).await?.and_then(|hash| hash.try_into().ok());
    let entry = |hash| BearerEntry {
        owner: stored.owner.clone(),
        hash: BearerHash(hash),
        expires: stored.expires_at,
    };
    Ok(hash.map(|hash| (callee.clone(), entry(hash))))
}

fn holds(
    question: &Question<'_>,
    entry: Option<(SpiffeId, BearerEntry)>,
    stored: Option<&Bearer>,
) -> Result<(), Failure> {
    let (callee, entry) = entry.unzip();
    // Whom nobody knows, nobody's key helps.
    let callee = callee.unwrap_or_else(|| SpiffeId::authority(&question.keys.trust_domain));
    let key = BearerKey::new(*secrets::bearer_key(question.secrets, &callee).expose());
    let holder = bearer::verify(question.token, &key, question.now, |_| entry);
    let holder = holder.map_err(Failure::of)?;
    if let Some(revoked) = stored.filter(|stored| stored.revoked_at.is_some()) {
        return Err(Failure::of(RevokedError::Token { id: revoked.id.clone() }));
    }
    question.keys.revoked.judge(&holder.facts(question.now)).map_err(Failure::of)
}

fn scope(stored: &Bearer) -> String {
    stored.scope.iter().map(SpiffeId::as_str).collect::<Vec<_>>().join(" and ")
}

fn says(stored: &Bearer) -> Says {
    Says {
        subject: Some(stored.owner.to_string()),
        audience: stored.scope.iter().map(ToString::to_string).collect(),
        expires: Some(stored.expires_at),
    }
}
