//! What a trust domain's state begins with, and the numbers that only grow.

use countersign_identity::{TrustDomain, UnixTime};
use countersign_keys::Sealed;

use crate::keys::{NewKey, insert_key};
use crate::ledger::insert_state;
use crate::row::{Row, base64};
use crate::{Db, ROWS_MAX, StoreError};

/// The state of a trust domain as a whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Meta {
    /// Random; new on restore or promotion.
    pub epoch: String,
    /// Sealed under the master key; opened before anything else is read or written.
    pub canary: Sealed,
    /// Of the newest snapshot, 0 before the first.
    pub snapshot_sequence: u64,
    /// Of the newest revocation list, 0 before the first.
    pub crl_number: u64,
    /// Of the newest policies, 0 before the first.
    pub policy_generation: u64,
    /// When it was made.
    pub founded_at: UnixTime,
}

/// Everything that exists from the first moment on.
#[derive(Clone, Debug)]
pub struct Founding {
    /// Random.
    pub epoch: String,
    /// Proof that the master key is the right one.
    pub canary: Sealed,
    /// The first version of every key.
    pub keys: Vec<NewKey>,
}

impl Db {
    /// Makes the state of this trust domain: all of it, or nothing.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] when it exists already; any of the database's.
    pub async fn found(&self, founding: &Founding, now: UnixTime) -> Result<(), StoreError> {
        let mut tx = self.begin().await?;
        sqlx::query(
            "INSERT INTO meta (trust_domain, epoch, canary, snapshot_sequence, crl_number, policy_generation, \
             policy_digest, founded_at) VALUES ($1, $2, $3, 0, 0, 0, '', $4)",
        )
        .bind(self.domain())
        .bind(&founding.epoch)
        .bind(base64(founding.canary.as_bytes()))
        .bind(now.millis())
        .execute(&mut *tx)
        .await
        .map_err(StoreError::or_conflict("the state of this trust domain"))?;
        for key in &founding.keys {
            insert_key(&mut tx, self.domain(), key, now).await?;
        }
        insert_state(&mut tx, self.trust_domain()).await?;
        Ok(tx.commit().await?)
    }

    /// What there is of this trust domain; `None` before [`Db::found`].
    ///
    /// # Errors
    /// Any of the database's.
    pub async fn meta(&self) -> Result<Option<Meta>, StoreError> {
        let row = sqlx::query("SELECT * FROM meta WHERE trust_domain = $1")
            .bind(self.domain())
            .fetch_optional(self.reader())
            .await?;
        row.as_ref().map(|row| meta(&Row("meta", row))).transpose()
    }

    /// Every trust domain that has state in this database, sorted, [`ROWS_MAX`] at most.
    ///
    /// # Errors
    /// Any of the database's.
    pub async fn trust_domains(&self) -> Result<Vec<TrustDomain>, StoreError> {
        let rows = sqlx::query("SELECT trust_domain FROM meta ORDER BY trust_domain LIMIT $1")
            .bind(i64::from(ROWS_MAX))
            .fetch_all(self.reader())
            .await?;
        rows.iter().map(|row| Row("meta", row).parsed("trust_domain")).collect()
    }

    /// The sequence of the next snapshot: greater than every one before, also after a restart.
    ///
    /// # Errors
    /// [`StoreError::NotFounded`]; any of the database's.
    pub async fn next_snapshot_sequence(&self) -> Result<u64, StoreError> {
        let row = sqlx::query(
            "UPDATE meta SET snapshot_sequence = snapshot_sequence + 1 WHERE trust_domain = $1 \
             RETURNING snapshot_sequence",
        )
        .bind(self.domain())
        .fetch_optional(self.writer())
        .await?;
        Row("meta", &row.ok_or(StoreError::NotFounded)?).number("snapshot_sequence")
    }

    /// The `crlNumber` of the next revocation list: greater than every one before, also after a restart, and
    /// never given twice (X5-3).
    ///
    /// # Errors
    /// [`StoreError::NotFounded`]; any of the database's.
    pub async fn next_crl_number(&self) -> Result<u64, StoreError> {
        let row = sqlx::query(
            "UPDATE meta SET crl_number = crl_number + 1 WHERE trust_domain = $1 RETURNING crl_number",
        )
        .bind(self.domain())
        .fetch_optional(self.writer())
        .await?;
        Row("meta", &row.ok_or(StoreError::NotFounded)?).number("crl_number")
    }

    /// Begins a new epoch, after a restore or a promotion.
    ///
    /// # Errors
    /// [`StoreError::NotFounded`]; any of the database's.
    pub async fn begin_epoch(&self, epoch: &str) -> Result<(), StoreError> {
        let done = sqlx::query("UPDATE meta SET epoch = $2 WHERE trust_domain = $1")
            .bind(self.domain())
            .bind(epoch)
            .execute(self.writer())
            .await?;
        if done.rows_affected() == 1 { Ok(()) } else { Err(StoreError::NotFounded) }
    }
}

fn meta(row: &Row<'_>) -> Result<Meta, StoreError> {
    Ok(Meta {
        epoch: row.text("epoch")?,
        canary: Sealed::from_bytes(row.bytes("canary")?),
        snapshot_sequence: row.number("snapshot_sequence")?,
        crl_number: row.number("crl_number")?,
        policy_generation: row.number("policy_generation")?,
        founded_at: row.time("founded_at")?,
    })
}
