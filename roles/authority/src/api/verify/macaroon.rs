//! Macaroons: the chain of MACs under the root key of the callee, and then each caveat by itself, so that whoever asks
//! sees all that are not met.

use countersign_identity::SpiffeId;
use countersign_token::macaroon::{
    HeldMacaroon, MacaroonHolder, MacaroonName, Predicate, RequestFacts, RootKey, service,
};
use countersign_wire::api::{
    explain::{Check, CheckOutcome},
    verify::{ExaminedKind, TokenVerdict},
};

use super::{
    Question,
    checks::{
        AUDIENCE, CAVEAT, CLAIMS, DISCHARGES, FORM, Failure, KEY, REVOCATION, SIGNATURE, Says, Step, check,
        verdict,
    },
};
use crate::secrets;

use Step::{Found, Judged};

/// Judges it as its callee would.
pub(super) fn judge(question: &Question<'_>) -> TokenVerdict {
    let held = HeldMacaroon::parse(question.token).ok();
    let named = held.as_ref().and_then(|held| SpiffeId::parse(held.root().location()).ok());
    // Where it names no workload there is no key for it either, and its own rules say so.
    let nobody = SpiffeId::authority(&question.keys.trust_domain);
    let callee = question.callee.or(named.as_ref()).unwrap_or(&nobody);
    let keys: Vec<(String, RootKey)> = secrets::macaroon_keys(question.secrets, callee)
        .map(|(id, key)| (id, RootKey::derive(key.expose())))
        .collect();
    let key_of = |wanted: &str| keys.iter().find(|(id, _)| id == wanted).map(|(_, key)| key);
    let mut caveats = Vec::new();
    let examined = service::examine(question.token, callee, key_of, |caveat| {
        caveats.push(judge_caveat(caveat, callee, question));
    });
    let says = says(held.as_ref(), callee, examined.as_ref().ok());
    let steps = vec![
        Judged(FORM),
        Judged(CLAIMS),
        Judged(KEY),
        Found(AUDIENCE, format!("the root key is that of {callee}")),
        Judged(SIGNATURE),
        Judged(DISCHARGES),
        Judged(REVOCATION),
    ];
    let judged = examined
        .map_err(Failure::of)
        .and_then(|holder| question.keys.revoked.judge(&holder.facts(question.now)).map_err(Failure::of));
    if caveats.is_empty() && judged.is_err() {
        caveats.push(check(CAVEAT, CheckOutcome::NotReached, None));
    }
    let mut found = verdict(ExaminedKind::Macaroon, says, steps, judged);
    found.holds &= caveats.iter().all(|caveat| caveat.result != CheckOutcome::Fail);
    // Before the last one, as the callee does; each is told, whatever became of those before it.
    let revocation = found.checks.pop();
    found.checks.extend(caveats.into_iter().chain(revocation));
    found
}

/// Whether one caveat is met, as far as that can be said of a request that is not here.
fn judge_caveat(caveat: &[u8], callee: &SpiffeId, question: &Question<'_>) -> Check {
    let text: String = String::from_utf8_lossy(caveat).chars().filter(|c| !c.is_control()).collect();
    let failed = |why: &dyn std::fmt::Display| {
        check(CAVEAT, CheckOutcome::Fail, Some(format!("{text}: not met: {why}")))
    };
    let predicate = match Predicate::parse(caveat) {
        Ok(predicate) => predicate,
        Err(error) => return failed(&error),
    };
    if let Some(missing) = missing(&predicate, question) {
        let detail = format!("{text}: not judged: {missing}");
        return check(CAVEAT, CheckOutcome::NotReached, Some(detail));
    }
    let request = question.request;
    let facts = RequestFacts {
        callee,
        method: request.map_or("", |request| request.method().as_str()),
        path: request.map_or("", |request| request.path()),
        query: request.and_then(|request| request.query()),
        body: None,
        caller: None,
        user: None,
        now: question.now,
    };
    match predicate.judge(&facts) {
        Ok(()) => check(CAVEAT, CheckOutcome::Pass, Some(format!("{text}: met"))),
        Err(error) => failed(&error),
    }
}

/// What a caveat asks about, if that is not at hand.
fn missing(predicate: &Predicate<'_>, question: &Question<'_>) -> Option<&'static str> {
    match predicate {
        Predicate::Audience(_) | Predicate::Before(_) => None,
        Predicate::Method(_) | Predicate::Path(_) | Predicate::PathUnder(_) | Predicate::Query(_) => {
            question.request.is_none().then_some("no request was named")
        }
        Predicate::Body(_) => Some("the body is not at hand"),
        Predicate::Caller(_) => Some("who calls is not known here"),
        Predicate::User(_) => Some("whose request it is, is not known here"),
    }
}

/// The end is in the caveats: known where the chain holds.
fn says(held: Option<&HeldMacaroon>, callee: &SpiffeId, holder: Option<&MacaroonHolder>) -> Says {
    let name = held.and_then(|held| MacaroonName::parse(held.root().identifier()).ok());
    Says {
        subject: name.map(|name| name.owner.to_string()),
        audience: vec![callee.to_string()],
        expires: holder.and_then(|holder| holder.expires),
    }
}
