//! What an authority tells its services: a snapshot with its roots and its revocation list.

use std::{sync::atomic::Ordering, time::Duration};

use countersign_sdk::{
    clock,
    snapshot::{SnapshotKeys, sign},
};
use countersign_wire::{
    Base64,
    snapshot::{AccessTokenKeys, FORMAT, Policies, Revoked, Snapshot, TrustBundle},
};

use super::Weak;
use crate::attack::{AttackError, News};

impl Weak {
    /// The next snapshot.
    pub(crate) fn news(&self) -> Result<News, AttackError> {
        let now = clock::now();
        let (roots, crls) = self.pki.published()?;
        let snapshot = Snapshot {
            format: FORMAT,
            trust_domain: self.trust_domain.clone(),
            epoch: "first".to_owned(),
            sequence: self.house.snapshots.fetch_add(1, Ordering::SeqCst) + 1,
            issued_at: now,
            valid_until: now.saturating_add(FRESH),
            critical: Vec::new(),
            bundles: vec![TrustBundle {
                trust_domain: self.trust_domain.clone(),
                roots: roots.iter().map(|der| Base64(der.to_vec())).collect(),
                crls: crls.into_iter().map(Base64).collect(),
            }],
            access_token: AccessTokenKeys {
                issuer: self.issuer(),
                audience: self.audience(),
                keys: Vec::new(),
            },
            internal_token_keys: Vec::new(),
            services: Vec::new(),
            policies: Policies { generation: 1, files: Vec::new() },
            ledger_head: None,
            pseudonym_key: None,
            token_authorities: Vec::new(),
            workload_keys: Vec::new(),
            revoked: Revoked::default(),
            sts: None,
        };
        let signed = sign(&snapshot, &self.login_key);
        let signed = signed.map_err(|error| AttackError::equipment("a snapshot", error))?;
        Ok(News { signed, keys: SnapshotKeys::new(vec![self.login_key.public_key().clone()]) })
    }
}

const FRESH: Duration = Duration::from_secs(60);
