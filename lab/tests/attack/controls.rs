use std::collections::BTreeSet;

use countersign_identity::TrustDomain;
use countersign_lab::attack::{self, AttackError, Live, Settings, Target, Verdict};

/// What became of it at this target.
async fn verdict(attack: &attack::Attack, target: &Target) -> Result<Verdict, AttackError> {
    let observation = (attack.run)(target).await?;
    Ok(observation.judged(&attack.guard))
}

#[tokio::test]
async fn every_attack_succeeds_where_its_guard_is_missing_and_is_blocked_where_it_is_not() {
    let mut wrong = Vec::new();
    for attack in attack::all() {
        let weak = Target::weak(&[attack.guard.weakness]).await.unwrap();
        match verdict(attack, &weak).await {
            Ok(Verdict::Succeeded { .. }) => {}
            other => wrong.push(format!("{} without its guard: {other:?}", attack.name)),
        }
        let strict = Target::weak(&[]).await.unwrap();
        match verdict(attack, &strict).await {
            Ok(Verdict::Blocked { .. }) => {}
            other => wrong.push(format!("{} with its guard: {other:?}", attack.name)),
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_attack_has_a_name_of_its_own_a_guard_that_exists_and_a_sign() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let mut names = BTreeSet::new();
    for attack in attack::all() {
        assert!(names.insert(attack.name), "{} is there twice", attack.name);
        assert!(attack.name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-'));
        assert!(root.join(attack.guard.home).is_file(), "{}: {}", attack.name, attack.guard.home);
        assert!(!attack.guard.signs.is_empty() && !attack.from.is_empty(), "{}", attack.name);
    }
    assert!(attack::named("stolen-token").is_some());
    assert!(attack::named("no-such-attack").is_none());
}

#[tokio::test]
async fn a_deployment_that_is_not_there_or_not_here_is_not_attacked() {
    let dir = tempfile::tempdir().unwrap();
    let settings = |address: &str| Settings {
        trust_domain: TrustDomain::parse("fleamarket.test").unwrap(),
        admin_socket: dir.path().join("admin.sock"),
        agent_socket: dir.path().join("agent.sock"),
        gateway_tls: address.parse().unwrap(),
        gateway: None,
        authority: "127.0.0.1:1".parse().unwrap(),
        nodes: None,
        passwords: dir.path().into(),
        state_dir: None,
    };
    let foreign = Live::at(settings("192.0.2.1:443")).await.err().unwrap();
    assert!(matches!(foreign, AttackError::Foreign(_)), "{foreign}");
    let absent = Live::at(settings("127.0.0.1:1")).await.err().unwrap();
    assert!(matches!(absent, AttackError::NoConnection { .. }), "{absent}");
}

#[tokio::test]
async fn what_went_wrong_before_an_attack_is_no_verdict_about_the_target() {
    let weak = Target::weak(&[]).await.unwrap();
    let stranger = weak.tried("", None, &attack::Request::get("/")).await.unwrap();
    assert!(!stranger.is_believed());
    let twin = AttackError::HonestRefused { answer: stranger.told() };
    assert!(twin.to_string().contains("CertificateRequired"), "{twin}");
    let unequipped =
        weak.certified("no name", attack::Kind::Workload, std::time::Duration::from_secs(60)).await;
    assert!(matches!(unequipped.err().unwrap(), AttackError::Equipment { what: "a name", .. }));
}

#[tokio::test]
async fn an_attack_on_what_the_target_does_not_have_is_said_to_be_one() {
    let weak = Target::weak(&[]).await.unwrap();
    assert!(matches!(weak.as_live().err().unwrap(), AttackError::Absent { what: "deployment" }));
}
