//! The advice itself: each way says what it lacks, and the simplest that lacks nothing is taken.

use countersign_identity::{Mode, UserContext};
use serde::Serialize;

use super::{
    Answers, Caller,
    Link::{self, Attack, Figure},
    Network, Scheme, Sheet, User,
};

/// A sentence, and what shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Reason {
    /// In words.
    pub text: &'static str,
    /// To be looked at.
    pub see: Link,
}

/// What is advised for one edge.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Advice {
    /// Who calls.
    pub source: String,
    /// Who is called.
    pub target: String,
    /// Which way.
    pub take: Scheme,
    /// The mode that does it.
    pub mode: Option<&'static str>,
    /// How users are carried along, where there are any.
    pub user_context: Option<&'static str>,
    /// Why.
    pub because: Vec<Reason>,
    /// What even this way lacks: nothing, unless the answers contradict each other.
    pub lacks: Vec<Reason>,
    /// The other ways, each with what speaks against it here.
    pub not: Vec<Declined>,
    /// What nobody said and was assumed, as it would be typed.
    pub assumed: Vec<String>,
    /// How it is done.
    pub steps: Vec<String>,
}

/// A way that was not taken.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Declined {
    /// Which.
    pub scheme: Scheme,
    /// Why not.
    pub because: Vec<Reason>,
}

/// Advises on the edge from `source` to `target`.
#[must_use]
pub fn advise(source: &str, target: &str, sheet: &Sheet) -> Advice {
    let answers = sheet.answers();
    let take = choose(answers);
    let user_context = user_context(take, answers);
    let not = super::catalogue()
        .iter()
        .filter(|entry| entry.scheme != take && !comes_with(take, entry.scheme))
        .map(|entry| Declined { scheme: entry.scheme, because: against(entry.scheme, answers) })
        .collect();
    let mut because = reasons(take, answers).to_vec();
    because.extend(user_context.map(of_user));
    Advice {
        source: source.to_owned(),
        target: target.to_owned(),
        take,
        mode: take.mode().map(Mode::as_str),
        user_context: user_context.map(UserContext::as_str),
        because,
        lacks: lacks(take, answers),
        not,
        assumed: sheet.open().iter().map(|q| format!("--{} {}", q.as_str(), answers.word(*q))).collect(),
        steps: steps(source, target, take, user_context, answers),
    }
}

/// The simplest way that lacks nothing; where there is none, the simplest of those that lack least.
fn choose(answers: &Answers) -> Scheme {
    let offered = OFFERED.into_iter().map(|scheme| (lacks(scheme, answers).len(), scheme));
    offered.min().map_or(Scheme::Mtls, |(_, scheme)| scheme)
}

/// What `scheme` cannot do of what was asked for. Empty: it serves.
#[must_use]
pub fn lacks(scheme: Scheme, answers: &Answers) -> Vec<Reason> {
    let found = match scheme {
        Scheme::Nothing => nothing_lacks(answers),
        Scheme::Bearer => bearer_lacks(answers),
        Scheme::Mtls => mtls_lacks(answers),
        Scheme::Macaroon => macaroon_lacks(answers),
        Scheme::SignedRequest => signed_request_lacks(answers),
        Scheme::SignedToken => signed_token_lacks(answers),
        Scheme::MtlsAndSignedToken => both_lack(answers),
        Scheme::Spiffe => vec![Some(SPIFFE)],
        Scheme::TokenBinding => vec![Some(TOKEN_BINDING)],
        Scheme::HmacTimestamp => vec![Some(HMAC)],
        Scheme::MagicHeaders => vec![Some(MAGIC)],
        Scheme::Kerberos => vec![Some(KERBEROS)],
    };
    found.into_iter().flatten().collect()
}

fn nothing_lacks(a: &Answers) -> Vec<Option<Reason>> {
    vec![
        a.harm.then_some(attack("whoever reaches the port may call, in any name", "stranger")),
        (a.network == Network::Others)
            .then_some(attack("others on the way read and change what passes", "plain-http")),
        (a.user != User::Nobody)
            .then_some(attack("whoever calls can say that it calls for any user", "forged-user-context")),
        (a.dispute || a.claims)
            .then_some(attack("what is said in a request is nobody's word", "edited-token")),
        a.delegate.then_some(attack("there is no right that could be handed on", "stranger")),
    ]
}

fn bearer_lacks(a: &Answers) -> Vec<Option<Reason>> {
    vec![
        (a.caller != Caller::Header).then_some(attack(
            "whoever has a copy of one request is the caller, until it is taken back; and beside this caller a key \
             costs no more",
            "revoked-bearer",
        )),
        a.dispute.then_some(attack("whoever has the token could have sent anything with it", "body-swap")),
        (a.user != User::Nobody).then_some(attack(
            "a token that names the caller makes nobody's user believable",
            "forged-user-context",
        )),
        a.delegate.then_some(attack("it can be handed on only whole", "unissued-bearer")),
        a.claims.then_some(attack("it says what it said when it was made", "edited-token")),
    ]
}

fn mtls_lacks(a: &Answers) -> Vec<Option<Reason>> {
    let key = "the caller cannot keep a key";
    vec![
        (a.caller == Caller::Header).then_some(attack(key, "chain-without-key")),
        a.proxy.then_some(attack("what ends TLS is what is proven, and it can say anything", "body-swap")),
        a.dispute.then_some(attack(
            "it proves who is at the other end of a connection, to that end, while it lasts. Both ends hold the same \
             session keys, no request is signed, and nothing is left of it: whoever was called could have written the \
             record itself. To convince somebody else, the caller must sign this request and this body",
            "body-swap",
        )),
        a.delegate.then_some(attack("a key is handed on whole or not at all", "issuer-of-another")),
        a.claims.then_some(attack("a certificate says the same of every request", "edited-token")),
    ]
}

fn macaroon_lacks(a: &Answers) -> Vec<Option<Reason>> {
    vec![
        a.proxy.then_some(attack("for ten seconds what ends TLS can send another body with it", "body-swap")),
        a.dispute.then_some(attack(
            "the callee has the secret, and could have made it itself",
            "macaroon-elsewhere",
        )),
        a.claims.then_some(attack("whoever narrows it can only take away", "macaroon-without-caveat")),
        (a.caller == Caller::Header && a.user != User::Nobody).then_some(HEADER_USER),
    ]
}

fn signed_request_lacks(a: &Answers) -> Vec<Option<Reason>> {
    vec![
        (a.caller == Caller::Header).then_some(NO_KEY),
        // Where something ends TLS, the token does not get through at all.
        (a.dispute && !a.proxy).then_some(figure(
            "whoever wants to prove it has to keep the whole head as it was sent; a signed token is one string that \
             brings its certificates along",
            "binding",
        )),
        a.delegate.then_some(attack("a key is handed on whole or not at all", "issuer-of-another")),
        a.claims.then_some(attack("it signs the request and says nothing else", "edited-token")),
    ]
}

fn signed_token_lacks(a: &Answers) -> Vec<Option<Reason>> {
    vec![
        (a.caller == Caller::Header).then_some(NO_KEY),
        a.proxy.then_some(attack(
            "each token names the TLS connection of its caller: behind what ends TLS it is refused",
            "replay-elsewhere",
        )),
        a.delegate.then_some(attack("a key is handed on whole or not at all", "issuer-of-another")),
        (a.network == Network::Others && !a.proxy).then_some(attack(
            "on a network that others share, strangers should not get as far as a request",
            "stranger",
        )),
    ]
}

fn both_lack(a: &Answers) -> Vec<Option<Reason>> {
    vec![
        (a.caller == Caller::Header).then_some(NO_KEY),
        a.proxy.then_some(attack("what ends TLS cannot show the caller's certificate", "chain-without-key")),
        a.delegate.then_some(attack("keys are handed on whole or not at all", "issuer-of-another")),
    ]
}

/// Against a way that was not taken: what it lacks, or else that it costs more.
fn against(scheme: Scheme, answers: &Answers) -> Vec<Reason> {
    let lacking = lacks(scheme, answers);
    if !lacking.is_empty() {
        return lacking;
    }
    vec![match scheme {
        Scheme::Mtls => {
            figure("it would do, and costs a handshake and keys that nobody needs here", "connections")
        }
        Scheme::Macaroon => figure("it would do; nothing is handed on here that needs narrowing", "ways"),
        Scheme::Bearer => figure("it would do, and somebody would have to look after the token", "ways"),
        Scheme::MtlsAndSignedToken => {
            figure("it would do, and costs the other one's handshake besides", "connections")
        }
        _ => {
            figure("it would do, and costs two signatures for each request that nobody asked for", "binding")
        }
    }]
}

/// What is in the way that was taken anyhow.
fn comes_with(taken: Scheme, other: Scheme) -> bool {
    match other {
        Scheme::Spiffe => taken > Scheme::Bearer,
        Scheme::TokenBinding => matches!(taken, Scheme::SignedToken | Scheme::MtlsAndSignedToken),
        _ => false,
    }
}

/// Why it was taken.
fn reasons(scheme: Scheme, answers: &Answers) -> &'static [Reason] {
    match scheme {
        Scheme::Nothing => {
            const {
                &[
                    attack("a stranger gains nothing by it. Ask again when that changes", "stranger"),
                    figure("everything else costs something, and keys cost people", "ways"),
                ]
            }
        }
        Scheme::Bearer => {
            const {
                &[
                    attack(
                        "the caller can send a header and no more; a copy of it is the caller until it is taken back, so \
                         scope it and let it end",
                        "revoked-bearer",
                    ),
                    attack("it counts at the callees of its scope and nowhere else", "bearer-out-of-scope"),
                ]
            }
        }
        Scheme::Mtls => {
            const {
                &[
                    attack("strangers are refused in the handshake, before a request is read", "stranger"),
                    attack(
                        "what was copied from one connection is worth nothing on another",
                        "replay-elsewhere",
                    ),
                    figure("a kept connection pays for its handshake once", "connections"),
                    figure("it takes the least code", "code"),
                ]
            }
        }
        Scheme::Macaroon => {
            const {
                &[
                    attack(
                        "whoever holds it narrows it to one request, and nobody can widen it",
                        "macaroon-without-caveat",
                    ),
                    attack("it counts at the one callee for which it was minted", "macaroon-elsewhere"),
                    figure("a MAC costs less than a signature", "ways"),
                ]
            }
        }
        Scheme::SignedRequest => {
            const {
                &[
                    attack(
                        "method, query and body are signed from end to end: what ends TLS changes nothing",
                        "body-swap",
                    ),
                    figure("what the signature costs", "binding"),
                ]
            }
        }
        _ if answers.dispute => SIGNED_FOR_OTHERS,
        _ => SIGNED_FOR_CLAIMS,
    }
}

/// How a user is carried, in the simplest form that serves.
fn user_context(scheme: Scheme, answers: &Answers) -> Option<UserContext> {
    let mode = scheme.mode()?;
    match answers.user {
        _ if matches!(scheme, Scheme::Nothing | Scheme::Bearer) => None,
        User::Nobody => None,
        User::Confined => Some(UserContext::PerHop),
        User::Carried if UserContext::Nested.works_in(mode) => Some(UserContext::Nested),
        User::Carried => Some(UserContext::Same),
    }
}

const fn of_user(context: UserContext) -> Reason {
    match context {
        UserContext::PerHop => figure(
            "a token for each hop counts in nobody else's hands; each costs a question to the token service",
            "users",
        ),
        UserContext::Nested => {
            figure("the user goes inside the token that is signed anyhow, and asks nobody", "users")
        }
        UserContext::Same => attack(
            "one internal token of a few minutes for all hops, beside the certificate; the user's own never gets in",
            "access-token-as-context",
        ),
    }
}

fn steps(
    source: &str,
    target: &str,
    take: Scheme,
    context: Option<UserContext>,
    answers: &Answers,
) -> Vec<String> {
    let Some(mode) = take.mode() else { return Vec::new() };
    if take == Scheme::Nothing {
        return vec![
            "nothing now; write down which of the answers would change it".to_owned(),
            format!("countersign advise --from {source} --to {target} --harm yes    # on that day"),
        ];
    }
    let carried = context.map(|c| format!(" --user-context {}", c.as_str())).unwrap_or_default();
    let proof = if take == Scheme::SignedRequest { " --wimse http-signature" } else { "" };
    let send = format!("countersign service mode {source} --send {mode}{carried}{proof}");
    let mut steps = match take {
        Scheme::Bearer => vec![
            format!("countersign service mode {target} --accept mtls,bearer"),
            format!(
                "countersign token mint bearer --service {source} --scope {target}    # scoped, and it ends"
            ),
        ],
        Scheme::Mtls => vec![format!("countersign service mode {target} --accept {mode}"), send],
        _ => vec![
            format!("countersign service mode {target} --accept mtls,{mode}    # widen"),
            format!("{send}    # whatever else it calls has to accept that too"),
            format!("countersign service mode {target} --accept {mode}    # narrow"),
        ],
    };
    if answers.dispute {
        steps.push(format!(
            "in policies/{target}.cedar, for each route that may be disputed: @id(\"bound-to-its-body\") forbid (principal, \
             action, resource == Route::\"{target} /PATH\") unless {{ context.proof.binding.contains(\"body\") }};"
        ));
        let evidence = match take {
            Scheme::SignedRequest => "the whole head as it was sent, the identity token in it among it,",
            _ => "the token, the certificates that came with it",
        };
        steps.push(format!("{target} keeps {evidence} and the body, for as long as somebody may ask"));
    }
    steps.push("countersign edges    # what is verified, not what is configured".to_owned());
    steps
}

/// The ways that are modes, the simplest first.
const OFFERED: [Scheme; 7] = [
    Scheme::Nothing,
    Scheme::Bearer,
    Scheme::Mtls,
    Scheme::Macaroon,
    Scheme::SignedRequest,
    Scheme::SignedToken,
    Scheme::MtlsAndSignedToken,
];

const fn attack(text: &'static str, name: &'static str) -> Reason {
    Reason { text, see: Attack(name) }
}

const fn figure(text: &'static str, id: &'static str) -> Reason {
    Reason { text, see: Figure(id) }
}

const SIGNED_FOR_OTHERS: &[Reason] = &[
    attack(
        "the caller signs method, path, query and the digest of the body: nothing can be put in its mouth",
        "body-swap",
    ),
    attack("the key is the caller's alone, so not even the callee could have written it", "zero-signature"),
    attack("it counts once, and only from its owner", "stolen-token"),
    figure("what the signature costs", "binding"),
];

const SIGNED_FOR_CLAIMS: &[Reason] = &[
    attack("the caller's own claims are under its signature", "edited-token"),
    attack("it counts once, and only from its owner", "stolen-token"),
    figure("what the signature costs", "binding"),
];

const NO_KEY: Reason = attack("the caller cannot keep a key, nor sign with it", "zero-signature");
const HEADER_USER: Reason =
    attack("a caller that only sends a header makes nobody's user believable", "forged-user-context");
const SPIFFE: Reason = attack(
    "it names services and hands out what they show; something still has to be shown",
    "foreign-trust-domain",
);
const TOKEN_BINDING: Reason = attack(
    "it ties a token to a connection; there has to be a token that says who calls",
    "replay-elsewhere",
);
const HMAC: Reason = attack(
    "both sides have the secret, so the callee can be the caller; and the time stamp fits every other request",
    "other-path",
);
const MAGIC: Reason =
    attack("a header is worth what the connection is worth on which it came", "forged-user-context");
const KERBEROS: Reason = figure(
    "a centre is asked for every new pair, and can be everybody; take it only where its realm is there already",
    "users",
);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::advise::Question;

    /// Every combination of answers.
    fn all_sheets() -> Vec<Sheet> {
        let mut sheets = vec![Sheet::default()];
        for question in Question::ALL {
            let with = |sheet: &Sheet| {
                let sheet = sheet.clone();
                question.choices().iter().map(move |choice| {
                    let mut sheet = sheet.clone();
                    sheet.answer(question, choice.word).unwrap();
                    sheet
                })
            };
            sheets = sheets.iter().flat_map(with).collect();
        }
        sheets
    }

    fn advice(said: &[(Question, &str)]) -> Advice {
        let mut sheet = Sheet::default();
        for (question, word) in said {
            sheet.answer(*question, word).unwrap();
        }
        advise("payment", "orders", &sheet)
    }

    #[test]
    fn whatever_is_answered_the_simplest_way_that_serves_is_taken_and_every_reason_can_be_looked_at() {
        let sheets = all_sheets();
        assert_eq!(sheets.len(), 2 * 3 * 3 * 2 * 2 * 3 * 2 * 2);
        for sheet in sheets {
            let advice = advise("a", "b", &sheet);
            for simpler in OFFERED.into_iter().filter(|scheme| *scheme < advice.take) {
                assert!(
                    lacks(simpler, sheet.answers()).len() > advice.lacks.len(),
                    "{simpler:?} for {sheet:?}"
                );
            }
            assert!(!advice.because.is_empty() && advice.assumed.is_empty());
            let said = advice.because.iter().chain(&advice.lacks);
            for reason in said.chain(advice.not.iter().flat_map(|declined| &declined.because)) {
                assert!(reason.see.is_known(), "{}", reason.see);
            }
            assert!(advice.not.iter().all(|declined| !declined.because.is_empty()));
        }
    }

    #[test]
    fn a_way_lacks_something_only_where_the_answers_contradict_each_other() {
        for sheet in all_sheets().into_iter().filter(|sheet| !advise("a", "b", sheet).lacks.is_empty()) {
            let a = sheet.answers();
            let more_than_a_header = a.dispute || a.claims || a.user != User::Nobody;
            let of_a_header = a.caller == Caller::Header && more_than_a_header;
            let of_a_part = a.delegate && (a.dispute || a.claims || a.proxy);
            let through_a_proxy = a.proxy && a.claims;
            assert!(of_a_header || of_a_part || through_a_proxy, "{sheet:?}");
        }
    }

    #[test]
    fn payment_and_orders_are_told_why_mutual_tls_alone_does_not_serve() {
        let advice = advice(&[(Question::Dispute, "yes")]);
        assert_eq!((advice.take, advice.mode), (Scheme::SignedToken, Some("jwt")));
        let mtls = advice.not.iter().find(|declined| declined.scheme == Scheme::Mtls).unwrap();
        assert!(mtls.because[0].text.contains("could have written the record itself"), "{mtls:?}");
        assert_eq!(mtls.because[0].see, Attack("body-swap"));
        assert!(advice.steps.iter().any(|step| step.contains(r#"binding.contains("body")"#)));
        assert!(advice.steps.iter().any(|step| step.starts_with("orders keeps the token")));
    }

    #[test]
    fn where_nothing_matters_nothing_is_advised_and_where_others_listen_something_is() {
        let nothing = advice(&[(Question::Harm, "no")]);
        assert_eq!(nothing.take, Scheme::Nothing);
        assert!(nothing.steps[0].starts_with("nothing now"));
        assert_eq!(advice(&[(Question::Harm, "no"), (Question::Network, "others")]).take, Scheme::Mtls);
        assert_eq!(advice(&[(Question::Harm, "no"), (Question::User, "carried")]).take, Scheme::Mtls);
    }

    #[test]
    fn each_way_is_taken_where_it_belongs() {
        let of = |said: &[(Question, &str)]| advice(said).take;
        assert_eq!(of(&[]), Scheme::Mtls);
        assert_eq!(of(&[(Question::Caller, "header")]), Scheme::Bearer);
        assert_eq!(of(&[(Question::Delegate, "yes")]), Scheme::Macaroon);
        assert_eq!(of(&[(Question::Proxy, "yes")]), Scheme::SignedRequest);
        assert_eq!(of(&[(Question::Proxy, "yes"), (Question::Dispute, "yes")]), Scheme::SignedRequest);
        assert_eq!(of(&[(Question::Claims, "yes")]), Scheme::SignedToken);
        assert_eq!(
            of(&[(Question::Dispute, "yes"), (Question::Network, "others")]),
            Scheme::MtlsAndSignedToken
        );
    }

    #[test]
    fn a_token_that_is_bound_to_its_connection_is_never_advised_where_something_ends_tls() {
        let bound = [Scheme::SignedToken, Scheme::MtlsAndSignedToken];
        let through_a_proxy = all_sheets().into_iter().filter(|sheet| sheet.answers().proxy);
        for sheet in through_a_proxy {
            assert!(!bound.contains(&advise("a", "b", &sheet).take), "{sheet:?}");
        }
        let advice = advice(&[(Question::Proxy, "yes"), (Question::Dispute, "yes")]);
        assert!(advice.steps.iter().any(|step| step.starts_with("orders keeps the whole head")));
        let jwt = advice.not.iter().find(|declined| declined.scheme == Scheme::SignedToken).unwrap();
        assert_eq!(jwt.because[0].see, Attack("replay-elsewhere"), "{jwt:?}");
    }

    #[test]
    fn users_are_carried_in_the_simplest_form_that_the_way_has() {
        let of = |said: &[(Question, &str)]| advice(said).user_context;
        assert_eq!(of(&[]), None);
        assert_eq!(of(&[(Question::User, "carried")]), Some("same"));
        assert_eq!(of(&[(Question::User, "carried"), (Question::Dispute, "yes")]), Some("nested"));
        assert_eq!(of(&[(Question::User, "confined")]), Some("per-hop"));
    }

    #[test]
    fn what_nobody_said_is_told_as_assumed() {
        let advice = advice(&[(Question::Dispute, "yes")]);
        assert_eq!(advice.assumed.len(), Question::ALL.len() - 1);
        assert!(advice.assumed.contains(&"--network ours".to_owned()), "{:?}", advice.assumed);
        assert!(!advice.assumed.iter().any(|assumed| assumed.contains("dispute")));
    }
}
