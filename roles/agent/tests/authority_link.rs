//! The agent and its authority: joining, renewing, doing without, and not being fooled.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

mod common;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use common::{Agent, Authority, Other, PATIENCE, SAYS, eventually, given_socket, head};
use countersign_agent::AgentError;
use countersign_keys::{KeyPair, SystemRandom};
use countersign_sdk::agent::{AgentApi, AgentError as ApiError};
use countersign_sdk::launch;
use countersign_wire::agent::CertificatePurpose;

fn dir_with_token(token: &str) -> Arc<tempfile::TempDir> {
    let dir = Arc::new(tempfile::tempdir().unwrap());
    std::fs::write(dir.path().join("join-token"), token).unwrap();
    dir
}

async fn ends_with(agent: Agent) -> AgentError {
    tokio::time::timeout(PATIENCE, agent.running).await.unwrap().unwrap().unwrap_err()
}

#[tokio::test]
async fn an_agent_joins_once_and_comes_back_with_what_it_got() {
    let authority = Authority::start().await;
    let agent = Agent::start(&authority).await;
    assert!(!agent.token_file.exists(), "a used token is deleted");
    let agent = agent.restart(authority.address).await;
    agent.ready().await;
    assert_eq!(authority.core.joins.load(Ordering::SeqCst), 1);
    agent.stop().await.unwrap();
}

#[tokio::test]
async fn the_token_is_not_sent_to_another_authority() {
    let (ours, theirs) = (Authority::start().await, Authority::start().await);
    let agent = Agent::launch(theirs.address, dir_with_token(&ours.token()));
    let (dir, token_file) = (Arc::clone(&agent.dir), agent.token_file.clone());
    let address = theirs.address.to_string();
    assert_eq!(ends_with(agent).await, AgentError::WrongAuthority { address });
    assert_eq!(theirs.core.joins.load(Ordering::SeqCst), 0, "it never saw the token");
    assert!(token_file.exists(), "and the token is still good for the right one");
    let agent = Agent::launch(ours.address, dir);
    agent.ready().await;
    agent.stop().await.unwrap();
}

#[tokio::test]
async fn a_used_join_token_admits_nobody_else() {
    let authority = Authority::start().await;
    let token = authority.token();
    let first = Agent::launch(authority.address, dir_with_token(&token));
    first.ready().await;
    let second = Agent::launch(authority.address, dir_with_token(&token));
    let reason = "the join token was used".to_owned();
    assert_eq!(ends_with(second).await, AgentError::JoinRefused { reason });
    first.stop().await.unwrap();
}

#[tokio::test]
async fn a_join_that_was_cut_short_can_be_repeated() {
    let authority = Authority::start().await;
    let token = authority.token();
    let agent = Agent::launch(authority.address, dir_with_token(&token));
    agent.ready().await;
    let dir = Arc::clone(&agent.dir);
    agent.stop().await.unwrap();
    // As after a crash between the authority's answer and our disk: the token and its key are still there.
    let credential = dir.path().join("agent/credential.json");
    let saved: serde_json::Value = serde_json::from_slice(&std::fs::read(&credential).unwrap()).unwrap();
    std::fs::write(
        dir.path().join("agent/join-key.json"),
        serde_json::json!({"key": saved["key"]}).to_string(),
    )
    .unwrap();
    std::fs::remove_file(credential).unwrap();
    std::fs::write(dir.path().join("join-token"), &token).unwrap();
    let agent = Agent::launch(authority.address, dir);
    agent.ready().await;
    assert_eq!(authority.core.joins.load(Ordering::SeqCst), 2);
    agent.stop().await.unwrap();
}

#[tokio::test]
async fn without_credential_and_token_the_agent_does_not_start() {
    let authority = Authority::start().await;
    let nothing = Agent::launch(authority.address, Arc::new(tempfile::tempdir().unwrap()));
    assert_eq!(ends_with(nothing).await, AgentError::NoJoinToken);
    let nonsense = Agent::launch(authority.address, dir_with_token("csk_nonsense"));
    let file = nonsense.token_file.clone();
    assert_eq!(ends_with(nonsense).await, AgentError::NotAJoinToken(file));
}

#[tokio::test]
async fn an_agent_waits_for_an_authority_that_comes_later_and_says_unavailable_meanwhile() {
    let mut authority = Authority::start().await;
    authority.go_away().await;
    let agent = Agent::launch(authority.address, dir_with_token(&authority.token()));
    eventually("the socket is there", || async { agent.socket.exists() }).await;
    let starting = agent.api().issue(vec![1], CertificatePurpose::Tls).await.unwrap_err();
    assert!(starting.is_temporary(), "{starting}");
    assert!(agent.api().register("ads").await.unwrap_err().is_temporary());
    assert_eq!(agent.probe("/readyz").await.0, 503);
    assert_eq!(agent.probe("/livez").await.0, 200);
    authority.come_back().await;
    agent.ready().await;
    agent.stop().await.unwrap();
}

#[tokio::test]
async fn the_agent_renews_itself_at_half_its_life_and_goes_on_under_the_new_certificate() {
    let authority = Authority::with_life(Duration::from_secs(4)).await;
    let agent = Agent::start(&authority).await;
    let begun = tokio::time::Instant::now();
    eventually("it renews", || async { authority.core.renewals.load(Ordering::SeqCst) >= 3 }).await;
    assert!(begun.elapsed() < 3 * Duration::from_millis(2500), "each time at half its life");
    // By now the first certificate has expired.
    authority.core.publish(|snapshot| snapshot.policies.generation = 9);
    agent.api().register("ads").await.unwrap();
    let mut snapshots = agent.api().snapshots(("", 0)).await.unwrap();
    let deadline = Duration::from_secs(5);
    loop {
        let signed = tokio::time::timeout(deadline, snapshots.message()).await.unwrap().unwrap().unwrap();
        if signed == *authority.core.snapshots.borrow() {
            break;
        }
    }
    assert_eq!(authority.core.joins.load(Ordering::SeqCst), 1);
    agent.stop().await.unwrap();
}

#[tokio::test]
#[ignore = "not a test: another process, run by the test below"]
async fn other_process_registers_and_asks_twice() {
    let Some(socket) = given_socket() else { return };
    launch::register(&socket, "users").await.unwrap();
    println!("{SAYS}registered");
    for _ in 0..2 {
        common::wait_for_nudge().await;
        // A new connection each time: the agent at the other end may be another one.
        let snapshot = match AgentApi::new(socket.clone()).snapshots(("", 0)).await {
            Ok(mut stream) => stream.message().await.map(|m| m.is_some()).unwrap_or(false),
            Err(_) => false,
        };
        println!("{SAYS}snapshot {snapshot}");
    }
}

#[tokio::test]
async fn without_the_authority_a_restarted_agent_serves_what_it_kept_and_says_for_how_long() {
    let mut authority = Authority::start().await;
    let agent = Agent::start(&authority).await;
    let mut other = Other::run("other_process_registers_and_asks_twice", &agent.socket);
    assert_eq!(other.says().await, "registered");
    other.nudge().await;
    assert_eq!(other.says().await, "snapshot true");
    eventually("registrations are saved", || async {
        agent.dir.path().join("agent/registrations.json").exists()
    })
    .await;

    authority.go_away().await;
    let agent = agent.restart(authority.address).await;
    eventually("it is ready without the authority", || async { agent.probe("/readyz").await.0 == 200 }).await;
    let told = agent.probe("/readyz?verbose").await.1;
    assert!(told.contains("out of reach since"), "{told}");
    assert!(told.contains("certificates begin to expire in 59m"), "{told}");
    other.nudge().await;
    assert_eq!(other.says().await, "snapshot true", "the process did not restart, so it is who it was");
    let issue = agent.api().register("ads").await.unwrap_err();
    assert!(issue.is_temporary(), "nobody new without the authority: {issue}");

    authority.come_back().await;
    eventually("it finds the authority again", || async {
        agent.probe("/readyz?verbose").await.1.contains("[+]authority")
    })
    .await;
    agent.stop().await.unwrap();
}

#[tokio::test]
async fn workloads_learn_that_the_authority_is_out_of_reach() {
    let mut authority = Authority::start().await;
    let agent = Agent::start(&authority).await;
    agent.api().register("ads").await.unwrap();
    authority.go_away().await;
    let csr = countersign_pki::csr::make(&KeyPair::generate(&SystemRandom::new()).unwrap(), None).unwrap();
    let error = agent.api().issue(csr, CertificatePurpose::Tls).await.unwrap_err();
    assert!(error.is_temporary(), "{error}");
    agent.stop().await.unwrap();
}

#[tokio::test]
async fn a_snapshot_that_goes_back_or_is_signed_by_somebody_else_is_not_passed_on() {
    let authority = Authority::start().await;
    let agent = Agent::start(&authority).await;
    agent.api().register("ads").await.unwrap();
    let mut snapshots = agent.api().snapshots(("", 0)).await.unwrap();
    let first = snapshots.message().await.unwrap().unwrap();

    let back = authority.core.next_snapshot(|snapshot| snapshot.sequence = 0);
    let mut forged = authority.core.next_snapshot(|_| ());
    forged.signature = KeyPair::generate(&SystemRandom::new())
        .unwrap()
        .sign_fixed("snapshot", &forged.payload)
        .unwrap()
        .to_vec();
    let rootless = authority.core.next_snapshot(|snapshot| snapshot.bundles.clear());
    let foreign = authority.core.next_snapshot(|s| s.trust_domain = "elsewhere.test".parse().unwrap());
    for bad in [back, forged, rootless, foreign] {
        authority.core.snapshots.send_replace(bad);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    authority.core.publish(|_| ());
    let next = tokio::time::timeout(PATIENCE, snapshots.message()).await.unwrap().unwrap().unwrap();
    assert_ne!(next, first);
    assert_eq!(next, *authority.core.snapshots.borrow(), "only the good one came through");
    assert_eq!(agent.probe("/readyz").await.0, 200);
    agent.stop().await.unwrap();
}

#[tokio::test]
async fn a_snapshot_with_an_unknown_critical_member_keeps_the_old_one_and_turns_readiness_off() {
    let authority = Authority::start().await;
    let agent = Agent::start(&authority).await;
    authority.core.publish(|snapshot| snapshot.critical = vec!["quantum".to_owned()]);
    eventually("readiness goes off", || async { agent.probe("/readyz").await.0 == 503 }).await;
    assert!(agent.probe("/readyz?verbose").await.1.contains("quantum"));
    authority.core.publish(|_| ());
    agent.ready().await;
    agent.stop().await.unwrap();
}

#[tokio::test]
async fn a_rolled_back_ledger_raises_an_alarm_in_the_ledger_itself() {
    let authority = Authority::start().await;
    let agent = Agent::start(&authority).await;
    let says = |authority: &Authority, word: &str| {
        let reports = authority.core.reports.lock().unwrap();
        reports.iter().flat_map(|r| &r.records).any(|r| String::from_utf8_lossy(&r.event).contains(word))
    };
    authority.core.publish(|snapshot| snapshot.ledger_head = Some(head(7, "a")));
    authority.core.publish(|snapshot| snapshot.ledger_head = Some(head(9, "b")));
    eventually("the head is kept", || async { agent.dir.path().join("agent/ledger-head.json").exists() })
        .await;
    assert!(agent.probe("/readyz?verbose").await.1.contains("[+]ledger"));
    authority.core.publish(|snapshot| snapshot.ledger_head = Some(head(6, "c")));
    eventually("the alarm is recorded", || async { says(&authority, "ledger_alarm") }).await;
    assert!(says(&authority, "writer_started"));
    assert!(agent.probe("/readyz?verbose").await.1.contains("ALARM"));

    // Still there after a restart: the head that was kept is evidence.
    authority.core.reports.lock().unwrap().clear();
    let agent = agent.restart(authority.address).await;
    agent.ready().await;
    authority.core.publish(|snapshot| snapshot.ledger_head = Some(head(6, "c")));
    eventually("the alarm is recorded again", || async { says(&authority, "ledger_alarm") }).await;
    agent.stop().await.unwrap();
}

#[tokio::test]
async fn a_second_agent_on_the_same_state_does_not_start() {
    let authority = Authority::start().await;
    let agent = Agent::start(&authority).await;
    let second = Agent::launch(authority.address, Arc::clone(&agent.dir));
    let path = agent.dir.path().join("agent");
    assert_eq!(ends_with(second).await, AgentError::StateInUse(path));
    assert!(agent.socket.exists());
    assert_eq!(agent.probe("/nothing").await.0, 404);
    assert!(agent.probe("/metrics").await.1.contains("countersign_build_info"));
    agent.stop().await.unwrap();
}

#[tokio::test]
async fn a_saved_credential_that_was_tampered_with_is_not_used() {
    let authority = Authority::start().await;
    let agent = Agent::start(&authority).await;
    let dir = Arc::clone(&agent.dir);
    agent.stop().await.unwrap();
    let path = dir.path().join("agent/credential.json");
    let mut saved: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    saved["id"] = "spiffe://fleamarket.test/countersign/agent/other".into();
    std::fs::write(&path, saved.to_string()).unwrap();
    assert_eq!(ends_with(Agent::launch(authority.address, dir)).await, AgentError::NoJoinToken);
}

#[tokio::test]
async fn a_denied_call_is_no_reason_to_call_the_authority_lost() {
    let authority = Authority::start().await;
    let agent = Agent::start(&authority).await;
    agent.api().register("ads").await.unwrap();
    let refused = agent.api().issue(vec![1, 2, 3], CertificatePurpose::Tls).await.unwrap_err();
    assert!(matches!(refused, ApiError::Failed { .. }), "the authority's words about the csr: {refused}");
    assert!(agent.probe("/readyz?verbose").await.1.contains("[+]authority"));
    agent.stop().await.unwrap();
}
