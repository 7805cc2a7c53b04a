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
    verified::{ChainKey, Proven, Unkept},
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
    checks: Arc<[CheckRecord]>,
    /// What this judgement adds to the memory of chains, if it was the first of its kind.
    unkept: Option<Unkept>,
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
        // Nobody has a peer whose handshake did not prove the key.
        next.keep();
        // Somebody else may have judged meanwhile, by newer trust: their refusal stays.
        self.judged.rcu(|held| match held.outcome {
            Ok(_) if held.generation <= next.generation => Arc::clone(&next),
            _ => Arc::clone(held),
        });
        self.judged.load().outcome.clone()
    }

    /// Does it still pass every check at `now` under the newest trust? As [`Peer::workload`], without saying who it is.
    #[must_use]
    pub fn is_believed(&self, now: UnixTime) -> bool {
        let last = self.judged.load();
        let unmoved = now < last.good_until && last.generation == self.trust.generation();
        last.outcome.is_ok() && (unmoved || self.workload(now).is_ok())
    }

    /// The five checks as they were last made.
    #[must_use]
    pub fn checks(&self) -> Vec<CheckRecord> {
        self.judged.load().checks.to_vec()
    }

    /// When a certificate of its path or a revocation list that speaks for it expires, if it passed: it is to be judged
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

    /// It holds the key of its certificate: from now on its chain need not be verified again.
    pub(super) fn holds_its_key(&self) {
        self.judged.load().keep();
    }

    pub(super) fn outcome(&self) -> Result<(), PeerError> {
        self.judged.load().outcome.as_ref().map(|_| ()).map_err(Clone::clone)
    }
}

impl Judged {
    fn keep(&self) {
        if let Some(unkept) = &self.unkept {
            unkept.keep();
        }
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
    state: &TrustState,
    now: UnixTime,
) -> Judged {
    let trust = state.load();
    let generation = trust.generation();
    let expectation = match expected {
        Expected::AnyInBundle => Expectation::AnyInBundle,
        Expected::OneOf(ids) => Expectation::OneOf(ids),
        Expected::Thumbprint(pin) => Expectation::Thumbprint(pin),
    };
    let key = ChainKey::of(chain, usage);
    // Whom we expect is no part of what is remembered: who is not expected is judged in full, for the record.
    let admitted = |proven: &Arc<Proven>| {
        chain.first().is_some_and(|leaf| expectation.admits(&proven.workload.id, leaf))
    };
    if let Some(proven) = trust.verified().find(key, now).filter(admitted) {
        state.count_reused_chain();
        return Judged {
            generation,
            good_until: proven.until,
            outcome: Ok(proven.workload.clone()),
            checks: Arc::clone(&proven.checks),
            unkept: None,
        };
    }
    let verdict = verify::verify_peer(chain, trust.bundles(), now, usage, expectation, trust.crl_policy());
    let checks: Arc<[CheckRecord]> = check_records(&verdict).into();
    let good_until = good_until(&verdict, &trust, now);
    let unkept = verdict.outcome.as_ref().ok().map(|workload| {
        let (workload, checks) = (workload.clone(), Arc::clone(&checks));
        trust.verified().unkept(key, Proven { workload, checks, since: now, until: good_until })
    });
    Judged { generation, good_until, outcome: verdict.outcome, checks, unkept }
}

/// The end of the first certificate of the path, or that of the first revocation list of its trust domain to expire.
fn good_until(verdict: &Verdict, trust: &Trust, now: UnixTime) -> UnixTime {
    let Ok(workload) = &verdict.outcome else { return now };
    let bundle = trust.bundles().of(workload.id.trust_domain());
    let lists = bundle.into_iter().flat_map(|bundle| bundle.crls()).map(|crl| crl.next_update());
    lists.filter(|end| *end > now).chain(verdict.path_ends).min().unwrap_or(now)
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
