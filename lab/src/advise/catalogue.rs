//! Every way that people choose among, told alike: when to take it, what it costs, what somebody gains by it.

use countersign_identity::Mode;
use serde::Serialize;

use super::Link::{self, Attack, Figure};

/// A way for one service to be sure of another. The first seven are ordered: what is simpler comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Scheme {
    /// Trust the network.
    Nothing,
    /// Just a bearer token.
    Bearer,
    /// Mutual TLS.
    Mtls,
    /// Macaroons.
    Macaroon,
    /// WIMSE: an identity token and an HTTP message signature.
    SignedRequest,
    /// A self-signed JWT for each request.
    SignedToken,
    /// Mutual TLS and a signed token.
    MtlsAndSignedToken,
    /// SPIFFE.
    Spiffe,
    /// Tokens bound to the TLS connection.
    TokenBinding,
    /// A time stamp under a shared secret.
    HmacTimestamp,
    /// `X-User: alice`.
    MagicHeaders,
    /// Tickets of a realm.
    Kerberos,
}

/// Is there such a thing here?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Here {
    /// As a mode of an edge.
    Mode(Mode),
    /// In every mode that can have it.
    Within,
    /// No, on purpose.
    No,
}

/// What is told about one way.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Entry {
    /// Which.
    pub scheme: Scheme,
    /// As people call it.
    pub name: &'static str,
    /// When it is the right one.
    pub take_when: &'static str,
    /// What it costs.
    pub costs: &'static str,
    /// Where the cost can be seen.
    pub measured: Link,
    /// What somebody gains who holds something.
    pub gains: &'static [Gain],
    /// What there is of it here.
    pub here: Here,
}

/// What an attacker can do.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Gain {
    /// What it holds.
    pub has: &'static str,
    /// What that buys.
    pub gains: &'static str,
    /// The attack that shows it, or shows it fail.
    pub seen: Link,
}

impl Scheme {
    /// As it is typed.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Nothing => "nothing",
            Self::Bearer => "bearer",
            Self::Mtls => "mtls",
            Self::Macaroon => "macaroon",
            Self::SignedRequest => "signed-request",
            Self::SignedToken => "signed-token",
            Self::MtlsAndSignedToken => "mtls-and-signed-token",
            Self::Spiffe => "spiffe",
            Self::TokenBinding => "token-binding",
            Self::HmacTimestamp => "hmac-timestamp",
            Self::MagicHeaders => "magic-headers",
            Self::Kerberos => "kerberos",
        }
    }

    /// What is told about it.
    #[must_use]
    pub fn entry(self) -> Option<&'static Entry> {
        CATALOGUE.iter().find(|entry| entry.scheme == self)
    }

    /// The mode that does it, where one does.
    #[must_use]
    pub fn mode(self) -> Option<Mode> {
        match self.entry()?.here {
            Here::Mode(mode) => Some(mode),
            Here::Within | Here::No => None,
        }
    }
}

/// All of them, the simplest first.
#[must_use]
pub fn catalogue() -> &'static [Entry] {
    CATALOGUE
}

const fn gain(has: &'static str, gains: &'static str, attack: &'static str) -> Gain {
    Gain { has, gains, seen: Attack(attack) }
}

static CATALOGUE: &[Entry] = &[
    Entry {
        scheme: Scheme::Nothing,
        name: "do nothing yet (trust the network)",
        take_when: "nothing behind it matters, or it is one machine and one owner; the most common choice, and right \
            until the first of these ends: a second owner, data of users, a port that others reach",
        costs: "nothing today; on the day it ends, every service at once, unless callees can take both for a while",
        measured: Figure("ways"),
        gains: &[
            gain("the port", "every service, in anybody's name", "plain-http"),
            gain("one of the other services", "all others", "stranger"),
        ],
        here: Here::Mode(Mode::None),
    },
    Entry {
        scheme: Scheme::Bearer,
        name: "just use bearer tokens (API keys)",
        take_when: "the caller can send a header and nothing else: a script, a product, a partner. If you have to ask \
            whether it ought not just be a bearer token, it ought",
        costs: "one header; and somebody who gives out, scopes, ends and replaces each token, which is done here",
        measured: Figure("ways"),
        gains: &[
            gain(
                "a copy of one request",
                "the caller at this callee, until the token ends or is taken back",
                "revoked-bearer",
            ),
            gain("the callee's log", "the same, if anybody puts tokens into URLs", "token-in-url"),
            gain(
                "a token for another service",
                "nothing: each counts only in its scope",
                "bearer-out-of-scope",
            ),
        ],
        here: Here::Mode(Mode::Bearer),
    },
    Entry {
        scheme: Scheme::Mtls,
        name: "mutual TLS",
        take_when: "the question is which service calls, and all of them can do it in exactly one way: the same SDK or \
            the same sidecar",
        costs: "a handshake for each connection, then next to nothing; keys and certificates, which is the work, and is \
            done here; TLS must reach from one to the other",
        measured: Figure("connections"),
        gains: &[
            gain("the port", "nothing: it is refused before a request is read", "stranger"),
            gain("a copy of one request", "nothing: it is part of no other connection", "replay-elsewhere"),
            gain("the caller's certificate without its key", "nothing", "chain-without-key"),
            gain("the caller's key", "the caller, until it is taken back", "revoked-certificate"),
        ],
        here: Here::Mode(Mode::Mtls),
    },
    Entry {
        scheme: Scheme::Macaroon,
        name: "macaroons",
        take_when: "whoever holds a right has to give a smaller part of it to somebody else, without asking",
        costs: "one MAC for each caveat; a secret of the callee's, so the callee could have made it itself",
        measured: Figure("ways"),
        gains: &[
            gain(
                "a copy of one request",
                "this method, path and query with any body, for ten seconds",
                "macaroon-other-method",
            ),
            gain("the callee's memory", "the callee, towards itself and nobody else", "macaroon-elsewhere"),
        ],
        here: Here::Mode(Mode::Macaroon),
    },
    Entry {
        scheme: Scheme::SignedRequest,
        name: "WIMSE: identity token and signed request",
        take_when: "something between the two ends TLS, and what was asked must still be the caller's",
        costs: "a signature for each request and its verification, and the digest of its body; the answer signed likewise",
        measured: Figure("binding"),
        gains: &[
            gain("the proxy between", "nothing that it could change", "body-swap"),
            gain("a copy of one request", "nothing: it counts once at each instance", "replay"),
        ],
        here: Here::Mode(Mode::Wimse),
    },
    Entry {
        scheme: Scheme::SignedToken,
        name: "self-signed JWT (asymmetric tokens)",
        take_when: "somebody else must believe later who asked for what, or a request has to say more than its path; and \
            nothing in between ends TLS",
        costs: "a signature for each request and its verification, which no kept connection saves; more code than mutual \
            TLS where it is written by hand; whoever wants to prove it must keep token and request",
        measured: Figure("binding"),
        gains: &[
            gain("a copy of one request", "nothing: single use, this target, this body", "replay"),
            gain("a certificate of its own", "nothing with another's token", "stolen-token"),
            gain("the library's generosity", "nothing: the key says which algorithm", "other-algorithm"),
            gain("the caller's signing key", "the caller, until it is taken back", "revoked-signer"),
        ],
        here: Here::Mode(Mode::Jwt),
    },
    Entry {
        scheme: Scheme::MtlsAndSignedToken,
        name: "mutual TLS and a self-signed JWT",
        take_when: "both of the above: strangers must not get as far as a request, and requests must be provable",
        costs: "both handshake and signatures",
        measured: Figure("connections"),
        gains: &[
            gain("one of the caller's two keys", "nothing without the other", "issuer-of-another"),
            gain("the port", "nothing: it is refused before a request is read", "stranger"),
        ],
        here: Here::Mode(Mode::MtlsJwt),
    },
    Entry {
        scheme: Scheme::Spiffe,
        name: "SPIFFE",
        take_when: "always, here: it says how services are named and how they get what they show, not how they show it",
        costs: "an agent on each machine",
        measured: Figure("code"),
        gains: &[
            gain("another trust domain", "nothing that was not federated", "foreign-trust-domain"),
            gain("an authority of its own with our names", "nothing", "foreign-ca-same-name"),
        ],
        here: Here::Within,
    },
    Entry {
        scheme: Scheme::TokenBinding,
        name: "token binding",
        take_when: "tokens travel over TLS that nobody in between ends. RFC 8473 died with the browsers' support; what it \
            was for is done here by the TLS exporter in each proof (RFC 9266), and by DPoP at the edge",
        costs: "nothing on top of the token; it ends where a proxy ends TLS",
        measured: Figure("binding"),
        gains: &[gain("a copy of one request", "nothing: it is bound to a connection", "replay-elsewhere")],
        here: Here::Within,
    },
    Entry {
        scheme: Scheme::HmacTimestamp,
        name: "HMAC(timestamp)",
        take_when: "never for something new. A bearer token is simpler, a signature is stronger",
        costs: "a secret that both sides have, on every pair of services; clocks",
        measured: Figure("ways"),
        gains: &[
            gain("a copy of one request", "every other request, within the same seconds", "other-path"),
            gain("the callee", "the caller everywhere: they share the secret", "issuer-of-another"),
        ],
        here: Here::No,
    },
    Entry {
        scheme: Scheme::MagicHeaders,
        name: "magic headers (X-Forwarded-User, X-Client-Cert)",
        take_when: "never by themselves: a header is worth what the connection is worth on which it came. Behind our \
            sidecar a service reads them, because nobody else opens its socket",
        costs: "nothing, until one path leads around the proxy that sets them",
        measured: Figure("code"),
        gains: &[gain("a way around the proxy, or through it", "anybody", "forged-user-context")],
        here: Here::No,
    },
    Entry {
        scheme: Scheme::Kerberos,
        name: "Kerberos",
        take_when: "there is a realm already and everything that calls is in it, as in a Windows domain",
        costs: "a key distribution centre that is asked for every new pair, and that can be everybody",
        measured: Figure("users"),
        gains: &[gain(
            "a ticket on its way",
            "what it is for, while it lives; a proof of key is needed too",
            "replay",
        )],
        here: Here::No,
    },
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::advise::links;

    #[test]
    fn the_whole_list_is_told_and_each_way_once() {
        let all = [
            Scheme::Nothing,
            Scheme::Bearer,
            Scheme::Mtls,
            Scheme::Macaroon,
            Scheme::SignedRequest,
            Scheme::SignedToken,
            Scheme::MtlsAndSignedToken,
            Scheme::Spiffe,
            Scheme::TokenBinding,
            Scheme::HmacTimestamp,
            Scheme::MagicHeaders,
            Scheme::Kerberos,
        ];
        assert_eq!(catalogue().iter().map(|entry| entry.scheme).collect::<Vec<_>>(), all);
        for entry in catalogue() {
            assert_eq!(entry.scheme.entry(), Some(entry));
            let told = [entry.name, entry.take_when, entry.costs];
            assert!(told.iter().all(|text| !text.is_empty()) && !entry.gains.is_empty(), "{}", entry.name);
        }
    }

    #[test]
    fn nothing_is_told_that_does_not_point_to_an_attack_or_a_figure_that_there_is() {
        for entry in catalogue() {
            for link in entry.gains.iter().map(|gain| gain.seen).chain([entry.measured]) {
                assert!(link.is_known(), "{link} of {}", entry.name);
            }
        }
        assert!(!Link::Attack("no-such-attack").is_known() && !Link::Figure("no-such-figure").is_known());
        let drawn = links::FIGURES.iter().filter(|id| !Link::Figure(id).is_known());
        assert_eq!(drawn.count(), 0);
    }

    #[test]
    fn every_mode_is_somebodys_advice() {
        let modes: Vec<Mode> = catalogue().iter().filter_map(|entry| entry.scheme.mode()).collect();
        assert_eq!(modes.len(), Mode::ALL.len());
        assert!(Mode::ALL.iter().all(|mode| modes.contains(mode)));
    }
}
