//! The master key and the state directory: what is refused, and that a refusal changes nothing.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

mod common;

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use common::Place;
use countersign_authority::{AuthorityError, make_master_key};
use countersign_identity::TrustDomain;
use countersign_keys::sha256_hex;
use serde_json::json;

/// Every file below `dir` with the hash of its content.
fn picture(dir: &Path) -> BTreeMap<PathBuf, String> {
    let mut files = BTreeMap::new();
    let mut waiting = vec![dir.to_owned()];
    while let Some(dir) = waiting.pop() {
        for item in fs::read_dir(&dir).unwrap() {
            let path = item.unwrap().path();
            if path.is_dir() {
                waiting.push(path);
            } else if path.is_file() {
                let hash = sha256_hex(&fs::read(&path).unwrap());
                files.insert(path, hash);
            }
        }
    }
    files
}

async fn used() -> Place {
    let place = Place::new();
    let authority = place.start().await;
    authority.svid("ads").await;
    authority.stop().await;
    place
}

#[tokio::test]
async fn refuses_a_missing_master_key_with_exit_2_and_changes_nothing() {
    let place = used().await;
    fs::remove_file(&place.settings.master_key).unwrap();
    let before = picture(place.dir.path());
    let refused = place.refuse().await;
    assert!(matches!(refused, AuthorityError::MasterKeyMissing { .. }), "{refused}");
    assert_eq!(refused.exit_code(), 2);
    assert_eq!(picture(place.dir.path()), before);
    assert!(!place.settings.master_key.exists(), "no new key is made");
}

#[tokio::test]
async fn refuses_a_wrong_master_key_with_exit_2_and_changes_nothing() {
    let place = used().await;
    fs::remove_file(&place.settings.master_key).unwrap();
    make_master_key(&place.settings.master_key).unwrap();
    let before = picture(place.dir.path());
    let refused = place.refuse().await;
    assert!(matches!(refused, AuthorityError::MasterKeyWrong { .. }), "{refused}");
    assert_eq!(refused.exit_code(), 2);
    assert_eq!(picture(place.dir.path()), before);
}

#[tokio::test]
async fn refuses_the_swapped_keys_of_two_deployments_and_starts_with_the_right_ones() {
    let (mut a, mut b) = (used().await, used().await);
    std::mem::swap(&mut a.settings.master_key, &mut b.settings.master_key);
    for place in [&a, &b] {
        let before = picture(&place.state());
        let refused = place.refuse().await;
        assert!(matches!(refused, AuthorityError::MasterKeyWrong { .. }), "{refused}");
        assert_eq!(picture(&place.state()), before);
    }
    std::mem::swap(&mut a.settings.master_key, &mut b.settings.master_key);
    a.start().await.stop().await;
}

#[tokio::test]
async fn refuses_a_damaged_key_file_and_one_that_others_may_read() {
    let place = used().await;
    let before = picture(&place.state());
    fs::set_permissions(&place.settings.master_key, fs::Permissions::from_mode(0o644)).unwrap();
    let refused = place.refuse().await;
    assert!(matches!(refused, AuthorityError::MasterKeyUnusable { .. }), "{refused}");
    fs::set_permissions(&place.settings.master_key, fs::Permissions::from_mode(0o600)).unwrap();
    fs::write(&place.settings.master_key, "csmk1_too-short\n").unwrap();
    let refused = place.refuse().await;
    assert!(matches!(refused, AuthorityError::MasterKeyUnusable { .. }), "{refused}");
    assert_eq!(refused.exit_code(), 2);
    assert_eq!(picture(&place.state()), before);
}

#[tokio::test]
async fn refuses_to_found_a_second_deployment_where_the_database_is_gone() {
    let place = used().await;
    fs::remove_file(place.state().join("authority/authority.db")).unwrap();
    let before = picture(&place.state());
    let refused = place.refuse().await;
    assert!(matches!(refused, AuthorityError::DatabaseGone { .. }), "{refused}");
    assert_eq!(picture(&place.state()), before);
}

#[tokio::test]
async fn refuses_the_database_of_another_trust_domain() {
    let mut place = used().await;
    place.deployment.trust_domain = TrustDomain::parse("other.test").unwrap();
    fs::remove_file(place.state().join("authority/canary")).unwrap();
    place.deployment.services.clear();
    let refused = place.refuse().await;
    assert!(matches!(refused, AuthorityError::OtherTrustDomain { .. }), "{refused}");
    assert_eq!(refused.exit_code(), 2);
}

#[tokio::test]
async fn refuses_settings_that_would_expose_or_mislead() {
    for (lines, name) in [
        ("svid_ttl = \"59s\"", "authority.svid_ttl"),
        ("svid_ttl = \"25h\"", "authority.svid_ttl"),
        ("public_url = \"http://auth.test\"", "authority.public_url"),
        ("database = \"mysql://x\"", "authority.database"),
        ("database = \"postgres://u:secret@db/x\"", "authority.database"),
    ] {
        let place = Place::with(lines);
        match place.refuse().await {
            AuthorityError::Setting { name: found, why } => {
                assert_eq!(found, name, "{lines}");
                assert!(!why.contains("secret"));
            }
            other => panic!("{lines}: {other}"),
        }
    }
    let mut place = Place::new();
    place.settings.admin = "0.0.0.0:7081".parse().unwrap();
    assert!(matches!(place.refuse().await, AuthorityError::Setting { name: "authority.admin", .. }));
}

#[tokio::test]
async fn refuses_policies_that_do_not_load_and_says_where() {
    let place = Place::new();
    fs::write(place.deployment.policy_dir.as_ref().unwrap().join("users.cedar"), "permit (").unwrap();
    let refused = place.refuse().await;
    assert!(matches!(&refused, AuthorityError::Policies { why } if why.contains("users")), "{refused}");
    assert_eq!(refused.exit_code(), 2);
}

#[tokio::test]
async fn refuses_an_address_that_is_taken() {
    let place = Place::new();
    let _taken = std::net::TcpListener::bind(place.settings.listen).unwrap();
    let refused = place.refuse().await;
    assert!(
        matches!(refused, AuthorityError::Listen { address, .. } if address == place.settings.listen),
        "{refused}"
    );
}

#[tokio::test]
async fn a_restart_keeps_trust_domain_keys_users_and_the_order_of_the_ledger() {
    let place = Place::new();
    let authority = place.start().await;
    let first = authority.bundle().await;
    authority.add_user("alice", "a very long password").await;
    let crl = countersign_pki::Crl::read(first.crls[0].as_slice()).unwrap().number();
    authority.post("/api/v1/certificates/revoke", json!({ "service": "ads" })).await;
    authority.stop().await;

    let authority = place.start().await;
    let second = authority.bundle().await;
    assert_eq!((first.roots, first.edge_roots), (second.roots, second.edge_roots));
    assert_eq!(authority.get("/api/v1/users").await["items"][0]["name"], "alice");
    assert!(countersign_pki::Crl::read(second.crls[0].as_slice()).unwrap().number() > crl);
    assert_eq!(authority.events("authority_started").await.len(), 2);
    assert_eq!(authority.events("service_registered").await.len(), 3, "nothing is registered twice");
    assert_eq!(authority.events("policy_changed").await.len(), 1);
    authority.stop().await;
}

#[tokio::test]
async fn nothing_that_it_writes_is_readable_by_others_and_no_private_key_lies_open() {
    let place = used().await;
    let mut seen = 0;
    for path in picture(&place.state()).into_keys() {
        let mode = fs::metadata(&path).unwrap().mode();
        assert_eq!(mode & 0o077, 0, "{} has mode {mode:o}", path.display());
        let content = fs::read(&path).unwrap();
        // PKCS#8 of a P-256 key, in DER and in base64.
        for needle in [&b"PRIVATE KEY"[..], b"MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEH", &PKCS8_P256] {
            assert!(!content.windows(needle.len()).any(|window| window == needle), "{}", path.display());
        }
        seen += 1;
    }
    assert!(seen >= 3, "database, canary, ca.pem");
    assert_eq!(fs::metadata(place.state().join("authority")).unwrap().mode() & 0o777, 0o700);
}

const PKCS8_P256: [u8; 20] = [
    0x02, 0x01, 0x00, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a,
    0x86, 0x48, 0xce,
];

#[tokio::test]
async fn runs_on_postgresql_as_it_does_on_sqlite() {
    let Some(postgres) = countersign_testkit::Postgres::shared() else { return };
    let place = Place::with(&format!("database = \"{}\"", postgres.database()));
    let authority = place.start().await;
    let first = authority.bundle().await;
    let mut agent = authority.agent("local").await;
    let csr = countersign_pki::csr::make(&common::new_key(), None).unwrap();
    let ask = countersign_wire::node::NodeIssueRequest {
        purpose: 0,
        spiffe_id: "spiffe://fleamarket.test/svc/ads".to_owned(),
        csr,
        attestation: String::new(),
    };
    agent.issue(ask).await.unwrap();
    authority.add_user("alice", "a very long password").await;
    let login = json!({ "name": "alice", "password": "a very long password" });
    authority.post("/api/v1/login", login).await;
    let revoked = authority.post("/api/v1/certificates/revoke", json!({ "service": "ads" })).await;
    assert_eq!(revoked["serials"].as_array().unwrap().len(), 1);
    assert_eq!(authority.get("/api/v1/status").await["database"], "postgres");
    drop(agent);
    authority.stop().await;

    let before = dump(&place.settings.database);
    let right = fs::read(&place.settings.master_key).unwrap();
    fs::remove_file(&place.settings.master_key).unwrap();
    make_master_key(&place.settings.master_key).unwrap();
    let refused = place.refuse().await;
    assert!(matches!(refused, AuthorityError::MasterKeyWrong { .. }), "{refused}");
    assert!(dump(&place.settings.database) == before, "a refusal changed the database");
    fs::write(&place.settings.master_key, right).unwrap();
    let authority = place.start().await;
    assert_eq!(authority.bundle().await.roots, first.roots);
    authority.stop().await;
}

/// What the database holds, without the lines that pg_dump draws at random.
fn dump(url: &str) -> Vec<String> {
    let text = String::from_utf8(countersign_testkit::dump_postgres(url)).unwrap();
    text.lines().filter(|line| !line.contains("restrict ")).map(str::to_owned).collect()
}
