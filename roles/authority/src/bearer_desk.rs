//! Bearer tokens: made here, told once, kept as hashes alone, each under the key of the callee that may see it.

use std::{sync::Arc, time::Duration};

use countersign_identity::{SpiffeId, UnixTime, Verified};
use countersign_keys::SystemRandom;
use countersign_ledger::Event;
use countersign_sdk::clock;
use countersign_store::{
    Db, StoreError,
    bearer::{Bearer, NewBearer},
    revoked::{Revoked, RevokedKind},
};
use countersign_token::{
    BearerEntry, BearerError, BearerHash, BearerHolder, BearerKey, BearerToken, Revoked as RevokedTokens,
    RevokedError, bearer,
};

use crate::{journal::Change, keys::Keys, secrets, snapshot, state::Authority, token_desk::TokenError};

/// For whom, where, and for how long.
pub(crate) struct Wanted {
    pub(crate) owner: SpiffeId,
    pub(crate) scope: Vec<SpiffeId>,
    pub(crate) life: Duration,
    pub(crate) issued_by: String,
}

/// A token, and until when it counts.
pub(crate) struct Made {
    pub(crate) token: BearerToken,
    pub(crate) issued_at: UnixTime,
    pub(crate) expires_at: UnixTime,
}

/// A token that was issued, expired and revoked ones among them, and what one callee of its scope holds of it.
pub(crate) struct Known {
    pub(crate) stored: Bearer,
    /// `None` where it does not count at the callee that was asked about.
    pub(crate) entry: Option<BearerEntry>,
    callee: SpiffeId,
}

impl Known {
    /// Looks `token` up as `callee` would, or as any callee of its scope; `None` for what was never issued.
    pub(crate) async fn of(
        db: &Db,
        token: &str,
        callee: Option<&SpiffeId>,
    ) -> Result<Option<Self>, StoreError> {
        let Ok(token) = BearerToken::parse(token) else { return Ok(None) };
        // Those that expired too, as long as they are kept: why one counts no longer may be asked.
        let stored = db.bearer(&token.id().to_string(), UnixTime::from_secs(0)).await?;
        let Some(stored) = stored else { return Ok(None) };
        let Some(callee) = callee.or(stored.scope.first()).cloned() else { return Ok(None) };
        let hash = db.bearer_hash(&stored.id, &callee).await?.and_then(|hash| hash.try_into().ok());
        let entry = hash.map(|hash| BearerEntry {
            owner: stored.owner.clone(),
            hash: BearerHash(hash),
            expires: stored.expires_at,
        });
        Ok(Some(Self { stored, entry, callee }))
    }

    /// Judges `token` as the callee would; whether it was taken back is [`Known::not_revoked`].
    pub(crate) fn judge(
        &self,
        token: &str,
        keys: &Keys,
        now: UnixTime,
    ) -> Result<Verified<BearerHolder>, BearerError> {
        let key = BearerKey::new(*secrets::bearer_key(keys, &self.callee).expose());
        bearer::verify(token, &key, now, |_| self.entry.clone())
    }

    /// By its own id or by its owner: of the former the database knows before any list does.
    pub(crate) fn not_revoked(
        &self,
        holder: &BearerHolder,
        revoked: &RevokedTokens,
        now: UnixTime,
    ) -> Result<(), RevokedError> {
        if self.stored.revoked_at.is_some() {
            return Err(RevokedError::Token { id: self.stored.id.clone() });
        }
        revoked.judge(&holder.facts(now))
    }
}

/// Makes a token; every callee that listens knows it when this returns.
pub(crate) async fn issue(authority: &Arc<Authority>, wanted: Wanted) -> Result<Made, TokenError> {
    let (made, row) = make(&authority.keys.load(), &wanted)?;
    let event = issued(&row, &wanted.scope, None);
    let generation = authority
        .journal
        .with(
            vec![event],
            |db, records| async move { db.add_bearer(&row, &records).await.map(Change::Recorded) },
        )
        .await?;
    tell(authority, &wanted.scope, generation).await;
    Ok(made)
}

/// Makes a token in the place of `old`, which counts for `overlap` yet.
pub(crate) async fn replace(
    authority: &Arc<Authority>,
    old: Bearer,
    overlap: Duration,
    by: String,
) -> Result<Made, TokenError> {
    let life = old.expires_at.since(old.issued_at);
    let wanted = Wanted { owner: old.owner, scope: old.scope, life, issued_by: by };
    let (made, row) = make(&authority.keys.load(), &wanted)?;
    let event = issued(&row, &wanted.scope, Some(old.id.clone()));
    let ends_at = made.issued_at.saturating_add(overlap);
    let generation = authority
        .journal
        .with(vec![event], move |db, records| async move {
            db.replace_bearer(&old.id, ends_at, &row, &records).await.map(Change::Recorded)
        })
        .await?;
    tell(authority, &wanted.scope, generation).await;
    Ok(made)
}

/// Takes a token back: its entry goes from every callee, and its id into the snapshot.
pub(crate) async fn revoke(authority: &Arc<Authority>, token: &Bearer, by: &str) -> Result<(), StoreError> {
    let now = clock::now();
    let event = Event::TokenRevoked {
        what: RevokedKind::Token.as_str().to_owned(),
        id: token.id.clone(),
        revoked_by: by.to_owned(),
    };
    let id = token.id.clone();
    let generation = authority
        .journal
        .with(vec![event], move |db, records| async move {
            db.revoke_bearer(&id, now, &records).await.map(Change::Recorded)
        })
        .await?;
    let row = Revoked {
        kind: RevokedKind::Token,
        id: token.id.clone(),
        issued_before: now,
        until: token.expires_at,
        by: by.to_owned(),
    };
    // The entry is gone, which is what counts; the list speaks to those who cached a verdict.
    if let Err(error) = authority.db.revoke(&row, &[], now).await {
        tracing::error!(%error, id = token.id, "a revoked bearer token is not on the list of revocations");
    }
    snapshot::publish_change(authority).await;
    tell(authority, &token.scope, generation).await;
    Ok(())
}

fn make(keys: &Keys, wanted: &Wanted) -> Result<(Made, NewBearer), TokenError> {
    let token = BearerToken::mint(&SystemRandom::new())?;
    let hash = |callee: &SpiffeId| {
        let key = BearerKey::new(*secrets::bearer_key(keys, callee).expose());
        (callee.clone(), key.hash(&token).0)
    };
    let issued_at = clock::now();
    let expires_at = issued_at.saturating_add(wanted.life);
    let row = NewBearer {
        id: token.id().to_string(),
        owner: wanted.owner.clone(),
        hashes: wanted.scope.iter().map(hash).collect(),
        issued_by: wanted.issued_by.clone(),
        issued_at,
        expires_at,
    };
    Ok((Made { token, issued_at, expires_at }, row))
}

fn issued(row: &NewBearer, scope: &[SpiffeId], replaces: Option<String>) -> Event {
    Event::WorkloadTokenIssued {
        what: "bearer".to_owned(),
        id: row.id.clone(),
        owner: row.owner.clone(),
        audience: scope.iter().map(ToString::to_string).collect(),
        issued_by: row.issued_by.clone(),
        replaces,
        expires: row.expires_at,
    }
}

async fn tell(authority: &Authority, scope: &[SpiffeId], generation: u64) {
    secrets::changed(authority);
    secrets::known_to(authority, scope, generation).await;
}
