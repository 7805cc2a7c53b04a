//! The repository's own chores. `cargo xtask test` runs every test, and installs what they need where it may;
//! `cargo xtask bench` prints the figures of `docs/performance.md`.

use std::ffi::OsStr;
use std::path::Path;
use std::process::{Command, ExitCode};

use clap::{Parser, Subcommand};

/// What the tests call that is not Rust: Debian package, and a path that shows it is there.
const TOOLS: &[(&str, &[&str])] = &[
    ("openssl", &["/usr/bin/openssl"]),
    ("curl", &["/usr/bin/curl"]),
    ("python3-venv", &["/usr/bin/python3"]),
    ("procps", &["/usr/bin/kill", "/bin/kill"]),
    (
        "postgresql",
        &[
            "/usr/lib/postgresql/15/bin/initdb",
            "/usr/lib/postgresql/16/bin/initdb",
            "/usr/lib/postgresql/17/bin/initdb",
        ],
    ),
];

/// One run of cargo, so that dependencies are compiled once for all benchmarks.
const BENCHES: &[&str] = &[
    "bench",
    "--package=countersign-pki",
    "--package=countersign-sdk",
    "--package=countersign",
    "--bench=issue",
    "--bench=door",
    "--bench=deployment",
];

#[derive(Parser)]
#[command(about = "Chores of the Countersign repository")]
struct Xtask {
    #[command(subcommand)]
    chore: Chore,
}

#[derive(Subcommand)]
enum Chore {
    /// Install missing Debian packages where that is allowed, then run all tests (each starts its own servers)
    Test {
        /// Passed on to `cargo test`, such as a crate (`-p countersign-pki`) or a test's name
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        rest: Vec<String>,
    },
    /// Build with optimisation, then print every figure of docs/performance.md (about five minutes)
    Bench,
}

fn main() -> ExitCode {
    match Xtask::parse().chore {
        Chore::Test { rest } => test(rest),
        Chore::Bench => cargo(BENCHES),
    }
}

fn test(rest: Vec<String>) -> ExitCode {
    install_missing();
    let mut arguments = vec!["test".to_owned()];
    if !rest.iter().any(|a| a == "-p" || a.starts_with("--package")) {
        arguments.push("--workspace".to_owned());
    }
    arguments.extend(rest);
    cargo(&arguments)
}

fn cargo(arguments: &[impl AsRef<OsStr>]) -> ExitCode {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    match cargo.args(arguments).status() {
        Ok(status) if status.success() => ExitCode::SUCCESS,
        Ok(_) => ExitCode::from(1),
        Err(why) => {
            say(&format!("cargo did not start: {why}"));
            ExitCode::from(2)
        }
    }
}

fn install_missing() {
    let missing: Vec<&str> = TOOLS
        .iter()
        .filter(|(_, paths)| !paths.iter().any(|p| Path::new(p).exists()))
        .map(|(name, _)| *name)
        .collect();
    if missing.is_empty() {
        return;
    }
    let wanted = missing.join(" ");
    if !may_install() {
        say(&format!(
            "these tests' tools are missing, tests that need them report themselves skipped; as root: apt-get install {wanted}"
        ));
        return;
    }
    say(&format!("installing {wanted}"));
    let done = apt(&["update", "--quiet"])
        && apt(&[&["install", "--yes", "--quiet", "--no-install-recommends"], missing.as_slice()].concat());
    if !done {
        say("apt-get failed: tests that need these tools report themselves skipped");
    }
}

fn apt(arguments: &[&str]) -> bool {
    Command::new("apt-get")
        .env("DEBIAN_FRONTEND", "noninteractive")
        .args(arguments)
        .status()
        .is_ok_and(|status| status.success())
}

/// Only root installs, and only where apt is.
fn may_install() -> bool {
    let root = Command::new("id").arg("-u").output().is_ok_and(|out| out.stdout.trim_ascii() == b"0");
    root && Path::new("/usr/bin/apt-get").exists()
}

fn say(text: &str) {
    use std::io::Write as _;
    let _ = writeln!(std::io::stderr(), "xtask: {text}");
}
