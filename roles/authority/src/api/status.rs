//! How the deployment is, and what somebody should look at.

use std::sync::Arc;

use axum::{Json, extract::State};
use countersign_identity::UnixTime;
use countersign_pki::{
    issue::{self, Issuer},
    profile::LIFE_USED_WARNING,
};
use countersign_sdk::clock;
use countersign_store::StoreError;
use countersign_wire::{
    api::{
        check::{CheckLevel, CheckLine, CheckReport},
        status::{CaStatus, CrlStatus, NodeStatus, Status, Warning},
    },
    codes::Code,
    snapshot::Snapshot,
};

use super::ApiError;
use crate::{modes, snapshot, state::Authority};

/// How the deployment is.
#[utoipa::path(get, path = "/api/v1/status", tag = "status", responses((status = 200, body = Status)))]
pub(crate) async fn status(State(authority): State<Arc<Authority>>) -> Result<Json<Status>, ApiError> {
    let now = clock::now();
    let newest = newest_crl(&authority).await?;
    let nodes = authority.db.nodes().await?.into_iter().map(|node| NodeStatus {
        id: node.id,
        spiffe_id: node.spiffe_id,
        joined_at: node.joined_at,
        seen_at: node.seen_at,
    });
    Ok(Json(Status {
        trust_domain: authority.trust_domain.clone(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        database: authority.db.kind().as_str().to_owned(),
        at: now,
        started_at: authority.started_at,
        epoch: authority.epoch.clone(),
        sequence: authority.db.meta().await?.map_or(0, |meta| meta.snapshot_sequence),
        policy_generation: authority.db.policies().await?.generation,
        authorities: cas(&authority).iter().map(|(kind, issuer)| ca_status(kind, issuer, now)).collect(),
        crl: newest,
        nodes: nodes.collect(),
        services: u64::try_from(authority.db.services().await?.len()).unwrap_or(u64::MAX),
        users: authority.db.user_count().await?,
        certificates: authority.db.live_certificates(now).await?,
        ledger_size: authority.db.log_state().await?.size(),
        ledger_head: authority.db.latest_head().await?.map(snapshot::head_on_the_wire),
        warnings: warnings(&authority, now),
    }))
}

/// What the authority finds when it examines itself.
#[utoipa::path(get, path = "/api/v1/check", tag = "status", responses((status = 200, body = CheckReport)))]
pub(crate) async fn check(State(authority): State<Arc<Authority>>) -> Json<CheckReport> {
    Json(CheckReport { checks: examine(&authority).await })
}

/// Every finding, in a fixed order. `/readyz` reads the same.
pub(crate) async fn examine(authority: &Authority) -> Vec<CheckLine> {
    let now = clock::now();
    let mut lines =
        vec![durability(authority).await, crl(authority, now).await, snapshot_line(authority, now)];
    lines.extend(cas(authority).iter().map(|(kind, issuer)| ca_line(kind, issuer, now)));
    lines.push(clock_line());
    lines.push(policies(authority).await);
    lines.extend(modes(authority).await);
    lines
}

/// What works and should not stay as it is.
pub(crate) fn warnings(authority: &Authority, now: UnixTime) -> Vec<Warning> {
    let mut warnings: Vec<(f32, Warning)> = Vec::new();
    for (kind, issuer) in cas(authority) {
        let used = life_used(&issuer, now);
        if used >= LIFE_USED_WARNING {
            let text = format!("the {kind} has used {:.0} % of its life", used * 100.0);
            let fix = if kind == "issuing" {
                "the authority replaces it by itself; if this stays, look at its log".to_owned()
            } else {
                "plan its replacement: everybody who trusts it must learn of the new one first".to_owned()
            };
            warnings.push((used, Warning { code: Code::IssuerExpiring.to_string(), text, fix }));
        }
    }
    warnings.sort_by(|(a, _), (b, _)| b.total_cmp(a));
    let mut warnings: Vec<Warning> = warnings.into_iter().map(|(_, warning)| warning).collect();
    if let Some(behind) = clock::stepped_back() {
        let code = Code::ClockSteppedBack;
        let text = format!("the clock is {} s behind what has passed since the start", behind.as_secs());
        warnings.push(Warning { code: code.to_string(), text, fix: code.entry().fix.to_owned() });
    }
    warnings
}

/// Our CAs, roots first.
pub(crate) fn cas(authority: &Authority) -> Vec<(&'static str, Arc<Issuer>)> {
    let keys = authority.keys.load();
    let mut all =
        vec![("workload root", Arc::clone(&keys.workload_root)), ("edge root", Arc::clone(&keys.edge_root))];
    all.extend(keys.issuing.iter().map(|issuer| ("issuing", Arc::clone(issuer))));
    all
}

/// The share of its life that a CA has used; one that cannot be read has used all of it.
pub(crate) fn life_used(issuer: &Issuer, now: UnixTime) -> f32 {
    issue::life_used(issuer.certificate(), now).unwrap_or(1.0)
}

fn ca_status(kind: &str, issuer: &Issuer, now: UnixTime) -> CaStatus {
    CaStatus {
        kind: kind.to_owned(),
        serial: issuer.serial_hex().to_owned(),
        not_before: issuer.not_before(),
        not_after: issuer.not_after(),
        life_used: life_used(issuer, now),
    }
}

async fn newest_crl(authority: &Authority) -> Result<Option<CrlStatus>, StoreError> {
    let newest = authority.db.crls().await?.into_iter().max_by_key(|crl| crl.number);
    Ok(newest.map(|crl| CrlStatus {
        number: crl.number,
        this_update: crl.this_update,
        next_update: crl.next_update,
        entries: crl.entries,
    }))
}

fn line(name: &str, level: CheckLevel, detail: impl Into<String>, fix: Option<&str>) -> CheckLine {
    CheckLine { name: name.to_owned(), result: level, detail: detail.into(), fix: fix.map(str::to_owned) }
}

async fn durability(authority: &Authority) -> CheckLine {
    match authority.db.durability().await {
        Ok(found) => {
            let name = format!("database.{}", found.setting);
            let fix = Code::DatabaseNotDurable.entry().fix;
            match found.durable {
                true => line(&name, CheckLevel::Pass, found.value, None),
                false => line(&name, CheckLevel::Fail, found.value, Some(fix)),
            }
        }
        Err(error) => {
            let fix = Code::DatabaseUnreachable.entry().fix;
            line("database", CheckLevel::Fail, error.to_string(), Some(fix))
        }
    }
}

async fn crl(authority: &Authority, now: UnixTime) -> CheckLine {
    match newest_crl(authority).await {
        Ok(Some(crl)) if crl.next_update > now => {
            let left = crl.next_update.since(now).as_secs() / 60;
            line("crl", CheckLevel::Pass, format!("number {}, good for {left} min", crl.number), None)
        }
        Ok(_) => {
            line("crl", CheckLevel::Fail, "there is none that is current", Some(Code::CrlExpired.entry().fix))
        }
        Err(error) => line("crl", CheckLevel::Fail, error.to_string(), None),
    }
}

fn snapshot_line(authority: &Authority, now: UnixTime) -> CheckLine {
    let signed = authority.snapshots.borrow().clone();
    let Some(snapshot) = signed.and_then(|signed| Snapshot::parse(&signed.payload).ok()) else {
        return line("snapshot", CheckLevel::Fail, "none was made yet", Some(Code::NotReady.entry().fix));
    };
    let level = if snapshot.valid_until > now { CheckLevel::Pass } else { CheckLevel::Fail };
    line("snapshot", level, format!("sequence {} of epoch {}", snapshot.sequence, snapshot.epoch), None)
}

fn ca_line(kind: &str, issuer: &Issuer, now: UnixTime) -> CheckLine {
    let used = life_used(issuer, now);
    let name = format!("ca.{}", kind.replace(' ', "-"));
    let detail = format!("{:.0} % of its life used", used * 100.0);
    let fix = Some("replace it before it ends; what it signed ends with it");
    match used {
        used if used >= 1.0 => line(&name, CheckLevel::Fail, detail, fix),
        used if used >= LIFE_USED_WARNING => line(&name, CheckLevel::Warn, detail, fix),
        _ => line(&name, CheckLevel::Pass, detail, None),
    }
}

fn clock_line() -> CheckLine {
    match clock::stepped_back() {
        None => line("clock", CheckLevel::Pass, "has not stepped back", None),
        Some(behind) => {
            let detail = format!("stepped back by {} s", behind.as_secs());
            line("clock", CheckLevel::Warn, detail, Some(Code::ClockSteppedBack.entry().fix))
        }
    }
}

/// One line for each oddity: nothing of it is an error by itself.
async fn modes(authority: &Authority) -> Vec<CheckLine> {
    let fix = Some("countersign service list; countersign service mode NAME --accept MODES --send MODE");
    match authority.db.services().await {
        Ok(services) => {
            let odd = modes::odd(&services);
            if odd.is_empty() {
                return vec![line(
                    "modes",
                    CheckLevel::Pass,
                    "every caller is accepted by every callee",
                    None,
                )];
            }
            odd.into_iter().map(|oddity| line("modes", CheckLevel::Warn, oddity, fix)).collect()
        }
        Err(error) => vec![line("modes", CheckLevel::Fail, error.to_string(), None)],
    }
}

async fn policies(authority: &Authority) -> CheckLine {
    match authority.db.policies().await {
        Ok(stored) if stored.files.is_empty() => {
            let fix = Some("write policy files and name their directory in [policy] dir");
            line("policies", CheckLevel::Warn, "there are none: every service accepts nobody", fix)
        }
        Ok(stored) => {
            let detail = format!("{} files, generation {}", stored.files.len(), stored.generation);
            line("policies", CheckLevel::Pass, detail, None)
        }
        Err(error) => line("policies", CheckLevel::Fail, error.to_string(), None),
    }
}
