//! The repository's own chores. `cargo xtask test` runs every test, and installs what they need where it may;
//! `cargo xtask bench` prints the figures of `docs/performance.md`, `cargo xtask fuzz` looks for input that breaks a parser,
//! `cargo xtask attack-without-guards` takes guards out and demands that the attacks notice.

mod guards;

use std::ffi::OsStr;
use std::path::Path;
use std::process::{Command, ExitCode};

use clap::{Parser, Subcommand};

/// What the tests call that is not Rust: Debian package, and a path that shows it is there.
const TOOLS: &[(&str, &[&str])] = &[
    ("openssl", &["/usr/bin/openssl"]),
    ("curl", &["/usr/bin/curl"]),
    ("python3-venv", &["/usr/bin/python3"]),
    ("nginx", &["/usr/sbin/nginx"]),
    ("libnginx-mod-http-modsecurity", &["/usr/lib/nginx/modules/ngx_http_modsecurity_module.so"]),
    ("modsecurity-crs", &["/usr/share/modsecurity-crs/owasp-crs.load"]),
    ("redis-server", &["/usr/bin/redis-server"]),
    ("wrk", &["/usr/bin/wrk"]),
    ("procps", &["/usr/bin/kill", "/bin/kill"]),
    ("prometheus", &["/usr/bin/promtool"]),
    ("pebble", &["/usr/bin/pebble"]),
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
    "--package=countersign-http1",
    "--package=countersign-pki",
    "--package=countersign-token",
    "--package=countersign-policy",
    "--package=countersign-sdk",
    "--package=countersign",
    "--bench=codec",
    "--bench=issue",
    "--bench=tokens",
    "--bench=decide",
    "--bench=door",
    "--bench=known",
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
    /// Let libFuzzer look for input that breaks one target of `fuzz/`; needs a C++ compiler, and builds everything anew once
    Fuzz {
        /// A kind of token or a parser, such as `macaroon`; any other word lists them
        target: String,
        /// How long
        #[arg(long, default_value_t = 60)]
        seconds: u32,
    },
    /// Take one guard after the other out of a copy of the sources, and demand that `attack --all` fails and says which
    /// attack succeeds now; builds everything anew once, then some minutes for each
    AttackWithoutGuards {
        /// Only the guards against these attacks
        #[arg(value_name = "ATTACK")]
        only: Vec<String>,
        /// All at once, in one build: quicker, and less sure which guard it was
        #[arg(long)]
        together: bool,
    },
}

fn main() -> ExitCode {
    match Xtask::parse().chore {
        Chore::Test { rest } => test(rest),
        Chore::Bench => cargo(BENCHES),
        Chore::Fuzz { target, seconds } => fuzz(&target, seconds),
        Chore::AttackWithoutGuards { only, together } => guards::attack_without_guards(&only, together),
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

/// What libFuzzer finds out from: every branch counted, every comparison watched. Plain LLVM, so no nightly compiler.
const COVERAGE: &str = "-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares -Cdebug-assertions --cfg fuzzing";

/// Builds for a named platform, even if it is this one: else build scripts and macros would be counted too.
fn fuzz(target: &str, seconds: u32) -> ExitCode {
    let corpus = std::env::current_dir().unwrap_or_default().join("target/fuzz").join(target);
    if let Err(why) = std::fs::create_dir_all(&corpus) {
        say(&format!("{} cannot be made: {why}", corpus.display()));
        return ExitCode::from(2);
    }
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo
        .env("RUSTFLAGS", COVERAGE)
        .env("COUNTERSIGN_FUZZ_TARGET", target)
        .env("COUNTERSIGN_FUZZ_CORPUS", &corpus);
    cargo.args(["run", "--release", "--package=countersign-fuzz", "--features=libfuzzer", "--bin=fuzz"]);
    cargo.arg(format!("--target={}-unknown-linux-gnu", std::env::consts::ARCH));
    cargo.arg("--").arg(&corpus).arg(format!("-artifact_prefix={}/", corpus.display()));
    cargo.args([format!("-max_total_time={seconds}"), "-max_len=20000".to_owned()]);
    run(&mut cargo)
}

fn cargo(arguments: &[impl AsRef<OsStr>]) -> ExitCode {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    run(cargo.args(arguments))
}

fn run(cargo: &mut Command) -> ExitCode {
    match cargo.status() {
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
