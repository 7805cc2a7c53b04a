//! Taking certificates back, so that everybody knows within moments: store, numbered list, snapshot.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use countersign_identity::{IdKind, SpiffeId, UnixTime};
use countersign_ledger::Event;
use countersign_pki::{
    Crl,
    issue::Issuer,
    revocation::{CRL_LIFE_MAX, MakeCrlError, RevocationReason, RevokedEntry, make_crl},
};
use countersign_sdk::clock;
use countersign_store::{
    StoreError,
    certificates::{Certificate, Revocation, StoredCrl},
};

use crate::{
    journal::Change,
    proof_keys,
    snapshot::{self, PublishError},
    state::Authority,
};

/// From thisUpdate to nextUpdate. It bounds how long data planes can work with the authority down.
pub(crate) const CRL_LIFE: Duration = Duration::from_secs(24 * 3600);
/// How often a list may lose against another authority before that is an error.
const ATTEMPTS_MAX: u32 = 8;

/// Why a revocation is not published. What is revoked stays revoked; upkeep tries again.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum RevokeError {
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The list.
    #[error(transparent)]
    Crl(#[from] MakeCrlError),
    /// The snapshot.
    #[error(transparent)]
    Publish(#[from] PublishError),
    /// A stored serial is not hexadecimal.
    #[error("serial {serial} in the database is not hexadecimal")]
    Serial {
        /// The serial.
        serial: String,
    },
}

/// Revokes certificates and tells everybody. Returns the serials that counted until now and the number of the
/// newest list that carries them.
pub(crate) async fn revoke(
    authority: &Arc<Authority>,
    certificates: &[Certificate],
    reason: RevocationReason,
    by: &str,
) -> Result<(Vec<String>, u64), RevokeError> {
    let live: Vec<&Certificate> = certificates.iter().filter(|c| c.revocation.is_none()).collect();
    let events = live.iter().map(|certificate| Event::CertificateRevoked {
        spiffe_id: certificate.spiffe_id.clone().unwrap_or_else(|| authority.id.clone()),
        serial: certificate.serial.clone(),
        reason: reason.as_str().to_owned(),
        revoked_by: by.to_owned(),
    });
    let serials: Vec<String> = live.iter().map(|certificate| certificate.serial.clone()).collect();
    // A revoked gateway's tokens must not outlive it: whoever holds its key could speak for every user.
    for gateway in
        live.iter().filter_map(|c| c.spiffe_id.as_ref()).filter(|id| matches!(id.kind(), IdKind::Gateway(_)))
    {
        authority.db.withdraw_token_keys(gateway, clock::now()).await?;
    }
    let owners: BTreeSet<&SpiffeId> = live.iter().filter_map(|c| c.spiffe_id.as_ref()).collect();
    for owner in owners {
        proof_keys::withdraw_all(authority, owner, by).await?;
    }
    let revocation = Revocation { at: clock::now(), by: by.to_owned(), reason };
    let revoked = authority
        .journal
        .with(events.collect(), |db, records| async move {
            db.revoke_and_record(&serials, &revocation, &records).await.map(Change::Recorded)
        })
        .await?;
    metrics::counter!("countersign_certificates_revoked_total").increment(revoked.len() as u64);
    let number = publish_crls(authority).await?;
    Ok((revoked, number))
}

/// Signs and publishes a new list of every CA that still has certificates, then a snapshot with all of them.
/// Returns the greatest number.
pub(crate) async fn publish_crls(authority: &Arc<Authority>) -> Result<u64, RevokeError> {
    let mut newest = 0;
    for issuer in &authority.keys.load_full().issuing {
        newest = newest.max(publish_crl(authority, issuer).await?);
    }
    snapshot::publish(authority, snapshot::Occasion::Change).await?;
    Ok(newest)
}

/// The first list of a CA that does not sign yet.
pub(crate) async fn announce(authority: &Arc<Authority>, issuer: &Arc<Issuer>) -> Result<(), RevokeError> {
    publish_crl(authority, issuer).await?;
    snapshot::publish(authority, snapshot::Occasion::Change).await?;
    Ok(())
}

/// Is something revoked that the newest list does not name? Then it was never published: the process ended, or the
/// database failed, between the two.
pub(crate) async fn is_incomplete(
    authority: &Authority,
    list: &StoredCrl,
    now: UnixTime,
) -> Result<bool, StoreError> {
    let Ok(published) = Crl::read(&list.der) else { return Ok(true) };
    let revoked = authority.db.revoked(&list.issuer, now).await?;
    let is_named = |certificate: &Certificate| {
        bytes_of_hex(&certificate.serial).is_some_and(|s| published.is_revoked(&s))
    };
    Ok(!revoked.iter().all(is_named))
}

async fn publish_crl(authority: &Arc<Authority>, issuer: &Arc<Issuer>) -> Result<u64, RevokeError> {
    for _ in 0..ATTEMPTS_MAX {
        // First the number, then what is revoked: a greater number never knows less.
        let number = authority.db.next_crl_number().await?;
        let now = clock::now();
        // Also what expired lately: each is on one list that was made after its end (RFC 5280 section 3.3).
        let revoked = authority.db.revoked(issuer.serial_hex(), now.saturating_sub(CRL_LIFE_MAX)).await?;
        let entries: Vec<RevokedEntry> = revoked.iter().filter_map(entry).collect();
        if let Some(unreadable) = revoked.iter().find(|certificate| entry(certificate).is_none()) {
            return Err(RevokeError::Serial { serial: unreadable.serial.clone() });
        }
        let next_update = now.saturating_add(CRL_LIFE);
        let der = make_crl(issuer, number, &entries, now, next_update)?;
        let count = u64::try_from(entries.len()).unwrap_or(u64::MAX);
        let issuer = issuer.serial_hex().to_owned();
        let crl = StoredCrl { issuer, number, der, this_update: now, next_update, entries: count };
        match keep(authority, crl, now).await {
            Ok(()) => return Ok(number),
            // Somebody else published a list with a greater number, which may not know what we know.
            Err(StoreError::NotNewer { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Err(StoreError::Busy.into())
}

async fn keep(authority: &Arc<Authority>, crl: StoredCrl, now: UnixTime) -> Result<(), StoreError> {
    let (number, entries, next_update) = (crl.number, crl.entries, crl.next_update);
    let events = vec![Event::CrlPublished { number, entries, next_update }];
    authority
        .journal
        .with(events, move |db, records| async move {
            db.publish_crl(&crl, &records, now).await.map(Change::Recorded)
        })
        .await
}

fn entry(certificate: &Certificate) -> Option<RevokedEntry> {
    let revocation = certificate.revocation.as_ref()?;
    let serial = bytes_of_hex(&certificate.serial)?;
    Some(RevokedEntry {
        serial,
        at: revocation.at,
        reason: revocation.reason,
        not_after: certificate.not_after,
    })
}

/// Hex without leading zeros, as serials are written.
fn bytes_of_hex(text: &str) -> Option<Vec<u8>> {
    let even = if text.len().is_multiple_of(2) { text.to_owned() } else { format!("0{text}") };
    let (pairs, _) = even.as_bytes().as_chunks::<2>();
    let byte = |pair: &[u8; 2]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    pairs.iter().map(byte).collect::<Option<Vec<u8>>>().filter(|bytes| !bytes.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn serials_are_read_as_they_are_written() {
        assert_eq!(bytes_of_hex("a1"), Some(vec![0xa1]));
        assert_eq!(bytes_of_hex("1a1"), Some(vec![0x01, 0xa1]));
        assert_eq!(bytes_of_hex(""), None);
        assert_eq!(bytes_of_hex("xy"), None);
        assert_eq!(bytes_of_hex("ä"), None);
    }
}
