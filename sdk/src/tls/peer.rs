//! The other end of a connection: proven in the handshake, and judged again as long as it lasts.

use std::{fmt, sync::Arc};

use arc_swap::ArcSwap;
use countersign_identity::{SpiffeId, UnixTime, Verified, Workload};
use countersign_ledger::{CheckRecord, CheckResult};
use countersign_pki::verify::{self, Expectation, PeerError, Usage, Verdict};
use rustls::pki_types::CertificateDer;

use super::{
    client::Expected,
    leaf::Leaf,
    state::{Trust, TrustState},
};

/// A peer whose certificate passed the five checks when the connection was made.
///
/// "Continuous verification is the core principle": [`Peer::workload`] is asked on every request and
/// whenever trust changes, and answers for *now*. It costs one atomic load while nothing has changed.
pub struct Peer {
    chain: Vec<CertificateDer<'static>>,
    usage: Usage,
    expected: Expected,
    trust: Arc<TrustState>,
    judged: ArcSwap<Judged>,
}

/// The last judgement. A refusal is final: a connection that lost its proof never regains it.
struct Judged {
    generation: u64,
    /// Under the same trust, time alone changes nothing before this moment.
    good_until: UnixTime,
    outcome: Result<Verified<Workload>, PeerError>,
    checks: Vec<CheckRecord>,
}

impl Peer {
    /// Judges a chain for the first time, inside the handshake.
    pub(super) fn judge(
        chain: Vec<CertificateDer<'static>>,
        usage: Usage,
        expected: Expected,
        trust: Arc<TrustState>,
        now: UnixTime,
    ) -> Self {
        let judged = judge(&chain, usage, &expected, &trust, now);
        Self { chain, usage, expected, trust, judged: ArcSwap::from_pointee(judged) }
    }

    /// Who it is, if it still passes every check at `now` under the newest trust.
    ///
    /// # Errors
    /// The first check that fails, now or at any time before on this connection.
    pub fn workload(&self, now: UnixTime) -> Result<Verified<Workload>, PeerError> {
        let last = self.judged.load();
        let workload = last.outcome.as_ref().map_err(Clone::clone)?;
        if now < last.good_until && last.generation == self.trust.generation() {
            return Ok(workload.clone());
        }
        let next = Arc::new(judge(&self.chain, self.usage, &self.expected, &self.trust, now));
        // Somebody else may have judged meanwhile, by newer trust: their refusal stays.
        self.judged.rcu(|held| match held.outcome {
            Ok(_) if held.generation <= next.generation => Arc::clone(&next),
            _ => Arc::clone(held),
        });
        self.judged.load().outcome.clone()
    }

    /// The five checks as they were last made.
    #[must_use]
    pub fn checks(&self) -> Vec<CheckRecord> {
        self.judged.load().checks.clone()
    }

    /// When its certificate or a revocation list that speaks for it expires, if it passed: it is to be judged
    /// again then, even if nothing else happens.
    #[must_use]
    pub fn good_until(&self) -> Option<UnixTime> {
        let judged = self.judged.load();
        judged.outcome.is_ok().then_some(judged.good_until)
    }

    /// The name in the certificate, proven or not: for the record of a refusal.
    #[must_use]
    pub fn claimed(&self) -> Option<SpiffeId> {
        match &self.judged.load().outcome {
            Ok(workload) => Some(workload.id.clone()),
            Err(_) => Leaf::read(self.chain.first()?)?.id,
        }
    }

    /// SHA-256 of its certificate, which `x5t#S256` names (RFC 7515 section 4.1.8).
    #[must_use]
    pub fn thumbprint(&self) -> Option<[u8; 32]> {
        self.chain.first().map(|leaf| countersign_keys::sha256(leaf))
    }

    /// What it presented, leaf first.
    #[must_use]
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.chain
    }

    pub(super) fn outcome(&self) -> Result<(), PeerError> {
        self.judged.load().outcome.as_ref().map(|_| ()).map_err(Clone::clone)
    }
}

impl fmt::Debug for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.judged.load().outcome {
            Ok(workload) => write!(f, "Peer({})", workload.id),
            Err(error) => write!(f, "Peer(refused: {error})"),
        }
    }
}

fn judge(
    chain: &[CertificateDer<'static>],
    usage: Usage,
    expected: &Expected,
    trust: &TrustState,
    now: UnixTime,
) -> Judged {
    let trust = trust.load();
    let expectation = match expected {
        Expected::AnyInBundle => Expectation::AnyInBundle,
        Expected::OneOf(ids) => Expectation::OneOf(ids),
        Expected::Thumbprint(pin) => Expectation::Thumbprint(pin),
    };
    let verdict = verify::verify_peer(chain, trust.bundles(), now, usage, expectation, trust.crl_policy());
    Judged {
        generation: trust.generation(),
        good_until: verdict.outcome.as_ref().map_or(now, |workload| good_until(workload, &trust, now)),
        checks: check_records(&verdict),
        outcome: verdict.outcome,
    }
}

/// The end of the certificate, or that of the first revocation list of its trust domain to expire.
fn good_until(workload: &Workload, trust: &Trust, now: UnixTime) -> UnixTime {
    let bundle = trust.bundles().of(workload.id.trust_domain());
    let lists = bundle.into_iter().flat_map(|bundle| bundle.crls()).map(|crl| crl.next_update());
    let not_after = workload.certificate.as_ref().map(|facts| facts.not_after);
    lists.filter(|end| *end > now).chain(not_after).min().unwrap_or(now)
}

/// The five checks in the form in which the ledger keeps them.
#[must_use]
pub fn check_records(verdict: &Verdict) -> Vec<CheckRecord> {
    let record = |check: &verify::Check| {
        let (result, detail) = match &check.result {
            verify::CheckResult::Pass => (CheckResult::Pass, String::new()),
            verify::CheckResult::Fail(reason) => (CheckResult::Fail, reason.to_string()),
            verify::CheckResult::NotReached => (CheckResult::NotReached, String::new()),
        };
        CheckRecord { name: check.name.as_str().to_owned(), result, detail }
    };
    verdict.checks.iter().map(record).collect()
}
