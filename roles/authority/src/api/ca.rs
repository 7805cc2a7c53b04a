//! The column `ca`: certificates, revocation, bundle.

use std::{net::IpAddr, sync::Arc, time::Duration};

use axum::{
    Extension, Json,
    extract::State,
    response::{IntoResponse, Response},
};
use countersign_identity::UnixTime;
use countersign_pki::{
    profile::{self, EDGE_SERVER_TTL_DEFAULT, LeafTtl},
    revocation::RevocationReason,
};
use countersign_sdk::clock;
use countersign_store::certificates::{Certificate as Stored, CertificateQuery};
use countersign_wire::{
    Base64,
    api::{
        Page, PageQuery,
        certificates::{Bundle, Certificate, IssueCertificate, IssuedCertificate, Revoke, Revoked},
    },
    codes::Code,
    problem::Problem,
};
use http::header::CONTENT_TYPE;
use serde::Deserialize;

use super::{ApiError, Body, Params};
use crate::{
    http::Actor,
    issuance::{self, Order, OrderError, Requester},
    proof_keys, revocations,
    state::Authority,
};

/// The roots of workloads with the newest revocation lists, and the edge root.
#[utoipa::path(get, path = "/api/v1/bundle", tag = "ca", responses((status = 200, body = Bundle)))]
pub(crate) async fn bundle(State(authority): State<Arc<Authority>>) -> Result<Json<Bundle>, ApiError> {
    let crls = authority.db.crls().await?;
    let keys = authority.keys.load();
    Ok(Json(Bundle {
        trust_domain: authority.trust_domain.clone(),
        roots: vec![Base64(keys.workload_root.certificate().to_vec())],
        crls: crls.into_iter().map(|crl| Base64(crl.der)).collect(),
        edge_roots: vec![Base64(keys.edge_root.certificate().to_vec())],
    }))
}

/// Which list.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct CrlQuery {
    issuer: Option<String>,
}

/// The newest revocation list of an issuing CA, DER; of the newest CA unless another one is named by its serial.
#[utoipa::path(get, path = "/api/v1/crl", tag = "ca", params(("issuer" = Option<String>, Query)),
    responses((status = 200, content_type = "application/pkix-crl"), (status = 404, body = Problem)))]
pub(crate) async fn crl(
    State(authority): State<Arc<Authority>>,
    Params(query): Params<CrlQuery>,
) -> Result<Response, ApiError> {
    let newest = authority.keys.load().issuing.last().map(|issuer| issuer.serial_hex().to_owned());
    let issuer = query.issuer.or(newest).unwrap_or_default();
    let crl = authority.db.crl(&issuer).await?.ok_or(Code::ObjectUnknown)?;
    Ok(([(CONTENT_TYPE, "application/pkix-crl")], crl.der).into_response())
}

/// Certificates, newest first.
#[utoipa::path(get, path = "/api/v1/certificates", tag = "ca",
    params(("limit" = Option<u32>, Query), ("after" = Option<String>, Query)),
    responses((status = 200, body = Page<Certificate>)))]
pub(crate) async fn list(
    State(authority): State<Arc<Authority>>,
    Params(query): Params<PageQuery>,
) -> Result<Json<Page<Certificate>>, ApiError> {
    let after = query.after.as_deref().map(place).transpose()?;
    let query = CertificateQuery { after, limit: query.items(), ..CertificateQuery::default() };
    let stored = authority.db.certificates(&query).await?;
    let full = stored.len() == usize::try_from(query.limit).unwrap_or(usize::MAX);
    let next = stored.last().filter(|_| full);
    let next = next.map(|last| format!("{}.{}", last.issued_at.millis(), last.serial));
    Ok(Json(Page { items: stored.into_iter().map(describe).collect(), next }))
}

/// `MILLISECONDS.SERIAL`, as `next` gave it.
fn place(text: &str) -> Result<(UnixTime, String), ApiError> {
    let wrong = || ApiError::because(Code::ParameterInvalid, "`after` is not what `next` of a listing said");
    let (millis, serial) = text.split_once('.').ok_or_else(wrong)?;
    let millis = millis.parse().map_err(|_| wrong())?;
    Ok((UnixTime::from_millis(millis), serial.to_owned()))
}

/// Certifies a key for a registered service, or for an HTTPS server below the edge root.
#[utoipa::path(post, path = "/api/v1/certificates", tag = "ca", request_body = IssueCertificate,
    responses((status = 200, body = IssuedCertificate), (status = 422, body = Problem)))]
pub(crate) async fn issue(
    State(authority): State<Arc<Authority>>,
    Extension(Actor(name)): Extension<Actor>,
    Body(body): Body<IssueCertificate>,
) -> Result<Json<IssuedCertificate>, ApiError> {
    let order = order(&authority, &body).await?;
    let requester = Requester { attestation: format!("asked for by {name}"), name, agent: None };
    let delivery =
        issuance::issue(&authority, body.csr.as_slice(), &order, &requester).await.map_err(order_error)?;
    issuance::delivered(&authority, &delivery.certificate);
    Ok(Json(IssuedCertificate {
        certificate: describe(delivery.certificate),
        chain: delivery.chain.into_iter().map(Base64).collect(),
        roots: vec![Base64(delivery.root)],
    }))
}

async fn order(authority: &Authority, body: &IssueCertificate) -> Result<Order, ApiError> {
    let asked = body.ttl_s.map(Duration::from_secs);
    let wrong = |detail: &str| ApiError::because(Code::ParameterInvalid, detail);
    match (&body.service, &body.edge) {
        (Some(service), None) => {
            let entry = authority.db.service(service.as_str()).await?.ok_or(Code::EntryUnknown)?;
            let ttl = asked.map_or(Ok(authority.svid_ttl), LeafTtl::new);
            let ttl = ttl.map_err(|error| ApiError::because(Code::LifetimeOutOfRange, error.to_string()))?;
            match body.profile.as_deref() {
                None | Some("workload") => Ok(Order::Workload { id: entry.spiffe_id, ttl }),
                Some("server") => Ok(Order::Server { id: entry.spiffe_id, ttl }),
                Some("signing") => Ok(Order::Signing { id: entry.spiffe_id, ttl }),
                Some(_) => Err(wrong("`profile` of a service is workload, server or signing")),
            }
        }
        (None, Some(names)) => {
            if body.profile.as_deref().is_some_and(|profile| profile != "edge") {
                return Err(wrong("`profile` of an HTTPS server is edge"));
            }
            let ips = names.ips.iter().map(|ip| ip.parse::<IpAddr>()).collect::<Result<_, _>>();
            let ips = ips.map_err(|_| wrong("`edge.ips` holds something that is no IP address"))?;
            let names = profile::EdgeNames { dns: names.dns.clone(), ips };
            Ok(Order::Edge { names, ttl: asked.unwrap_or(EDGE_SERVER_TTL_DEFAULT) })
        }
        _ => Err(wrong("name exactly one of `service` and `edge`")),
    }
}

/// What is wrong with a request is told to its sender; what is wrong here is not.
fn order_error(error: OrderError) -> ApiError {
    match error {
        OrderError::Csr(_) | OrderError::Issue(_) => ApiError::because(error.code(), error.to_string()),
        OrderError::Store(error) => error.into(),
        OrderError::Random(error) => ApiError::internal("no serial number", &error),
    }
}

/// Takes certificates back: one by its serial, or all that a service has. Everybody knows when this returns.
#[utoipa::path(post, path = "/api/v1/certificates/revoke", tag = "ca", request_body = Revoke,
    responses((status = 200, body = Revoked), (status = 404, body = Problem)))]
pub(crate) async fn revoke(
    State(authority): State<Arc<Authority>>,
    Extension(Actor(by)): Extension<Actor>,
    Body(body): Body<Revoke>,
) -> Result<Json<Revoked>, ApiError> {
    let reason = match body.reason.as_deref() {
        None => RevocationReason::Unspecified,
        Some(name) => RevocationReason::parse(name).ok_or_else(|| {
            ApiError::because(
                Code::ParameterInvalid,
                "`reason` is none of RFC 5280 section 5.3.1 that is used here",
            )
        })?,
    };
    let certificates = named(&authority, &body, &by).await?;
    // A caller that hangs up between the two does not keep what is revoked from being published.
    let revoking =
        tokio::spawn(async move { revocations::revoke(&authority, &certificates, reason, &by).await });
    let (serials, crl_number) = revoking
        .await
        .map_err(|error| ApiError::internal("a revocation was broken off", &error))?
        .map_err(|error| ApiError::internal("a revocation could not be published", &error))?;
    Ok(Json(Revoked { serials, crl_number }))
}

async fn named(authority: &Arc<Authority>, body: &Revoke, by: &str) -> Result<Vec<Stored>, ApiError> {
    match (&body.serial, &body.service) {
        (Some(serial), None) => {
            let serial = serial.to_ascii_lowercase().replace(':', "");
            let serial = serial.trim_start_matches('0');
            let certificate = authority.db.certificate(serial).await?.ok_or(Code::ObjectUnknown)?;
            match certificate.spiffe_id {
                Some(_) => Ok(vec![certificate]),
                None => Err(ApiError::because(
                    Code::ParameterInvalid,
                    "an HTTPS server's certificate is on no list: replace it on the server, it ends by itself",
                )),
            }
        }
        (None, Some(service)) => {
            let entry = authority.db.service(service.as_str()).await?.ok_or(Code::ObjectUnknown)?;
            // A service may prove itself by registered keys or tokens and have no certificate at all.
            proof_keys::withdraw_all(authority, &entry.spiffe_id, by).await?;
            Ok(live_of(authority, &entry.spiffe_id).await?)
        }
        _ => Err(ApiError::because(Code::ParameterInvalid, "name exactly one of `serial` and `service`")),
    }
}

/// Every certificate of an identity that still counts, however many pages that takes.
async fn live_of(
    authority: &Authority,
    id: &countersign_identity::SpiffeId,
) -> Result<Vec<Stored>, countersign_store::StoreError> {
    let mut all = Vec::new();
    let mut after = None;
    loop {
        let live_at = Some(clock::now());
        let query = CertificateQuery {
            spiffe_id: Some(id.clone()),
            live_at,
            after,
            limit: countersign_store::ROWS_MAX,
        };
        let page = authority.db.certificates(&query).await?;
        let Some(last) = page.last() else { return Ok(all) };
        after = Some((last.issued_at, last.serial.clone()));
        all.extend(page);
    }
}

/// The facts of a certificate, as listings show them.
pub(crate) fn describe(stored: Stored) -> Certificate {
    Certificate {
        serial: stored.serial,
        spiffe_id: stored.spiffe_id,
        profile: stored.profile,
        thumbprint: stored.thumbprint,
        issued_at: stored.issued_at,
        not_after: stored.not_after,
        revoked_at: stored.revocation.as_ref().map(|revocation| revocation.at),
        reason: stored.revocation.map(|revocation| revocation.reason.as_str().to_owned()),
    }
}
