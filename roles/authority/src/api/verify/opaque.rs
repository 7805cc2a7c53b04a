//! Bearer tokens: nothing can be read in them, so all there is to say is what was stored.

use countersign_identity::SpiffeId;
use countersign_store::{Db, StoreError, bearer::Bearer};
use countersign_token::{BearerKey, bearer};
use countersign_wire::api::verify::{ExaminedKind, TokenVerdict};

use super::{
    Question,
    checks::{FORM, Failure, KNOWN, REVOCATION, SCOPE, SECRET, Says, Step, TIMES, verdict},
};
use crate::{bearer_desk::Known, secrets};

use Step::{Found, Judged};

/// Judges it as a callee of its scope would.
pub(super) async fn judge(question: &Question<'_>, db: &Db) -> Result<TokenVerdict, StoreError> {
    let known = Known::of(db, question.token, question.callee).await?;
    let stored = known.as_ref().map(|known| &known.stored);
    let scope = stored.map(scope).unwrap_or_default();
    let says = stored.map(says).unwrap_or_default();
    let steps = vec![
        Judged(FORM),
        Judged(KNOWN),
        Found(SCOPE, format!("it counts at {scope}")),
        Judged(SECRET),
        Judged(TIMES),
        Judged(REVOCATION),
    ];
    let judged = match &known {
        Some(known) if known.entry.is_none() => {
            Err(Failure::at(SCOPE, format!("it counts at {scope} and nowhere else")))
        }
        Some(known) => holds(question, known),
        None => Err(unknown(question)),
    };
    Ok(verdict(ExaminedKind::Bearer, says, steps, judged))
}

fn holds(question: &Question<'_>, known: &Known) -> Result<(), Failure> {
    let Question { token, secrets, now, .. } = *question;
    let holder = known.judge(token, secrets, now).map_err(Failure::of)?;
    known.not_revoked(&holder, &question.keys.revoked, now).map_err(Failure::of)
}

/// Why it is none that was issued.
fn unknown(question: &Question<'_>) -> Failure {
    // Whom nobody knows, nobody's key helps.
    let nobody = SpiffeId::authority(&question.keys.trust_domain);
    let key = BearerKey::new(*secrets::bearer_key(question.secrets, &nobody).expose());
    match bearer::verify(question.token, &key, question.now, |_| None) {
        Err(error) => Failure::of(error),
        Ok(_) => Failure::at(KNOWN, "nobody issued it".to_owned()),
    }
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
