//! Counts what each mode takes of code and policies, for the chapter that `countersign bench` writes. The sources lie
//! beside this crate, and it may look into all of them: everything that is counted is below it.

use std::{
    env, fs, io,
    path::{Path, PathBuf},
};

fn main() -> io::Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut counts = Vec::new();
    for file in files(&root, "flea-market/src", "rs")? {
        // Behind a sidecar a service needs none of it.
        if !file.ends_with("sidecar.rs") {
            count(&root, "service", ALL, &file, names_the_sdk, &mut counts)?;
        }
    }
    for file in files(&root, "flea-market/policies", "cedar")? {
        count(&root, "policy", ALL, &file, |_| true, &mut counts)?;
    }
    for (modes, places) in SDK {
        for place in *places {
            for file in files(&root, place, "rs")? {
                count(&root, "sdk", modes, &file, |_| true, &mut counts)?;
            }
        }
    }
    let out = env::var_os("OUT_DIR").map(PathBuf::from).unwrap_or_default();
    fs::write(out.join("code_counts.rs"), format!("&[\n{}]", counts.concat()))
}

/// Lines of one file that are code, not tests, and that `counts` says yes to.
fn count(
    root: &Path,
    kind: &str,
    modes: &[&str],
    file: &str,
    counts: impl Fn(&str) -> bool,
    found: &mut Vec<String>,
) -> io::Result<()> {
    println!("cargo:rerun-if-changed=../{file}");
    let text = fs::read_to_string(root.join(file))?;
    let lines = code(&text).filter(|line| counts(line)).count();
    if lines > 0 {
        found.push(format!("    (&{modes:?}, {kind:?}, {file:?}, {lines}),\n"));
    }
    Ok(())
}

/// Neither empty nor comment, up to the module of tests, which stands last.
fn code(text: &str) -> impl Iterator<Item = &str> {
    let lines = text.lines().map(str::trim).take_while(|line| *line != "#[cfg(test)]");
    lines.filter(|line| !line.is_empty() && !line.starts_with("//"))
}

/// Does a service take something of the SDK here that has to do with who is calling?
fn names_the_sdk(line: &str) -> bool {
    [
        "countersign_sdk::inbound",
        "countersign_sdk::outbound",
        "sdk::",
        "Workload",
        "workload",
        "ServiceClient",
        "on_behalf_of",
    ]
    .iter()
    .any(|name| line.contains(name) && !line.contains("countersign_sdk::clock"))
}

/// A file, or all files of a directory and below, with paths from the root; tests apart.
fn files(root: &Path, place: &str, ending: &str) -> io::Result<Vec<String>> {
    let path = root.join(place);
    if path.is_file() {
        return Ok(vec![place.to_owned()]);
    }
    println!("cargo:rerun-if-changed=../{place}");
    let mut found = Vec::new();
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        let below = format!("{place}/{}", entry.file_name().to_string_lossy());
        if entry.file_type()?.is_dir() {
            found.extend(files(root, &below, ending)?);
        } else if below.ends_with(&format!(".{ending}")) && !below.ends_with("/tests.rs") {
            found.push(below);
        }
    }
    found.sort_unstable();
    Ok(found)
}

const ALL: &[&str] = &["none", "bearer", "macaroon", "jwt", "wimse", "mtls", "mtls+jwt"];

/// What is there for some modes and not for others. What all share, or all with TLS, is not compared.
const SDK: &[(&[&str], &[&str])] = &[
    (
        &["bearer"],
        &[
            "sdk/src/authenticate/bearer.rs",
            "sdk/src/authenticate/jwt_svid.rs",
            "rules/token/src/bearer.rs",
            "rules/token/src/jwt_svid.rs",
        ],
    ),
    (&["macaroon"], &["sdk/src/authenticate/macaroon.rs", "rules/token/src/macaroon"]),
    (
        &["jwt", "mtls+jwt"],
        &[
            "sdk/src/authenticate/service_token.rs",
            "sdk/src/credentials/signing.rs",
            "sdk/src/signing_chains.rs",
            "rules/token/src/service_token.rs",
            "rules/token/src/service_token",
        ],
    ),
    (
        &["wimse"],
        &[
            "sdk/src/authenticate/wimse.rs",
            "sdk/src/credentials/wit.rs",
            "sdk/src/inbound/signed_answer.rs",
            "rules/token/src/wit.rs",
            "rules/token/src/wit",
            "rules/token/src/wpt.rs",
            "rules/token/src/http_signature.rs",
            "rules/token/src/http_signature",
        ],
    ),
    (
        &["jwt", "wimse", "mtls+jwt"],
        &["sdk/src/replay.rs", "sdk/src/outbound/proof.rs", "sdk/src/inbound/bound_body.rs"],
    ),
    // The certificate of a callee is judged in every mode with TLS; that of a caller in these.
    (&["mtls", "mtls+jwt"], &["sdk/src/authenticate/workload.rs", "sdk/src/tls/peer.rs"]),
];
