//! One order from its beginning to its end (RFC 8555 section 7.4): account, order, validation, certificate.

use std::time::Duration;

use countersign_identity::UnixTime;
use countersign_keys::{KeyPair, SystemRandom, random_bytes};
use countersign_pki::acme::{challenge_certificate, request_for_host};
use countersign_sdk::clock;
use countersign_sdk::tls::pem;
use countersign_sdk::tls::{Challenge, Identity};
use instant_acme::{
    Account, AuthorizationStatus, ChallengeType, Identifier, NewAccount, NewOrder, Order, OrderStatus,
    Problem, RetryPolicy,
};

use super::line::{Line, LineError};
use super::settings::AcmeSettings;
use super::store::{Store, StoreError};
use crate::edge_tls::EdgeTls;

/// Why there is no certificate. For the log, metrics and readiness.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum OrderError {
    #[error("the authority cannot be asked: {why}; compare directory and ca of [gateway.tls.acme] with it")]
    Unreachable { why: String },
    #[error("the authority refuses: {detail} ({kind}); {}", hint(kind))]
    Refused { kind: String, detail: String },
    #[error("the authority says what is not understood: {why}; is directory that of RFC 8555?")]
    NotUnderstood { why: String },
    #[error("the authority does not offer to validate {host} by tls-alpn-01, but by: {offered}")]
    NoChallenge { host: String, offered: String },
    #[error(
        "the authority could not validate {host}: {why}; port 443 of {host} must lead to listen_tls, and nothing on the way may end TLS"
    )]
    NotValidated { host: String, why: String },
    #[error("the authority was not done with the order after {} s", ORDER_TIMEOUT.as_secs())]
    TooSlow,
    #[error("what came as the certificate for {host} cannot be served: {why}")]
    Unfit { host: String, why: String },
    #[error("{0}; see that state_dir of [gateway.tls.acme] is ours to write")]
    Store(#[from] StoreError),
    #[error("no key could be made")]
    Key,
}

/// What an order needs.
pub(super) struct Desk<'a> {
    pub(super) settings: &'a AcmeSettings,
    pub(super) store: &'a Store,
    pub(super) line: &'a Line,
    pub(super) edge: &'a EdgeTls,
}

impl Desk<'_> {
    /// A certificate for `host`, kept and fit to be shown.
    pub(super) async fn obtain(&self, host: &str) -> Result<Identity, OrderError> {
        let obtained = tokio::time::timeout(ORDER_TIMEOUT, self.order(host)).await;
        let obtained = obtained.unwrap_or(Err(OrderError::TooSlow));
        if matches!(&obtained, Err(OrderError::Refused { kind, .. }) if kind == NO_ACCOUNT) {
            self.store.forget_account()?;
        }
        obtained
    }

    async fn order(&self, host: &str) -> Result<Identity, OrderError> {
        let account = self.account().await?;
        let identifiers = [Identifier::Dns(host.to_owned())];
        let mut order = account.new_order(&NewOrder::new(&identifiers)).await.map_err(told)?;
        self.validate(&mut order, host).await?;
        let key = KeyPair::generate(&SystemRandom::new()).map_err(|_| OrderError::Key)?;
        let request = request_for_host(&key, host).map_err(|_| OrderError::Key)?;
        order.finalize_csr(&request).await.map_err(told)?;
        let chain = order.poll_certificate(&POLLING).await.map_err(told)?;
        let identity = fit(host, &chain, &key, clock::now())?;
        self.store.keep_certificate(host, &chain, &key)?;
        Ok(identity)
    }

    /// The account of an earlier order, else a new one.
    async fn account(&self) -> Result<Account, OrderError> {
        let builder = Account::builder_with_http(Box::new(self.line.clone()));
        if let Some(credentials) = self.store.account()? {
            return builder.from_credentials(credentials).await.map_err(told);
        }
        let contact: Vec<&str> = self.settings.contact.iter().map(String::as_str).collect();
        // Settings that do not agree to the terms are not read.
        let new =
            NewAccount { contact: &contact, terms_of_service_agreed: true, only_return_existing: false };
        let made = builder.create(&new, self.settings.directory.clone(), None).await;
        let (account, credentials) = made.map_err(told)?;
        self.store.keep_account(&credentials)?;
        Ok(account)
    }

    /// Lets the authority see that we hold `host`. While it looks, and no longer, its question is answered.
    async fn validate(&self, order: &mut Order, host: &str) -> Result<(), OrderError> {
        let mut shown = None;
        let mut authorizations = order.authorizations();
        while let Some(authorization) = authorizations.next().await {
            let mut authorization = authorization.map_err(told)?;
            match authorization.status {
                AuthorizationStatus::Valid => continue,
                AuthorizationStatus::Pending => {}
                other => {
                    let why = format!("its authorization is {other:?}");
                    return Err(OrderError::NotValidated { host: host.to_owned(), why });
                }
            }
            let offered: Vec<_> =
                authorization.challenges.iter().map(|challenge| format!("{:?}", challenge.r#type)).collect();
            let Some(mut challenge) = authorization.challenge(ChallengeType::TlsAlpn01) else {
                let offered = brief(&offered.join(", "));
                return Err(OrderError::NoChallenge { host: host.to_owned(), offered });
            };
            let digest = challenge.key_authorization().digest();
            shown = Some(self.show(host, digest.as_ref())?);
            challenge.set_ready().await.map_err(|error| self.not_validated(host, told(error)))?;
        }
        if shown.is_none() && order.state().status == OrderStatus::Ready {
            return Ok(());
        }
        match order.poll_ready(&POLLING).await {
            Ok(OrderStatus::Ready) => Ok(()),
            Ok(_) => Err(self.reason(order, host).await),
            Err(error) => Err(self.not_validated(host, told(error))),
        }
    }

    /// Answers validations of `host` until the returned value is dropped.
    fn show(&self, host: &str, digest: &[u8]) -> Result<Shown<'_>, OrderError> {
        let rng = SystemRandom::new();
        let digest = digest.try_into().map_err(|_| OrderError::Key)?;
        let key = KeyPair::generate(&rng).map_err(|_| OrderError::Key)?;
        let serial = random_bytes(&rng).map_err(|_| OrderError::Key)?;
        let certificate = challenge_certificate(&key, host, digest, clock::now(), serial);
        let certificate = certificate.map_err(|_| OrderError::Key)?;
        let challenge = Challenge::new(host, certificate, &key).map_err(|_| OrderError::Key)?;
        self.edge.answer_validation(Some(challenge));
        Ok(Shown(self.edge))
    }

    /// Why an order came to nothing: its authorization knows, once it is read again.
    async fn reason(&self, order: &mut Order, host: &str) -> OrderError {
        let mut authorizations = order.authorizations();
        while let Some(Ok(mut authorization)) = authorizations.next().await {
            let Ok(state) = authorization.refresh().await else { continue };
            if let Some(problem) = state.challenges.iter().find_map(|challenge| challenge.error.as_ref()) {
                return self.not_validated(host, refused(problem));
            }
        }
        OrderError::NotValidated { host: host.to_owned(), why: "it does not say why".to_owned() }
    }

    /// What the authority says of a validation is about the host; everything else is as it was.
    fn not_validated(&self, host: &str, error: OrderError) -> OrderError {
        match error {
            OrderError::Refused { kind, detail } if kind != NO_ACCOUNT && !kind.ends_with(":rateLimited") => {
                OrderError::NotValidated { host: host.to_owned(), why: format!("{detail} ({kind})") }
            }
            other => other,
        }
    }
}

/// An answer that is withdrawn however its order ends.
struct Shown<'a>(&'a EdgeTls);

impl Drop for Shown<'_> {
    fn drop(&mut self) {
        self.0.answer_validation(None);
    }
}

/// Judges what came: a chain whose leaf is for our key, has the host's name and did not end yet. Who believes it is for
/// clients to say.
pub(super) fn fit(host: &str, chain_pem: &str, key: &KeyPair, now: UnixTime) -> Result<Identity, OrderError> {
    let unfit = |why: String| OrderError::Unfit { host: host.to_owned(), why };
    let chain = pem::certificates(chain_pem.as_bytes(), "the answer".as_ref());
    let chain = chain.map_err(|error| unfit(error.to_string()))?;
    if chain.len() > CHAIN_MAX {
        return Err(unfit(format!("its chain has {} certificates, more than {CHAIN_MAX}", chain.len())));
    }
    let identity = Identity::edge(chain, key).map_err(|error| unfit(error.to_string()))?;
    if !identity.dns_names().iter().any(|name| name == host) {
        return Err(unfit("it does not have that name".to_owned()));
    }
    if identity.not_after() <= now {
        return Err(unfit("it has expired".to_owned()));
    }
    Ok(identity)
}

fn told(error: instant_acme::Error) -> OrderError {
    match error {
        instant_acme::Error::Api(problem) => refused(&problem),
        instant_acme::Error::Timeout(_) => OrderError::TooSlow,
        instant_acme::Error::Other(error) => match error.downcast_ref::<LineError>() {
            Some(line) => OrderError::Unreachable { why: brief(&line.to_string()) },
            None => OrderError::NotUnderstood { why: brief(&error.to_string()) },
        },
        error => OrderError::NotUnderstood { why: brief(&error.to_string()) },
    }
}

fn refused(problem: &Problem) -> OrderError {
    let kind = problem.r#type.as_deref().unwrap_or("about:blank");
    let mut detail = problem.detail.clone().unwrap_or_default();
    for further in &problem.subproblems {
        detail.push_str(&format!("; {further}"));
    }
    OrderError::Refused { kind: brief(kind), detail: brief(&detail) }
}

/// What to try, by the kind of problem (RFC 8555 section 6.7).
fn hint(kind: &str) -> &'static str {
    match kind.rsplit(':').next().unwrap_or_default() {
        "rateLimited" => "wait, or try things out with its staging directory",
        "accountDoesNotExist" => "the next try makes a new account",
        "externalAccountRequired" => "it wants accounts that were made elsewhere, which is not supported",
        "rejectedIdentifier" | "caa" => {
            "it does not certify this host: see its policy, and CAA records of the domain"
        }
        "userActionRequired" => "read its new terms",
        "invalidContact" | "unsupportedContact" => "correct contact",
        _ => "see what it says",
    }
}

/// Words of a stranger on their way into a log.
fn brief(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(WORDS_CHARS_MAX).collect()
}

/// From the first question to the certificate.
const ORDER_TIMEOUT: Duration = Duration::from_secs(300);
/// Between two looks at an order, and how long they go on; `Retry-After` counts before it.
const POLLING: RetryPolicy = RetryPolicy::new()
    .initial_delay(Duration::from_millis(250))
    .backoff(1.6)
    .timeout(Duration::from_secs(120));
const CHAIN_MAX: usize = 10;
const WORDS_CHARS_MAX: usize = 400;
const NO_ACCOUNT: &str = "urn:ietf:params:acme:error:accountDoesNotExist";

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use countersign_identity::TrustDomain;
    use countersign_pki::issue::{Root, issue_edge_server, make_root};
    use countersign_pki::pem::encode_certificates;
    use countersign_pki::profile::EdgeNames;

    use super::*;

    const NOW: UnixTime = UnixTime::from_secs(1_800_000_000);

    /// A key and a chain for it, good for a day from `NOW` on.
    fn issued(host: &str) -> (KeyPair, String) {
        let rng = SystemRandom::new();
        let names = EdgeNames { dns: vec![host.to_owned()], ips: Vec::new() };
        let td = TrustDomain::parse("ca.test").unwrap();
        let root_key = KeyPair::generate(&rng).unwrap();
        let root = make_root(Root::Edge(&names), &td, root_key, NOW, [1; 16]).unwrap();
        let (key, day) = (KeyPair::generate(&rng).unwrap(), Duration::from_secs(24 * 3600));
        let leaf = issue_edge_server(&root, key.public_key(), &names, day, NOW, [2; 16]).unwrap();
        (key, encode_certificates([&*leaf.der]))
    }

    fn why(result: Result<Identity, OrderError>) -> String {
        match result {
            Err(OrderError::Unfit { host, why }) if host == "shop.test" => why,
            other => format!("{other:?}"),
        }
    }

    #[test]
    fn serves_no_certificate_that_is_not_for_the_host_and_the_key_or_is_over() {
        let (key, chain) = issued("shop.test");
        let tomorrow = NOW.saturating_add(Duration::from_secs(24 * 3600));
        assert!(fit("shop.test", &chain, &key, NOW).is_ok());
        assert_eq!(why(fit("shop.test", &chain, &key, tomorrow)), "it has expired");
        let (other_key, other) = issued("other.test");
        assert_eq!(why(fit("shop.test", &other, &other_key, NOW)), "it does not have that name");
        assert!(why(fit("shop.test", &chain, &other_key, NOW)).contains("do not belong together"));
        assert!(why(fit("shop.test", "what", &key, NOW)).contains("no PEM certificate"));
        assert!(why(fit("shop.test", &chain.repeat(11), &key, NOW)).contains("11 certificates"));
    }

    #[test]
    fn words_of_an_authority_are_short_and_have_no_line_breaks() {
        let text = format!("a\nb\u{7}{}", "x".repeat(5000));
        let problem: Problem = serde_json::from_value(serde_json::json!({ "detail": text })).unwrap();
        let OrderError::Refused { kind, detail } = refused(&problem) else { unreachable!() };
        assert_eq!(kind, "about:blank");
        assert!(detail.starts_with("abxx") && detail.len() == WORDS_CHARS_MAX, "{detail}");
    }

    #[test]
    fn what_goes_wrong_on_the_line_is_an_authority_that_cannot_be_asked() {
        let url = "https://ca.test/dir".to_owned();
        for error in [
            LineError::Url { url: url.clone() },
            LineError::Call { url: url.clone(), why: "connection refused".into() },
            LineError::TimedOut { url: url.clone() },
            LineError::Status { url, status: 502 },
        ] {
            let why = error.to_string();
            assert_eq!(told(instant_acme::Error::Other(Box::new(error))), OrderError::Unreachable { why });
        }
        let other = told(instant_acme::Error::Str("no order URL found"));
        assert!(matches!(other, OrderError::NotUnderstood { .. }), "{other}");
        assert_eq!(told(instant_acme::Error::Timeout(None)), OrderError::TooSlow);
    }

    #[test]
    fn every_error_says_what_to_try() {
        let (host, why) = ("shop.test".to_owned(), "it says so".to_owned());
        let refused = |kind: &str| OrderError::Refused { kind: kind.into(), detail: "no".into() }.to_string();
        assert!(refused("urn:ietf:params:acme:error:rateLimited").contains("staging"));
        assert!(refused("urn:ietf:params:acme:error:caa").contains("CAA"));
        for error in [
            OrderError::NotUnderstood { why: why.clone() },
            OrderError::NoChallenge { host: host.clone(), offered: "Dns01".into() },
            OrderError::NotValidated { host, why },
            OrderError::TooSlow,
            OrderError::Store(StoreError::Damaged { path: "account.json".into() }),
            OrderError::Key,
        ] {
            let text = error.to_string();
            assert!(!text.ends_with('.') && !text.starts_with(char::is_uppercase), "{text}");
        }
    }
}
