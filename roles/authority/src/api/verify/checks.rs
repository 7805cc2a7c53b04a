//! The checks of a token, in the order in which the rules of its kind make them; and which of them an error is about.

use std::fmt::Display;

use countersign_identity::UnixTime;
use countersign_token::{
    AccessTokenError, BearerError, ExchangedTokenError, JwsError, JwtSvidError, RevokedError,
    ServiceTokenError, TxnTokenError, WitError,
    macaroon::{ChainError, MacaroonError},
};
use countersign_wire::api::{
    explain::{Check, CheckOutcome},
    verify::{ExaminedKind, TokenVerdict},
};

pub(super) const FORM: &str = "form";
pub(super) const CLAIMS: &str = "claims";
pub(super) const KEY: &str = "key";
pub(super) const SIGNATURE: &str = "signature";
pub(super) const ISSUER: &str = "issuer";
pub(super) const AUDIENCE: &str = "audience";
pub(super) const PRESENTER: &str = "presenter";
pub(super) const REQUEST: &str = "request";
pub(super) const TIMES: &str = "times";
pub(super) const POSSESSION: &str = "possession";
pub(super) const KNOWN: &str = "known";
pub(super) const SCOPE: &str = "scope";
pub(super) const SECRET: &str = "secret";
pub(super) const DISCHARGES: &str = "discharges";
pub(super) const CAVEAT: &str = "caveat";
pub(super) const REVOCATION: &str = "revocation";

/// One check that a kind has.
pub(super) enum Step {
    /// The rules judge it.
    Judged(&'static str),
    /// As above; where it holds, this is what was found.
    Found(&'static str, String),
    /// What it needs is not at hand.
    Open(&'static str, String),
}

/// The check that failed, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Failure {
    check: &'static str,
    why: String,
}

impl Failure {
    pub(super) fn of(error: impl Concerns) -> Self {
        Self { check: error.check(), why: error.to_string() }
    }

    pub(super) fn at(check: &'static str, why: impl Into<String>) -> Self {
        Self { check, why: why.into() }
    }
}

/// What a token says of itself.
#[derive(Default)]
pub(super) struct Says {
    pub(super) subject: Option<String>,
    pub(super) audience: Vec<String>,
    pub(super) expires: Option<UnixTime>,
}

/// The verdict over a token of `kind` whose rules stopped at `failure`, or did not.
pub(super) fn verdict(
    kind: ExaminedKind,
    says: Says,
    steps: Vec<Step>,
    judged: Result<(), Failure>,
) -> TokenVerdict {
    let checks = checks(steps, judged.err());
    let failed = |check: &Check| check.result == CheckOutcome::Fail;
    TokenVerdict {
        kind,
        holds: !checks.iter().any(failed),
        revoked: checks.iter().any(|check| failed(check) && check.name == REVOCATION),
        subject: says.subject,
        audience: says.audience,
        expires_at: says.expires,
        checks,
    }
}

/// Everything before the failure held, and nothing after it was reached.
fn checks(steps: Vec<Step>, failure: Option<Failure>) -> Vec<Check> {
    let mut checks = Vec::with_capacity(steps.len());
    let mut failure = failure.map(|failure| (failure.check, failure.why));
    let mut stopped = false;
    for step in steps {
        let (name, result, detail) = match step {
            Step::Judged(name) => (name, CheckOutcome::Pass, None),
            Step::Found(name, found) => (name, CheckOutcome::Pass, Some(found)),
            Step::Open(name, why) => (name, CheckOutcome::NotReached, Some(format!("not judged: {why}"))),
        };
        checks.push(match failure.take_if(|(failed, _)| *failed == name) {
            Some((_, why)) => {
                stopped = true;
                check(name, CheckOutcome::Fail, Some(why))
            }
            None if stopped => check(name, CheckOutcome::NotReached, None),
            None => check(name, result, detail),
        });
    }
    // A failure that no step speaks of is a failure none the less.
    if let Some((failed, why)) = failure {
        checks.iter_mut().for_each(|check| check.result = CheckOutcome::NotReached);
        checks.insert(0, check(failed, CheckOutcome::Fail, Some(why)));
    }
    checks
}

pub(super) fn check(name: &str, result: CheckOutcome, detail: Option<String>) -> Check {
    Check { name: name.to_owned(), result, detail }
}

/// An error of a kind's rules.
pub(super) trait Concerns: Display {
    /// The check that it is about.
    fn check(&self) -> &'static str;
}

impl Concerns for JwsError {
    fn check(&self) -> &'static str {
        match self {
            Self::WrongKey | Self::WrongAlgorithm { .. } | Self::BadSignature => SIGNATURE,
            _ => FORM,
        }
    }
}

impl Concerns for AccessTokenError {
    fn check(&self) -> &'static str {
        match self {
            Self::Jws(error) => error.check(),
            Self::WrongKind { .. } => FORM,
            Self::UnknownKey { .. } => KEY,
            Self::Claim(_) => CLAIMS,
            Self::WrongIssuer { .. } => ISSUER,
            Self::WrongAudience { .. } => AUDIENCE,
            Self::Lifetime { .. } | Self::NotYetValid { .. } | Self::Expired { .. } => TIMES,
            Self::Confirmation(_) => POSSESSION,
        }
    }
}

impl Concerns for ExchangedTokenError {
    fn check(&self) -> &'static str {
        match self {
            Self::Jws(error) => error.check(),
            Self::UnknownKey { .. } => KEY,
            Self::Claim(_) | Self::Scope(_) | Self::NotAWorkload { .. } | Self::OtherClient => CLAIMS,
            Self::WrongIssuer { .. } => ISSUER,
            Self::WrongAudience { .. } => AUDIENCE,
            Self::OtherActor { .. } => PRESENTER,
            Self::Confirmation(_) => POSSESSION,
            Self::Times(_) => TIMES,
        }
    }
}

impl Concerns for TxnTokenError {
    fn check(&self) -> &'static str {
        match self {
            Self::Jws(error) => error.check(),
            Self::WrongKind { .. } => FORM,
            Self::UnknownKey { .. } | Self::NotAnIssuer { .. } => KEY,
            Self::Claim(_) | Self::NotAWorkload { .. } => CLAIMS,
            Self::WrongTrustDomain { .. } => AUDIENCE,
            Self::NotOwner { .. } | Self::NotRequester { .. } => ISSUER,
            Self::Lifetime { .. } | Self::NotYetValid { .. } | Self::Expired { .. } => TIMES,
        }
    }
}

impl Concerns for JwtSvidError {
    fn check(&self) -> &'static str {
        match self {
            Self::Jws(error) => error.check(),
            Self::Claim(_) | Self::NotAnId { .. } => CLAIMS,
            Self::UnknownKey { .. } => KEY,
            Self::WrongAudience { .. } => AUDIENCE,
            Self::Times(_) => TIMES,
        }
    }
}

impl Concerns for WitError {
    fn check(&self) -> &'static str {
        match self {
            Self::Jws(error) => error.check(),
            Self::WrongKind { .. } => FORM,
            Self::UnknownKey { .. } | Self::ForbiddenAlgorithm { .. } => KEY,
            Self::Claim(_)
            | Self::Audience
            | Self::NotAWorkload { .. }
            | Self::Confirmation { .. }
            | Self::ConfirmationKey(_) => CLAIMS,
            Self::WrongTrustDomain { .. } | Self::WrongIssuer { .. } => ISSUER,
            Self::Times(_) => TIMES,
        }
    }
}

impl Concerns for ServiceTokenError {
    fn check(&self) -> &'static str {
        match self {
            Self::Jws(error) => error.check(),
            Self::Claim(_)
            | Self::NotAnId { .. }
            | Self::IdLength { .. }
            | Self::SeveralUsers
            | Self::RegisteredName { .. }
            | Self::NotText { .. } => CLAIMS,
            Self::UnknownKey { .. } => KEY,
            Self::NotOwner { .. } => ISSUER,
            Self::WrongAudience { .. } => AUDIENCE,
            Self::OtherMethod { .. }
            | Self::OtherPath
            | Self::OtherConnection
            | Self::Demanded { .. }
            | Self::OtherValue { .. }
            | Self::UserTokenGone
            | Self::OtherUserToken => REQUEST,
            Self::Times(_) => TIMES,
        }
    }
}

impl Concerns for BearerError {
    fn check(&self) -> &'static str {
        match self {
            Self::NotBearer | Self::Checksum | Self::BadId => FORM,
            Self::Unknown { .. } => KNOWN,
            Self::WrongSecret { .. } => SECRET,
            Self::Expired { .. } => TIMES,
        }
    }
}

impl Concerns for MacaroonError {
    fn check(&self) -> &'static str {
        match self {
            Self::NotBase64Url | Self::Format(_) => FORM,
            Self::NotAName | Self::BadKeyId | Self::Owner(_) => CLAIMS,
            Self::UnknownKey { .. } => KEY,
            Self::WrongLocation { .. } => AUDIENCE,
            Self::Chain(ChainError::BadSignature) => SIGNATURE,
            Self::Chain(ChainError::Predicate(_)) => CAVEAT,
            Self::Chain(_) => DISCHARGES,
        }
    }
}

impl Concerns for RevokedError {
    fn check(&self) -> &'static str {
        REVOCATION
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn steps() -> Vec<Step> {
        vec![
            Step::Judged(FORM),
            Step::Open(PRESENTER, "nobody is here".to_owned()),
            Step::Found(AUDIENCE, "all".to_owned()),
            Step::Judged(TIMES),
        ]
    }

    fn results(judged: Result<(), Failure>) -> Vec<(String, CheckOutcome, Option<String>)> {
        let verdict = verdict(ExaminedKind::Wit, Says::default(), steps(), judged);
        verdict.checks.into_iter().map(|check| (check.name, check.result, check.detail)).collect()
    }

    #[test]
    fn everything_before_a_failure_held_and_nothing_after_it_was_reached() {
        let found = results(Err(Failure::at(AUDIENCE, "not for you")));
        let words: Vec<_> = found.iter().map(|(_, result, _)| *result).collect();
        use CheckOutcome::{Fail, NotReached, Pass};
        assert_eq!(words, [Pass, NotReached, Fail, NotReached]);
        let details: Vec<_> = found.iter().map(|(.., detail)| detail.as_deref()).collect();
        assert_eq!(details, [None, Some("not judged: nobody is here"), Some("not for you"), None]);
        assert!(results(Ok(())).iter().all(|(_, result, _)| *result != Fail));
    }

    #[test]
    fn a_failure_that_no_step_speaks_of_is_a_failure_none_the_less() {
        let found = results(Err(Failure::at(SECRET, "why")));
        assert_eq!(found.first(), Some(&(SECRET.to_owned(), CheckOutcome::Fail, Some("why".to_owned()))));
        assert!(found.iter().skip(1).all(|(_, result, _)| *result == CheckOutcome::NotReached));
    }
}
