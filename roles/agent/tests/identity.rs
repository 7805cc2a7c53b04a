//! Who gets which identity over the agent's socket, and who does not.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

mod common;

use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use common::{Agent, Authority, Other, PATIENCE, SAYS, TRUST_DOMAIN, entry, eventually, given_socket, uid};
use countersign_keys::{KeyPair, SystemRandom};
use countersign_sdk::agent::{AgentApi, AgentError as ApiError};
use countersign_sdk::launch;
use countersign_sdk::outbound::{CallLimits, Channel, Target};
use countersign_wire::agent::agent_client::AgentClient;
use countersign_wire::agent::{CertificatePurpose, EdgeCount, LedgerRecord, ReportRequest};
use countersign_wire::workload as wl;
use countersign_wire::workload::spiffe_workload_api_client::SpiffeWorkloadApiClient;

use futures::{Stream, StreamExt as _};
use spiffe::WorkloadApiClient;
use tonic::{Code, Request};

const ADS: &str = "spiffe://fleamarket.test/svc/ads";

fn raw(agent: &Agent) -> SpiffeWorkloadApiClient<Channel> {
    SpiffeWorkloadApiClient::new(Channel::new(Target::Unix(agent.socket.clone()), CallLimits::default()))
}

fn with_header<T>(message: T, value: &'static str) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("workload.spiffe.io", value.parse().unwrap());
    request
}

async fn next<E: std::fmt::Debug>(
    contexts: &mut (impl Stream<Item = Result<spiffe::X509Context, E>> + Unpin),
) -> spiffe::X509Context {
    tokio::time::timeout(PATIENCE, contexts.next()).await.unwrap().unwrap().unwrap()
}

#[tokio::test]
async fn a_launched_process_gets_its_certificate_and_sees_it_renewed() {
    let authority = Authority::with_life(Duration::from_secs(4)).await;
    let agent = Agent::start(&authority).await;
    assert_eq!(launch::register(&agent.socket, "ads").await.unwrap().as_str(), ADS);

    let client = WorkloadApiClient::connect_to(agent.endpoint()).await.unwrap();
    let mut contexts = Box::pin(client.stream_x509_contexts().await.unwrap());
    let first = next(&mut contexts).await;
    let svid = first.default_svid().unwrap();
    assert_eq!(svid.spiffe_id().to_string(), ADS);
    assert_eq!(svid.cert_chain().len(), 2, "leaf and issuing CA, leaf first");
    assert_eq!(svid.hint(), None);
    let own = spiffe::TrustDomain::new(TRUST_DOMAIN).unwrap();
    assert_eq!(first.bundle_set().get(&own).unwrap().authorities().len(), 1);

    let second = next(&mut contexts).await;
    let renewed = second.default_svid().unwrap();
    assert_ne!(renewed.cert_chain()[0], svid.cert_chain()[0]);
    assert_eq!(renewed.spiffe_id(), svid.spiffe_id());
    let (earlier, later) = {
        let issued = authority.core.issued.lock().unwrap();
        (issued[0].1, issued[1].1)
    };
    let pause = later.since(earlier);
    assert!(pause >= Duration::from_millis(1100), "not before its time: {pause:?}");
    assert!(pause <= Duration::from_millis(2900), "at half its life: {pause:?}");
    agent.stop().await.unwrap();
}

#[tokio::test]
async fn the_message_holds_everything_in_the_form_of_the_standard() {
    let authority = Authority::start().await;
    let agent = Agent::start(&authority).await;
    agent.api().register("ads").await.unwrap();
    let request = with_header(wl::X509svidRequest {}, "true");
    let mut stream = raw(&agent).fetch_x509svid(request).await.unwrap().into_inner();
    let message = stream.message().await.unwrap().unwrap();
    let svid = &message.svids[0];
    assert_eq!((message.svids.len(), svid.spiffe_id.as_str(), svid.hint.as_str()), (1, ADS, ""));
    assert!(KeyPair::from_pkcs8(&svid.x509_svid_key).is_ok(), "PKCS#8, DER");
    for der in [&svid.x509_svid, &svid.bundle, &message.crl[0]] {
        assert_eq!(der[0], 0x30, "DER, not PEM");
    }
    assert!(message.federated_bundles.is_empty());

    let request = with_header(wl::X509BundlesRequest {}, "true");
    let mut stream = raw(&agent).fetch_x509_bundles(request).await.unwrap().into_inner();
    let bundles = stream.message().await.unwrap().unwrap();
    assert_eq!(bundles.bundles.get(&format!("spiffe://{TRUST_DOMAIN}")), Some(&svid.bundle));
    assert_eq!(bundles.crl, message.crl);
    agent.stop().await.unwrap();
}

#[tokio::test]
async fn a_new_revocation_list_is_pushed_to_open_streams_at_once() {
    let authority = Authority::start().await;
    let agent = Agent::start(&authority).await;
    agent.api().register("ads").await.unwrap();
    let request = with_header(wl::X509svidRequest {}, "true");
    let mut svids = raw(&agent).fetch_x509svid(request).await.unwrap().into_inner();
    let first = svids.message().await.unwrap().unwrap();
    let request = with_header(wl::X509BundlesRequest {}, "true");
    let mut bundles = raw(&agent).fetch_x509_bundles(request).await.unwrap().into_inner();
    bundles.message().await.unwrap().unwrap();
    let mut snapshots = agent.api().snapshots(("", 0)).await.unwrap();
    assert_eq!(snapshots.message().await.unwrap().unwrap(), *authority.core.snapshots.borrow());

    // Other policies are news for snapshots, not for certificates.
    authority.core.publish(|snapshot| snapshot.policies.generation = 2);
    snapshots.message().await.unwrap().unwrap();
    let crl = authority.core.crl(2, &[]);
    authority.core.publish(|snapshot| snapshot.bundles[0].crls = vec![crl.clone().into()]);
    let two_seconds = Duration::from_secs(2);
    let pushed = tokio::time::timeout(two_seconds, svids.message()).await.unwrap().unwrap().unwrap();
    assert_eq!(pushed.crl, vec![crl.clone()]);
    assert_eq!(pushed.svids, first.svids, "each message is complete");
    let pushed = tokio::time::timeout(two_seconds, bundles.message()).await.unwrap().unwrap().unwrap();
    assert_eq!(pushed.crl, vec![crl]);
    let pushed = tokio::time::timeout(two_seconds, snapshots.message()).await.unwrap().unwrap().unwrap();
    assert_eq!(pushed, *authority.core.snapshots.borrow(), "the exact bytes, with their signature");
    agent.stop().await.unwrap();
}

#[tokio::test]
async fn a_stranger_is_refused_everything_and_told_what_to_do() {
    let authority = Authority::start().await;
    let agent = Agent::start(&authority).await;
    let mut client = raw(&agent);
    let svid = client.fetch_x509svid(with_header(wl::X509svidRequest {}, "true")).await.unwrap_err();
    let bundles =
        client.fetch_x509_bundles(with_header(wl::X509BundlesRequest {}, "true")).await.unwrap_err();
    assert_eq!((svid.code(), bundles.code()), (Code::PermissionDenied, Code::PermissionDenied));
    assert!(svid.message().contains("countersign run --service"));
    let denied = |error: ApiError| matches!(error, ApiError::Denied { .. });
    assert!(denied(agent.api().issue(vec![1], CertificatePurpose::Tls).await.unwrap_err()));
    assert!(denied(agent.api().snapshots(("", 0)).await.unwrap_err()));
    assert!(denied(agent.api().publish_token_key(String::new()).await.unwrap_err()));
    let mut api = AgentClient::new(Channel::new(Target::Unix(agent.socket.clone()), CallLimits::default()));
    assert_eq!(api.report(ReportRequest::default()).await.unwrap_err().code(), Code::PermissionDenied);
    assert!(authority.core.issued.lock().unwrap().is_empty());
    agent.stop().await.unwrap();
}

#[tokio::test]
async fn every_call_of_the_workload_api_demands_the_security_header() {
    let authority = Authority::start().await;
    let agent = Agent::start(&authority).await;
    agent.api().register("ads").await.unwrap();
    for bad in ["", "True", "1", "true,true"] {
        let mut c = raw(&agent);
        let codes = [
            c.fetch_x509svid(with_header(wl::X509svidRequest {}, bad)).await.err(),
            c.fetch_x509_bundles(with_header(wl::X509BundlesRequest {}, bad)).await.err(),
            c.fetch_jwtsvid(with_header(wl::JwtsvidRequest::default(), bad)).await.err(),
            c.fetch_jwt_bundles(with_header(wl::JwtBundlesRequest {}, bad)).await.err(),
            c.validate_jwtsvid(with_header(wl::ValidateJwtsvidRequest::default(), bad)).await.err(),
            c.fetch_witsvid(with_header(wl::WitsvidRequest::default(), bad)).await.err(),
            c.fetch_wit_bundles(with_header(wl::WitBundlesRequest {}, bad)).await.err(),
        ];
        for code in codes {
            assert_eq!(code.unwrap().code(), Code::InvalidArgument, "{bad:?}");
        }
    }
    let none = raw(&agent).fetch_x509svid(wl::X509svidRequest {}).await.unwrap_err();
    assert_eq!(none.code(), Code::InvalidArgument);
    agent.stop().await.unwrap();
}

#[tokio::test]
async fn launching_is_a_right_and_a_process_is_one_service() {
    let authority = Authority::start().await;
    authority.set_entries(vec![entry("ads", uid()), entry("users", uid()), entry("chat", uid() + 1)]);
    let agent = Agent::start(&authority).await;
    let mut api = AgentClient::new(Channel::new(Target::Unix(agent.socket.clone()), CallLimits::default()));
    let mut register = async |entry: &str| {
        let request = countersign_wire::agent::RegisterRequest { entry: entry.to_owned() };
        api.register(request).await.map(|answer| answer.into_inner().spiffe_id)
    };
    let refused = register("chat").await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    assert!(refused.message().contains("launch_by"));
    assert_eq!(register("nobody").await.unwrap_err().code(), Code::NotFound);
    assert_eq!(register(&"x".repeat(2049)).await.unwrap_err().code(), Code::InvalidArgument);
    assert_eq!(register(ADS).await.unwrap(), ADS, "by its full name too");
    assert_eq!(register("ads").await.unwrap(), ADS, "asking again is fine");
    assert_eq!(register("users").await.unwrap_err().code(), Code::AlreadyExists);
    agent.stop().await.unwrap();
}

#[tokio::test]
async fn a_workload_makes_its_own_key_and_is_certified_for_its_own_name_only() {
    let authority = Authority::start().await;
    let agent = Agent::start(&authority).await;
    agent.api().register("ads").await.unwrap();
    let key = KeyPair::generate(&SystemRandom::new()).unwrap();
    let csr = countersign_pki::csr::make(&key, None).unwrap();
    let issued = agent.api().issue(csr, CertificatePurpose::Tls).await.unwrap();
    assert_eq!((issued.spiffe_id.as_str(), issued.chain.len(), issued.snapshot_keys.len()), (ADS, 2, 1));

    let other = countersign_identity::SpiffeId::parse("spiffe://fleamarket.test/svc/users").unwrap();
    let csr = countersign_pki::csr::make(&key, Some(&other)).unwrap();
    assert!(matches!(
        agent.api().issue(csr, CertificatePurpose::Tls).await.unwrap_err(),
        ApiError::Failed { .. }
    ));
    for size in [0, countersign_pki::csr::CSR_BYTES_MAX + 1] {
        assert!(matches!(
            agent.api().issue(vec![0; size], CertificatePurpose::Tls).await.unwrap_err(),
            ApiError::Failed { .. }
        ));
    }
    let (request, _) = authority.core.issued.lock().unwrap()[0].clone();
    let seen: serde_json::Value = serde_json::from_str(&request.attestation).unwrap();
    assert_eq!(seen["pid"], std::process::id());
    assert_eq!(seen["executable"], std::env::current_exe().unwrap().to_str().unwrap());
    assert_eq!(seen["sha256"].as_str().unwrap().len(), 64);
    agent.stop().await.unwrap();
}

#[tokio::test]
async fn a_report_goes_through_under_its_own_name_only() {
    let authority = Authority::start().await;
    let agent = Agent::start(&authority).await;
    agent.api().register("ads").await.unwrap();
    let mut api = AgentClient::new(Channel::new(Target::Unix(agent.socket.clone()), CallLimits::default()));
    let record =
        |writer: &str| LedgerRecord { writer: writer.into(), sequence: 7, ..LedgerRecord::default() };
    let edges = vec![EdgeCount { target: "ads".into(), requests: 3, ..EdgeCount::default() }];
    let own = ReportRequest { records: vec![record(ADS)], edges };
    assert_eq!(api.report(own.clone()).await.unwrap().into_inner().acknowledged, 7);
    assert!(authority.core.reports.lock().unwrap().contains(&own));
    let foreign =
        ReportRequest { records: vec![record("spiffe://fleamarket.test/svc/users")], edges: vec![] };
    assert_eq!(api.report(foreign.clone()).await.unwrap_err().code(), Code::PermissionDenied);
    assert!(!authority.core.reports.lock().unwrap().contains(&foreign));
    agent.stop().await.unwrap();
}

#[tokio::test]
async fn only_a_gateway_publishes_a_token_key() {
    let authority = Authority::start().await;
    let jwk = KeyPair::generate(&SystemRandom::new()).unwrap().public_key().to_jwk();

    let agent = Agent::start(&authority).await;
    agent.api().register("ads").await.unwrap();
    let refused = agent.api().publish_token_key(jwk.clone()).await.unwrap_err();
    assert!(matches!(refused, ApiError::Denied { .. }), "{refused}");
    agent.stop().await.unwrap();

    let agent = Agent::start(&authority).await;
    agent.api().register("gateway").await.unwrap();
    assert!(matches!(agent.api().publish_token_key("{}".into()).await.unwrap_err(), ApiError::Failed { .. }));
    agent.api().publish_token_key(jwk.clone()).await.unwrap();
    let published = authority.core.token_keys.lock().unwrap().clone();
    assert_eq!(published.len(), 1);
    assert_eq!(published[0].spiffe_id, format!("spiffe://{TRUST_DOMAIN}/countersign/gateway/main"));
    assert_eq!(published[0].jwk, jwk);
    agent.stop().await.unwrap();
}

#[tokio::test]
#[ignore = "not a test: another process, run by the tests below"]
async fn other_process_registers_and_waits() {
    let Some(socket) = given_socket() else { return };
    println!("{SAYS}{}", launch::register(&socket, "users").await.unwrap());
    common::wait_for_nudge().await;
}

#[tokio::test]
#[ignore = "not a test: another process, run by the tests below"]
async fn other_process_asks_for_a_certificate() {
    let Some(socket) = given_socket() else { return };
    let csr = countersign_pki::csr::make(&KeyPair::generate(&SystemRandom::new()).unwrap(), None).unwrap();
    match AgentApi::new(socket).issue(csr, CertificatePurpose::Tls).await {
        Ok(issued) => println!("{SAYS}{}", issued.spiffe_id),
        Err(ApiError::Denied { .. }) => println!("{SAYS}denied"),
        Err(error) => println!("{SAYS}{error}"),
    }
}

#[tokio::test]
async fn a_child_of_a_registered_process_is_a_stranger() {
    let authority = Authority::start().await;
    let agent = Agent::start(&authority).await;
    agent.api().register("ads").await.unwrap();
    let mut child = Other::run("other_process_asks_for_a_certificate", &agent.socket);
    assert_eq!(child.says().await, "denied");
    assert_eq!(authority.core.issued_to("ads"), 0);
    agent.stop().await.unwrap();
}

#[tokio::test]
async fn a_registration_ends_with_its_process() {
    let authority = Authority::start().await;
    let agent = Agent::start(&authority).await;
    let registered =
        async |n: &str| agent.probe("/readyz?verbose").await.1.contains(&format!("{n} processes registered"));
    let mut other = Other::run("other_process_registers_and_waits", &agent.socket);
    assert_eq!(other.says().await, "spiffe://fleamarket.test/svc/users");
    assert!(registered("1").await);
    other.kill().await;
    eventually("the registration ends", || registered("0")).await;
    agent.stop().await.unwrap();
}

#[tokio::test]
async fn a_withdrawn_entry_ends_open_streams_and_new_calls() {
    let authority = Authority::start().await;
    let agent = Agent::start(&authority).await;
    agent.api().register("ads").await.unwrap();
    let request = with_header(wl::X509svidRequest {}, "true");
    let mut svids = raw(&agent).fetch_x509svid(request).await.unwrap().into_inner();
    svids.message().await.unwrap().unwrap();
    let mut snapshots = agent.api().snapshots(("", 0)).await.unwrap();
    snapshots.message().await.unwrap().unwrap();

    authority.set_entries(vec![entry("users", uid())]);
    let ended = tokio::time::timeout(PATIENCE, svids.message()).await.unwrap().unwrap_err();
    assert_eq!(ended.code(), Code::PermissionDenied);
    let ended = tokio::time::timeout(PATIENCE, snapshots.message()).await.unwrap().unwrap_err();
    assert_eq!(ended.code(), Code::PermissionDenied);
    assert!(matches!(
        agent.api().issue(vec![1], CertificatePurpose::Tls).await.unwrap_err(),
        ApiError::Denied { .. }
    ));
    agent.stop().await.unwrap();
}

#[tokio::test]
async fn nothing_of_the_agent_is_readable_by_others() {
    let authority = Authority::start().await;
    let agent = Agent::start(&authority).await;
    agent.api().register("ads").await.unwrap();
    eventually("registrations are saved", || async {
        agent.dir.path().join("agent/registrations.json").exists()
    })
    .await;
    let mut left = vec![agent.dir.path().join("agent"), agent.dir.path().join("spool")];
    let mut files = 0;
    while let Some(path) = left.pop() {
        let metadata = std::fs::metadata(&path).unwrap();
        assert_eq!(metadata.permissions().mode() & 0o077, 0, "{}", path.display());
        if metadata.is_dir() {
            left.extend(std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        } else {
            files += 1;
        }
    }
    assert!(files >= 4, "credential, snapshot, registrations, lock");
    agent.stop().await.unwrap();
}
