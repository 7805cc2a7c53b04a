//! What the agent asks of the authority in the name of a process that it attested. The name is always the
//! registered one: nothing that a caller says changes whose certificate, records or key these are.

use std::time::Duration;

use countersign_identity::{IdKind, SPIFFE_ID_BYTES_MAX, SpiffeId, UnixTime};
use countersign_keys::PublicKey;
use countersign_pki::{CertificateDer, CrlPolicy, Expectation, Usage, csr::CSR_BYTES_MAX, verify_peer};
use countersign_sdk::clock;
use countersign_wire::agent::{
    AppliedRequest, CertificatePurpose, EdgeCount, IssueResponse, IssueTokenRequest, IssueTokenResponse,
    ReportRequest, ReportResponse,
};
use countersign_wire::node::{
    NodeAppliedRequest, NodeIssueRequest, NodeIssueTokenRequest, NodePublishTokenKeyRequest,
};
use tonic::{Code, Request, Status};

use crate::agent::Core;
use crate::attest::Process;
use crate::registry::Registered;

/// Longest wait for the authority.
const ISSUE_TIMEOUT: Duration = Duration::from_secs(10);
const REPORT_TIMEOUT: Duration = Duration::from_secs(30);
const PUBLISH_TIMEOUT: Duration = Duration::from_secs(10);
const APPLIED_TIMEOUT: Duration = Duration::from_secs(10);
/// Ledger records and call counters in one report.
const RECORDS_MAX: usize = 4096;
const EDGES_MAX: usize = 4096;
/// Longest public key.
const JWK_BYTES_MAX: usize = 4096;
/// Longest signature: RSA of 4096 bits.
const POSSESSION_BYTES_MAX: usize = 512;
/// Audiences of one token.
pub(crate) const AUDIENCES_MAX: usize = 16;
/// Longest token.
const TOKEN_BYTES_MAX: usize = 16 * 1024;
/// Longest name of an epoch.
const EPOCH_BYTES_MAX: usize = 128;

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
        purpose: CertificatePurpose,
    ) -> Result<Issued, Status> {
        if csr.is_empty() || csr.len() > CSR_BYTES_MAX {
            return Err(Status::invalid_argument(format!("a csr has 1 to {CSR_BYTES_MAX} bytes")));
        }
        let attestation =
            self.attestor.look_at(process).await.map_err(|e| Status::permission_denied(e.to_string()))?;
        let spiffe_id = held.entry.spiffe_id.to_string();
        let purpose_number = purpose.into();
        let mut request =
            Request::new(NodeIssueRequest { spiffe_id, csr, attestation, purpose: purpose_number });
        request.set_timeout(ISSUE_TIMEOUT);
        let response = self.node.settle(self.node.client().issue(request).await).map_err(nobody)?;
        let not_after = self.check_issued(&response, &held.entry.spiffe_id, purpose)?;
        held.note_certificate(not_after);
        still_there(process, held)?;
        Ok(Issued { response, not_after })
    }

    /// Asks for a token in the name of the service that the process is. What comes is passed on and never kept on disk.
    pub(crate) async fn issue_token(
        &self,
        process: &Process,
        held: &Registered,
        request: IssueTokenRequest,
    ) -> Result<IssueTokenResponse, Status> {
        check_token_request(&request)?;
        let spiffe_id = held.entry.spiffe_id.to_string();
        let mut request = Request::new(NodeIssueTokenRequest { spiffe_id, request: Some(request) });
        request.set_timeout(ISSUE_TIMEOUT);
        let issued = self.node.settle(self.node.client().issue_token(request).await).map_err(nobody)?;
        if issued.token.is_empty() || issued.token.len() > TOKEN_BYTES_MAX {
            tracing::error!(spiffe_id = %held.entry.spiffe_id, "the authority sent an unusable token");
            return Err(Status::internal("the authority sent an unusable token"));
        }
        still_there(process, held)?;
        Ok(issued)
    }

    /// Passes on by which generations a workload works. Of several processes that are the same service on this node,
    /// the one that is behind speaks for all.
    pub(crate) async fn applied(&self, held: &Registered, told: AppliedRequest) -> Result<(), Status> {
        if told.epoch.len() > EPOCH_BYTES_MAX {
            return Err(Status::invalid_argument(format!("an epoch has at most {EPOCH_BYTES_MAX} bytes")));
        }
        held.note_applied(told.clone(), clock::now());
        let all = self.registry.applied_by(&held.entry.spiffe_id, clock::now());
        let spiffe_id = held.entry.spiffe_id.to_string();
        let applied = Some(all.into_iter().fold(told, laggard));
        let mut request = Request::new(NodeAppliedRequest { spiffe_id, applied });
        request.set_timeout(APPLIED_TIMEOUT);
        self.node.settle(self.node.client().applied(request).await).map_err(nobody).map(drop)
    }

    /// The authority is believed, and checked: what it sends must be usable, and for this workload alone.
    fn check_issued(
        &self,
        issued: &IssueResponse,
        id: &SpiffeId,
        purpose: CertificatePurpose,
    ) -> Result<UnixTime, Status> {
        let unusable = |why: String| {
            tracing::error!(spiffe_id = %id, why, "the authority sent an unusable certificate");
            Status::internal("the authority sent an unusable certificate")
        };
        let chain: Vec<_> = issued.chain.iter().map(|der| CertificateDer::from(der.as_slice())).collect();
        let trust = self.trust.load();
        let expected = Expectation::Exactly(id);
        let policy = CrlPolicy::AcceptMissing;
        let usage = match purpose {
            CertificatePurpose::Tls => Usage::Client,
            CertificatePurpose::Signing => Usage::Signing,
        };
        let verdict = verify_peer(&chain, trust.bundles(), clock::now(), usage, expected, policy);
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

/// It may have ended while the authority signed: its successor under the same pid must not get this.
fn still_there(process: &Process, held: &Registered) -> Result<(), Status> {
    if held.gone.is_cancelled() || !process.is_alive() {
        return Err(Status::permission_denied("the process has exited, or is nobody any more"));
    }
    Ok(())
}

/// Only its size: what a request for a token means is for the authority to judge.
fn check_token_request(request: &IssueTokenRequest) -> Result<(), Status> {
    let IssueTokenRequest { audience, jwk, possession, more_audiences, .. } = request;
    let audiences = || more_audiences.iter().chain([audience]);
    let too_much = more_audiences.len() >= AUDIENCES_MAX
        || audiences().any(|audience| audience.len() > SPIFFE_ID_BYTES_MAX)
        || jwk.len() > JWK_BYTES_MAX
        || possession.len() > POSSESSION_BYTES_MAX;
    if too_much { Err(Status::invalid_argument("the request for a token is too long")) } else { Ok(()) }
}

/// Whichever of two is behind: of different epochs neither is known to be, so the one that is not `told` now.
fn laggard(told: AppliedRequest, other: AppliedRequest) -> AppliedRequest {
    if told.epoch != other.epoch {
        return other;
    }
    AppliedRequest {
        sequence: told.sequence.min(other.sequence),
        secrets_generation: told.secrets_generation.min(other.secrets_generation),
        epoch: told.epoch,
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
    fn of_several_processes_of_one_service_the_one_that_is_behind_speaks() {
        let told = |epoch: &str, sequence, secrets_generation| AppliedRequest {
            epoch: epoch.to_owned(),
            sequence,
            secrets_generation,
        };
        assert_eq!(laggard(told("e", 7, 1), told("e", 6, 2)), told("e", 6, 1));
        assert_eq!(laggard(told("e", 7, 2), told("old", 9, 9)), told("old", 9, 9));
    }

    #[test]
    fn a_request_for_a_token_that_is_too_long_is_refused() {
        let good = IssueTokenRequest {
            audience: "a".repeat(SPIFFE_ID_BYTES_MAX),
            jwk: "k".repeat(JWK_BYTES_MAX),
            possession: vec![0; POSSESSION_BYTES_MAX],
            more_audiences: vec![String::new(); AUDIENCES_MAX - 1],
            ..IssueTokenRequest::default()
        };
        assert!(check_token_request(&good).is_ok());
        let long = "a".repeat(SPIFFE_ID_BYTES_MAX + 1);
        for bad in [
            IssueTokenRequest { audience: long.clone(), ..good.clone() },
            IssueTokenRequest { more_audiences: vec![long], ..good.clone() },
            IssueTokenRequest { more_audiences: vec![String::new(); AUDIENCES_MAX], ..good.clone() },
            IssueTokenRequest { jwk: "k".repeat(JWK_BYTES_MAX + 1), ..good.clone() },
            IssueTokenRequest { possession: vec![0; POSSESSION_BYTES_MAX + 1], ..good },
        ] {
            assert_eq!(check_token_request(&bad).unwrap_err().code(), tonic::Code::InvalidArgument);
        }
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
