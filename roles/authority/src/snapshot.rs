//! What the data planes need in order to decide alone: collected, numbered, signed, handed out.

use std::{sync::Arc, time::Duration};

use countersign_identity::{IdKind, UnixTime};
use countersign_keys::{KeyPair, SignError};
use countersign_ledger::{
    Event, SignedHead,
    head::{Head, HeadError},
};
use countersign_pki::{Bundle, BundleSet, Crl};
use countersign_sdk::{clock, live::CompileError};
use countersign_store::{StoreError, certificates::StoredCrl, revoked::RevokedKind};
use countersign_wire::{
    Base64, SecretText,
    json::JsonError,
    snapshot::{
        AccessTokenKeys, FORMAT, InternalTokenKey, Jwk, LedgerHead, Policies, PolicyFile, Revoked,
        RevokedToken, RevokedUser, ServiceAddress, Snapshot, Sts, TokenAuthority, TrustBundle,
    },
};

use crate::{
    api::TOKEN_ENDPOINT,
    federation::{self, Peer},
    keys::Keys,
    proof_keys::{self, UnreadableKey},
    state::Authority,
};

/// How long a snapshot is fresh. As long as a workload's certificate: with the authority down, both end together.
const FRESH: Duration = Duration::from_secs(3600);
/// A gateway publishes its key again three times in this span; one that does not is gone, and so is its key.
const TOKEN_KEY_LIFE: Duration = Duration::from_secs(3600);

/// Why there is a new snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Occasion {
    /// Something in it changed.
    Change,
    /// Nothing changed but time and the head of the ledger.
    Renewal,
}

/// Why no snapshot was made; the one before stays in force.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum PublishError {
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The signature.
    #[error(transparent)]
    Sign(#[from] SignError),
    /// The head of the ledger.
    #[error(transparent)]
    Head(#[from] HeadError),
    /// A key that was published.
    #[error("a published key cannot be read: {0}")]
    Key(#[from] JsonError),
    /// A key that was registered for a service.
    #[error("a registered key cannot be read: {0}")]
    WorkloadKey(#[from] UnreadableKey),
    /// The snapshot is not one that a data plane could use.
    #[error("the snapshot cannot be used: {0}")]
    Compile(#[from] CompileError),
    /// Our own roots or lists.
    #[error("our own bundle cannot be read: {why}")]
    Bundle {
        /// What is wrong.
        why: String,
    },
}

/// Makes the next snapshot and hands it to every stream at once. Our own listeners judge by it first.
/// Returns its number.
pub(crate) async fn publish(authority: &Authority, occasion: Occasion) -> Result<u64, PublishError> {
    let _one_at_a_time = authority.publishing.lock().await;
    let now = clock::now();
    // First the number, then what it stands for: a greater number of another authority never knows less.
    let sequence = authority.db.next_snapshot_sequence().await?;
    let crls = authority.db.crls().await?;
    let peers = federation::peers(authority).await?;
    authority.trust.set_bundles(bundle_set(authority, &crls, &peers)?);
    let head = sign_head(authority, now).await?;
    let snapshot = collect(authority, sequence, crls, peers, head, now).await?;
    let signed = countersign_sdk::snapshot::sign(&snapshot, authority.keys.load().snapshot.current())?;
    tracing::debug!(sequence = snapshot.sequence, ?occasion, "snapshot published");
    authority.snapshots.send_replace(Some(Arc::new(signed)));
    let epoch = snapshot.epoch.clone();
    // The token service judges by what all others judge by.
    authority.sts.take(snapshot)?;
    // A renewal a minute would say nothing that the next change does not say.
    if occasion == Occasion::Change {
        authority.journal.note(Event::SnapshotPublished { epoch, sequence });
    }
    Ok(sequence)
}

/// What a handler does after a change that is already durable: a failure here is logged and mended by upkeep.
pub(crate) async fn publish_change(authority: &Authority) {
    if let Err(error) = publish(authority, Occasion::Change).await {
        tracing::error!(%error, "no snapshot could be made; trying again within a minute");
    }
}

/// By what our own listeners judge: the same roots and lists that all others get.
pub(crate) fn bundle_set(
    authority: &Authority,
    crls: &[StoredCrl],
    peers: &[Peer],
) -> Result<BundleSet, PublishError> {
    let crls: Vec<Crl> =
        crls.iter().map(|crl| Crl::read(&crl.der)).collect::<Result<_, _>>().map_err(bundle_error)?;
    let root = authority.keys.load().workload_root.certificate().clone();
    let bundle = Bundle::new(authority.trust_domain.clone(), vec![root], crls).map_err(bundle_error)?;
    Ok(std::iter::once(bundle).chain(peers.iter().filter_map(|peer| peer.bundle.clone())).collect())
}

/// Signs the head of the ledger as it is now, and keeps it.
pub(crate) async fn sign_head(authority: &Authority, now: UnixTime) -> Result<SignedHead, PublishError> {
    let log = authority.db.log_state().await?;
    let head = Head::of(&log, authority.trust_domain.clone(), authority.epoch.clone(), now);
    let signed = SignedHead::sign(&head, authority.keys.load().ledger.current())?;
    authority.db.save_head(&signed, log.size(), now).await?;
    Ok(signed)
}

/// The form in which a head travels.
pub(crate) fn head_on_the_wire(head: SignedHead) -> LedgerHead {
    LedgerHead { payload: head.payload, kid: head.kid, signature: head.signature }
}

async fn collect(
    authority: &Authority,
    sequence: u64,
    crls: Vec<StoredCrl>,
    peers: Vec<Peer>,
    head: SignedHead,
    now: UnixTime,
) -> Result<Snapshot, PublishError> {
    let keys = authority.keys.load_full();
    let token_keys = authority.db.token_keys(now.saturating_sub(TOKEN_KEY_LIFE)).await?;
    let policies = authority.db.policies().await?;
    Ok(Snapshot {
        format: FORMAT,
        trust_domain: authority.trust_domain.clone(),
        epoch: authority.epoch.clone(),
        sequence,
        issued_at: now,
        valid_until: now.saturating_add(FRESH),
        critical: Vec::new(),
        bundles: std::iter::once(TrustBundle {
            trust_domain: authority.trust_domain.clone(),
            roots: vec![Base64(keys.workload_root.certificate().to_vec())],
            crls: crls.into_iter().map(|crl| Base64(crl.der)).collect(),
        })
        .chain(peers.iter().filter_map(Peer::trust_bundle))
        .collect(),
        access_token: AccessTokenKeys {
            issuer: authority.issuer.clone(),
            audience: authority.audience.clone(),
            keys: keys.access_token.all().map(jwk).collect::<Result<_, _>>()?,
        },
        internal_token_keys: token_keys
            .into_iter()
            .map(|key| Ok(InternalTokenKey { owner: key.owner, jwk: Jwk::from_text(&key.jwk)? }))
            .chain(
                keys.txn
                    .all()
                    .map(|key| Ok(InternalTokenKey { owner: authority.id.clone(), jwk: jwk(key)? })),
            )
            .collect::<Result<_, JsonError>>()?,
        services: services(authority).await?,
        policies: Policies {
            generation: policies.generation,
            files: policies
                .files
                .into_iter()
                .map(|file| PolicyFile { name: file.name, text: file.text })
                .collect(),
        },
        ledger_head: Some(head_on_the_wire(head)),
        pseudonym_key: Some(SecretText::new(keys.pseudonym_text.expose().clone())),
        token_authorities: std::iter::once(token_authority(authority, &keys)?)
            .chain(peers.into_iter().map(|peer| peer.tokens))
            .collect(),
        workload_keys: authority
            .db
            .workload_keys()
            .await?
            .into_iter()
            .map(proof_keys::on_the_wire)
            .collect::<Result<_, _>>()?,
        revoked: revoked(authority.db.revocations(now).await?),
        sts: Some(Sts {
            issuer: authority.issuer.clone(),
            token_endpoint: format!("{}{TOKEN_ENDPOINT}", authority.issuer),
            roots: vec![Base64(keys.edge_root.certificate().to_vec())],
        }),
    })
}

/// Keys with which we sign tokens about our own members.
pub(crate) fn token_authority(authority: &Authority, keys: &Keys) -> Result<TokenAuthority, JsonError> {
    Ok(TokenAuthority {
        trust_domain: authority.trust_domain.clone(),
        issuer: authority.issuer.clone(),
        jwt_svid: keys.jwt_svid.all().map(jwk).collect::<Result<_, _>>()?,
        wit: keys.wit.all().map(jwk).collect::<Result<_, _>>()?,
        exchange: keys.exchange.all().map(jwk).collect::<Result<_, _>>()?,
    })
}

/// Those that have modes: services, which can be called, and gateways, which only call and have no address.
async fn services(authority: &Authority) -> Result<Vec<ServiceAddress>, StoreError> {
    let all = authority.db.services().await?;
    let listed = all.into_iter().filter(|service| match service.spiffe_id.kind() {
        IdKind::Service(_) => !service.address.is_empty(),
        kind => matches!(kind, IdKind::Gateway(_)),
    });
    let address = |service: countersign_store::services::Service| ServiceAddress {
        name: service.name,
        spiffe_id: service.spiffe_id,
        address: service.address,
        accepts: service.accepts,
        sends: service.sends,
        user_context: service.user_context,
        wimse: service.wimse,
    };
    Ok(listed.map(address).collect())
}

fn revoked(rows: Vec<countersign_store::revoked::Revoked>) -> Revoked {
    let mut revoked = Revoked::default();
    for row in rows {
        let token = RevokedToken { id: row.id.clone(), until: row.until };
        match row.kind {
            RevokedKind::Token => revoked.tokens.push(token),
            RevokedKind::Key => revoked.keys.push(token),
            RevokedKind::User => {
                let RevokedToken { id, until } = token;
                revoked.users.push(RevokedUser { id, issued_before: row.issued_before, until });
            }
        }
    }
    revoked
}

fn jwk(key: &KeyPair) -> Result<Jwk, JsonError> {
    Jwk::from_text(&key.public_key().to_jwk())
}

fn bundle_error(error: impl ToString) -> PublishError {
    PublishError::Bundle { why: error.to_string() }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use countersign_sdk::snapshot::SnapshotKeys;

    use super::*;
    use crate::serve::testing;

    #[tokio::test]
    async fn every_snapshot_is_signed_numbered_upwards_and_carries_the_head_of_the_ledger() {
        let (_dir, authority) = testing::authority().await;
        let keys = authority.keys.load_full();
        let verifying = SnapshotKeys::new(keys.snapshot.all().map(|key| key.public_key().clone()).collect());
        let read = || {
            let signed = authority.snapshots.borrow().clone().unwrap();
            verifying.verify(&signed, &authority.trust_domain).unwrap()
        };
        let first = read();
        publish(&authority, Occasion::Renewal).await.unwrap();
        let second = read();
        assert!(second.sequence > first.sequence && second.epoch == first.epoch);
        assert!(second.valid_until > second.issued_at);
        let head = second.ledger_head.unwrap();
        let head = SignedHead { payload: head.payload, kid: head.kid, signature: head.signature };
        let ledger_key = keys.ledger.current().public_key();
        head.verify(|kid| (kid == ledger_key.thumbprint()).then(|| ledger_key.clone())).unwrap();
    }

    #[tokio::test]
    async fn rejects_a_stored_list_that_cannot_be_read_instead_of_leaving_it_out() {
        let (_dir, authority) = testing::authority().await;
        let now = clock::now();
        let broken = StoredCrl {
            issuer: "ff".to_owned(),
            number: 9,
            der: b"nothing".to_vec(),
            this_update: now,
            next_update: now,
            entries: 0,
        };
        let refused = bundle_set(&authority, &[broken], &[]).unwrap_err();
        assert!(matches!(refused, PublishError::Bundle { .. }), "{refused}");
    }

    #[test]
    fn each_failure_keeps_its_own_words() {
        assert!(matches!(PublishError::from(SignError::Failed), PublishError::Sign(_)));
        assert!(matches!(PublishError::from(HeadError::BadSignature), PublishError::Head(_)));
        let key = Jwk::from_text("not a key").map(drop).map_err(PublishError::from);
        assert!(matches!(key, Err(PublishError::Key(_))));
        let key = PublishError::from(UnreadableKey::from(StoreError::NotFounded));
        assert!(matches!(key, PublishError::WorkloadKey(_)));
    }
}
