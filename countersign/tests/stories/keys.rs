//! # The master key: missing, wrong or swapped, nothing is made and nothing is changed.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use crate::deployment::{Deployment, files_below, text};

/// Every file with its bytes, but for logs, sockets and the lock, which names the newest `up`.
fn contents(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    files_below(dir)
        .into_iter()
        .filter(|p| p.is_file() && !p.to_string_lossy().contains("/logs/"))
        .filter(|p| !p.ends_with("up.log") && !p.ends_with("up.lock"))
        .map(|p| (p.clone(), std::fs::read(p).unwrap()))
        .collect()
}

/// Files that are new, gone or different.
fn changes(before: &BTreeMap<PathBuf, Vec<u8>>, after: &BTreeMap<PathBuf, Vec<u8>>) -> Vec<PathBuf> {
    let names: BTreeSet<&PathBuf> = before.keys().chain(after.keys()).collect();
    names.into_iter().filter(|name| before.get(*name) != after.get(*name)).cloned().collect()
}

/// A key file as its owner would restore it.
fn write_key(path: &Path, bytes: &[u8]) {
    std::fs::write(path, bytes).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).unwrap();
}

fn master_key(d: &Deployment) -> PathBuf {
    let keys: Vec<PathBuf> =
        files_below(&d.home()).into_iter().filter(|p| p.extension().is_some_and(|e| e == "key")).collect();
    assert_eq!(keys.len(), 1, "one master key, outside the state directory: {keys:?}");
    keys[0].clone()
}

#[test]
fn a_master_key_that_is_missing_wrong_or_swapped_ends_with_exit_2_and_changes_nothing() {
    let d = Deployment::start();
    d.ok(&["down"]);
    let key = master_key(&d);
    let good = std::fs::read(&key).unwrap();
    let other = Deployment::start();
    let foreign = std::fs::read(master_key(&other)).unwrap();
    drop(other);
    let before = contents(&d.state());
    for (case, bytes) in [
        ("missing", None),
        ("wrong", Some(b"csmk1_garbage".to_vec())),
        ("swapped", Some(foreign)),
        ("empty", Some(vec![])),
    ] {
        match bytes {
            Some(bytes) => write_key(&key, &bytes),
            None => std::fs::remove_file(&key).unwrap(),
        }
        let out = d.run(&["up", "--detach", "--json"]);
        assert_eq!(out.status.code(), Some(2), "{case}: {}", text(&out.stderr));
        assert!(text(&out.stderr).contains("key"), "{case}: {}", text(&out.stderr));
        let changed = changes(&before, &contents(&d.state()));
        assert!(changed.is_empty(), "{case}: the state was changed: {changed:?}");
        assert_eq!(key.exists(), case != "missing", "{case}: no key may be made");
    }
    write_key(&key, &good);
    let mut d = d;
    d.up();
}

#[test]
fn nothing_of_a_deployment_is_readable_by_group_or_others_and_no_secret_shows_in_processes() {
    let d = Deployment::shared();
    d.ok(&["login", "alice", "--curl-config"]);
    for path in files_below(&d.state()).into_iter().chain(files_below(&d.home())) {
        let Ok(meta) = path.symlink_metadata() else { continue };
        assert_eq!(meta.permissions().mode() & 0o077, 0, "{}", path.display());
    }
    let mut secrets = vec![std::fs::read_to_string(master_key(d)).unwrap().trim().to_owned()];
    for user in ["alice", "bob", "mod", "eve"] {
        secrets.push(
            std::fs::read_to_string(d.state().join(format!("users/{user}.password")))
                .unwrap()
                .trim()
                .to_owned(),
        );
    }
    let pids = d.pids();
    assert!(pids.len() >= 9, "authority, agent, gateway and six services: {}", pids.len());
    for pid in pids {
        for file in ["cmdline", "environ"] {
            let text = text(&std::fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default());
            for secret in &secrets {
                assert!(!text.contains(secret.as_str()), "a secret in /proc/{pid}/{file}");
            }
            assert!(!text.contains("csj_") && !text.contains("eyJ"), "a token in /proc/{pid}/{file}");
        }
    }
}

#[test]
fn no_token_and_no_password_is_written_to_any_log_or_to_the_database() {
    let d = Deployment::shared();
    d.as_user("alice", "/ads?near=48.37,14.51", &[]);
    d.as_user("eve", "/reports", &[]);
    let password = std::fs::read_to_string(d.state().join("users/alice.password")).unwrap();
    let mut read = 0;
    for path in files_below(&d.state()) {
        let inside = path.to_string_lossy().into_owned();
        if !path.is_file()
            || !["/logs/", "/authority/", "/spool/", "/services/"].iter().any(|p| inside.contains(p))
        {
            continue;
        }
        let bytes = text(&std::fs::read(&path).unwrap_or_default());
        // In a log not even the start of one; in a database, base64 may begin so, a JWT has a second part.
        let sign = if inside.contains("/logs/") { "eyJ" } else { ".eyJ" };
        assert!(!bytes.contains(sign), "a token in {inside}");
        assert!(!bytes.contains(password.trim()), "a password in {inside}");
        read += 1;
    }
    assert!(read > 8, "only {read} files were looked at");
}
