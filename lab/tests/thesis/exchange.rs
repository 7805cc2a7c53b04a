//! Section 5.2.2 step 5: what happens to a caller whom the callee does not know yet.

use std::sync::Arc;

use bytes::Bytes;
use countersign_lab::thesis::{
    Attempt, CallError, Connection, DanglingElse, HttpClientFactory, ListenError, Listener, ServiceIdentity,
    TokenValidationService,
};
use http::{Method, Response, StatusCode};
use http_body_util::Full;

use crate::rig::{SERVICE1, SERVICE2, Service2, cast, creator, token};

fn factory(who: &ServiceIdentity, service2: &Service2) -> HttpClientFactory {
    let creator = Arc::new(creator(who, service2.clock.clock()));
    HttpClientFactory::new(who.clone(), creator, cast().pki.root().clone())
}

#[tokio::test]
async fn an_unknown_caller_is_asked_for_its_certificate_once_and_the_next_call_needs_none() {
    let service2 = Service2::start(DanglingElse::Meant).await;
    let ads = factory(&cast().service1, &service2);
    let asked = [
        Attempt { with_certificate: false, status: StatusCode::UNAUTHORIZED },
        Attempt { with_certificate: true, status: StatusCode::OK },
    ];
    assert_eq!(ads.get(service2.address(), SERVICE2, "/users/7").await.unwrap(), asked);
    assert!(service2.tokens.contains_issuer_in_truststore(SERVICE1));
    let known = [Attempt { with_certificate: false, status: StatusCode::OK }];
    assert_eq!(ads.get(service2.address(), SERVICE2, "/users/8").await.unwrap(), known);
    assert_eq!(service2.controlled(), 2, "the request that was answered by 401 reached nobody");
}

#[tokio::test]
async fn a_stranger_is_asked_for_its_certificate_and_refused_with_it() {
    let service2 = Service2::start(DanglingElse::Meant).await;
    let attempts = factory(&cast().impostor, &service2).get(service2.address(), SERVICE2, "/").await.unwrap();
    let statuses: Vec<_> = attempts.iter().map(|attempt| attempt.status.as_u16()).collect();
    assert_eq!(statuses, [401, 403]);
    assert_eq!(service2.controlled(), 0);
}

#[tokio::test]
async fn a_connection_that_began_without_a_certificate_never_gets_one() {
    let service2 = Service2::start(DanglingElse::Meant).await;
    let mut without = service2.connect(None).await;
    let authorization = format!("Bearer {}", token(&cast().service1, SERVICE2, service2.clock.clock()));
    for _ in 0..2 {
        let reply = without.send(Method::GET, "/", Some(&authorization), Bytes::new()).await.unwrap();
        assert_eq!(reply.status, 401, "HTTP/2 over TLS 1.3 has no way to ask on this connection");
    }
    let mut with = service2.connect(Some(&cast().service1)).await;
    let reply = with.send(Method::GET, "/", Some(&authorization), Bytes::new()).await.unwrap();
    assert_eq!(reply.status, 200);
    let reply = without.send(Method::GET, "/", Some(&authorization), Bytes::new()).await.unwrap();
    assert_eq!(reply.status, 200, "once the certificate is known, the old connection is good enough");
}

#[tokio::test]
async fn a_caller_talks_to_the_callee_that_it_named_and_to_nobody_else() {
    let service2 = Service2::start(DanglingElse::Meant).await;
    let wrong = Connection::open(service2.address(), SERVICE1, cast().pki.root(), None).await;
    assert!(matches!(wrong, Err(CallError::Connect { callee, .. }) if callee == SERVICE1));
    let mut open = service2.connect(None).await;
    let refused = open.send(Method::GET, "no path", None, Bytes::new()).await;
    assert!(matches!(refused, Err(CallError::Lost { .. })));
    assert_eq!(CallError::TimedOut.to_string(), "no answer within 10 seconds");
}

#[tokio::test]
async fn a_listener_needs_the_key_of_its_certificate() {
    let mut wrong = cast().service2.clone();
    wrong.key = cast().service1.key.clone();
    let service = tower::service_fn(|_| async {
        Ok::<_, std::convert::Infallible>(Response::new(Full::<Bytes>::default()))
    });
    assert!(matches!(Listener::start(&wrong, service).await, Err(ListenError::Tls { .. })));
    let bind = ListenError::Bind { kind: std::io::ErrorKind::AddrInUse };
    assert!(bind.to_string().contains("no port"));
}
