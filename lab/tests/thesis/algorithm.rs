//! Algorithm 5.1 as a truth table: every branch, in both readings of its `else`, over real connections.

use std::time::Duration;

use countersign_lab::thesis::{DanglingElse, ServiceIdentity, TokenValidationService};

use crate::rig::{SERVICE1, SERVICE2, SERVICE3, Service2, cast, token};

/// token × certificate of the connection × whether the token's issuer is in the trust store → status.
///
/// The certificates: none; service1's own; service1's name by somebody untrusted; a trusted one that cannot be put
/// into the trust store, since its key is not RSA.
const TABLE: &str = "
    token           certificate  issuer   meant typeset
    none            none         known    403   403
    none            none         unknown  403   403
    none            trusted      known    403   403
    none            trusted      unknown  403   403
    none            untrusted    known    403   403
    none            untrusted    unknown  403   403
    none            unstorable   known    403   403
    none            unstorable   unknown  403   403

    good            none         known    200   403
    good            none         unknown  401   403
    good            trusted      known    200   200
    good            trusted      unknown  200   200
    good            untrusted    known    403   200
    good            untrusted    unknown  403   401
    good            unstorable   known    403   403
    good            unstorable   unknown  403   403

    expired         none         known    403   403
    expired         none         unknown  401   403
    expired         trusted      known    403   403
    expired         trusted      unknown  403   403
    expired         untrusted    known    403   403
    expired         untrusted    unknown  403   401
    expired         unstorable   known    403   403
    expired         unstorable   unknown  403   403

    early           none         known    403   403
    early           none         unknown  401   403
    early           trusted      known    403   403
    early           trusted      unknown  403   403
    early           untrusted    known    403   403
    early           untrusted    unknown  403   401
    early           unstorable   known    403   403
    early           unstorable   unknown  403   403

    other-audience  none         known    403   403
    other-audience  none         unknown  401   403
    other-audience  trusted      known    403   403
    other-audience  trusted      unknown  403   403
    other-audience  untrusted    known    403   403
    other-audience  untrusted    unknown  403   401
    other-audience  unstorable   known    403   403
    other-audience  unstorable   unknown  403   403

    forged          none         known    403   403
    forged          none         unknown  401   403
    forged          trusted      known    403   403
    forged          trusted      unknown  403   403
    forged          untrusted    known    403   403
    forged          untrusted    unknown  403   401
    forged          unstorable   known    403   403
    forged          unstorable   unknown  403   403

    no-token        none         known    401   403
    no-token        none         unknown  401   403
    no-token        trusted      known    403   403
    no-token        trusted      unknown  403   403
    no-token        untrusted    known    403   401
    no-token        untrusted    unknown  403   401
    no-token        unstorable   known    403   403
    no-token        unstorable   unknown  403   403
";

#[tokio::test]
async fn algorithm_5_1_answers_as_its_truth_table_says_in_both_readings() {
    let rows: Vec<Vec<&str>> = TABLE
        .lines()
        .map(|line| line.split_whitespace().collect())
        .filter(|row: &Vec<_>| !row.is_empty())
        .skip(1)
        .collect();
    assert_eq!(rows.len(), 7 * 4 * 2, "every combination has its row");
    let mut wrong = Vec::new();
    for row in &rows {
        for (reading, expected) in [(DanglingElse::Meant, row[3]), (DanglingElse::Typeset, row[4])] {
            let got = status(row[0], row[1], row[2], reading).await;
            if got.to_string() != expected {
                wrong.push(format!("{row:?} in reading {reading:?}: {got}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

async fn status(presented: &str, certificate: &str, issuer: &str, reading: DanglingElse) -> u16 {
    let (cast, service2) = (cast(), Service2::start(reading).await);
    if issuer == "known" {
        assert!(service2.tokens.put_into_truststore(&cast.service1.chain[0]));
    }
    let certificate: Option<&ServiceIdentity> = match certificate {
        "none" => None,
        "trusted" => Some(&cast.service1),
        "untrusted" => Some(&cast.impostor),
        "unstorable" => Some(&cast.service1_p256),
        other => panic!("no certificate is called {other}"),
    };
    let clock = service2.clock.clock();
    let shifted = |seconds: i64| -> countersign_lab::thesis::Clock {
        let clock = clock.clone();
        std::sync::Arc::new(move || {
            countersign_identity::UnixTime::from_millis(clock().millis() + seconds * 1000)
        })
    };
    let presented = match presented {
        "none" => None,
        "good" => Some(token(&cast.service1, SERVICE2, clock)),
        "expired" => Some(token(&cast.service1, SERVICE2, shifted(-301))),
        "early" => Some(token(&cast.service1, SERVICE2, shifted(60))),
        "other-audience" => Some(token(&cast.service1, SERVICE3, clock)),
        "forged" => {
            let mut forger = cast.service1.clone();
            forger.key = cast.service3.key.clone();
            Some(token(&forger, SERVICE2, clock))
        }
        "no-token" => Some("no.to.ken".to_owned()),
        other => panic!("no token is called {other}"),
    };
    let reply = service2.ask(certificate, presented.as_deref()).await;
    let reached = service2.controlled();
    assert_eq!(reached, usize::from(reply.status == 200), "a controller sees authenticated requests alone");
    reply.status.as_u16()
}

#[tokio::test]
async fn a_token_expires_300_seconds_after_it_was_made_and_not_earlier() {
    let service2 = Service2::start(DanglingElse::Meant).await;
    assert!(service2.tokens.put_into_truststore(&cast().service1.chain[0]));
    let begin = service2.clock.now();
    let made = token(&cast().service1, SERVICE2, std::sync::Arc::new(move || begin));
    service2.clock.advance(Duration::from_secs(290));
    assert_eq!(service2.ask(None, Some(&made)).await.status, 200);
    service2.clock.advance(Duration::from_secs(10));
    assert_eq!(service2.ask(None, Some(&made)).await.status, 403);
    assert!(service2.tokens.contains_issuer_in_truststore(SERVICE1));
}
