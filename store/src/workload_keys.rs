//! Public keys that are registered for workloads, so that their proofs need no certificate.

use countersign_identity::{SpiffeId, UnixTime};
use countersign_ledger::Record;

use crate::ledger::append;
use crate::row::Row;
use crate::{Db, ROWS_MAX, StoreError};

/// Keys that count for one owner at one time: what is in use, its successor, and some that retire.
pub const WORKLOAD_KEYS_PER_OWNER_MAX: u32 = 8;

/// A registered key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkloadKey {
    /// Whose proofs it verifies.
    pub owner: SpiffeId,
    /// RFC 7638 thumbprint.
    pub kid: String,
    /// `signing` or `encryption`.
    pub purpose: String,
    /// Public JWK.
    pub jwk: String,
    /// Who registered it.
    pub registered_by: String,
    /// When.
    pub registered_at: UnixTime,
}

impl Db {
    /// Stores a key and records it. The same key of the same owner and purpose again changes nothing.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] when the key belongs to another owner or purpose, or was withdrawn, or the owner has
    /// [`WORKLOAD_KEYS_PER_OWNER_MAX`]; those of [`Db::append`]; any of the database's.
    pub async fn register_workload_key(
        &self,
        key: &WorkloadKey,
        records: &[Record],
    ) -> Result<(), StoreError> {
        let mut tx = self.begin().await?;
        let done = sqlx::query(
            "INSERT INTO workload_keys (trust_domain, kid, owner, purpose, jwk, registered_by, registered_at) \
             VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT (trust_domain, kid) DO UPDATE SET jwk = excluded.jwk \
             WHERE workload_keys.owner = excluded.owner AND workload_keys.purpose = excluded.purpose \
             AND workload_keys.withdrawn_at IS NULL",
        )
        .bind(self.domain())
        .bind(&key.kid)
        .bind(key.owner.as_str())
        .bind(&key.purpose)
        .bind(&key.jwk)
        .bind(&key.registered_by)
        .bind(key.registered_at.millis())
        .execute(&mut *tx)
        .await?;
        if done.rows_affected() == 0 {
            return Err(StoreError::Conflict { what: "this key, withdrawn or of another owner or purpose," });
        }
        let held = sqlx::query(
            "SELECT COUNT(*) AS held FROM workload_keys \
             WHERE trust_domain = $1 AND owner = $2 AND withdrawn_at IS NULL",
        )
        .bind(self.domain())
        .bind(key.owner.as_str())
        .fetch_one(&mut *tx)
        .await?;
        if Row("workload_keys", &held).number("held")? > u64::from(WORKLOAD_KEYS_PER_OWNER_MAX) {
            return Err(StoreError::Conflict { what: "as many keys as an owner may have: one more" });
        }
        append(&mut tx, self.trust_domain(), records, key.registered_at).await?;
        Ok(tx.commit().await?)
    }

    /// Takes back one key of an owner, for ever.
    ///
    /// # Errors
    /// [`StoreError::Missing`] when the owner has no such key; those of [`Db::append`]; any of the database's.
    pub async fn withdraw_workload_key(
        &self,
        owner: &SpiffeId,
        kid: &str,
        records: &[Record],
        now: UnixTime,
    ) -> Result<(), StoreError> {
        let mut tx = self.begin().await?;
        let done = sqlx::query(
            "UPDATE workload_keys SET withdrawn_at = $4 \
             WHERE trust_domain = $1 AND owner = $2 AND kid = $3 AND withdrawn_at IS NULL",
        )
        .bind(self.domain())
        .bind(owner.as_str())
        .bind(kid)
        .bind(now.millis())
        .execute(&mut *tx)
        .await?;
        if done.rows_affected() == 0 {
            return Err(StoreError::Missing { what: "registered key that still counts" });
        }
        append(&mut tx, self.trust_domain(), records, now).await?;
        Ok(tx.commit().await?)
    }

    /// Takes back all keys of an owner whose identity was revoked, for ever. Returns how many counted until now.
    ///
    /// # Errors
    /// Any of the database's.
    pub async fn withdraw_workload_keys_of(
        &self,
        owner: &SpiffeId,
        now: UnixTime,
    ) -> Result<u64, StoreError> {
        let done = sqlx::query(
            "UPDATE workload_keys SET withdrawn_at = $3 \
             WHERE trust_domain = $1 AND owner = $2 AND withdrawn_at IS NULL",
        )
        .bind(self.domain())
        .bind(owner.as_str())
        .bind(now.millis())
        .execute(self.writer())
        .await?;
        Ok(done.rows_affected())
    }

    /// Keys that count, by owner, newest first, [`ROWS_MAX`] at most.
    ///
    /// # Errors
    /// Any of the database's.
    pub async fn workload_keys(&self) -> Result<Vec<WorkloadKey>, StoreError> {
        let rows = sqlx::query(
            "SELECT * FROM workload_keys WHERE trust_domain = $1 AND withdrawn_at IS NULL \
             ORDER BY owner, registered_at DESC, kid LIMIT $2",
        )
        .bind(self.domain())
        .bind(i64::from(ROWS_MAX))
        .fetch_all(self.reader())
        .await?;
        rows.iter().map(|row| key(&Row("workload_keys", row))).collect()
    }
}

fn key(row: &Row<'_>) -> Result<WorkloadKey, StoreError> {
    Ok(WorkloadKey {
        owner: row.parsed("owner")?,
        kid: row.text("kid")?,
        purpose: row.text("purpose")?,
        jwk: row.text("jwk")?,
        registered_by: row.text("registered_by")?,
        registered_at: row.time("registered_at")?,
    })
}
