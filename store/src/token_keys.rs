//! Public keys with which gateways sign internal user tokens.

use countersign_identity::{SpiffeId, UnixTime};
use countersign_ledger::Record;

use crate::ledger::append;
use crate::row::Row;
use crate::{Db, ROWS_MAX, StoreError};

/// Keys of one owner that are kept: the one in use, and those whose tokens may still be on their way. A gateway
/// that restarts in a circle cannot fill the snapshot.
pub const KEYS_PER_OWNER_MAX: u32 = 4;

/// A published key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenKey {
    /// Who signs with it.
    pub owner: SpiffeId,
    /// RFC 7638 thumbprint.
    pub kid: String,
    /// Public JWK.
    pub jwk: String,
    /// When it was published last.
    pub published_at: UnixTime,
}

impl Db {
    /// Stores a key, forgets the owner's oldest ones beyond [`KEYS_PER_OWNER_MAX`], and records it. The same
    /// key again renews its moment.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] when the key belongs to another owner or was withdrawn; those of [`Db::append`]; any of the
    /// database's.
    pub async fn publish_token_key(&self, key: &TokenKey, records: &[Record]) -> Result<(), StoreError> {
        let mut tx = self.begin().await?;
        let done = sqlx::query(
            "INSERT INTO token_keys (trust_domain, owner, kid, jwk, published_at) VALUES ($1, $2, $3, $4, $5) \
             ON CONFLICT (trust_domain, kid) DO UPDATE SET published_at = excluded.published_at \
             WHERE token_keys.owner = excluded.owner AND token_keys.withdrawn_at IS NULL",
        )
        .bind(self.domain())
        .bind(key.owner.as_str())
        .bind(&key.kid)
        .bind(&key.jwk)
        .bind(key.published_at.millis())
        .execute(&mut *tx)
        .await?;
        if done.rows_affected() == 0 {
            return Err(StoreError::Conflict { what: "this token key, withdrawn or of another owner," });
        }
        sqlx::query(
            "DELETE FROM token_keys WHERE trust_domain = $1 AND owner = $2 AND withdrawn_at IS NULL AND kid NOT IN \
             (SELECT kid FROM token_keys WHERE trust_domain = $1 AND owner = $2 AND withdrawn_at IS NULL \
              ORDER BY published_at DESC, kid LIMIT $3)",
        )
        .bind(self.domain())
        .bind(key.owner.as_str())
        .bind(i64::from(KEYS_PER_OWNER_MAX))
        .execute(&mut *tx)
        .await?;
        append(&mut tx, self.trust_domain(), records, key.published_at).await?;
        Ok(tx.commit().await?)
    }

    /// Takes back all keys of an owner whose identity was revoked, for ever.
    ///
    /// # Errors
    /// Any of the database's.
    pub async fn withdraw_token_keys(&self, owner: &SpiffeId, now: UnixTime) -> Result<u64, StoreError> {
        let mut tx = self.begin().await?;
        let done = sqlx::query(
            "UPDATE token_keys SET withdrawn_at = $1 WHERE trust_domain = $2 AND owner = $3 AND withdrawn_at IS NULL",
        )
        .bind(now.millis())
        .bind(self.domain())
        .bind(owner.as_str())
        .execute(&mut *tx)
        .await?;
        tx.commit().await?;
        Ok(done.rows_affected())
    }

    /// Keys that count: neither withdrawn nor last published before `since`. By owner, newest first, [`ROWS_MAX`]
    /// at most.
    ///
    /// # Errors
    /// Any of the database's.
    pub async fn token_keys(&self, since: UnixTime) -> Result<Vec<TokenKey>, StoreError> {
        let rows = sqlx::query(
            "SELECT * FROM token_keys WHERE trust_domain = $1 AND withdrawn_at IS NULL AND published_at >= $2 \
             ORDER BY owner, published_at DESC, kid LIMIT $3",
        )
        .bind(self.domain())
        .bind(since.millis())
        .bind(i64::from(ROWS_MAX))
        .fetch_all(self.reader())
        .await?;
        rows.iter().map(|row| token_key(&Row("token_keys", row))).collect()
    }
}

fn token_key(row: &Row<'_>) -> Result<TokenKey, StoreError> {
    Ok(TokenKey {
        owner: row.parsed("owner")?,
        kid: row.text("kid")?,
        jwk: row.text("jwk")?,
        published_at: row.time("published_at")?,
    })
}
