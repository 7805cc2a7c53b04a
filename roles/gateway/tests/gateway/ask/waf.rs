//! NGINX with ModSecurity and the OWASP core rule set in front, by the file that `deploy/waf` holds.

use countersign_ledger::{Stage, Verdict};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use tokio::io::AsyncWriteExt as _;

use super::ASKER;
use super::proxies::{Fronted, OTHER, nginx};
use crate::rig::client::{bearer, head_and_body, read_answer, request, tls};
use crate::rig::echo::{self, Seen};

#[tokio::test]
async fn an_injection_ends_at_the_firewall_and_nobody_comes_past_it() {
    let (Some(program), Some(_)) = (countersign_testkit::nginx(), countersign_testkit::modsecurity()) else {
        return;
    };
    let fronted = Fronted::new("waf/nginx.conf", ASKER, nginx(program.clone())).await;
    let seen = Seen::default();
    let rig = &fronted.asked.rig;
    rig.open_service("ads", echo::router(&["/ads/{id}"], &seen)).await;
    crate::rig::eventually(|| fronted.asked.gateway.workload.live().service("ads").is_some()).await;
    let alice = bearer(&rig.access_token("alice", &["buyer"]));
    let headers = [("Authorization", alice.as_str()), ("User-Agent", "Mozilla/5.0"), ("X-User", "mallory")];
    let answer = fronted.get("/ads/1?near=here", &headers).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert!(!answer.body.contains("mallory") && answer.body.contains("127.0.0.1"), "{answer:?}");
    let passed = rig.decision(|decision| decision.verdict == Verdict::Allow).await;
    assert_eq!(passed.checks[0].detail, format!("through {ASKER}"));
    for attack in ["/ads/1?id=1%27%20OR%20%271%27=%271%27%20--", "/ads/1?q=%3Cscript%3Ealert(1)%3C/script%3E"]
    {
        let answer = fronted.get(attack, &headers).await;
        assert_eq!(answer.status, 403, "{attack}: {answer:?}");
    }
    let form = [headers[0], headers[1], ("Content-Type", "application/x-www-form-urlencoded")];
    let text = "name=x' UNION SELECT password FROM users -- ";
    assert_eq!(request(fronted.front, "POST", "/ads/1", &form, text).await.status, 403);
    assert_eq!(seen.count(), 1, "the service never saw an attack");
    // Past the firewall: without an SVID, and with another one, the handshake is the end, whatever token comes along.
    let root = CertificateDer::from_pem_file(&fronted.asked.edge_root).unwrap();
    if let Ok(mut stream) = tls(fronted.asked.front, "countersign.internal", &root, b"http/1.1").await {
        let text = head_and_body("GET", "/ads/1", "flea.test", &headers, "");
        let _ = stream.write_all(text.as_bytes()).await;
        assert_eq!(read_answer(&mut stream).await.status, 0);
    }
    rig.decision(|decision| decision.verdict == Verdict::Deny && decision.stage == Stage::Identity).await;
    assert_eq!(seen.count(), 1);
    let other = Fronted::new("waf/nginx.conf", OTHER, nginx(program)).await;
    let alice = bearer(&other.asked.rig.access_token("alice", &["buyer"]));
    let answer = other.get("/ads/1", &[("Authorization", &alice), ("User-Agent", "Mozilla/5.0")]).await;
    assert_eq!(answer.status, 502, "{answer:?}");
    other.asked.rig.decision(|decision| decision.stage == Stage::Transport).await;
}
