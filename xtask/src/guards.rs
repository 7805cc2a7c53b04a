//! `cargo xtask attack-without-guards`: takes one guard after the other out of a copy of the sources, builds, starts a
//! deployment, and demands that `attack --all` fails and names the attack that this guard stops. An attack that a missing
//! guard does not turn into a success would be theatre.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Output, Stdio};

use serde_json::Value;

use crate::say;

/// One guard, and how it is taken out: in one line, so that everything else stays as it is.
struct Guard {
    /// The attack that it stops.
    attack: &'static str,
    /// Where it stands.
    file: &'static str,
    /// The line, or the part of it, that occurs there exactly once.
    line: &'static str,
    /// What stands there instead.
    instead: &'static str,
}

const GUARDS: &[Guard] = &[
    Guard {
        attack: "stranger",
        file: "sdk/src/tls/server.rs",
        line: "self.auth == ClientAuth::Required",
        instead: "false && self.auth == ClientAuth::Required",
    },
    Guard {
        attack: "token-in-url",
        file: "rules/request/src/query.rs",
        line: "if pairs(raw).any(carries_token) {",
        instead: "if false && pairs(raw).any(carries_token) {",
    },
    Guard {
        attack: "other-algorithm",
        file: "rules/token/src/jws.rs",
        line: "if self.alg != key.algorithm() {",
        instead: "if false && self.alg != key.algorithm() {",
    },
    Guard {
        attack: "kid-injection",
        file: "rules/token/src/jws.rs",
        line: "if !named {",
        instead: "if false && !named {",
    },
    Guard {
        attack: "unissued-bearer",
        file: "rules/token/src/bearer.rs",
        line: "let fits = known == hash;",
        instead: "let fits = true || known == hash;",
    },
    Guard {
        attack: "stolen-token",
        file: "sdk/src/authenticate/service_token.rs",
        line: "&& workload.id != token.issuer",
        instead: "&& false && workload.id != token.issuer",
    },
    Guard {
        attack: "mixed-evidence",
        file: "sdk/src/authenticate/presented.rs",
        line: "(None, Some(evidence), None) | (None, None, Some(evidence)) => Ok(evidence),",
        instead: "(None, Some(evidence), None) | (None, None, Some(evidence)) => Ok(evidence), (Some(peer), Some(WorkloadEvidence::Bearer(_)), None) => Ok(WorkloadEvidence::Certificate(peer)),",
    },
    Guard {
        attack: "chain-without-key",
        file: "sdk/src/tls/server.rs",
        line: "let signature = rustls::crypto::verify_tls13_signature(message, cert, dss, &algorithms);",
        instead: "let signature = rustls::crypto::verify_tls13_signature(message, cert, dss, &algorithms).or_else(|_| Ok(HandshakeSignatureValid::assertion()));",
    },
    Guard {
        attack: "wrong-audience",
        file: "rules/token/src/service_token.rs",
        line: "match self.audience == *callee {",
        instead: "match true || self.audience == *callee {",
    },
    Guard {
        attack: "other-method",
        file: "rules/token/src/service_token.rs",
        line: "if self.method != seen.method {",
        instead: "if false && self.method != seen.method {",
    },
    Guard {
        attack: "other-path",
        file: "rules/token/src/service_token.rs",
        line: "if self.path_and_query != seen.path_and_query {",
        instead: "if false && self.path_and_query != seen.path_and_query {",
    },
    Guard {
        attack: "replay-elsewhere",
        file: "rules/token/src/service_token.rs",
        line: "(Some(_), _) => return Err(ServiceTokenError::OtherConnection),",
        instead: "(Some(_), _) => {}",
    },
    Guard {
        attack: "body-swap",
        file: "rules/token/src/service_token.rs",
        line: "match sha256(bytes) == want {",
        instead: "match true || sha256(bytes) == want {",
    },
    Guard {
        attack: "replay",
        file: "rules/token/src/replay.rs",
        line: "if self.seen.contains(&key) {",
        instead: "if false && self.seen.contains(&key) {",
    },
    Guard {
        attack: "edited-token",
        file: "rules/token/src/jws.rs",
        line: "key.verify_raw(self.signing_input.as_bytes(), &self.signature).map_err(|_| JwsError::BadSignature)?;",
        instead: "let _ = key.verify_raw(self.signing_input.as_bytes(), &self.signature);",
    },
    Guard {
        attack: "critical-header",
        file: "rules/token/src/jws.rs",
        line: "header.names().find(|name| !form.members().contains(name))",
        instead: "header.names().find(|name| false && !form.members().contains(name))",
    },
    Guard {
        attack: "duplicate-claim",
        file: "rules/token/src/claims.rs",
        line: "return Err(self.refuse(ClaimError::Duplicate { name: printable(taken.key()) }));",
        instead: "let mut taken = taken; taken.insert(map.next_value_seed(inside)?); continue;",
    },
    Guard {
        attack: "revoked-certificate",
        file: "rules/pki/src/verify.rs",
        line: "if let Some(reason) = crl.reason(&link.serial) {",
        instead: "if let Some(reason) = crl.reason(&link.serial).filter(|_| false) {",
    },
    Guard {
        attack: "header-alias",
        file: "rules/request/src/headers.rs",
        line: "if traits.any(Traits::PROTECTED) && names::has_alias(name.as_bytes()) {",
        instead: "if false && traits.any(Traits::PROTECTED) && names::has_alias(name.as_bytes()) {",
    },
    Guard {
        attack: "other-host",
        file: "roles/gateway/src/pipeline.rs",
        line: "if server_name != host {",
        instead: "if false && server_name != host {",
    },
    Guard {
        attack: "two-hosts",
        file: "rules/request/src/authority.rs",
        line: "if hosts.next().is_some() {",
        instead: "if false && hosts.next().is_some() {",
    },
    Guard {
        attack: "guessing-under-other-addresses",
        file: "roles/gateway/src/guard/behind.rs",
        line: "if !self.from.contain(peer) {",
        instead: "if false && !self.from.contain(peer) {",
    },
    Guard {
        attack: "guessing-from-everywhere",
        file: "rules/accounts/src/lockout.rs",
        line: "attempt > FAILURES_MAX",
        instead: "false && attempt > FAILURES_MAX",
    },
    Guard {
        attack: "unknown-user-answer",
        file: "roles/authority/src/api/idp.rs",
        line: "return Err(Code::LoginFailed.into());",
        instead: "return Err(if outcome == LoginOutcome::UnknownUser { Code::ObjectUnknown } else { Code::LoginFailed }.into());",
    },
    Guard {
        attack: "unknown-user-time",
        file: "rules/accounts/src/login.rs",
        line: "let Some(stored) = attempt.stored else {",
        instead: "let Some(stored) = attempt.stored else { if true { return LoginVerdict::UnknownUser; }",
    },
    Guard {
        attack: "user-token-taken-back",
        file: "rules/token/src/revoked.rs",
        line: "self.tokens.contains(*id)",
        instead: "false && self.tokens.contains(*id)",
    },
    Guard {
        attack: "workload-request-forgery",
        file: "roles/agent/src/workload_api.rs",
        line: "(Some(only), None) if only.as_bytes() == value.as_bytes() => Ok(request),",
        instead: "_ if true => Ok(request), (Some(only), None) if only.as_bytes() == value.as_bytes() => Ok(request),",
    },
    Guard {
        attack: "foreign-launcher",
        file: "roles/agent/src/registry.rs",
        line: "if !entry.launch_by.contains(&uid) {",
        instead: "if false && !entry.launch_by.contains(&uid) {",
    },
    Guard {
        attack: "service-as-agent",
        file: "roles/authority/src/node.rs",
        line: "if self.authority.agent_name(&workload.id).is_none() {",
        instead: "if false && self.authority.agent_name(&workload.id).is_none() {",
    },
    Guard {
        attack: "agent-for-another-node",
        file: "roles/authority/src/entries.rs",
        line: "entry.nodes.contains(agent)",
        instead: "true || entry.nodes.contains(agent)",
    },
    Guard {
        attack: "foreign-name-in-request",
        file: "rules/pki/src/issue.rs",
        line: "Some(asked) if asked != id => {",
        instead: "Some(asked) if false && asked != id => {",
    },
    Guard {
        attack: "ledger-shortened",
        file: "rules/ledger/src/log.rs",
        line: "None => return Err(HeadMismatch::RolledBack { saved: size, current: self.log.size() }.into()),",
        instead: "None => {}",
    },
    Guard {
        attack: "ledger-rewritten",
        file: "rules/ledger/src/log.rs",
        line: "Some(hash) if *hash != head.hash => return",
        instead: "Some(hash) if false && *hash != head.hash => return",
    },
    Guard {
        attack: "proof-of-another-wit",
        file: "rules/token/src/wpt.rs",
        line: "judge_hash(\"wth\", claims.string(\"wth\")?, wit.hash())?;",
        instead: "let _ = judge_hash(\"wth\", claims.string(\"wth\")?, wit.hash());",
    },
    Guard {
        attack: "proof-for-another-target",
        file: "rules/token/src/wpt.rs",
        line: "if audience != target.audience {",
        instead: "if false && audience != target.audience {",
    },
    Guard {
        attack: "older-snapshot",
        file: "sdk/src/snapshot.rs",
        line: "if snapshot.sequence <= held.sequence {",
        instead: "if false && snapshot.sequence <= held.sequence {",
    },
    Guard {
        attack: "edited-snapshot",
        file: "sdk/src/snapshot.rs",
        line: ".map_err(|_| SnapshotRefusal::BadSignature)?;",
        instead: ".or_else(|_| Ok::<(), SnapshotRefusal>(()))?;",
    },
    Guard {
        attack: "snapshot-kept-back",
        file: "sdk/src/live.rs",
        line: "Some(grace) if now > self.snapshot.valid_until.saturating_add(grace) => Freshness::Stale,",
        instead: "Some(grace) if false && now > self.snapshot.valid_until.saturating_add(grace) => Freshness::Stale,",
    },
    Guard {
        attack: "clock-set-back",
        file: "sdk/src/clock.rs",
        line: "system.max(steady)",
        instead: "let _ = steady; system",
    },
];

/// Behind these guards another one stands: without them the attack is still refused, and the run must say that nothing
/// shows any more that its own guard did it.
const WITH_A_SECOND_WALL: [&str; 2] = ["stranger", "token-in-url"];

/// Takes out all of them one by one, or those against these attacks; `together` in one build, which is quicker and shows
/// less: then one missing guard could help an attack that another one was to stop.
pub(crate) fn attack_without_guards(only: &[String], together: bool) -> ExitCode {
    let chosen = |guard: &&Guard| only.is_empty() || only.iter().any(|name| name == guard.attack);
    let chosen: Vec<&Guard> = GUARDS.iter().filter(chosen).collect();
    let rounds: Vec<&[&Guard]> = match together {
        true => vec![&chosen],
        false => chosen.chunks(1).collect(),
    };
    match each(&rounds) {
        Ok(0) => ExitCode::SUCCESS,
        Ok(theatre) => {
            say(&format!("{theatre} attacks were not noticed to pass without their guard"));
            ExitCode::from(1)
        }
        Err(why) => {
            say(&format!("the guards could not be taken out: {why}"));
            ExitCode::from(2)
        }
    }
}

fn each(rounds: &[&[&Guard]]) -> io::Result<usize> {
    let mut theatre = 0;
    for guards in rounds {
        // Whole again, whatever was taken out before.
        let copy = Copy::of_the_sources()?;
        for guard in *guards {
            let file = copy.sources.join(guard.file);
            let text = fs::read_to_string(&file)?;
            fs::write(&file, text.replacen(guard.line, guard.instead, 1))?;
        }
        for (guard, noticed) in guards.iter().zip(copy.build_and_attack(guards)?) {
            match noticed {
                Noticed::Yes => {
                    say(&format!("{:<20} is not blocked without its guard, and the run fails", guard.attack));
                }
                Noticed::No { instead } => {
                    theatre += 1;
                    say(&format!("{:<20} NOT NOTICED: {instead}", guard.attack));
                }
            }
        }
    }
    Ok(theatre)
}

#[derive(Clone)]
enum Noticed {
    Yes,
    No { instead: String },
}

/// The sources as git knows them, with a build of their own beside them.
struct Copy {
    sources: PathBuf,
    build: PathBuf,
    home: PathBuf,
}

impl Copy {
    fn of_the_sources() -> io::Result<Self> {
        let root = root();
        let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from);
        let at = target.join("without-guards");
        let copy = Self { sources: at.join("sources"), build: at.join("build"), home: at.join("home") };
        fs::create_dir_all(&copy.home)?;
        let listed = Command::new("git").args(["ls-files", "-z"]).current_dir(&root).output()?;
        for file in String::from_utf8_lossy(&listed.stdout).split('\0').filter(|file| !file.is_empty()) {
            let (from, to) = (root.join(file), copy.sources.join(file));
            fs::create_dir_all(to.parent().unwrap_or(&copy.sources))?;
            // Only what changed, so that cargo builds no more than that.
            let text = fs::read(&from)?;
            if fs::read(&to).ok().as_ref() != Some(&text) {
                fs::write(&to, text)?;
            }
        }
        Ok(copy)
    }

    /// What became of each.
    fn build_and_attack(&self, guards: &[&Guard]) -> io::Result<Vec<Noticed>> {
        let all = |instead: String| Ok(vec![Noticed::No { instead }; guards.len()]);
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let mut build = Command::new(cargo);
        build.args(["build", "--quiet", "--package=countersign"]).current_dir(&self.sources);
        build.env("CARGO_TARGET_DIR", &self.build).env("CARGO_INCREMENTAL", "1");
        if !build.status()?.success() {
            return all("it does not compile".to_owned());
        }
        self.run(&["down", "--purge"])?;
        let up = self.run(&["up", "--detach", "--json"])?;
        if !up.status.success() {
            let said = String::from_utf8_lossy(&up.stderr).into_owned();
            return all(format!("the deployment does not start: {said}"));
        }
        let attacked = self.run(&["attack", "--all", "-o", "json"]);
        self.run(&["down", "--purge"])?;
        let attacked = attacked?;
        Ok(guards.iter().map(|guard| judge(guard, &attacked)).collect())
    }

    fn run<S: AsRef<OsStr>>(&self, arguments: &[S]) -> io::Result<Output> {
        Command::new(self.build.join("debug/countersign"))
            .arg("--state-dir")
            .arg(self.home.join("state"))
            .args(arguments)
            .env("HOME", &self.home)
            .stdin(Stdio::null())
            .output()
    }
}

/// The run must fail, and of this very attack it must say that it succeeded, or that nothing is shown.
fn judge(guard: &Guard, attacked: &Output) -> Noticed {
    let report: Value = serde_json::from_slice(&attacked.stdout).unwrap_or_default();
    let attacks = report.get("attacks").and_then(Value::as_array);
    let found = attacks.into_iter().flatten().find(|attack| attack.get("name") == Some(&guard.attack.into()));
    let verdict = found.and_then(|attack| attack.get("verdict")).and_then(Value::as_str);
    let expected = match WITH_A_SECOND_WALL.contains(&guard.attack) {
        true => "inconclusive",
        false => "succeeded",
    };
    match (attacked.status.code(), verdict) {
        (Some(1), Some(verdict)) if verdict == expected => Noticed::Yes,
        (code, verdict) => Noticed::No { instead: format!("exit {code:?}, verdict {verdict:?}") },
    }
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().map_or_else(PathBuf::new, Path::to_path_buf)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn there_are_ten_guards_or_more_and_each_stands_where_it_is_said_to_exactly_once() {
        assert!(GUARDS.len() >= 10);
        for guard in GUARDS {
            let text = fs::read_to_string(root().join(guard.file)).unwrap();
            assert_eq!(text.matches(guard.line).count(), 1, "{} in {}", guard.line, guard.file);
            assert!(!guard.line.contains('\n') && !guard.instead.contains('\n'), "{}", guard.attack);
        }
    }
}
