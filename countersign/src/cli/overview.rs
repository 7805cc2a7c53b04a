//! The overview: `status`, `check`, `edges`.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use countersign_wire::api::certificates::Bundle;
use countersign_wire::api::check::{CheckLevel, CheckLine, CheckReport};
use countersign_wire::api::edges::Edge;
use countersign_wire::api::services::Service;
use countersign_wire::api::status::Status;
use countersign_wire::codes::Code;

use crate::cli::{At, terminators};
use crate::config::{Config, Layers, Origin};
use crate::error::CliError;
use crate::output::{self, Format};
use crate::up::probe;

/// `status`
///
/// # Errors
/// Exit 3 where the authority does not answer.
pub async fn status(at: &At) -> Result<(), CliError> {
    let status: Status = at.admin.get("/api/v1/status").await?;
    if at.output == Format::Json {
        return output::json(&status, false);
    }
    let healthy = if status.warnings.is_empty() { "● healthy" } else { "▲ look here" };
    let up = status.at.secs().saturating_sub(status.started_at.secs()).max(0);
    output::line(format!(
        "{}   {healthy}   up {}   {}   {}   {} node{}",
        status.trust_domain,
        span(up),
        status.version,
        status.database,
        status.nodes.len(),
        if status.nodes.len() == 1 { "" } else { "s" },
    ));
    for ca in &status.authorities {
        let used = (f64::from(ca.life_used) * 100.0).round();
        output::line(format!(
            "  ca         {:<14} {used:>3} % of life used, ends {}",
            ca.kind,
            output::moment(ca.not_after)
        ));
    }
    if let Some(crl) = &status.crl {
        output::line(format!(
            "  crl        number {}, {} revoked, next by {}",
            crl.number,
            crl.entries,
            output::moment(crl.next_update)
        ));
    }
    output::line(format!(
        "  identities {} live certificates, {} services, {} users",
        status.certificates, status.services, status.users
    ));
    output::line(format!(
        "  policy     generation {}, snapshot {}",
        status.policy_generation, status.sequence
    ));
    output::line(format!("  ledger     {} events", status.ledger_size));
    for warning in &status.warnings {
        output::line(format!("  ▲ {}  {}\n    try: {}", warning.code, warning.text, warning.fix));
    }
    Ok(())
}

/// `edges`
///
/// # Errors
/// Exit 3 where the authority does not answer.
pub async fn edges(at: &At) -> Result<(), CliError> {
    let edges: Vec<Edge> = at.admin.get("/api/v1/edges").await?;
    if at.output == Format::Json {
        return output::json(&edges, false);
    }
    let count = edges.len();
    let denied = edges.iter().filter(|e| e.denied > 0).count();
    let ms = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |v| format!("{v:.1}ms"));
    output::table(
        ["SOURCE", "TARGET", "MODE", "USER", "REQUESTS", "DENIED", "P50", "P99", "POLICY"],
        edges.into_iter().map(|e| {
            [
                shorten(&e.source),
                e.target,
                e.mode,
                e.user,
                e.requests.to_string(),
                e.denied.to_string(),
                ms(e.p50_ms),
                ms(e.p99_ms),
                e.policy.unwrap_or_else(|| "-".to_owned()),
            ]
        }),
    )?;
    output::line(format!("{count} edges, {denied} with refusals. Why: countersign explain last"));
    Ok(())
}

/// `check`: what the authority finds in itself, and what this machine shows.
///
/// # Errors
/// Exit 1 where a check does not hold.
pub async fn check(at: &At) -> Result<(), CliError> {
    let mut checks = local_checks(&at.state_dir).await;
    match at.admin.get::<CheckReport>("/api/v1/check").await {
        Ok(report) => {
            checks.extend(report.checks);
            let config = Config::read(&at.state_dir.join("countersign.toml")).ok();
            let services: Vec<Service> = at.admin.get("/api/v1/services").await?;
            let bundle: Bundle = at.admin.get("/api/v1/bundle").await?;
            checks.extend(terminators::checks(&at.state_dir, config.as_ref(), &services, &bundle).await);
        }
        Err(e) => {
            checks.push(line("authority.answers", CheckLevel::Fail, &e.to_string(), Some("countersign up")))
        }
    }
    let failed = checks.iter().filter(|c| c.result == CheckLevel::Fail).count();
    if at.output == Format::Json {
        output::json(&CheckReport { checks }, false)?;
    } else {
        for c in &checks {
            let mark = match c.result {
                CheckLevel::Pass => "√",
                CheckLevel::Warn => "‼",
                CheckLevel::Fail => "×",
            };
            output::line(format!("{mark} {:<28} {}", c.name, c.detail));
            if let (Some(fix), true) = (&c.fix, c.result != CheckLevel::Pass) {
                output::line(format!("    try: {fix}"));
            }
        }
    }
    if failed == 0 {
        return Ok(());
    }
    Err(CliError::failed(
        format!("{failed} {} not hold", if failed == 1 { "check does" } else { "checks do" }),
        "",
        "see above",
    ))
}

/// Checks that need no authority: the file of settings, who may read what, and which processes answer.
async fn local_checks(state_dir: &Path) -> Vec<CheckLine> {
    let mut found = vec![files_check(state_dir)];
    let layers = Layers::read(&state_dir.join("countersign.toml"));
    let read = layers.and_then(|layers| Ok((layers.parse::<Config>()?, layers)));
    let config = match read {
        Ok((config, layers)) => {
            found.extend(insecure_settings(&layers));
            config
        }
        Err(e) => {
            found.push(line("config.reads", CheckLevel::Fail, &e.to_string(), Some("correct the file")));
            return found;
        }
    };
    found.push(line("config.reads", CheckLevel::Pass, "countersign.toml is a configuration", None));
    let mut admins = vec![
        ("authority".to_owned(), config.authority.as_ref().map(|a| a.admin)),
        ("agent".to_owned(), config.agent.as_ref().and_then(|a| a.admin)),
        ("gateway".to_owned(), config.gateway.as_ref().and_then(|g| g.admin)),
    ];
    if let Some(demo) = &config.demo {
        admins.extend(demo.services.iter().map(|(name, s)| (name.clone(), Some(s.admin))));
    }
    for (name, address) in admins {
        let Some(address) = address else { continue };
        let name = format!("{name}.ready");
        found.push(match probe::get(address, "/readyz?verbose").await {
            Some((200, _)) => line(&name, CheckLevel::Pass, &format!("ready on {address}"), None),
            Some((_, text)) => {
                let why = text.lines().filter(|l| !l.starts_with("[+]")).collect::<Vec<_>>().join("; ");
                line(
                    &name,
                    CheckLevel::Fail,
                    &format!("not ready: {why}"),
                    Some("read its log in the state directory"),
                )
            }
            None => line(
                &name,
                CheckLevel::Fail,
                &format!("does not answer on {address}"),
                Some("countersign up"),
            ),
        });
    }
    found
}

/// A setting that takes back what is promised otherwise says so in its name or in its value.
fn insecure_settings(layers: &Layers) -> Vec<CheckLine> {
    let is_on = |path: &str, value: &str| {
        path.contains("insecure") && value != "false" || value.contains("_insecure")
    };
    let values = layers.values().into_iter().filter(|(path, value, _)| is_on(path, value));
    let tell = |(path, value, origin): (String, String, Option<&Origin>)| {
        let at = origin.map_or_else(String::new, |origin| format!(", {origin}"));
        let fix = Code::InsecureSetting.entry().fix;
        line("settings.insecure", CheckLevel::Warn, &format!("{path} = {value}{at}"), Some(fix))
    };
    values.map(tell).collect()
}

/// No file of the state directory may be readable by group or others.
fn files_check(state_dir: &Path) -> CheckLine {
    let mut open = Vec::new();
    let mut dirs = vec![state_dir.to_path_buf()];
    while let Some(dir) = dirs.pop() {
        for entry in std::fs::read_dir(&dir).into_iter().flatten().flatten() {
            let Ok(meta) = entry.path().symlink_metadata() else { continue };
            if meta.permissions().mode() & 0o077 != 0 && !meta.is_symlink() {
                open.push(entry.path().display().to_string());
            }
            if meta.is_dir() {
                dirs.push(entry.path());
            }
        }
    }
    if open.is_empty() {
        return line("files.private", CheckLevel::Pass, "nothing is readable by group or others", None);
    }
    let shown = open.iter().take(3).cloned().collect::<Vec<_>>().join(", ");
    line(
        "files.private",
        CheckLevel::Fail,
        &format!("{} files are open to group or others: {shown}", open.len()),
        Some("chmod -R go-rwx on the state directory"),
    )
}

fn line(name: &str, result: CheckLevel, detail: &str, fix: Option<&str>) -> CheckLine {
    CheckLine { name: name.to_owned(), result, detail: detail.to_owned(), fix: fix.map(str::to_owned) }
}

/// The last part of a SPIFFE ID, for a narrow terminal; `-o json` has all of it.
pub fn shorten(id: &str) -> String {
    let Some((_, path)) = id.strip_prefix("spiffe://").and_then(|rest| rest.split_once('/')) else {
        return id.to_owned();
    };
    path.strip_prefix("svc/").or_else(|| path.strip_prefix("countersign/")).unwrap_or(path).to_owned()
}

fn span(seconds: i64) -> String {
    match (seconds / 3600, seconds / 60 % 60, seconds % 60) {
        (0, 0, s) => format!("{s} s"),
        (0, m, _) => format!("{m} m"),
        (h, m, _) => format!("{h} h {m} m"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_others_may_read_fails_the_check_and_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("secret.key");
        std::fs::write(&file, "x").unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
        assert_eq!(files_check(dir.path()).result, CheckLevel::Pass);
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o640)).unwrap();
        let found = files_check(dir.path());
        assert_eq!(found.result, CheckLevel::Fail);
        assert!(found.detail.contains("secret.key"));
    }

    #[test]
    fn every_insecure_setting_that_is_on_is_shown_with_its_place_and_none_that_is_off() {
        let text = "[gateway.limits]\nstreams_may_outlive_their_users_token_insecure = true\n\
                    [gateway.revocation]\nwhen_stale = \"accept_insecure\"\n\
                    [[gateway.issuer]]\ninsecure_http_issuer_on_loopback = false\n\
                    [[gateway.filter]]\nfail_open_insecure_when_the_filter_is_down = true\n\
                    [sidecar]\napp_on_loopback_port_insecure = \"127.0.0.1:1\"\n";
        let found = insecure_settings(&Layers::of_text(text, "a.toml").unwrap());
        let told: Vec<_> = found.iter().map(|line| line.detail.as_str()).collect();
        assert_eq!(told.len(), 4, "{told:?}");
        for on in [
            "gateway.filter[0].fail_open_insecure_when_the_filter_is_down = true, a.toml:8",
            "gateway.limits.streams_may_outlive_their_users_token_insecure = true, a.toml:2",
            "gateway.revocation.when_stale = \"accept_insecure\", a.toml:4",
            "sidecar.app_on_loopback_port_insecure = \"127.0.0.1:1\", a.toml:10",
        ] {
            assert!(told.iter().any(|said| said.starts_with(on)), "{on} is not in {told:?}");
        }
        assert!(found.iter().all(|line| line.result == CheckLevel::Warn && line.fix.is_some()));
    }

    #[test]
    fn identities_are_shortened_for_the_table_only() {
        assert_eq!(shorten("spiffe://a.b/svc/ads"), "ads");
        assert_eq!(shorten("spiffe://a.b/countersign/gateway/edge"), "gateway/edge");
        assert_eq!(shorten("user"), "user");
    }
}
