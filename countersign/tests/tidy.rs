//! The repository's own rules, as tests: which crate may know which, how long a file may be, where SQL may
//! stand, who may vouch, and that no error variant exists without a test that names it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// A crate's direct dependencies may only lead where the arrows of ARCHITECTURE.md lead, transitively.
/// One line a crate: name, then what it may see directly.
const ARROWS: &[(&str, &[&str])] = &[
    ("identity", &[]),
    ("request", &[]),
    ("keys", &["identity"]),
    ("pki", &["keys"]),
    ("token", &["pki", "request"]),
    ("policy", &["identity", "request"]),
    ("accounts", &["token"]),
    ("ledger", &["keys"]),
    ("wire", &["identity", "request"]),
    ("http1", &["request"]),
    ("store", &["accounts", "ledger", "policy", "token"]),
    ("sdk", &["wire", "request", "token", "policy", "ledger"]),
    ("authority", &["store", "accounts", "sdk", "wire"]),
    ("agent", &["sdk", "wire"]),
    ("gateway", &["sdk", "wire", "http1"]),
    ("flea-market", &["sdk"]),
    ("lab", &["sdk", "wire", "token", "pki"]),
    ("countersign", &["authority", "agent", "gateway", "flea-market", "lab", "sdk"]),
    ("testkit", &[]),
    ("fuzz", &["token", "http1", "ledger"]),
    ("xtask", &[]),
];

/// Lines of a file without its tests.
const FILE_LINES_MAX: usize = 600;

/// The checkers: the only files that may turn a thing into a `Verified` thing.
const MAY_VOUCH: &[&str] = &[
    "rules/identity/src/verified.rs",
    "rules/pki/src/verify.rs",
    "rules/token/src/access_token.rs",
    "rules/token/src/bearer.rs",
    "rules/token/src/client_assertion.rs",
    "rules/token/src/dpop.rs",
    "rules/token/src/exchanged_token.rs",
    "rules/token/src/foreign_access_token.rs",
    "rules/token/src/jwt_svid.rs",
    "rules/token/src/macaroon/service.rs",
    "rules/token/src/service_token.rs",
    "rules/token/src/txn_token.rs",
    "rules/token/src/wit.rs",
    "rules/ledger/src/head.rs",
    "sdk/src/authenticate/workload.rs",
    // The kernel's word on the uid at the other end of admin.sock.
    "roles/authority/src/http.rs",
    // Owners of the keys that client assertions were verified with; people of other trust domains under new names;
    // and subjects that `sts.cedar` lets a client state by its own word.
    "roles/authority/src/api/sts/client.rs",
    "roles/authority/src/api/sts/subject.rs",
];

/// Words of unfinished work. (Split, so that this file does not find itself.)
const UNFINISHED: &[&str] = &[
    concat!("to", "do!("),
    concat!("unimple", "mented!("),
    concat!("FIX", "ME"),
    concat!("XX", "X"),
    concat!("place", "holder"),
];

#[test]
fn crates_know_only_what_the_arrows_allow() {
    let allowed = closure();
    let mut wrong = Vec::new();
    for (dir, manifest) in manifests() {
        let name = short(&dir);
        let own =
            allowed.get(name.as_str()).unwrap_or_else(|| panic!("crate {name} has no arrow in tidy.rs"));
        let manifest: toml::Table = manifest.parse().unwrap();
        for table in ["dependencies", "build-dependencies"] {
            let Some(dependencies) = manifest.get(table).and_then(|t| t.as_table()) else { continue };
            for dependency in dependencies.keys() {
                if let Some(other) = dependency.strip_prefix("countersign-")
                    && !own.contains(other)
                {
                    wrong.push(format!("{name} → {other}"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "arrows that the house does not have: {wrong:?}");
}

#[test]
fn an_arrow_that_the_house_does_not_have_is_found() {
    let allowed = closure();
    assert!(!allowed["identity"].contains("keys"));
    assert!(!allowed["agent"].contains("authority"), "roles never see each other");
    assert!(!allowed["gateway"].contains("store"));
    assert!(!allowed["sdk"].contains("store"));
    assert!(allowed["authority"].contains("identity"), "arrows are transitive");
}

#[test]
fn rules_know_no_socket_no_clock_no_database_and_no_async() {
    for (path, text) in sources() {
        if !path.starts_with("rules/") {
            continue;
        }
        let code = without_tests(&text);
        for word in [
            "tokio",
            "std::net::Tcp",
            "std::net::Udp",
            "SystemTime",
            "Instant::now",
            "sqlx",
            "async fn",
            "std::fs",
        ] {
            assert!(
                !code.contains(word),
                "{path} contains {word}: rules take time, randomness and bytes as arguments"
            );
        }
    }
}

#[test]
fn no_file_is_longer_than_a_head_can_hold() {
    for (path, text) in sources() {
        let lines = without_tests(&text).lines().count();
        assert!(lines <= FILE_LINES_MAX, "{path} has {lines} lines without its tests: move a wall");
    }
}

#[test]
fn sql_stands_only_in_store_rooms() {
    for (path, text) in sources() {
        if path.split('/').any(|part| part == "store" || part == "store.rs") {
            continue;
        }
        let code = without_tests(&text);
        assert!(!code.contains("sqlx::query"), "{path} speaks SQL outside a store room");
    }
}

#[test]
fn only_the_listed_checkers_vouch() {
    for (path, text) in sources() {
        if without_tests(&text).contains("Verified::vouch") {
            assert!(
                MAY_VOUCH.contains(&path.as_str()),
                "{path} vouches, and tidy.rs does not list it as a checker"
            );
        }
    }
}

#[test]
fn nothing_unfinished_is_left_in_the_sources() {
    for (path, text) in sources() {
        for word in UNFINISHED {
            assert!(!text.contains(word), "{path} contains {word}");
        }
    }
}

#[test]
fn every_error_variant_is_named_in_a_test() {
    let tests: String = test_texts();
    let mut missing = Vec::new();
    for (path, text) in sources() {
        for (name, variants) in error_enums(&without_tests(&text)) {
            for variant in variants {
                // A test may have the enum under a shorter name.
                let named = [format!("{name}::{variant}"), format!(" E::{variant}")];
                if !named.iter().any(|name| tests.contains(name)) {
                    missing.push(format!("{path}: {name}::{variant}"));
                }
            }
        }
    }
    assert!(missing.is_empty(), "error variants that no test names:\n{}", missing.join("\n"));
}

#[test]
fn the_search_for_error_variants_finds_them() {
    let text = "/// Doc.\npub enum SampleError {\n    /// One.\n    #[error(\"one\")]\n    One,\n    Two { by: u8 },\n    Three(\n        String,\n    ),\n    Four(#[from] Other),\n}\n";
    let found = error_enums(text);
    assert_eq!(
        found,
        vec![("SampleError".to_owned(), vec!["One".to_owned(), "Two".to_owned(), "Three".to_owned()])]
    );
}

#[test]
fn every_row_of_the_requirements_table_names_a_test_that_exists() {
    let wrong = tests_that_do_not_exist("docs/requirements.md");
    assert!(wrong.is_empty(), "docs/requirements.md names tests that do not exist: {wrong:#?}");
}

#[test]
fn every_defect_of_the_sources_is_told_with_tests_that_exist() {
    let told = fs::read_to_string(root().join("docs/seed-defects.md")).unwrap();
    let rows: Vec<&str> = told.lines().filter(|line| line.starts_with("| D")).collect();
    let names: Vec<&str> = rows.iter().filter_map(|row| row.split(" | ").next()).collect();
    assert_eq!(names, (1..=16).map(|number| format!("| D{number}")).collect::<Vec<_>>());
    assert!(rows.iter().all(|row| row.contains(".rs::")), "a defect without a test");
    for document in ["docs/seed-defects.md", "docs/handshakes.md"] {
        let wrong = tests_that_do_not_exist(document);
        assert!(wrong.is_empty(), "{document} names tests that do not exist: {wrong:#?}");
    }
}

/// Of the tests that the tables of a document name.
fn tests_that_do_not_exist(document: &str) -> Vec<String> {
    let table = fs::read_to_string(root().join(document)).unwrap();
    let tests = test_texts();
    let rows = table.lines().filter(|line| line.starts_with("| "));
    let cells = rows.flat_map(|line| line.split('`').skip(1).step_by(2));
    let missing = cells.filter(|cell| {
        let name = cell.rsplit("::").next().unwrap_or(cell);
        cell.contains("::") && !tests.contains(&format!("fn {name}("))
    });
    missing.map(str::to_owned).collect()
}

// ---------------------------------------------------------------------------------------------------------

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_path_buf()
}

/// Every crate, with everything that it may reach.
fn closure() -> BTreeMap<&'static str, BTreeSet<&'static str>> {
    let direct: BTreeMap<_, _> = ARROWS.iter().copied().collect();
    let mut all = BTreeMap::new();
    for name in direct.keys() {
        let mut seen = BTreeSet::new();
        let mut open: Vec<&'static str> = direct[name].to_vec();
        while let Some(next) = open.pop() {
            if seen.insert(next) {
                open.extend(direct[next]);
            }
        }
        all.insert(*name, seen);
    }
    all
}

fn manifests() -> Vec<(String, String)> {
    let text = fs::read_to_string(root().join("Cargo.toml")).unwrap();
    let workspace: toml::Table = text.parse().unwrap();
    let members = workspace["workspace"]["members"].as_array().unwrap();
    members
        .iter()
        .map(|m| m.as_str().unwrap().to_owned())
        .map(|dir| (dir.clone(), fs::read_to_string(root().join(&dir).join("Cargo.toml")).unwrap()))
        .collect()
}

fn short(dir: &str) -> String {
    dir.rsplit('/').next().unwrap_or(dir).to_owned()
}

/// Rust sources of the workspace that are not tests: path from the root, text.
fn sources() -> Vec<(String, String)> {
    let is_source =
        |path: &str| path.contains("/src/") && !path.starts_with("testkit/") && !path.ends_with("/tests.rs");
    files().into_iter().filter(|(path, _)| is_source(path)).collect()
}

/// All text that only tests contain: files under `tests/` and the test modules of sources.
fn test_texts() -> String {
    let mut all = String::new();
    for (path, text) in files() {
        if path.contains("/tests/") || path.ends_with("/tests.rs") {
            all.push_str(&text);
        } else if let Some(at) = text.find("#[cfg(test)]") {
            all.push_str(&text[at..]);
        }
    }
    all
}

fn without_tests(text: &str) -> String {
    match text.find("#[cfg(test)]") {
        Some(at) => text[..at].to_owned(),
        None => text.to_owned(),
    }
}

fn files() -> Vec<(String, String)> {
    let mut found = Vec::new();
    for (dir, _) in manifests() {
        walk(&root().join(&dir), &mut found);
    }
    found.retain(|(path, _)| !path.ends_with("countersign/tests/tidy.rs"));
    found
}

fn walk(dir: &Path, found: &mut Vec<(String, String)>) {
    let Ok(entries) = fs::read_dir(dir) else { return };
    for entry in entries.flatten() {
        let path = entry.path();
        if path.is_dir() {
            walk(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs") {
            let name = path.strip_prefix(root()).unwrap().to_string_lossy().into_owned();
            found.push((name, fs::read_to_string(&path).unwrap()));
        }
    }
}

/// Public error enums of a text, with their variants.
fn error_enums(text: &str) -> Vec<(String, Vec<String>)> {
    let mut found = Vec::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        let Some(rest) = line.trim_start().strip_prefix("pub enum ") else { continue };
        let name: String = rest.chars().take_while(|c| c.is_alphanumeric()).collect();
        if !name.ends_with("Error") {
            continue;
        }
        let mut depth = 1_i32;
        let mut variants = Vec::new();
        for line in lines.by_ref() {
            let bare = line.trim();
            // A variant that only wraps another enum says nothing of its own: the inner variants are the ones tested.
            let wraps = bare.contains("(#[from]");
            if depth == 1 && !wraps && bare.starts_with(|c: char| c.is_ascii_uppercase()) {
                variants.push(bare.chars().take_while(|c| c.is_alphanumeric()).collect());
            }
            if !bare.starts_with("//") && !bare.starts_with('#') {
                depth += i32::try_from(bare.matches(['{', '(']).count()).unwrap();
                depth -= i32::try_from(bare.matches(['}', ')']).count()).unwrap();
            }
            if depth <= 0 {
                break;
            }
        }
        found.push((name, variants));
    }
    found
}
