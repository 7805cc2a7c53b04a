//! Who wants to connect: strangers, impostors, and those who once were somebody.

use countersign_identity::SpiffeId;
use countersign_wire::codes::Code;
use rustls::AlertDescription;

use super::{
    Attack, AttackError, Doing, Guard, Held, Kind, Observation, Position, Sign, Target,
    forge::{self, Ca},
    target::{OTHER, OWN, PATH},
    wire::{Dial, Request},
};
use crate::weak::Weakness;

const VERIFY: &str = "rules/pki/src/verify.rs";
const SERVER: &str = "sdk/src/tls/server.rs";

pub(super) static ATTACKS: &[Attack] = &[
    Attack {
        name: "stranger",
        title: "connect without a certificate, and say in a header who one is",
        from: &["T52", "L2", "lesson 30"],
        position: Position::Stranger,
        guard: Guard {
            what: "a client certificate is demanded in the handshake",
            home: SERVER,
            signs: &[
                Sign::Alert(AlertDescription::CertificateRequired),
                // In the handshake's own words: the door behind it has the same code for whoever comes as far.
                Sign::Said(Code::CertificateMissing, "no client certificate"),
            ],
            weakness: Weakness::NoCertificateDemanded,
        },
        waits: false,
        run: |target| Box::pin(stranger(target)),
    },
    Attack {
        name: "self-signed-certificate",
        title: "connect with a certificate that names another service and that its own key signed",
        from: &["T52", "X5-1", "SPF-3"],
        position: Position::Stranger,
        guard: chain_guard("the chain must lead to a root of the trust domain that the certificate names"),
        waits: false,
        run: |target| {
            shown(target, "a self-signed certificate in another's name", |target| {
                forge::self_signed(&target.id(OTHER)?)
            })
        },
    },
    Attack {
        name: "foreign-ca-same-name",
        title: "connect with a certificate in another's name that a CA of the attacker's own issued",
        from: &["SPF-3", "T55"],
        position: Position::Stranger,
        guard: chain_guard("only the bundle of the named trust domain counts"),
        waits: false,
        run: |target| {
            shown(target, "a certificate in another's name, by a foreign ca", |target| {
                let id = target.id(OTHER)?;
                Ca::of_ones_own("somebody")?.certify(&id, &[id.to_string()], false)
            })
        },
    },
    Attack {
        name: "foreign-trust-domain",
        title: "connect with a good certificate of a trust domain that nobody federated with",
        from: &["SPF-3", "T55"],
        position: Position::Stranger,
        guard: Guard {
            what: "no bundle of that trust domain is known, and nobody else's is asked",
            home: VERIFY,
            signs: &[Sign::Code(Code::TrustDomainForeign)],
            weakness: Weakness::OnePoolOfRoots,
        },
        waits: false,
        run: |target| {
            shown(target, "a certificate of another trust domain", |target| {
                let id = SpiffeId::parse("spiffe://elsewhere.test/svc/ads");
                let id = id.map_err(|error| AttackError::equipment("a name", error))?;
                target.misissued(&id, &[id.to_string()], false)
            })
        },
    },
    Attack {
        name: "server-certificate-as-client",
        title: "connect as a client with a certificate that is good for servers only",
        from: &["T53", "M8", "idea 10"],
        position: Position::Service,
        guard: purpose_guard("extended key usage: a client needs clientAuth"),
        waits: false,
        run: |target| Box::pin(issued(target, "a certificate for serverAuth alone", Kind::ServerOnly)),
    },
    Attack {
        name: "signing-certificate-as-client",
        title: "connect with the certificate of the key that signs tokens",
        from: &["T85", "idea 10"],
        position: Position::Service,
        guard: purpose_guard("one key for one purpose: a signing certificate opens no connection"),
        waits: false,
        run: |target| Box::pin(issued(target, "a certificate for signing alone", Kind::Signing)),
    },
    Attack {
        name: "ca-as-leaf",
        title: "connect with a certificate that may itself issue certificates",
        from: &["SPF-2", "X5-1"],
        position: Position::Stranger,
        guard: purpose_guard("a CA certificate is never a leaf"),
        waits: false,
        run: |target| {
            shown(target, "the certificate of a ca", |target| {
                let id = target.id(OTHER)?;
                target.misissued(&id, &[id.to_string()], true)
            })
        },
    },
    Attack {
        name: "two-names",
        title: "connect with a certificate that carries two names, and hope that the better one counts",
        from: &["SPF-2", "lesson 6"],
        position: Position::Stranger,
        guard: Guard {
            what: "exactly one URI makes an identity",
            home: VERIFY,
            signs: &[Sign::Code(Code::CertificateIdentity)],
            weakness: Weakness::FirstNameCounts,
        },
        waits: false,
        run: |target| {
            shown(target, "a certificate with two uris", |target| {
                let (first, second) = (target.id(OTHER)?, target.id(OWN)?);
                target.misissued(&first, &[first.to_string(), second.to_string()], false)
            })
        },
    },
    Attack {
        name: "chain-without-key",
        title: "show the certificate of another service, whose key the attacker does not have",
        from: &["T51", "T52"],
        position: Position::Thief,
        guard: Guard {
            what: "CertificateVerify: whoever shows a certificate proves to hold its key",
            home: SERVER,
            signs: &[
                Sign::Alert(AlertDescription::DecryptError),
                Sign::Said(Code::HandshakeFailed, "private key"),
            ],
            weakness: Weakness::NoPossession,
        },
        waits: false,
        run: |target| Box::pin(chain_without_key(target)),
    },
    Attack {
        name: "revoked-certificate",
        title: "connect with a certificate that was taken back",
        from: &["T47", "M11", "D3", "lesson 54"],
        position: Position::Former,
        guard: revocation_guard("the revocation list is asked in the handshake", Weakness::NoRevocation),
        waits: true,
        run: |target| Box::pin(revoked(target)),
    },
    Attack {
        name: "open-connection-after-revocation",
        title: "go on using a connection that was opened before the certificate was taken back",
        from: &["T47", "lesson 18"],
        position: Position::Former,
        guard: Guard {
            what: "connections of a peer that is no longer believed are cut, and each request asks again",
            home: "sdk/src/tls/peer.rs",
            signs: &[Sign::Code(Code::CertificateRevoked), Sign::Fact],
            weakness: Weakness::ConnectionForEver,
        },
        waits: true,
        run: |target| Box::pin(open_connection(target)),
    },
    Attack {
        name: "expired-certificate",
        title: "connect with a certificate that has ended",
        from: &["T50", "M9", "idea 10"],
        position: Position::Former,
        guard: Guard {
            what: "validity is checked, without leniency at its end",
            home: VERIFY,
            signs: &[Sign::Alert(AlertDescription::CertificateExpired), Sign::Code(Code::CertificateExpired)],
            weakness: Weakness::AnyAge,
        },
        waits: true,
        run: |target| Box::pin(expired(target)),
    },
    Attack {
        name: "plain-http",
        title: "speak plain HTTP to the port, and say in a header who one is",
        from: &["T48", "L2"],
        position: Position::Stranger,
        guard: Guard {
            what: "a service that asks for proof speaks nothing but TLS",
            home: "sdk/src/accept/admit.rs",
            signs: &[Sign::Said(Code::HandshakeFailed, "plain http")],
            weakness: Weakness::PlainHttp,
        },
        waits: false,
        run: |target| Box::pin(plain(target)),
    },
    Attack {
        name: "old-tls",
        title: "connect with a good certificate over TLS 1.2, in which it is sent in the clear",
        from: &["T49", "D7"],
        position: Position::Service,
        guard: Guard {
            what: "TLS 1.3 and nothing older",
            home: SERVER,
            signs: &[Sign::Alert(AlertDescription::ProtocolVersion)],
            weakness: Weakness::OldTls,
        },
        waits: false,
        run: |target| Box::pin(old_tls(target)),
    },
];

const fn chain_guard(what: &'static str) -> Guard {
    const SIGNS: &[Sign] =
        &[Sign::Code(Code::CertificateUntrusted), Sign::Alert(AlertDescription::UnknownCA)];
    Guard { what, home: "rules/pki/src/path.rs", signs: SIGNS, weakness: Weakness::AnyIssuer }
}

const fn purpose_guard(what: &'static str) -> Guard {
    const SIGNS: &[Sign] =
        &[Sign::Code(Code::CertificateUsage), Sign::Alert(AlertDescription::UnsupportedCertificate)];
    Guard { what, home: VERIFY, signs: SIGNS, weakness: Weakness::AnyPurpose }
}

const fn revocation_guard(what: &'static str, weakness: Weakness) -> Guard {
    const SIGNS: &[Sign] =
        &[Sign::Code(Code::CertificateRevoked), Sign::Alert(AlertDescription::CertificateRevoked)];
    Guard { what, home: "rules/pki/src/revocation.rs", signs: SIGNS, weakness }
}

/// What a caller of the attacker's kind asks for, with the headers in which somebody, somewhere, believes a name.
fn asks() -> Request {
    Request::get(PATH).with("X-Caller", "users").with("X-Forwarded-User", "users")
}

/// Shows what was forged; before that, something good, which must be believed.
fn shown<'a>(
    target: &'a Target,
    what: &'static str,
    forged: impl FnOnce(&Target) -> Result<Held, AttackError> + 'a,
) -> Doing<'a> {
    Box::pin(async move {
        let forged = forged(target)?;
        honest(target).await?;
        target.tried(format!("a handshake with {what}"), Some(&forged), &asks()).await
    })
}

/// The twin of all handshakes here: a good certificate is believed.
async fn honest(target: &Target) -> Result<Held, AttackError> {
    believed(target, target.own(Kind::Workload).await?).await
}

async fn believed(target: &Target, held: Held) -> Result<Held, AttackError> {
    let answer = target.tried("", Some(&held), &asks()).await?;
    if answer.is_believed() { Ok(held) } else { Err(AttackError::HonestRefused { answer: answer.told() }) }
}

async fn stranger(target: &Target) -> Result<Observation, AttackError> {
    honest(target).await?;
    target.tried("a handshake without a certificate, then X-Caller: users", None, &asks()).await
}

async fn issued(target: &Target, what: &str, kind: Kind) -> Result<Observation, AttackError> {
    honest(target).await?;
    let held = target.own(kind).await?;
    target.tried(format!("a handshake with {what}"), Some(&held), &asks()).await
}

async fn chain_without_key(target: &Target) -> Result<Observation, AttackError> {
    let own = honest(target).await?;
    let stolen = Held { key: forge::key()?, ..own };
    target.tried("a handshake with a good chain and another key", Some(&stolen), &asks()).await
}

async fn revoked(target: &Target) -> Result<Observation, AttackError> {
    let held = believed(target, target.former(Kind::Workload).await?).await?;
    target.revoke(&held).await?;
    target.tried("a handshake with a revoked certificate", Some(&held), &asks()).await
}

async fn open_connection(target: &Target) -> Result<Observation, AttackError> {
    let held = target.former(Kind::Workload).await?;
    let mut connection = target.connect(Some(&held)).await?;
    let before = target.observed("", connection.send(&asks()).await).await;
    if !before.is_believed() {
        return Err(AttackError::HonestRefused { answer: before.told() });
    }
    // As old, as idle, and by another certificate: whatever else cuts connections would cut this one too.
    let beside = target.former(Kind::Workload).await?;
    let mut beside = target.connect(Some(&beside)).await?;
    let _ = beside.send(&asks()).await;
    target.revoke(&held).await?;
    let sent = "a second request on a connection whose certificate was revoked meanwhile";
    match connection.send(&asks()).await {
        Err(broken) if target.observed("", beside.send(&asks()).await).await.is_believed() => {
            let seen = format!("this connection was cut ({}), and one beside it was not", broken.how);
            Ok(Observation::looked(sent, true, seen))
        }
        exchanged => Ok(target.observed(sent, exchanged).await),
    }
}

async fn expired(target: &Target) -> Result<Observation, AttackError> {
    honest(target).await?;
    let held = target.expired().await?;
    target.tried("a handshake with an expired certificate", Some(&held), &asks()).await
}

async fn plain(target: &Target) -> Result<Observation, AttackError> {
    honest(target).await?;
    let exchanged = match target.dial(target.victim()).connect_in_the_clear().await {
        Ok(mut connection) => {
            let local = connection.local;
            connection.send(&asks()).await.map_err(|mut broken| {
                broken.local = broken.local.or(local);
                broken
            })
        }
        Err(broken) => Err(broken),
    };
    Ok(target.observed("GET /ads in the clear, with X-Caller: users", exchanged).await)
}

async fn old_tls(target: &Target) -> Result<Observation, AttackError> {
    let own = honest(target).await?;
    let dial = Dial { versions: OLD, ..target.dial(target.victim()).showing(own.shown()?) };
    Ok(target.tried_by("a handshake that offers TLS 1.2 alone", &dial, &asks()).await)
}

const OLD: &[&rustls::SupportedProtocolVersion] = &[&rustls::version::TLS12];
