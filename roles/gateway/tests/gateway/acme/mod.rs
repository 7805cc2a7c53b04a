//! Certificates from an authority of the outside, from the order to the handshake.

mod authority;
mod pebble;
mod validation;

use std::os::unix::fs::MetadataExt as _;
use std::sync::Arc;
use std::time::Duration;

use countersign_gateway::{AcmeError, Gateway, GatewayError};
use countersign_identity::SpiffeId;
use metrics_exporter_prometheus::PrometheusBuilder;
use rustls::pki_types::CertificateDer;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::client::TlsStream;

use self::authority::Authority;
use self::validation::shake_hands;
use crate::rig::client::{get, head_and_body, read_answer, tls};
use crate::rig::echo::{self, Seen};
use crate::rig::{Rig, Running, settings};

const HOST: &str = "shop.test";
const RULES: &str = "@id(\"open\")\npermit (principal, action, resource);";

/// A service behind a gateway that is yet to come, and an authority.
async fn deployment() -> (Rig, Authority) {
    let rig = Rig::new();
    rig.policy("gateway", RULES);
    rig.open_service("ads", echo::router(&["/open/{*rest}"], &Seen::default())).await;
    let authority = Authority::open(&rig).await;
    (rig, authority)
}

/// Settings of a gateway that orders for [`HOST`]; `acme` are lines of its table, `gateway` of the one above.
fn ordering(rig: &Rig, authority: &Authority, acme: &str, gateway: &str) -> String {
    let (ca, state) = (&authority.ca, rig.dir.path().join("acme"));
    format!(
        "listen_tls = \"127.0.0.1:0\"\nadmin = \"127.0.0.1:0\"\n{gateway}\n[tls.acme]\ndirectory = {:?}\nca = {ca:?}\n\
         contact = [\"mailto:ops@shop.test\"]\nhosts = [{HOST:?}]\nterms_of_service_agreed = true\nstate_dir = {state:?}\n\
         {acme}\n[[route]]\npath = \"/open/*\"\nto = \"ads\"\nuser = \"optional\"\n",
        authority.directory
    )
}

/// A gateway to which the authority's world leads.
async fn edge(rig: &Rig, authority: &Authority, acme: &str, gateway: &str) -> Running {
    let edge = rig.gateway(&ordering(rig, authority, acme, gateway)).await;
    authority.lead_to(edge.tls.unwrap());
    edge
}

/// Another gateway in the place of one that ends.
async fn again(rig: &Rig, authority: &Authority, before: Running, acme: &str) -> Running {
    before.shutdown.cancel();
    before.task.await.unwrap();
    let edge = rig.gateway_of(before.workload, &ordering(rig, authority, acme, "")).await;
    authority.lead_to(edge.tls.unwrap());
    edge
}

/// A connection of a client that believes the authority's root alone; `None` where the handshake fails.
async fn client(edge: &Running, authority: &Authority, host: &str) -> Option<TlsStream<TcpStream>> {
    tls(edge.tls.unwrap(), host, authority.root(), b"http/1.1").await.ok()
}

fn shown(stream: &TlsStream<TcpStream>) -> CertificateDer<'static> {
    stream.get_ref().1.peer_certificates().unwrap()[0].clone().into_owned()
}

/// Waits for a certificate for [`HOST`] that is not `old`.
async fn certificate(
    edge: &Running,
    authority: &Authority,
    old: Option<&CertificateDer<'static>>,
) -> CertificateDer<'static> {
    for _ in 0..2000 {
        if let Some(stream) = client(edge, authority, HOST).await
            && old != Some(&shown(&stream))
        {
            return shown(&stream);
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("no certificate came: {}", readiness(edge).await);
}

async fn asks(stream: &mut TlsStream<TcpStream>) -> u16 {
    stream.write_all(head_and_body("GET", "/open/a", HOST, &[], "").as_bytes()).await.unwrap();
    read_answer(stream).await.status
}

async fn readiness(edge: &Running) -> String {
    get(edge.admin.unwrap(), "/readyz?verbose", &[]).await.body
}

/// Waits until readiness warns so.
async fn warning(edge: &Running, of: &str) -> String {
    let mut text = String::new();
    for _ in 0..2000 {
        text = readiness(edge).await;
        if text.contains(of) {
            return text;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("no warning of {of:?}: {text}");
}

/// Waits for a state, for as long as a busy machine may take.
async fn until(holds: impl AsyncFn() -> bool) {
    for _ in 0..2000 {
        if holds().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("it never came to hold");
}

#[tokio::test]
async fn a_certificate_is_ordered_kept_and_shown_to_clients_of_its_host() {
    let (rig, authority) = deployment().await;
    let edge = edge(&rig, &authority, "", "").await;
    certificate(&edge, &authority, None).await;
    let mut stream = client(&edge, &authority, HOST).await.unwrap();
    assert_eq!(asks(&mut stream).await, 200);
    assert_eq!((authority.ordered(), authority.accounts()), (vec![HOST.to_owned()], 1));
    assert_eq!(authority.contacts(), [serde_json::json!(["mailto:ops@shop.test"])]);
    assert!(!readiness(&edge).await.contains("[!]"));
    // Nobody else can read the keys.
    let state = rig.dir.path().join("acme");
    let authority_dir = std::fs::read_dir(&state).unwrap().next().unwrap().unwrap().path();
    assert_eq!(std::fs::metadata(&authority_dir).unwrap().mode() & 0o777, 0o700);
    for file in ["account.json", "shop.test.pem"] {
        assert_eq!(std::fs::metadata(authority_dir.join(file)).unwrap().mode() & 0o777, 0o600, "{file}");
    }
}

#[tokio::test]
async fn until_its_certificate_comes_a_host_gets_an_alert_and_another_host_its_own() {
    let (rig, authority) = deployment().await;
    authority.play(|play| play.held = true);
    let (cert, key, flea) = rig.edge_certificate(&["flea.test"], "flea");
    let edge = edge(&rig, &authority, "", &format!("tls_cert = {cert:?}\ntls_key = {key:?}")).await;
    let refused = shake_hands(edge.tls.unwrap(), HOST, &[b"http/1.1"]).await.unwrap_err();
    assert!(refused.contains("AccessDenied"), "{refused}");
    let own = tls(edge.tls.unwrap(), "flea.test", &flea, b"http/1.1").await.unwrap();
    authority.play(|play| play.held = false);
    certificate(&edge, &authority, None).await;
    let still = tls(edge.tls.unwrap(), "flea.test", &flea, b"http/1.1").await.unwrap();
    assert_eq!(shown(&own), shown(&still));
    assert!(client(&edge, &authority, "flea.test").await.is_none(), "it is not below the authority's root");
}

#[tokio::test]
async fn a_kept_certificate_is_shown_after_a_restart_while_nobody_answers() {
    let (rig, authority) = deployment().await;
    let first = edge(&rig, &authority, "", "").await;
    let before = certificate(&first, &authority, None).await;
    authority.play(|play| play.down = true);
    let asked = authority.requests();
    let second = again(&rig, &authority, first, "").await;
    let mut stream = client(&second, &authority, HOST).await.expect("shown at once");
    assert_eq!((shown(&stream), asks(&mut stream).await), (before, 200));
    assert_eq!(authority.requests(), asked, "there is nothing to order");
}

#[tokio::test]
async fn a_certificate_is_renewed_before_its_end_and_a_connection_stays_open() {
    let (rig, authority) = deployment().await;
    authority.play(|play| play.old = true);
    let first = edge(&rig, &authority, "", "").await;
    let before = certificate(&first, &authority, None).await;
    // The next one does not come before the connection is there.
    authority.play(|play| (play.old, play.held) = (false, true));
    let second = again(&rig, &authority, first, "").await;
    let mut open = client(&second, &authority, HOST).await.unwrap();
    assert_eq!((shown(&open), asks(&mut open).await), (before.clone(), 200));
    authority.play(|play| play.held = false);
    certificate(&second, &authority, Some(&before)).await;
    assert_eq!(asks(&mut open).await, 200, "nobody cuts it");
    assert_eq!((authority.ordered().len(), authority.accounts()), (2, 1), "the account is the same");
}

#[tokio::test]
async fn a_certificate_that_is_old_when_it_comes_is_renewed_after_a_pause() {
    let (rig, authority) = deployment().await;
    authority.play(|play| play.old = true);
    let edge = edge(&rig, &authority, "retry_min_s = 1", "").await;
    let before = certificate(&edge, &authority, None).await;
    authority.play(|play| play.old = false);
    certificate(&edge, &authority, Some(&before)).await;
}

#[tokio::test]
async fn while_the_authority_is_down_the_old_one_stays_and_the_order_is_repeated() {
    let (rig, authority) = deployment().await;
    authority.play(|play| play.old = true);
    let first = edge(&rig, &authority, "", "").await;
    let before = certificate(&first, &authority, None).await;
    authority.play(|play| (play.old, play.down) = (false, true));
    let second = again(&rig, &authority, first, "retry_min_s = 1").await;
    let text = warning(&second, "[!] shop.test: the authority cannot be asked").await;
    assert!(text.contains("/dir answered 503") && text.contains("its certificate ends"), "{text}");
    let ready = get(second.admin.unwrap(), "/readyz", &[]).await;
    assert_eq!((ready.status, ready.body.as_str()), (200, "ok\n"), "requests may come");
    assert_eq!(shown(&client(&second, &authority, HOST).await.unwrap()), before);
    authority.play(|play| play.down = false);
    certificate(&second, &authority, Some(&before)).await;
    assert!(!readiness(&second).await.contains("[!]"));
}

#[tokio::test]
async fn a_refused_nonce_is_replaced_by_a_new_one() {
    let (rig, authority) = deployment().await;
    authority.play(|play| play.nonces_refused = 2);
    let edge = edge(&rig, &authority, "", "").await;
    certificate(&edge, &authority, None).await;
    assert_eq!((authority.nonces_refused(), authority.ordered().len()), (2, 1));
}

#[tokio::test]
async fn a_refused_order_is_told_once_in_the_log_and_in_metrics_and_readiness() {
    let (log, recorder) = (super::observe::Log::default(), PrometheusBuilder::new().build_recorder());
    let metrics = recorder.handle();
    let _recorded = metrics::set_default_local_recorder(&recorder);
    let written = tracing_subscriber::fmt().json().with_writer(log.clone()).finish();
    let _logged = tracing::subscriber::set_default(written);
    let (rig, authority) = deployment().await;
    let kind = "rejectedIdentifier";
    authority.play(|play| play.orders_refused = Some((kind, "no shops here", 0)));
    let edge = edge(&rig, &authority, "retry_min_s = 1\nretry_max_s = 1", "").await;
    let text = warning(&edge, "no shops here").await;
    assert!(text.contains("urn:ietf:params:acme:error:rejectedIdentifier"), "{text}");
    assert!(text.contains("CAA records") && text.contains("it has no certificate"), "{text}");
    let failed = "countersign_acme_orders_total{host=\"shop.test\",result=\"failed\"} ";
    let count = || metrics.render().lines().find_map(|line| line.strip_prefix(failed)?.parse::<u32>().ok());
    until(async || count().unwrap_or_default() >= 3).await;
    assert!(metrics.render().contains("countersign_acme_trouble{host=\"shop.test\"} 1"));
    let told = log.text();
    let told: Vec<_> = told.lines().filter(|line| line.contains("no certificate came")).collect();
    assert_eq!(told.len(), 1, "once for each change: {told:?}");
    assert!(told[0].contains("no shops here") && told[0].contains("\"level\":\"ERROR\""), "{told:?}");
    authority.play(|play| play.orders_refused = None);
    certificate(&edge, &authority, None).await;
    until(async || metrics.render().contains("countersign_acme_trouble{host=\"shop.test\"} 0")).await;
    assert!(!metrics.render().contains("expiry_timestamp_seconds{host=\"shop.test\"} 0"));
    let keys = std::fs::read_dir(rig.dir.path().join("acme")).unwrap().next().unwrap().unwrap().path();
    let account = std::fs::read_to_string(keys.join("account.json")).unwrap();
    let account: serde_json::Value = serde_json::from_str(&account).unwrap();
    assert!(!log.text().contains(account["key_pkcs8"].as_str().unwrap()));
}

#[tokio::test]
async fn an_authority_that_asks_for_a_longer_pause_gets_it() {
    let (rig, authority) = deployment().await;
    authority.play(|play| play.orders_refused = Some(("rateLimited", "too many already", 86_400)));
    let edge = edge(&rig, &authority, "retry_min_s = 1\nretry_max_s = 1", "").await;
    let text = warning(&edge, "too many already").await;
    let date = text.split("the next try is ").nth(1).unwrap().trim();
    let next = httpdate::parse_http_date(date).unwrap();
    let now = countersign_sdk::clock::now().secs();
    let next = next.duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    assert!(next > u64::try_from(now).unwrap() + 80_000, "{text}");
}

#[tokio::test]
async fn a_validation_is_answered_for_an_order_of_ours_and_for_nothing_else() {
    let (rig, authority) = deployment().await;
    let (cert, key, _) = rig.edge_certificate(&["flea.test"], "flea");
    let files = format!("tls_cert = {cert:?}\ntls_key = {key:?}");
    // The authority waits before it looks.
    let edge = rig.gateway(&ordering(&rig, &authority, "", &files)).await;
    let address = edge.tls.unwrap();
    let answered = async |host: &'static str, protocols: &'static [&'static [u8]]| {
        shake_hands(address, host, protocols).await.is_ok()
    };
    until(async || answered(HOST, &[b"acme-tls/1"]).await).await;
    assert!(!answered("flea.test", &[b"acme-tls/1"]).await, "nobody ordered for it");
    assert!(!answered("other.test", &[b"acme-tls/1"]).await);
    assert!(!answered(HOST, &[b"acme-tls/1", b"http/1.1"]).await, "that is no validation");
    assert!(answered("flea.test", &[b"http/1.1"]).await, "others come in as always");
    // It carries nothing.
    let mut stream = shake_hands(address, HOST, &[b"acme-tls/1"]).await.unwrap();
    let _ = stream.write_all(b"GET /open/a HTTP/1.1\r\nHost: shop.test\r\n\r\n").await;
    let mut read = Vec::new();
    let _ = stream.read_to_end(&mut read).await;
    assert!(read.is_empty(), "{}", String::from_utf8_lossy(&read));
    authority.lead_to(address);
    certificate(&edge, &authority, None).await;
    // The order is over.
    assert!(!answered(HOST, &[b"acme-tls/1"]).await);
}

#[tokio::test]
async fn a_host_that_leads_elsewhere_is_told_of_and_tried_again() {
    let (rig, authority) = deployment().await;
    let elsewhere = TcpListener::bind("127.0.0.1:0").await.unwrap();
    authority.lead_to(elsewhere.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((connection, _)) = elsewhere.accept().await {
            drop(connection);
        }
    });
    let edge = rig.gateway(&ordering(&rig, &authority, "retry_min_s = 1", "")).await;
    let text = warning(&edge, "could not validate shop.test").await;
    assert!(text.contains("port 443 of shop.test must lead to listen_tls"), "{text}");
    authority.lead_to(edge.tls.unwrap());
    certificate(&edge, &authority, None).await;
}

#[tokio::test]
async fn a_certificate_for_another_host_is_not_shown() {
    let (rig, authority) = deployment().await;
    authority.play(|play| play.other_host = Some("other.test"));
    let edge = edge(&rig, &authority, "retry_min_s = 1", "").await;
    warning(&edge, "what came as the certificate for shop.test cannot be served: it does not have that name")
        .await;
    assert!(client(&edge, &authority, "other.test").await.is_none());
    assert!(shake_hands(edge.tls.unwrap(), HOST, &[b"http/1.1"]).await.is_err());
    authority.play(|play| play.other_host = None);
    certificate(&edge, &authority, None).await;
}

#[tokio::test]
async fn an_authority_without_tls_alpn_01_is_told_of() {
    let (rig, authority) = deployment().await;
    authority.play(|play| play.without_tls_alpn = true);
    let edge = edge(&rig, &authority, "", "").await;
    let text = warning(&edge, "does not offer to validate shop.test by tls-alpn-01").await;
    assert!(text.contains("Http01, Dns01"), "{text}");
}

#[tokio::test]
async fn an_account_that_the_authority_forgot_is_made_anew() {
    let (rig, authority) = deployment().await;
    authority.play(|play| play.old = true);
    let first = edge(&rig, &authority, "", "").await;
    let before = certificate(&first, &authority, None).await;
    authority.forget_accounts();
    authority.play(|play| play.old = false);
    let second = again(&rig, &authority, first, "retry_min_s = 1").await;
    certificate(&second, &authority, Some(&before)).await;
    assert_eq!(authority.accounts(), 1);
}

#[tokio::test]
async fn refuses_to_start_without_what_orders_need() {
    let (rig, authority) = deployment().await;
    let workload = rig.workload(SpiffeId::gateway(&rig.td, "edge").unwrap()).await;
    let bind = async |toml: &str| {
        let gateway = Gateway::bind(settings(toml), workload.clone(), Arc::new(String::new)).await;
        match gateway.err().unwrap() {
            GatewayError::Acme(error) => error,
            other => panic!("{other}"),
        }
    };
    let good = ordering(&rig, &authority, "", "");
    let plain = good.replace("listen_tls", "listen");
    assert_eq!(bind(&plain).await, AcmeError::NoListener);
    let (from, to) = (good.find("state_dir").unwrap(), good.find("[[route]]").unwrap());
    assert_eq!(bind(&[&good[..from], &good[to..]].concat()).await, AcmeError::NoStateDir);
    let file = rig.dir.path().join("file");
    std::fs::write(&file, "no PEM").unwrap();
    let state =
        bind(&good.replace(&format!("{:?}", rig.dir.path().join("acme")), &format!("{file:?}"))).await;
    assert!(matches!(state, AcmeError::State { .. }), "{state}");
    let roots = bind(&good.replace(&format!("{:?}", authority.ca), &format!("{file:?}"))).await;
    assert!(matches!(roots, AcmeError::Roots { .. }), "{roots}");
}
