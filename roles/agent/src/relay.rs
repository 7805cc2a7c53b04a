//! What the agent asks of the authority in the name of a process that it attested. The name is always the
//! registered one: nothing that a caller says changes whose certificate, records or key these are.

use std::time::Duration;

use countersign_identity::{IdKind, SpiffeId, UnixTime};
use countersign_keys::PublicKey;
use countersign_pki::{CertificateDer, CrlPolicy, Expectation, Usage, csr::CSR_BYTES_MAX, verify_peer};
use countersign_sdk::clock;
use countersign_wire::agent::{EdgeCount, IssueResponse, ReportRequest, ReportResponse};
use countersign_wire::node::{NodeIssueRequest, NodePublishTokenKeyRequest};
use tonic::{Code, Request, Status};

use crate::agent::Core;
use crate::attest::Process;
use crate::registry::Registered;

/// Longest wait for the authority.
const ISSUE_TIMEOUT: Duration = Duration::from_secs(10);
const REPORT_TIMEOUT: Duration = Duration::from_secs(30);
const PUBLISH_TIMEOUT: Duration = Duration::from_secs(10);
/// Ledger records and call counters in one report.
const RECORDS_MAX: usize = 4096;
const EDGES_MAX: usize = 4096;
/// Longest public key.
const JWK_BYTES_MAX: usize = 4096;

/// A certificate that the agent itself has checked.
#[derive(Debug)]
pub(crate) struct Issued {
    pub(crate) response: IssueResponse,
    pub(crate) not_after: UnixTime,
}

impl Core {
    /// Has `csr` certified for the service that the process is.
    pub(crate) async fn issue(
        &self,
        process: &Process,
        held: &Registered,
        csr: Vec<u8>,
    ) -> Result<Issued, Status> {
        if csr.is_empty() || csr.len() > CSR_BYTES_MAX {
            return Err(Status::invalid_argument(format!("a csr has 1 to {CSR_BYTES_MAX} bytes")));
        }
        let attestation =
            self.attestor.look_at(process).await.map_err(|e| Status::permission_denied(e.to_string()))?;
        let spiffe_id = held.entry.spiffe_id.to_string();
        let mut request = Request::new(NodeIssueRequest { spiffe_id, csr, attestation, purpose: 0 });
        request.set_timeout(ISSUE_TIMEOUT);
        let response = self.node.settle(self.node.client().issue(request).await).map_err(nobody)?;
        let not_after = self.check_issued(&response, &held.entry.spiffe_id)?;
        held.note_certificate(not_after);
        // It may have ended while the authority signed: its successor under the same pid must not get this.
        if held.gone.is_cancelled() || !process.is_alive() {
            return Err(Status::permission_denied("the process has exited, or is nobody any more"));
        }
        Ok(Issued { response, not_after })
    }

    /// The authority is believed, and checked: what it sends must be usable, and for this workload alone.
    fn check_issued(&self, issued: &IssueResponse, id: &SpiffeId) -> Result<UnixTime, Status> {
        let unusable = |why: String| {
            tracing::error!(spiffe_id = %id, why, "the authority sent an unusable certificate");
            Status::internal("the authority sent an unusable certificate")
        };
        let chain: Vec<_> = issued.chain.iter().map(|der| CertificateDer::from(der.as_slice())).collect();
        let trust = self.trust.load();
        let expected = Expectation::Exactly(id);
        let policy = CrlPolicy::AcceptMissing;
        let verdict = verify_peer(&chain, trust.bundles(), clock::now(), Usage::Client, expected, policy);
        let workload = verdict.outcome.map_err(|e| unusable(e.to_string()))?;
        let facts = workload.certificate.as_ref().ok_or_else(|| unusable("it has no facts".to_owned()))?;
        Ok(facts.not_after)
    }

    /// Passes on ledger records and counters, if they are the caller's own. Nothing is kept here: who reports
    /// keeps its records until the authority has them.
    pub(crate) async fn report(
        &self,
        held: &Registered,
        report: ReportRequest,
    ) -> Result<ReportResponse, Status> {
        check_report(&report, held)?;
        let _turn = self
            .reports
            .try_acquire()
            .map_err(|_| Status::unavailable("too many reports at once: try again"))?;
        let mut request = Request::new(report);
        request.set_timeout(REPORT_TIMEOUT);
        self.node.settle(self.node.client().report(request).await)
    }

    /// Publishes the key with which a gateway signs internal user tokens. Services have none.
    pub(crate) async fn publish_token_key(&self, held: &Registered, jwk: String) -> Result<(), Status> {
        if !matches!(held.entry.spiffe_id.kind(), IdKind::Gateway(_)) {
            return Err(Status::permission_denied("only a gateway signs internal user tokens"));
        }
        if jwk.len() > JWK_BYTES_MAX || PublicKey::from_jwk(&jwk).is_err() {
            return Err(Status::invalid_argument("not a public P-256 JWK"));
        }
        let spiffe_id = held.entry.spiffe_id.to_string();
        let mut request = Request::new(NodePublishTokenKeyRequest { spiffe_id, jwk });
        request.set_timeout(PUBLISH_TIMEOUT);
        self.node.settle(self.node.client().publish_token_key(request).await).map(drop)
    }
}

/// What the authority says of an entry that it does not know, or not for this node, means for the workload that
/// it is nobody (SPIFFE_Workload_API.md section 5.2.1). That the agent itself is not believed is no fault of a
/// workload, and may pass.
fn nobody(status: Status) -> Status {
    match status.code() {
        Code::NotFound => Status::permission_denied(status.message()),
        Code::Unauthenticated => Status::unavailable("the authority does not believe this agent: try again"),
        _ => status,
    }
}

/// A process reports about itself: its own records, and calls in which it was one of the two ends.
fn check_report(report: &ReportRequest, held: &Registered) -> Result<(), Status> {
    if report.records.len() > RECORDS_MAX || report.edges.len() > EDGES_MAX {
        return Err(Status::invalid_argument(format!(
            "a report has at most {RECORDS_MAX} records and {EDGES_MAX} counters"
        )));
    }
    let own = held.entry.spiffe_id.as_str();
    let mut boots = report.records.iter().map(|record| &record.boot);
    let first = boots.next();
    if report.records.iter().any(|record| record.writer != own) || boots.any(|boot| Some(boot) != first) {
        return Err(Status::permission_denied(
            "a report carries records of one start of its sender, and of nobody else",
        ));
    }
    if report.edges.iter().any(|edge| !is_an_end(edge, held)) {
        return Err(Status::permission_denied("a counter names its sender as source or target"));
    }
    Ok(())
}

fn is_an_end(edge: &EdgeCount, held: &Registered) -> bool {
    [&edge.source, &edge.target]
        .into_iter()
        .any(|end| end == held.entry.spiffe_id.as_str() || end == held.entry.name.as_str())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use countersign_identity::ServiceName;
    use countersign_wire::agent::LedgerRecord;

    use super::*;
    use crate::entries::Entry;

    fn ads() -> Registered {
        Registered::of(Entry {
            id: "e1".into(),
            name: ServiceName::parse("ads").unwrap(),
            spiffe_id: SpiffeId::parse("spiffe://flea.test/svc/ads").unwrap(),
            launch_by: vec![0],
        })
    }

    fn record(writer: &str, boot: &str) -> LedgerRecord {
        LedgerRecord { writer: writer.into(), boot: boot.into(), ..LedgerRecord::default() }
    }

    fn code(report: &ReportRequest) -> Option<tonic::Code> {
        check_report(report, &ads()).err().map(|status| status.code())
    }

    #[test]
    fn a_report_of_another_writer_is_refused() {
        let own = record("spiffe://flea.test/svc/ads", "b1");
        let foreign = record("spiffe://flea.test/svc/users", "b1");
        let records = |records| ReportRequest { records, edges: vec![] };
        assert_eq!(code(&records(vec![own.clone(), own.clone()])), None);
        assert_eq!(code(&records(vec![own.clone(), foreign])), Some(tonic::Code::PermissionDenied));
        let restarted = record("spiffe://flea.test/svc/ads", "b2");
        assert_eq!(code(&records(vec![own, restarted])), Some(tonic::Code::PermissionDenied));
    }

    #[test]
    fn a_counter_of_other_peoples_calls_is_refused() {
        let edge = |source: &str, target: &str| ReportRequest {
            records: vec![],
            edges: vec![EdgeCount { source: source.into(), target: target.into(), ..EdgeCount::default() }],
        };
        assert_eq!(code(&edge("users", "ads")), None);
        assert_eq!(code(&edge("spiffe://flea.test/svc/ads", "users")), None);
        assert_eq!(code(&edge("users", "chat")), Some(tonic::Code::PermissionDenied));
    }

    #[test]
    fn a_workload_without_an_entry_is_nobody_and_an_agent_in_trouble_is_not_its_fault() {
        assert_eq!(nobody(Status::not_found("")).code(), Code::PermissionDenied);
        assert_eq!(nobody(Status::permission_denied("")).code(), Code::PermissionDenied);
        assert_eq!(nobody(Status::unauthenticated("")).code(), Code::Unavailable);
        assert_eq!(nobody(Status::invalid_argument("")).code(), Code::InvalidArgument);
    }

    #[test]
    fn a_report_has_a_limit() {
        let records =
            |n| ReportRequest { records: vec![record("spiffe://flea.test/svc/ads", "b"); n], edges: vec![] };
        assert_eq!(code(&records(RECORDS_MAX)), None);
        assert_eq!(code(&records(RECORDS_MAX + 1)), Some(tonic::Code::InvalidArgument));
        let edge = EdgeCount { source: "ads".into(), ..EdgeCount::default() };
        let edges = |n| ReportRequest { records: vec![], edges: vec![edge.clone(); n] };
        assert_eq!(code(&edges(EDGES_MAX)), None);
        assert_eq!(code(&edges(EDGES_MAX + 1)), Some(tonic::Code::InvalidArgument));
    }
}
