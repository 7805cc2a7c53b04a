//! What must happen although nobody asks: lists and certificates renewed before they end, old rows forgotten, the
//! clock watched.

use std::{sync::Arc, time::Duration};

use countersign_identity::UnixTime;
use countersign_keys::SystemRandom;
use countersign_ledger::Event;
use countersign_pki::{issue::Issuer, revocation::CRL_LIFE_MAX};
use countersign_sdk::clock;
use tokio_util::sync::CancellationToken;

use crate::{
    AuthorityError,
    api::status::{life_used, warnings},
    credentials,
    keys::{self, Sealer},
    revocations::{self, CRL_LIFE},
    snapshot::{self, Occasion},
    state::Authority,
};

/// How often the house is looked after.
const ROUND: Duration = Duration::from_secs(60);
/// A list is made anew when it has used this share of its life: three rounds of trouble fit before its end.
const CRL_RENEW_AFTER: Duration = Duration::from_secs(CRL_LIFE.as_secs() / 4);
/// From this share of its life on, an issuing CA gets a successor: every certificate that it signed ends in time.
const ISSUING_RENEW_AT: f32 = 2.0 / 3.0;
/// Expired certificates are listed for a while, so that `cert list` shows yesterday.
const CERTIFICATES_KEPT: Duration = Duration::from_secs(30 * 24 * 3600);
/// Warnings are repeated in the log this often.
const WARNING_ROUNDS: u32 = 60;

/// A CA that everybody hears of before it signs: its list must be there before its first certificate.
struct Announced {
    since: UnixTime,
}

/// Looks after the house until `shutdown`.
pub(crate) async fn run(authority: Arc<Authority>, shutdown: CancellationToken) {
    let mut rounds = tokio::time::interval(ROUND);
    rounds.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut keeper = Keeper { authority, announced: None, rounds: 0, stepped_back: None };
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            _ = rounds.tick() => keeper.round().await,
        }
    }
}

struct Keeper {
    authority: Arc<Authority>,
    announced: Option<Announced>,
    rounds: u32,
    stepped_back: Option<Duration>,
}

impl Keeper {
    async fn round(&mut self) {
        let now = clock::now();
        self.watch_clock();
        self.warn(now);
        self.step("own credentials", credentials::renew(&self.authority, now).await);
        let issuing = self.look_after_issuing(now).await;
        self.step("issuing CA", issuing);
        let lists = self.look_after_lists(now).await;
        self.step("revocation lists", lists);
        let tidied = self.tidy(now).await;
        self.step("tidying", tidied);
        self.rounds = self.rounds.wrapping_add(1);
    }

    fn step<E: std::fmt::Display>(&self, what: &'static str, result: Result<(), E>) {
        if let Err(error) = result {
            metrics::counter!("countersign_upkeep_failures_total", "step" => what).increment(1);
            tracing::error!(%error, what, "upkeep failed; trying again in a minute");
        }
    }

    /// A clock that steps back revives nothing, because time never runs backwards here; but somebody should know.
    fn watch_clock(&mut self) {
        let behind = clock::stepped_back();
        if let (Some(behind), None) = (behind, self.stepped_back) {
            tracing::warn!(
                seconds = behind.as_secs(),
                "the clock has stepped back; nothing that expired is revived"
            );
            let by_ms = u64::try_from(behind.as_millis()).unwrap_or(u64::MAX);
            self.authority.journal.note(Event::ClockSteppedBack { by_ms });
        }
        self.stepped_back = behind;
    }

    fn warn(&self, now: UnixTime) {
        if self.rounds % WARNING_ROUNDS == 0 {
            for warning in warnings(&self.authority, now) {
                tracing::warn!(code = warning.code, fix = warning.fix, "{}", warning.text);
            }
        }
        for (kind, issuer) in crate::api::status::cas(&self.authority) {
            metrics::gauge!("countersign_ca_life_used", "ca" => kind).set(f64::from(life_used(&issuer, now)));
        }
    }

    /// Announce, wait a round, then sign: nobody may meet a certificate whose CA has no list yet.
    async fn look_after_issuing(&mut self, now: UnixTime) -> Result<(), AuthorityError> {
        if let Some(announced) = &self.announced {
            if now.since(announced.since) >= ROUND / 2 {
                self.reload(now).await?;
                self.announced = None;
                tracing::info!("a new issuing CA signs from now on");
            }
            return Ok(());
        }
        let keys = self.authority.keys.load_full();
        let due = keys.issuing.last().is_none_or(|issuer| life_used(issuer, now) >= ISSUING_RENEW_AT);
        if due {
            self.announce(now).await?;
        }
        Ok(())
    }

    async fn announce(&mut self, now: UnixTime) -> Result<(), AuthorityError> {
        let authority = &self.authority;
        let (key, issuer) = {
            let rng = SystemRandom::new();
            let sealer =
                Sealer { trust_domain: &authority.trust_domain, master: &authority.master, rng: &rng };
            keys::next_issuing(&sealer, &authority.keys.load(), now)?
        };
        authority.db.add_key(&key, now).await?;
        self.list_of(issuer).await?;
        self.announced = Some(Announced { since: now });
        Ok(())
    }

    async fn list_of(&self, issuer: Issuer) -> Result<(), AuthorityError> {
        let published = revocations::announce(&self.authority, &Arc::new(issuer)).await;
        published.map_err(|error| AuthorityError::Ca(error.to_string()))
    }

    async fn reload(&self, now: UnixTime) -> Result<(), AuthorityError> {
        let authority = &self.authority;
        let rows = authority.db.keys().await?;
        let keys = keys::open(&authority.trust_domain, &authority.master, &rows, now)?;
        authority.keys.store(Arc::new(keys));
        Ok(())
    }

    async fn look_after_lists(&self, now: UnixTime) -> Result<(), revocations::RevokeError> {
        if lists_are_due(&self.authority, now).await? {
            revocations::publish_crls(&self.authority).await.map(drop)
        } else {
            Ok(snapshot::publish(&self.authority, Occasion::Renewal).await?)
        }
    }

    async fn tidy(&self, now: UnixTime) -> Result<(), countersign_store::StoreError> {
        let db = &self.authority.db;
        // What was revoked stays at least until no list has to name it (lesson 54).
        db.tidy_certificates(now, CERTIFICATES_KEPT.max(CRL_LIFE_MAX)).await?;
        db.tidy_join_tokens(now).await.map(drop)
    }
}

/// Is a list missing, or old?
pub(crate) async fn lists_are_due(
    authority: &Authority,
    now: UnixTime,
) -> Result<bool, countersign_store::StoreError> {
    let crls = authority.db.crls().await?;
    let keys = authority.keys.load_full();
    let current = |issuer: &Arc<Issuer>| {
        crls.iter()
            .any(|crl| crl.issuer == issuer.serial_hex() && now.since(crl.this_update) < CRL_RENEW_AFTER)
    };
    Ok(!keys.issuing.iter().all(current))
}
