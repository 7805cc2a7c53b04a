//! Tokens that are signed: all that are JWTs.

use std::sync::Arc;

use countersign_identity::{SpiffeId, TrustDomain, UnixTime};
use countersign_sdk::{
    live::AuthorityKeys,
    signing_chains::{SigningChains, read_chain},
    tls::TrustState,
};
use countersign_token::{
    AccessToken, ExchangedToken, ExpectedToken, JwtSvid, ServiceToken, ServiceTokenError, Shown, Signer,
    SignerHint, TokenFacts, TokenKind, TxnToken, Unproven, Wit, jws,
    service_token::{BodyBinding, UserBinding},
};
use countersign_wire::api::verify::{ExaminedKind, TokenVerdict};
use serde_json::Value;

use super::{
    Question,
    checks::{
        AUDIENCE, CLAIMS, FORM, Failure, ISSUER, KEY, POSSESSION, PRESENTER, REQUEST, REVOCATION, SIGNATURE,
        Says, Step, TIMES, verdict,
    },
    unreadable,
};
use crate::api::{ApiError, sts::Said};

use Step::{Found, Judged, Open};

/// Judges a token that says it is of `kind`.
pub(super) fn judge(
    question: &Question<'_>,
    kind: TokenKind,
    trust: &Arc<TrustState>,
) -> Result<TokenVerdict, ApiError> {
    let token = Token { question, said: Said::by(question.token).ok() };
    match kind {
        TokenKind::AccessToken => Ok(token.access()),
        TokenKind::TxnToken => Ok(token.txn()),
        TokenKind::JwtSvid => Ok(token.jwt_svid()),
        TokenKind::Wit => Ok(token.wit()),
        TokenKind::Service => Ok(token.service(trust)),
        TokenKind::Wpt | TokenKind::Dpop => {
            Err(unreadable("it proves nothing without the token that it is for"))
        }
        TokenKind::ClientAssertion => {
            Err(unreadable("it counts once, at the token service: show it there instead"))
        }
    }
}

/// A token, and what it says as far as that can be read. None of it counts before the signature was verified.
struct Token<'a> {
    question: &'a Question<'a>,
    said: Option<Said>,
}

impl Token<'_> {
    /// From login or from an exchange: the key says which, and whose.
    fn access(&self) -> TokenVerdict {
        let kid = jws::parse_as(TokenKind::AccessToken, self.question.token).map(|token| token.kid);
        let authorities = &self.question.keys.authorities;
        let issued_by = |kid: &String| authorities.values().find(|keys| keys.exchange.contains_key(kid));
        match kid.ok().as_ref().and_then(issued_by) {
            Some(authority) => self.exchanged(authority),
            None => self.login(),
        }
    }

    fn login(&self) -> TokenVerdict {
        let Question { keys, token, now, .. } = self.question;
        let key_of = |kid: &str| keys.access.get(kid).cloned();
        let (issuer, audience) = (&keys.access_issuer, &keys.access_audience);
        let grant = AccessToken::verify_shown(token, Shown::Elsewhere, issuer, audience, *now, key_of);
        let steps = vec![
            Judged(FORM),
            Found(KEY, "one for access tokens from login".to_owned()),
            Judged(SIGNATURE),
            Judged(CLAIMS),
            Judged(ISSUER),
            Found(AUDIENCE, "the gateways of this deployment".to_owned()),
            Judged(TIMES),
            self.possession(),
            Judged(REVOCATION),
        ];
        let judged = grant.map_err(Failure::of).and_then(|grant| self.not_revoked(&grant.facts));
        verdict(ExaminedKind::AccessToken, self.says(), steps, judged)
    }

    fn exchanged(&self, authority: &AuthorityKeys) -> TokenVerdict {
        let Question { token, callee, now, .. } = self.question;
        let named = self.said.as_ref().and_then(|said| said.workload("aud"));
        // A token without a readable audience fails before anybody asks for whom it is.
        let nobody = SpiffeId::authority(&self.question.keys.trust_domain);
        let expected = ExpectedToken {
            issuer: &authority.issuer,
            audience: callee.or(named.as_ref()).unwrap_or(&nobody),
            presenter: None,
            shown: Shown::Elsewhere,
        };
        let mut signed_by = String::new();
        let verified = ExchangedToken::verify(token, &expected, *now, |kid| {
            signed_by.push_str(kid);
            authority.exchange.get(kid).cloned()
        });
        let actor = verified.as_ref().ok().and_then(|token| token.actor());
        let actor = actor.map_or_else(|| "its outermost actor".to_owned(), ToString::to_string);
        let steps = vec![
            Judged(FORM),
            Found(KEY, format!("one for exchanged tokens of {}", authority.issuer)),
            Judged(SIGNATURE),
            Judged(CLAIMS),
            Judged(ISSUER),
            self.audience(),
            Open(PRESENTER, format!("only {actor} may show it")),
            self.possession(),
            Judged(TIMES),
            Judged(REVOCATION),
        ];
        let facts = verified.map(|token| token.facts(&signed_by));
        let judged = facts.map_err(Failure::of).and_then(|facts| self.not_revoked(&facts));
        verdict(ExaminedKind::ExchangedToken, self.says(), steps, judged)
    }

    fn txn(&self) -> TokenVerdict {
        let Question { keys, token, now, .. } = self.question;
        let mut maker = String::new();
        let grant = TxnToken::verify_grant(token, &keys.trust_domain, *now, |kid| {
            let (key, owner) = keys.internal.get(kid).cloned()?;
            maker = format!("of {owner}");
            Some((key, owner))
        });
        let steps = vec![
            Judged(FORM),
            Found(KEY, maker),
            Judged(SIGNATURE),
            Judged(CLAIMS),
            Found(AUDIENCE, format!("every service of {}", keys.trust_domain)),
            Judged(ISSUER),
            Judged(TIMES),
            Judged(REVOCATION),
        ];
        let judged = grant.map_err(Failure::of).and_then(|grant| self.not_revoked(&grant.facts));
        verdict(ExaminedKind::TxnToken, self.says(), steps, judged)
    }

    fn jwt_svid(&self) -> TokenVerdict {
        let Question { keys, token, callee, now, .. } = self.question;
        let named = self.says().audience.into_iter().next().unwrap_or_default();
        let audience = callee.map_or(named.as_str(), SpiffeId::as_str);
        let (mut signed_by, mut bundle) = (String::new(), String::new());
        let verified = JwtSvid::verify(token, audience, *now, |trust_domain: &TrustDomain, kid| {
            let key = keys.authorities.get(trust_domain)?.jwt_svid.get(kid).cloned()?;
            bundle = format!("in the bundle of {trust_domain}");
            signed_by = key.thumbprint();
            Some(key)
        });
        let steps = vec![
            Judged(FORM),
            Judged(CLAIMS),
            Found(KEY, bundle),
            Judged(SIGNATURE),
            self.audience(),
            Judged(TIMES),
            Judged(REVOCATION),
        ];
        let facts = verified.map(|svid| svid.facts(&signed_by));
        let judged = facts.map_err(Failure::of).and_then(|facts| self.not_revoked(&facts));
        verdict(ExaminedKind::JwtSvid, self.says(), steps, judged)
    }

    fn wit(&self) -> TokenVerdict {
        let Question { keys, token, now, .. } = self.question;
        let mut bundle = String::new();
        let wit: Result<Unproven, _> = Wit::verify(token, *now, |kid| {
            let issuer = keys.wit_issuer(kid)?;
            bundle = format!("in the bundle of {}", issuer.trust_domain);
            Some(issuer)
        });
        let steps = vec![
            Judged(FORM),
            Found(KEY, bundle),
            Judged(SIGNATURE),
            Judged(CLAIMS),
            Judged(ISSUER),
            Judged(TIMES),
            Judged(REVOCATION),
            Open(POSSESSION, "it proves nobody without a proof that is made with the key in it".to_owned()),
        ];
        let judged = wit.map_err(Failure::of).and_then(|wit| keys.judge_wit(&wit, *now).map_err(Failure::of));
        verdict(ExaminedKind::Wit, self.says(), steps, judged)
    }

    fn service(&self, trust: &Arc<TrustState>) -> TokenVerdict {
        let Question { token, callee, now, .. } = self.question;
        let mut found = Err("no registered key has its kid".to_owned());
        let examined = ServiceToken::examine(token, *callee, *now, |hint| {
            found = self.signer(&hint, trust);
            found.as_ref().ok().map(|(signer, _)| signer.clone())
        });
        let how = found.as_ref().map(|(_, how)| *how).unwrap_or_default();
        let made_for = examined.as_ref().map(|(token, _)| request_of(token)).unwrap_or_default();
        let steps = vec![
            Judged(FORM),
            Judged(CLAIMS),
            Found(KEY, how.to_owned()),
            Judged(SIGNATURE),
            Found(ISSUER, "the one name that its key has".to_owned()),
            self.audience(),
            Open(REQUEST, made_for),
            Judged(TIMES),
            Judged(REVOCATION),
        ];
        let judged = match (examined, found) {
            (Ok((token, signer)), _) => self.not_revoked(&token.facts(&signer.key.thumbprint())),
            // Why there is no key says more than that there is none.
            (Err(ServiceTokenError::UnknownKey { .. }), Err(why)) => Err(Failure::at(KEY, why)),
            (Err(error), _) => Err(Failure::of(error)),
        };
        verdict(ExaminedKind::ServiceToken, self.says(), steps, judged)
    }

    /// The key that a service token names, whose it is, and how that is known.
    fn signer(
        &self,
        hint: &SignerHint<'_>,
        trust: &Arc<TrustState>,
    ) -> Result<(Signer, &'static str), String> {
        let Question { keys, chain, now, .. } = self.question;
        let Some(thumbprint) = hint.certificate_sha256 else {
            let registered = keys.registered.get(hint.kid).ok_or("no registered key has its kid")?;
            let signer = Signer { key: registered.key.clone(), owner: registered.owner.clone() };
            return Ok((signer, "registered"));
        };
        let chain = chain.ok_or("it names a certificate, and no signing chain came along")?;
        let chain = read_chain(chain).map_err(|error| error.to_string())?;
        let signer = SigningChains::new(Arc::clone(trust)).verify(&chain, *now);
        let signer = signer.map_err(|refusal| refusal.error.to_string())?;
        if signer.thumbprint() != thumbprint {
            return Err("the signing chain is that of another certificate than it names".to_owned());
        }
        let signer = Signer { key: signer.key().clone(), owner: signer.id().clone() };
        Ok((signer, "certified by the signing chain"))
    }

    fn not_revoked(&self, facts: &TokenFacts) -> Result<(), Failure> {
        self.question.keys.revoked.judge(facts).map_err(Failure::of)
    }

    /// Whoever shows a bound token proves to hold its key; whoever examines it cannot.
    fn possession(&self) -> Step {
        match self.said.as_ref().is_some_and(|said| said.claims.contains_key("cnf")) {
            true => Open(POSSESSION, "it is bound to a key, which whoever shows it has to prove".to_owned()),
            false => Found(POSSESSION, "bound to no key: whoever has it can use it".to_owned()),
        }
    }

    fn audience(&self) -> Step {
        match self.question.callee {
            Some(callee) => Found(AUDIENCE, callee.to_string()),
            None => Open(AUDIENCE, "no callee was named, and it counts at its audience alone".to_owned()),
        }
    }

    fn says(&self) -> Says {
        let Some(said) = &self.said else { return Says::default() };
        let names = match said.claims.get("aud") {
            Some(Value::Array(names)) => names.iter().collect(),
            name => Vec::from_iter(name),
        };
        Says {
            subject: said.text("sub").or_else(|| said.text("iss")).map(str::to_owned),
            audience: names.into_iter().filter_map(Value::as_str).map(str::to_owned).collect(),
            expires: said.claims.get("exp").and_then(Value::as_i64).map(UnixTime::from_secs),
        }
    }
}

/// For which request a service token was made, which is not at hand.
fn request_of(token: &ServiceToken) -> String {
    let bound = [
        (matches!(token.body, BodyBinding::Sha256(_)), "its body"),
        (token.channel.is_some(), "its connection"),
        (token.user != UserBinding::None, "its user's token"),
    ];
    let bound: Vec<&str> =
        bound.into_iter().filter(|(is_bound, _)| *is_bound).map(|(_, what)| what).collect();
    let with = if bound.is_empty() { String::new() } else { format!(" with {}", bound.join(", ")) };
    format!(
        "the request is not at hand; it is good once, for {} {}{with}",
        token.method, token.path_and_query
    )
}
