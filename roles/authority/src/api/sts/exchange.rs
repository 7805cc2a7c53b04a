//! One exchange: who asks, with which token, for whom, and whether the policy lets them.

use countersign_identity::{Caller, SpiffeId, TrustDomain, User};
use countersign_keys::{SystemRandom, hash::hex, random_bytes};
use countersign_ledger::{CheckRecord, CheckResult, Event};
use countersign_policy::{Ask, Permit, Refusal, RefusalKind, decide};
use countersign_sdk::inbound::{DecisionDraft, Denial};
use countersign_store::issued_tokens::IssuedToken;
use countersign_token::{
    ExchangeError, ExchangeGrant, ExchangeRequest, ExchangedToken, JwtSvid, SubjectKind, TxnToken, Wanted,
    exchange as rules,
};
use countersign_wire::codes::Code;
use http::Method;
use serde::Serialize;

use super::{
    Asked, Exchange, Form, OAuthError, STS, TokenType,
    client::{self, Client, NOT_ALONE},
    subject::{self, Subject},
    target::Target,
};

/// A token that was issued.
#[derive(Debug)]
pub(crate) struct Issued {
    pub(crate) answer: Answer,
    pub(crate) kind: TokenType,
    pub(crate) event: Event,
    /// For the next DPoP proof of this client.
    pub(crate) nonce: Option<String>,
    /// What is taken back with its owner; a user's token is bound to a key of its holder, or taken back with its user.
    pub(crate) remembered: Option<IssuedToken>,
}

/// RFC 8693 section 2.2.1.
#[derive(Debug, Serialize)]
pub(crate) struct Answer {
    pub(crate) access_token: String,
    pub(crate) issued_token_type: String,
    pub(crate) token_type: &'static str,
    pub(crate) expires_in: u64,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) scope: String,
}

/// For whom, as the request names them.
enum Recipient {
    Workload(Target),
    /// This trust domain, whose services pass the token on among themselves.
    Home(TrustDomain),
}

/// Judges a request and makes the token that it asks for.
pub(crate) fn exchange(
    asked: &Asked<'_>,
    form: &Form,
    draft: &mut DecisionDraft,
) -> Result<Issued, OAuthError> {
    let client = client::authenticate(asked, form)?;
    draft.comes_from(&client.on_behalf_of(None, countersign_identity::UserProof::None), None);
    let request = Exchange::read(form)?;
    let client = client::bind_to_proof(asked, client)?;
    let subject = subject::verify(asked, request.subject, client.id(), request.scope.as_ref())?;
    let actor = request.actor.map(|actor| subject::actor(asked, actor)).transpose()?;
    if actor.as_ref().is_some_and(|(actor, _)| actor != client.id()) {
        return Err(OAuthError::new(Code::ActorTokenRefused, "the actor token is that of another workload"));
    }
    let recipient = recipient(asked, form, request.requested)?;
    if request.requested != TokenType::AccessToken
        && client.id().trust_domain() != &asked.authority.trust_domain
    {
        let reason =
            "only a workload of this trust domain can be named by a JWT-SVID or a transaction token of ours";
        return Err(OAuthError::new(Code::ClientNotPermitted, reason));
    }
    let wanted = wanted(&recipient, request.requested);
    let rule = ExchangeRequest {
        client: client.id(),
        actor: actor.as_ref().map(|(actor, expires)| (actor, *expires)),
        wanted,
        scope: request.scope.as_ref(),
    };
    let caller = client.on_behalf_of(subject.user.clone(), subject.proof);
    let possession = caller.proof().workload.possession();
    let home = &asked.live.tokens().trust_domain;
    let grant = rules::exchange(&subject.token, &rule, possession, home, asked.now).map_err(not_exchanged)?;
    draft.comes_from(&caller, Some(&asked.authority.keys.load().pseudonym));
    let route = route(&recipient, request.requested, &subject.token.kind);
    draft.asks_for(&Method::POST, &route);
    let permit = permit(asked, &caller, &route, draft)?;
    issue(asked, &client, &subject, grant, wanted, request.requested, &permit)
}

/// A transaction token is for the trust domain, everything else for one workload.
fn recipient(asked: &Asked<'_>, form: &Form, requested: TokenType) -> Result<Recipient, OAuthError> {
    if requested != TokenType::TxnToken {
        return Target::named(form, asked.live).map(Recipient::Workload);
    }
    let home = &asked.live.tokens().trust_domain;
    let is_home = |name: &str| name.strip_prefix("spiffe://").unwrap_or(name) == home.as_str();
    let mut names = form.all("audience").chain(form.all("resource")).peekable();
    if names.peek().is_none() || !names.all(is_home) {
        let reason = "a transaction token is for this trust domain: audience must be its name";
        return Err(OAuthError::new(Code::TargetUnknown, reason));
    }
    if form.optional("scope").is_none() {
        return Err(OAuthError::form("scope is missing: a transaction has a purpose"));
    }
    Ok(Recipient::Home(home.clone()))
}

fn wanted(recipient: &Recipient, requested: TokenType) -> Wanted<'_> {
    match (recipient, requested) {
        (Recipient::Home(home), _) => Wanted::TxnToken(home),
        (Recipient::Workload(target), TokenType::Jwt) => Wanted::JwtSvid(target.id.as_str()),
        (Recipient::Workload(target), _) => Wanted::ExchangedToken(&target.id),
    }
}

/// What `sts.cedar` calls it.
fn route(recipient: &Recipient, requested: TokenType, subject: &SubjectKind) -> String {
    match (recipient, requested, subject) {
        (Recipient::Home(_), _, SubjectKind::Stated) => "/txn/unsigned-json".to_owned(),
        (Recipient::Home(_), ..) => "/txn".to_owned(),
        (Recipient::Workload(target), TokenType::Jwt, _) => format!("/jwt-svid/{}", target.label),
        (Recipient::Workload(target), ..) => format!("/exchange/{}", target.label),
    }
}

fn permit(
    asked: &Asked<'_>,
    caller: &Caller,
    route: &str,
    draft: &mut DecisionDraft,
) -> Result<Permit, OAuthError> {
    let policies = asked.live.policy().map_err(|error| not_permitted(Code::ClientNotPermitted, &error))?;
    let ask = Ask { caller, target: STS, method: &Method::POST, route, path: route };
    decide(policies, &ask).map_err(|refusal| {
        let code = code(&refusal, route);
        let reason = asked.sts.explainer.reason(policies, &ask, asked.now);
        let detail = refusal.detail().map_or_else(|| refusal.to_string(), |why| format!("{refusal}: {why}"));
        draft.check(CheckRecord {
            name: "policy".to_owned(),
            result: CheckResult::Fail,
            detail: detail.clone(),
        });
        let policy = refusal.policies().first().cloned().or(reason.nearest);
        Denial { policy, fix: Some(reason.fix), ..Denial::new(code, detail) }.into()
    })
}

/// Where a target was named it is the target that is refused, as if it did not exist (RFC 8693 section 2.2.2).
fn code(refusal: &Refusal, route: &str) -> Code {
    match refusal.kind() {
        RefusalKind::NoPolicies => Code::ClientNotPermitted,
        _ if route.starts_with("/txn") => Code::ClientNotPermitted,
        _ => Code::ExchangeNotPermitted,
    }
}

fn not_permitted(code: Code, cause: &dyn std::fmt::Display) -> OAuthError {
    OAuthError::new(code, format!("sts.cedar cannot be used: {cause}"))
}

fn not_exchanged(error: ExchangeError) -> OAuthError {
    let code = match &error {
        ExchangeError::WiderScope { .. } => Code::ScopeWider,
        ExchangeError::WrongTarget { .. } => Code::TargetUnknown,
        ExchangeError::ActorExpired { .. } | ExchangeError::NobodyToActFor => Code::ActorTokenRefused,
        _ => Code::SubjectTokenRefused,
    };
    OAuthError::new(code, error.to_string())
}

/// What a new token is made of.
struct Making<'a> {
    asked: &'a Asked<'a>,
    client: &'a Client,
    subject: &'a Subject,
    grant: ExchangeGrant,
    /// Random.
    id: String,
}

fn issue(
    asked: &Asked<'_>,
    client: &Client,
    subject: &Subject,
    grant: ExchangeGrant,
    wanted: Wanted<'_>,
    kind: TokenType,
    permit: &Permit,
) -> Result<Issued, OAuthError> {
    let making = Making { asked, client, subject, grant, id: new_id()? };
    let access_token = match wanted {
        Wanted::ExchangedToken(audience) => making.hop_token(audience)?,
        Wanted::TxnToken(_) => making.txn_token()?,
        Wanted::JwtSvid(audience) => making.svid(audience)?,
    };
    let Making { grant: ExchangeGrant { scope, actors, expires, .. }, id, .. } = making;
    let owned = || IssuedToken { id: id.clone(), owner: client.id().clone(), expires_at: expires };
    let remembered = matches!(wanted, Wanted::JwtSvid(_)).then(owned);
    let event = Event::TokenExchanged {
        client: client.id().clone(),
        subject: told(asked, subject, client.id()),
        issued: kind.name().to_owned(),
        audience: audience(wanted),
        id,
        actors: actors.iter().map(SpiffeId::to_string).collect(),
        expires,
        policy: permit.policies().first().cloned().unwrap_or_default(),
    };
    let answer = Answer {
        access_token,
        issued_token_type: kind.to_string(),
        token_type: if kind == TokenType::AccessToken { client.token_type } else { NOT_ALONE },
        expires_in: expires.since(asked.now).as_secs(),
        scope: scope.to_string(),
    };
    let nonce = client.shows_proof.then(|| asked.sts.nonces.current(asked.now));
    Ok(Issued { answer, kind, event, nonce, remembered })
}

impl Making<'_> {
    fn hop_token(&self, audience: &SpiffeId) -> Result<String, OAuthError> {
        let user = person(self.subject)?;
        let token = ExchangedToken {
            issuer: self.asked.authority.issuer.clone(),
            audience: audience.clone(),
            user_id: user.id.clone(),
            name: user.name.clone(),
            roles: user.roles.clone(),
            scope: self.grant.scope.clone(),
            txn: transaction(self.subject, user, &self.id),
            jti: self.id.clone(),
            actors: self.grant.actors.clone(),
            confirmation: self.client.confirmation.clone(),
            user_possession: self.grant.possession,
            may_act: None,
            issued_at: self.asked.now,
            expires: self.grant.expires,
        };
        token.mint(self.asked.authority.keys.load().exchange.current()).map_err(not_minted)
    }

    fn txn_token(&self) -> Result<String, OAuthError> {
        let user = person(self.subject)?;
        let before = self.grant.actors.split_last().map(|(_, before)| before.to_vec());
        let token = TxnToken {
            txn: self.id.clone(),
            user_id: user.id.clone(),
            name: user.name.clone(),
            roles: user.roles.clone(),
            scope: self.grant.scope.to_string(),
            requested_by: self.client.id().clone(),
            actors: before.unwrap_or_default(),
            possession: self.grant.possession,
            expires: self.grant.expires,
        };
        let authority = self.asked.authority;
        token.mint_as(&authority.id, authority.keys.load().txn.current(), self.asked.now).map_err(not_minted)
    }

    fn svid(&self, audience: &str) -> Result<String, OAuthError> {
        let token = JwtSvid {
            subject: self.client.id().clone(),
            audiences: vec![audience.to_owned()],
            jti: Some(self.id.clone()),
            issued_at: Some(self.asked.now),
            expires: self.grant.expires,
        };
        token.mint(self.asked.authority.keys.load().jwt_svid.current()).map_err(not_minted)
    }
}

fn not_minted(error: impl std::fmt::Display) -> OAuthError {
    OAuthError::internal("a token could not be minted", &error)
}

/// A token about a person is made only where there is one; `countersign_token::exchange` has seen to it.
fn person(subject: &Subject) -> Result<&User, OAuthError> {
    let user = subject.user.as_deref();
    user.ok_or_else(|| OAuthError::new(Code::SubjectTokenRefused, "the subject token speaks of no person"))
}

/// One request is one transaction, however many tokens it takes: it begins where the user's own token ends.
fn transaction(subject: &Subject, user: &User, id: &str) -> String {
    match subject.token.kind {
        SubjectKind::AccessToken => id.to_owned(),
        _ => user.txn.clone(),
    }
}

fn told(asked: &Asked<'_>, subject: &Subject, client: &SpiffeId) -> String {
    let user = subject.user.as_ref();
    user.map_or_else(|| client.to_string(), |user| asked.authority.pseudonym(&user.id))
}

fn audience(wanted: Wanted<'_>) -> String {
    match wanted {
        Wanted::ExchangedToken(id) => id.to_string(),
        Wanted::TxnToken(home) => home.to_string(),
        Wanted::JwtSvid(audience) => audience.to_owned(),
    }
}

fn new_id() -> Result<String, OAuthError> {
    let bytes = random_bytes::<16>(&SystemRandom::new());
    bytes.map(|bytes| hex(&bytes)).map_err(|error| OAuthError::internal("no token id", &error))
}
