//! What must happen although nobody asks: lists and certificates renewed before they end, old rows forgotten, the
//! clock watched.

use std::{sync::Arc, time::Duration};

use countersign_identity::UnixTime;
use countersign_keys::SystemRandom;
use countersign_ledger::Event;
use countersign_pki::{issue::Issuer, revocation::CRL_LIFE_MAX};
use countersign_sdk::clock;
use countersign_store::StoreError;
use tokio_util::sync::CancellationToken;

use crate::{
    AuthorityError,
    api::status::{life_used, warnings},
    credentials,
    keys::{self, Sealer},
    modes,
    revocations::{self, CRL_LIFE},
    secrets,
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
        let restored = modes::restore(&self.authority, now).await;
        self.step("floors", restored);
        // Expired entries go, and those that another authority on the same PostgreSQL made come.
        secrets::changed(&self.authority);
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
        if self.rounds.is_multiple_of(WARNING_ROUNDS) {
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
        let issuer = match authority.db.add_key(&key, now).await {
            Ok(()) => Arc::new(issuer),
            // An attempt of before that got no further, or another authority, has made it: that one is announced.
            Err(StoreError::Conflict { .. }) => {
                let rows = authority.db.keys().await?;
                let stored = keys::open(&authority.trust_domain, &authority.master, &rows, now)?;
                let newest = stored.issuing.last().cloned();
                newest.ok_or_else(|| AuthorityError::Ca("no issuing CA is valid".to_owned()))?
            }
            Err(error) => return Err(error.into()),
        };
        self.list_of(&issuer).await?;
        self.announced = Some(Announced { since: now });
        Ok(())
    }

    async fn list_of(&self, issuer: &Arc<Issuer>) -> Result<(), AuthorityError> {
        let published = revocations::announce(&self.authority, issuer).await;
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
            snapshot::publish(&self.authority, Occasion::Renewal).await?;
            Ok(())
        }
    }

    async fn tidy(&self, now: UnixTime) -> Result<(), StoreError> {
        let db = &self.authority.db;
        // What was revoked stays at least until no list has to name it (lesson 54).
        db.tidy_certificates(now, CERTIFICATES_KEPT.max(CRL_LIFE_MAX)).await?;
        db.forget_revocations(now).await?;
        db.tidy_bearers(now).await?;
        db.tidy_issued_tokens(now).await?;
        db.tidy_join_tokens(now).await.map(drop)
    }
}

/// Is a list missing, old, or without something that is revoked?
pub(crate) async fn lists_are_due(authority: &Authority, now: UnixTime) -> Result<bool, StoreError> {
    let crls = authority.db.crls().await?;
    for issuer in &authority.keys.load_full().issuing {
        let Some(list) = crls.iter().find(|list| list.issuer == issuer.serial_hex()) else { return Ok(true) };
        if now.since(list.this_update) >= CRL_RENEW_AFTER
            || revocations::is_incomplete(authority, list, now).await?
        {
            return Ok(true);
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]
    use countersign_pki::{Crl, profile::ISSUING_TTL, revocation::RevocationReason};
    use countersign_store::certificates::Revocation;
    use countersign_wire::snapshot::Snapshot;

    use super::*;
    use crate::{
        issuance::{self, Order, Requester},
        serve::testing,
        state::Authority,
    };

    fn keeper(authority: &Arc<Authority>) -> Keeper {
        Keeper { authority: Arc::clone(authority), announced: None, rounds: 0, stepped_back: None }
    }

    fn signing(authority: &Authority) -> String {
        authority.keys.load().issuing.last().unwrap().serial_hex().to_owned()
    }

    fn lists(authority: &Authority) -> Vec<u64> {
        let signed = authority.snapshots.borrow().clone().unwrap();
        let snapshot = Snapshot::parse(&signed.payload).unwrap();
        snapshot.bundles[0].crls.iter().map(|crl| Crl::read(crl.as_slice()).unwrap().number()).collect()
    }

    #[tokio::test]
    async fn a_new_issuing_ca_has_its_list_everywhere_before_it_signs_and_the_old_one_still_revokes() {
        let (_dir, authority) = testing::authority().await;
        let mut keeper = keeper(&authority);
        let (now, old) = (clock::now(), signing(&authority));
        keeper.look_after_issuing(now).await.unwrap();
        assert_eq!((signing(&authority), lists(&authority).len()), (old.clone(), 1), "a young CA stays");

        let late = now.saturating_add(ISSUING_TTL.mul_f32(0.7));
        keeper.look_after_issuing(late).await.unwrap();
        assert_eq!(signing(&authority), old, "announced, and not signing yet");
        assert_eq!(lists(&authority).len(), 2);
        keeper.look_after_issuing(late.saturating_add(Duration::from_secs(1))).await.unwrap();
        assert_eq!(signing(&authority), old, "not before a round has passed");
        keeper.look_after_issuing(late.saturating_add(ROUND)).await.unwrap();
        assert_ne!(signing(&authority), old);

        let before = lists(&authority);
        revocations::publish_crls(&authority).await.unwrap();
        let after = lists(&authority);
        assert_eq!(after.len(), 2, "both lists go on");
        assert!(after.iter().min() > before.iter().max());
    }

    #[tokio::test]
    async fn lists_are_made_anew_long_before_their_end() {
        let (_dir, authority) = testing::authority().await;
        let now = clock::now();
        assert!(!lists_are_due(&authority, now).await.unwrap());
        assert!(!lists_are_due(&authority, now.saturating_add(CRL_LIFE / 5)).await.unwrap());
        assert!(lists_are_due(&authority, now.saturating_add(CRL_LIFE / 3)).await.unwrap());
        assert!(CRL_RENEW_AFTER + 3 * ROUND < CRL_LIFE);
    }

    #[tokio::test]
    async fn a_revocation_that_was_stored_and_not_published_is_published_by_the_next_round() {
        let (_dir, authority) = testing::authority().await;
        let mut keeper = keeper(&authority);
        let key = countersign_keys::KeyPair::generate(&SystemRandom::new()).unwrap();
        let csr = countersign_pki::csr::make(&key, None).unwrap();
        let id = countersign_identity::SpiffeId::service(&authority.trust_domain, "ads").unwrap();
        let order = Order::Workload { id, ttl: authority.svid_ttl };
        let requester = Requester { name: "uid:0".to_owned(), agent: None, attestation: String::new() };
        let issued = issuance::issue(&authority, &csr, &order, &requester).await.unwrap();
        keeper.round().await;
        let before = lists(&authority);
        let revocation =
            Revocation { at: clock::now(), by: "uid:0".to_owned(), reason: RevocationReason::KeyCompromise };
        let serials = [issued.certificate.serial];
        authority.db.revoke_and_record(&serials, &revocation, &[]).await.unwrap();
        keeper.round().await;
        let after = lists(&authority);
        assert!(after > before, "{after:?} after {before:?}");
        keeper.round().await;
        assert_eq!(lists(&authority), after, "once is enough");
    }

    #[tokio::test]
    async fn an_issuing_ca_that_was_made_and_never_announced_is_announced_by_the_next_round() {
        let (_dir, authority) = testing::authority().await;
        let mut keeper = keeper(&authority);
        let late = clock::now().saturating_add(ISSUING_TTL.mul_f32(0.7));
        keeper.look_after_issuing(late).await.unwrap();
        // As if the list could not be published.
        keeper.announced = None;
        keeper.look_after_issuing(late).await.unwrap();
        assert!(keeper.announced.is_some());
        let old = signing(&authority);
        keeper.look_after_issuing(late.saturating_add(ROUND)).await.unwrap();
        assert_ne!(signing(&authority), old);
    }

    #[tokio::test]
    async fn warns_of_a_ca_that_has_used_eighty_per_cent_of_its_life_and_not_earlier() {
        let (_dir, authority) = testing::authority().await;
        let now = clock::now();
        assert!(warnings(&authority, now.saturating_add(ISSUING_TTL.mul_f32(0.79))).is_empty());
        let found = warnings(&authority, now.saturating_add(ISSUING_TTL.mul_f32(0.81)));
        assert_eq!(found.len(), 1);
        assert!(found[0].text.contains("issuing has used 81 %"), "{}", found[0].text);
        let all = warnings(&authority, now.saturating_add(Duration::from_secs(9 * 365 * 86_400)));
        assert_eq!(all.len(), 3);
    }

    #[tokio::test]
    async fn own_credentials_are_renewed_at_half_of_their_life() {
        let (_dir, authority) = testing::authority().await;
        let serial = |trust: &countersign_sdk::tls::TrustState| {
            trust.load().identity().unwrap().serial_hex().to_owned()
        };
        let before = (serial(&authority.trust), serial(&authority.edge));
        let now = clock::now();
        credentials::renew(&authority, now).await.unwrap();
        assert_eq!((serial(&authority.trust), serial(&authority.edge)), before);
        credentials::renew(&authority, now.saturating_add(Duration::from_secs(1800))).await.unwrap();
        assert_ne!(serial(&authority.trust), before.0);
        assert_eq!(serial(&authority.edge), before.1);
        credentials::renew(&authority, now.saturating_add(Duration::from_secs(16 * 86_400))).await.unwrap();
        assert_ne!(serial(&authority.edge), before.1);
    }

    #[tokio::test]
    async fn a_failure_of_the_house_is_an_error_of_its_own_kind() {
        let (_dir, authority) = testing::authority().await;
        authority.db.close().await;
        let failed = revocations::publish_crls(&authority).await.unwrap_err();
        assert!(matches!(failed, revocations::RevokeError::Store(_)), "{failed}");
        let failed = snapshot::publish(&authority, Occasion::Change).await.unwrap_err();
        assert!(matches!(failed, snapshot::PublishError::Store(_)), "{failed}");
        assert!(matches!(revocations::RevokeError::from(failed), revocations::RevokeError::Publish(_)));
        let failed = revocations::RevokeError::from(countersign_pki::revocation::MakeCrlError::NextUpdate);
        assert!(matches!(failed, revocations::RevokeError::Crl(_)));
        let failed = revocations::RevokeError::Serial { serial: "zz".to_owned() };
        assert!(failed.to_string().contains("zz"));
    }
}
