//! Keys that are registered for services, so that their proofs need no certificate (section 4.2.3 of the thesis): and
//! what becomes of everything by which a service can prove itself when its identity is taken back.

use std::sync::Arc;

use countersign_identity::SpiffeId;
use countersign_keys::{AgreementJwkError, AgreementPublicKey, JwkError, PublicKey};
use countersign_ledger::Event;
use countersign_sdk::clock;
use countersign_store::{
    StoreError,
    revoked::{Revoked, RevokedKind},
    workload_keys::WorkloadKey as Stored,
};
use countersign_wire::{
    json::JsonError,
    snapshot::{Jwk, KeyPurpose, WorkloadKey},
};

use crate::{journal::Change, secrets, state::Authority};

/// Why a key is not registered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum RegisterKeyError {
    /// The signing key itself.
    #[error("the key cannot be used: {0}")]
    Signing(#[from] JwkError),
    /// The encryption key itself.
    #[error("the key cannot be used: {0}")]
    Encryption(#[from] AgreementJwkError),
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Registers a public key for `owner`. Data planes know it with the next snapshot.
pub(crate) async fn register(
    authority: &Arc<Authority>,
    owner: SpiffeId,
    purpose: KeyPurpose,
    jwk: &Jwk,
    by: String,
) -> Result<Stored, RegisterKeyError> {
    let (kid, jwk) = match purpose {
        KeyPurpose::Signing => {
            let key = PublicKey::from_jwk(jwk.as_str())?;
            (key.thumbprint(), key.to_jwk())
        }
        KeyPurpose::Encryption => {
            let key = AgreementPublicKey::from_jwk(jwk.as_str())?;
            (key.thumbprint(), key.to_jwk())
        }
    };
    let purpose = text(purpose).to_owned();
    let event = Event::WorkloadKeyRegistered {
        owner: owner.clone(),
        kid: kid.clone(),
        purpose: purpose.clone(),
        registered_by: by.clone(),
    };
    let row = Stored { owner, kid, purpose, jwk, registered_by: by, registered_at: clock::now() };
    let stored = row.clone();
    authority
        .journal
        .with(vec![event], |db, records| async move {
            db.register_workload_key(&row, &records).await.map(Change::Recorded)
        })
        .await?;
    Ok(stored)
}

/// Withdraws a key of `owner`, for ever.
pub(crate) async fn withdraw(
    authority: &Arc<Authority>,
    owner: SpiffeId,
    kid: String,
    by: String,
) -> Result<(), StoreError> {
    let event = Event::WorkloadKeyWithdrawn { owner: owner.clone(), kid: kid.clone(), withdrawn_by: by };
    authority
        .journal
        .with(vec![event], move |db, records| async move {
            db.withdraw_workload_key(&owner, &kid, &records, clock::now()).await.map(Change::Recorded)
        })
        .await
}

/// Takes back everything by which `owner` can prove itself without a certificate: its registered keys, its bearer
/// tokens, and every signed token that may be alive. Whoever stole its identity may hold any of them.
pub(crate) async fn withdraw_all(
    authority: &Arc<Authority>,
    owner: &SpiffeId,
    by: &str,
) -> Result<(), StoreError> {
    let now = clock::now();
    authority.db.withdraw_workload_keys_of(owner, now).await?;
    if authority.db.revoke_bearers_of(owner, now).await? > 0 {
        secrets::changed(authority);
    }
    for token in authority.db.issued_tokens_of(owner, now).await? {
        let row = Revoked {
            kind: RevokedKind::Token,
            id: token.id,
            issued_before: now,
            until: token.expires_at,
            by: by.to_owned(),
        };
        match authority.db.revoke(&row, &[], now).await {
            // A list that is full must not keep the certificates from being revoked.
            Err(error @ StoreError::Conflict { .. }) => {
                tracing::error!(%error, %owner, "a token of a revoked service counts until it expires");
            }
            revoked => revoked?,
        }
    }
    Ok(())
}

/// Registered keys as data planes get them.
pub(crate) fn on_the_wire(row: Stored) -> Result<WorkloadKey, UnreadableKey> {
    let purpose = purpose(&row.purpose)?;
    Ok(WorkloadKey { owner: row.owner, purpose, jwk: Jwk::from_text(&row.jwk)? })
}

/// A row that we did not write.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum UnreadableKey {
    /// Its purpose.
    #[error(transparent)]
    Purpose(#[from] StoreError),
    /// Its JWK.
    #[error(transparent)]
    Jwk(#[from] JsonError),
}

/// What a stored key is for.
pub(crate) fn purpose(stored: &str) -> Result<KeyPurpose, StoreError> {
    let known = [KeyPurpose::Signing, KeyPurpose::Encryption];
    let found = known.into_iter().find(|purpose| text(*purpose) == stored);
    found.ok_or(StoreError::Corrupt { table: "workload_keys", column: "purpose" })
}

fn text(purpose: KeyPurpose) -> &'static str {
    match purpose {
        KeyPurpose::Signing => "signing",
        KeyPurpose::Encryption => "encryption",
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use countersign_identity::UnixTime;

    use super::*;

    fn row(purpose: &str, jwk: &str) -> Stored {
        Stored {
            owner: SpiffeId::parse("spiffe://fleamarket.test/svc/ads").unwrap(),
            kid: "k".to_owned(),
            purpose: purpose.to_owned(),
            jwk: jwk.to_owned(),
            registered_by: "uid:0".to_owned(),
            registered_at: UnixTime::from_secs(0),
        }
    }

    #[test]
    fn rejects_a_stored_key_that_cannot_be_read_instead_of_leaving_it_out() {
        assert!(on_the_wire(row("signing", "{}")).is_ok());
        assert!(matches!(on_the_wire(row("other", "{}")), Err(UnreadableKey::Purpose(_))));
        assert!(matches!(on_the_wire(row("encryption", "{")), Err(UnreadableKey::Jwk(_))));
    }

    #[test]
    fn a_key_that_is_refused_says_of_which_kind_it_was_to_be() {
        let signing = RegisterKeyError::from(JwkError::Private);
        assert!(matches!(signing, RegisterKeyError::Signing(_)));
        let encryption = RegisterKeyError::from(AgreementPublicKey::from_jwk("{}").unwrap_err());
        assert!(matches!(encryption, RegisterKeyError::Encryption(_)));
        assert!(matches!(RegisterKeyError::from(StoreError::Busy), RegisterKeyError::Store(_)));
    }
}
